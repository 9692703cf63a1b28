"""``python -m llmdiff.shapes.pretrain [vae|base|llama|phi …]``: all four by default, about three hours on two cores."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from llmdiff.shapes import WEIGHTS
from llmdiff.shapes.pretrain.base import pretrain_base
from llmdiff.shapes.pretrain.llm import pretrain_llm
from llmdiff.shapes.pretrain.vae import pretrain_vae

STAGES = {
    "vae": lambda folder: partial(pretrain_vae, folder / "diffusion"),
    "base": lambda folder: partial(pretrain_base, folder / "diffusion"),
    "llama": lambda folder: partial(pretrain_llm, folder, "llama"),
    "phi": lambda folder: partial(pretrain_llm, folder, "phi"),
}


def main() -> None:
    """Train the named stages, each with its seed, and write weights and cards."""
    parser = argparse.ArgumentParser(prog="python -m llmdiff.shapes.pretrain", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=list(STAGES), help="what to make; all of it by default")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write the weights to")
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for stage in options.stages or STAGES:
        run = STAGES[stage](options.out)
        run(steps=options.steps) if options.steps else run()


if __name__ == "__main__":
    main()
