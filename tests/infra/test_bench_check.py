"""What `make bench-check` calls a regression."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENCODE = {"shape": "phi-1.5", "blocks": "2 of 24", "dtype": "float32", "word_path": "block", "captions": "24"}
ENCODE |= {"device": "a CPU, 1 thread(s)", "max_tokens": "256", "prompts": "made"}
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


def test_the_rounds_of_a_row_say_how_sure_it_is(check: ModuleType) -> None:
    (found,) = check.compare(check.FIGURES["encode"], [encoded(1.2)], [encoded(1.1, spread=0.1)])
    assert (found.allowed, found.is_regression) == (pytest.approx(0.1), False)


@pytest.mark.parametrize("other", [{"device": "a CPU, 2 thread(s)"}, {"blocks": "4 of 24"}, {"word_path": "isolated"}])
def test_rows_of_other_devices_and_sizes_say_nothing(check: ModuleType, other: dict[str, str]) -> None:
    (found,) = check.compare(check.FIGURES["encode"], [encoded(9.0)], [encoded(1.0, **other)])
    assert (found.before, found.rows, found.is_regression) == (None, 0, False)


def test_of_reading_more_is_better(check: ModuleType) -> None:
    row = {"device": "a CPU, 1 thread(s)", "name": "reading an epoch", "peer": "np.memmap", "width": "2048"}
    row |= {"prompts": "made", "captions": "10", "cache": "warm", "ratio_p20": "0.7", "ratio_p80": "0.7"}
    past = [{**row, "ratio": "0.7"}, {**row, "name": "overhead", "ratio": ""}]
    for ratio, regression in ((0.9, False), (0.65, False), (0.6, True)):
        (found,) = check.compare(check.FIGURES["read"], [{**row, "ratio": str(ratio)}], past)
        assert found.is_regression is regression, ratio


def test_how_rounds_spread_is_no_setting(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    past = {**TRAIN, "setting": "SD 1.5, batch 1; ratio 1.0 to 1.1 (p20, p80) in 4 rounds", "ratio": "1.03"}
    new = {**TRAIN, "setting": "SD 1.5, batch 1; ratio 1.2 to 1.3 (p20, p80) in 3 rounds", "ratio": "1.20"}
    verdicts = check.compare(check.FIGURES["adapter"], [new, {**new, "ratio": ""}], [past])
    assert [each.is_regression for each in verdicts] == [True]
    check.print_table(verdicts)
    assert "REGRESSION" in capsys.readouterr().out


def test_a_regression_is_the_exit_code_and_rows_are_added_when_asked(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = iter((1.0, 1.0, 1.2))

    def measure(arguments: list[str]) -> None:
        check.append_row("encode", encoded(next(ratios)), Path(arguments[-1]))

    fake: Any = ModuleType("encode")
    fake.main = measure
    monkeypatch.setattr(check, "import_module", lambda name: fake)
    codes = []
    for more in ([], ["--write"], []):
        with pytest.raises(SystemExit) as ended:
            check.main(["--part", "encode", "--results", str(tmp_path), *more])
        codes.append(int(ended.value.code or 0))
    assert codes == [0, 0, 1]
    assert len(check.read_rows(tmp_path / "encode.csv")) == 1
