"""What the page shows of a training run: curves and weights from MLflow, validation pictures from its folder."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from infra.environment import tracking_uri
from infra.tracking.run import EXPERIMENT, client, run_page
from llmdiff.diffusion.latents import LatentEncoder, decode_samples
from pipelines.reports.demo import weights_plot
from pipelines.runtime.error_line import error_line

LISTED = 100
"""Number of runs that the page offers at most."""
BANDS = {f"loss_by_timestep.{i}": name for i, name in enumerate(("cleanest", "cleaner", "noisier", "noisiest"))}
"""Metrics of the loss by quarter of the noise schedule, and what they are called."""
PLACES = ("down_blocks", "mid_block", "up_blocks")
LATEST = 4
"""Number of steps whose validation pictures are shown, the latest ones."""


class TrainingRun(NamedTuple):
    """A training run."""

    name: str
    status: str
    id: str


def list_runs() -> list[TrainingRun]:
    """Return the training runs that MLflow knows, the newest first."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return []
    api = client()
    if (experiment := api.get_experiment_by_name(EXPERIMENT)) is None:
        return []
    found = api.search_runs(
        [experiment.experiment_id],
        "attributes.run_name LIKE 'train %'",
        max_results=LISTED,
        order_by=["start_time DESC"],
    )
    return [
        TrainingRun(run.info.run_name.removeprefix("train "), run.info.status.lower(), run.info.run_id) for run in found
    ]


def curve(run_id: str, metrics: dict[str, str]) -> pd.DataFrame:
    """Return the points of some metrics, each under its name, as columns `step`, `value`, `series`."""
    api = client()
    points = [
        (point.step, point.value, name)
        for key, name in metrics.items()
        for point in api.get_metric_history(run_id, key)
    ]
    return pd.DataFrame(points, columns=["step", "value", "series"])


def weights(run_id: str) -> Figure | None:
    """Return the plot of both paths' weights by layer as they are now; None before the first row."""
    layers: dict[str, dict[str, Any]] = {}
    for key, value in client().get_run(run_id).data.metrics.items():
        if found := re.fullmatch(r"weights\.(.+)\.(original|new)", key):
            layers.setdefault(found[1], {"layer": found[1]})[found[2]] = value
    if not layers:
        return None
    figure = weights_plot([{"weights": sorted(layers.values(), key=place)}])
    figure.axes[0].set_title("Weights of both paths by layer", fontsize=10)
    return figure


def place(row: dict[str, Any]) -> tuple[int, list[int]]:
    """Return a sort key for a layer: its position in the U-Net."""
    layer = row["layer"]
    first = next((i for i, name in enumerate(PLACES) if layer.startswith(name)), len(PLACES))
    return first, [int(number) for number in re.findall(r"\d+", layer)]


def summary(run_id: str) -> str:
    """Return in one line how far a run is."""
    run = client().get_run(run_id)
    metrics, params = run.data.metrics, run.data.params
    last = max((point.step for point in client().get_metric_history(run_id, "loss")), default=0)
    facts = [f"{run.info.status.lower()}, step {last} of {params.get('steps', '?')}"]
    facts += [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    waited = metrics.get("data_wait_share")
    facts += [f"{waited:.0%} of the time waiting for data"] if waited is not None else []
    return "; ".join(facts)


def address(run_id: str) -> str | None:
    """Return the address of the run's page on the MLflow server; None where tracking is in a file."""
    return run_page(run_id)


def link(address: str | None) -> str:
    """Return a link to a run's page, as markup: the address is text in it, whatever it holds, and without a login."""
    if address is None:
        return "Its page on MLflow: none, for runs are kept in a file; <code>make serve</code> serves them."
    parts = urlsplit(address)
    shown = html.escape(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    return f'Its page on MLflow: <a href="{shown}" target="_blank" rel="noopener noreferrer">{shown}</a>'


def base_model(run_id: str) -> str:
    """Return the base that the run trains on; ValueError where MLflow was not told."""
    if not (base := client().get_run(run_id).data.params.get("base")):
        raise ValueError(f"run {run_id}: expected the parameter base, found none")
    return str(base)


def sample_files(run_id: str) -> list[Path]:
    """Return the run's files of validation samples on this machine, the newest first, at most `LATEST`."""
    output = client().get_run(run_id).data.params.get("output")
    found = sorted((Path(output) / "samples").glob("step-*.safetensors")) if output else []
    return found[::-1][:LATEST]


def validation_pictures(
    files: list[Path], latent_encoder: LatentEncoder
) -> tuple[list[tuple[Image.Image, str]], list[str]]:
    """Return the pictures of files of validation samples, each with its step and prompt; and why others are missing.

    A run goes on while it is shown: a file may be half written, damaged, or gone.
    """
    pictures, left = [], []
    for file in files:
        try:
            decoded = decode_samples(file, latent_encoder)
        except (OSError, ValueError) as error:
            left.append(error_line(error))
        else:
            step = file.stem.removeprefix("step-").lstrip("0") or "0"
            pictures += [(image, f"step {step}: {prompt}") for prompt, image in decoded]
    return pictures, left
