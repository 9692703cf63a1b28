"""Whether a few ratios are still what they were: measured in under three minutes, and held against the tracked rows.

    python benchmarks/check.py              # exit code 1 where one is worse than its rows allow
    python benchmarks/check.py --part read
    python benchmarks/check.py --write      # and add the rows, which later checks on this machine are held against

Each part is another benchmark with these arguments, whose rows go into a folder of their own. Ratios of one run, taken
in turns, carry over from day to day, and hardly from one machine to another: a row counts that is of the same device,
threads, sizes and types. The kernel is in no part, for what it takes in Triton's interpreter says nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median

from common.measure import RESULTS, append_row
from common.prompts import MADE

Row = dict[str, str]
NEWEST = 5
"""Rows of the past that count: older ones may be of code that was slower."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A ratio of a benchmark's rows, and which rows are of the same measurement."""

    name: str
    script: str
    """The benchmark's module; its rows are in the file of `file`."""
    arguments: tuple[str, ...]
    file: str
    ratio: str
    """Column of the ratio, the median of its rounds."""
    spread: tuple[str, str] | None
    """Columns of the 20th and the 80th percentile of the rounds, where there are some."""
    more_is_better: bool
    least: float
    """Share by which a ratio may be worse than its rows even where these agree: what other programs on the machine do
    to it."""
    key: Callable[[Row], tuple[str, ...]]
    """What is the same in rows that can be compared; the first is the device, with its threads."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a new row compares with those of the past."""

    figure: str
    what: str
    new: float
    before: float | None
    """The median of the comparable rows; None where there are none."""
    rows: int
    allowed: float
    """Share by which it may be worse."""
    change: float
    """Share by which it is worse; below zero where it is better."""

    @property
    def is_regression(self) -> bool:
        return self.before is not None and self.change > self.allowed


def columns(*names: str) -> Callable[[Row], tuple[str, ...]]:
    """Return what gives a row's values of some columns."""
    return lambda row: tuple(row[name] for name in names)


FIGURES = {
    "encode": Figure(
        name="encoding over a plain pass",
        script="encode",
        arguments=(
            *("--part", "text", "--shape", "phi-1.5", "--blocks", "2", "--captions", "8", "--dtype", "float32"),
            *("--rounds", "5", "--threads", "2", "--against"),
        ),
        file="encode.csv",
        ratio="ratio_p50",
        spread=("ratio_p20", "ratio_p80"),
        more_is_better=False,
        least=0.04,
        key=columns("device", "shape", "blocks", "dtype", "word_path", "captions", "max_tokens", "prompts"),
    ),
    "read": Figure(
        name="reading over a memory map",
        script="store",
        arguments=(
            *("--only", "read", "--width", "2048", "--prompts", "PartiPrompts", MADE),
            *("--peer", "memmap", "--cache", "warm", "--rounds", "9"),
        ),
        file="store.csv",
        ratio="ratio",
        spread=("ratio_p20", "ratio_p80"),
        more_is_better=True,
        least=0.1,  # wall-clock time: the reader has threads
        key=columns("device", "name", "peer", "width", "prompts", "captions", "cache"),
    ),
    "adapter": Figure(
        name="adapter on over off",
        script="train",
        arguments=("--only", "forward", "--base-context", "llm", "--rounds", "2", "--threads", "2"),
        file="train.csv",
        ratio="ratio",
        spread=None,
        more_is_better=False,
        least=0.03,
        key=lambda row: (row["device"], row["what"], row["setting"].partition("; ")[0]),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    verdicts = []
    for part in arguments.part:
        figure = FIGURES[part]
        with tempfile.TemporaryDirectory() as folder:
            import_module(figure.script).main([*figure.arguments, "--results", folder])
            new = read_rows(Path(folder) / figure.file)
        verdicts += compare(figure, new, read_rows(arguments.results / figure.file))
        if arguments.write:
            for row in new:
                append_row(figure.file.removesuffix(".csv"), row, arguments.results)
    print_table(verdicts)
    sys.exit(any(verdict.is_regression for verdict in verdicts))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows to compare with")
    parser.add_argument("--write", action="store_true", help="add the new rows to them")
    return parser.parse_args(argv)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, the oldest first; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compare(figure: Figure, new: Sequence[Row], past: Sequence[Row]) -> list[Verdict]:
    """Hold each new row that has the ratio against the newest comparable ones.

    A ratio may be worse than their median by as much as they differ from it among themselves, by as much as the rounds
    of one of them differ, or by the figure's least share: whatever is most.
    """
    verdicts = []
    for row in new:
        if not row[figure.ratio]:
            continue
        same = [each for each in past if each[figure.ratio] and figure.key(each) == figure.key(row)][-NEWEST:]
        ratio, before = float(row[figure.ratio]), [float(each[figure.ratio]) for each in same]
        middle = median(before) if before else None
        change = 0.0 if middle is None else ratio / middle - 1
        verdicts.append(
            Verdict(
                figure=figure.name,
                what=", ".join(figure.key(row)[1:]),
                new=ratio,
                before=middle,
                rows=len(same),
                allowed=max(
                    [figure.least, *(abs(each / middle - 1) for each in before if middle), *spreads(figure, same)]
                ),
                change=-change if figure.more_is_better else change,
            )
        )
    return verdicts


def spreads(figure: Figure, rows: Sequence[Row]) -> list[float]:
    """How far the rounds of each row are from their median, as a share of it; half the way between the percentiles."""
    if figure.spread is None:
        return []
    low, high = figure.spread
    return [(float(row[high]) - float(row[low])) / 2 / float(row[figure.ratio]) for row in rows if row[low]]


def print_table(verdicts: Sequence[Verdict]) -> None:
    """One line a ratio: what it is, what it was, how much worse it is and may be."""
    print(f"\n{'':28} {'now':>7} {'before':>7} {'rows':>5} {'worse':>7} {'allowed':>8}")
    for each in verdicts:
        before = "" if each.before is None else f"{each.before:.3f}"
        said = "REGRESSION" if each.is_regression else "" if each.rows else "no row of this machine: --write adds one"
        change = f"{each.change:+7.1%}" if each.rows else ""
        print(
            f"{each.figure:28} {each.new:7.3f} {before:>7} {each.rows:5} {change:>7} {each.allowed:8.1%}  {said}\n"
            f"    {each.what}"
        )


if __name__ == "__main__":
    main()
