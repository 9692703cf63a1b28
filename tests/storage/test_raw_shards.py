"""Files written and read without Zarr are files that Zarr reads and writes."""

import numpy as np
import pytest
import zarr

from storage import EncodingStore
from storage.io.arrays import ArrayWriter, open_array
from storage.io.paths import LocalPath
from storage.io.raw_shards import OuterShard, RawFiles, is_raw
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.storage import synthetic

CHUNK, WIDTH = 8, 6


@pytest.fixture(params=[1, CHUNK, 20, 24, 25, 100])
def rows(request) -> np.ndarray:
    """uint16 (row, channel); some chunks hold nothing but zeros."""
    values = synthetic.rng(request.param).integers(0, 2**16, (request.param, WIDTH)).astype(np.uint16)
    values[CHUNK : 2 * CHUNK] = 0
    return values


@pytest.fixture
def written(rows, tmp_path, monkeypatch):
    """The folder of a shard with one array, three chunks to a file."""
    monkeypatch.setattr("storage.io.arrays.OUTER_BYTES", 3 * CHUNK * WIDTH * 2)
    writer = ArrayWriter(tmp_path, "array", (WIDTH,), "uint16", CHUNK, {})
    for first in range(0, len(rows), 7):
        assert writer.append(rows[first : first + 7]) == first
    writer.flush()
    return tmp_path


def test_any_zarr_reads_what_we_write(written, rows):
    np.testing.assert_array_equal(zarr.open_array(written / "array", mode="r")[:], rows)
    np.testing.assert_array_equal(open_array(LocalPath(written), "array")[:], rows)


def test_a_file_is_what_zarr_would_have_written(written, rows, tmp_path):
    """Chunks of zeros, which Zarr leaves out, and the chunks' order may differ."""
    ours = zarr.open_array(written / "array", mode="r")
    theirs = zarr.create_array(
        tmp_path / "theirs",
        shape=ours.shape,
        dtype=ours.dtype,
        chunks=ours.chunks,
        shards=ours.shards,
        filters=None,
        compressors=[zarr.codecs.Crc32cCodec()],
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    theirs[:] = rows
    for path in (tmp_path / "theirs" / "c").rglob("*"):
        if path.is_file():
            assert path.stat().st_size == (written / "array" / path.relative_to(tmp_path / "theirs")).stat().st_size


@pytest.mark.parametrize("parts", [2, 1000])
@pytest.mark.parametrize("by", ["us", "zarr"])
def test_ranges_of_rows(written, rows, by, parts, monkeypatch):
    monkeypatch.setattr("storage.io.raw_shards.PARTS_AT_ONCE", parts)
    array = zarr.open_array(written / "array", mode="r+")
    if by == "zarr":  # writes its files anew, without the chunks of zeros
        array[:] = rows
    files = RawFiles(array, OuterShard)
    assert is_raw(array)
    for start in range(len(rows)):
        for stop in (start + 1, min(len(rows), start + 11), len(rows)):
            out = np.full((stop - start, WIDTH), 7, np.uint16)
            files.read(start, out.data.cast("B"))
            np.testing.assert_array_equal(out, rows[start:stop])
    with pytest.raises(ValueError, match=f"expected {len(rows) + 1} rows, found {len(rows)}"):
        files.read(0, memoryview(bytes((len(rows) + 1) * WIDTH * 2)))


def test_a_flipped_index_is_found(written):
    path = next(path for path in (written / "array" / "c").rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the index does not have its checksum"):
        OuterShard(str(path), 3, CHUNK * WIDTH * 2)


def test_batches_are_the_same_through_zarr(tmp_path, monkeypatch):
    store, llm = synthetic.make_store(tmp_path)
    synthetic.encode(store, llm, "a", range(50))
    config = DatasetConfig(fingerprint=llm, batch_size=8)
    raw = list(EncodingDataset(tmp_path, config).epoch(0))
    monkeypatch.setattr("storage.reading.arrays.is_raw", lambda array: False)
    through_zarr = list(EncodingDataset(EncodingStore.open(tmp_path).path, config).epoch(0))
    assert len(raw) == len(through_zarr) > 3
    for one, other in zip(raw, through_zarr, strict=True):
        assert one.rows == other.rows
        assert one.encodings.equal(other.encodings)
        assert one.mask.equal(other.mask)
        assert one.latents.equal(other.latents)
