"""`torch.compile` of an LLM's blocks, around the places where scores are read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from llmdiff.encoder.llm.decoder_llm import DecoderLLM


def compile_blocks(llm: DecoderLLM) -> None:
    """Compile the blocks, for any batch and length; of a known family's, those parts in which nothing is read.

    Hooks come and go with every batch, and code that had them in it would be made again each time. So a part's
    `forward` is compiled and its hooks stay outside: feed-forward parts and norms; attention and projections, whose
    kernels are few and large, run as they are. Blocks of an unknown family are read at their ends alone, and are
    compiled whole.
    """
    for layer in llm.layers:
        for part in [layer] if llm.family is None else unread_parts(layer, llm.family.read):
            part.forward = torch.compile(part.forward, dynamic=True)


def unread_parts(module: nn.Module, read: tuple[str, ...]) -> Iterator[nn.Module]:
    """Yield the largest parts of a module inside which no path of `read` lies; torch's own are one kernel each."""
    for name, part in module.named_children():
        below = tuple(path.removeprefix(f"{name}.") for path in read if path.startswith(f"{name}."))
        if below:
            yield from unread_parts(part, below)
        elif not (isinstance(part, nn.Linear) or type(part).__module__.startswith("torch.nn.")):
            yield part
