"""The part of a request that names data: where they are, and which of their columns to read."""

from __future__ import annotations

from typing import Annotated

from llmdiff.data.sources.columns import Columns
from pipelines.requests.base import CommandLine, Request


class DataRequest(Request):
    """A request to a stage that reads captions and pictures."""

    data: str
    """Pictures with captions beside them, Parquet, Arrow, tar, jsonl, csv, tsv, json, txt: file or folder. Also
    s3://bucket/prefix, gs://, az://, https://host/file, hf://datasets/owner/name/path, hf:owner/name[:split]."""
    caption_columns: Annotated[list[str] | None, CommandLine(flag="--caption-column", metavar="NAME")] = None
    """Column of the captions; in a tar and beside pictures, an ending such as txt, or a key of the JSON. Of several,
    each given by its own option, the first counts that a row has filled. Default: caption, text or prompt."""
    image_column: Annotated[str | None, CommandLine(metavar="NAME")] = None
    """Column of the pictures; in a tar and a folder of pictures, an ending such as jpg. Default: the known one that is
    there."""
    every_caption: Annotated[bool, CommandLine(flag="--every-caption")] = False
    """Whether a row has a caption in each of its columns of captions that is filled, not in the first one alone."""
    caption_lines: Annotated[bool, CommandLine(flag="--caption-lines")] = False
    """Whether each line of a text beside a picture, or of one in a tar, is a caption of its own. Default: the whole
    text is one."""
    allow_private_addresses: Annotated[bool, CommandLine(flag="--allow-private-addresses")] = False
    """Download pictures from this machine and its network, too, where URLs in the data lead there. Only for data that
    you trust: whoever wrote them chooses what is asked."""

    @property
    def columns(self) -> Columns:
        """The columns that are chosen."""
        return Columns(
            captions=tuple(self.caption_columns or ()),
            image=self.image_column,
            every=self.every_caption,
            lines=self.caption_lines,
        )
