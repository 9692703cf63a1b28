"""Pictures and shards for tests, in the formats that users have."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(width: int = 40, height: int = 30, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(file: Path, rows: list[tuple[bytes | None, str | None]], **options: Any) -> Path:
    """A shard as Hugging Face's `datasets` writes it."""
    images = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "text": pa.array([text for _, text in rows], pa.string())})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, **options)
    return file


def write_tar(file: Path, members: dict[str, bytes | str]) -> Path:
    """A WebDataset shard."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


def not_utf8(values: list[bytes]) -> pa.Array:
    """A column of strings as a careless writer leaves it: Arrow does not look at the bytes."""
    return pa.StringArray.from_buffers(len(values), *pa.array(values, pa.binary()).buffers()[1:])


def write_imagefolder(folder: Path, rows: list[tuple[bytes, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (data, text) in enumerate(rows):
        (folder / f"{i}.png").write_bytes(data)
        lines.append(json.dumps({"file_name": f"{i}.png", "text": text}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
