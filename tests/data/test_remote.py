"""Data of buckets, web servers and the hub: the same samples as from a disk, and what may go wrong on the way."""

from __future__ import annotations

import errno
import logging
import pickle
from pathlib import Path

import obstore
import pytest

from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.remote import RemotePath, data_path, is_remote, shown
from llmdiff.data.remote.place import Refusal
from llmdiff.data.remote.read_ahead import FIRST
from llmdiff.data.sources import ReadinessPolicy, Row, SourceShard, list_data, open_source, readiness, scan, signature
from storage import EncodingStore
from tests.data.layouts import LAYOUTS, PAIRS, PNG, refused, samples
from tests.data.pictures import encoded, picture, write_imagefolder, write_parquet, write_tar
from tests.data.remote_servers import REPO, FileServer

BEHIND = ["list of rows", "imagefolder", "img2dataset parquet", "save_to_disk", "tar.gz", "img2dataset webdataset"]
"""Layouts that are read over each protocol: text with pictures beside it, columns, streams and tars."""


def upload(folder: Path, url: str) -> None:
    prefix = data_path(url)
    assert isinstance(prefix, RemotePath)
    for file in filter(Path.is_file, folder.rglob("*")):
        obstore.put(prefix.place.client, f"{prefix.key}/{file.relative_to(folder)}", file.read_bytes())


def same_as_local(url: str) -> None:
    assert samples(url) == sorted(PAIRS)
    shards = open_source(url)
    assert sum(len(list(shard.rows())) for shard in shards) == sum(shard.count for shard in shards)
    assert all(len(shard.content_hash) == 64 and shard.has_pictures for shard in shards)
    for shard in shards:  # as a Ray worker gets it
        sent = pickle.loads(pickle.dumps(shard))  # noqa: S301 our own
        assert (told(sent), sent.content_hash) == (told(shard), shard.content_hash)


