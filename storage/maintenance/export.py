"""Writes a store's samples as files that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.io.arrays import bands_of, check_row, open_array, read_rows, split_bands
from storage.io.names import shard_folder
from storage.maintenance.ordered import ordered_samples
from storage.store import EncodingStore

SAMPLES_A_FILE = 1000


def export(
    store: EncodingStore,
    folder: str | Path,
    fingerprint: str,
    format: str = "safetensors",
    samples_a_file: int = SAMPLES_A_FILE,
) -> list[Path]:
    """Write an encoder's samples, ordered by source and row, in files of some samples each.

    Args:
        store: at the version to export.
        folder: new or empty.
        fingerprint: the encoder.
        format: ``safetensors``: per sample ``<n>.encoding`` bfloat16 ``([band,] token, hidden)`` and ``<n>.latent``
            float16 ``([2,] channel, height, width)``, the captions in the metadata. ``parquet``: a row a sample, the
            tensors as flat float32 lists beside their shapes.
        samples_a_file: samples of each file but the last.

    Returns:
        The files written.

    Raises:
        ValueError: the format is unknown, the folder is not empty, there is no sample, or a row is damaged.
    """
    if format not in FORMATS:
        raise ValueError(f"export: expected one of {', '.join(FORMATS)}, found {format!r}")
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root}: expected a new or empty folder to export to")
    description = store.fingerprints().get(fingerprint, {})
    paths: list[Path] = []
    for samples in in_files(ordered_samples(store, fingerprint), samples_a_file):
        root.mkdir(parents=True, exist_ok=True)
        path = root / f"samples-{len(paths):05d}.{format}"
        FORMATS[format](path, list(_read(store, samples)), description)
        paths.append(path)
    if not paths:
        raise ValueError(f"{store.path}: no samples of fingerprint {fingerprint} to export")
    return paths


def in_files(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of so many each, but for the last: those of a file."""
    left: pa.Table | None = None
    for table in tables:
        left = table if left is None else pa.concat_tables([left, table])
        while len(left) >= rows:
            yield left.slice(0, rows)
            left = left.slice(rows)
    if left is not None and len(left):
        yield left


def _read(store: EncodingStore, samples: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield samples with their tensors: ``encoding`` bits, and ``latent`` or None."""
    arrays: dict[tuple[str, str], Any] = {}

    def read(shard: str, name: str, first: int, count: int, expected: int) -> np.ndarray:
        if (shard, name) not in arrays:
            arrays[shard, name] = open_array(shard_folder(store.path, shard), name)
        rows = read_rows(arrays[shard, name], first, first + count)
        check_row(rows, expected, f"{shard}/{name}: row {first}")
        return split_bands(rows, bands_of(arrays[shard, name])) if name.startswith("encodings/") else rows[0]

    for row in samples.to_pylist():
        sample = {key: row[key] for key in ("caption", "caption_hash", "image_hash", "source", "row", "crop")}
        array = f"encodings/{row['fingerprint']}"
        place = row["first_token"], row["token_count"], row["encoding_checksum"]
        sample["encoding"], sample["latent"] = read(row["encoding_shard"], array, *place), None
        if row["latent_shard"] is not None:
            array = f"latents/{row['latent_shape']}"
            sample["latent"] = read(row["latent_shard"], array, row["latent_index"], 1, row["latent_checksum"])
        yield sample


def _write_safetensors(path: Path, samples: list[dict[str, Any]], description: dict[str, Any]) -> None:
    """Write the file format by hand, header and tensors: the library takes NumPy arrays, which have no bfloat16."""
    tensors = {}
    for number, sample in enumerate(samples):
        for name, dtype in (("encoding", "BF16"), ("latent", "F16")):
            if (value := sample.pop(name)) is not None:
                tensors[f"{number}.{name}"] = dtype, value
    header: dict[str, Any] = {"__metadata__": {"encoder": json.dumps(description), "samples": json.dumps(samples)}}
    offset = 0
    for name, (dtype, value) in tensors.items():
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [offset, offset := offset + value.nbytes]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, value in tensors.values():
            file.write(value.tobytes())


def _write_parquet(path: Path, samples: list[dict[str, Any]], description: dict[str, Any]) -> None:
    for sample in samples:
        encoding, latent = sample.pop("encoding"), sample.pop("latent")
        sample["encoding"] = (encoding.astype(np.uint32) << 16).view(np.float32).ravel()  # bfloat16 is its upper half
        sample["encoding_shape"] = list(encoding.shape)
        sample["latent"] = None if latent is None else latent.astype(np.float32).ravel()
        sample["latent_shape"] = None if latent is None else list(latent.shape)
    columns = {name: [sample[name] for sample in samples] for name in PARQUET.names}
    table = pa.table(columns, PARQUET.with_metadata({"encoder": json.dumps(description)}))
    pq.write_table(table, path, compression="zstd")


PARQUET = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("caption", "caption_hash", "image_hash", "source")),
        pa.field("row", pa.int64()),
        pa.field("crop", pa.list_(pa.int32())),
        *(
            pa.field(name, type)
            for part in ("encoding", "latent")
            for name, type in ((part, pa.list_(pa.float32())), (f"{part}_shape", pa.list_(pa.int32())))
        ),
    ]
)

FORMATS: dict[str, Callable[[Path, list[dict[str, Any]], dict[str, Any]], None]] = {
    "safetensors": _write_safetensors,
    "parquet": _write_parquet,
}
