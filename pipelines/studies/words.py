"""Words about a table of variants: few columns, and sentences that claim no more than its intervals do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llmdiff.studies.estimates import Estimate
from pipelines.studies.compare import MAIN, SHARES

VERBS = {1: "is better than", 0: "can't be told from", -1: "is worse than"}
"""What a reference is to other variants, by the sign of its gap to them."""


def sentences(table: list[dict[str, Any]], reference: str, without: Iterable[str] = ()) -> list[str]:
    """Return what may be said of a reference beside the table's other variants; one sentence where all facts agree."""
    compared = [row for row in table if name_of(row) not in (reference, *without) and signs(row, reference)]
    told: dict[str, list[str]] = {}
    for fact in MAIN:
        clauses = []
        for sign, verb in VERBS.items():
            names = [name_of(row) for row in compared if signs(row, reference)[fact] == sign]
            if names:
                clauses.append(f"{verb} {listed(names)}")
        told.setdefault("; ".join(clauses), []).append(fact)
    return [f"In {listed(facts)}, {quoted(reference)} {text}." for text, facts in told.items() if text]


def signs(row: dict[str, Any], reference: str) -> dict[str, int]:
    """Return by fact 1 where the reference is better than a row's variant, -1 where it is worse, else 0.

    Nothing of a row that is not compared.
    """
    gaps = {fact: row[f"{fact}, over {reference}"] for fact in MAIN}
    return {fact: -gap.sign for fact, gap in gaps.items() if gap is not None}


def summary(
    table: list[dict[str, Any]], reference: str, *more: str, columns: Sequence[str] = SHARES
) -> list[dict[str, Any]]:
    """Return a table in few columns without intervals: shares, what each variant is beside the reference, and more."""
    first = next(iter(table[0]))
    return [
        {
            first: row[first],
            **{column: brief(row[column]) for column in columns},
            f"beside {reference}": beside(row, reference),
            **{column: brief(row[column]) for column in more},
        }
        for row in table
    ]


def beside(row: dict[str, Any], reference: str) -> str:
    """Return in words how a row's variant is beside the reference."""
    words = {1: "worse", -1: "better"}
    found = {fact: words.get(sign) for fact, sign in signs(row, reference).items()}
    kinds = {kind: [fact for fact in found if found[fact] == kind] for kind in words.values()}
    told = [f"{kind} in {'both' if len(facts) == len(MAIN) else facts[0]}" for kind, facts in kinds.items() if facts]
    return ", ".join(told) or ("no difference shown" if found else "")


def brief(value: Any) -> Any:
    """Return an estimate as its value alone; what is none, as it is."""
    return str(value).partition(" (")[0] if isinstance(value, Estimate) else value


def name_of(row: dict[str, Any]) -> str:
    """Return what a row is about: its first column."""
    return str(next(iter(row.values())))


def listed(names: Sequence[str]) -> str:
    """Return names, one at least, as a sentence lists them."""
    *others, last = map(quoted, names)
    return f"{', '.join(others)} and {last}" if others else last


def quoted(name: str) -> str:
    """Return a name between quotes where it has several words."""
    return f'"{name}"' if " " in name else name
