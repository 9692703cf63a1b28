"""From pictures to an adapter on a base of SDXL's shape."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from infra.launch.hostfile import Topology
from llmdiff import LLMDiffPipeline
from llmdiff.data.encode import encode_shard, prepare
from llmdiff.data.sources import open_source
from llmdiff.diffusion.base import load_unet
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.training import TrainConfig
from llmdiff.training.config import TrainSettings
from llmdiff.training.distributed import start
from llmdiff.training.monitor import swapped
from llmdiff.training.objective import sample_generators
from llmdiff.training.resolve import resolve
from llmdiff.training.setup import prepare as prepare_run
from pipelines.flows.train import resolve_config
from pipelines.requests.encode import EncodeRequest
from pipelines.requests.train import TrainRequest
from pipelines.runtime.encode.job import EncodeJob, loaded_encoders, make_job
from pipelines.runtime.encode.new_rows import prepare_store
from storage import EncodingStore, caption_hash
from storage.maintenance.verify import verify
from tests.adapter import tiny
from tests.data.pictures import encoded, picture, write_parquet
from tests.encoder import tiny_models
from tests.training import training_run

pytestmark = pytest.mark.process

PROMPTS = ("a red circle", "the small green triangle")
SIZES = [(90, 70), (64, 128), (80, 80), (300, 200)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an LLM, a store with the encodings of the LLM and of the base, and a run of six steps."""
    root = tmp_path_factory.mktemp("xl")
    tiny.save_xl_base(root / "base")
    tiny_models.build("llama").save_pretrained(root / "llm")
    tiny_models.tokenizer().save_pretrained(root / "llm")
    rows = [(encoded(picture(*SIZES[i % 4], seed=i)), f"a {word} thing") for i, word in enumerate(tiny_models.WORDS)]
    write_parquet(root / "data" / "a.parquet", rows)
    for encoder in ("llm", "base"):
        encode(root, encoder)
    train(config(root, "whole"))
    return root


def job(root: Path, encoder: Any = "llm", store: str = "store", **options: Any) -> EncodeJob:
    settings = EncoderConfig(dtype="float32") if encoder == "llm" else EncoderConfig()
    request = EncodeRequest(
        data=str(root / "data"),
        store=str(root / store),
        diffusion=str(root / "base"),
        llm=str(root / "llm"),
        encoder=encoder,
        settings=settings,
        **options,
    )
    return make_job(request, pictures=True)


def encode(root: Path, encoder: str = "llm", store: str = "store", **options: Any) -> list[Any]:
    found = job(root, encoder, store, **options)
    prepare_store.fn(found, list(PROMPTS))
    encoders = loaded_encoders(found.model_dump_json(), None)
    return [
        encode_shard(EncodingStore.open(found.request.store), shard, encoders) for shard in open_source(root / "data")
    ]


def config(root: Path, output: str, store: str = "store", **settings: Any) -> TrainConfig:
    """Return the configuration as the flow resolves it."""
    plain = {"steps": 6, "batch_size": 4, "warmup": 1, "threads": 1, "log_every": 1, "checkpoint_every": 2}
    plain |= {"learning_rate": 1e-2, "sample_every": 3, "validation_prompts": PROMPTS, "validation_steps": 2}
    chosen = TrainSettings(**{**plain, **settings})
    paths = {"store": str(root / store), "diffusion": str(root / "base"), "output": str(root / output)}
    return resolve_config.fn(TrainRequest(**paths, settings=chosen), Topology(processes=1))


def train(config: TrainConfig) -> None:
    from llmdiff.training.loop import train

    train(config)


def own(kind: str, store: EncodingStore) -> str:
    (found,) = [key for key, about in store.fingerprints().items() if about["kind"] == kind]
    return found


