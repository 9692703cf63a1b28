"""The isolated word path as a table: a token fed alone depends on its id alone, so its summed score is one row."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kernels.langevin import TokenRows
from llmdiff.encoder.batching import BatchBudget, run_in_batches
from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.llm.decoder_llm import DecoderLLM
from llmdiff.encoder.sums.langevin import Langevin
from llmdiff.model_files.safetensors_files import check_safetensors

logger = logging.getLogger(__name__)
TABLE_VERSION = 1
DTYPES = {"F32": torch.float32, "F64": torch.float64}


def load_or_make_table(
    llm: DecoderLLM, g: tuple[float, ...], config: EncoderConfig, identity: str, folder: str | Path | None
) -> WordTable:
    """Return ``sum_t g(t) W_t`` of every token id, band by band; computed once, then kept on disk.

    Its key is what decides its numbers, a part of the encoder's fingerprint: other settings share it.

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
    if not _whole(path):
        logger.info("computing the word scores of %d token ids once; kept in %s", llm.vocabulary, path)
        _write(make_table(llm, g, config), path)
    return WordTable(path)


class WordTable:
    """A file's tensor (vocabulary, band, hidden), float32 (float64 for float64), whose rows are read as needed.

    Mapped into memory, a few hundred scattered rows would bring in the whole of it, half a gigabyte for a Llama.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            about = json.loads(data.read(length))["table"]
        self.shape, self.dtype = tuple(about["shape"]), DTYPES[about["dtype"]]
        self.start = 8 + length + about["data_offsets"][0]

    def rows(self, ids: list[int]) -> Tensor:
        """Return the rows of some token ids, (id, band, hidden) on the CPU."""
        length = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open("rb", buffering=0) as data:
            read = b"".join(os.pread(data.fileno(), length, self.start + i * length) for i in ids)
        return torch.frombuffer(bytearray(read), dtype=self.dtype).reshape(len(ids), *self.shape[1:])


def default_folder() -> Path:
    """Return the user's cache folder of this project."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LLMDIFF_CACHE") or Path(home) / "llmdiff")


def make_table(llm: DecoderLLM, g: tuple[float, ...], config: EncoderConfig) -> Tensor:
    """Return ``sum_t g(t) W_t`` of every token id: (vocabulary, band, hidden) on the CPU."""
    return word_sums(llm, g, config, range(llm.vocabulary))


@torch.no_grad()
def word_sums(llm: DecoderLLM, g: tuple[float, ...], config: EncoderConfig, tokens: Sequence[int]) -> Tensor:
    """Feed each of some token ids alone to the LLM and sum its blocks' updates: (id, band, hidden) on the CPU."""
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    table = torch.empty(len(tokens), config.bands, llm.hidden_size, dtype=dtype)
    zeros = (0.0,) * llm.blocks

    def run(places: list[int]) -> Tensor:
        count, ids = len(places), [tokens[i] for i in places]
        position = torch.ones(count, dtype=torch.int32, device=llm.device)  # position 0 would be taken for context-free
        rows = TokenRows(position=position, caption=torch.zeros(count, dtype=torch.int64, device=llm.device))
        langevin = Langevin(
            rows, g, zeros, bands=config.bands, hidden=llm.hidden_size, initial="zeros", seed=0, dtype=dtype
        )
        llm.stream(torch.tensor(ids, device=llm.device)[:, None], "sentence", langevin.fold)
        return langevin.c

    for places, rows in run_in_batches([1] * len(tokens), BatchBudget(config.token_budget), run):
        table[torch.tensor(places)] = rows.cpu()
    return table


def _whole(path: Path) -> bool:
    """Return whether there is a whole table; one that was cut short (a disk that lost power) is made again."""
    if not path.is_file():
        return False
    try:
        check_safetensors(path)
    except ValueError as error:
        logger.warning("%s; made again", error)
        return False
    return True


def _write(table: Tensor, path: Path) -> None:
    """Write the table beside its place and rename it: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(descriptor)
    try:
        save_file({"table": table}, temporary)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
