"""Where rows come from: files and folders as users have them, cut into shards that name their own content.

The policy of readiness needs nothing but pydantic. The rest is imported on first use, for it brings Arrow and Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdiff.data.sources.readiness import ReadinessPolicy, Scan, scan, signature
from llmdiff.lazy import lazy

if TYPE_CHECKING:
    from llmdiff.data.sources.files import open_source, shards_of, source_files
    from llmdiff.data.sources.parquet import ParquetShard
    from llmdiff.data.sources.rows import CAPTION_COLUMNS, IMAGE_COLUMNS, Row, SourceShard, UnreadableShard, Url
    from llmdiff.data.sources.text_tables import METADATA_FILES, ROWS_PER_SHARD, TableShard, read_text
    from llmdiff.data.sources.webdataset import TarShard

__all__ = [
    "CAPTION_COLUMNS",
    "IMAGE_COLUMNS",
    "METADATA_FILES",
    "ROWS_PER_SHARD",
    "ParquetShard",
    "ReadinessPolicy",
    "Row",
    "Scan",
    "SourceShard",
    "TableShard",
    "TarShard",
    "UnreadableShard",
    "Url",
    "open_source",
    "read_text",
    "scan",
    "shards_of",
    "signature",
    "source_files",
]

_HOMES = {
    "files": ("open_source", "shards_of", "source_files"),
    "parquet": ("ParquetShard",),
    "rows": ("CAPTION_COLUMNS", "IMAGE_COLUMNS", "Row", "SourceShard", "UnreadableShard", "Url"),
    "text_tables": ("METADATA_FILES", "ROWS_PER_SHARD", "TableShard", "read_text"),
    "webdataset": ("TarShard",),
}
__getattr__ = lazy(__name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names})
