"""The sources of rows: files and folders as users have them, cut into shards that are identified by their content.

The policy of readiness needs nothing but pydantic. The rest is imported on first use, for it brings Arrow and Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdiff.data.sources.readiness import ReadinessPolicy, Scan, scan, signature
from llmdiff.lazy import lazy

if TYPE_CHECKING:
    from llmdiff.data.sources.columns import Columns
    from llmdiff.data.sources.files import expected_row_count, known_row_count, open_source, shards_of
    from llmdiff.data.sources.folders.sidecars import SidecarShard
    from llmdiff.data.sources.kinds import METADATA_FILES
    from llmdiff.data.sources.listing import Listing, check_data, list_data
    from llmdiff.data.sources.rows import CAPTION_COLUMNS, IMAGE_COLUMNS, Row, SourceShard, UnreadableShard, Url
    from llmdiff.data.sources.tables.arrow import ArrowShard
    from llmdiff.data.sources.tables.parquet import ParquetShard
    from llmdiff.data.sources.tables.text_tables import ROWS_PER_SHARD, TableShard
    from llmdiff.data.sources.tars.webdataset import TarShard
    from llmdiff.data.sources.text_bytes import read_text

__all__ = [
    "CAPTION_COLUMNS",
    "IMAGE_COLUMNS",
    "METADATA_FILES",
    "ROWS_PER_SHARD",
    "ArrowShard",
    "Columns",
    "Listing",
    "ParquetShard",
    "ReadinessPolicy",
    "Row",
    "Scan",
    "SidecarShard",
    "SourceShard",
    "TableShard",
    "TarShard",
    "UnreadableShard",
    "Url",
    "check_data",
    "expected_row_count",
    "list_data",
    "open_source",
    "read_text",
    "known_row_count",
    "scan",
    "shards_of",
    "signature",
]

_HOMES = {
    "tables.arrow": ("ArrowShard",),
    "columns": ("Columns",),
    "files": ("open_source", "expected_row_count", "known_row_count", "shards_of"),
    "kinds": ("METADATA_FILES",),
    "listing": ("Listing", "check_data", "list_data"),
    "tables.parquet": ("ParquetShard",),
    "rows": ("CAPTION_COLUMNS", "IMAGE_COLUMNS", "Row", "SourceShard", "UnreadableShard", "Url"),
    "folders.sidecars": ("SidecarShard",),
    "text_bytes": ("read_text",),
    "tables.text_tables": ("ROWS_PER_SHARD", "TableShard"),
    "tars.webdataset": ("TarShard",),
}
__getattr__ = lazy(__name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names})
