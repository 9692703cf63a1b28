"""The command ``llmdiff store drop``: samples whose rows left the data, out of the newest version."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.console import print_json
from pipelines.cli.options import Json
from pipelines.cli.store import StorePath, open_store, samples_of

drop_app = typer.Typer()
COLUMNS = ("source", "source_hash", "row", "caption", "fingerprint")


@drop_app.command(
    "drop", epilog="Example: llmdiff store drop runs/store --missing --data photos/ --data drawings/ --dry-run"
)
def drop(
    path: StorePath,
    missing: Annotated[bool, typer.Option("--missing", help="The samples whose rows are in no data set any more.")],
    data: Annotated[list[str], typer.Option(help="Data as `encode` was given them; may be given several times.")],
    fingerprint: Annotated[str | None, typer.Option(help="Of which encoder; default: of each.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only report what would change.")] = False,
    caption_column: Annotated[list[str] | None, typer.Option(metavar="NAME", help="As `encode` was given it.")] = None,
    image_column: Annotated[str | None, typer.Option(metavar="NAME", help="As `encode` was given it.")] = None,
    every_caption: Annotated[bool, typer.Option("--every-caption", help="As `encode` was given it.")] = False,
    caption_lines: Annotated[bool, typer.Option("--caption-lines", help="As `encode` was given it.")] = False,
    as_json: Json = False,
) -> None:
    """Take samples out of the newest version whose rows were deleted from the data, or changed in them.

    The data must have been encoded as they are now. Earlier versions keep the samples.
    """
    from llmdiff.data.encode.data_set import drop_missing
    from llmdiff.data.sources import Columns
    from pipelines.runtime.progress import progress

    store = open_store(path)
    if fingerprint is not None:
        samples_of(store, fingerprint)
    with progress("read the data", None, "shard") as work:

        def show(done: int, shards: int) -> None:
            work.total = shards
            work.reach(done)

        captions = tuple(caption_column or ())
        columns = Columns(captions=captions, image=image_column, every=every_caption, lines=caption_lines)
        found = drop_missing(store, data, fingerprint, dry_run, columns, show)
    rows = [row for each in found.values() for row in each.to_pylist()]
    if as_json:
        dropped = [{name: row[name] for name in COLUMNS} for row in rows]
        print_json({"path": path, "version": store.version, "dry_run": dry_run, "dropped": dropped})
        return
    for row in rows:
        print(f"{row['source']} row {row['row']}: {row['caption']!r}")
    print(f"{'would be ' if dry_run else ''}taken out: {len(rows)} samples")
