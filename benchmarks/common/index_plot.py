"""How the store's index grows: a plot of ``results/index.csv``."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from common.measured import rows_of

SECONDS = {
    "look 10,000 captions up": ["warm", "cold"],
    "look 256 captions up": ["warm", "cold"],
    "open a version to train on": ["warm"],
    "open a version to train on, the first time": ["warm"],
    "store info, the first time": ["warm"],
    "a commit": [""],
}
MEMORY = {
    "memory of looking up": ["warm"],
    "own memory of a training process": ["warm"],
    "memory of making the training index": ["warm"],
    "memory of an export": [""],
    "memory of store info": ["warm"],
}


def plot_index(path: Path) -> None:
    """Plot processor seconds and memory over the rows of the index, on a disk."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for axes, lines, column in ((seconds, SECONDS, "cpu"), (memory, MEMORY, "value")):
        for name, caches in lines.items():
            for cache in caches:
                if line := newest(name, cache, column):
                    axes.plot(list(line), list(line.values()), marker="o", label=label_of(name, cache))
    seconds.set(xlabel="rows of the index", ylabel="seconds of the processor", xscale="log", yscale="log")
    memory.axhline(1000.0, color="black", linestyle=":", linewidth=1)
    memory.set(xlabel="rows of the index", ylabel="MB of a process's own", xscale="log", yscale="log")
    for axes in (seconds, memory):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=1, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def label_of(name: str, cache: str) -> str:
    """Return a line's name: a cold figure is a process's first, which opens all that it reads."""
    first = " for the first time" if (name, cache) == ("look 256 captions up", "cold") else ""
    return f"{name}{first}{cache and f', {cache}'}"


def newest(name: str, cache: str, column: str) -> dict[int, float]:
    """Return the newest value at each size, to its first digit."""
    of = ("", "4096 rows", "4096 rows, all of them known")
    found = [row for row in rows_of("index.csv") if (row["where"], row["name"], row["cache"]) == ("disk", name, cache)]
    found = [row for row in found if row["of"] in of and row[column]]
    values = {f"{int(row['rows']):.0e}": (int(row["rows"]), float(row[column])) for row in found}
    return dict(sorted(values.values()))
