"""The isolated word path as a table: a token fed alone depends on its id alone, so its summed score is one row."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kernels.langevin import Rows
from llmdiff.encoder.batching import run_in_batches
from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.langevin import Langevin
from llmdiff.encoder.llm import DecoderLLM

logger = logging.getLogger(__name__)
TABLE_VERSION = 1


def load_or_make_table(
    llm: DecoderLLM, g: tuple[float, ...], config: EncoderConfig, identity: str, folder: str | Path | None
) -> Tensor:
    """``sum_t g(t) W_t`` of every token id, band by band: (vocabulary, band, hidden), float32 (float64 for float64).

    It lies on the CPU, mapped from its file: an encoder reads the rows that a batch needs and no others.

    Args:
        llm: the LLM.
        g: the step size of each block.
        config: the encoder's settings; bands, dtype and token budget matter here.
        identity: the LLM's content hash.
        folder: where tables are kept; None: ``$LLMDIFF_CACHE``, or ``llmdiff`` in the user's cache folder.
    """
    key = {"version": TABLE_VERSION, "llm": identity, "g": g, "bands": config.bands, "dtype": config.dtype}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = (default_folder() if folder is None else Path(folder)) / "word-tables" / f"{name}.safetensors"
    if not path.is_file():
        logger.info("computing the word scores of %d token ids once; kept in %s", llm.vocabulary, path)
        _write(make_table(llm, g, config), path)
    return load_file(path)["table"]


def default_folder() -> Path:
    """The user's cache folder of this project."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LLMDIFF_CACHE") or Path(home) / "llmdiff")


@torch.no_grad()
def make_table(llm: DecoderLLM, g: tuple[float, ...], config: EncoderConfig) -> Tensor:
    """Feeds every token id alone to the LLM and sums its blocks' updates: (vocabulary, band, hidden) on the CPU."""
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    table = torch.empty(llm.vocabulary, config.bands, llm.hidden_size, dtype=dtype)
    zeros = (0.0,) * llm.blocks

    def run(ids: list[int]) -> Tensor:
        count = len(ids)
        position = torch.ones(count, dtype=torch.int32, device=llm.device)  # position 0 would be taken for context-free
        rows = Rows(position=position, caption=torch.zeros(count, dtype=torch.int64, device=llm.device))
        langevin = Langevin(
            rows, g, zeros, bands=config.bands, hidden=llm.hidden_size, initial="zeros", seed=0, dtype=dtype
        )
        llm.stream(torch.tensor(ids, device=llm.device)[:, None], "sentence", langevin.fold)
        return langevin.c

    for ids, rows in run_in_batches([1] * llm.vocabulary, config.token_budget, run):
        table[torch.tensor(ids)] = rows.cpu()
    return table


def _write(table: Tensor, path: Path) -> None:
    """Writes the table beside its place and renames it: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(descriptor)
    try:
        save_file({"table": table}, temporary)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
