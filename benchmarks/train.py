"""What training costs at Stable Diffusion 1.5's real shape: U-Net of 860 M random parameters, encodings 2048 wide.

    python benchmarks/train.py
    python benchmarks/train.py --only forward online --rounds 3
    python benchmarks/train.py --quick            # a small U-Net, to try the script; nothing is written down

On a CPU batch and latents are reduced, and the row says so. The load is the machine's when the row was written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.measure import append_row, device_name, interleaved, peak_bytes, quantiles
from common.prompts import gpt2_tokenizer, read_prompts
from common.real_training import SCHEDULE, SHAPES, Training, make_batch, make_store, make_unet, save_base
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig

from llmdiff.adapter import AdapterSettings, LLMAdapter
from llmdiff.adapter.padding import pad
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.training import TrainConfig
from llmdiff.training.objective import Objective, UnconditionalEmbedding, plain_attention, sample_generators
from storage.reading.dataset import Batch, DatasetConfig, EncodingDataset

WIDTH, TOKENS = 2048, 77  # Phi-1.5's hidden size; as long as CLIP's context
CAPTION = 40  # tokens: the mean of PartiPrompts and DPG-Bench
PACKAGES = ("torch", "diffusers", "deepspeed", "transformers")
GB = 1e9


class Bench:
    """The settings of a run, and where its rows go."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.quick: bool = arguments.quick
        self.rounds: int = arguments.rounds
        self.blocks: int = arguments.blocks
        self.data: Path = arguments.data
        self.work = work
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = "a small U-Net" if self.quick else "SD 1.5"

    def add(
        self, what: str, setting: str, value: float | str, unit: str, ratio: float | str = "", goal: str = ""
    ) -> None:
        """A row; the goal is for the ratio where there is one."""
        row = {
            "device": device_name(self.device),
            "versions": " ".join(f"{name}-{version(name)}" for name in PACKAGES if find_spec(name)),
            "load": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
            "what": what,
            "setting": setting,
            "value": value,
            "unit": unit,
            "ratio": ratio,
            "goal": goal,
        }
        if self.quick:
            print(", ".join(f"{key} {row[key]}" for key in list(row)[3:] if row[key] != ""), flush=True)
        else:
            append_row("train", row)

    def run(self, name: str, **settings: Any) -> TrainConfig:
        """The configuration of a real run; the base and the store are made when first asked for."""
        side = settings.pop("side", 16)
        base = self.work / "base"
        if not base.exists():
            save_base(base, self.quick)
        store = self.work / f"store-{side}"
        key = store.with_suffix(".txt")
        if not store.exists():
            key.write_text(make_store(store, 64, side, WIDTH, [12, 20, 77, 31]))
        paths = {"store": str(store), "base": str(base), "output": str(self.work / name)}
        defaults = {"batch_size": 1, "log_every": 1, "checkpoint_every": 10_000, "threads": 2, "warmup": 0}
        return TrainConfig(**{**paths, "fingerprint": key.read_text(), **defaults, **settings})


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="llmdiff-train-") as work:
        bench = Bench(arguments, Path(work))
        for name in arguments.only:
            MEASURES[name](bench)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of what is measured in this process, on a CPU")
    parser.add_argument("--blocks", type=int, default=24, help="of the LLM in the online step; fewer save memory")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with prompts and tokenizers")
    parser.add_argument("--work", type=Path, help="folder for 4 GB of temporary files")
    return parser.parse_args()


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
    adapters = {
        "llm": make_adapter(unet, dtype, bench.device),
        "clip": make_adapter(unet, dtype, bench.device, base_context="clip"),
    }
    contexts = {"llm": adapters["llm"].context(encodings, mask)}
    contexts["clip"] = adapters["clip"].context(encodings, mask, clip)
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


def ratio_of(ours: list[float], others: list[float]) -> tuple[float, str]:
    """The median of the rounds' ratios, and how they spread, in words."""
    p20, p50, p80 = quantiles([one / other for one, other in zip(ours, others, strict=True)])
    return p50, f"ratio {p20:.3f} to {p80:.3f} (p20, p80) in {len(ours)} rounds"


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


# A step of the real worker, a resumed one, and memory


def measure_steps(bench: Bench) -> None:
    """One step; killed; the next one in a new process, from the checkpoint."""
    config = bench.run("resumed", steps=2, checkpoint_every=1)
    setting = f"{bench.name}, worker process, fp32, ZeRO {config.zero_stage}, batch 1, latents 16x16, 2 threads"
    with Training(config) as run:
        run.wait_until((Path(config.output) / "checkpoints" / "step-00000001" / "state.json").exists)
        bench.add("training step", setting, run.step_seconds(run.rows()[0]), "s")
        bench.add("training step, peak memory with loading and saving", setting, run.peak() / GB, "GB", "", "<= 24 GB")
    with Training(config) as run:
        run.wait_until(lambda: len(run.rows()) == 2)
        peak = run.peak()
        run.wait_until(lambda: run.child.poll() is not None)
        assert [row["step"] for row in run.rows()] == [1, 2]
        bench.add("resumed step, after kill -9", setting, run.step_seconds(run.rows()[1]), "s")
        bench.add("resumed step, peak memory with loading", setting, peak / GB, "GB", "", "<= 24 GB")


