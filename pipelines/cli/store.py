"""The commands ``llmdiff store …``: look into an encoding store, check it, repair it, clear it up, take it elsewhere.

Each imports what it needs when it runs, as all commands do. With ``--json`` its answer is one JSON document.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmdiff.extras import require
from pipelines.cli.bootstrap import encode_options, start_engine
from pipelines.cli.console import print_json, print_table, print_values
from pipelines.cli.options import Json, OneDataSet, Set, options_of
from pipelines.requests.base import checked
from pipelines.requests.encode import EncodeRequest

if TYPE_CHECKING:
    from pipelines.flows.repair import RepairResult
    from pipelines.runtime.verifying import Check
    from storage import EncodingStore, Problem

store_app = typer.Typer(
    help="Look into an encoding store, check it, repair it. Example: llmdiff store info runs/store",
    no_args_is_help=True,
)

StorePath = Annotated[str, typer.Argument(metavar="STORE", help="Folder or s3:// address of the store.")]
Version = Annotated[int | None, typer.Option(min=0, help="Snapshot of the store; default: the newest.")]
NOT_OF_REPAIR = ("store", "settings", "captions", "ray", "limit", "readiness")
"""Fields of the encode request that are no options of a repair, or are written in another way."""


@store_app.command("info", epilog="Example: llmdiff store info runs/store --version 3")
def info(path: StorePath, version: Version = None, as_json: Json = False) -> None:
    """Show what a store holds: version, samples, encodings, bytes."""
    from storage.maintenance.summary import summarise

    values = summarise(open_store(path, version))
    if as_json:
        print_json(values)
    else:
        print_values(values)


@store_app.command("ls", epilog="Example: llmdiff store ls runs/store")
def ls(path: StorePath, version: Version = None, as_json: Json = False) -> None:
    """List the shards: samples committed with each; encodings, tokens, latents and bytes in it."""
    from storage.maintenance.summary import list_shards

    store = open_store(path, version)
    shards = [asdict(shard) for shard in list_shards(store)]
    if as_json:
        print_json({"path": path, "version": store.version, "shards": shards})
    else:
        print_table(["name", "samples", "encodings", "tokens", "latents", "bytes"], shards)


@store_app.command(
    "verify",
    cls=OneDataSet,
    epilog="Example: llmdiff store verify runs/store --repair --data photos/ --llm microsoft/phi-1_5 "
    "--diffusion <SD 1.5>",
)
@options_of(EncodeRequest, without=NOT_OF_REPAIR, optional=("data",))
def verify(
    given: dict[str, Any],
    path: StorePath,
    repair: Annotated[bool, typer.Option("--repair", help="Repair it: needs --data and encode's options.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Check the shards on a Ray cluster, which reaches the store likewise."),
    ] = None,
    captions: Annotated[Path | None, typer.Option(help="Text file of captions without pictures.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file of the encoder's settings.")] = None,
    set_: Set = [],  # noqa: B006 typer copies it
    as_json: Json = False,
) -> None:
    """Check every checksum; exit code 1 where something is wrong. With --processes or --ray, many shards at once.

    With --repair, what is whole of a damaged shard moves to a new one, and what is lost is encoded again, as
    `llmdiff encode` with the same options would. Exit code 0 then means: checked again, all right, nothing missing.
    """
    from pipelines.runtime.verifying import checking

    if repair:
        if given["data"] is None:
            raise ValueError("--repair: expected --data and the other options of `llmdiff encode`, found no --data")
        require("prefect")
        settings, lines = encode_options(given, captions, config, set_)
        request = checked({**given, "store": path, "settings": settings, "captions": lines}, EncodeRequest, "repair")
        start_engine(tracking=False)
    check = checking(given["processes"], ray)
    store = open_store(path)
    problems = verified(store, check)
    answer = {"path": path, "version": store.version, "problems": problem_values(problems), "repair": None}
    if not as_json:
        print_problems(problems)
    well = not problems
    if repair and problems:
        repaired, left = repair_and_verify(problems, request, check)
        answer["repair"] = {**repaired.values(), "version": store.version, "problems": problem_values(left)}
        if not as_json:
            print(repaired)
            print_problems(left)
        well = not left and repaired.nothing_missing
    if as_json:
        print_json({**answer, "ok": well})
    if not well:
        raise typer.Exit(1)


@store_app.command("gc", epilog="Example: llmdiff store gc runs/store --keep-last 3 --keep 12 --dry-run")
def gc(
    path: StorePath,
    keep: Annotated[list[int], typer.Option(min=0, help="A version to keep; may be given several times.")] = [],  # noqa: B006
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep so many of the newest versions.")] = None,
    drop_fingerprint: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Take an encoder out of the newest version first.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only report what would change.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what killed writers left, and what belongs to no version that is kept; by default all are.

    The newest version is always kept. The others can't be opened afterwards, by a training run that goes on either.
    """
    from storage.maintenance.gc import collect, drop

    store = open_store(path)
    for wanted in keep:
        open_store(path, wanted)  # refused before anything is dropped
    dropped = 0
    if drop_fingerprint is not None:
        dropped = samples_of(store, drop_fingerprint)
        if not dry_run:
            drop(store, fingerprint=drop_fingerprint)
    versions = [*keep, *last_versions(path, store.version, keep_last or 0)]
    collected = collect(store, versions if keep or keep_last else None, dry_run)
    if as_json:
        names = {"dropped_fingerprint": drop_fingerprint, "dropped_samples": dropped, "dry_run": dry_run}
        found = {"kept_versions": collected.kept_versions, "removed": collected.paths, "bytes": collected.bytes}
        found["left_alone"] = collected.left_alone
        print_json({"path": path, "version": store.version, **names, **found})
        return
    would = "would be " if dry_run else ""
    if drop_fingerprint is not None:
        later = "; their files are not counted below" if dry_run else ""
        print(f"{would}taken out: {dropped} samples of {drop_fingerprint}{later}")
    for name in collected.paths:
        print(name)
    for name in collected.left_alone:
        print(f"left alone: {name}: no version names it, and it does not look like the store's own", file=sys.stderr)
    print(f"{would}removed: {len(collected.paths)} files and shards, {collected.bytes} bytes")
    kept = "all" if collected.kept_versions is None else ", ".join(map(str, collected.kept_versions))
    print(f"versions kept: {kept}")


