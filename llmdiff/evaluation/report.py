"""The report of an evaluation: its figures, the comparisons in words, and the prompts that show them best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmdiff.evaluation.compare import compare
from llmdiff.evaluation.distances import DISTANCES
from llmdiff.evaluation.evaluate import Evaluation, gap_recovered
from llmdiff.evaluation.gallery import machine
from llmdiff.evaluation.metrics import METRICS, split_spec
from llmdiff.shapes.evaluator import FACTS

CUT, PROBABILITY = "_cut", "_probability"


def build_report(
    evaluations: Mapping[str, Evaluation], distances: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of ``report.json``.

    Args:
        evaluations: by model, the one under test first.
        distances: results of `compare_with_references`, by name.
        about: description of what was compared; "metrics" are the specs that were asked for, "models" has the "kind" of
            each.
    """
    subject, *baselines = evaluations
    first = evaluations[subject]
    columns = [name for name in first.scores if not name.endswith(CUT)]
    report = {
        **about,
        "units": "scenes" if any(name in columns for name in FACTS) else "prompts",
        "machine": machine(),
        "prompts": len({prompt.text for prompt in first.prompts}),
        "pictures": len(first.prompts),
        "columns": columns,
        **compare(evaluations, columns),
        "distances": dict(distances),
        "cut": _cut(first),
    }
    if "binding" in columns and "template" in first.categories():
        bases = [name for name in baselines if about["models"][name]["kind"] == "base"]
        report["gap_recovered"] = {name: _gaps(evaluations[name], first) for name in bases}
    report["not_run"] = _not_run([split_spec(spec)[0] for spec in about["metrics"]])
    report["summary"] = [_summary(report, name) for name in baselines]
    report["sentences"] = list(_sentences(report))
    return report


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Return every figure by dotted name: ``siglip.adapter``, ``siglip.adapter.low``, ``siglip.adapter-base``, ..."""
    subject = next(iter(report["models"]))
    found: dict[str, Any] = {}
    for column, models in report["scores"].items():
        found |= {f"{column}.{name}": entry for name, entry in models.items()}
        found |= {f"{column}.{subject}-{name}": entry for name, entry in report["differences"][column].items()}
    for name, distance in report["distances"].items():
        found |= {f"{name}.{model}": entry for model, entry in distance["values"].items()}
        found |= {f"{name}.{subject}-{model}": entry for model, entry in distance.get("differences", {}).items()}
    flat = {}
    for name, entry in found.items():
        flat[name] = entry.get("mean", entry.get("value"))
        if entry.get("interval") is not None:
            flat[f"{name}.low"], flat[f"{name}.high"] = entry["interval"]
    return flat


def extremes(
    evaluations: Mapping[str, Evaluation], column: str, baseline: str, count: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the prompts where the first model is furthest above and below a baseline, by the mean over seeds.

    Each has "text", "category", "difference" and "row", the number of its first picture. Prompts without a difference
    are in neither list.
    """
    subject = next(iter(evaluations.values()))
    differences = subject.scores[column] - evaluations[baseline].scores[column]
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(subject.prompts):
        rows.setdefault(prompt.text, []).append(i)
    found: list[dict[str, Any]] = [
        {
            "text": text,
            "category": subject.prompts[own[0]].category,
            "difference": float(differences[own].mean()),
            "row": own[0],
        }
        for text, own in rows.items()
    ]
    found.sort(key=lambda each: -each["difference"])
    helped = [each for each in found if each["difference"] > 0][:count]
    hurt = [each for each in reversed(found) if each["difference"] < 0][:count]
    return helped, hurt


def _cut(evaluation: Evaluation) -> dict[str, int]:
    """Return how many prompts each metric's model could not read to their end."""
    return {
        name.removesuffix(CUT): len({p.text for p, cut in zip(evaluation.prompts, values, strict=True) if cut})
        for name, values in evaluation.scores.items()
        if name.endswith(CUT)
    }


def _gaps(baseline: Evaluation, subject: Evaluation) -> dict[str, Any]:
    return {
        wording: {fact: gap_recovered(baseline, subject, fact, wording) for fact in ("binding", "relation")}
        for wording in subject.categories()
        if wording != "template"
    }


def _not_run(names: Sequence[str]) -> dict[str, str]:
    """Return why each metric that is not in the report is missing."""
    reasons = {
        "facts": "the rule-based evaluator knows the prompts of the synthetic shapes benchmark alone",
        "fid": "needs --references and --metric fid=<vision model>; Inception's weights are published as pickle",
        "cmmd": "needs --references",
    }
    return {name: reasons.get(name, "not asked for") for name in (*METRICS, *DISTANCES) if name not in names}


def _summary(report: Mapping[str, Any], baseline: str) -> str:
    """Return in words on how many scores the first model beats a baseline, and on which it is worse.

    A probability says in other units what the score beside it says, and isn't counted.
    """
    subject = next(iter(report["models"]))
    verdicts = {
        column: entries[baseline]["verdict"]
        for column, entries in report["differences"].items()
        if not column.endswith(PROBABILITY)
    }
    verdicts |= {
        name: distance["differences"][baseline]["verdict"]
        for name, distance in report["distances"].items()
        if "differences" in distance
    }
    parts = []
    for said in dict.fromkeys(("better", "worse", *verdicts.values())):
        names = [name for name, verdict in verdicts.items() if verdict == said]
        parts.append(f"{said} on {len(names)}" + (f" ({', '.join(names)})" if names else ""))
    scores = "1 score" if len(verdicts) == 1 else f"{len(verdicts)} scores"
    return f"{subject} against {baseline}, {scores}: {', '.join(parts)}."


def _sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """Return every comparison in words."""
    for column, models in report["scores"].items():
        yield _sentence(report, column, models, "mean", report["differences"][column])
    for name, distance in report["distances"].items():
        yield _sentence(
            report, f"{name} (less is better)", distance["values"], "value", distance.get("differences", {})
        )


def _sentence(report: Mapping[str, Any], name: str, models: Mapping[str, Any], key: str, differences: Any) -> str:
    subject, units = next(iter(report["models"])), report["units"]
    values = ", ".join(f"{model} {number(entry[key])}{bounds(entry)}" for model, entry in models.items())
    comparisons = [
        f" {subject} - {model} = {number(entry[key], sign=True)}{bounds(entry, sign=True)} over {entry['n']} {units}: "
        f"{entry['verdict']}."
        for model, entry in differences.items()
    ]
    return f"{name}: {values}.{''.join(comparisons)}"


def bounds(entry: Mapping[str, Any], sign: bool = False) -> str:
    """Return an entry's 95 % interval in brackets; nothing where it has none."""
    interval = entry.get("interval")
    return "" if interval is None else f" ({number(interval[0], sign)} to {number(interval[1], sign)})"


def number(value: float, sign: bool = False) -> str:
    """Return three significant digits."""
    if not np.isfinite(value):
        return "not a number"
    plus = "+" if sign else ""
    return f"{value:{plus}.0f}" if abs(value) >= 1000 else f"{value:{plus}#.3g}".rstrip(".")
