"""What training costs at Stable Diffusion 1.5's real shape: U-Net of 860 M random parameters, encodings 2048 wide.

    python benchmarks/train.py
    python benchmarks/train.py --only forward online --rounds 3
    python benchmarks/train.py --quick            # a small U-Net, to try the script; nothing is written down

On a CPU batch and latents are reduced, and the row says so. The load is the machine's when the row was written.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from common.measure import interleaved, quantiles
from common.models import SHAPES, make_unet
from common.train_bench import TOKENS, WIDTH, Bench, ratio_of
from common.train_online import STEPS, measure_gpu, measure_online
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig

from llmdiff.adapter import AdapterSettings, LLMAdapter


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="llmdiff-train-") as work:
        bench = Bench(arguments, Path(work))
        for name in arguments.only:
            MEASURES[name](bench)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of what is measured in this process, on a CPU")
    parser.add_argument("--blocks", type=int, default=24, help="of the LLM in the online step; fewer save memory")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with prompts and tokenizers")
    contexts = ["llm", "clip"]
    parser.add_argument("--base-context", nargs="+", choices=contexts, default=contexts, help="of the forward pass")
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 32], help="of a GPU's step")
    parser.add_argument("--step", nargs="+", choices=list(STEPS), default=list(STEPS), help="ways to take it")
    parser.add_argument("--results", type=Path, help="folder of train.csv")
    parser.add_argument("--work", type=Path, help="folder for 4 GB of temporary files")
    return parser.parse_args(argv)


# The U-Net's forward pass with the adapter and without


@torch.no_grad()
def measure_forward(bench: Bench) -> None:
    on_gpu = bench.device.type == "cuda"
    batch, side = (8, 64) if on_gpu else (1, 16 if bench.quick else 64)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    unet = make_unet(bench.quick, dtype, bench.device)
    latents = torch.randn(batch, 4, side, side, device=bench.device, dtype=dtype)
    clip = torch.randn(batch, TOKENS, 768, device=bench.device, dtype=dtype)
    encodings = torch.randn(batch, TOKENS, WIDTH, device=bench.device)
    mask = torch.ones(batch, TOKENS, dtype=torch.bool, device=bench.device)
    adapters = {name: make_adapter(unet, dtype, bench.device, base_context=name) for name in bench.base_contexts}
    contexts = {
        name: adapter.context(encodings, mask, *[clip] * (name == "clip")) for name, adapter in adapters.items()
    }
    runs = {"off": lambda: unet(latents, 500, clip)}
    for name, adapter in adapters.items():
        runs[name] = lambda adapter=adapter, name=name: with_adapter(unet, adapter, latents, contexts[name])
    times = interleaved(runs, bench.device, bench.rounds)
    reduced = "" if on_gpu else ", CPU at batch 1"
    setting = f"{bench.name}, batch {batch}, latents {side}x{side}, {dtype}, {TOKENS} tokens{reduced}"
    bench.add("U-Net forward, adapter off", setting, quantiles(times["off"])[1], "s")
    for name in adapters:
        ratio, spread = ratio_of(times[name], times["off"])
        on = f"{setting}, base_context {name}, phi not counted (once a picture); {spread}"
        bench.add("U-Net forward, adapter on over off", on, quantiles(times[name])[1], "s", ratio, "<= 1.10")


def make_adapter(
    unet: UNet2DConditionModel, dtype: torch.dtype, device: torch.device, base_context: Any = "llm"
) -> LLMAdapter:
    settings = AdapterSettings(base_context=base_context)
    base_tokens = TOKENS if base_context == "clip" else 0
    return LLMAdapter.for_unet(unet, settings, encoding_dim=WIDTH, base_tokens=base_tokens).to(device, dtype)


def with_adapter(unet: UNet2DConditionModel, adapter: LLMAdapter, latents: Tensor, context: Tensor) -> None:
    adapter.install(unet)
    unet(latents, 500, context)
    adapter.uninstall()


# Arithmetic, counted


def measure_flops(bench: Bench) -> None:
    """Count the floating-point operations of real shapes on tensors without data: a fact, whatever the device."""
    meta = torch.device("meta")
    with meta:
        unet = UNet2DConditionModel(**SHAPES["UNET"]).requires_grad_(False)
        vae = AutoencoderKL(**SHAPES["VAE"])
        adapter = LLMAdapter.for_unet(unet, AdapterSettings(copy_original=False), encoding_dim=WIDTH)
        latents, encodings = torch.randn(1, 4, 64, 64), torch.randn(1, 28, WIDTH)
        mask, timesteps = torch.ones(1, 28, dtype=torch.bool), torch.ones(1, dtype=torch.long)
        image, clip = torch.randn(1, 3, 512, 512), torch.randn(1, TOKENS, 768)
    setting = "SD 1.5, 512², 28 tokens"
    bench.add("U-Net forward, adapter off", setting, tera(lambda: unet(latents, timesteps, clip)), "TFLOP an image")
    adapter.install(unet)

    def train() -> None:
        unet(latents, timesteps, adapter.context(encodings, mask)).sample.sum().backward()

    bench.add("training step, forward and backward", setting, tera(train), "TFLOP an image")
    bench.add("autoencoder's encoder", "SD 1.5, 512²", tera(lambda: vae.encode(image)), "TFLOP an image")
    for name, config in (("Phi-1.5", PhiConfig()), ("Vicuna-7B", LlamaConfig())):
        with meta:
            llm, ids = AutoModelForCausalLM.from_config(config).model, torch.ones(1, 28, dtype=torch.long)
            causal = torch.zeros(1, 1, 28, 28)  # a mask made for it would be looked at
        count = tera(lambda llm=llm, ids=ids, mask=causal: llm(ids, attention_mask=mask, use_cache=False)) / 28
        bench.add("LLM, one plain forward pass", f"{name}, all blocks", count, "TFLOP a token")


def tera(run: Callable[[], object]) -> float:
    """Return the TFLOP of a run: two for each multiply and add."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


def of_runs(name: str, module: str = "train_runs") -> Callable[[Bench], None]:
    """Return a measurement of real runs, whose store needs packages that the others do without."""
    return lambda bench: getattr(import_module(f"common.{module}"), name)(bench)


MEASURES: dict[str, Callable[[Bench], None]] = {
    "flops": measure_flops,
    "forward": measure_forward,
    "online": measure_online,
    "wait": of_runs("measure_wait"),
    "steps": of_runs("measure_steps"),
    "memory": of_runs("measure_memory"),
    "scaling": of_runs("measure_scaling"),
    "overhead": of_runs("measure_overhead", "train_overhead"),
    "layout": of_runs("measure_layout", "train_overhead"),
    "gpu": measure_gpu,
}

if __name__ == "__main__":
    main()
