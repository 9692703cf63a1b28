"""How others lay encodings of captions out on the disk, written as they write them.

All of them hold float32 widened from bfloat16, padded; the padding is what a T5 makes of padding tokens, not zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MOSAIC_SHARD_BYTES = 256 << 20
"""Size of a shard as MosaicML's script for T5 encodings sets it."""


def widen(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_kohya(folder: Path, padded: Iterable[np.ndarray], counts: Sequence[int]) -> None:
    """Write an .npz a picture, 512 tokens: kohya-ss/sd-scripts, `FluxTextEncoderOutputsCachingStrategy`.

    Its CLIP vector is left out.
    """
    for i, (bits, count) in enumerate(zip(padded, counts, strict=True)):
        np.savez(
            folder / f"{i:06}_flux_te.npz",
            t5_out=widen(bits),
            txt_ids=np.zeros((len(bits), 3), np.float32),
            t5_attn_mask=(np.arange(len(bits)) < count).astype(np.int64),
            apply_t5_attn_mask=np.array(False),
        )


def write_pixart(folder: Path, padded: Iterable[np.ndarray], counts: Sequence[int]) -> None:
    """Write a compressed .npz a prompt, 120 tokens, with its mask: PixArt-alpha, `tools/extract_features.py`."""
    for i, (bits, count) in enumerate(zip(padded, counts, strict=True)):
        mask = (np.arange(len(bits)) < count).astype(np.int64)
        np.savez_compressed(
            folder / f"prompts_{i:06}.npz", caption_feature=widen(bits)[None], attention_mask=mask[None]
        )


def write_mosaic(folder: Path, padded: Iterable[np.ndarray], captions: Sequence[str]) -> None:
    """Write MDS shards of captions and float32 bytes, 512 tokens: mosaicml/diffusion, `precompute_t5xxl.py`.

    A shard is the number of samples, where each begins and the last ends (uint32), the columns as JSON, the samples; a
    sample is the sizes of its columns (uint32) and their bytes. Its columns of web metadata are left out.
    """
    names = {"caption": "str", "caption_t5xxl_latents": "bytes"}
    config: dict[str, Any] = {
        "column_encodings": list(names.values()),
        "column_names": list(names),
        "column_sizes": [None] * len(names),
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": MOSAIC_SHARD_BYTES,
        "version": 2,
    }
    shards: list[dict[str, Any]] = []
    samples: list[bytes] = []

    def flush() -> None:
        head = json.dumps(config, sort_keys=True).encode()
        offsets = np.cumsum([0, *map(len, samples)]) + 4 + 4 * (len(samples) + 1) + len(head)
        data = b"".join([np.uint32(len(samples)).tobytes(), offsets.astype(np.uint32).tobytes(), head, *samples])
        raw = {"basename": f"shard.{len(shards):05}.mds", "bytes": len(data), "hashes": {}}
        (folder / raw["basename"]).write_bytes(data)
        shards.append({**config, "raw_data": raw, "samples": len(samples), "zip_data": None})
        samples.clear()

    for bits, caption in zip(padded, captions, strict=True):
        columns = [caption.encode(), widen(bits).tobytes()]
        sample = b"".join([np.array([len(column) for column in columns], np.uint32).tobytes(), *columns])
        if samples and sum(map(len, samples)) + len(sample) > MOSAIC_SHARD_BYTES:
            flush()
        samples.append(sample)
    flush()
    (folder / "index.json").write_text(json.dumps({"shards": shards, "version": 2}, sort_keys=True))
