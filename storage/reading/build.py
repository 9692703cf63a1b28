"""Makes the index that training reads: a version's samples under one fingerprint as fixed-width records, sorted.

The table is read twice, a few rows at a time: to count the samples of each source, and to write each sample's record
near its place. Then the records are sorted, joined with other encoders' encodings, and grouped by picture and shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from storage.index.names import Names
from storage.index.row_stream import stream_rows
from storage.io.cached_arrays import new_array
from storage.reading.joins import join
from storage.reading.pictures import Pictures, group_by_picture
from storage.reading.records import NO_CROP, RecordMaker, Wanted
from storage.reading.sorting import COLUMNS as SORTED_BY
from storage.reading.sorting import GROUP_ROWS, Layout, Sorter, SourceCount, in_parts
from storage.reading.trainable import trainable_rows
from storage.store import EncodingStore


def build(store: EncodingStore, wanted: Wanted, folder: Path) -> dict[str, Any]:
    """Write the index's arrays into a folder; return its facts, plain JSON values.

    Raises:
        ValueError: no samples under the fingerprint; no base or pooled encoding of a caption; no crop of a picture.
        OSError: no room in the folder.
    """
    layout, shapes = _count(store, wanted.fingerprint)
    records = new_array(folder, "records", len(layout), wanted.dtype)
    maker, sorter = RecordMaker(wanted, layout, shapes), Sorter(layout, records)
    for batch in trainable_rows(store, wanted.fingerprint, maker.columns):
        sorter.add(maker.records(batch))
    sorter.sort()
    if wanted.pooled is not None:
        _check_crops(store, records, layout.sources)
    joined = {kind: join(store, key, kind, records, folder) for kind, key in wanted.others.items()}
    pictures = group_by_picture(records["picture"], folder) if wanted.by_picture else None
    return {
        "sources": layout.sources,
        "unit_ends": (layout.ends if pictures is None else _picture_ends(pictures, layout.ends)).tolist(),
        "shapes": shapes,
        "shape_ends": _write_shapes(records, pictures, len(shapes), folder),
        "any_may_flip": maker.any_may_flip,
        "shards": {"encodings": maker.encoding_shards.values, "latents": maker.latent_shards.values, **joined},
    }


def _count(store: EncodingStore, fingerprint: str) -> tuple[Layout, list[str]]:
    """Return where the samples will lie, and the shapes of their latents, sorted."""
    sources, shapes = SourceCount(), Names()
    for batch in trainable_rows(store, fingerprint, [*SORTED_BY, "latent_shape"]):
        sources.add(batch)
        shapes.numbers(batch["latent_shape"])
    layout = sources.layout()
    if not len(layout):
        raise ValueError(_no_samples(store, fingerprint))
    return layout, sorted(shapes.values)


def _no_samples(store: EncodingStore, fingerprint: str) -> str:
    """Return the error message for a version without samples to train on."""
    used = Names()
    for batch in stream_rows(store.index, store.snapshot().at.files, ["fingerprint", "source"]):
        used.numbers(batch.filter(pc.is_valid(batch["source"]))["fingerprint"])
    known = [key for key in store.fingerprints() if key in used.values]
    return f"{store.path}: no samples of fingerprint {fingerprint} at version {store.version}, found those of {known}"


def _check_crops(store: EncodingStore, records: np.ndarray, sources: list[str]) -> None:
    """Raise ValueError where a picture's crop is not known."""
    missing, first = 0, len(records)
    for start, part in in_parts(records):
        none = np.flatnonzero((part["crop"] == NO_CROP).all(axis=1))
        missing += len(none)
        first = min(first, start + int(none[0])) if len(none) else first
    if missing:
        place = f"{sources[records['source'][first]]} row {records['row'][first]}"
        raise ValueError(
            f"{store.path}: {missing} of {len(records)} samples don't say what of their picture was kept; "
            f"{place} is the first: encode them into another store"
        )


def _picture_ends(pictures: Pictures, ends: np.ndarray) -> np.ndarray:
    """Return where each source's pictures end, which are those whose first sample is of it: int64 ``(source,)``."""
    counts = np.zeros(len(ends), np.int64)
    for _, starts in in_parts(pictures.starts[:-1]):
        counts += np.bincount(np.searchsorted(ends, pictures.samples[starts], "right"), minlength=len(ends))
    return np.cumsum(counts)


def _write_shapes(records: np.ndarray, pictures: Pictures | None, shapes: int, folder: Path) -> list[int]:
    """Write the units of each shape one after the other, ``by_shape``, where there are several; return where they end.

    A unit is a picture where those are known, else a sample.
    """
    units = len(records) if pictures is None else len(pictures)
    if shapes == 1:
        return [units]

    def shape_of(start: int) -> np.ndarray:
        some = slice(start, min(start + GROUP_ROWS, units))
        samples = some if pictures is None else pictures.samples[pictures.starts[:-1][some]]
        return np.asarray(records["shape"][samples], np.int64)

    starts = range(0, units, GROUP_ROWS)
    ends = np.cumsum(sum(np.bincount(shape_of(start), minlength=shapes) for start in starts))
    filled = np.append(0, ends[:-1])
    by_shape = new_array(folder, "by_shape", units, "<i8")
    for start in starts:
        of_unit = shape_of(start)
        for shape in np.unique(of_unit).tolist():
            found = start + np.flatnonzero(of_unit == shape)
            by_shape[filled[shape] : filled[shape] + len(found)] = found
            filled[shape] += len(found)
    return [int(end) for end in ends]
