"""The command ``llmdiff push``."""

from __future__ import annotations

from typing import Any

import typer

from infra.servers import check_proxies, check_tracking
from llmdiff.extras import require
from pipelines.cli.options import options_of
from pipelines.requests.base import checked
from pipelines.requests.push import PushRequest

push_app = typer.Typer()


@push_app.command(epilog="Example: llmdiff push runs/train/<run>/adapter ada/my-adapter --license apache-2.0 --dry-run")
@options_of(PushRequest)
def push(given: dict[str, Any]) -> None:
    """Upload an adapter to the Hugging Face hub: weights, configuration, model card; no path of this machine.

    The token is huggingface_hub's: HF_TOKEN, or that of `hf auth login`.
    """
    request = checked(given, PushRequest, "push")
    require("mlflow")
    check_proxies()
    if request.adapter.startswith("models:"):
        check_tracking()
    from pipelines.runtime.shared_folder import upload, write_shared

    folder = write_shared(request)
    print(f"written: {folder}")
    if not request.dry_run:
        print(f"uploaded: {upload(folder, request)}")
        print(f"it loads as {request.repo}")
