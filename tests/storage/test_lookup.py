"""Look-ups by sorted keys: the same answers from memory, from the cache's files, and after the cache was damaged."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage import EncodingStore, caption_hash, content_hash
from storage.hashing import Fingerprint
from storage.index import lookup
from storage.index.keys import Digests, Keys, digests, first_places
from storage.io.cached_arrays import cached
from tests.storage import synthetic


def strings(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


def pairs(keys: Digests) -> list[tuple[int, int]]:
    return list(zip(keys.upper.tolist(), keys.lower.tolist(), strict=True))


def test_a_key_is_the_same_however_a_column_is_kept() -> None:
    values = [content_hash(b"x"), "no hash", None, "", "F" * 32, "f" * 32, content_hash(b"y"), "é" * 16]
    plain = digests([strings(*values)])
    chunked = pa.chunked_array([strings(*values[:3]), strings(*values[3:])])
    assert pairs(digests([chunked])) == pairs(digests([strings(*values).dictionary_encode()])) == pairs(plain)
    assert pairs(digests([strings("left out", *values).slice(1)])) == pairs(plain)
    assert len(set(pairs(plain))) == len(values)
    hashes = [content_hash(bytes([row])) for row in range(9)]
    whole = pairs(digests([strings(*hashes)]))
    for beside in ("left out", hashes[0].upper(), hashes[0][:-1] + "é"[:1], "G" * 32, None):
        assert pairs(digests([strings(*hashes, beside)]))[:-1] == whole
        assert pairs(digests([strings(beside, *hashes).slice(1)])) == whole


def test_the_order_of_columns_and_their_absence_matter() -> None:
    x, y = content_hash(b"x"), content_hash(b"y")
    keys = [
        digests([strings(*each)[i : i + 1] for i in range(2)])
        for each in ((x, y), (y, x), (x, None), (None, x), (x, x))
    ]
    assert len({pairs(key)[0] for key in keys}) == len(keys)


@pytest.mark.parametrize("place", ["memory", "file", "file without a filter"])
def test_what_is_found_is_what_a_dictionary_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    random = np.random.default_rng(0)
    upper, lower = random.integers(0, 50, 300).astype(np.uint64), random.integers(0, 3, 300).astype(np.uint64)
    values = {"a": random.integers(0, 1000, 300), "b": np.arange(300)}
    kept = Keys.of(Digests(upper, lower), values, {}, unique=False)
    if place != "memory":
        monkeypatch.setenv("LLMDIFF_CACHE", str(tmp_path))
        kept = Keys.mapped(cached("index", {}, kept.write))
        kept = kept if place == "file" else replace(kept, filter=None)
    wanted = Digests(np.repeat(np.arange(60, dtype=np.uint64), 3), np.tile(np.arange(3, dtype=np.uint64), 60))
    which, rows = kept.find(wanted)
    found = {(which, kept.values["a"][row], kept.values["b"][row]) for which, row in zip(which, rows, strict=True)}
    expected = {(int(u) * 3 + int(v), a, b) for u, v, a, b in zip(upper, lower, *values.values(), strict=True)}
    assert found == expected


@pytest.mark.parametrize("spread", ["even", "uneven", "ends", "alike", "few"])
def test_places_are_those_that_numpy_finds(spread: str) -> None:
    """Hashes are spread evenly, as real ones are, or not."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 1 << 64, 20_000, np.uint64)
    ordered = np.sort(
        {
            "even": numbers,
            "uneven": numbers >> (numbers % np.uint64(64)),
            "ends": np.concatenate([numbers, np.repeat(np.array([0, (1 << 64) - 1], np.uint64), 300)]),
            "alike": np.repeat(numbers[:10], 2000),
            "few": numbers[:3],
        }[spread]
    )
    ends = np.array([0, 1, (1 << 64) - 1], np.uint64)
    for count in (0, 1, 20, 20_000):
        wanted = np.sort(np.concatenate([random.choice(ordered, count), random.choice(numbers, count), ends[:count]]))
        assert first_places(ordered, wanted).tolist() == np.searchsorted(ordered, wanted).tolist()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, in which every file's keys are kept."""
    monkeypatch.setenv("LLMDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lookup, "KEY_FILE_ROWS", 0)
    monkeypatch.setattr(lookup, "FEW", 0)
    return tmp_path / "cache"


def answers(store: EncodingStore) -> list[Any]:
    llm, snapshot = str(Fingerprint.of(synthetic.LLM)), store.snapshot()
    hashes = [caption_hash(synthetic.caption("a", row)) for row in range(25)]
    keys = [synthetic.latent_key("a", row) for row in range(25)]
    contents = [(content_hash(f"a/{row}".encode()), of_caption) for row, of_caption in enumerate(hashes)]
    of_source = llm, content_hash(b"a")
    return [
        snapshot.encodings(llm, hashes),
        snapshot.latents(keys),
        snapshot.contents(llm, contents),
        snapshot.sample_rows(*of_source),
        snapshot.reject_rows(*of_source),
        snapshot.reject_rows(*of_source, besides=["empty_caption"]),
        snapshot.contents(llm, []),
        snapshot.encodings("another", hashes),
    ]


def test_the_cache_answers_as_the_table_does_whatever_becomes_of_it(tmp_path: Path, folder: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    expected = answers(EncodingStore.open(store.path))
    assert [len(part) for part in expected] == [18, 18, 18, 18, 2, 0, 0, 0]
    folders = sorted(folder.rglob("contents.json"))
    assert len(folders) == 4 + 1
    files = [path for contents in folders for path in (contents, *contents.parent.glob("*.npy"))]
    made = [path.stat().st_ino for path in files]
    assert answers(EncodingStore.open(store.path)) == expected
    assert [path.stat().st_ino for path in files] == made, "made once"
    assert list(folder.rglob("*.lock")) == []
    for path in files:
        whole = path.read_bytes()
        flipped = bytes([*whole[:-1], whole[-1] ^ 16])
        for damaged in (flipped, whole[: len(whole) // 2], None) if path in files[:4] else ():
            path.unlink() if damaged is None else path.write_bytes(damaged)
            assert answers(EncodingStore.open(store.path)) == expected
        assert path.read_bytes() == whole
        before = path.stat()
        path.write_bytes(flipped)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk's own fault leaves it
        found = answers(EncodingStore.open(store.path))
        assert all(set(one) <= set(other) for one, other in zip(found, expected, strict=True)), "never another answer"
        assert all(other[key] == place for i in range(2) for key, place in found[i].items() for other in [expected[i]])
        path.unlink()


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path: Path, folder: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    expected = answers(EncodingStore.open(store.path))
    shutil.rmtree(folder)
    folder.write_text("a file in the way")
    assert answers(EncodingStore.open(store.path)) == expected


def test_few_keys_are_searched_for_where_nobody_made_any(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are the same, nothing is made, and no row group is read after the one that has all; not for ever."""
    store, llm = synthetic.make_store(tmp_path / "store")
    other = store.register_fingerprint({**synthetic.LLM, "seed": 1})
    for source, encoder in (("a", llm), ("b", llm), ("c", other)):
        synthetic.encode(store, encoder, source)
    store.snapshot().prepare()
    expected = answers(store)
    shutil.rmtree(folder)
    monkeypatch.setattr(lookup, "FEW", 25)
    assert answers(EncodingStore.open(store.path)) == expected
    shutil.rmtree(folder)
    opened = EncodingStore.open(store.path)
    searched: list[str] = []
    search = opened.index.search_file

    def note(file: str, *arguments: Any) -> Any:
        searched.append(file)
        return search(file, *arguments)

    monkeypatch.setattr(opened.index, "search_file", note)
    snapshot = opened.snapshot()
    first, missing = caption_hash(synthetic.caption("a", 0)), caption_hash("not there")
    assert set(snapshot.encodings(llm, [first])) == {first}
    assert snapshot.encodings(llm, [missing]) == snapshot.encodings("another", [first]) == {}
    files = sorted(snapshot.at.entries, key=lambda file: file.written)
    assert searched == [files[0].name, *[file.name for file in files] * 2]
    assert not folder.exists()
    for _ in range(lookup.SEARCHES):
        assert set(snapshot.encodings(llm, [first])) == {first}
    assert len(searched) == 8
    assert folder.exists()
