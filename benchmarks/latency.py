"""What a user waits for: encoding prompts with an LLM and with CLIP, a sampling step with and without the adapter.

Random weights in the real shapes: Phi-1.5 whole, SD 1.5's text encoder and U-Net. Wall-clock time of batches of 1 and
8, in turns, so run it on a machine that does nothing else. A step is guided: the U-Net sees twice the batch.

    python benchmarks/latency.py
    python benchmarks/latency.py --quick --results /tmp/latency    # small models, to try the script
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.measure import RESULTS, append_row, device_name, peak_bytes, quantiles, versions
from common.models import SHAPES, make_unet
from common.prompts import scene_caption
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPTextConfig, CLIPTextModel, LlamaConfig, PhiConfig

from llmdiff.adapter import AdapterSettings, LLMAdapter
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.shapes import PHI

BATCHES = (1, 8)
CLIP_TOKENS = 77
LLMS = {"phi-1.5": PhiConfig, "vicuna-7b": LlamaConfig}
STEPS = 30  # steps of a picture, over which an encoding's time is spread


def main(argv: Sequence[str] | None = None) -> None:
    bench = Bench(parse(argv))
    with torch.inference_mode():
        clip = measure_clip(bench)
        llms = {name: measure_llm(bench, name) for name in bench.llms}
        steps = measure_steps(bench)
    for batch in BATCHES:
        for name, seconds in {"CLIP": clip, **llms}.items():
            share = seconds[batch] / (seconds[batch] + STEPS * steps[batch])
            bench.add(f"share of a picture of {STEPS} steps, encoded by {name}", batch, share, "of the time")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", nargs="+", choices=list(LLMS), default=["phi-1.5"])
    parser.add_argument("--blocks", type=int, help="transformer blocks of the LLM; default: all")
    parser.add_argument("--side", type=int, help="of the latents; default: 64 on a GPU, 32 on a CPU")
    parser.add_argument("--rounds", type=int, help="default: 10 on a GPU, 2 on a CPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of latency.csv")
    parser.add_argument("--quick", action="store_true", help="small models")
    return parser.parse_args(argv)


class Bench:
    """What is measured on what, and where the rows go."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.quick: bool = arguments.quick
        self.llms: list[str] = arguments.llm
        self.blocks: int | None = 2 if arguments.quick else arguments.blocks
        self.device = torch.device(arguments.device)
        on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if on_gpu else torch.float32
        self.side: int = arguments.side or (16 if self.quick else 64 if on_gpu else 32)
        self.rounds: int = arguments.rounds or (10 if on_gpu else 2)
        self.results: Path = arguments.results
        torch.set_num_threads(arguments.threads)
        rng = np.random.default_rng(0)
        self.captions = [scene_caption(rng) for _ in range(max(BATCHES))]

    def add(self, what: str, batch: int, value: float, unit: str, **more: Any) -> None:
        """Add a row; figures of small models are no benchmark and are named so."""
        row = {
            "device": device_name(self.device),
            "versions": versions(),
            "models": "small" if self.quick else "real shapes",
            "dtype": str(self.dtype).removeprefix("torch."),
            "what": what,
            "batch": batch,
            "value": value,
            "unit": unit,
        }
        append_row("latency", row | {"p20": "", "p80": "", "peak_mb": "", "setting": ""} | more, self.results)

    def measure(self, runs: dict[str, Callable[[int], object]], setting: str) -> dict[str, dict[int, float]]:
        """Add the rows of every run at every batch size, in turns; return their median seconds."""
        found: dict[str, dict[int, float]] = {name: {} for name in runs}
        for batch in BATCHES:
            times: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(self.rounds + 1):
                for name, run in runs.items():
                    taken = self.seconds(run, batch)
                    times[name] += [taken] * (number > 0)  # the first one warms up
            for name, run in runs.items():
                low, middle, high = quantiles(times[name])
                peak = peak_bytes(lambda run=run, batch=batch: run(batch), self.device) / 1e6
                self.add(name, batch, middle, "s", p20=low, p80=high, peak_mb=peak, setting=setting)
                found[name][batch] = middle
        return found

    def seconds(self, run: Callable[[int], object], batch: int) -> float:
        """Return wall-clock seconds of a run, a GPU's work done."""
        start = time.perf_counter()
        run(batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


def random_model(build: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device) -> Any:
    """Make a model with random weights."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = build()
    finally:
        torch.set_default_dtype(default)
    return model.requires_grad_(False).eval()


def measure_clip(bench: Bench) -> dict[int, float]:
    """Measure SD 1.5's text encoder on 77 tokens a prompt, as it always is."""
    small = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2} if bench.quick else {}
    config = CLIPTextConfig(**{**SHAPES["CLIP"], **small})
    model = random_model(lambda: CLIPTextModel(config), bench.dtype, bench.device)
    ids = torch.randint(config.vocab_size, (max(BATCHES), CLIP_TOKENS), device=bench.device)

    def encode(batch: int) -> Tensor:
        return model(ids[:batch]).last_hidden_state

    return bench.measure({"CLIP encodes": encode}, f"{CLIP_TOKENS} tokens, {parameters(model)}")["CLIP encodes"]


