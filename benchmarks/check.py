"""Whether a few ratios are still what they were: measured in under three minutes, and held against the tracked rows.

    python benchmarks/check.py              # exit code 1 where one is worse than its rows allow
    python benchmarks/check.py --part read
    python benchmarks/check.py --write      # and add the rows, which later checks on this machine are held against

Each part is another benchmark with these arguments, whose rows go into a folder of their own. Ratios of one run, taken
in turns, carry over from day to day, and hardly from one machine to another: a row counts that is of the same device,
threads, sizes and types. A part with a ratio that is worse than its rows allow is measured once more, for the machine
may have had other work: a regression is worse both times. The kernel is in no part, for what it takes in Triton's
interpreter says nothing.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import hypot
from pathlib import Path
from statistics import median

from common.measure import RESULTS, append_row
from common.prompts import MADE

Row = dict[str, str]
NEWEST = 5
"""Number of rows of the past that count: older ones may be of code that was slower."""


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
    """Columns of the rounds' 20th and 80th percentiles, where there are some."""
    more_is_better: bool
    least: float
    """Share by which a ratio may be worse than its rows even where these agree: what other programs on the machine do
    to it."""
    key: Callable[[Row], tuple[str, ...]]
    """Function that returns what is the same in comparable rows; the first value is the device, with its threads."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a new row compares with those of the past."""

    figure: str
    what: str
    row: Row
    new: float
    before: float | None
    """Median of the comparable rows; None where there are none."""
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
        key=columns("device", "shape", "blocks", "dtype", "word_path", "captions", "max_tokens", "prompts", "reading"),
    ),
    "read": Figure(
        name="reading over a memory map",
        script="store",
        arguments=(
            *("--only", "read", "--width", "2048", "--prompts", "PartiPrompts", MADE),
            *(
                "--peer",
                "memmap",
                "--cache",
                "warm",
                "--rounds",
                "45",
            ),  # rounds of half a second, which vary by a tenth
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
    load = os.getloadavg()[0]
    verdicts = []
    for part in arguments.part:
        figure = FIGURES[part]
        found = verdicts_of(figure, read_rows(arguments.results / figure.file))
        for verdict in found if arguments.write else ():
            append_row(figure.file.removesuffix(".csv"), verdict.row, arguments.results)
        verdicts += found
    print_table(verdicts)
    if regressed := any(verdict.is_regression for verdict in verdicts):
        print(f"the machine's load before it was measured: {load:.1f} on {os.cpu_count()} cores")
    sys.exit(regressed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows to compare with")
    parser.add_argument("--write", action="store_true", help="add the new rows to them")
    return parser.parse_args(argv)


def verdicts_of(figure: Figure, past: Sequence[Row]) -> list[Verdict]:
    """Measure a part and compare its ratios; of a part that seems worse, take the better of two measurements."""
    verdicts = compare(figure, measure(figure), past)
    if not any(verdict.is_regression for verdict in verdicts):
        return verdicts
    print(f"{figure.name}: worse than its rows allow; measured once more", flush=True)
    again = compare(figure, measure(figure), past)
    return [min(pair, key=lambda verdict: verdict.change) for pair in zip(verdicts, again, strict=True)]


def measure(figure: Figure) -> list[Row]:
    """Run the part's benchmark, and return its new rows."""
    with tempfile.TemporaryDirectory() as folder:
        import_module(figure.script).main([*figure.arguments, "--results", folder])
        return read_rows(Path(folder) / figure.file)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, the oldest first; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compare(figure: Figure, new: Sequence[Row], past: Sequence[Row]) -> list[Verdict]:
    """Hold each new row that has the ratio against the newest comparable ones; see `tolerance`."""
    verdicts = []
    for row in new:
        if not row[figure.ratio]:
            continue
        same = [each for each in past if each[figure.ratio] and figure.key(each) == figure.key(row)][-NEWEST:]
        ratio = float(row[figure.ratio])
        middle = median(float(each[figure.ratio]) for each in same) if same else None
        change = 0.0 if middle is None else ratio / middle - 1
        verdicts.append(
            Verdict(
                figure=figure.name,
                what=", ".join(figure.key(row)[1:]),
                row=row,
                new=ratio,
                before=middle,
                rows=len(same),
                allowed=tolerance(figure, row, same),
                change=-change if figure.more_is_better else change,
            )
        )
    return verdicts


def tolerance(figure: Figure, row: Row, past: Sequence[Row]) -> float:
    """Return the share by which a row may be worse than the median of comparable ones, whatever is most of three.

    The figure's least share; how far from their median one of them is; how far the rounds of the row and of one of them
    are from theirs, as two independent errors add up.
    """
    ratios = [float(each[figure.ratio]) for each in past]
    among = [abs(ratio / median(ratios) - 1) for ratio in ratios]
    rounds = hypot(spread(figure, row), max((spread(figure, each) for each in past), default=0.0))
    return max(figure.least, rounds, *among)


def spread(figure: Figure, row: Row) -> float:
    """Return how far a row's rounds are from their median, as a share of it: half the way between the percentiles.

    0 where the row does not say it.
    """
    if figure.spread is None or not all(row[name] for name in figure.spread):
        return 0.0
    low, high = (float(row[name]) for name in figure.spread)
    return (high - low) / 2 / float(row[figure.ratio])


def print_table(verdicts: Sequence[Verdict]) -> None:
    """Print one line a ratio: what it is, what it was, how much worse it is and may be."""
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
