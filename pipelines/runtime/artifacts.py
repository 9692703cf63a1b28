"""What recorded runs show in Prefect's pages: texts, tables, pictures, and the way to the run in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.reports.html import jpeg, within_area
from pipelines.runtime.recording import in_a_run

PIXELS = 1_000_000
"""Most pixels of a picture inside an artifact: some 200 kB in Prefect's database."""


def show_text(text: str, key: str, title: str | None = None) -> None:
    """Show a text in markdown."""
    if in_a_run():
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(text, key=key, description=title)


def show_table(rows: list[dict[str, Any]], key: str, title: str) -> None:
    """Show rows, each with its columns' values by name."""
    if in_a_run():
        from prefect.artifacts import create_table_artifact

        create_table_artifact(rows, key=key, description=title)


def show_picture(key: str, title: str, path: Path) -> None:
    """Show a picture inside a markdown artifact: the page needs no other server, which might ask for a login."""
    if in_a_run():
        show_text(f"![{path.stem}]({data_url(path)})\n\n`{path}`", key, title)


def data_url(path: Path) -> str:
    """Return a picture of at most `PIXELS`, as a JPEG inside its own URL."""
    with Image.open(path) as image:
        return jpeg(image, within_area(image, PIXELS), quality=85)


def show_mlflow_run(key: str, run_id: str) -> None:
    """Show a link to a run's page, where MLflow has a server."""
    from infra.tracking.run import run_page

    if in_a_run() and (page := run_page(run_id)):
        from prefect.artifacts import create_link_artifact

        create_link_artifact(page, f"MLflow run {run_id}", key=key)


def mlflow_run(run_id: str) -> str:
    """Return a run in markdown, with a link where MLflow has a server."""
    from infra.tracking.run import run_page

    page = run_page(run_id)
    return f"MLflow run [{run_id}]({page})" if page else f"MLflow run `{run_id}`"
