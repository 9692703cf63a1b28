"""Look-ups by sorted keys: the same answers from memory, from the cache's files, and after the cache was damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage import EncodingStore, caption_hash, content_hash
from storage.index import lookup
from storage.index.keys import Digests, Keys, digests
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


def test_the_order_of_columns_and_their_absence_matter() -> None:
    x, y = content_hash(b"x"), content_hash(b"y")
    keys = [
        digests([strings(*each)[i : i + 1] for i in range(2)])
        for each in ((x, y), (y, x), (x, None), (None, x), (x, x))
    ]
    assert len({pairs(key)[0] for key in keys}) == len(keys)


@pytest.mark.parametrize("place", ["memory", "file", "file without a filter"])
def test_what_is_found_is_what_a_dictionary_finds(tmp_path: Path, place: str) -> None:
    random = np.random.default_rng(0)
    upper, lower = random.integers(0, 50, 300).astype(np.uint64), random.integers(0, 3, 300).astype(np.uint64)
    values = {"a": random.integers(0, 1000, 300), "b": np.arange(300)}
    kept = Keys.of(Digests(upper, lower), values, {}, unique=False)
    if place != "memory":
        kept.save(tmp_path / "some.keys", {})
        mapped = Keys.load(tmp_path / "some.keys", {})
        assert mapped is not None
        kept = mapped if place == "file" else replace(mapped, filter=None)
    wanted = Digests(np.repeat(np.arange(60, dtype=np.uint64), 3), np.tile(np.arange(3, dtype=np.uint64), 60))
    which, rows = kept.find(wanted)
    found = {(which, kept.values["a"][row], kept.values["b"][row]) for which, row in zip(which, rows, strict=True)}
    expected = {(int(u) * 3 + int(v), a, b) for u, v, a, b in zip(upper, lower, *values.values(), strict=True)}
    assert found == expected


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, in which every file's keys are kept."""
    monkeypatch.setenv("LLMDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lookup, "KEY_FILE_ROWS", 0)
    return tmp_path / "cache"


def answers(store: EncodingStore) -> list[object]:
    (llm,) = store.fingerprints()
    snapshot = store.snapshot()
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


def test_the_cache_answers_as_the_table_does_whatever_becomes_of_it(tmp_path: Path, cached: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    synthetic.encode(store, llm, "b")
    expected = answers(EncodingStore.open(store.path))
    assert [len(part) for part in expected] == [18, 18, 18, 18, 2, 0, 0, 0]
    files = sorted(cached.rglob("*.keys"))
    assert len(files) == 2 * 4 + 2
    made = [path.stat().st_mtime_ns for path in files]
    assert answers(EncodingStore.open(store.path)) == expected
    assert [path.stat().st_mtime_ns for path in files] == made, "made once"
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 12)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
            found = answers(EncodingStore.open(store.path))
            assert all(set(one) <= set(other) for one, other in zip(found, expected, strict=True)), (
                "never another answer"
            )
            for one, other in zip(found[:2], expected[:2], strict=True):
                assert all(other[key] == place for key, place in one.items())
        path.write_bytes(whole[: len(whole) // 2])
        assert answers(EncodingStore.open(store.path)) == expected
        path.unlink()
        assert answers(EncodingStore.open(store.path)) == expected


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path: Path, cached: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    expected = answers(EncodingStore.open(store.path))
    import shutil

    shutil.rmtree(cached)
    cached.write_text("a file in the way")
    assert answers(EncodingStore.open(store.path)) == expected
