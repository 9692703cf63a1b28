"""Data made to hang a reader or to fill its memory: each row is refused with a reason, each file in a line."""

from __future__ import annotations

import gzip
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.encode.reading import in_chunks
from llmdiff.data.in_order import in_order
from llmdiff.data.sources import Row, limits, open_source
from llmdiff.data.sources.limits import MAX_TEXT_BYTES
from llmdiff.data.sources.tables import columnar
from llmdiff.data.sources.tars.tar_files import MAX_HEADER_BYTES
from llmdiff.data.sources.tars.webdataset import MAX_OPEN
from tests.data.pictures import encoded, picture

PNG = encoded(picture())
CELL, COUNT = bytes(1024**2), 100


def told(path: Path) -> list[str]:
    """Each row's caption, or the reason why it is refused."""
    (shard,) = open_source(path)
    return [row.caption if isinstance(row, Row) else row.reason for _, row in shard.rows()]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def extended(**values: str) -> bytes:
    """A header that goes on, with records of pax."""
    records = b""
    for key, value in values.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + 2
        records += str(length).encode() + record
    return member("x", records, tarfile.XHDTYPE)


WHOLE = member("1.png", PNG) + member("1.txt", b"a cat")
TARS: dict[str, tuple[bytes, list[str]]] = {
    "negative size": (header("2.png", -512), ["a cat", "broken_tar"]),
    "very negative size": (header("2.png", -(2**40)), ["a cat", "broken_tar"]),
    "negative size of pax": (extended(size="-512") + header("2.png", 0), ["a cat", "broken_tar"]),
    "negative size of another kind": (header("2.dir", -1024, tarfile.DIRTYPE), ["a cat", "broken_tar"]),
    "size without end": (header("2.png", 2**60), ["a cat", "member_too_large", "broken_tar"]),
    "negative long name": (header("x", -512, tarfile.GNUTYPE_LONGNAME), ["a cat", "broken_tar"]),
    "long name without end": (header("x", 2**40, tarfile.GNUTYPE_LONGNAME), ["a cat", "broken_tar"]),
    "long header": (member("x", b"1" * (MAX_HEADER_BYTES + 1), tarfile.XHDTYPE), ["a cat", "broken_tar"]),
    "headers of headers": (member("x", b"6 a=b\n", tarfile.XHDTYPE) * 5000 + WHOLE, ["a cat", "broken_tar"]),
    "caption of any length": (
        member("2.png", PNG) + member("2.txt", b"x" * (MAX_TEXT_BYTES + 1)),
        ["a cat", "member_too_large"],
    ),
    "JSON in JSON": (member("2.png", PNG) + member("2.json", b"[" * 100_000), ["a cat", "broken_metadata"]),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tar", TARS)
@pytest.mark.timeout(30)
def test_a_hostile_tar_ends_in_a_reason(tmp_path: Path, tar: str, packed: bool) -> None:
    rest, expected = TARS[tar]
    data = WHOLE + rest + bytes(2 * tarfile.BLOCKSIZE)
    path = tmp_path / ("0.tar.gz" if packed else "0.tar")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert told(path) == expected
    (shard,) = open_source(path)
    assert shard.unread is not None


def test_a_tar_of_many_members_leaves_nothing_in_memory(tmp_path: Path) -> None:
    nested = b"".join(member("/".join(["a"] * i) + f"{'.b' * i}.txt", b"x" * 4096) for i in range(1, 40))
    data = nested + b"".join(header(f"{i}.other", 0) for i in range(5000))
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(data + bytes(1024), 1))
    tracemalloc.start()
    assert set(told(tmp_path / "0.tar.gz")) == {"no_image"}
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_samples_that_wait_for_more_members_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is another one's with an ending more, so that any may still have members."""
    data = b"".join(member(f"a{'.b' * i}.txt", f"caption {i}".encode()) for i in range(MAX_OPEN + 20))
    (tmp_path / "0.tar").write_bytes(data + bytes(1024))
    assert told(tmp_path / "0.tar") == ["no_image"] * (MAX_OPEN + 20)


