"""The tab Try: base and adapter side by side from the same noise, a grid of prompts, a strip of scales, a history."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from pipelines.app.drawing import BASE, STRIP, draw_columns
from pipelines.app.fields import DrawFields, ModelFields, request_of
from pipelines.app.models import Models
from pipelines.app.sessions import Stops, shown

PROGRESS = gr.Progress()
MODELS = "models"
"""Name of the queue of calls that need the models: they run one at a time."""
PICTURE: dict[str, Any] = {
    "format": "png",
    "type": "pil",
    "interactive": False,
    "buttons": ["download", "fullscreen"],
}
"""Options of all pictures on the page: a PNG holds its settings."""
KEPT = 60
"""Drawings that a session's history holds."""
Drawing = dict[str, Any]


def try_tab(models: Models, stops: Stops, chosen: ModelFields) -> DrawFields:
    """Make the tab in the block that is open; return its fields, which another tab reads too."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            fields = DrawFields.build()
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", scale=2, min_width=70, elem_id="draw")
                strip = gr.Button("Strip of scales", scale=3, min_width=180, elem_id="strip")
                stop = gr.Button("Stop", variant="stop", scale=2, min_width=70, elem_id="stop")
        with gr.Column(scale=4):
            with gr.Row():
                base = gr.Image(label="Base", height=400, elem_id="base", **PICTURE)
                adapted = gr.Image(label="Adapter", height=400, elem_id="adapted", **PICTURE)
            grid = gr.Gallery(
                label="All prompts: base, adapter",
                height="auto",
                columns=4,
                format="png",
                visible=False,
                elem_id="grid",
            )
            scales = gr.Gallery(
                label="Adapter scale", height="auto", columns=len(STRIP), format="png", visible=False, elem_id="scales"
            )
            history = gr.Gallery(
                label="History: click one to see it again",
                columns=10,
                height=160,
                format="png",
                allow_preview=False,
                fit_columns=False,
                buttons=[],
                elem_id="history",
            )
    drawings = gr.State([])

    @shown
    def on_draw(request: gr.Request, past: list[Drawing], progress: gr.Progress = PROGRESS, *values: Any) -> list[Any]:
        stop = stops.begin(request.session_hash)
        asked = request_of(values)
        rows = draw_columns(models, asked, (BASE, asked.scale), reporter(progress), stop)
        past = [*({"images": row, "fields": of_row(values, i)} for i, row in enumerate(rows)), *past][:KEPT]
        return [*rows[0], grid_of(rows), gr.update(visible=False), past, gr.update(value=thumbnails(past))]

    @shown
    def on_strip(request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any) -> Any:
        stop = stops.begin(request.session_hash)
        asked = request_of(values)
        asked = asked.model_copy(update={"prompts": asked.prompts[:1]})
        (row,) = draw_columns(models, asked, STRIP, reporter(progress), stop)
        labelled = [(image, f"{scale:g}") for image, scale in zip(row, STRIP, strict=True)]
        return gr.update(value=labelled, visible=True)

    inputs = [*chosen.all, *fields.all]
    outputs = [base, adapted, grid, scales, drawings, history]
    for button, action, given, shows in (
        (draw, on_draw, [drawings, *inputs], outputs),
        (strip, on_strip, inputs, [scales]),
    ):
        button.click(stops.on_ask, queue=False, api_name=False).then(
            action, given, shows, concurrency_id=MODELS, concurrency_limit=1, api_name=False
        )
    stop.click(stops.on_stop, queue=False, api_name=False)
    history.select(again, drawings, [*fields.all, base, adapted, grid, scales], api_name=False)
    return fields


def again(past: list[Drawing], event: gr.SelectData) -> list[Any]:
    """Return an earlier drawing's fields and pictures; what was drawn with others is hidden."""
    drawing = past[event.index]
    return [*drawing["fields"], *drawing["images"], gr.update(visible=False), gr.update(visible=False)]


def of_row(values: tuple[Any, ...], row: int) -> list[Any]:
    """Return the values of `DrawFields` that draw one of the prompts alone."""
    asked = request_of(values)
    _, _, _, _, negative, _, *others = values
    return [asked.prompts[row], negative, asked.seed + row, *others]


def grid_of(rows: list[list[Image.Image]]) -> Any:
    """Return the update of the grid, which is there for several prompts alone."""
    labels = ("base", "adapter")
    pictures = [
        (image, f"{label}: {image.info['prompt']}") for row in rows for label, image in zip(labels, row, strict=True)
    ]
    return gr.update(value=pictures if len(rows) > 1 else None, visible=len(rows) > 1)


def thumbnails(past: list[Drawing]) -> list[tuple[Image.Image, str]]:
    """Return what the history shows: the adapter's pictures."""
    return [(drawing["images"][1], drawing["images"][1].info["prompt"]) for drawing in past]


def reporter(progress: Any) -> Any:
    """Return a function that shows the steps of a drawing on the page."""
    progress(0, desc="waiting for the models")
    return lambda done, total: progress((done, total), desc="drawing", unit="steps")
