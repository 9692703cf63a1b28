"""Real prompts and real tokenizers, read from a folder beside the project (they are other people's); others without."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, GPT2Tokenizer, LlamaTokenizer
from transformers.tokenization_utils_base import generate_merges

from llmdiff.shapes import LLAMA, PHI
from llmdiff.shapes.captions import caption
from llmdiff.shapes.scene import sample_scene

MADE = "captions made of drawn scenes"
REAL = "PartiPrompts, DPG-Bench"


def read_prompts(folder: Path) -> list[str]:
    """Return the prompts of PartiPrompts, then of DPG-Bench, in the order of their files."""
    with (folder / "prompts" / "PartiPrompts.tsv").open(newline="") as file:
        short = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    with (folder / "prompts" / "dpg_bench.jsonl").open() as file:
        return short + [json.loads(line)["text"] for line in file]


def prompts_of(folder: Path, count: int) -> tuple[list[str], str]:
    """Return so many prompts, and which they are: spread over the real ones, or made ones without the folder."""
    if not folder.is_dir():
        return made_captions(count), MADE
    prompts = read_prompts(folder)
    return prompts[:: max(1, len(prompts) // count)][:count], REAL


def made_captions(count: int) -> list[str]:
    """Make captions as long as real prompts: three in five of 12 words on average (PartiPrompts), the others of 84."""
    rng = np.random.default_rng(0)
    ranges = [(6, 19) if rng.random() < 0.6 else (50, 119) for _ in range(count)]
    return [words(int(rng.integers(*bounds)), rng) for bounds in ranges]


def words(count: int, rng: np.random.Generator) -> str:
    """Return so many words about drawn scenes."""
    found: list[str] = []
    while len(found) < count:
        found += scene_caption(rng).split()
    return " ".join(found[:count])


def scene_caption(rng: np.random.Generator) -> str:
    """Return the caption of a drawn scene of two things."""
    return caption(sample_scene(rng, 2), "natural", rng)


def tokenizer_of(llm: str, folder: Path) -> Any:
    """Return the real tokenizer of an LLM, or that of the embedded LLM of its family without the folder."""
    if not folder.is_dir():
        return AutoTokenizer.from_pretrained(PHI if llm == "phi-1.5" else LLAMA)
    return (gpt2_tokenizer if llm == "phi-1.5" else llama2_tokenizer)(folder)


def gpt2_tokenizer(folder: Path) -> Any:
    """Return the GPT-2 byte-level BPE, which Phi-1.5's extends."""
    files = folder / "tokenizers"
    vocabulary = json.loads((files / "gpt2_vocab.json").read_text())
    lines = (files / "gpt2_merges.txt").read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>")


def llama2_tokenizer(folder: Path) -> Any:
    """Return the Llama-2 and Vicuna tokenizer, read from its file without the SentencePiece library."""
    data = (folder / "tokenizers" / "llama2.tokenizer.model").read_bytes()
    pieces = [dict(fields(piece))[1].decode() for number, piece in fields(data) if number == 1]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary), add_bos_token=True, pad_token="</s>")


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a protocol-buffer message."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(message, at)
        elif kind == 2:
            length, at = varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            width, code = (8, "<d") if kind == 1 else (4, "<f")
            value, at = struct.unpack(code, message[at : at + width])[0], at + width
        yield tag >> 3, value


def varint(message: bytes, at: int) -> tuple[int, int]:
    """Return (value, next position) of a variable-length integer."""
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
