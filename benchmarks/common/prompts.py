"""Real prompts and real tokenizers, read from a folder beside the project (they are other people's)."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import GPT2Tokenizer, LlamaTokenizer
from transformers.tokenization_utils_base import generate_merges


def read_prompts(folder: Path) -> list[str]:
    """PartiPrompts, then DPG-Bench, in the order of their files."""
    with (folder / "prompts" / "PartiPrompts.tsv").open(newline="") as file:
        short = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    with (folder / "prompts" / "dpg_bench.jsonl").open() as file:
        return short + [json.loads(line)["text"] for line in file]


def gpt2_tokenizer(folder: Path) -> Any:
    """The GPT-2 byte-level BPE, which Phi-1.5's extends."""
    files = folder / "tokenizers"
    vocabulary = json.loads((files / "gpt2_vocab.json").read_text())
    lines = (files / "gpt2_merges.txt").read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>")


def llama2_tokenizer(folder: Path) -> Any:
    """The Llama-2 and Vicuna vocabulary, read from its SentencePiece file without the SentencePiece library."""
    data = (folder / "tokenizers" / "llama2.tokenizer.model").read_bytes()
    pieces = [dict(fields(piece))[1].decode() for number, piece in fields(data) if number == 1]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary), add_bos_token=True, pad_token="</s>")


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol-buffer message."""
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
    """(value, next position) of a variable-length integer."""
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