def test_every_caption_has_a_pooled_embedding_in_its_samples_commit(root: Path) -> None:
    store = EncodingStore.open(root / "store")
    pooled = own("pooled", store)
    first = next(v for v in range(1, store.version + 1) if len(EncodingStore.open(root / "store", v).samples()))
    then, captions = EncodingStore.open(root / "store", first), store.samples()["caption"].unique().to_pylist()
    found = then.snapshot().encodings(pooled, map(caption_hash, captions))
    assert len(found) == len(captions) == len(tiny_models.WORDS)
    plain = StableDiffusionXLPipeline.from_pretrained(root / "base")
    for caption in ["", *captions[:2], *PROMPTS]:
        row = torch.from_numpy(store.encoding(pooled, caption_hash(caption))).view(torch.bfloat16)
        expected = plain.encode_prompt([caption or "x"])[2 if caption else 3]
        assert torch.equal(row, expected.bfloat16())
    assert not verify(store)
    version = store.version
    assert [report.known for report in encode(root)] == [len(captions)]
    assert EncodingStore.open(root / "store").version == version


def test_captions_that_were_encoded_for_another_base_are_completed(root: Path) -> None:
    store = EncodingStore.create(root / "older")
    encoders = loaded_encoders(job(root).model_dump_json(), None)
    assert encoders.latents is not None
    older = prepare(store, encoders.encoder, encoders.latents.encoder, 64)
    for shard in open_source(root / "data"):
        encode_shard(store, shard, older)
    with pytest.raises(ValueError, match='expected one kind of "pooled" .* encode again with --diffusion of this base'):
        config(root, "none", "older")
    encode(root, store="older")
    hashes = store.samples()["caption_hash"].to_pylist()
    assert store.snapshot().encodings(own("pooled", store), hashes).keys() == set(hashes)
    assert len(store.samples()) == len(hashes) == len(tiny_models.WORDS)
    assert not verify(store)
    train(config(root, "on-older", "older", steps=1, sample_every=None))


def test_step_0_is_the_frozen_unet_with_its_own_conditioning(root: Path, tmp_path: Path) -> None:
    """Expected is what diffusers' pipeline would condition the U-Net with; of dropped captions, as at guidance."""
    adapter = {"base_context": "clip", "new_weight": 0.0}
    plan = config(root, str(tmp_path / "run"), adapter=adapter, caption_dropout=0.5)
    run = prepare_run(plan, start(plan))
    batch = next(run.data.epoch(0))
    loss, _, losses, timesteps = run.objective(batch, sample_generators(0, 0, batch, run.device), 1.0)
    pipe, unet = StableDiffusionXLPipeline.from_pretrained(root / "base"), load_unet(plan.base)
    samples = {(row["source"], row["row"]): row for row in run.data.store.samples(plan.fingerprint).to_pylist()}
    dropped = []
    for i, generator in enumerate(sample_generators(0, 0, batch, run.device)):
        sample = samples[batch.rows[i]]
        noise, u = torch.randn(4, 8, 8, generator=generator), torch.rand(2, generator=generator)
        dropped.append(bool(u[1] < 0.5))
        text, none, pooled, none_pooled = (x.bfloat16().float() for x in pipe.encode_prompt([sample["caption"]]))
        width, height, left, top = sample["crop"]
        ids = pipe._get_add_time_ids((height, width), (top, left), (64, 64), torch.float32, tiny.WIDTH)
        noisy = run.objective.schedule.add_noise(batch.latents[i : i + 1].float(), noise, timesteps[i : i + 1])
        conditions = {"text_embeds": none_pooled if dropped[-1] else pooled, "time_ids": ids}
        context = none if dropped[-1] else text
        with torch.no_grad():
            predicted = unet(noisy, timesteps[i], context, added_cond_kwargs=conditions).sample
        torch.testing.assert_close(losses[i], (predicted - noise).square().mean(), rtol=1e-5, atol=1e-6)
    assert len(set(dropped)) == 2
    assert len({tuple(samples[row]["crop"]) for row in batch.rows}) > 1
    torch.testing.assert_close(loss.detach(), losses.sum())


def test_each_bucket_is_conditioned_on_its_own_size_and_trained_on(root: Path) -> None:
    encode(root, store="buckets", buckets=True, flip=True)
    plan = config(root, "on-buckets", "buckets", steps=8, sample_every=None)
    run = prepare_run(plan, start(plan))
    assert len(run.data.index.shapes) == 4
    for batch in run.data.epoch(0):
        assert run.objective.micro_conditioning is not None
        ids = run.objective.micro_conditioning.of_batch(batch, torch.zeros(len(batch.rows), dtype=torch.bool))[
            "time_ids"
        ]
        for (height, width, top, left, *target), crop in zip(ids.tolist(), batch.crops.tolist(), strict=True):
            assert [width, height, left, top] == crop
            assert target == [8 * side for side in batch.latents.shape[-2:]]
            assert target[1] / target[0] == pytest.approx(width / height, rel=0.15)
    train(plan)
    assert len(training_run.rows(plan)) == 8


