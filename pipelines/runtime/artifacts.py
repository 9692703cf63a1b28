"""What flows show in Prefect's pages besides tables: pictures, and the way to the run in MLflow."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from infra.tracking.run import run_page

PIXELS = 1_000_000
"""Of a picture inside an artifact, at most: some 200 kB in Prefect's database."""


def show_picture(key: str, title: str, path: Path) -> None:
    """A picture inside a markdown artifact: the page needs no other server to show it, which might ask for a login."""
    create_markdown_artifact(f"![{path.stem}]({data_url(path)})\n\n`{path}`", key=key, description=title)


def data_url(path: Path) -> str:
    """A picture of at most `PIXELS`, as a JPEG inside its own URL."""
    data = io.BytesIO()
    with Image.open(path) as image:
        shrink = min(1.0, (PIXELS / (image.width * image.height)) ** 0.5)
        size = (max(1, int(image.width * shrink)), max(1, int(image.height * shrink)))
        image.convert("RGB").resize(size).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def show_mlflow_run(key: str, run_id: str) -> None:
    """A link to a run's page, where MLflow has a server."""
    if page := run_page(run_id):
        create_link_artifact(page, f"MLflow run {run_id}", key=key)


def mlflow_run(run_id: str) -> str:
    """A run in markdown, with a link where MLflow has a server."""
    page = run_page(run_id)
    return f"MLflow run [{run_id}]({page})" if page else f"MLflow run `{run_id}`"
