"""WebDataset shards: what is a sample, what is refused, and that a tar is never trusted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, open_source
from llmdiff.data.sources.tars import webdataset
from tests.data.pictures import encoded, picture, write_tar

PNG = encoded(picture())


def rows(path: Path) -> list[Row | BadRow]:
    (shard,) = open_source(path)
    found = list(shard.rows())
    assert [number for number, _ in found] == list(range(shard.count))
    return [row for _, row in found]


def reasons(path: Path) -> list[str]:
    return [row.reason if isinstance(row, BadRow) else row.caption for row in rows(path)]


def test_members_of_one_key_are_a_sample(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        "README.md": "no sample",
        "a/1.png": PNG,
        "a/1.txt": "a cat\n",
        "a/1.cls": "7",
        "b/1.JPG": PNG,
        "b/1.caption": "a dog",
        "2.webp": PNG,
        "2.json": json.dumps({"url": "x", "Caption": "a fox"}),
        "3.jpeg": PNG,
        "3.json": json.dumps({"caption": "not this"}),
        "3.txt": "a bird",
        "._3.txt": "of a Mac",
    }
    write_tar(tmp_path / "x" / "0.tar", members)
    assert rows(tmp_path / "x") == [
        Row(i, PNG, caption, f"{key}: ")
        for i, (key, caption) in enumerate([("a/1", "a cat"), ("b/1", "a dog"), ("2", "a fox"), ("3", "a bird")])
    ]


def test_several_captions(tmp_path: Path) -> None:
    described = json.dumps({"text": ["one", "", "three"]})
    write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.json": described, "2.png": PNG, "2.txt": "four"})
    assert reasons(tmp_path) == ["one", "empty_caption", "three", "four"]
    assert "row 0 of the file, caption 1, both from 0: " in str(rows(tmp_path)[1])


def test_bad_samples_are_rows_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_BYTES", 10_000)
    members: dict[str, bytes | str] = {
        "1.png": PNG,
        "1.txt": "fine",
        "2.txt": "no picture",
        "3.png": PNG,
        "4.png": PNG,
        "4.txt": " ",
        "5.png": PNG,
        "5.txt": "ein Kätzchen".encode("latin-1"),
        "6.png": PNG,
        "6.json": "{",
        "7.png": bytes(10_001),
        "7.txt": "too large",
        "8.png": PNG,
        "8.json": "[1]",
        "9.png": PNG,
        "9.json": '{"other": 1}',
    }
    assert len(PNG) < 10_000
    write_tar(tmp_path / "0.tar", members)
    assert reasons(tmp_path) == [
        *("fine", "no_image", "no_caption", "empty_caption", "not_utf8", "broken_metadata"),
        *("member_too_large", "broken_metadata", "no_caption"),
    ]


def test_names_are_never_paths_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, kind in (("1.png", tarfile.SYMTYPE), ("2.png", tarfile.LNKTYPE), ("3.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(member)
            caption = tarfile.TarInfo(name.replace("png", "txt"))
            caption.size = 1
            tar.addfile(caption, io.BytesIO(b"x"))
        for name in ("../4.png", "/5.png"):
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            tar.addfile(member, io.BytesIO(PNG))
    assert reasons(tmp_path / "0.tar") == ["no_image"] * 3 + ["no_caption"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "secret.png"]


def test_a_member_that_claims_a_huge_size_is_not_read(tmp_path: Path) -> None:
    """A sparse one: a few bytes in the tar, a terabyte in its header."""
    file = write_tar(tmp_path / "0.tar", {"1.png": PNG, "1.txt": "x"})
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("1.png")
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40)}
        tar.addfile(member)
        caption = tarfile.TarInfo("1.txt")
        caption.size = 1
        tar.addfile(caption, io.BytesIO(b"x"))
    assert reasons(tmp_path) == ["member_too_large"]


def three_samples(file: Path) -> bytes:
    """A tar's bytes."""
    members = {f"{i}.{kind}": PNG if kind == "png" else f"of {i}" for i in range(3) for kind in ("png", "txt")}
    return write_tar(file, members).read_bytes()


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize("kind", ["picture", "header", "text"])
def test_a_tar_that_breaks_off_costs_what_comes_after_alone(tmp_path: Path, kind: str, packing: str) -> None:
    whole = three_samples(tmp_path / "0.tar")
    second = whole.index(b"1.png")
    broken = {
        "picture": whole[: second + tarfile.BLOCKSIZE + 100],
        "header": whole[:second] + bytes(100) + b"junk" + whole[second + 104 :],
        "text": whole[: whole.index(b"1.txt") + tarfile.BLOCKSIZE + 2],
    }[kind]
    file = tmp_path / f"0.tar{packing}"
    (tmp_path / "0.tar").unlink()
    file.write_bytes(gzip.compress(broken) if packing else broken)
    expected = {"header": ["of 0", "broken_tar"]}.get(kind, ["of 0", "broken_tar", "broken_tar"])
    assert reasons(file) == expected
    assert open_source(file)[0].unread == ()


def test_a_packed_tar_that_breaks_off_costs_what_comes_after_alone(tmp_path: Path) -> None:
    members = {f"{i}.{kind}": PNG if kind == "png" else f"of {i}" for i in range(20) for kind in ("png", "txt")}
    packed = gzip.compress(write_tar(tmp_path / "0.tar", members).read_bytes(), compresslevel=0)
    (tmp_path / "0.tar").unlink()
    (tmp_path / "0.tgz").write_bytes(packed[: packed.index(b"12.txt")])
    found = reasons(tmp_path / "0.tgz")
    assert found[:8] == [f"of {i}" for i in range(8)]
    assert set(found) - {f"of {i}" for i in range(12)} == {"broken_tar"}


def test_links_hidden_members_and_those_without_an_ending_are_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, kind in (("1.png", tarfile.LNKTYPE), ("1.txt", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "0.png"
            tar.addfile(member)
        for name in ("README", "._1.png", ".hidden"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert reasons(tmp_path) == ["no_image"]
    assert "'1.png': expected a file, found a link" in str(rows(tmp_path)[0])
    assert open_source(tmp_path)[0].unread == ("2 members that are hidden", "1 members without an ending")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_text_is_read_by_its_mark(tmp_path: Path, encoding: str) -> None:
    described = json.dumps({"caption": "ein Kätzchen"}, ensure_ascii=False)
    members: dict[str, bytes | str] = {"1.png": PNG, "1.txt": "a cat".encode(encoding)}
    members |= {"2.png": PNG, "2.json": described.encode(encoding), "3.png": PNG, "3.txt": "x".encode("utf-16-le")}
    write_tar(tmp_path / "0.tar", members)
    assert reasons(tmp_path) == ["a cat", "ein Kätzchen", "not_utf8"]


@pytest.mark.parametrize("kind", ["no tar", "empty"])
def test_a_file_that_is_no_tar_is_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "0.tar"
    file.write_bytes(b"this is no tar at all" * 100 if kind == "no tar" else b"")
    (shard,) = open_source(file)
    for ask in (lambda: shard.count, lambda: list(shard.rows())):
        with pytest.raises(ValueError, match=r"0\.tar: expected a tar file, found none or a damaged one: "):
            ask()
