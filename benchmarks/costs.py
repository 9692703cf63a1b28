"""Works out what a million, a hundred million and a billion captions take, from measured rows and named assumptions.

``python benchmarks/costs.py`` prints the tables of ``docs/costs.md``; ``--write`` puts them there; each assumption is
an option, for figures of your own: ``python benchmarks/costs.py --share 0.4 --gpu A100 --bf16 312 --tf32 156``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from common.crossing import NEVER, crossing
from common.gpu_figures import basis, shares
from common.measured import growth, index_rows, measured
from common.recipe_llms import LLM, llms
from common.words import count, duration, number, size

PAGE = Path(__file__).parents[1] / "docs" / "costs.md"
START, END = "<!-- made by benchmarks/costs.py -->", "<!-- end -->"
SCALES = {"1 M": 10**6, "100 M": 10**8, "1 B": 10**9}
FILES_OF_A_SHARD = 9
"""Number of a shard's files beside its arrays' data: six of groups and arrays, with the manifest; the index's three."""
FILE_BYTES = 128 * 1024**2
LATENT_BYTES = 2 * 4 * 64 * 64
SHARD_ROWS = 4096
"""Number of rows of the commits and look-ups that were measured."""


def assumed(value: float | str, meaning: str) -> float | str:
    """Return a field that can be set on the command line."""
    return field(default=value, metadata={"help": meaning})


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What was not measured here."""

    gpu: str = assumed("H100 SXM", "its name")
    bf16: float = assumed(989.0, "peak TFLOP/s in bf16, dense, as published: the LLM and training")
    tf32: float = assumed(494.0, "peak TFLOP/s in TF32, dense, as published: the autoencoder")
    share: float = assumed(0.3, "of the peak that is reached, where none was measured on the GPU of that name")
    price: float = assumed(3.0, "dollars for an hour of one GPU")
    gpus: float = assumed(8, "GPUs of a machine, each with a process of its own")
    memory: float = assumed(1000.0, "GB of main memory of a machine")
    machines: float = assumed(8, "machines that encode at once, where a row asks for it")
    disk: float = assumed(1.0, "GB/s at which one process reads the store and compares checksums")
    verifiers: float = assumed(8, "processes of a machine that verify at once, each at that rate")
    rows: float = assumed(4096, "rows of a shard: of text tables 4,096; else those of a Parquet or tar file")


class Costs:
    """What so many captions with a picture each cost; hours are of one GPU unless a name says otherwise."""

    def __init__(self, llm: LLM, at: Assumptions) -> None:
        self.llm, self.at = llm, at
        self.vae = measured("train.csv", "value", what="autoencoder's encoder")
        self.step = measured("train.csv", "value", what="training step, forward and backward")
        self.measured = shares(self.step, self.vae, {llm.name: llm.tflop})
        self.shares = self.measured if self.measured and self.measured.device == at.gpu else None
        self.overhead = measured("store.csv", "value", name="overhead with index and manifests", prompts="DPG-Bench")
        self.index_row = float(index_rows("index")[-1]["value"])
        self.cache_row = float(index_rows("cache of a machine")[-1]["value"])
        self.lookup = growth("look a shard up", "cpu", cache="warm")
        self.keys = [growth(name, "cpu", cache="no cache yet") for name in ("look 256 captions up", "look a shard up")]
        self.lookup_memory = growth("memory of looking up", cache="warm")
        self.commit = growth("a commit", "cpu", of=f"{SHARD_ROWS} rows")
        self.train_row = float(index_rows("training index")[-1]["value"])
        self.make = growth("open a version to train on, the first time", "cpu", cache="warm")
        self.open = growth("open a version to train on", "cpu", cache="warm")
        self.train_memory = growth("own memory of a training process", cache="warm")

    def encode_seconds(self, n: float) -> float:
        return n * (self.text_seconds() + self.vae / (self.at.tf32 * self.share("autoencoder")))

    def text_seconds(self) -> float:
        """Return GPU seconds of a caption."""
        return self.llm.tokens * self.llm.tflop * self.llm.ratio / (self.at.bf16 * self.share(self.llm.name))

    def images_a_second(self) -> float:
        return self.at.bf16 * self.share("training") / self.step

    def share(self, of: str) -> float:
        """Return the share of the peak that is reached: measured, or else assumed."""
        return self.at.share if self.shares is None else self.shares.of.get(of, self.at.share)

    def encodings(self, n: float) -> float:
        return n * self.llm.tokens * self.llm.width * 2 * (1 + self.overhead)

    def store(self, n: float) -> float:
        return self.encodings(n) + n * LATENT_BYTES

    def shards(self, n: float) -> float:
        return math.ceil(n / self.at.rows)

    def files(self, n: float) -> float:
        rows = min(n, self.at.rows)
        data = math.ceil(self.encodings(rows) / FILE_BYTES) + math.ceil(rows * LATENT_BYTES / FILE_BYTES)
        return self.shards(n) * (FILES_OF_A_SHARD + data)

    def commit_seconds(self, n: float) -> float:
        """Return seconds of all commits one after the other; each is slower by the rows before it."""
        return self.shards(n) * (self.commit[0] + self.commit[1] * n / 2)

    def lookup_seconds(self, n: float) -> float:
        """Return seconds of one worker's look-ups for `SHARD_ROWS` rows: which captions and pictures are stored."""
        return self.lookup[0] + self.lookup[1] * n

    def keys_seconds(self, n: float) -> float:
        """Return processor seconds to make the keys of all look-ups, the first time on a machine."""
        return sum(none + each * n for none, each in self.keys)

    def encoder_memory(self, n: float) -> float:
        """Return bytes of one worker that encodes."""
        return 1e6 * (self.lookup_memory[0] + self.lookup_memory[1] * n)

    def trainer_memory(self, n: float) -> float:
        """Return bytes of one training process for the index."""
        return 1e6 * (self.train_memory[0] + self.train_memory[1] * n)

    def make_seconds(self, n: float) -> float:
        """Return processor seconds to make the training index, the first time on a machine."""
        return self.make[0] + self.make[1] * n

    def open_seconds(self, n: float) -> float:
        """Return processor seconds to open the training index every other time."""
        return self.open[0] + self.open[1] * n

    def verify_seconds(self, n: float) -> float:
        return self.store(n) / (1e9 * self.at.disk * self.at.verifiers)


