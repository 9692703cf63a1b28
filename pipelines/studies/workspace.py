"""The parts of studies: encodings, adapters and scored pictures, each made once for all studies that need it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmdiff.adapter import AdapterSettings
from llmdiff.data.encode import encode_shard, prepare
from llmdiff.data.sources import open_source
from llmdiff.devices import device
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.evaluation import held_out_prompts
from llmdiff.shapes import DIFFUSION
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.shards import write_shards
from llmdiff.studies.readings import StudyReading
from llmdiff.training.config import TrainSettings
from pipelines.flows.train import train_flow
from pipelines.requests.study import Sizes
from pipelines.requests.train import TrainRequest
from pipelines.runtime.encode.job import picture_size
from pipelines.runtime.progress import advance, progress, quieten_loading
from pipelines.runtime.shapes_benchmark import SAMPLING, TRAINING
from pipelines.runtime.stage import task
from pipelines.studies.llm import EMBEDDED, StudyLLM
from pipelines.studies.scoring import StudyModel, score
from storage import EncodingStore
from storage.hashing import canonical_json, content_hash
from storage.io.files import write_file

Shares = dict[str, dict[str, np.ndarray]]
"""Verdicts ``(seed, scene)`` by wording and fact."""


QUICK = Sizes(pictures=64, steps=2, scenes=2, seeds=1, captions=4, llm_steps=2, student_steps=2, processes=1)
"""Sizes for trying the commands, at which nothing is learned."""
BATCH = 32
MODEL_KEY = "drawing"
"""Key of the scored model in files of verdicts, by the name that it has in earlier studies."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One line of a study: what differs from the paper's adapter on the embedded LLM."""

    name: str
    reading: StudyReading | None = StudyReading()
    """Reading that encodes captions; None is the base model without an adapter."""
    training: tuple[tuple[str, Any], ...] = ()
    """Settings of `TrainSettings`, over the demonstration's at the study's size."""
    adapter: tuple[tuple[str, Any], ...] = ()
    """Settings of `AdapterSettings`, over the demonstration's."""
    weights: tuple[float, float] | None = None
    """Weights put in place of the learned ``a1 e^b1`` and ``a2 e^b2`` of every layer once the adapter is trained."""
    seeds: int | None = None
    """Number of trainings, where they are fewer than the study's."""


BASE = Variant(name="base", reading=None)
PAPER = Variant(name="score difference")


