"""Training on latents of several shapes, with mirror images, several captions of a picture and repeated folders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmdiff.data.encode import encode_shard
from llmdiff.data.encode import prepare as prepare_encoders
from llmdiff.data.sources import open_source
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.training import TrainConfig
from llmdiff.training.data.kohya import read_repeats
from llmdiff.training.data.micro_conditioning import MicroConditioning, pixels_to_a_latent
from llmdiff.training.distributed import start
from llmdiff.training.objective import sample_generators, split
from llmdiff.training.setup import prepare
from storage import EncodingStore, Sample, ShardWriter, caption_hash
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.adapter import tiny
from tests.data.pictures import encoded, picture, write_parquet
from tests.training import training_run

pytestmark = pytest.mark.process

SHAPES = [(4, 8, 8)] * 7 + [(4, 6, 10)] * 5 + [(4, 10, 7)]
"""Shapes of the pictures' latents: batches of 4 divide no shape's number."""
SOURCES = ("10_cats/", "512_pictures/", "a/2_dogs/[0:4]", "3_tables/a.parquet")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a store whose pictures have one or two captions and a mirror image each."""
    root = tmp_path_factory.mktemp("shapes")
    training_run.save_base(root / "base")
    store, random = EncodingStore.create(root / "store"), np.random.default_rng(0)
    llm = store.register_fingerprint({"kind": "llm", "bands": 1})
    with ShardWriter(store, "shard-0", llm) as writer:
        writer.add_encoding(caption_hash(""), training_run.bits(random.standard_normal((1, tiny.HIDDEN))))
        for row, (picture, number) in enumerate((i, n) for i in range(len(SHAPES)) for n in range(1 + i % 2)):
            text = f"caption {number} of {picture}"
            encoding = random.standard_normal((1 + row % 5, tiny.HIDDEN))
            writer.add_encoding(caption_hash(text), training_run.bits(encoding))
            writer.add_latent(f"latent-{picture}", random.standard_normal((2, *SHAPES[picture])).astype(np.float16))
            about = {"source": SOURCES[picture % 4], "source_hash": str(picture % 4), "row": row}
            key = {"caption_hash": caption_hash(text), "fingerprint": llm, "latent_key": f"latent-{picture}"}
            writer.add_sample(Sample(caption=text, **key, **about))
    (root / "fingerprints.json").write_text(json.dumps({"llm": str(llm)}))
    return root


def config(root: Path, output: str, **changes: Any) -> TrainConfig:
    settings = {"steps": None, "epochs": 2, "caption_choice": "one", "checkpoint_every": 3, "keep_checkpoints": 9}
    return training_run.config(root, output, **{**settings, **changes})


def train(run: TrainConfig) -> None:
    from llmdiff.training.loop import train

    train(training_run.resolved(run))


@pytest.fixture(scope="module")
def whole(root: Path) -> TrainConfig:
    run = config(root, "whole")
    train(run)
    return run


def test_steps_are_of_one_shape_and_an_epoch_has_each_picture_once(whole: TrainConfig) -> None:
    assert [row["step"] for row in training_run.rows(whole)] == list(range(1, 11))  # 2 + 2 + 1 of each epoch
    states = sorted((Path(whole.output) / "checkpoints").glob("step-*/state.json"))
    last = json.loads(states[-1].read_text())
    assert (last["epoch"], last["position"], last["seen"]) == (1, 13, [1, 5, 7])


@pytest.mark.parametrize("step", [3, 6, 9])
def test_resumed_at_any_step_the_losses_are_the_same(whole: TrainConfig, root: Path, step: int) -> None:
    run = config(root, f"from-{step}")
    train(run)
    for path in (Path(run.output) / "checkpoints").glob("step-*/state.json"):
        if int(path.parent.name.removeprefix("step-")) > step:
            path.unlink()
    train(run)
    assert training_run.rows(run) == training_run.rows(whole)
    result = "adapter/adapter.safetensors"
    assert (Path(run.output) / result).read_bytes() == (Path(whole.output) / result).read_bytes()


def test_two_processes_that_share_one_last_picture_see_the_same_losses(whole: TrainConfig, root: Path) -> None:
    run = config(root, "two", batch_size=2)
    training_run.run_ranks(run, 2)
    assert training_run.losses(run) == pytest.approx(training_run.losses(whole), rel=1e-4)


def test_a_borrowed_sample_does_not_count(whole: TrainConfig) -> None:
    """One of the two ranks that hold a single sample trains on it."""
    batches = [list(dataset(whole, rank=rank, world_size=2, batch_size=2).epoch(0)) for rank in (0, 1)]
    pairs = [both for both in zip(*batches, strict=True) if any(batch.borrowed for batch in both)]
    assert len(pairs) == 2
    for both in pairs:
        assert both[0].rows == both[1].rows
        assert sorted([counts for batch in both for _, counts in split(batch, 1)]) == [False, True]


def dataset(run: TrainConfig, **options: Any) -> EncodingDataset:
    settings = {"fingerprint": run.fingerprint, "batch_size": 4, "caption_choice": run.caption_choice, **options}
    return EncodingDataset(run.store, DatasetConfig(**settings))