@pytest.mark.parametrize("column", ["image", "list", "struct"])
def test_large_cells_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """A file of kilobytes: many cells of one megabyte, all the same, and one that is larger than is read."""
    monkeypatch.setattr(columnar, "MAX_BYTES", len(CELL))
    index = pa.array([0] * (COUNT - 1) + [1], pa.int32())
    cells = pa.DictionaryArray.from_arrays(index, pa.array([CELL, CELL + b"x"]))
    pictures = {
        "image": lambda: cells,
        "list": lambda: cells,
        "struct": lambda: pa.StructArray.from_arrays([cells, pa.nulls(COUNT, pa.string())], ["bytes", "path"]),
    }[column]()
    captions = pa.array(["x"] * COUNT) if column != "list" else pa.array([["x"]] * COUNT)
    pq.write_table(pa.table({"image": pictures, "text": captions}), tmp_path / "0.parquet", compression="zstd")
    assert (tmp_path / "0.parquet").stat().st_size < 100_000
    (shard,) = open_source(tmp_path / "0.parquet")
    before, most = pa.default_memory_pool().bytes_allocated(), 0
    found = []
    for _, row in shard.rows():
        found.append(row.caption if isinstance(row, Row) else row.reason)
        most = max(most, pa.default_memory_pool().bytes_allocated() - before)
    assert found == ["x"] * (COUNT - 1) + ["member_too_large"]
    assert most < 16 * len(CELL)


def test_a_chunk_has_fewer_rows_where_they_are_large() -> None:
    rows = [(i, Row(i, bytes(size), "x")) for i, size in enumerate([10, 10, 100, 5, 5, 5])]
    assert [[number for number, _ in chunk] for chunk in in_chunks(rows, 4, 50)] == [[0, 1, 2], [3, 4, 5]]
    begun: list[int] = []

    def start(item: int) -> Future[int]:
        begun.append(item)
        future: Future[int] = Future()
        future.set_result(item)
        return future

    found = in_order(start, range(1, 100), 50, weigh=lambda item: item, most=10)
    assert next(found) == (1, 1)
    assert begun == [1, 2, 3, 4, 5]


def packed_text(path: Path) -> Path:
    path = path / "0.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(20):
            file.write(bytes(8 * 1024**2))
    return path


def deep_table(path: Path) -> Path:
    (path / "0.json").write_text("[" * 100_000)
    return path / "0.json"


def not_a_tar(path: Path) -> Path:
    (path / "0.tar").write_bytes(header("1.png", -512) + bytes(1024))
    return path / "0.tar"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (packed_text, "expected at most 67108864 bytes of text in "),
        (deep_table, "expected JSON: "),
        (not_a_tar, "expected a tar file, found none or a damaged one: "),
    ],
)
def test_a_hostile_file_ends_in_a_line(tmp_path: Path, make: Callable[[Path], Path], line: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ValueError, match=line) as caught:
        told(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_that_a_table_names_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "long.png").write_bytes(PNG)
    monkeypatch.setattr(limits.check_size, "__defaults__", (len(PNG) - 1,))
    (tmp_path / "metadata.csv").write_text("file_name,text\npipe.png,x\nlong.png,y\n")
    assert told(tmp_path / "metadata.csv") == ["no_image", "member_too_large"]


def test_img2datasets_list_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    cells = pa.DictionaryArray.from_arrays(pa.array([0] * COUNT, pa.int32()), pa.array([CELL.decode()]))
    table = pa.table({**{name: ["x"] * COUNT for name in ("status", "error_message", "url")}, "caption": cells})
    pq.write_table(table, tmp_path / "0.parquet", compression="zstd")
    (tmp_path / "0.tar").write_bytes(WHOLE + bytes(1024))
    (shard,) = open_source(tmp_path / "0.tar")
    before, most = pa.default_memory_pool().bytes_allocated(), 0
    found = []
    for _, row in shard.rows():
        found.append(row.caption if isinstance(row, Row) else row.reason)
        most = max(most, pa.default_memory_pool().bytes_allocated() - before)
    assert found == ["a cat", *["not_fetched"] * COUNT]
    assert most < 16 * len(CELL)