def measure_memory(bench: Bench) -> None:
    """Peaks of two steps, after the first; loading is not in them."""
    plain = {}
    for stage in (0, 1, 2, 3):
        setting, peak, _ = steady_peak(bench, f"zero{stage}", zero_stage=stage)
        plain[stage] = peak
        note = "1 process: what ZeRO would share out among more is all here"
        bench.add(f"peak memory of a step, ZeRO {stage}", f"{setting}; {note}", peak / GB, "GB", peak / plain[0])
    for checkpointing in (False, True):
        settings = {"gradient_checkpointing": checkpointing, "side": 32, "batch_size": 2}
        setting, peak, seconds = steady_peak(bench, f"recomputed-{checkpointing}", **settings)
        name = f"{'with' if checkpointing else 'without'} gradient checkpointing"
        plain[name] = peak
        first = plain["without gradient checkpointing"]
        bench.add(f"peak memory of a step, {name}", f"{setting}; {seconds:.3g} s a step", peak / GB, "GB", peak / first)


def steady_peak(bench: Bench, name: str, **settings: Any) -> tuple[str, int, float]:
    """The run in words, its peak in bytes after the first step, and seconds a step."""
    config = bench.run(name, steps=4, **settings)
    with Training(config) as run:
        run.wait_until(lambda: bool(run.rows()))
        run.reset_peak()
        run.wait_until(lambda: len(run.rows()) >= 3)
        peak, seconds = run.peak(), run.step_seconds(run.rows()[2])
    side = settings.get("side", 16)
    setting = f"{bench.name}, worker process, fp32, ZeRO {config.zero_stage}, batch {config.batch_size}"
    return f"{setting}, latents {side}x{side}", peak, seconds


# Latents and encodings computed in the step


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
        null = UnconditionalEmbedding(torch.zeros(1, width).bfloat16(), None)
        self.objective = Objective(adapter, unet, DDPMScheduler(**SCHEDULE), null, config)
        self.optimiser = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], fused=True)

    def __call__(self, batch: Batch) -> None:
        with plain_attention(self.device):
            loss, *_ = self.objective(batch, sample_generators(0, 0, batch, self.device), 1 / len(batch.rows))
            loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


# Waiting for data


def measure_wait(bench: Bench) -> None:
    """In the real worker; and with a sleep in place of a GPU's step, for a CPU's hides any reader."""
    config = bench.run("wait", steps=8)
    with Training(config) as run:
        run.wait_until(lambda: len(run.rows()) >= 7)
        share = float(np.mean([row["data_wait_share"] for row in run.rows()[1:7]]))
    bench.add(
        "data-wait share", f"{bench.name}, worker process, steps 2 to 7, batch 1", share, "of the step", "", "< 0.02"
    )
    samples = 256 if bench.quick else 4096
    lengths = np.random.default_rng(1).integers(8, 48, 997).tolist()
    fingerprint = make_store(bench.work / "store-64", samples, 64, WIDTH, lengths)
    data = EncodingDataset(bench.work / "store-64", DatasetConfig(fingerprint=fingerprint, batch_size=32))
    made = f"{samples} samples in the page cache, width {WIDTH}, 28 tokens on average, latents 64x64, batch 32"
    start = time.perf_counter()
    for batch in data.epoch(0):
        del batch
    bench.add("reader alone", made, samples / (time.perf_counter() - start), "images/s")
    for rate in (100, 250, 500):
        with no_threads():
            share = simulated_wait(data, 32 / rate)
        setting = f"a sleep in place of a GPU that takes {rate} images/s; {made}"
        bench.add("data-wait share, simulated step", setting, share, "of the step", "", "< 0.02")


def simulated_wait(data: EncodingDataset, seconds: float) -> float:
    """Share of an epoch spent waiting for batches, the first left out."""
    batches: Iterator[Batch] = data.epoch(1)
    next(batches)
    start, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        if next(batches, None) is None:
            return waited / (time.perf_counter() - start)
        waited += time.perf_counter() - asked
        time.sleep(seconds)


@contextmanager
def no_threads() -> Iterator[None]:
    """One core for the reader, as a training process on a GPU has at the least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# One process and two


def measure_scaling(bench: Bench) -> None:
    """The same batch a process, a thread each: on two cores the second process brings its own core."""
    rates = {}
    for processes in (1, 2):
        config = bench.run(f"processes-{processes}", steps=5, threads=1)
        with Training(config, processes) as run:
            run.wait_until(lambda run=run: len(run.rows()) >= 4)
            rates[processes] = float(np.median([row["samples_per_second"] for row in run.rows()[1:4]]))
        setting = f"{bench.name}, fp32, ZeRO {config.zero_stage}, batch 1 a process, latents 16x16, 1 thread each"
        shared = "; 2 cores share memory bandwidth, and gloo reduces 182 MB of gradients through loopback"
        ratio, goal = (rates[2] / rates[1], "2 is ideal") if processes == 2 else ("", "")
        name = f"{processes} process{'es' * (processes > 1)}"
        bench.add(
            f"images a second, {name}", setting + shared * (processes > 1), rates[processes], "images/s", ratio, goal
        )


# A GPU


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


# Arithmetic, counted


def measure_flops(bench: Bench) -> None:
    """Floating-point operations of real shapes, counted on tensors without data: a fact, whatever the device."""
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
    """TFLOP of a run: two for each multiply and add."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


MEASURES: dict[str, Callable[[Bench], None]] = {
    "flops": measure_flops,
    "forward": measure_forward,
    "online": measure_online,
    "wait": measure_wait,
    "steps": measure_steps,
    "memory": measure_memory,
    "scaling": measure_scaling,
    "gpu": measure_gpu,
}

if __name__ == "__main__":
    main()
