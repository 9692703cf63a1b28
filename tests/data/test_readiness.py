"""Files that are still being written are told from whole ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llmdiff.data.sources import ReadinessPolicy, list_data, readiness, scan, signature
from tests.data.pictures import encoded, picture, write_parquet, write_tar


def look(root: Path, **how: float) -> tuple[list[str], dict[str, str]]:
    found = scan(root, list_data(root, may_be_empty=True).files, ReadinessPolicy(**{"settle": 0.0, **how}))
    return [name for _, name in found.whole], found.unfinished


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "a.parquet", [(encoded(picture()), "a red circle")])
    write_tar(tmp_path / "b.tar", {"0.png": encoded(picture()), "0.txt": "a red circle"})
    (tmp_path / "c.jsonl").write_text('{"text": "a red circle"}\n')
    return tmp_path


def test_whole_files_are_whole(data: Path) -> None:
    assert look(data) == (["a.parquet", "b.tar", "c.jsonl"], {})


@pytest.mark.parametrize(("name", "message"), [("a.parquet", "no footer yet after"), ("b.tar", "no end yet after")])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_without_its_end_is_unfinished_until_it_is_abandoned(
    data: Path, name: str, message: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (data / name).read_bytes()
    (data / name).write_bytes(content[: int(len(content.rstrip(b"\0")) * share)])  # a tar is filled up after its end
    whole, left = look(data)
    assert name not in whole
    assert len(whole) == 2
    assert message in left[name]
    monkeypatch.setattr(readiness, "ABANDONED_AFTER", 0.0)
    assert look(data)[1] == {}  # whoever reads it says what is wrong with it


def test_what_is_no_parquet_at_all_is_not_waited_for(data: Path) -> None:
    (data / "a.parquet").write_bytes(b"not parquet, but long enough for a footer")
    assert look(data)[1] == {}


def test_a_young_file_gets_a_second_look_and_one_that_changes_is_left(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def grow(seconds: float) -> None:
        waited.append(seconds)
        (data / "c.jsonl").write_text('{"text": "a red circle"}\n{"text": "a blue square"}\n')
        (data / "b.tar").unlink()

    os.utime(data / "b.tar", (0, 0))
    monkeypatch.setattr(readiness.time, "sleep", grow)
    whole, left = look(data, settle=60.0)
    assert whole == ["a.parquet"]
    assert left == {"b.tar": "changing: 10240 bytes, then gone", "c.jsonl": "changing: 25 bytes, then 51"}
    assert 0 < waited[0] <= 60


def test_settled_files_are_not_waited_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(readiness.time, "sleep", waited.append)
    for file in data.iterdir():
        os.utime(file, (0, 0))
    (data / "a.parquet").write_bytes(b"PAR1 and no more")  # not waited for: it is unfinished whatever comes
    assert look(data, settle=60.0)[0] == ["b.tar", "c.jsonl"]
    assert waited == [0.0]


def test_a_folder_says_itself_whether_it_is_finished(data: Path) -> None:
    job = data / "job" / "day=1"
    write_parquet(job / "part-0.parquet", [(encoded(picture()), "a red circle")])
    write_parquet(data / "job" / "_temporary" / "0" / "part-1.parquet", [(encoded(picture()), "a red circle")])
    whole, left = look(data)
    assert whole == ["a.parquet", "b.tar", "c.jsonl"]
    assert left == {"job/day=1/part-0.parquet": f"a job is writing: {data}/job/_temporary is there"}
    (data / "job" / "_temporary").rename(data / "done")
    assert look(data)[1] == {}
    without = look(data, wait_for_success=True)[1]
    assert set(without.values()) == {f"no _SUCCESS in {folder}" for folder in (data, data / "done" / "0", job)}
    (data / "job" / "_SUCCESS").touch()
    assert look(data, wait_for_success=True)[0] == ["job/day=1/part-0.parquet"]


def test_a_single_file_and_an_empty_folder(data: Path, tmp_path: Path) -> None:
    assert look(data / "a.parquet") == (["a.parquet"], {})
    assert "no _SUCCESS" in look(data / "a.parquet", wait_for_success=True)[1]["a.parquet"]
    (tmp_path / "none").mkdir()
    assert look(tmp_path / "none") == ([], {})


def test_the_signature_changes_with_any_file_but_those_left_out(data: Path) -> None:
    first = signature(data)
    assert signature(data) == first
    (data / "picture.png").write_bytes(b"1")
    second = signature(data)
    assert second != first
    assert signature(data, [data / "picture.png"]) == first
    (data / "picture.png").write_bytes(b"12")
    assert signature(data) not in (first, second)


def test_the_signature_is_what_it_was_for_scans_that_were_kept(data: Path) -> None:
    file = data / "picture.png"
    file.write_bytes(b"12")
    os.utime(file, ns=(7, 7))
    text = f"{file}\0Look(bytes=2, changed=7, tags=())\n"
    others = [path for path in data.rglob("*") if path != file]
    assert signature(data, others) == hashlib.sha256(text.encode()).hexdigest()


def test_a_folder_of_pictures_is_unfinished_while_one_of_them_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "growing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded(picture()))
        (tmp_path / name / "1.txt").write_text("a cat")
    with (tmp_path / "growing" / "1.png").open("ab") as growing:

        def write(seconds: float) -> None:
            growing.write(b"more")
            growing.flush()

        monkeypatch.setattr(readiness.time, "sleep", write)
        whole, left = look(tmp_path)
    assert whole == ["whole"]
    assert left["growing"].startswith("changing: ")
    monkeypatch.undo()
    (tmp_path / "whole" / "_temporary").mkdir()
    assert "a job is writing" in look(tmp_path)[1]["whole"]


def test_data_in_a_linked_folder_change_too(tmp_path: Path) -> None:
    """The listing follows such folders; a link that leads back is gone into once."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, elsewhere):
        folder.mkdir()
    (data / "part").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(data)
    (elsewhere / "c.jsonl").write_text('{"text": "a"}')
    before = signature(data)
    assert signature(data) == before
    (elsewhere / "c.jsonl").write_text('{"text": "a"}\n{"text": "b"}')
    assert signature(data) != before