def machines(gpu_seconds: float, days: float, at: Assumptions) -> int:
    """Return the machines that get so much done in so many days."""
    return math.ceil(gpu_seconds / at.gpus / (days * 86400))


def costs_table(at: Assumptions) -> str:
    """Return the table of hours, machines and bytes."""
    lines = [
        f"| {at.gpu}, {basis(Costs(llms()[0], at).shares, at.share)} | LLM | {' | '.join(SCALES)} |",
        "| --- | --- |" + " --- |" * len(SCALES),
    ]
    costs = [Costs(llm, at) for llm in llms()]
    rows: list[tuple[str, Callable[[Costs, float], str]]] = [
        ("encodings", lambda c, n: size(c.encodings(n))),
        ("latents, 512²", lambda c, n: size(n * LATENT_BYTES)),
        ("index", lambda c, n: size(n * c.index_row)),
        ("its cache, on each machine that encodes", lambda c, n: size(n * c.cache_row)),
        ("the training index, on each machine that trains", lambda c, n: size(n * c.train_row)),
        ("encode, GPU hours", lambda c, n: number(c.encode_seconds(n) / 3600)),
        ("encode, dollars", lambda c, n: number(c.encode_seconds(n) / 3600 * at.price)),
        (f"encode in a day, machines of {at.gpus:g}", lambda c, n: number(machines(c.encode_seconds(n), 1, at))),
        ("train an epoch, GPU hours", lambda c, n: number(n / c.images_a_second() / 3600)),
        (
            f"train an epoch in a week, machines of {at.gpus:g}",
            lambda c, n: number(machines(n / c.images_a_second(), 7, at)),
        ),
        ("read by each machine that trains", lambda c, n: f"{size(c.images_a_second() * at.gpus * c.store(n) / n)}/s"),
    ]
    for what, value in rows:
        values = {cost.llm.name: [value(cost, n) for n in SCALES.values()] for cost in costs}
        both = len({tuple(row) for row in values.values()}) == 1
        for name, row in list(values.items())[: 1 if both else None]:
            lines.append(f"| {what} | {'both' if both else name} | {' | '.join(row)} |")
    return "\n".join(lines)


def limits_table(at: Assumptions, rows: float) -> str:
    """Return the table of what grows with the store, for shards of so many rows; of Phi-1.5."""
    cost = Costs(llms()[0], Assumptions(**{**vars(at), "rows": rows}))
    lines = [f"| shards of {rows:,.0f} rows | {' | '.join(SCALES)} |", "| --- |" + " --- |" * len(SCALES)]
    values: list[tuple[str, Callable[[float], str]]] = [
        ("shards; task runs in Prefect; commits", lambda n: number(cost.shards(n))),
        ("files, or objects put", lambda n: number(cost.files(n))),
        ("all commits, one after the other", lambda n: duration(cost.commit_seconds(n))),
    ]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(map(of, SCALES.values()))} |" for what, of in values)])


