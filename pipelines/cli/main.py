"""The command line. Each command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.bootstrap import encode_options, end_well_on_sigterm, read_lines, start_engine
from pipelines.cli.encoder_settings import settings_help
from pipelines.cli.evaluate import evaluate_app
from pipelines.cli.options import CANDIDATE, Adapter, AdapterBase, AdapterLLM, DType, Scheduler
from pipelines.cli.registry import registry_app
from pipelines.cli.retrain import retrain_app
from pipelines.cli.store import store_app
from pipelines.cli.study import study_app

SHOWN = 5  # rejected rows that `encode` spells out

app = typer.Typer(
    help="A decoder-only LLM as the text encoder of a latent diffusion model: from captions to pictures.",
    epilog="Start with: llmdiff demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(store_app, name="store")
app.add_typer(study_app, name="study")
app.add_typer(evaluate_app)
app.add_typer(retrain_app)
app.add_typer(registry_app)


Diffusion = Annotated[str, typer.Option(help="Folder or name of the Stable Diffusion model.")]
Store = Annotated[str, typer.Option(help="Folder of the encoding store, or s3://bucket/prefix.")]
Config = Annotated[Path | None, typer.Option(help="YAML or JSON file of settings.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One setting, over those of --config.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(help="Show tracebacks and all logs.")] = False,
) -> None:
    """Runs before every command."""
    context.obj = debug


@app.command(epilog="Example: llmdiff demo --out runs/demo")
def demo(out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("runs/demo")) -> None:
    """The whole path on the embedded world: encode, train, register, evaluate, report."""
    start_engine()
    from pipelines.demo import run_demo

    run_demo(out)


@app.command(epilog="Example: llmdiff shapes runs/first/data --pictures 3000 --retrain runs/first/retrain.json")
def shapes(
    folder: Annotated[Path, typer.Argument(help="Folder of the Parquet shards; made if it is missing.")],
    pictures: Annotated[int, typer.Option(min=1, help="How many.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and their captions.")] = 0,
    retrain: Annotated[
        Path | None, typer.Option(help="File for the parameters of a first retraining on them, of some minutes.")
    ] = None,
) -> None:
    """Draw captioned pictures of the embedded world: data for a first try of the other commands."""
    from llmdiff.shapes import DIFFUSION, LLAMA
    from llmdiff.shapes.shards import write_shards

    for shard in write_shards(folder, pictures, seed):
        print(shard)
    print(f"its models: --llm {LLAMA} --diffusion {DIFFUSION}")
    if retrain is not None:
        from pipelines.runtime.shapes_benchmark import retraining

        retrain.parent.mkdir(parents=True, exist_ok=True)
        retrain.write_text(json.dumps(retraining(folder), indent=2) + "\n")
        print(f"parameters of retrain/default: {retrain}")


@app.command(
    epilog="Example: llmdiff encode --data photos/ --llm microsoft/phi-1_5 --diffusion <SD 1.5> --store runs/store "
    f"--set max_tokens=77\n\n{settings_help()}"
)
def encode(
    data: Annotated[
        Path, typer.Option(help="Parquet, WebDataset tar, jsonl, csv, tsv or txt: a file, or a folder of them.")
    ],
    store: Store,
    diffusion: Annotated[
        str | None, typer.Option(help="Folder or name of the Stable Diffusion model; captions alone need none.")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="Folder or name of the decoder-only LLM.")] = None,
    encoder: Annotated[Literal["llm", "base"], typer.Option(help="Whose encodings; base is the control.")] = "llm",
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels; default: the diffusion model's own.")] = None,
    min_side: Annotated[
        int | None, typer.Option(min=1, help="Least pixels of a picture's shorter side; default: a quarter of --size.")
    ] = None,
    captions: Annotated[Path | None, typer.Option(help="Text file of more captions, one a line.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Encode on a Ray cluster, a shard a GPU: local, auto or host:6379."),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(help="Tag of a Prefect concurrency limit; a shard takes a slot of it.")
    ] = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006 typer copies it
) -> None:
    """Encode captions and pictures into the store; what it holds already is left alone."""
    settings, more = encode_options(data, captions, config, set_)
    start_engine()
    from pipelines.flows.encode import counted, encode_flow

    result = encode_flow(str(data), store, diffusion, llm, encoder, size, settings, more, min_side, ray, limit)
    rejected = counted(result.rejected) or "0"
    print(
        f"rows {result.rows} = known {result.known} + new {result.samples} + rejected {sum(result.rejected.values())}"
    )
    print(f"rejected: {rejected}")
    print(f"captions encoded: {result.captions} ({result.tokens} tokens, {result.truncated} captions cut)")
    print(f"pictures encoded: {result.latents}")
    print(f"store: {store} version {result.store_version}, encodings {result.fingerprint}")
    print(f"{result.seconds:.1f} s")
    for reason in result.unreadable.values():
        print(f"not read: {reason}", file=sys.stderr)
    print_rejected([example for shard in result.shards for example in shard.examples], store)


@app.command(
    epilog="Example: llmdiff train --store runs/store --diffusion <SD 1.5> --llm microsoft/phi-1_5 --set steps=10000"
    "\n\nSeveral hosts: llmdiff train --hostfile hosts --store s3://bucket/store --diffusion <SD 1.5> --output /mnt/x"
    "\n\nCheckout, store, base and output are at the same paths on all hosts: docs/how-to/hosts.md"
)
def train(
    store: Store,
    diffusion: Diffusion,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: one for these settings. An unfinished one goes on.")
    ] = None,
    restart: Annotated[bool, typer.Option(help="Remove what the run left, and begin again.")] = False,
    encoder: Annotated[Literal["llm", "base"], typer.Option(help="Whose encodings to train on.")] = "llm",
    fingerprint: Annotated[str | None, typer.Option(help="Which encodings, where there are several.")] = None,
    store_version: Annotated[
        int | None, typer.Option(help="Snapshot of the store; default: the newest at the start.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine, one a GPU.")] = 1,
    hostfile: Annotated[
        Path | None,
        typer.Option(help="Hosts, lines such as 'worker-1 slots=8', that ssh reaches from here; a slot is a process."),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(min=0, help="Which host of --hostfile this is: without ssh, the command is started on each."),
    ] = None,
    master_port: Annotated[int, typer.Option(min=1, max=65535, help="On the first host of --hostfile.")] = 29500,
    llm: Annotated[str | None, typer.Option(help="Recorded with the adapter, for `generate` to find.")] = None,
    llm_revision: Annotated[str | None, typer.Option(help="Its commit on the hub; default: the cached one.")] = None,
    register: Annotated[bool, typer.Option(help="Make it a version in the registry, alias candidate.")] = True,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Train an adapter on the store's encodings, and register it; the same command goes on where it was cut short."""
    from pipelines.cli.config_files import checked, read_settings

    ended = end_well_on_sigterm()
    given = read_settings(config, set_)
    from infra.launch.hostfile import topology_of

    topology = topology_of(processes, hostfile, node_rank, master_port)
    if topology.rank is not None and output is None:
        raise ValueError("expected --output with --node-rank: the same folder on every host")
    if topology.rank and output is not None:
        from infra.launch.run import join_training

        join_training(output, topology, restart)
        return
    start_engine()
    from llmdiff.training.config import TrainSettings
    from pipelines.flows.train import registered_before, train_flow

    if ended:  # the exit may have been swallowed by an import
        sys.exit(0)
    settings = checked(given, TrainSettings, "training settings")
    folder = str(output) if output is not None else None
    result = train_flow(
        store,
        diffusion,
        folder,
        encoder,
        fingerprint,
        store_version,
        processes,
        settings,
        llm=llm,
        llm_revision=llm_revision,
        restart=restart,
        hostfile=str(hostfile) if hostfile is not None else None,
        ssh=node_rank is None,
        master_port=master_port,
    )
    if result.before:
        print(f"finished before, on version {result.store_version} of the store; --restart begins again")
    print(f"adapter: {result.adapter} ({result.steps} steps, loss {result.loss:.4f}, {result.seconds:.0f} s)")
    print(f"MLflow run: {result.run_id}")
    if register and not registered_before(result):
        from pipelines.flows.register import register_flow

        registered = register_flow(result.adapter, result.run_id, llm=llm)
        print(f"registered: {registered.name} version {registered.version}, {registered.uri}")


