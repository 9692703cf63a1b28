"""The commands ``llmdiff encode`` and ``llmdiff inspect``: a data set into a store, a caption's norms."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmdiff.data.rejects import printable
from llmdiff.extras import require
from pipelines.cli.bootstrap import encode_options, start_engine
from pipelines.cli.console import print_json
from pipelines.cli.options import Config, Json, OneDataSet, Set, options_of
from pipelines.cli.settings_help import settings_help
from pipelines.requests.base import checked
from pipelines.requests.encode import EncodeRequest

if TYPE_CHECKING:
    from pipelines.flows.encode import EncodeResult

SHOWN = 5  # rejected rows, and shards without rows, that `encode` spells out

encode_app = typer.Typer()


@encode_app.command(
    cls=OneDataSet,
    epilog="Example: llmdiff encode --data photos/ --llm microsoft/phi-1_5 --diffusion <SD 1.5> --store runs/store "
    "--set max_tokens=77\n\nExample: llmdiff encode --data photos/ --llm microsoft/phi-1_5 --diffusion <SD 1.5> "
    "--store runs/store --dry-run\n\nExample: llmdiff encode --data photos/ --llm microsoft/phi-1_5 "
    f"--diffusion <SD 1.5> --store runs/store --processes 8\n\n{settings_help()}",
)
@options_of(EncodeRequest, without=("settings", "captions", "readiness"))
def encode(
    given: dict[str, Any],
    captions: Annotated[Path | None, typer.Option(help="Text file of more captions, one a line.")] = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006 typer copies it
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read, refused and written; load and write nothing.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Rows a second of your models, for the hours of --dry-run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Encode captions and pictures into the store; what it holds already is left alone."""
    require("pyarrow" if dry else "prefect")
    settings, more = encode_options(given, captions, config, set_)
    request = checked({**given, "settings": settings, "captions": more}, EncodeRequest, "encode")
    from storage.io.paths import store_path

    store_path(request.store)  # which is refused before anything is loaded
    if dry:
        from pipelines.cli.dry_run import dry_run, print_dry_run
        from pipelines.runtime.progress import quieten_loading

        quieten_loading()
        print_dry_run(dry_run(request, rate), as_json)
        return
    if rate is not None:
        raise ValueError(f"--rate: expected with --dry-run alone, found {rate:g}")
    start_engine(tracking=False)
    from pipelines.flows.encode import encode_flow

    result = encode_flow(request)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_result(result, request.store)


@encode_app.command(epilog='Example: llmdiff inspect "a red circle next to a blue square" --llm microsoft/phi-1_5')
def inspect(
    caption: Annotated[str, typer.Argument(help="What to look at.")],
    llm: Annotated[str, typer.Option(help="Folder, GGUF file or name of the decoder-only LLM.")],
    out: Annotated[Path, typer.Option(help="PNG file of the heat map.")] = Path("inspect.png"),
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Show, block by block and token by token, the norms of sentence score, word score and their difference.

    With a reading of hidden states, their norms. At the end is the norm of each token's encoding.
    """
    from pipelines.cli.config_files import read_settings

    settings = read_settings(config, set_)
    from llmdiff.encoder import Encoder, EncoderConfig
    from llmdiff.encoder.inspect import inspect as inspect_caption
    from llmdiff.encoder.inspect import write_heat_map
    from pipelines.runtime.progress import quieten_loading

    quieten_loading()
    inspection = inspect_caption(Encoder.from_pretrained(llm, EncoderConfig.from_dict(settings)), caption)
    print(inspection.table())
    write_heat_map(inspection, out)
    print(f"heat map: {out}")


def print_result(result: EncodeResult, store: str) -> None:
    """Print what an encode run did: counts, then what was not read or refused, on standard error."""
    from pipelines.flows.encode import counted

    rejected = sum(result.rejected.values())
    print(f"rows {result.rows} = known {result.known} + new {result.samples} + rejected {rejected}")
    print(f"rejected: {counted(result.rejected) or '0'}")
    print(f"captions encoded: {result.captions} ({result.tokens} tokens, {result.truncated} captions cut)")
    print(f"pictures encoded: {result.latents}")
    print(f"store: {store} version {result.store_version}, encodings {result.fingerprint}")
    print(f"{result.seconds:.1f} s")
    print_left(result, store)
    for reason in result.unreadable.values():
        print(f"not read: {reason}", file=sys.stderr)
    for unread, count in Counter(shard.unread for shard in result.shards if shard.unread).items():
        print(f"not read in {count} shards: {printable(', '.join(unread))}", file=sys.stderr)
    empty = [shard.source for shard in result.shards if not shard.rows and not shard.unread]
    if empty:
        print(
            f"no rows in {len(empty)} shards: {', '.join(empty[:SHOWN])}{', …' * (len(empty) > SHOWN)}", file=sys.stderr
        )
    print_rejected([example for shard in result.shards for example in shard.examples], store)


def print_left(result: EncodeResult, store: str) -> None:
    """Print what became of rows that were moved, edited or deleted in the data; of those that are left, to stderr."""
    if result.repeated:
        print(f"of the known rows, found by picture and caption in another place: {result.repeated}")
    if result.replaced:
        print(f"replaced: {result.replaced} samples, whose rows were edited")
    if result.missing is None:
        print(f"it is not known which rows left the data: {'; '.join(result.missing_rows)}", file=sys.stderr)
    elif result.missing:
        print(f"missing: {result.missing} samples, whose rows left the data:", file=sys.stderr)
        print("\n".join(result.missing_rows), file=sys.stderr)
        print(f"to take them out: llmdiff store drop {store} --missing --data <the data>", file=sys.stderr)


def print_rejected(examples: list[str], store: str) -> None:
    """Print the first few rows that a run refused, on standard error, and where the others are found."""
    for example in examples[:SHOWN]:
        print(f"rejected: {example}", file=sys.stderr)
    if examples:
        print(f"every rejected row: llmdiff store rejects {store}", file=sys.stderr)
