"""Real prompts with made-up encodings of one width, and stores of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.index_rows import SHARD_ROWS
from common.prompts import MADE, made_captions, read_prompts, tokenizer_of
from storage import EncodingStore, Sample, ShardWriter, caption_hash, content_hash

LLMS = {2048: "phi-1.5", 4096: "vicuna-7b"}
"""LLM whose tokenizer counts the tokens, by the width of the encodings."""
PARTI = 1632  # prompts of PartiPrompts, which `read_prompts` returns first
REPEATS = {
    "PartiPrompts": 4,
    "DPG-Bench": 2,
    MADE: 1,
}  # enough for an epoch that can be timed, of several groups of blocks
LATENT = (4, 32, 32)  # a picture of 256 x 256


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Captions of one collection with made-up encodings of one width."""

    name: str
    width: int
    texts: list[str]
    counts: np.ndarray
    """Number of tokens of each prompt, int64 ``(n,)``."""
    pool: np.ndarray
    """Bits that encodings are cut out of, uint16 ``(token, width)``."""
    latents: np.ndarray
    """Latents, float16 ``(64, *LATENT)``."""

    def __len__(self) -> int:
        return len(self.texts)

    def bits(self, i: int, tokens: int | None = None) -> np.ndarray:
        """Return a caption's encoding, or as many rows from where it begins."""
        tokens = int(self.counts[i]) if tokens is None else tokens
        start = i * 7919 % (len(self.pool) - tokens)
        return self.pool[start : start + tokens]

    def latent(self, i: int) -> np.ndarray:
        return self.latents[i % len(self.latents)]


def load_prompts(data: Path, width: int, quick: bool) -> Iterator[Prompts]:
    """Load both collections; repeated prompts get other texts, so that they are other captions, and other encodings.

    Where the folder of data is missing, one of made captions.
    """
    random = np.random.default_rng(0)
    values = random.standard_normal((4096, width), np.float32)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)  # the upper half is a bfloat16
    latents = random.standard_normal((64, *LATENT), np.float32).astype(np.float16)
    tokenizer = tokenizer_of(LLMS[width], data)
    collections = {MADE: made_captions(PARTI)}
    if data.is_dir():
        all_texts = read_prompts(data)
        collections = {"PartiPrompts": all_texts[:PARTI], "DPG-Bench": all_texts[PARTI:]}
    for name, texts in collections.items():
        texts = texts[:: 4 if quick else 1]
        counts = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
        texts = [f"{text} ({turn})" if turn else text for turn in range(REPEATS[name]) for text in texts]
        counts = np.tile(counts, REPEATS[name])
        yield Prompts(name=name, width=width, texts=texts, counts=counts, pool=pool, latents=latents)


def make_store(folder: Path, prompts: Prompts, rows: Iterable[int], pictures: bool) -> tuple[EncodingStore, str]:
    store = EncodingStore.create(folder)
    fingerprint = store.register_fingerprint({"kind": "benchmark", "bands": 1, "width": prompts.width})
    rows = list(rows)
    for first in range(0, len(rows), SHARD_ROWS):
        write_shard(store, samples_of(prompts, rows[first : first + SHARD_ROWS], fingerprint, pictures), prompts)
    return store, fingerprint


def write_shard(store: EncodingStore, samples: Iterable[Sample], prompts: Prompts) -> None:
    """Write a shard of samples of one fingerprint, as the encoder writes it."""
    with ShardWriter(store) as writer:
        for sample in samples:
            writer.add_encoding(sample.caption_hash, prompts.bits(sample.row), sample.fingerprint)
            if sample.latent_key:
                writer.add_latent(sample.latent_key, prompts.latent(sample.row))
            writer.add_sample(sample)


def samples_of(prompts: Prompts, rows: Sequence[int], fingerprint: str, pictures: bool) -> list[Sample]:
    source = f"{prompts.name}-{rows[0]:08}.parquet"
    source_hash = content_hash(source.encode())
    found = []
    for i in rows:
        picture = content_hash(f"picture {i}".encode()) if pictures else None
        sample = Sample(
            caption=prompts.texts[i],
            caption_hash=caption_hash(prompts.texts[i]),
            fingerprint=fingerprint,
            source=source,
            source_hash=source_hash,
            row=i,
            image_hash=picture,
            latent_key=picture,
        )
        found.append(sample)
    return found