def told(shard: SourceShard) -> list[object]:
    return [(number, row if isinstance(row, Row) else str(row)) for number, row in shard.rows()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_from_a_bucket(bucket: str, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    LAYOUTS[layout](folder)
    upload(folder, bucket)
    same_as_local(bucket)
    assert refused(bucket) == refused(folder)
    assert list_data(bucket).passed_over == list_data(folder).passed_over


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_from_the_hub(site: FileServer, layout: str) -> None:
    LAYOUTS[layout](site.root)
    same_as_local(f"hf:{REPO}")


@pytest.mark.parametrize("layout", BEHIND)
def test_files_are_read_from_a_web_server(site: FileServer, layout: str) -> None:
    LAYOUTS[layout](site.root)
    name = list_data(site.root).files[0][1]
    same_as_local(f"{site.url}/{name}")


def test_a_tar_of_many_ranges_is_read_once_and_ahead(
    site: FileServer, store: EncodingStore, encoders: EncoderSet
) -> None:
    noise = [encoded(picture(150, 150, seed=seed), "BMP") for seed in range(20)]
    members: dict[str, bytes | str] = {}
    for i, bmp in enumerate(noise):
        members |= {f"{i}.bmp": bmp, f"{i}.txt": f"caption {i}"}
    size = write_tar(site.root / "a.tar", {**members, "x.npy": b"1"}).stat().st_size
    assert size > 10 * FIRST
    (shard,) = open_source(f"{site.url}/a.tar")
    report = encode_shard(store, shard, encoders)
    assert (report.rows, report.samples, report.unread) == (20, 20, ("1 members *.npy",))
    assert site.bytes["/a.tar"] <= size + 2
    assert site.asked["/a.tar"] < 10


def test_a_connection_that_breaks_goes_on_where_it_was(site: FileServer) -> None:
    whole = bytes(range(256)) * 4096
    (site.root / "a.bin").write_bytes(whole)
    site.breaks["/a.bin"], site.busy["/a.bin"] = 3, 2
    path = data_path(f"{site.url}/a.bin")
    with path.open("rb") as file:
        assert file.read() == whole
    assert site.breaks["/a.bin"] == site.busy["/a.bin"] == 0
    assert site.bytes["/a.bin"] < 1.1 * len(whole)


def test_a_bucket_whose_connections_break_is_read_on(site: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"AWS_ENDPOINT_URL": site.url, "AWS_ALLOW_HTTP": "true", "AWS_SKIP_SIGNATURE": "true"}
    for name, value in {**variables, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    whole = bytes(range(256)) * 4096
    (site.root / "breaking-bucket").mkdir()
    (site.root / "breaking-bucket" / "a.bin").write_bytes(whole)
    path = data_path("s3://breaking-bucket/a.bin")
    assert path.exists()
    site.breaks["/breaking-bucket/a.bin"], site.busy["/breaking-bucket/a.bin"] = 2, 1
    with path.open("rb") as file:
        assert file.read() == whole
    assert site.breaks["/breaking-bucket/a.bin"] == site.busy["/breaking-bucket/a.bin"] == 0


def test_a_server_that_stays_away_is_given_up(site: FileServer) -> None:
    site.busy["/a.parquet"] = 99
    with pytest.raises(ConnectionError, match=r"/a\.parquet: HTTP 503 Service Unavailable, 6 times"):
        list_data(f"{site.url}/a.parquet?X-Amz-Signature=secret")
    assert site.asked["/a.parquet"] == 6


def test_a_break_that_lasts_is_no_damaged_file(site: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is tried again after a ConnectionError, and a ValueError would be final."""
    write_parquet(site.root / "a.parquet", [(PNG[0], "a red circle")])
    write_tar(site.root / "b.tar", {"0.png": PNG[0], "0.txt": "a red circle"})
    write_imagefolder(site.root, PAIRS)
    shards = [open_source(f"{site.url}/{name}")[0] for name in ("a.parquet", "b.tar", "metadata.jsonl")]
    site.busy.update({"/a.parquet": 999, "/b.tar": 999, "/2.png": 999})
    for shard in shards:
        with pytest.raises(ConnectionError):
            list(shard.rows())


def test_a_refusal_is_no_damaged_file_and_no_rejected_row(site: FileServer) -> None:
    """A refusal, as when credentials end, must not refuse the rows for good."""
    write_tar(site.root / "b.tar", {"0.png": PNG[0], "0.txt": "a red circle"})
    write_imagefolder(site.root, PAIRS)
    site.refused = {"/b.parquet"}  # the list that img2dataset may have left: nobody says whether it is there
    (tar,), (table,) = open_source(f"{site.url}/b.tar"), open_source(f"{site.url}/metadata.jsonl")
    assert len(list(tar.rows())) == 1
    site.refused |= {"/b.tar", "/2.png"}
    for shard in (tar, table):
        with pytest.raises(Refusal, match=r"HTTP 403 Forbidden$") as told:
            list(shard.rows())
        assert told.value.errno == errno.EACCES  # so that its task is not tried again


def test_a_file_that_changes_while_it_is_read_is_told(site: FileServer) -> None:
    (site.root / "a.bin").write_bytes(bytes(10 * FIRST))
    path = data_path(f"{site.url}/a.bin")
    with path.open("rb") as file:
        file.read(1)
        (site.root / "a.bin").write_bytes(bytes(9 * FIRST) + b"other")
        with pytest.raises(ValueError, match=r"a\.bin: it changed while it was read"):
            file.read()


def test_no_signature_is_told_or_stored(
    site: FileServer, store: EncodingStore, encoders: EncoderSet, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(site.root / "a.parquet", [(PNG[0], "a red circle"), (b"junk", "junk")])
    secret = "X-Amz-Signature=0123456789"
    address = f"{site.url}/a.parquet?{secret}"
    with caplog.at_level(logging.DEBUG):
        (shard,) = open_source(address)
        encode_shard(store, shard, encoders)
        with pytest.raises(FileNotFoundError) as gone:
            list_data(f"{site.url}/gone.parquet?{secret}")
    told = [caplog.text, repr(shard), str(gone.value), shown(address), *map(str, store.samples().to_pylist())]
    assert not any(secret in text for text in [*told, *map(str, store.rejects().to_pylist())])
    assert f"{site.url}/a.parquet" in caplog.text  # httpx tells its requests
    for wrong in (f"https://user:{secret}@host/a.parquet", f"s3://key:{secret}@bucket/x", f"s3://bucket/x?{secret}"):
        with pytest.raises(ValueError, match="expected") as refused_:
            data_path(wrong)
        assert secret not in str(refused_.value)
        assert secret not in shown(wrong)


def test_a_server_that_gives_whole_files_only(site: FileServer) -> None:
    site.whole_only = True
    write_imagefolder(site.root, PAIRS)
    assert samples(f"{site.url}/metadata.jsonl") == sorted(PAIRS)
    write_tar(site.root / "a.tar", {f"{i}.{end}": bytes(FIRST) for i in range(2) for end in ("jpg", "txt")})
    (shard,) = open_source(f"{site.url}/a.tar")
    with pytest.raises(Refusal, match=r"HTTP 206, found 200: the server gives whole files only; copy it to a disk"):
        list(shard.rows())


def test_several_files_of_a_web_server(site: FileServer) -> None:
    for i in range(2):
        write_parquet(site.root / "day" / f"0{i}.parquet", [(PNG[i], f"caption {i}")])
    expected = [("00.parquet", "caption 0"), ("01.parquet", "caption 1")]
    braces, both = f"{site.url}/day/{{00..01}}.parquet", f"{site.url}/day/00.parquet {site.url}/day/01.parquet?x=1"
    for text in (braces, both):
        found = [(shard.name, row.caption) for shard in open_source(text) for _, row in shard.rows()]
        assert found == expected
    with pytest.raises(ValueError, match="expected files of one server, found http://127"):
        data_path(f"{site.url}/a.tar https://elsewhere/b.tar")


@pytest.mark.parametrize(
    "address", ["ftp://host/a.tar", "s3:///key", "hf:name", "hf://datasets/owner/name:train", "https://host"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert is_remote(address)
    with pytest.raises(ValueError, match="expected"):
        data_path(address)


def test_what_was_encoded_is_not_fetched_again(site: FileServer, store: EncodingStore, encoders: EncoderSet) -> None:
    write_parquet(site.root / "a.parquet", [(encoded(picture(400, 400, seed=i)), f"caption {i}") for i in range(3)])
    address = f"hf:{REPO}"
    assert encode_shard(store, open_source(address)[0], encoders).samples == 3
    site.bytes.clear()
    again = encode_shard(store, open_source(address)[0], encoders)
    assert (again.known, again.samples) == (3, 0)
    size = (site.root / "a.parquet").stat().st_size
    assert size > 2 * FIRST
    assert sum(count for path, count in site.bytes.items() if "/resolve/" in path) <= FIRST


def test_pictures_with_texts_are_listed_counted_and_hashed_unread(site: FileServer) -> None:
    LAYOUTS["pictures with .txt"](site.root)
    (shard,) = open_source(f"hf:{REPO}")
    assert (shard.count, len(shard.content_hash)) == (4, 64)
    assert not any("/resolve/" in path for path in site.asked)


def test_a_name_that_leads_out_of_the_data_is_refused(bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    (folder / "data").mkdir(parents=True)
    (folder / "secret.png").write_bytes(PNG[0])
    names = ["../secret.png", "/secret.png", "x/../../secret.png", "gone.png"]
    lines = [f'{{"file_name": "{name}", "text": "a red circle"}}' for name in names]
    (folder / "data" / "metadata.jsonl").write_text("\n".join(lines))
    upload(folder, bucket)
    assert [line.partition(":")[0] for line in refused(f"{bucket}/data")] == [*["outside_folder"] * 3, "no_image"]


def test_the_hash_of_what_a_bucket_holds_follows_its_content(bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    write_imagefolder(folder / "a", PAIRS)
    for i, (png, caption) in enumerate(PAIRS):
        (folder / f"{i}.png").write_bytes(png)
        (folder / f"{i}.txt").write_text(caption)
    write_parquet(folder / "b" / "b.parquet", PAIRS)

    def hashes() -> list[str]:
        upload(folder, bucket)
        return [shard.content_hash for shard in open_source(bucket)]

    first = hashes()
    assert hashes() == first
    (folder / "a" / "0.png").write_bytes(PNG[1])
    second = hashes()
    (folder / "1.txt").write_text("another")
    third = hashes()
    assert [[a == b for a, b in zip(*both, strict=True)] for both in ((first, second), (second, third))] == [
        [True, False, True],
        [False, True, True],
    ]


def test_readiness_and_signature_of_a_bucket(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "layout"
    for name in ("done", "open"):
        write_parquet(folder / name / "a.parquet", [(PNG[0], "a red circle")])
    (folder / "done" / "_SUCCESS").touch()
    (folder / "open" / "_temporary").mkdir()
    (folder / "open" / "_temporary" / "part").touch()
    upload(folder, bucket)
    assert list_data(f"{bucket}/nothing-yet", may_be_empty=True).files == []

    def look(**how: float) -> tuple[list[str], dict[str, str]]:
        listed = list_data(bucket)
        found = scan(listed.root, listed.files, ReadinessPolicy(**{"settle": 0.0, **how}))
        return [name for _, name in found.whole], found.unfinished

    assert look() == (
        ["done/a.parquet"],
        {"open/a.parquet": f"a job is writing: {bucket}/open/_temporary is there"},
    )
    (prefix := data_path(bucket)).place.client.delete(f"{prefix.key}/open/_temporary/part")
    assert look()[1] == {}
    assert look(wait_for_success=True)[1] == {"open/a.parquet": f"no _SUCCESS in {bucket}/open"}

    first = signature(list_data(bucket).root)
    assert signature(list_data(bucket).root) == first

    def grow(seconds: float) -> None:
        write_parquet(folder / "open" / "a.parquet", [(PNG[1], "a blue square, and more")])
        upload(folder / "open", f"{bucket}/open")

    monkeypatch.setattr(readiness.time, "sleep", grow)
    whole, left = look(settle=600.0)
    assert whole == ["done/a.parquet"]
    assert left["open/a.parquet"].startswith("changing: ")
    assert signature(list_data(bucket).root) != first