@dataclass(frozen=True)
class Workspace:
    """A folder of studies, and how large they are."""

    output: Path
    sizes: Sizes
    llms: Path | None = None
    """YAML file of the study of LLM sizes; None is the embedded family."""
    llm: StudyLLM = EMBEDDED
    """The LLM that the study is about."""

    @property
    def paper(self) -> Variant:
        """The paper's adapter, on this LLM."""
        return replace(PAPER, reading=self.llm.reading())

    @property
    def data(self) -> Path:
        return self.output / f"data-{self.sizes.pictures}"

    @property
    def store(self) -> Path:
        return self.output / f"store-{self.sizes.pictures}"

    @cached_property
    def scored(self) -> Path:
        """Folder of verdicts; that of a study by an earlier version of the program, ``judged``, gets this name."""
        folder, earlier = self.output / "scored", self.output / "judged"
        if earlier.is_dir() and not folder.exists():
            earlier.rename(folder)
        return folder

    @cached_property
    def prompts(self) -> list[Any]:
        """Held-out prompts, the same for every variant of every study."""
        return held_out_prompts(self.sizes.scenes)

    def encodings(self, reading: StudyReading) -> str:
        """Return the fingerprint of the training captions' encodings, in the store that all studies share."""

        def encode() -> str:
            draw_pictures(self.data, self.sizes.pictures)
            return encode_with(self.store, self.data, reading)

        path = self.output / "readings" / f"{self.store.name}-{reading.key}.json"
        return str(remembered(path, reading.model_dump(), encode))

    def adapter(self, variant: Variant, seed: int) -> Path:
        """Return the adapter of a variant, trained where it isn't yet; an interrupted training goes on."""
        assert variant.reading is not None
        fingerprint = self.encodings(variant.reading)
        settings = self.training(variant, seed)
        identity = {"fingerprint": fingerprint, "processes": self.sizes.processes, **settings.model_dump(mode="json")}
        folder = self.output / "adapters" / content_hash(f"{self.store.name} {canonical_json(identity)}".encode())[:12]
        if (folder / "done").exists():
            return folder
        if settings.adapter.base_context == "clip":
            self.encodings(StudyReading(kind="base"))
        request = TrainRequest(
            store=str(self.store),
            diffusion=str(DIFFUSION),
            output=str(folder),
            fingerprint=fingerprint,
            processes=self.sizes.processes,
            settings=settings,
        )
        train_flow(request)
        (folder / "done").touch()
        return folder

    def training(self, variant: Variant, seed: int) -> TrainSettings:
        """Return the demonstration's settings at this size, with what the variant changes."""
        changed = {
            "steps": self.sizes.steps,
            "warmup": min(TRAINING.warmup, max(1, self.sizes.steps // 6)),
            "batch_size": BATCH // self.sizes.processes,
            "checkpoint_every": max(self.sizes.steps // 2, 1),
            "seed": seed,
            "adapter": AdapterSettings(**{**TRAINING.adapter.model_dump(), **dict(variant.adapter)}),
            **dict(variant.training),
        }
        return TRAINING.model_copy(update=changed)

    def seeds(self, variant: Variant) -> range:
        """Return the training seeds of a variant; the base model has nothing to train."""
        return range(1 if variant.reading is None else variant.seeds or self.sizes.seeds)

    def shares(self, variant: Variant) -> Shares:
        """Return the verdicts on a variant's pictures of the held-out prompts."""
        return stacked([self.verdicts(variant.name, self.model(variant, seed)) for seed in self.seeds(variant)])

    def model(self, variant: Variant, seed: int) -> StudyModel:
        """Return the model of a variant, whose pictures are scored."""
        adapter = None if variant.reading is None else str(self.adapter(variant, seed) / "adapter")
        return StudyModel(
            adapter=adapter,
            reading=variant.reading,
            weights=variant.weights,
            steps=SAMPLING.steps,
            guidance=SAMPLING.guidance,
        )

    def verdicts(self, name: str, model: StudyModel) -> dict[str, Any]:
        """Return the verdicts ``found[wording][fact]``, a number a scene, of one model; once for all studies."""
        about = {MODEL_KEY: json.loads(model.model_dump_json()), "scenes": self.sizes.scenes}
        path = self.scored / f"{content_hash(canonical_json(about).encode())[:12]}.json"

        def draw() -> dict[str, Any]:
            with progress(f"score {name}", len(self.prompts), "picture"):
                return score(model, self.prompts)

        found: dict[str, Any] = remembered(path, about, draw)
        return found


def remembered(path: Path, about: dict[str, Any], make: Callable[[], Any]) -> Any:
    """Return what a JSON file holds, if it is about the same; else call `make`, and write what it returns there."""
    if path.exists():
        known = json.loads(path.read_text())
        if known["about"] == about:
            return known["found"]
    start = time.perf_counter()
    found = make()
    keep(path, {"about": about, "found": found, "seconds": round(time.perf_counter() - start, 1)})
    return found


def keep(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(document, indent=1) + "\n").encode())


def stacked(found: list[dict[str, Any]]) -> Shares:
    """Return the verdicts of several seeds as arrays."""
    return {
        wording: {fact: np.array([one[wording][fact] for one in found]) for fact in found[0][wording]}
        for wording in WORDINGS
    }


@task("draw pictures")
def draw_pictures(folder: Path, pictures: int) -> None:
    """Draw the training pictures with natural captions; drawn again, they are the same."""
    done = folder.with_name(f"{folder.name}.done")
    if not done.exists():
        write_shards(folder, pictures)
        done.touch()


@task("encode with")
def encode_with(store: Path, data: Path, reading: StudyReading) -> str:
    """Encode what the store lacks under a reading, as the encode flow does; return the fingerprint."""
    quieten_loading()
    encoder, latent_encoder = reading.load(str(DIFFUSION)), LatentEncoder.from_pretrained(str(DIFFUSION), device())
    opened = EncodingStore.open_or_create(str(store))
    encoders = prepare(opened, encoder, latent_encoder, picture_size(str(DIFFUSION), latent_encoder))
    shards = open_source(str(data))
    with progress(f"encode, {reading.kind}", sum(shard.count for shard in shards), "row"):
        for shard in shards:
            encode_shard(EncodingStore.open(str(store)), shard, encoders, advance)
    return str(encoders.fingerprint)
