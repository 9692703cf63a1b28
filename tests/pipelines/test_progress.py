"""What a piece of work says about itself while it goes on."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from infra.tracking.run import run_page
from pipelines.runtime import progress
from pipelines.runtime.artifacts import PIXELS, data_url
from pipelines.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(monotonic=lambda: now.seconds, seconds=100.0)
    monkeypatch.setattr(progress, "time", now)
    return now


def test_the_time_left_is_that_of_this_runs_own_pace(clock: SimpleNamespace) -> None:
    work = Progress("train", 1000, "step")
    clock.seconds += 60
    work.count_from(400)
    clock.seconds += 50
    work.reach(500, "loss 0.1")
    clock.seconds += 1000
    assert work.line() == "train: 500 of 1000 steps (50 %), 2 a second, 04:10 left, loss 0.1"
    work.reach(1000)
    assert "left" not in work.line()


def test_lines_come_at_each_tenth_and_twice_a_minute(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, int]] = []

    def report(work: Progress) -> None:
        told.append((clock.seconds - 100, work.done))
        work.reported, work.reported_at = work.done, clock.seconds

    monkeypatch.setattr(Progress, "report", report)
    fast, slow = Progress("encode", 100, "row"), Progress("encode", 1000, "row")
    for _ in range(100):
        clock.seconds += 0.125
        fast.reach(fast.done + 1)
    assert [done for _, done in told] == [24, 48, 72, 96]
    told.clear()
    clock.seconds = slow.reported_at
    for _ in range(90):
        clock.seconds += 1
        slow.reach(slow.done + 1)
    assert told == [(30, 30), (60, 60), (90, 90)]


def test_nothing_is_said_of_a_total_that_nobody_knows() -> None:
    work = Progress("train", None, "step")
    work.reach(3)
    assert work.percent() == 0
    assert work.line().startswith("train: 3 steps, ")


def test_outside_of_a_flow_prefect_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("score", 2, "picture") as work:
        progress.advance(2)
        work.warn("something")
        progress.say("a picture is there")
    assert work.artifact is None
    told = capsys.readouterr().err
    assert "warning: something" in told
    assert re.search(r"a picture is there \(\d+\.\d s\)", told)
    progress.say("nobody works")
    assert capsys.readouterr().err == ""


def test_what_is_tried_again_is_never_past_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("encode", 10, "row") as work:
        for _ in range(3):
            progress.advance(4)
    assert (work.done, work.percent()) == (10, 100)


def test_a_picture_inside_a_page_is_not_too_large(tmp_path: Path) -> None:
    for name, size in (("small", (30, 20)), ("large", (4000, 900))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    shown = [
        Image.open(io.BytesIO(base64.b64decode(data_url(tmp_path / f"{name}.png").partition(",")[2])))
        for name in ("small", "large")
    ]
    assert shown[0].size == (30, 20)
    assert 0.99 * PIXELS < shown[1].width * shown[1].height <= PIXELS
    assert shown[1].width / shown[1].height == pytest.approx(4000 / 900, rel=0.01)


def test_a_run_tracked_in_a_file_has_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_page("0123") is None