def index_table(at: Assumptions) -> str:
    """Return the table of what grows with the index's rows, however they are cut into shards; of Phi-1.5."""
    cost = Costs(llms()[0], at)
    lines = [f"| however large the shards | {' | '.join(SCALES)} |", "| --- |" + " --- |" * len(SCALES)]
    values: list[tuple[str, Callable[[float], str]]] = [
        (f"look-ups for {SHARD_ROWS:,} rows, of each worker that encodes", lambda n: duration(cost.lookup_seconds(n))),
        ("make the keys of look-ups, once a machine, of one processor", lambda n: duration(cost.keys_seconds(n))),
        ("memory of each worker for the index", lambda n: size(cost.encoder_memory(n))),
        ("make the training index, once a machine, of one processor", lambda n: duration(cost.make_seconds(n))),
        ("open to train on after that, of one processor", lambda n: duration(cost.open_seconds(n))),
        ("own memory of each training process for the index", lambda n: size(cost.trainer_memory(n))),
        (f"verify by {at.verifiers:g} processes, each at {at.disk:g} GB/s", lambda n: duration(cost.verify_seconds(n))),
    ]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(map(of, SCALES.values()))} |" for what, of in values)])


def walls_table(at: Assumptions) -> str:
    """Return the table of how many captions use up something that there is, the fewest first; of Phi-1.5."""
    cost, memory = Costs(llms()[0], at), 1e9 * at.memory
    large = Costs(llms()[0], Assumptions(**{**vars(at), "rows": 65536}))
    gpus = at.machines * at.gpus
    used: dict[str, Callable[[float], float]] = {
        "look-ups take a worker as long as its GPU": lambda n: cost.lookup_seconds(n) / cost.encode_seconds(SHARD_ROWS),
        f"training processes fill a machine of {at.memory:,.0f} GB": lambda n: (
            at.gpus * cost.trainer_memory(n) / memory
        ),
        "encoding workers fill it": lambda n: at.gpus * cost.encoder_memory(n) / memory,
        f"commits of {at.rows:,.0f} rows take as long as {gpus:g} GPUs": lambda n: (
            cost.commit_seconds(n) * gpus / cost.encode_seconds(n)
        ),
        f"commits of 65,536 rows take as long as {gpus:g} GPUs": lambda n: (
            large.commit_seconds(n) * gpus / large.encode_seconds(n)
        ),
        f"verify takes {at.verifiers:g} processes a day": lambda n: cost.verify_seconds(n) / 86400,
    }
    found = sorted((n, what) for what, share in used.items() if (n := crossing(share)) < NEVER / 2)
    return "\n".join(["| what | at captions |", "| --- | --- |", *(f"| {what} | {count(n)} |" for n, what in found)])


def defaults() -> Assumptions:
    """Return the assumptions for the GPU that was measured, where one was."""
    found = Costs(llms()[0], Assumptions()).measured
    return Assumptions() if found is None else Assumptions(gpu=found.device, bf16=found.peak, tf32=found.peak / 2)


def tables(at: Assumptions) -> str:
    """Return all tables."""
    listed = "\n".join(f"| `--{f.name}` | {getattr(at, f.name)} | {f.metadata['help']} |" for f in fields(at))
    assumptions = f"| assumption | value | |\n| --- | --- | --- |\n{listed}"
    parts = {
        "### Assumed": assumptions,
        "### Hours, machines and bytes": costs_table(at),
        "### What breaks first": walls_table(at),
        "### What grows": index_table(at) + "\n\n" + limits_table(at, at.rows) + "\n\n" + limits_table(at, 65536),
    }
    return "\n\n".join(f"{title}\n\n{table}" for title, table in parts.items())


def page(text: str, made: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n\n{made}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    start = defaults()
    for entry in fields(Assumptions):
        kind = str if isinstance(entry.default, str) else float
        parser.add_argument(
            f"--{entry.name}", type=kind, default=getattr(start, entry.name), help=entry.metadata["help"]
        )
    given = vars(parser.parse_args())
    write = given.pop("write")
    made = tables(Assumptions(**given))
    if write:
        PAGE.write_text(page(PAGE.read_text(), made))
    else:
        print(made)


if __name__ == "__main__":
    main()
