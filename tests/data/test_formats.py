"""Every input format through `encode_shard`: each row is known, new or rejected, and a second run encodes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.encode import EncoderSet, ShardReport, encode_shard
from llmdiff.data.encode import reading as encoding
from llmdiff.data.encode.captions import shard_id
from llmdiff.data.sources import open_source
from storage import EncodingStore, ShardWriter
from storage.maintenance.verify import verify
from tests.data.pictures import encoded, not_utf8, picture, write_imagefolder, write_parquet, write_tar

PNG = [encoded(picture(seed=seed)) for seed in range(2)]
CUT = encoded(picture(200, 200), "JPEG")[:900]
SMALL = encoded(picture(15, 100))
BAD = "ein Kätzchen".encode("latin-1")
BAD_ROWS = {"truncated_image": 1, "too_small": 1, "empty_caption": 1, "not_utf8": 1, "broken_image": 1}
PICTURES = [PNG[0], CUT, SMALL, PNG[1], PNG[0], b"junk", PNG[1]]
CAPTIONS = [b"a red circle", b"cut", b"small", b" ", BAD, b"junk", b"a blue square"]


def parquet(folder: Path) -> None:
    pq.write_table(pa.table({"image": PICTURES, "text": not_utf8(CAPTIONS)}), folder / "a.parquet")


def parquet_of_paths(folder: Path) -> None:
    write_files(folder)
    names = [f"{i}.png" for i in range(len(PICTURES))]
    pq.write_table(pa.table({"path": names, "text": not_utf8(CAPTIONS)}), folder / "a.parquet")


def jsonl(folder: Path) -> None:
    write_files(folder)
    lines = [b'{"file_name": "%d.png", "text": "%s"}' % (i, caption) for i, caption in enumerate(CAPTIONS)]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))


def csv(folder: Path) -> None:
    write_files(folder)
    lines = [b"%d.png,%s" % (i, caption) for i, caption in enumerate(CAPTIONS)]
    (folder / "photos.csv").write_bytes(b"\n".join([b"file_name,text", *lines]))


def tsv(folder: Path) -> None:
    write_files(folder)
    lines = [b"%d.png\t%s" % (i, caption) for i, caption in enumerate(CAPTIONS)]
    (folder / "photos.tsv").write_bytes(b"\n".join([b"file_name\ttext", *lines]))


def tar(folder: Path) -> None:
    members: dict[str, bytes | str] = {}
    for i, (data, caption) in enumerate(zip(PICTURES, CAPTIONS, strict=True)):
        members |= {f"{i}.png": data, f"{i}.txt": caption}
    write_tar(folder / "a.tar", members)


def write_files(folder: Path) -> None:
    for i, data in enumerate(PICTURES):
        (folder / f"{i}.png").write_bytes(data)


def run(store: EncodingStore, data: Path, encoders: EncoderSet) -> ShardReport:
    (source,) = open_source(data)
    report = encode_shard(store, source, encoders)
    assert report.rows == report.known + report.samples + report.rejected.total()
    again = encode_shard(store, open_source(data)[0], encoders)
    assert (again.rows, again.known, again.captions, again.latents) == (report.rows, report.rows, 0, 0)
    assert not verify(store)
    return report


@pytest.mark.parametrize("write", [parquet, parquet_of_paths, jsonl, csv, tsv, tar])
def test_pictures(store: EncodingStore, encoders: EncoderSet, tmp_path: Path, write: Callable[[Path], None]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data)
    report = run(store, data, encoders)
    assert (report.rows, report.samples, report.latents) == (7, 2, 2)
    assert report.rejected == BAD_ROWS


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_captions_alone_need_no_autoencoder(
    store: EncodingStore, caption_encoders: EncoderSet, tmp_path: Path, name: str
) -> None:
    texts = [b"a red circle", BAD, b"a blue square", b"a red circle"]
    if name == "a.parquet":
        pq.write_table(pa.table({"caption": not_utf8(texts)}), tmp_path / name)
    elif name == "a.jsonl":
        (tmp_path / name).write_bytes(b"\n".join(b'{"caption": "%s"}' % line for line in texts))
    else:
        (tmp_path / name).write_bytes(b"\n".join(texts if name == "a.txt" else [b"caption", *texts]))
    report = run(store, tmp_path / name, caption_encoders)
    assert (report.rows, report.samples, report.captions, report.latents) == (4, 2, 2, 0)
    assert report.rejected == {"not_utf8": 1}
    for sample in store.samples().to_pylist():
        assert (sample["image_hash"], sample["latent_key"], sample["crop"]) == (None, None, None)


def test_pictures_without_an_autoencoder_are_an_error(
    store: EncodingStore, caption_encoders: EncoderSet, tmp_path: Path
) -> None:
    (shard,) = open_source(write_parquet(tmp_path / "a.parquet", [(PNG[0], "a red circle")]))
    with pytest.raises(ValueError, match="a.parquet: expected captions alone, .* found pictures"):
        encode_shard(store, shard, caption_encoders)


def test_captions_alone_may_join_a_store_with_pictures(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    run(store, write_imagefolder(tmp_path / "a", [(PNG[0], "a red circle")]), encoders)
    (tmp_path / "b.txt").write_text("a red circle\na blue square\n")
    report = run(store, tmp_path / "b.txt", encoders)
    assert (report.samples, report.captions) == (2, 1)


def test_a_picture_of_several_captions_is_decoded_once(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    load = encoding.load_image
    monkeypatch.setattr(encoding, "load_image", lambda data, *a, **k: decoded.append(data) or load(data, *a, **k))
    texts = [["a red circle", "a blue square"], ["cut", "cut too"], ["a red circle", "", "a small triangle"]]
    pq.write_table(pa.table({"image": [PNG[0], CUT, PNG[1]], "caption": texts}), tmp_path / "a.parquet")
    report = run(store, tmp_path / "a.parquet", encoders)
    assert sorted(decoded) == sorted([PNG[0], CUT, PNG[1]])
    assert (report.rows, report.samples, report.captions, report.latents) == (7, 4, 3, 2)
    details = {row["row"]: row["detail"] for row in store.rejects().to_pylist()}
    assert [details[row].split(": ")[0] for row in (2, 3, 5)] == [
        "row 1 of the file, caption 0, both from 0",
        "row 1 of the file, caption 1, both from 0",
        "row 2 of the file, caption 1, both from 0",
    ]


def test_several_captions_in_json(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    write_files(tmp_path)
    lines = [{"image": "0.png", "caption": ["a red circle", "a blue square"]}, {"image": "3.png", "caption": "a dog"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run(store, tmp_path / "metadata.jsonl", encoders).samples == 3


def test_the_smallest_side_can_be_chosen(store: EncodingStore, encoder, latent_encoder, tmp_path: Path) -> None:
    from llmdiff.data.encode import prepare

    encoders = prepare(store, encoder, latent_encoder, 64, min_side=10)
    assert run(store, write_parquet(tmp_path / "a.parquet", [(SMALL, "a red circle")]), encoders).samples == 1


@pytest.mark.parametrize("name", ["数据.parquet", "-.tar", "x" * 300 + "." + "y" * 59])
def test_any_name_gives_a_folder(store: EncodingStore, name: str) -> None:
    with ShardWriter(store, shard_id(name)):
        pass