def measure_llm(bench: Bench, name: str) -> dict[int, float]:
    """Measure the score difference of a whole LLM; the embedded Phi's tokenizer gives tokens as good as any."""
    config = LLMS[name]()
    if bench.quick:
        config.update({"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4})
    config.num_hidden_layers = bench.blocks or config.num_hidden_layers
    model = random_model(lambda: AutoModelForCausalLM.from_config(config), bench.dtype, bench.device)
    dtype = str(bench.dtype).removeprefix("torch.")
    encoder = Encoder(model, AutoTokenizer.from_pretrained(PHI), EncoderConfig(dtype=dtype))
    lengths = [len(encoding) for encoding in encoder(bench.captions)]
    what = f"{name} encodes"
    setting = f"{np.mean(lengths):.0f} tokens on average, {config.num_hidden_layers} blocks, {parameters(model)}"
    return bench.measure({what: lambda batch: encoder(bench.captions[:batch])}, setting)[what]


def measure_steps(bench: Bench) -> dict[int, float]:
    """Measure a guided sampling step of the base, and with the adapter; return the base's median seconds."""
    unet = make_unet(bench.quick, bench.dtype, bench.device)
    width = 64 if bench.quick else LLMS["phi-1.5"]().hidden_size
    adapter = LLMAdapter.for_unet(unet, AdapterSettings(), encoding_dim=width).to(bench.device, bench.dtype)
    latents = torch.randn(2 * max(BATCHES), 4, bench.side, bench.side, device=bench.device, dtype=bench.dtype)
    text = torch.randn(2 * max(BATCHES), CLIP_TOKENS, 768, device=bench.device, dtype=bench.dtype)
    encodings = torch.randn(2 * max(BATCHES), 32, width, device=bench.device, dtype=bench.dtype)
    mask = torch.ones(encodings.shape[:2], dtype=torch.bool, device=bench.device)
    context = adapter.context(encodings, mask)  # once a picture, not once a step

    def base(batch: int) -> Tensor:
        return unet(latents[: 2 * batch], 500, encoder_hidden_states=text[: 2 * batch]).sample

    def adapted(batch: int) -> Tensor:
        adapter.install(unet)
        try:
            return unet(latents[: 2 * batch], 500, encoder_hidden_states=context[: 2 * batch]).sample
        finally:
            adapter.uninstall()

    setting = f"latents {bench.side}x{bench.side}, guided; {CLIP_TOKENS} CLIP tokens, 32 of the LLM; {parameters(unet)}"
    found = bench.measure({"base step": base, "adapter step": adapted}, setting)
    for batch in BATCHES:
        ratio = found["adapter step"][batch] / found["base step"][batch]
        bench.add("adapter step over base step", batch, ratio, "times", setting=setting)
    return found["base step"]


def parameters(model: nn.Module) -> str:
    """Return the number of parameters in words."""
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.0f} M parameters"


if __name__ == "__main__":
    main()
