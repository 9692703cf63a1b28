"""What flows show in Prefect's pages besides tables: pictures, and the way to the run in MLflow."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from infra.tracking.run import run_page
from pipelines.reports.html import jpeg, within_area

PIXELS = 1_000_000
"""A picture inside an artifact has at most so many: some 200 kB in Prefect's database."""


def show_picture(key: str, title: str, path: Path) -> None:
    """Show a picture inside a markdown artifact: the page needs no other server, which might ask for a login."""
    create_markdown_artifact(f"![{path.stem}]({data_url(path)})\n\n`{path}`", key=key, description=title)


def data_url(path: Path) -> str:
    """Return a picture of at most `PIXELS`, as a JPEG inside its own URL."""
    with Image.open(path) as image:
        return jpeg(image, within_area(image, PIXELS), quality=85)


def show_mlflow_run(key: str, run_id: str) -> None:
    """Show a link to a run's page, where MLflow has a server."""
    if page := run_page(run_id):
        create_link_artifact(page, f"MLflow run {run_id}", key=key)


def mlflow_run(run_id: str) -> str:
    """Return a run in markdown, with a link where MLflow has a server."""
    page = run_page(run_id)
    return f"MLflow run [{run_id}]({page})" if page else f"MLflow run `{run_id}`"
