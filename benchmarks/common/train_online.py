"""A step in this process: from cached tensors, with latents and encodings computed in it, and on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from transformers import AutoModelForCausalLM, PhiConfig

from common.measure import interleaved, peak_bytes, quantiles
from common.measured import measured
from common.models import SCHEDULE, make_batch, make_unet, make_vae
from common.peaks import published_peak
from common.prompts import MADE, REAL, prompts_of, tokenizer_of
from common.train_bench import CAPTION, GB, WIDTH, Bench, ratio_of
from llmdiff.adapter import AdapterSettings, LLMAdapter
from llmdiff.adapter.padding import pad
from llmdiff.compilation import uncompiled
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.training import TrainConfig
from llmdiff.training.objective import (
    Objective,
    UnconditionalEmbedding,
    plain_attention,
    prepare_unet,
    sample_generators,
)

if TYPE_CHECKING:
    from storage.reading.dataset import Batch


def measure_online(bench: Bench) -> None:
    """Measure a step from cached tensors, and with the LLM's and the autoencoder's passes in it."""
    on_gpu = bench.device.type == "cuda"
    size, side = (8, 64) if on_gpu else (1, 8 if bench.quick else 32)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    encoder = make_encoder(bench, dtype)
    latent_encoder = LatentEncoder(make_vae(bench.quick, bench.device))
    captions = typical_captions(bench, size)
    images = np.random.default_rng(0).integers(0, 256, (size, 8 * side, 8 * side, 3), np.uint8)
    step = Step(bench, dtype)

    def read() -> Batch:
        encodings, mask = pad([encoding.bfloat16() for encoding in encoder(captions)])
        return made.__class__(**{**vars(made), "encodings": encodings, "mask": mask, "latents": latent_encoder(images)})

    made = make_batch(size, side, encoder.hidden_size, 1)
    cached = read()
    runs = {
        "cached": lambda: step(cached),
        "online": lambda: step(read()),
        "latents online": lambda: step(made.__class__(**{**vars(cached), "latents": latent_encoder(images)})),
    }
    times = interleaved(runs, bench.device, bench.rounds)
    prompts = REAL if bench.data.is_dir() else MADE
    llm = f"Phi-1.5's shape with {bench.blocks} of 24 blocks, {CAPTION} tokens a caption of {prompts}"
    reduced = "" if on_gpu else ", CPU at reduced batch and size"
    setting = f"{bench.name}, batch {size}, {8 * side}² pixels, {dtype}, LLM of {llm}"
    bench.add("step from cached tensors", setting + reduced, quantiles(times["cached"])[1], "s")
    for name, goal in (("online", "> 1.4, Mosaic's"), ("latents online", "")):
        ratio, spread = ratio_of(times[name], times["cached"])
        what = "online over cached step" if name == "online" else "step with the autoencoder alone over cached step"
        bench.add(what, f"{setting}{reduced}; {spread}", quantiles(times[name])[1], "s", ratio, goal)


def typical_captions(bench: Bench, count: int) -> list[str]:
    """Return real prompts of about the mean length."""
    prompts, _ = prompts_of(bench.data, 1000)
    lengths = np.array([len(ids) + 1 for ids in tokenizer_of("phi-1.5", bench.data)(prompts)["input_ids"]])
    return [prompts[i] for i in np.argsort(abs(lengths - CAPTION), kind="stable")[:count]]


def make_encoder(bench: Bench, dtype: torch.dtype) -> Encoder:
    config = PhiConfig(num_hidden_layers=bench.blocks)
    if bench.quick:
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
        config.num_attention_heads = config.num_key_value_heads = 2
    torch.manual_seed(0)
    with bench.device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return Encoder(model, tokenizer_of("phi-1.5", bench.data), EncoderConfig(dtype=str(dtype).removeprefix("torch.")))


class Step:
    """A training step in this process: the library's objective, AdamW; no DeepSpeed."""

    def __init__(self, bench: Bench, dtype: torch.dtype, **settings: Any) -> None:
        """Take settings of training."""
        self.device, self.quick = bench.device, bench.quick
        width = 64 if bench.quick else WIDTH
        precision = "fp32" if dtype == torch.float32 else "bf16"
        config = TrainConfig(store="", fingerprint="", base="", output="", steps=1, precision=precision, **settings)
        unet = make_unet(bench.quick, dtype, bench.device)
        prepare_unet(unet, config)
        adapter = LLMAdapter.for_unet(unet, AdapterSettings(), encoding_dim=width).to(bench.device)
        adapter.install(unet)
        unconditional = UnconditionalEmbedding(torch.zeros(1, width).bfloat16(), None)
        self.objective = Objective(adapter, unet, DDPMScheduler(**SCHEDULE), unconditional, config)
        self.optimiser = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], fused=True)

    def __call__(self, batch: Batch) -> None:
        with plain_attention(self.device), uncompiled(self.quick):
            loss, *_ = self.objective(batch, sample_generators(0, 0, batch, self.device), 1 / len(batch.rows))
            loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


STEPS: dict[str, dict[str, bool]] = {
    "plain": {},
    "recomputed": {"gradient_checkpointing": True},
    "channels_last": {"channels_last": True},
    "compiled": {"torch_compile": True},
    "compiled channels_last": {"torch_compile": True, "channels_last": True},
}
"""Settings of training by the name of a way to take a step."""


def measure_gpu(bench: Bench) -> None:
    """Measure images a second and memory at 512², bf16, and how much of the GPU's peak that is."""
    if bench.device.type != "cuda" and not bench.quick:
        print("No GPU is at hand: images a second at 512² in bf16 are NOT measured.")
        bench.add("images a second on a GPU", "not measured: no GPU at hand", "", "images/s")
        return
    for size in bench.batches:
        for name in bench.steps:
            measure_rate(bench, size, name)


def measure_rate(bench: Bench, size: int, name: str) -> None:
    """Add the rows of one batch size and one way to take a step."""
    side, width = (8, 64) if bench.quick else (64, WIDTH)
    step = Step(bench, torch.bfloat16, **STEPS[name])
    batch = make_batch(size, side, width, 28)
    step(batch)
    peak = peak_bytes(lambda: step(batch), bench.device)
    rate = size / quantiles(interleaved({"step": lambda: step(batch)}, bench.device, bench.rounds)["step"])[1]
    how = "with checkpointing" if name == "recomputed" else "without checkpointing"
    more = f", {name}" if name not in ("plain", "recomputed") else ""
    setting = f"{bench.name}, {8 * side}², bf16, batch {size}, {how}{more}"
    bench.add("images a second", setting, rate, "images/s")
    bench.add("peak memory", setting, peak / GB, "GB")
    if not bench.quick and (limit := published_peak(torch.cuda.get_device_name())) is not None:
        tera = rate * measured("train.csv", "value", what="training step, forward and backward")
        bench.add(
            "speed of training", f"{setting}; the GPU's published {limit:g} TFLOP/s", tera, "TFLOP/s", tera / limit
        )
