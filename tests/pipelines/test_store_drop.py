"""`llmdiff store drop --missing`, and what `llmdiff encode` says of rows that were moved, edited or deleted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.main import main
from pipelines.requests.encode import EncodeRequest
from storage import EncodingStore
from tests.data.pictures import encoded, picture
from tests.pipelines.conftest import Server, World
from tests.pipelines.test_store_commands import Done
from tests.storage import synthetic

CAPTIONS = ("a red circle", "a blue square", "a green triangle", "a large cross")


def write(folder: Path, captions: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, caption in enumerate(captions):
        (folder / f"{number}.png").write_bytes(encoded(picture(seed=number)))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "drop", "--help")
    assert "Example: llmdiff store drop runs/store --missing" in " ".join(done.out.split())


def test_what_can_not_be_done_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", CAPTIONS[:1])
    of = ("--missing", "--data", tmp_path / "data")
    assert Done(capsys, "drop", tmp_path / "gone", *of).error == f"{tmp_path / 'gone'}: no such store"
    store, llm = synthetic.make_store(tmp_path / "store")
    synthetic.encode(store, llm, "a")
    with pytest.raises(SystemExit) as ended:
        main(["store", "drop", str(store.path), "--data", str(tmp_path / "data")])
    assert ended.value.code == 2
    assert "Missing option '--missing'" in capsys.readouterr().err
    error = f"{store.path}: expected data that were encoded into it, found {tmp_path / 'data'}"
    assert Done(capsys, "drop", store.path, *of).error == error
    assert f"expected one of {llm}" in Done(capsys, "drop", store.path, *of, "--fingerprint", "x").error
    assert len(store.samples()) == 18


def test_rows_are_moved_edited_and_deleted(
    world: World, in_process: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.cli.encode import print_result
    from pipelines.flows.encode import encode_flow

    data, path = tmp_path / "data", tmp_path / "store"

    def encode(*captions: str) -> Any:
        write(data / "pictures", captions)  # those of a deleted row stay, and are told as "pictures"
        result = encode_flow(EncodeRequest(data=str(data), store=str(path), diffusion=world.diffusion, llm=world.llm))
        assert result.rows == result.known + result.samples + sum(result.rejected.values())
        capsys.readouterr()
        print_result(result, str(path))
        return result

    encode(*CAPTIONS[:2], "a gren triangle")
    grown = encode(*CAPTIONS[:2], "a gren triangle", CAPTIONS[3])
    assert (grown.known, grown.repeated, grown.samples, grown.replaced, grown.missing) == (3, 3, 1, 0, 0)
    assert "of the known rows, found by picture and caption in another place: 3" in capsys.readouterr().out
    edited = encode(*CAPTIONS)
    assert (edited.known, edited.samples, edited.replaced, edited.missing) == (3, 1, 1, 0)
    assert "replaced: 1 samples, whose rows were edited" in capsys.readouterr().out
    store = EncodingStore.open(path)
    assert sorted(store.samples()["caption"].to_pylist()) == sorted(CAPTIONS)
    shorter = encode(CAPTIONS[0])
    names = [f"pictures/metadata.jsonl row {row}: {CAPTIONS[row]!r}" for row in (1, 2, 3)]
    assert (shorter.known, shorter.missing, shorter.missing_rows) == (1, 3, names)
    told = capsys.readouterr().err.splitlines()
    assert told[:4] == ["missing: 3 samples, whose rows left the data:", *names]
    assert told[4] == f"to take them out: llmdiff store drop {path} --missing --data <the data>"
    of = ("--missing", "--data", data)
    planned = Done(capsys, "drop", path, *of, "--dry-run")
    assert planned.lines == [*names, "would be taken out: 3 samples"]
    assert len(store.samples()) == 4
    done = Done(capsys, "drop", path, *of, "--json").json
    assert [row["caption"] for row in done["dropped"]] == list(CAPTIONS[1:])
    assert (done["version"], done["dry_run"]) == (store.version, False)
    assert store.samples()["caption"].to_pylist() == [CAPTIONS[0]]
    assert Done(capsys, "drop", path, *of).lines == ["taken out: 0 samples"]
    assert encode(CAPTIONS[0]).missing == 0
    (data / "bad.jsonl").write_bytes(b"\xff\xfe\x00")
    unknown = encode(CAPTIONS[0])
    assert unknown.missing is None
    assert "it is not known which rows left the data: bad.jsonl: " in capsys.readouterr().err
