"""The tab A run: losses, gradient norm, waiting share, weights and validation pictures, as training goes on."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pipelines.app.models import Models
from pipelines.app.sessions import shown

EVERY = 5.0
"""Seconds between two looks at a run that is followed."""
NONE = "MLflow knows no training run: `llmdiff train` or `llmdiff demo` makes one"
CURVE: dict[str, Any] = {"x": "step", "y": "value", "color": "series", "color_title": " ", "y_title": " "}
"""Options that all plots of a metric by step share; the title names the metric."""


def run_tab(models: Models, tab: gr.Tab) -> None:
    """Make the tab, which is open; it shows the newest run when it is chosen."""
    with gr.Row():
        run = gr.Dropdown(label="Training run", scale=4, elem_id="run")
        follow = gr.Checkbox(label=f"Look every {EVERY:g} s", scale=1, min_width=160)
        look = gr.Button("Look", variant="primary", min_width=120, elem_classes="beside", elem_id="look-run")
        listing = gr.Button("List runs again", min_width=160, elem_classes="beside", elem_id="list-runs")
    state = gr.Textbox(label="State", interactive=False, elem_id="run-state")
    link = gr.HTML(elem_id="run-link")
    with gr.Row():
        loss = gr.LinePlot(title="Loss by timestep band", elem_id="loss", **CURVE)
        norm = gr.LinePlot(title="Gradient norm", **CURVE)
        waiting = gr.LinePlot(title="Share of time waiting for data", y_lim=[0, 1], **CURVE)
    with gr.Row():
        weights = gr.Plot(show_label=False, elem_id="weights")
        pictures = gr.Gallery(
            label="Validation pictures, newest first",
            columns=4,
            height="auto",
            format="png",
            visible=False,
            elem_id="validation",
        )
    timer = gr.Timer(EVERY, active=False)

    @shown
    def on_list() -> Any:
        if not (found := listed()):
            raise ValueError(NONE)
        return gr.update(choices=found, value=found[0][1])

    @shown
    def on_open(run_id: str | None) -> list[Any]:
        found = listed()
        if not found:
            return [gr.update(), NONE]
        return [gr.update(choices=found, value=run_id or found[0][1]), gr.update()]

    @shown
    def on_look(run_id: str | None) -> list[Any]:
        if not run_id:
            raise ValueError("training run: expected one, found none: list them first")
        return look_at(models, run_id)

    outputs = [state, link, loss, norm, waiting, weights, pictures]
    tab.select(on_open, run, [run, state], api_name=False).success(
        lambda run_id: on_look(run_id) if run_id else gr.skip(), run, outputs, api_name=False
    )
    listing.click(on_list, None, run, api_name=False).success(on_look, run, outputs, api_name=False)
    gr.on([look.click, run.input], on_look, run, outputs, api_name=False)
    timer.tick(on_look, run, outputs, show_progress="hidden", api_name=False)
    follow.change(on_follow, follow, timer, api_name=False)


def listed() -> list[tuple[str, str]]:
    """Return the runs that MLflow knows as the menu has them, the newest first: what each is called, and its id."""
    from pipelines.app.run_view import list_runs

    return [(f"{each.name} ({each.status})", each.id) for each in list_runs()]


def look_at(models: Models, run_id: str) -> list[Any]:
    """Return what the tab shows of a run as it is now; damaged pictures leave the rest as it is."""
    from pipelines.app import run_view

    samples, left = samples_of(models, run_id)
    return [
        "; ".join([run_view.summary(run_id), *(f"no pictures: {reason}" for reason in left)]),
        run_view.link(run_view.address(run_id)),
        run_view.curve(run_id, {"loss": "all", **run_view.BANDS}),
        run_view.curve(run_id, {"grad_norm": "gradient norm"}),
        run_view.curve(run_id, {"data_wait_share": "waiting"}),
        run_view.weights(run_id),
        gr.update(value=samples, visible=bool(samples)),
    ]


def samples_of(models: Models, run_id: str) -> tuple[list[Any], list[str]]:
    """Return a run's validation pictures with their labels, and why others can't be shown."""
    from pipelines.app import run_view
    from pipelines.runtime.error_line import error_line

    if not (files := run_view.sample_files(run_id)):
        return [], []
    try:
        with models.lock:
            return run_view.validation_pictures(files, models.latent_encoder(run_view.base_model(run_id)))
    except (OSError, ValueError) as error:  # the base may be gone
        return [], [error_line(error)]


def on_follow(wanted: bool) -> Any:
    """Start looking at the run again and again, or stop it."""
    return gr.update(active=wanted)
