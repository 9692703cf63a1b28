"""Pictures and captions in every layout that people bring, and what is read of a folder."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, open_source
from tests.data.pictures import encoded, picture, write_imagefolder, write_tar

PNG = [encoded(picture(seed=seed)) for seed in range(4)]
CAPTIONS = ["a red circle", "a blue square", "ein Kätzchen", "a green one, large"]
PAIRS = list(zip(PNG, CAPTIONS, strict=True))


def samples(path: Path) -> list[tuple[bytes, str]]:
    rows = [row for shard in open_source(path) for _, row in shard.rows()]
    return sorted((bytes(row.image or b""), row.caption) for row in rows if isinstance(row, Row))


def refused(path: Path) -> list[str]:
    return [str(row) for shard in open_source(path) for _, row in shard.rows() if isinstance(row, BadRow)]


def sidecars(ending: str, write: Callable[[str], bytes]) -> Callable[[Path], None]:
    def layout(folder: Path) -> None:
        for i, (png, caption) in enumerate(PAIRS):
            (folder / f"{i}.png").write_bytes(png)
            (folder / f"{i}.{ending}").write_bytes(write(caption))

    return layout


def columns(image: str, caption: str) -> Callable[[Path], None]:
    def layout(folder: Path) -> None:
        pq.write_table(pa.table({image: PNG, caption: CAPTIONS}), folder / "a.parquet", compression="zstd")

    return layout


def img2dataset_files(folder: Path) -> None:
    (folder / "00000").mkdir()
    sidecars("txt", str.encode)(folder / "00000")
    for i in range(4):
        (folder / "00000" / f"{i}.json").write_text(json.dumps({"caption": CAPTIONS[i], "key": str(i)}))
    write_list(folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")


def img2dataset_tar(folder: Path) -> None:
    members: dict[str, bytes | str] = {}
    for i, (png, caption) in enumerate(PAIRS):
        members |= {f"{i}.png": png, f"{i}.txt": caption, f"{i}.json": "{}"}
    write_tar(folder / "00000.tar", members)
    write_list(folder / "00000.parquet")


def write_list(path: Path) -> None:
    """Write a list as img2dataset leaves it: the rows that it got, and one that it did not."""
    rows = [
        {"url": f"http://x/{i}", "caption": c, "status": "success", "error_message": None}
        for i, c in enumerate(CAPTIONS)
    ]
    gone = {"url": "http://x/gone", "caption": "gone", "status": "failed_to_download", "error_message": "HTTP 404"}
    pq.write_table(pa.Table.from_pylist([*rows, gone]), path)


def saved_to_disk(folder: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures = pa.array([{"bytes": png, "path": None} for png in PNG], kind)
    table = pa.table({"image": pictures, "text": pa.array(CAPTIONS, pa.large_string())})
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    for name in ("dataset_info.json", "state.json"):
        (folder / name).write_text("{}")


def dictionary(folder: Path) -> None:
    for i, png in enumerate(PNG):
        (folder / f"{i}.png").write_bytes(png)
    by_name: dict[str, object] = {"0.png": CAPTIONS[0], "1": {"caption": CAPTIONS[1], "tags": "x"}}
    by_name |= {"2.png": {"tags": CAPTIONS[2]}, "3.png": {"text": CAPTIONS[3]}}
    (folder / "meta.json").write_text(json.dumps(by_name))


def list_of_rows(folder: Path) -> None:
    for i, png in enumerate(PNG):
        (folder / f"{i}.png").write_bytes(png)
    (folder / "rows.json").write_text(json.dumps([{"image": f"{i}.png", "Text": c} for i, c in enumerate(CAPTIONS)]))


def packed(kind: str, ending: str) -> Callable[[Path], None]:
    def layout(folder: Path) -> None:
        if kind == "zst":
            plain = folder / "plain.tar"
            with tarfile.open(plain, "w") as tar:
                add_members(tar, folder)
            codec = pa.Codec("zstd")
            (folder / f"a.{ending}").write_bytes(codec.compress(plain.read_bytes(), asbytes=True))
            plain.unlink()
        else:
            with tarfile.open(folder / f"a.{ending}", f"w:{kind}") as tar:
                add_members(tar, folder)

    return layout


def add_members(tar: tarfile.TarFile, folder: Path) -> None:
    for i, (png, caption) in enumerate(PAIRS):
        for name, data in ((f"v1.{i}.png", png), (f"v1.{i}.txt", caption.encode())):
            (folder / name).write_bytes(data)
            tar.add(folder / name, name)
            (folder / name).unlink()


def packed_lines(folder: Path) -> None:
    write_imagefolder(folder, PAIRS)
    lines = (folder / "metadata.jsonl").read_bytes()
    (folder / "metadata.jsonl").unlink()
    (folder / "photos.jsonl.gz").write_bytes(gzip.compress(lines))


def dictionary_column(folder: Path) -> None:
    captions = pa.array(CAPTIONS).dictionary_encode()
    pq.write_table(pa.table({"png": PNG, "TEXT": captions, "URL": ["http://x"] * 4}), folder / "a.parquet")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "imagefolder": lambda folder: (write_imagefolder(folder, PAIRS), None)[1],
    "pictures with .txt": sidecars("txt", str.encode),
    "pictures with .caption": sidecars("caption", str.encode),
    "pictures with .json": sidecars("json", lambda caption: json.dumps({"caption": caption}).encode()),
    "img2dataset files": img2dataset_files,
    "img2dataset webdataset": img2dataset_tar,
    "img2dataset parquet": columns("jpg", "caption"),
    "columns webp and prompt": columns("webp", "prompt"),
    "save_to_disk": saved_to_disk,
    "dictionary by file name": dictionary,
    "list of rows": list_of_rows,
    "tar.gz": packed("gz", "tar.gz"),
    "tgz": packed("gz", "tgz"),
    "tar.bz2": packed("bz2", "tar.bz2"),
    "tar.zst": packed("zst", "tar.zst"),
    "jsonl.gz": packed_lines,
    "dictionary column": dictionary_column,
}
