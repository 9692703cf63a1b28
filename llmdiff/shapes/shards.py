"""Image-caption shards of the synthetic shapes benchmark, in the formats that users have: Parquet and imagefolder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from llmdiff.shapes.captions import caption
from llmdiff.shapes.render import render_scene
from llmdiff.shapes.scene import Scene, sample_scene

COUNTS = {1: 0.15, 2: 0.70, 3: 0.15}  # share of scenes with one, two and three things


def random_scene(rng: np.random.Generator) -> Scene:
    """Return a training scene: never a held-out pair."""
    return sample_scene(rng, int(rng.choice(list(COUNTS), p=list(COUNTS.values()))))


def write_shards(
    folder: Path,
    count: int,
    seed: int = 0,
    wording: str = "natural",
    layout: Literal["parquet", "imagefolder"] = "parquet",
    rows_per_shard: int = 2000,
) -> list[Path]:
    """Draw `count` training scenes with captions in the named wording and write them as shards.

    Args:
        folder: made if it is missing; Parquet shards go into it, imagefolders below it.
        count: pictures in all.
        seed: fixes scenes and captions; shard `i` depends on `(seed, i)` alone.
        wording: "template", "natural" or "unseen_wording".
        layout: "parquet" (image struct of bytes and path, text column) or "imagefolder" (PNG files, metadata.jsonl).
        rows_per_shard: pictures a shard.

    Returns:
        The Parquet files, or the imagefolders, in order.
    """
    starts = range(0, count, rows_per_shard)
    shards = []
    for index, start in enumerate(starts):
        rng = np.random.default_rng([seed, index])
        scenes = [random_scene(rng) for _ in range(min(rows_per_shard, count - start))]
        rows = [(_png(render_scene(scene)), caption(scene, wording, rng)) for scene in scenes]
        shards.append(_WRITERS[layout](folder, f"shapes-{index:05d}-of-{len(starts):05d}", rows))
    return shards


def _write_parquet(folder: Path, name: str, rows: list[tuple[bytes, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png, "path": f"{i:06d}.png"} for i, (png, _) in enumerate(rows)]
    table = pa.table({"image": images, "text": [text for _, text in rows]})
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=500)
    return folder / f"{name}.parquet"


def _write_imagefolder(folder: Path, name: str, rows: list[tuple[bytes, str]]) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (png, text) in enumerate(rows):
        (folder / name / f"{i:06d}.png").write_bytes(png)
        lines.append(json.dumps({"file_name": f"{i:06d}.png", "text": text}) + "\n")
    (folder / name / "metadata.jsonl").write_text("".join(lines))
    return folder / name


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[Path, str, list[tuple[bytes, str]]], Path]] = {
    "parquet": _write_parquet,
    "imagefolder": _write_imagefolder,
}
