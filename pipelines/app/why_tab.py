"""The tab See why: the LLM's scores, token by block, and what each place of the picture attended to."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pipelines.app.fields import DrawFields, ModelFields, request_of
from pipelines.app.models import Models
from pipelines.app.sessions import Stops, shown
from pipelines.app.try_tab import MODELS, PICTURE, PROGRESS, reporter

MAPS: dict[str, Any] = {"columns": 4, "height": "auto", "format": "png", "object_fit": "contain"}


def why_tab(models: Models, stops: Stops, chosen: ModelFields, fields: DrawFields) -> None:
    """Make the tab in the block that is open."""
    gr.Markdown(
        "Of the first prompt under **Try**, with its settings. The scores are the norms of what each block of the LLM "
        "adds to a token: in its sentence, alone, and the difference of both. Each map is a token's share of the "
        "attention at every place, averaged over heads, layers and steps, from 0 (dark) to its own largest (bright)."
    )
    show = gr.Button("Show why", variant="primary", elem_id="show-why")
    with gr.Row():
        heat = gr.Image(label="Scores, token by block", height=360, elem_id="heat", **PICTURE)
        picture = gr.Image(label="Picture", height=360, elem_id="reason", **PICTURE)
    with gr.Row():
        new = gr.Gallery(label="New path", elem_id="new-path", **MAPS)
        original = gr.Gallery(label="Original path", elem_id="original-path", **MAPS)

    @shown
    def on_show(request: gr.Request, progress: gr.Progress = PROGRESS, *values: Any) -> list[Any]:
        from pipelines.app.why import reasons

        stop = stops.begin(request.session_hash)
        found = reasons(models, request_of(values), reporter(progress), stop)
        return [found.heat_map, found.picture, found.new, found.original]

    show.click(stops.on_ask, queue=False, api_name=False).then(
        on_show,
        [*chosen.all, *fields.all],
        [heat, picture, new, original],
        concurrency_id=MODELS,
        concurrency_limit=1,
        api_name=False,
    )
