"""Whatever bytes come: a row, a reject or a line, in bounded time and memory."""

from __future__ import annotations

import gzip
import io
import json
import resource
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llmdiff.adapter.config import AdapterConfig, read_config
from llmdiff.data.images import load_image
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, open_source
from llmdiff.encoder import EncoderConfig
from llmdiff.training.config import TrainSettings
from pipelines.cli.config_files import read_settings
from pipelines.requests.base import checked
from storage import EncodingStore
from storage.maintenance.summary import summarise
from storage.maintenance.verify import verify
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.data.pictures import encoded, picture
from tests.nightly.made_up import JSON, changed, damaged, refused_or
from tests.storage import synthetic

MEMORY = 3 * 1024**3
"""Bytes of address space that anything may take besides what is there when the tests begin."""
nightly = settings(
    max_examples=300,
    deadline=20_000,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
of_stores = settings(nightly, max_examples=40)
"""Each copies a store and reads all of it."""
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Make whatever takes too much memory fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


PICTURES = {
    **{kind: encoded(picture(24, 16), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")},
    "16 bits": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG"),
    "profile": encoded(picture(8, 8), "JPEG", icc_profile=bytes(200)),
}


@nightly
@given(st.sampled_from(sorted(PICTURES)).flatmap(lambda kind: damaged(PICTURES[kind])) | st.binary(max_size=200))
def test_pictures(data: bytes) -> None:
    found = refused_or(lambda: load_image(data, 16))
    assert found is None or (found[0].shape, found[0].dtype) == ((16, 16, 3), np.uint8)


PNG = PICTURES["PNG"]


def a_tar(kind: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind) as tar:
        long = "x" * (50 if kind == tarfile.USTAR_FORMAT else 200)
        members = {
            "a/1.png": PNG,
            "a/1.txt": b"a cat",
            f"{long}.png": PNG,
            f"{long}.json": b'{"caption": "y"}',
        }
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def a_table(kind: str) -> bytes:
    table = pa.table({"image": [PNG, PNG, None], "text": ["a cat", "", "x"], "other": [1, 2, 3]})
    data = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, data, compression="zstd")
    else:
        with pa.ipc.new_file(data, table.schema) if kind == "file" else pa.ipc.new_stream(data, table.schema) as writer:
            writer.write_table(table)
    return data.getvalue()


LINES = b'{"file_name": "1.png", "caption": "a cat"}\n{"file_name": "../x.png", "caption": ["a", ""]}\n'
FILES: dict[str, list[bytes]] = {
    "0.tar": [a_tar(kind) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)],
    "0.tar.gz": [gzip.compress(a_tar(tarfile.PAX_FORMAT))],
    "0.parquet": [a_table("parquet")],
    "0.arrow": [a_table("file"), a_table("stream")],
    "0.jsonl": [LINES],
    "0.jsonl.gz": [gzip.compress(LINES)],
    "0.csv": [b'file_name,caption\n1.png,"a ""cat"""\n2.png,\n', "url,text\nfile:///x,ä\n".encode("utf-16")],
    "0.tsv": [b"caption\ta\nx\ty\n"],
    "0.json": [json.dumps({"1": {"caption": "a"}, "2.png": {"tags": "b"}}).encode(), b'[{"caption": "x"}]'],
    "0.txt": [b"a cat\r\n\xef\xbb\xbf\ra dog\n"],
}


@pytest.mark.parametrize("name", FILES)
@nightly
@given(st.data())
def test_files_of_data(name: str, tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    file = tmp_path / name
    file.write_bytes(data.draw(st.sampled_from(FILES[name]).flatmap(damaged)))
    refused_or(lambda: read(file))


def read(file: Path) -> None:
    """Do with a file all that a run of encode does with it."""
    for shard in open_source(file):
        count, numbers = shard.count, []
        assert len(shard.content_hash) == 64
        for number, row in shard.rows():
            numbers.append(number)
            assert isinstance(row, (Row, BadRow))
            if isinstance(row, Row):
                row.caption.encode()
        assert shard.unread is not None
        assert isinstance(shard.has_pictures, bool)
        first = numbers[0] if numbers else 0  # a later part of a long table goes on counting
        assert numbers == list(range(first, first + count))


YAML = b"steps: 10\nadapter: &a {new_weight: 0.1, base_context: llm}\nother: *a\ng: [1, 2.5, cosine]\n"


@nightly
@given(damaged(YAML) | st.binary(max_size=300))
def test_files_of_settings(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    found = refused_or(lambda: read_settings(tmp_path / "x.yaml"))
    assert found is None or isinstance(found, dict)


@nightly
@given(changed(EncoderConfig().to_dict()) | JSON)
def test_settings_of_the_encoder(values: Any) -> None:
    if isinstance(values, dict):
        refused_or(lambda: EncoderConfig.from_dict(values))


@nightly
@given(changed(json.loads(TrainSettings().model_dump_json())))
def test_settings_of_training(values: Any) -> None:
    if isinstance(values, dict):
        refused_or(lambda: checked(values, TrainSettings, "training settings"))


@nightly
@given(changed(json.loads(AdapterConfig(encoding_dim=16, context_dim=8).model_dump_json())) | JSON)
def test_settings_of_an_adapter(tmp_path: Path, values: Any) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    refused_or(lambda: read_config(tmp_path))


@pytest.fixture(scope="module")
def good_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("good") / "store"
    store, llm = synthetic.make_store(path)
    synthetic.encode(store, llm, "a")
    synthetic.encode(store, llm, "b")
    return path, llm


@pytest.mark.parametrize(
    "pattern", ["store.json", "shards/*/manifest.json", "fingerprints/*.json", "shards/*/*/*/zarr.json"]
)
@of_stores
@given(st.data())
def test_descriptions_of_a_store(
    pattern: str, good_store: tuple[Path, str], tmp_path: Path, data: st.DataObject
) -> None:
    store = fresh_copy(good_store[0], tmp_path)
    file = sorted(store.glob(pattern))[0]
    whole = file.read_bytes()
    new = data.draw(damaged(whole) | changed(json.loads(whole)).map(lambda value: json.dumps(value).encode()))
    file.write_bytes(new)
    refused_or(lambda: look_into(store, good_store[1]))


@of_stores
@given(st.data())
def test_delta_logs_made_by_hand(good_store: tuple[Path, str], tmp_path: Path, data: st.DataObject) -> None:
    store = fresh_copy(good_store[0], tmp_path)
    shutil.rmtree(store / "index" / "checksums", ignore_errors=True)
    file = data.draw(st.sampled_from(sorted((store / "index" / "_delta_log").glob("*.json"))))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    by_hand = changed(lines).map(
        lambda actions: "\n".join(map(json.dumps, actions if isinstance(actions, list) else [actions]))
    )
    file.write_bytes(data.draw(damaged(file.read_bytes()) | by_hand.map(str.encode)))
    refused_or(lambda: look_into(store, good_store[1]))


def fresh_copy(good: Path, folder: Path) -> Path:
    shutil.rmtree(folder / "store", ignore_errors=True)
    return Path(shutil.copytree(good, folder / "store"))


def look_into(path: Path, fingerprint: str) -> None:
    """Do what training, `verify` and `info` do with a store."""
    store = EncodingStore.open(path)
    refused_or(lambda: summarise(store))
    refused_or(lambda: verify(store))
    for batch in EncodingDataset(path, DatasetConfig(fingerprint=fingerprint, batch_size=4)).epoch(0):
        assert 0 < len(batch.rows) <= 4
