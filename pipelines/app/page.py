"""The page: the models at the top, a tab for each thing that people come for."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pipelines.app.fields import ModelFields, filled
from pipelines.app.models import Models
from pipelines.app.run_tab import run_tab
from pipelines.app.sessions import Stops, shown
from pipelines.app.sources import choices
from pipelines.app.store_tab import store_tab
from pipelines.app.try_tab import try_tab
from pipelines.app.why_tab import why_tab
from pipelines.requests.app import AppRequest

FONTS = ("system-ui", "sans-serif")
"""Font families that the reader's machine has: nothing is fetched from another host."""
KEPT_PICTURES = (3600, 24 * 3600)
"""Seconds between two looks for pictures that nobody needs, and how old those are."""


def build_page(request: AppRequest) -> gr.Blocks:
    """Return the page; models are loaded when they are first needed, and stay."""
    models, stops = Models(), Stops()
    with gr.Blocks(title="llmdiff", analytics_enabled=False, delete_cache=KEPT_PICTURES, fill_width=True) as page:
        chosen = ModelFields.build()
        with gr.Tab("Try"):
            fields = try_tab(models, stops, chosen)
        with gr.Tab("See why"):
            why_tab(models, stops, chosen, fields)
        with gr.Tab("The store"):
            store = store_tab(models, chosen)
        with gr.Tab("A run") as run:
            run_tab(models, run)

        @shown
        def on_load() -> list[Any]:
            found = choices(request)
            first = found.stores[0] if found.stores else None
            return [*filled(found, request.llm, request.diffusion), gr.update(choices=found.stores, value=first)]

        page.load(on_load, None, [*chosen.all, store], api_name=False)
        page.unload(stops.on_close)
    return page


CSS = """
#base img, #adapted img, #reason img {width: 100%; height: 100%; object-fit: contain; image-rendering: auto}
.grid-wrap {min-height: 0; max-height: none; padding-top: 2rem}
#history .grid-wrap {max-height: 160px}
#heat .image-container {padding-top: 2rem}
.caption-label {max-width: 96%}
.beside {align-self: flex-end}
@media (max-width: 640px) {
  .grid-container {grid-template-columns: repeat(auto-fill, minmax(130px, 1fr))}
}
"""
"""Labels stand over no picture, galleries show all that they hold, and a narrow page has fewer pictures in a row."""


def theme() -> Any:
    """Return the page's look."""
    return gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"))