@app.command(epilog='Example: llmdiff generate --prompt "a red circle to the left of a blue square"')
def generate(
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be given several times.")] = [],  # noqa: B006
    prompts: Annotated[Path | None, typer.Option(help="Text file of prompts, one a line.")] = None,
    adapter: Adapter = CANDIDATE,
    llm: AdapterLLM = None,
    diffusion: AdapterBase = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first picture's noise; the next one has the next.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 30,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 5.0,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    scale: Annotated[float, typer.Option(help="How much of the adapter: 1 as trained, 0 none.")] = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    scheduler: Annotated[Scheduler | None, typer.Option(help="Sampler; default: the base model's own.")] = None,
    dtype: Annotated[DType, typer.Option(help="Of base model and adapter.")] = DType.float32,
    batch: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 4,
) -> None:
    """Draw prompts with and without the adapter, from the same seeds; each PNG holds its settings."""
    texts = [*prompt, *(read_lines(prompts) if prompts is not None else [])]
    start_engine()
    from pipelines.flows.generate import generate_flow

    folder = str(output) if output is not None else None
    result = generate_flow(
        *(texts, adapter, llm, diffusion, folder, seed, steps, guidance, negative, scale, count),
        scheduler=scheduler.value if scheduler is not None else None,
        dtype=dtype.value,
        batch=batch,
    )
    print(f"{result.prompts} prompts with and without the adapter: {result.sheet} ({result.seconds:.0f} s)")


@app.command(epilog='Example: llmdiff inspect "a red circle next to a blue square" --llm microsoft/phi-1_5')
def inspect(
    caption: Annotated[str, typer.Argument(help="What to look at.")],
    llm: Annotated[str, typer.Option(help="Folder or name of the decoder-only LLM.")],
    out: Annotated[Path, typer.Option(help="PNG file of the heat map.")] = Path("inspect.png"),
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Show, block by block and token by token, the norms of sentence score, word score and their difference."""
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


@app.command(epilog="Example: llmdiff doctor")
def doctor() -> None:
    """What this machine can do, and what is wrong with it; exit code 1 where something is."""
    from pipelines.cli.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok ' if finding.fine else 'BAD'}  {finding.name:14} {finding.detail}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


def print_rejected(examples: list[str], store: str) -> None:
    """The first few rows that a run refused, on standard error, and where the others are found."""
    for example in examples[:SHOWN]:
        print(f"rejected: {example}", file=sys.stderr)
    if examples:
        print(f"every rejected row: llmdiff store rejects {store}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: an error is one line and exit code 1; ``--debug`` shows where it came from."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = ["--debug", *(a for a in given if a != "--debug")] if debug else given  # wherever it was written
    try:
        app(given)
    except Exception as error:
        if debug:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr)
        sys.exit(1)


def error_line(error: Exception) -> str:
    """An error in one line; the kinds that are nobody's plain words keep their name."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    known = isinstance(error, (ValueError, OSError)) or type(error).__name__ == "LaunchError"
    return text if known and text else f"{type(error).__name__}: {text}"