def test_settings_reach_the_reader(root: Path, tmp_path: Path) -> None:
    run = config(root, str(tmp_path / "run"), flip_words=("0",), kohya_repeats=True, seed=5)
    data = prepare(training_run.resolved(run), start(run)).data
    assert (data.config.caption_choice, data.config.flip, data.config.seed) == ("one", True, 5)
    assert data.index.may_flip.tolist() == ["0" not in row["caption"].split() for row in by_order(data)]
    came = Counter(name for batch in data.epoch(0) for name, _ in batch.rows)
    assert came == {"10_cats/": 40, "512_pictures/": 3 * 512, "a/2_dogs/[0:4]": 6, "3_tables/a.parquet": 3}


def by_order(data: EncodingDataset) -> list[dict[str, Any]]:
    rows = {(row["source"], row["row"]): row for row in data.store.samples().to_pylist()}
    index = data.index
    return [rows[index.sources[source], row] for source, row in zip(index.source, index.row.tolist(), strict=True)]


def test_repeats_have_noise_of_their_own(whole: TrainConfig) -> None:
    data = dataset(whole, repeats={"10_cats/": 3})
    cpu, drawn = torch.device("cpu"), []
    for batch in data.epoch(0):
        drawn += [torch.rand(1, generator=each).item() for each in sample_generators(0, 0, batch, cpu)]
    assert len(drawn) == len(set(drawn)) == 13 + 2 * 4


def test_repeats_are_of_folders_of_pictures_alone(root: Path, whole: TrainConfig, tmp_path: Path) -> None:
    run = training_run.resolved(config(root, str(tmp_path / "run")))
    assert read_repeats(run) == {"10_cats/": 10, "512_pictures/": 512, "a/2_dogs/[0:4]": 2}
    assert dataset(whole).samples_per_epoch == len(SHAPES)  # nothing follows from the names without the setting


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cats_10/", "kohya_repeats: expected folders of pictures named as 10_name in .*, found cats_10/"),
        ("0_cats/", "kohya_repeats: expected numbers from 1, found the folder 0_cats/"),
    ],
)
def test_names_without_repeats_are_told_when_the_run_is_resolved(tmp_path: Path, source: str, message: str) -> None:
    store = EncodingStore.create(tmp_path / "store")
    llm = store.register_fingerprint({"kind": "llm", "bands": 1})
    with ShardWriter(store, "shard-0", llm) as writer:
        writer.add_encoding(caption_hash("x"), training_run.bits(np.zeros((1, tiny.HIDDEN))))
        writer.add_latent("latent", np.zeros((4, 8, 8), np.float16))
        key = {"caption_hash": caption_hash("x"), "fingerprint": llm, "latent_key": "latent"}
        writer.add_sample(Sample(caption="x", **key, source=source, source_hash="0", row=0))
    (tmp_path / "fingerprints.json").write_text(json.dumps({"llm": str(llm)}))
    with pytest.raises(ValueError, match=message):
        training_run.resolved(config(tmp_path, "run", kohya_repeats=True))


def test_sdxls_target_size_is_the_buckets(whole: TrainConfig, tmp_path: Path) -> None:
    store = EncodingStore.create(tmp_path / "store")
    store.register_fingerprint({"kind": "vae", "size": 64, "factor": 8})
    factor = pixels_to_a_latent(store, ["4x10x7", "4x6x10"])
    conditioning = MicroConditioning(torch.zeros(3), factor)
    for batch in dataset(whole).epoch(0):
        size = len(batch.rows)
        crops = torch.tensor([[90, 70, 5, 3]]).expand(size, 4)
        with_crops = type(batch)(**{**vars(batch), "pooled": torch.zeros(size, 3), "crops": crops})
        ids = conditioning.of_batch(with_crops, torch.zeros(size, dtype=torch.bool))["time_ids"]
        height, width = (8 * side for side in batch.latents.shape[-2:])
        assert ids.tolist() == [[70, 90, 3, 5, height, width]] * size


def test_pictures_of_two_shapes_train_the_embedded_model_and_resume(tmp_path: Path) -> None:
    pictures = [(encoded(picture(*(64, 64) if i % 3 else (96, 64), seed=i)), f"a red circle {i}") for i in range(9)]
    store = EncodingStore.create(tmp_path / "store")
    encoder = Encoder.from_pretrained(str(LLAMA), EncoderConfig(dtype="float32"))
    encoders = prepare_encoders(
        store, encoder, LatentEncoder.from_pretrained(str(DIFFUSION)), 64, buckets=True, flip=True
    )
    for shard in open_source(write_parquet(tmp_path / "data" / "a.parquet", pictures)):
        encode_shard(store, shard, encoders)
    (tmp_path / "fingerprints.json").write_text(json.dumps({"llm": encoders.fingerprint}))
    runs = [config(tmp_path, name, base=str(DIFFUSION), checkpoint_every=1) for name in ("whole", "resumed")]
    for run in runs:
        train(run)
    assert dataset(runs[0]).index.shapes == ["2x4x6x9", "2x4x8x8"]
    assert len(training_run.losses(runs[0])) == 6  # of each epoch, one batch of 3 and two of 6
    for step in range(4, 7):
        (Path(runs[1].output) / "checkpoints" / f"step-{step:08d}" / "state.json").unlink()
    train(runs[1])
    assert training_run.rows(runs[1]) == training_run.rows(runs[0])
