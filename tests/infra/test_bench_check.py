"""What `make bench-check` calls a regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENCODE = {"shape": "phi-1.5", "blocks": "2 of 24", "dtype": "float32", "word_path": "block", "captions": "24"}
ENCODE |= {"device": "a CPU, 1 thread(s)", "max_tokens": "256", "prompts": "made", "reading": "score"}
TRAIN = {"device": "a CPU, 1 thread(s)", "what": "adapter on over off"}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import check

    return check


def encoded(ratio: float, spread: float = 0.0, **other: str) -> dict[str, str]:
    low, high = ratio * (1 - spread), ratio * (1 + spread)
    return {**ENCODE, "ratio_p20": str(low), "ratio_p50": str(ratio), "ratio_p80": str(high), **other}


@pytest.mark.parametrize(
    ("ratio", "past", "allowed", "regression"),
    [
        (1.10, [1.08], 0.04, False),
        (1.13, [1.08], 0.04, True),
        (0.50, [1.08], 0.04, False),  # far better
        (1.13, [1.00, 1.08, 1.16], 0.08 / 1.08, False),  # as far apart among themselves
        (1.17, [1.00, 1.08, 1.16], 0.08 / 1.08, True),
        (1.13, [2.00, 2.00, 2.00, 1.08, 1.08, 1.08, 1.08, 1.08], 0.04, True),  # of slower code, long ago
    ],
)
def test_a_ratio_may_be_worse_by_what_its_rows_allow(
    check: ModuleType, ratio: float, past: list[float], allowed: float, regression: bool
) -> None:
    (found,) = check.compare(check.FIGURES["encode"], [encoded(ratio)], [encoded(each) for each in past])
    assert found.allowed == pytest.approx(allowed)
    assert found.is_regression is regression


@pytest.mark.parametrize(
    ("new", "past", "allowed"),
    [(0.0, 0.1, 0.1), (0.1, 0.0, 0.1), (0.06, 0.08, 0.1), (0.01, 0.02, 0.04)],  # as errors add up; at least the least
)
def test_the_rounds_of_both_rows_say_how_sure_they_are(
    check: ModuleType, new: float, past: float, allowed: float
) -> None:
    (found,) = check.compare(check.FIGURES["encode"], [encoded(1.09, spread=new)], [encoded(1.0, spread=past)])
    assert (found.allowed, found.is_regression) == (pytest.approx(allowed), allowed < 0.09)


def test_each_reading_is_measured_with_the_word_paths_that_it_has(check: ModuleType) -> None:
    import encode

    asked = encode.parse(["--reading", "last", "score_norm", "score"])
    score = [("score", "block"), ("score", "isolated")]
    assert list(encode.readings_of(asked)) == [("last", ""), ("score_norm", "block"), *score]
    assert list(encode.readings_of(encode.parse([]))) == score


@pytest.mark.parametrize(
    "other",
    [{"device": "a CPU, 2 thread(s)"}, {"blocks": "4 of 24"}, {"word_path": "isolated"}, {"reading": "last"}],
)
def test_rows_of_other_devices_and_sizes_say_nothing(check: ModuleType, other: dict[str, str]) -> None:
    (found,) = check.compare(check.FIGURES["encode"], [encoded(9.0)], [encoded(1.0, **other)])
    assert (found.before, found.rows, found.is_regression) == (None, 0, False)


def reading(ratio: float, low: float, high: float) -> dict[str, str]:
    row = {"device": "a CPU, 1 thread(s)", "name": "reading an epoch", "peer": "np.memmap", "width": "2048"}
    row |= {"prompts": "made", "captions": "10", "cache": "warm"}
    return {**row, "ratio": str(ratio), "ratio_p20": str(low), "ratio_p80": str(high)}


@pytest.mark.parametrize(("ratio", "regression"), [(0.9, False), (0.65, False), (0.6, True)])
def test_of_reading_more_is_better(check: ModuleType, ratio: float, regression: bool) -> None:
    past = [reading(0.7, 0.7, 0.7), {**reading(0.7, 0.7, 0.7), "name": "overhead", "ratio": ""}]
    (found,) = check.compare(check.FIGURES["read"], [reading(ratio, ratio, ratio)], past)
    assert found.is_regression is regression


def test_how_rounds_spread_is_no_setting(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    past = {**TRAIN, "setting": "SD 1.5, batch 1; ratio 1.0 to 1.1 (p20, p80) in 4 rounds", "ratio": "1.03"}
    new = {**TRAIN, "setting": "SD 1.5, batch 1; ratio 1.2 to 1.3 (p20, p80) in 3 rounds", "ratio": "1.20"}
    verdicts = check.compare(check.FIGURES["adapter"], [new, {**new, "ratio": ""}], [past])
    assert [each.is_regression for each in verdicts] == [True]
    check.print_table(verdicts)
    assert "REGRESSION" in capsys.readouterr().out


@pytest.fixture
def measured(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """What makes a benchmark give these rows, each in its turn; at the end all must have been asked for."""
    left: dict[str, list[dict[str, str]]] = {}

    def script(name: str) -> Any:
        made: Any = ModuleType(name)
        made.main = lambda arguments: check.append_row(name, left[name].pop(0), Path(arguments[-1]))
        return made

    monkeypatch.setattr(check, "import_module", script)
    yield lambda name, *rows: left.update({name: list(rows)})
    assert not any(left.values())


def exit_code(check: ModuleType, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        check.main(list(arguments))
    return int(ended.value.code or 0)


def test_a_regression_is_the_exit_code_and_rows_are_added_when_asked(
    check: ModuleType, measured: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured("encode", *map(encoded, (1.0, 1.0, 1.2, 1.2)))
    run = ["--part", "encode", "--results", str(tmp_path)]
    assert [exit_code(check, *run, *more) for more in ([], ["--write"], [])] == [0, 0, 1]
    assert len(check.read_rows(tmp_path / "encode.csv")) == 1
    assert capsys.readouterr().out.count("the machine's load before it was measured") == 1


def test_what_is_worse_once_alone_is_no_regression(
    check: ModuleType, measured: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first two rows were measured one after the other on a quiet machine, of the same code."""
    measured("store", *(reading(*row) for row in ((0.598, 0.571, 0.624), (0.533, 0.507, 0.607), (0.58, 0.55, 0.6))))
    run = ["--part", "read", "--results", str(tmp_path), "--write"]
    assert [exit_code(check, *run) for _ in range(2)] == [0, 0]
    assert "measured once more" in capsys.readouterr().out
    assert [row["ratio"] for row in check.read_rows(tmp_path / "store.csv")] == ["0.598", "0.58"]
