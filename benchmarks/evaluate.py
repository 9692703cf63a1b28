"""What an evaluation costs beyond the passes of its U-Net, adapter and decoder, on the shapes benchmark.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --prompts 4 --rounds 1 --results /tmp/evaluate    # to try the script

Both draw as many pictures in the same batches, in turns; the bare passes get contexts and noise that are there already,
and score nothing. The adapter has its first weights: what it draws costs as much as a trained one's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common.measure import RESULTS, append_row, device_name, interleaved, load, quantiles, versions
from common.train_bench import ratio_of

from llmdiff.adapter import LLMAdapter
from llmdiff.encoder import Encoder
from llmdiff.evaluation import evaluate, held_out_prompts
from llmdiff.pipeline import load_adapter
from llmdiff.sampling import load_pipeline
from llmdiff.shapes import DIFFUSION, LLAMA
from pipelines.runtime.shapes_benchmark import ENCODER, SAMPLING, TRAINING

BATCH = 50  # prompts, as the demonstration evaluates them


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    prompts = held_out_prompts(arguments.prompts)
    with tempfile.TemporaryDirectory(prefix="llmdiff-evaluate-") as work, torch.no_grad():
        pipe = pipeline(Path(work))
        read = contexts(pipe, [prompt.text for prompt in prompts])
        runs = {
            "whole": lambda: evaluate(pipe, prompts, SAMPLING, batch_size=BATCH),
            "bare": lambda: draw_bare(pipe, read),
        }
        times = interleaved(runs, pipe.device, arguments.rounds)
    ratio, spread = ratio_of(times["whole"], times["bare"])
    setting = f"shapes benchmark, {len(prompts)} prompts in batches of {BATCH}, {SAMPLING.steps} steps; {spread}"
    row = {
        "device": device_name(pipe.device),
        "versions": versions(),
        "load": load(),
        "what": "evaluation over its bare passes of U-Net, adapter and decoder",
        "setting": setting,
        "value": quantiles(times["whole"])[1] / len(prompts),
        "unit": "s a picture" if pipe.device.type == "cuda" else "CPU s a picture",
        "ratio": ratio,
        "goal": "<= 1.15",
    }
    append_row("evaluate", row, arguments.results)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50, help="scenes, each in three wordings")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of evaluate.csv")
    return parser.parse_args(argv)


def pipeline(work: Path) -> Any:
    """Return the base with a new adapter of the demonstration's settings in it, ready to draw."""
    pipe = load_pipeline(DIFFUSION)
    encoder = Encoder.from_pretrained(str(LLAMA), ENCODER, device=str(pipe.device))
    facts = {"encoding_dim": encoder.llm.hidden_size, "encoder_description": encoder.describe()}
    LLMAdapter.for_unet(pipe.unet, TRAINING.adapter, **facts).save(work)
    load_adapter(pipe, work, encoder)
    return pipe


def contexts(pipe: Any, texts: list[str]) -> list[torch.Tensor]:
    """Return the context of each batch, ``(2 prompt, token, channel)``: of the unconditional half, then the prompts."""
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    found = [pipe.encode_prompt(batch, pipe.device, 1, do_classifier_free_guidance=True) for batch in batches]
    return [torch.cat([unconditional, conditional]) for conditional, unconditional, *_ in found]


def draw_bare(pipe: Any, read: list[torch.Tensor]) -> None:
    """Run guided steps, and decode as many pictures: no encoding, scheduler, conversion or evaluator."""
    side = pipe.unet.config.sample_size
    for context in read:
        latents = torch.randn(len(context) // 2, pipe.unet.config.in_channels, side, side, device=pipe.device)
        for _ in range(SAMPLING.steps):
            pipe.unet(torch.cat([latents] * 2), 500, context)
        pipe.vae.decode(latents)


if __name__ == "__main__":
    main()
