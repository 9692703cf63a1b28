"""A row is known by its picture and caption: files may be appended to, split, renamed and sorted anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.encode import EncoderSet, prepare
from llmdiff.data.encode.data_set import LeftRows, drop_missing
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder
from storage import EncodingStore
from storage.maintenance.gc import drop
from storage.maintenance.verify import verify
from tests.data.conftest import SIZE
from tests.data.data_set_run import CAPTIONS, PNG, EncodeRun, contents, run
from tests.data.pictures import write_parquet
from tests.examples import some
from tests.http_servers import serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, of which metadata may name any."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, data in enumerate(PNG):
        (folder / f"{number}.png").write_bytes(data)
    return folder


def metadata(folder: Path, rows: Iterable[tuple[int, str]], name: str = "metadata.jsonl") -> None:
    lines = [json.dumps({"file_name": f"{number}.png", "text": text}) for number, text in rows]
    (folder / name).write_text("\n".join(lines) + "\n")


PAIRS = list(enumerate(CAPTIONS))


def test_appending_a_line_encodes_that_line(store: EncodingStore, encoders: EncoderSet, folder: Path) -> None:
    metadata(folder, PAIRS[:3])
    run(store, folder, encoders)
    metadata(folder, PAIRS[:4])
    assert run(store, folder, encoders)[:4] == (4, 3, 1, 0)
    assert len(store.samples()) == 4
    metadata(folder, [*PAIRS[:2], (2, "a green triangel"), PAIRS[3]])
    edited = run(store, folder, encoders)
    assert (edited.known, edited.new, edited.left) == (3, 1, LeftRows(count=0, replaced=1))
    assert len(store.samples()) == 4
    assert not verify(store)


def test_splitting_renaming_and_sorting_encode_nothing(
    store: EncodingStore, encoders: EncoderSet, folder: Path
) -> None:
    metadata(folder, PAIRS)
    run(store, folder, encoders)
    expected, version = contents(store), store.version
    (folder / "metadata.jsonl").unlink()
    metadata(folder, PAIRS[:2], "a.jsonl")
    metadata(folder, reversed(PAIRS[2:]), "b.jsonl")
    assert run(store, folder, encoders) == (6, 6, 0, 0, LeftRows(count=0))
    (folder / "a.jsonl").rename(folder / "c.jsonl")
    metadata(folder, sorted(PAIRS[2:], key=lambda pair: pair[1]), "b.jsonl")
    assert run(store, folder, encoders) == (6, 6, 0, 0, LeftRows(count=0))
    assert (contents(store), store.version) == (expected, version), "an epoch of training has the same samples"


def test_another_format_of_the_same_rows_is_known(store: EncodingStore, encoders: EncoderSet, folder: Path) -> None:
    metadata(folder, PAIRS)
    run(store, folder, encoders)
    shutil.rmtree(folder)
    write_parquet(folder / "a.parquet", [(PNG[number], text) for number, text in PAIRS])
    assert run(store, folder, encoders)[:4] == (6, 6, 0, 0)
    assert len(store.samples()) == 6


def test_a_repeat_is_known_by_its_place_afterwards(
    store: EncodingStore, encoders: EncoderSet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata(folder, [*PAIRS[:2], PAIRS[0]])
    assert run(store, folder, encoders)[:4] == (3, 1, 2, 0)
    metadata(folder, [*PAIRS[:2], PAIRS[0], PAIRS[2]])
    assert run(store, folder, encoders)[:4] == (4, 3, 1, 0)
    looked: list[int] = []
    monkeypatch.setattr("llmdiff.data.encode.repeats.content_of", lambda row, of_image: looked.append(row.row))
    assert run(store, folder, encoders)[:4] == (4, 4, 0, 0)
    assert looked == []


def test_twice_in_the_data_is_once_in_the_store(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    rows = [(PNG[0], "a red circle"), (PNG[1], "a red circle"), (PNG[0], "a blue square"), (PNG[0], "a red circle")]
    for name in ("a.parquet", "b.parquet"):
        write_parquet(tmp_path / "data" / name, [*rows, (PNG[2], name)])
    assert run(store, tmp_path / "data", encoders)[:4] == (10, 5, 5, 0)
    assert len(store.samples()) == 5


def test_a_row_that_repeats_a_refused_one_is_refused(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "a.parquet", [(b"junk", "x"), (b"junk", "x"), (PNG[0], "y")])
    assert run(store, file, encoders)[:4] == (3, 0, 1, 2)
    assert run(store, file, encoders)[:4] == (3, 3, 0, 0)


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_captions_without_pictures_likewise(
    store: EncodingStore, caption_encoders: EncoderSet, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"captions.{ending}"

    def write(captions: list[str]) -> None:
        if ending == "parquet":
            pq.write_table(pa.table({"text": captions}), file)
        else:
            lines = captions if ending == "txt" else [json.dumps({"text": caption}) for caption in captions]
            file.write_text("\n".join(lines))

    write(CAPTIONS[:3])
    assert run(store, file, caption_encoders).new == 3
    write([CAPTIONS[3], *CAPTIONS[:3], CAPTIONS[0]])
    assert run(store, file, caption_encoders)[:4] == (5, 4, 1, 0)
    assert contents(store) == sorted(((None, caption) for caption in CAPTIONS[:4]), key=str)


def test_two_encoders_at_once_double_nothing(
    store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder, folder: Path
) -> None:
    halves = [folder.with_name(name) for name in ("one", "other")]
    for half, rows in zip(halves, (PAIRS[:4], PAIRS[2:]), strict=True):
        write_parquet(half / "a.parquet", [(PNG[number], text) for number, text in rows])

    def encode(half: Path) -> EncodeRun:
        own = EncodingStore.open(store.path)
        return run(own, half, prepare(own, encoder, latent_encoder, SIZE))

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(encode, halves))
    assert sum(each.new for each in done) == len(store.samples()) == 6
    assert sum(each.known for each in done) == 2
    assert not verify(store)
    again = [run(store, half, prepare(store, encoder, latent_encoder, SIZE)) for half in halves]
    assert [each[:4] for each in again] == [(4, 4, 0, 0)] * 2


def test_a_picture_that_was_missing_is_looked_for_again(
    store: EncodingStore, encoders: EncoderSet, folder: Path
) -> None:
    (folder / "1.png").unlink()
    metadata(folder, PAIRS[:3])
    assert run(store, folder, encoders)[:4] == (3, 0, 2, 1)
    assert run(store, folder, encoders)[:4] == (3, 3, 0, 0)
    assert store.rejects()["reason"].to_pylist() == ["no_image"]
    (folder / "1.png").write_bytes(PNG[1])
    assert run(store, folder, encoders)[:4] == (3, 2, 1, 0)
    assert len(store.samples()) == 3
    assert len(store.rejects()) == 0, "what was refused is there now"


@pytest.mark.parametrize("kind", some(["jsonl", "sidecars", "parquet", "struct"]))
def test_a_replaced_picture_replaces_its_sample(
    store: EncodingStore, encoders: EncoderSet, folder: Path, kind: str
) -> None:
    names, data = [f"{number}.png" for number in range(3)], folder
    if kind == "jsonl":
        metadata(folder, PAIRS[:3])
    elif kind == "sidecars":
        for number in range(3, 6):
            (folder / f"{number}.png").unlink()
        for number, text in PAIRS[:3]:
            (folder / f"{number}.txt").write_text(text)
    elif kind == "parquet":
        pq.write_table(pa.table({"image": names, "text": CAPTIONS[:3]}), folder / "a.parquet")
    else:  # Hugging Face's, whose pictures lie beside it
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([{"bytes": None, "path": name} for name in names], struct)
        data = folder / "a.parquet"
        pq.write_table(pa.table({"image": images, "text": CAPTIONS[:3]}), data)
    assert run(store, data, encoders)[:4] == (3, 0, 3, 0)
    (folder / "1.png").write_bytes(PNG[5])
    assert run(store, data, encoders) == (3, 2, 1, 0, LeftRows(count=0, replaced=1))
    (sample,) = [row for row in store.samples().to_pylist() if row["caption"] == CAPTIONS[1]]
    before = EncodingStore.open(store.path, store.version - 1).samples().to_pylist()
    assert sample["image_hash"] != next(row["image_hash"] for row in before if row["caption"] == CAPTIONS[1])
    assert len(before) == 4, "an earlier version keeps it"
    assert run(store, data, encoders) == (3, 3, 0, 0, LeftRows(count=0))


def test_a_file_of_pictures_bytes_is_known_by_its_own_bytes(tmp_path: Path) -> None:
    """Its rows need no second look: a Parquet file of Hugging Face's keeps the hash that stores know it by."""
    from llmdiff.data.sources import ParquetShard
    from llmdiff.data.sources.rows import hash_file

    file = write_parquet(tmp_path / "a.parquet", [(PNG[0], "a"), (PNG[1], "b")])
    assert ParquetShard(file, "a.parquet").content_hash == hash_file(file)


