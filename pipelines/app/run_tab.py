"""The tab A run: losses, gradient norm, waiting share, weights and validation pictures, as training goes on."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pipelines.app.models import Models
from pipelines.app.sessions import shown

EVERY = 5.0
"""Seconds between two looks at a run that is followed."""


def run_tab(models: Models) -> None:
    """Make the tab in the block that is open."""
    with gr.Row():
        run = gr.Dropdown(label="Training run", scale=4, elem_id="run")
        listing = gr.Button("List runs", elem_id="list-runs")
        look = gr.Button("Look", variant="primary", elem_id="look-run")
        follow = gr.Checkbox(label=f"Follow: look every {EVERY:g} s")
    state = gr.Textbox(label="State", interactive=False, elem_id="run-state")
    link = gr.HTML(elem_id="run-link")
    with gr.Row():
        loss = gr.LinePlot(x="step", y="value", color="series", title="Loss by timestep band", elem_id="loss")
        norm = gr.LinePlot(x="step", y="value", color="series", title="Gradient norm")
        waiting = gr.LinePlot(x="step", y="value", color="series", title="Share of time waiting for data", y_lim=[0, 1])
    with gr.Row():
        weights = gr.Plot(label="Weights a1 e^b1, a2 e^b2 by layer", elem_id="weights")
        pictures = gr.Gallery(label="Validation, newest first", columns=4, format="png", elem_id="validation")
    timer = gr.Timer(EVERY, active=False)

    @shown
    def on_list() -> Any:
        from pipelines.app.run_view import list_runs

        found = [(f"{each.name} ({each.status})", each.id) for each in list_runs()]
        if not found:
            raise ValueError("MLflow knows no training run: `llmdiff train` or `llmdiff demo` makes one")
        return gr.update(choices=found, value=found[0][1])

    @shown
    def on_look(run_id: str | None) -> list[Any]:
        from pipelines.app import run_view

        if not run_id:
            raise ValueError("training run: expected one, found none: list them first")
        files = run_view.sample_files(run_id)
        samples = []
        if files:
            with models.lock:
                samples = run_view.validation_pictures(files, models.latent_encoder(run_view.base_model(run_id)))
        return [
            run_view.summary(run_id),
            run_view.link(run_view.address(run_id)),
            run_view.curve(run_id, {"loss": "all", **run_view.BANDS}),
            run_view.curve(run_id, {"grad_norm": "gradient norm"}),
            run_view.curve(run_id, {"data_wait_share": "waiting"}),
            run_view.weights(run_id),
            samples,
        ]

    outputs = [state, link, loss, norm, waiting, weights, pictures]
    listing.click(on_list, None, run, api_name=False).then(on_look, run, outputs, api_name=False)
    look.click(on_look, run, outputs, api_name=False)
    timer.tick(on_look, run, outputs, show_progress="hidden", api_name=False)
    follow.change(on_follow, follow, timer, api_name=False)


def on_follow(wanted: bool) -> Any:
    """Start or end looking again and again."""
    return gr.update(active=wanted)
