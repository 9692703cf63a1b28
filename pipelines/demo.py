"""The demonstration: the whole path on the synthetic shapes benchmark, from drawn shards to a report, on a CPU."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from infra.service.messages import registry_command
from infra.tracking.registry import fetch_adapter
from llmdiff.data.encode.reading import cores
from llmdiff.encoder import EncoderConfig
from llmdiff.evaluation import Evaluation, Prompt, evaluate, held_out_prompts
from llmdiff.sampling import load_pipeline
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.shards import write_shards
from llmdiff.training.config import TrainSettings
from pipelines.flows.encode import EncodeResult, encode_flow
from pipelines.flows.register import register_flow
from pipelines.flows.train import TrainResult, train_flow
from pipelines.reports.demo import build_report, summary, write_report
from pipelines.requests.base import EncoderKind
from pipelines.requests.encode import EncodeRequest
from pipelines.requests.register import RegisterRequest
from pipelines.requests.train import TrainRequest
from pipelines.runtime.progress import advance, progress
from pipelines.runtime.shapes_benchmark import ENCODER, PROCESSES, SAMPLING, TRAINING
from pipelines.runtime.side_by_side import side_by_side

BATCH = 25
"""Number of pictures drawn at once: with 50, a layer's output no longer fits into a core's cache."""
DRAWN = 4
"""Number of captions that training draws pictures of on the way."""
LOADING = threading.Lock()
"""Lock held while models are loaded, which uses settings of the whole process."""


@dataclass(frozen=True, kw_only=True)
class DemoSizes:
    """Sizes of a demonstration, and about how many seconds each stage takes on two cores, for the time left."""

    pictures: int
    """Number of pictures drawn for training."""
    prompts: int
    """Number of scenes evaluated, each worded in three ways."""
    training: TrainSettings
    seconds: dict[str, int]
    note: str | None = None
    """Remark printed before the figures, for readers who must know it."""


FULL = DemoSizes(
    pictures=6000,
    prompts=200,
    training=TRAINING,
    seconds={
        "draw": 12,
        "encode": 36,
        "encode control": 8,
        "train both": 274,
        "register": 4,
        "evaluate": 97,
        "report": 4,
    },
)
QUICK = DemoSizes(
    pictures=160,
    prompts=4,
    training=TRAINING.model_copy(update={"steps": 12, "warmup": 2, "checkpoint_every": 12}),
    seconds={
        "draw": 2,
        "encode": 20,
        "encode control": 8,
        "train both": 40,
        "register": 5,
        "evaluate": 15,
        "report": 5,
    },
    note="This quick demonstration shows the path and proves nothing: its adapters were trained for a dozen steps and "
    "evaluated on a dozen prompts. `llmdiff demo` gives the figures.",
)


def run_demo(out: Path, sizes: DemoSizes = FULL) -> dict[str, Any]:
    """Run every stage and leave `report.html`, `report.json` and `samples.png` in the folder.

    Args:
        out: made anew; what an earlier demonstration left there is removed.
        sizes: of data, training and evaluation.

    Returns:
        What `report.json` holds.
    """
    _clear(out)
    _say(sizes.note)
    clock = Clock(sizes.seconds)
    with clock.stage("draw"):
        first, *_ = write_shards(out / "data", sizes.pictures)
    with clock.stage("encode"):
        encoded = _encode(out, "llm")
    with clock.stage("encode control"):
        _encode(out, "base")
    with clock.stage("train both"):
        trained, control = side_by_side(
            [
                lambda: _train(out, "adapter", "llm", with_samples(sizes.training, first)),
                lambda: _train(out, "control", "base", sizes.training),
            ]
        )
    with clock.stage("register"):
        registered = register_flow(RegisterRequest(adapter=trained.adapter, run_id=trained.run_id, llm=str(LLAMA)))
    with clock.stage("evaluate"):
        adapters = {"adapter": fetch_adapter(registered.uri), "control": Path(control.adapter)}
        evaluations = compare(held_out_prompts(sizes.prompts), adapters)
    with clock.stage("report"):
        store = {
            "captions": encoded.captions,
            "bytes_per_caption": round(encoded.bytes_per_caption, 1),
            "version": encoded.store_version,
        }
        registry = {"model": registered.name, "version": registered.version, "alias": registered.alias}
        report = build_report(evaluations, clock.seconds, store, registry, sizes.note)
        runs = {"adapter": Path(trained.metrics), "control": Path(control.metrics)}
        write_report(out, report, evaluations, runs, _facts(encoded, trained, sizes.training))
    _print_result(out, report)
    _say(sizes.note)
    return report


def with_samples(training: TrainSettings, shard: Path) -> TrainSettings:
    """Have training draw a shard's first captions halfway and at the end: pictures of a run for the page to show.

    They have noise of their own, so that losses and figures stay as they are.
    """
    assert training.steps is not None
    captions = pq.read_table(shard, columns=["text"]).column("text")[:DRAWN].to_pylist()
    sampling = {"validation_steps": SAMPLING.steps, "validation_guidance": SAMPLING.guidance}
    changed = {"sample_every": training.steps // 2, "validation_prompts": tuple(captions), **sampling}
    return training.model_copy(update=changed)


def compare(prompts: list[Prompt], adapters: dict[str, Path]) -> dict[str, Evaluation]:
    """Evaluate the base model and each adapter on the same prompts and seeds, a core a part of the prompts."""
    count = min(cores(), math.ceil(len(prompts) / BATCH))
    size = BATCH * math.ceil(len(prompts) / BATCH / count)  # batches are the same whatever the cores
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    with progress("evaluate", (1 + len(adapters)) * len(prompts), "picture"), one_thread_a_core():
        found = side_by_side([partial(_compare, part, adapters) for part in parts])
    return {name: Evaluation.joined([part[name] for part in found]) for name in found[0]}


def _compare(prompts: list[Prompt], adapters: dict[str, Path]) -> dict[str, Evaluation]:
    """Evaluate the base model and each adapter on some of the prompts, in a thread of its own."""
    torch.set_num_threads(1)
    with LOADING:
        pipes: dict[str, Any] = {"base": load_pipeline(DIFFUSION)}
        for name, folder in adapters.items():
            encoder = json.loads((folder / "adapter_config.json").read_text())["encoder"]
            pipes[name] = load_pipeline(DIFFUSION, folder, str(LLAMA) if encoder == "llm" else None)
    evaluations = {}
    with torch.no_grad():
        for name, pipe in pipes.items():
            evaluations[name] = evaluate(pipe, prompts, SAMPLING, batch_size=BATCH, progress=_advance)
    return evaluations


def _advance(count: int) -> None:
    """Pass progress on, one thread at a time."""
    with LOADING:
        advance(count)


@contextmanager
def one_thread_a_core() -> Iterator[None]:
    """Let each of several threads compute alone: torch's own threads wait for one another after each operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Clock:
    """Seconds that each stage took, and about how many the rest will take on this machine."""

    def __init__(self, expected: dict[str, int]) -> None:
        self.expected = expected
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage with the time left, and time it."""
        number = list(self.expected).index(name) + 1
        print(f"[{number}/{len(self.expected)}] {name}: {self._left()}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name.replace(" ", "_")] = time.perf_counter() - start

    def _left(self) -> str:
        done = list(self.expected)[: len(self.seconds)]
        expected = sum(self.expected[stage] for stage in done)
        pace = sum(self.seconds.values()) / expected if expected > 300 else 1.0
        left = pace * sum(seconds for stage, seconds in self.expected.items() if stage not in done)
        return f"about {max(1, round(left / 60))} min left in all"


def _say(note: str | None) -> None:
    """Say on the terminal what a reader must know before the figures."""
    if note is not None:
        print(note, file=sys.stderr, flush=True)


def _clear(out: Path) -> None:
    """Remove what an earlier demonstration left, and nothing else."""
    for name in ("data", "store", "adapter", "control"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("report.html", "report.json", "samples.png"):
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def _encode(out: Path, encoder: EncoderKind) -> EncodeResult:
    request = EncodeRequest(
        data=str(out / "data"),
        store=str(out / "store"),
        diffusion=str(DIFFUSION),
        llm=str(LLAMA) if encoder == "llm" else None,
        encoder=encoder,
        settings=ENCODER if encoder == "llm" else EncoderConfig(),
    )
    return encode_flow(request)


def _train(out: Path, name: str, encoder: EncoderKind, settings: TrainSettings) -> TrainResult:
    """Train one of two runs that go side by side: in one process, on half of the cores, with the full batch."""
    alone = {"batch_size": PROCESSES * settings.batch_size, "threads": max(1, cores() // 2)}
    request = TrainRequest(
        store=str(out / "store"),
        diffusion=str(DIFFUSION),
        output=str(out / name),
        encoder=encoder,
        processes=1,
        settings=settings.model_copy(update=alone),
    )
    return train_flow(request)


def _facts(encoded: EncodeResult, trained: TrainResult, settings: TrainSettings) -> dict[str, str]:
    length = encoded.tokens / max(1, encoded.captions)
    batch = PROCESSES * settings.batch_size
    return {
        "data": f"{encoded.rows} drawn pictures with natural captions, {sum(encoded.rejected.values())} rejected",
        "encode": f"{encoded.captions} captions of {length:.1f} tokens on average through the frozen LLM, "
        f"{encoded.bytes_per_caption:.0f} bytes a caption, store version {encoded.store_version}",
        "train": f"{trained.steps} steps of {batch} on the frozen U-Net under DeepSpeed ZeRO-2",
        "control": "the same adapter, steps and pictures, fed the base model's own text features",
        "evaluate": f"prompts about held-out pairs in {len(WORDINGS)} kinds of wording, evaluated by rules",
    }


def _print_result(out: Path, report: dict[str, Any]) -> None:
    print("\n".join(["", *summary(report), ""]))
    print(f"Look at {out / 'report.html'} and {out / 'samples.png'}; the figures are in {out / 'report.json'}.")
    print(f"The page of the registry: {registry_command()}")
