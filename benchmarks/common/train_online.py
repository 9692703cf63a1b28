"""A step in this process: from cached tensors, with latents and encodings computed in it, and on a GPU."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from transformers import AutoModelForCausalLM, PhiConfig

from common.measure import interleaved, peak_bytes, quantiles
from common.prompts import gpt2_tokenizer, read_prompts
from common.real_training import SCHEDULE, SHAPES, make_batch, make_unet
from common.train_bench import CAPTION, GB, WIDTH, Bench, ratio_of
from llmdiff.adapter import AdapterSettings, LLMAdapter
from llmdiff.adapter.padding import pad
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.training import TrainConfig
from llmdiff.training.objective import Objective, UnconditionalEmbedding, plain_attention, sample_generators
from storage.reading.dataset import Batch


def measure_online(bench: Bench) -> None:
    """The same step from cached tensors, and with the LLM's and the autoencoder's passes in it."""
    if not bench.data.is_dir():
        print(f"{bench.data}: no such folder; the online step is not measured (see --data)")
        return
    on_gpu = bench.device.type == "cuda"
    size, side = (8, 64) if on_gpu else (1, 8 if bench.quick else 32)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    encoder = make_encoder(bench, dtype)
    latent_encoder = LatentEncoder(make_vae(bench))
    captions = typical_captions(bench, size)
    images = np.random.default_rng(0).integers(0, 256, (size, 8 * side, 8 * side, 3), np.uint8)
    step = Step(bench, dtype, gradient_checkpointing=False)

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
    llm = f"Phi-1.5's shape with {bench.blocks} of 24 blocks, {CAPTION} tokens a caption"
    reduced = "" if on_gpu else ", CPU at reduced batch and size"
    setting = f"{bench.name}, batch {size}, {8 * side}² pixels, {dtype}, LLM of {llm}"
    bench.add("step from cached tensors", setting + reduced, quantiles(times["cached"])[1], "s")
    for name, goal in (("online", "> 1.4, Mosaic's"), ("latents online", "")):
        ratio, spread = ratio_of(times[name], times["cached"])
        what = "online over cached step" if name == "online" else "step with the autoencoder alone over cached step"
        bench.add(what, f"{setting}{reduced}; {spread}", quantiles(times[name])[1], "s", ratio, goal)


def typical_captions(bench: Bench, count: int) -> list[str]:
    """Real prompts of about the mean length."""
    prompts = read_prompts(bench.data)
    lengths = np.array([len(ids) + 1 for ids in gpt2_tokenizer(bench.data)(prompts)["input_ids"]])
    return [prompts[i] for i in np.argsort(abs(lengths - CAPTION), kind="stable")[:count]]


def make_encoder(bench: Bench, dtype: torch.dtype) -> Encoder:
    config = PhiConfig(num_hidden_layers=bench.blocks)
    if bench.quick:
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
        config.num_attention_heads = config.num_key_value_heads = 2
    torch.manual_seed(0)
    with bench.device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return Encoder(model, gpt2_tokenizer(bench.data), EncoderConfig(dtype=str(dtype).removeprefix("torch.")))


def make_vae(bench: Bench) -> AutoencoderKL:
    small = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4} if bench.quick else {}
    torch.manual_seed(0)
    return AutoencoderKL(**{**SHAPES["VAE"], **small}).to(bench.device).requires_grad_(False).eval()


class Step:
    """A training step in this process: the library's objective, AdamW; no DeepSpeed."""

    def __init__(self, bench: Bench, dtype: torch.dtype, gradient_checkpointing: bool) -> None:
        self.device = bench.device
        width = 64 if bench.quick else WIDTH
        unet = make_unet(bench.quick, dtype, bench.device)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        adapter = LLMAdapter.for_unet(unet, AdapterSettings(), encoding_dim=width).to(bench.device)
        adapter.install(unet)
        precision = "fp32" if dtype == torch.float32 else "bf16"
        config = TrainConfig(store="", fingerprint="", base="", output="", steps=1, precision=precision)
        unconditional = UnconditionalEmbedding(torch.zeros(1, width).bfloat16(), None)
        self.objective = Objective(adapter, unet, DDPMScheduler(**SCHEDULE), unconditional, config)
        self.optimiser = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], fused=True)

    def __call__(self, batch: Batch) -> None:
        with plain_attention(self.device):
            loss, *_ = self.objective(batch, sample_generators(0, 0, batch, self.device), 1 / len(batch.rows))
            loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


def measure_gpu(bench: Bench) -> None:
    """Images a second and memory at 512², bf16."""
    if bench.device.type != "cuda" and not bench.quick:
        print("No GPU is at hand: images a second at 512² in bf16 are NOT measured.")
        bench.add("images a second on a GPU", "not measured: no GPU at hand", "", "images/s")
        return
    side, width = (8, 64) if bench.quick else (64, WIDTH)
    for size in (8, 32):
        for recomputed in (False, True):
            step = Step(bench, torch.bfloat16, recomputed)
            batch = make_batch(size, side, width, 28)
            step(batch)
            peak = peak_bytes(lambda step=step, batch=batch: step(batch), bench.device)
            times = interleaved({"step": lambda step=step, batch=batch: step(batch)}, bench.device, bench.rounds)
            setting = (
                f"{bench.name}, {8 * side}², bf16, batch {size}, {'with' if recomputed else 'without'} checkpointing"
            )
            bench.add("images a second", setting, size / quantiles(times["step"])[1], "images/s")
            bench.add("peak memory", setting, peak / GB, "GB")
            del step