def test_a_row_that_only_moved_into_the_place_of_another_edits_nothing(
    store: EncodingStore, encoders: EncoderSet, folder: Path
) -> None:
    """All captions are the same, and the first row is deleted: the second one takes its place and its number."""
    metadata(folder, [(number, "a photo") for number in range(3)])
    run(store, folder, encoders)
    metadata(folder, [(number, "a photo") for number in range(1, 3)])
    left = run(store, folder, encoders).left
    assert (left.count, left.replaced, left.examples) == (1, 0, ["metadata.jsonl row 0: 'a photo'"])
    assert len(store.samples()) == 3


def test_repaired_rows_are_encoded_again_where_they_are_now(
    store: EncodingStore, encoders: EncoderSet, folder: Path
) -> None:
    """The place that a lost sample was first found in is gone; the data hold the row in another one."""
    metadata(folder, PAIRS[:3])
    run(store, folder, encoders)
    first = store.samples()["source_hash"][0].as_py()
    metadata(folder, PAIRS[:4])
    run(store, folder, encoders)
    drop(store, source_hash=first)
    assert run(store, folder, encoders)[:3] == (4, 1, 3)
    assert len(store.samples()) == 4


def test_urls_are_fetched_where_their_place_is_new(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path, http_server: tuple[str, list[str]]
) -> None:
    address, asked = http_server
    file = tmp_path / "urls.jsonl"

    def write(count: int) -> None:
        rows = [{"url": f"{address}/{number}", "caption": CAPTIONS[number]} for number in range(count)]
        file.write_text("\n".join(map(json.dumps, rows)))

    write(2)
    assert run(store, file, encoders)[:4] == (2, 0, 2, 0)
    assert run(store, file, encoders)[:4] == (2, 2, 0, 0)
    assert len(asked) == 2, "known by their place"
    write(3)
    assert run(store, file, encoders)[:4] == (3, 2, 1, 0)
    assert run(store, file, encoders)[:4] == (3, 3, 0, 0)
    assert len(asked) == 5
    write(4)
    asked.append("away")
    away = run(store, file, encoders)
    assert (away.rejected, away.left.count) == (4, None), "a row may be a sample whose picture is not to be had now"
    with pytest.raises(ValueError, match=r"rows whose picture was not to be had; encoding tries again"):
        drop_missing(store, [str(file)])
    asked.remove("away")
    assert run(store, file, encoders) == (4, 3, 1, 0, LeftRows(count=0))
    assert len(store.samples()) == 4


@pytest.fixture
def http_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A server's address, and what it was asked for; it is busy while that holds "away"."""
    asked: list[str] = []

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if "away" in asked else 200)
            self.end_headers()
            if "away" not in asked:
                asked.append(self.path)
                self.wfile.write(PNG[int(self.path[1:])])

        def log_message(self, *_: Any) -> None:
            """Keep silent."""

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Pictures) as (_, address):
        yield address, asked
