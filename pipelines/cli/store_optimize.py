"""The command ``llmdiff store optimize``: many files of a store's tables to few."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipelines.cli.console import print_json
from pipelines.cli.options import Json
from pipelines.cli.store import StorePath, open_store

optimize_app = typer.Typer()


@optimize_app.command("optimize", epilog="Example: llmdiff store optimize runs/store --dry-run")
def optimize(
    path: StorePath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only report what would change.")] = False,
    as_json: Json = False,
) -> None:
    """Merge the files of the store's tables, and write those of earlier versions of the program as today's are.

    Encoding does it by itself every so many commits. No row changes; readers and writers go on meanwhile. The files
    merged stay for the versions that name them, until `llmdiff store gc` is told which versions to keep.
    """
    from pipelines.runtime.progress import progress
    from storage.writing.optimize import optimize as merge_files

    store = open_store(path)
    with progress("optimize", None, "row") as work:

        def show(done: int, rows: int) -> None:
            work.total = rows
            work.reach(done)

        tables = merge_files(store, dry_run, show)
    if as_json:
        found = [asdict(table) for table in tables]
        print_json({"path": path, "version": store.version, "dry_run": dry_run, "tables": found})
        return
    for table in tables:
        would = "would be " if dry_run and table.merged else ""
        done = (
            f"{table.merged} {would}merged into {table.into}, {table.rows} rows" if table.merged else "left as they are"
        )
        print(f"{table.table}: {table.files} files, {done}")
