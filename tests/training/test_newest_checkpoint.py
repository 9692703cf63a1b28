"""A run goes on from the newest checkpoint that is whole, and from no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmdiff.model_files.manifest import write_manifest
from llmdiff.training.checkpoints.checkpoint import save
from llmdiff.training.checkpoints.newest import FILES, newest_state, newest_whole
from llmdiff.training.checkpoints.state import State, complete
from llmdiff.training.config import TrainConfig
from llmdiff.training.optimiser.ema import EMA
from llmdiff.training.validation import cut_samples
from tests.adapter import tiny
from tests.damage import DAMAGES, cut, flip


def write(folder: Path, step: int, keep: int = 9) -> None:
    """A checkpoint of random weights."""
    adapter = tiny.adapter(tiny.unet())
    moments = {"phi.linear.weight.exp_avg": torch.randn(4, 8)}
    save(folder, State(step=step, global_batch=4, loss_scale=1.0), adapter, moments, EMA(adapter.state(), 0.9), keep)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints that no test changes."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    for step in (4, 8):
        write(folder, step)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "checkpoints")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("training warning: checkpoint left: ")]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_damaged_in_any_way_it_is_left_for_the_one_before(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    newest = folder / "step-00000008"
    damage(newest / name)
    assert newest_whole(folder) == folder / "step-00000004"
    (line,) = lines(caplog)
    assert line.startswith(f"training warning: checkpoint left: {newest / name}: damaged: expected ")
    assert line.endswith("; going on from step-00000004")


def test_whole_nothing_is_said(written: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_whole(written) == written / "step-00000008"
    assert caplog.messages == []
    state = newest_state(written)
    assert state is not None
    assert state.step == 8


def change_step(path: Path) -> None:
    state = path / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "step": 7}))


def test_a_changed_step_is_not_believed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_step(folder / "step-00000008")
    assert newest_whole(folder) == folder / "step-00000004"
    assert "step-00000008/state.json: damaged: expected " in lines(caplog)[0]
    state = newest_state(folder)
    assert state is not None
    assert state.step == 4


def test_where_all_are_damaged_each_is_named_and_nothing_begins_anew(folder: Path) -> None:
    flip(folder / "step-00000008" / "optimizer.safetensors")
    cut(folder / "step-00000004" / "ema" / "adapter.safetensors")
    with pytest.raises(
        ValueError, match=r"found step-00000004, step-00000008, all damaged: .*8/opt.*; .*4/ema.*restart"
    ):
        newest_whole(folder)


def test_checkpoints_that_all_lost_their_manifest_are_damaged_too(folder: Path) -> None:
    for path in complete(folder):
        (path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"all damaged: .*8/manifest\.json: .*; .*4/manifest\.json: "):
        newest_whole(folder)


def test_one_that_was_cut_short_while_it_was_saved_counts_for_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in complete(folder):
        (path / "manifest.json").unlink()
        (path / "state.json").unlink()
    assert complete(folder) == []
    assert newest_whole(folder) is None
    assert [line.rpartition("; ")[2] for line in lines(caplog)] == ["beginning at step 0"] * 2


@pytest.fixture
def earlier(folder: Path) -> Path:
    """Files as earlier versions wrote them."""
    for path in folder.rglob("manifest.json"):
        path.unlink()
    return folder


def test_an_earlier_versions_are_taken_by_their_sizes(earlier: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_whole(earlier) == earlier / "step-00000008"
    (line,) = caplog.messages
    assert line.startswith(f"{earlier / 'step-00000008'}: no manifest.json, as earlier versions")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: cut(path / "ema" / "adapter.safetensors"), "the file is cut short"),
        (lambda path: (path / "optimizer.safetensors").unlink(), "No such file"),
        (change_step, "expected the state of step-00000008, found step 7"),
    ],
)
def test_an_earlier_versions_that_are_damaged_are_left(
    earlier: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], message: str
) -> None:
    damage(earlier / "step-00000008")
    assert newest_whole(earlier) == earlier / "step-00000004"
    assert message in lines(caplog)[0]


def test_a_damaged_one_of_a_later_step_does_not_take_a_good_ones_place(folder: Path) -> None:
    flip(folder / "step-00000008" / "state.json")
    write(folder, 6, keep=1)
    assert complete(folder) == [folder / "step-00000006"]
    assert newest_whole(folder) == folder / "step-00000006"


def test_what_is_no_checkpoint_stays(folder: Path, tmp_path: Path) -> None:
    """A user's copy under another name, a note, a link: none is gone on from, and none is removed."""
    kept = shutil.copytree(folder / "step-00000008", folder / "step-00000008.good")
    (folder / "step-notes.txt").write_text("mine")
    elsewhere = shutil.copytree(folder / "step-00000004", tmp_path / "elsewhere")
    (folder / "step-00000001").symlink_to(elsewhere)
    write(folder, 9, keep=1)
    assert complete(folder) == [folder / "step-00000001", folder / "step-00000009"]
    assert (kept / "state.json").exists()
    assert (elsewhere / "state.json").exists()
    assert (folder / "step-notes.txt").read_text() == "mine"
    assert newest_whole(folder) == folder / "step-00000009"


def test_only_samples_that_were_drawn_too_early_are_removed(tmp_path: Path) -> None:
    config = TrainConfig(store="", fingerprint="", base="", output=str(tmp_path), steps=1)
    (tmp_path / "samples").mkdir()
    drawn = ["step-00000004.png", "step-00000004.safetensors"]
    others = ["my-step-1.png", "step-up.png", "step-00000009.png.bak", "step-by-step.part"]
    for name in (*drawn, *others, "step-00000008.png", "step-00000008.safetensors", ".step-00000008.png.1-2.part"):
        (tmp_path / "samples" / name).touch()
    cut_samples(config, 4)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == sorted([*drawn, *others])


def test_a_manifest_names_nothing_outside_its_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_manifest(folder / "step-00000008", (*FILES, "../step-00000004/state.json"))
    assert newest_whole(folder) == folder / "step-00000004"
    assert "expected names inside of the folder, found '../step-00000004/state.json'" in lines(caplog)[0]
