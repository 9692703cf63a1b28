"""Puts what was measured on a GPU into the pages: README, docs/index.md, docs/costs.md, docs/how-to/recipes.md.

``python benchmarks/gpu_pages.py``, after ``benchmarks/gpu.py`` and ``benchmarks/costs.py --write``.
"""

from __future__ import annotations

from pathlib import Path

import costs
from common.gpu_figures import basis, sentence

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "docs" / "how-to" / "recipes.md"
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", costs.PAGE, RECIPES]
GPU = "<!-- gpu -->"


def main() -> None:
    for path in PAGES:
        path.write_text(page(path))
        print(path)


def page(path: Path) -> str:
    """Return a page with the sentence, and that of the recipes with its table, made anew."""
    before, _, rest = path.read_text().partition(GPU)
    text = f"{before}{GPU}{sentence()}{costs.END}{rest.partition(costs.END)[2]}"
    return costs.page(text, hours_table()) if path == RECIPES else text


def hours_table() -> str:
    """Return the paper's runs of a million pairs and ten epochs, on one kind of GPU a column."""
    gpus = [costs.Assumptions(gpu="A100", bf16=312, tf32=156, price=2), costs.Assumptions(gpu="H100 SXM")]
    measured_gpu = costs.defaults()
    gpus += [measured_gpu] * (measured_gpu.gpu not in {at.gpu for at in gpus})
    runs = [costs.Costs(llm, at) for llm in costs.llms() for at in gpus]
    hours = [
        (cost.text_seconds() * 1e6 / 3600, cost.encode_seconds(1e6) / 3600, 1e7 / cost.images_a_second() / 3600)
        for cost in runs
    ]
    rows = {
        "": [f"{cost.llm.name}, {cost.at.gpu}" for cost in runs],
        "---": ["---"] * len(runs),
        "speeds": [basis(cost.shares, cost.at.share) for cost in runs],
        "encode captions, GPU hours": [f"{text:.1f}" for text, _, _ in hours],
        "encode pictures, GPU hours": [f"{both - text:.1f}" for text, both, _ in hours],
        "train 10 epochs, GPU hours": [f"{train:.1f}" for _, _, train in hours],
        "all, hours on 8 GPUs": [f"{(both + train) / 8:.1f}" for _, both, train in hours],
        "all, GPU hours": [f"{both + train:.1f}" for _, both, train in hours],
        "cost": [
            f"${(both + train) * cost.at.price:,.0f} at ${cost.at.price:g}"
            for cost, (_, both, train) in zip(runs, hours, strict=True)
        ],
    }
    return "\n".join(f"| {name} | {' | '.join(values)} |" for name, values in rows.items())


if __name__ == "__main__":
    main()
