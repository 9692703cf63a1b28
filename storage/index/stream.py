"""The rows of a table's version, a few at a time: in memory are some row groups, however many rows there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from storage.index.table import OF_FEW_VALUES, REQUESTS_AT_ONCE, Table, TableVersion

ROWS = 1 << 16
"""Of a batch, at most."""
AHEAD = {"batch_size": ROWS, "batch_readahead": 4, "fragment_readahead": 2}


def stream(
    table: Table, version: TableVersion, columns: Sequence[str], rows: pc.Expression | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a version's rows, in the order of its files; columns of few values come as dictionaries.

    Args:
        table: to read.
        version: of it.
        columns: their names.
        rows: which ones; row groups whose statistics say that they hold none are not read.
    """
    few = [name for name in table.schema.names if name in OF_FEW_VALUES]
    parquet = ds.ParquetFileFormat(
        read_options=ds.ParquetReadOptions(dictionary_columns=few),
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
    )
    texts = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([field.with_type(texts) if field.name in few else field for field in table.schema])
    options: dict[str, Any] = {"columns": list(columns), "filter": rows, **AHEAD}
    for scanner in _scanners(table, version, parquet, schema, options):
        yield from (batch for batch in scanner.to_batches() if len(batch))


def _scanners(
    table: Table, version: TableVersion, parquet: ds.ParquetFileFormat, schema: pa.Schema, options: dict[str, Any]
) -> Iterator[ds.Scanner]:
    """Yield what reads the files: all of a disk at once, one by one those that are fetched."""
    paths = [table.folder / name for name in version.files]
    if not table.folder.is_remote:
        disk = LocalFileSystem()
        fragments = [parquet.make_fragment(str(path), disk) for path in paths]
        yield ds.FileSystemDataset(fragments, schema, parquet, disk).scanner(**options)
        return
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for start in range(0, len(paths), REQUESTS_AT_ONCE):
            for source in pool.map(lambda path: path.arrow_source(), paths[start : start + REQUESTS_AT_ONCE]):
                yield ds.Scanner.from_fragment(parquet.make_fragment(source), schema=schema, **options)
