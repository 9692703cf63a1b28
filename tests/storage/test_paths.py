"""What a path of a store does, on a disk and in an object store."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.process.tcp_ports import free_port
from storage import EncodingStore
from storage.io.objects import ObjectPath
from storage.io.paths import LocalPath, StorePath, remove_all, store_path, tree_size


class PathContract:
    """A backend's test class inherits this and has a fixture `root`: a path where nothing lies."""

    def test_a_file_is_written_whole_and_read(self, root: StorePath) -> None:
        path = root / "folder" / "file.bin"
        path.parent.make_folder()
        assert not path.exists()
        with pytest.raises(FileNotFoundError, match=r"folder/file\.bin"):
            path.read_bytes()
        for data in (b"first", b"second and longer", b""):
            path.write(data)
            assert path.read_bytes() == data
            assert path.file_size() == len(data)
        assert path.exists()
        assert path.is_file()
        assert [child.name for child in path.parent.children()] == ["file.bin"], "no other file is left"
        path.sync()
        path.parent.sync()

    def test_names_and_joining(self, root: StorePath) -> None:
        path = root / "a" / "b.json"
        assert (path.name, path.stem, path.parent, path.parent.parent) == ("b.json", "b", root / "a", root)
        assert str(path) == f"{root}/a/b.json"
        assert store_path(str(path)) == path
        assert type(path) is type(path.parent) is type(root)
        assert len({path, root / "a" / "b.json"}) == 1
        assert pickle.loads(pickle.dumps(path)) == copy.deepcopy(path) == path  # noqa: S301

    def test_a_folder_is_listed(self, root: StorePath) -> None:
        assert root.children() == []
        assert root.file_sizes() == {}
        for name in ("z", "a", "deep/b", "deep/er/c"):
            (root / name).parent.make_folder()
            (root / name).write(name.encode())
        assert root.children() == [root / "a", root / "deep", root / "z"]
        assert root.file_sizes() == {"a": 1, "z": 1, "deep/b": 6, "deep/er/c": 9}
        assert tree_size(root) == 17
        assert tree_size(root / "none") == 0

    def test_a_file_or_a_folder_is_removed(self, root: StorePath) -> None:
        for name in ("kept", "file", "deep/er/c"):
            (root / name).parent.make_folder()
            (root / name).write(b"x")
        remove_all([root / "file", root / "deep", root / "never-there"])
        assert root.children() == [root / "kept"]

    def test_what_is_staged_is_published(self, root: StorePath) -> None:
        target = root / "shard"
        target.make_folder()
        staging = target.staging_folder()
        (staging / "array").mkdir()
        (staging / "array" / "c").write_bytes(b"chunk")
        target.publish(staging)
        target.discard(staging)
        assert target.file_sizes() == {"array/c": 5}
        assert isinstance(target, Path) or not staging.exists()

    def test_pyarrow_reads_from_it(self, root: StorePath) -> None:
        root.make_folder()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"row": [1, 2]}), sink)
        (root / "rows.parquet").write(sink.getvalue().to_pybytes())
        assert pq.read_table((root / "rows.parquet").arrow_source())["row"].to_pylist() == [1, 2]


class TestOnADisk(PathContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> StorePath:
        return store_path(tmp_path / "root")

    def test_it_is_a_path_of_pathlib(self, root: LocalPath) -> None:
        assert isinstance(root, Path)
        root.make_folder()
        (root / "file").write(b"x")
        assert list(root.rglob("*")) == [root / "file"] == [Path(str(root)) / "file"]

    def test_a_file_in_the_way_of_a_folder(self, root: LocalPath) -> None:
        root.make_folder()
        (root / "file").write(b"x")
        assert (root / "file" / "below").file_in_the_way() == root / "file"
        assert (root / "new" / "below").file_in_the_way() is None

    def test_a_failed_write_leaves_what_was_there(self, small_disk: Path) -> None:
        path = store_path(small_disk / "file")
        path.write(b"good")
        with pytest.raises(OSError, match=r"No space left on device: .*/file'"):
            path.write(bytes(2 * 1024 * 1024))
        assert path.read_bytes() == b"good"
        assert path.parent.children() == [path]


class TestInAnObjectStore(PathContract):
    @pytest.fixture
    def root(self, s3_url: str) -> StorePath:
        return store_path(s3_url)

    def test_of_several_that_create_an_object_one_does(self, root: ObjectPath) -> None:
        assert [(root / "lock").create(name) for name in (b"first", b"second")] == [True, False]
        assert (root / "lock").read_bytes() == b"first"

    def test_the_environment_of_the_moment_names_the_server(
        self, root: ObjectPath, s3_server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A notebook may set it once the first attempt has failed."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        nowhere = root.client
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
        assert root.client is root.client is not nowhere
        (root / "file").write(b"here")
        assert (root / "file").read_bytes() == b"here"


@pytest.mark.parametrize("kind", [str, Path, LocalPath])
def test_a_store_opens_at_any_kind_of_path(tmp_path: Path, kind: type) -> None:
    store = EncodingStore.create(kind(tmp_path / "store"))
    assert str(store.path) == f"{tmp_path}/store"
    assert EncodingStore.open(kind(store.path)).path == store.path == tmp_path / "store"


def test_a_relative_path_is_printed_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(EncodingStore.create("runs/store").path) == "runs/store"


@pytest.mark.parametrize("name", ["per%20cent", "a%2Fb"])
def test_a_path_that_the_index_would_be_lost_at_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a path without '%2.', which Delta"):
        EncodingStore.create(tmp_path / name)
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}/store: expected a path without"):
        store_path("store")


@pytest.mark.parametrize("name", ["100 %", "ünï côde", "hash#q?u&", "a+b"])
def test_other_characters_of_a_path_are_themselves(name: str, tmp_path: Path) -> None:
    store = EncodingStore.create(tmp_path / name)
    fingerprint = store.register_fingerprint({"kind": "llm"})
    assert EncodingStore.open(tmp_path / name).fingerprints().keys() == {fingerprint}
