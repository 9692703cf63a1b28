"""Files of web servers: what stands for their content, odd answers, signatures, several at once."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.encode.preview import preview
from llmdiff.data.remote import http
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources import ReadinessPolicy, Row, known_row_count, list_data, open_source, scan, shards_of
from storage import EncodingStore
from tests.data.layouts import PNG
from tests.data.pictures import write_parquet, write_tar
from tests.data.remote_servers import FileServer


def test_two_files_of_one_tag_are_two(site: FileServer, store: EncodingStore, encoders: EncoderSet) -> None:
    """Tags of nginx and Apache are times and sizes: of two tars that a job wrote in one second they may be equal."""
    site.tags = "time and size"
    for i, word in enumerate(("red", "tan")):
        file = write_tar(site.root / f"{i}.tar", {"0.png": PNG[i], "0.txt": f"a {word} circle"})
        os.utime(file, (1e9, 1e9))
    shards = open_source(f"{site.url}/{{0..1}}.tar?signature=1")
    assert shards[0].file.facts.tag == shards[1].file.facts.tag  # type: ignore[attr-defined]
    assert [encode_shard(store, shard, encoders).samples for shard in shards] == [1, 1]
    signed_anew = open_source(f"{site.url}/{{0..1}}.tar?signature=2")
    assert [shard.content_hash for shard in signed_anew] == [shard.content_hash for shard in shards]


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 409, 410, 503])
def test_whatever_a_server_answers_to_a_name_that_was_not_given_the_tar_is_read(site: FileServer, status: int) -> None:
    """It is asked for img2dataset's list, for what jobs leave in folders, and for what makes a folder a store."""
    for i in range(2):
        write_tar(site.root / f"{i}.tar", {"0.png": PNG[i], "0.txt": f"caption {i}"})
    site.odd = dict.fromkeys(("/0.parquet", "/1.parquet", "/_temporary", "/_SUCCESS", "/store.json"), status)
    for address, count in ((f"{site.url}/0.tar", 1), (f"{site.url}/{{0..1}}.tar", 2)):
        listed = list_data(address)
        found = scan(listed.root, listed.files, ReadinessPolicy(settle=0.0))
        assert found.unfinished == {}
        assert [len(list(shard.rows())) for shard in shards_of(found.whole)] == [1] * count
        waiting = scan(listed.root, listed.files, ReadinessPolicy(settle=0.0, wait_for_success=True))
        assert len(waiting.unfinished) == count


def test_what_was_left_beside_a_tar_of_a_web_server_is_read(site: FileServer) -> None:
    write_tar(site.root / "0.tar", {"0.png": PNG[0], "0.txt": "caption"})
    rows = {"url": ["https://host/1.png"], "caption": ["lost"], "status": ["failed_to_download"]}
    pq.write_table(pa.table(rows), site.root / "0.parquet")
    (site.root / "_SUCCESS").touch()
    listed = list_data(f"{site.url}/0.tar")
    found = scan(listed.root, listed.files, ReadinessPolicy(settle=0.0, wait_for_success=True))
    (shard,) = shards_of(found.whole)
    assert [isinstance(row, Row) for _, row in shard.rows()] == [True, False]


@pytest.mark.parametrize("wrong", ["{5..3}.tar", "0.tar?a=1 {url}/0.tar?a=2", "{0..1}.tar {url}/1.tar"])
def test_no_address_and_a_file_twice_are_refused(site: FileServer, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected (the address of a file, found none|each file once, found)"):
        open_source(f"{site.url}/{wrong.replace('{url}', site.url)}")


def test_what_lies_beside_a_signed_file_is_signed_in_another_process_too(site: FileServer) -> None:
    site.signed = True
    write_tar(site.root / "0.tar", {"0.png": PNG[0], "0.txt": "caption"})
    rows = {"url": ["https://host/1.png"], "caption": ["lost"], "status": ["failed_to_download"]}
    pq.write_table(pa.table(rows), site.root / "0.parquet")
    (site.root / "table").mkdir()
    (site.root / "table" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "named"}')
    (site.root / "table" / "a.png").write_bytes(PNG[1])
    (site.root / "pairs").mkdir()
    (site.root / "pairs" / "b.png").write_bytes(PNG[2])
    (site.root / "pairs" / "b.txt").write_text("beside")
    names = ("0.tar", "0.parquet", "table/metadata.jsonl", "table/a.png", "pairs/b.png", "pairs/b.txt")
    shards = open_source(" ".join(f"{site.url}/{name}?signature=of-{name}" for name in names))
    sent = [pickle.loads(pickle.dumps(shard)) for shard in shards]  # noqa: S301 our own
    for those in (shards, sent):
        told = [row.caption if isinstance(row, Row) else row.reason for shard in those for _, row in shard.rows()]
        assert told == ["caption", "not_fetched", "beside", "named"]
    assert [name for name, _ in sent[0].file.place.files] == ["0.tar", "0.parquet", *names[2:]]  # but no other tar


@pytest.mark.parametrize("changed", ["", "0", "yesterday", "Mon, 99 Foo 2024 99:99:99 GMT"])
def test_a_date_that_is_none_keeps_no_file_from_being_read(changed: str) -> None:
    headers = {"Content-Range": "bytes 0-0/7", "Last-Modified": changed}
    answer = httpx.Response(206, headers=headers, request=httpx.Request("GET", "http://there/a.tar"))
    assert http._facts(answer)[:2] == (7, 0.0)


def test_footers_of_several_files_are_fetched_at_once(site: FileServer) -> None:
    for i in range(4):
        write_parquet(site.root / f"{i}.parquet", [(PNG[i], f"caption {i}")])
    shards = open_source(f"{site.url}/{{0..3}}.parquet")
    site.together = threading.Barrier(4)
    assert (
        list(each(lambda shard: (shard.has_pictures, known_row_count(shard)), shards, remote=True)) == [(True, 1)] * 4
    )


def test_no_signature_of_a_picture_is_told_or_stored(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    address, secret = "https://host/1.png", "X-Amz-Signature=0123456789"
    write_tar(tmp_path / "a.tar", {"0.png": PNG[0], "0.txt": "a red circle"})
    failed = {"url": [f"{address}?{secret}"], "caption": ["a blue square"], "status": ["failed_to_download"]}
    pq.write_table(pa.table(failed), tmp_path / "a.parquet")
    (tar,) = open_source(tmp_path)
    told = encode_shard(store, tar, encoders).examples
    (stored,) = store.rejects().to_pylist()
    (tmp_path / "b.jsonl").write_text(json.dumps({"url": f"{address}?{secret}", "caption": "a blue square"}))
    (seen,) = preview(open_source(tmp_path / "b.jsonl"), 64, 16).first
    told += [str(stored), str(seen)]
    assert [address in text for text in told] == [True, True, True]
    assert not any(secret in text for text in told)