KILLED = """
import os, signal, sys
from llmdiff.training import loop, metrics
from llmdiff.training.config import TrainConfig

advance, steps = metrics.MetricLogger.advance, []

def count(metrics):
    steps.append(1)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    advance(metrics)

metrics.MetricLogger.advance = count
loop.train(TrainConfig.read(sys.argv[2]))
"""


def test_the_pooled_embedding_of_a_neighbours_caption_comes_with_it(root: Path, tmp_path: Path) -> None:
    plan = config(root, str(tmp_path / "run"))
    batch = next(prepare_run(plan, start(plan)).data.epoch(0))
    assert torch.equal(swapped(batch).pooled, batch.pooled.roll(1, 0))
    assert torch.equal(swapped(batch).crops, batch.crops)


def test_killed_and_resumed_the_run_is_the_same(root: Path) -> None:
    whole, killed = config(root, "whole"), config(root, "killed")
    worker = training_run.start_worker(killed, command=["-c", KILLED])
    printed, _ = worker.communicate(timeout=200)
    assert worker.returncode == -9, printed
    saved = sorted(path.name for path in (root / "killed" / "checkpoints").iterdir())
    assert saved == ["step-00000002", "step-00000004"]
    train(killed)
    assert training_run.rows(killed) == training_run.rows(whole)
    for name in ("adapter/adapter.safetensors", "samples/step-00000006.safetensors"):
        assert (root / "killed" / name).read_bytes() == (root / "whole" / name).read_bytes()


def test_a_validation_sample_is_what_the_pipeline_draws(root: Path) -> None:
    """They differ by the rounding of stored encodings and of the adapter's file."""
    latents = load_file(root / "whole" / "samples" / "step-00000006.safetensors")["latents"]
    encoder = Encoder.from_pretrained(root / "llm", EncoderConfig(dtype="float32"))
    pipe = tiny.quiet(LLMDiffPipeline.from_pretrained(root / "base", root / "whole" / "adapter", encoder))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 2, "guidance_scale": 5.0, "latents": noise, "output_type": "latent"}
    drawn = pipe(list(PROMPTS), **options).images
    torch.testing.assert_close(latents, drawn, rtol=0.02, atol=0.02)
    other = pipe(list(PROMPTS), **options, original_size=(1024, 2048), crops_coords_top_left=(400, 7)).images
    assert (other - drawn).abs().max() > 0.1  # sizes and crop matter


def test_what_the_base_lacks_or_the_store_is_told_before_the_unet_is_loaded(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "base", tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    plan = config(root, str(tmp_path / "run")).model_copy(update={"base": str(tmp_path / "base")})
    store = EncodingStore.open(root / "store")
    cases = [
        ({"pooled_fingerprint": None}, "expected a pooled_fingerprint, found none: SDXL's U-Net reads pooled"),
        (
            {"pooled_fingerprint": plan.fingerprint},
            "pooled embeddings .*: expected width 32, .*found 48: encode again",
        ),
        (
            {"adapter": plan.adapter.model_copy(update={"base_context": "clip"}), "base_fingerprint": plan.fingerprint},
            f"text features {plan.fingerprint}: expected width 64, .*found 48",
        ),
    ]
    for i, (changes, message) in enumerate(cases):
        changed = plan.model_copy(update={**changes, "output": str(tmp_path / str(i))})
        with pytest.raises(ValueError, match=message):
            prepare_run(changed, start(changed))
    with pytest.raises(ValueError, match="expected encodings of 0000"):
        resolve(plan.model_copy(update={"pooled_fingerprint": "0" * 32, "output": str(tmp_path / "none")}))
    training_run.save_base(tmp_path / "sd")
    changed = plan.model_copy(update={"base": str(tmp_path / "sd"), "output": str(tmp_path / "sd-run")})
    with pytest.raises(ValueError, match=f"sd: expected no pooled_fingerprint, found {own('pooled', store)}"):
        prepare_run(changed, start(changed))