@store_app.command("export", epilog="Example: llmdiff store export runs/store --out exported/ --format parquet")
def export(
    path: StorePath,
    out: Annotated[Path, typer.Option(help="New or empty folder for the files.")],
    format: Annotated[Literal["safetensors", "parquet"], typer.Option(help="Of the files.")] = "safetensors",
    fingerprint: Annotated[str | None, typer.Option(help="Which encodings, where there are several.")] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Write samples with their encodings and latents as files that other tools read."""
    from storage.maintenance.export import export as write_files

    store = open_store(path, version)
    chosen = fingerprint or only_fingerprint(store, path)
    files = [str(file) for file in write_files(store, out, chosen, format)]
    if as_json:
        print_json({"path": path, "version": store.version, "fingerprint": chosen, "files": files})
        return
    for file in files:
        print(file)


@store_app.command("rejects", epilog="Example: llmdiff store rejects runs/store --reason broken_image")
def rejects(
    path: StorePath,
    reason: Annotated[str | None, typer.Option(help="Only those of this reason; `store info` counts them.")] = None,
    as_json: Json = False,
) -> None:
    """List the rows that were refused: file, row, reason, what was found."""
    from storage.maintenance.rejects import listed_rejects

    rows = [row for row in listed_rejects(open_store(path)).to_pylist() if reason in (None, row["reason"])]
    if as_json:
        columns = ("source", "source_hash", "row", "reason", "detail", "fingerprint")
        print_json({"path": path, "rejects": [{name: row[name] for name in columns} for row in rows]})
        return
    for row in rows:
        print(f"{row['source']} row {row['row']}: {row['reason']}: {row['detail']}")


def verified(store: EncodingStore, check: Check) -> list[Problem]:
    """Return the store's problems, with a bar over its shards."""
    from pipelines.runtime.progress import progress
    from storage.maintenance.verify import verify

    with progress("verify", None, "shard") as work:

        def show(done: int, shards: int) -> None:
            work.total = shards
            work.reach(done)

        return verify(store, show, check)


def open_store(path: str, version: int | None = None) -> EncodingStore:
    """Open the store at a path or an address."""
    from storage import EncodingStore

    return EncodingStore.open(path, version)


def repair_and_verify(
    problems: Sequence[Problem], request: EncodeRequest, check: Check
) -> tuple[RepairResult, list[Problem]]:
    """Repair, and read everything again."""
    from pipelines.flows.repair import repair_and_encode

    repaired = repair_and_encode(problems, request)
    return repaired, verified(open_store(request.store), check)


def print_problems(problems: Sequence[Problem]) -> None:
    """Print a line each, and what to do about those that no repair removes."""
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "every checksum is right")
    if any(problem.kind == "orphan" and problem.shard is None for problem in problems):
        print("`llmdiff store gc` removes what no version names", file=sys.stderr)


def problem_values(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return problems as plain JSON values, with the numbers of what is lost."""
    return [
        {
            "kind": problem.kind,
            "path": problem.path,
            "detail": problem.detail,
            "shard": problem.shard,
            "encodings_lost": len(problem.encodings),
            "latents_lost": len(problem.latents),
        }
        for problem in problems
    ]


# gc and export


def samples_of(store: EncodingStore, fingerprint: str) -> int:
    """Return how many samples an encoder has; raise ValueError where there is none of that fingerprint."""
    known = fingerprints_used(store)
    if fingerprint not in known:
        raise ValueError(f"fingerprint: expected one of {', '.join(known) or 'none'}, found {fingerprint!r}")
    return known[fingerprint]["samples"]


def last_versions(path: str, newest: int, count: int) -> list[int]:
    """Return the last `count` versions without those that are no longer kept."""
    return [version for version in range(max(0, newest - count + 1), newest + 1) if is_kept(path, version)]


def is_kept(path: str, version: int) -> bool:
    """Return whether a version can still be opened."""
    try:
        open_store(path, version)
    except ValueError:
        return False
    return True


def only_fingerprint(store: EncodingStore, path: str) -> str:
    """Return the fingerprint of all samples; raise ValueError where there are several, or none."""
    known = [key for key, entry in fingerprints_used(store).items() if entry["samples"]]
    if len(known) != 1:
        raise ValueError(
            f"{path}: expected one fingerprint, or --fingerprint; found {', '.join(known) or 'no samples'}"
        )
    return known[0]


def fingerprints_used(store: EncodingStore) -> dict[str, dict[str, int]]:
    """Return counts by fingerprint, of those that encodings have."""
    from storage.maintenance.summary import summarise

    entries: dict[str, dict[str, int]] = summarise(store)["fingerprints"]
    return {key: entry for key, entry in entries.items() if entry["captions"]}
