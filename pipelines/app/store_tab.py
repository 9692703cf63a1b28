"""The tab The store: samples, rejects, sources, and the captions nearest to a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.app.fields import RECORDED, ModelFields
from pipelines.app.models import Models
from pipelines.app.sessions import shown
from pipelines.app.try_tab import MODELS, PICTURE

if TYPE_CHECKING:
    from llmdiff.adapter.config import AdapterConfig

GALLERY: dict[str, Any] = {"columns": 6, "height": "auto", "format": "png"}
SAMPLE_HEADERS = ["caption", "source", "row", "tokens", "size and cut"]
REJECT_HEADERS = ["source", "row", "reason", "detail", "source hash", "encoder"]
SOURCE_HEADERS = ["source", "samples", "captions", "tokens", "latents", "rejects", "MB"]
FoundSamples = list[dict[str, Any]]


def store_tab(models: Models, chosen: ModelFields) -> gr.Dropdown:
    """Make the tab in the block that is open; return the field of the store."""
    store = gr.Dropdown(label="Store", info="Folder or s3:// address", allow_custom_value=True, elem_id="store")
    with gr.Tab("Samples"):
        samples_tab(models, chosen, store)
    with gr.Tab("Nearest captions"):
        nearest_tab(models, chosen, store)
    with gr.Tab("Rejects") as rejects:
        rejects_tab(store, rejects)
    with gr.Tab("Sources") as sources:
        sources_tab(store, sources)
    return store


def samples_tab(models: Models, chosen: ModelFields, store: gr.Dropdown) -> None:
    """Make the tab of samples, which are searched by the words of their captions and shown a page at a time."""
    with gr.Row():
        words = gr.Textbox(label="Words of the caption", placeholder="all captions", scale=2, elem_id="words")
        encoder = gr.Dropdown(label="Encoder", allow_custom_value=True, scale=2, min_width=260)
        page = gr.Number(1, label="Page", precision=0, minimum=1, min_width=80)
        look = gr.Button("Search", variant="primary", min_width=120, elem_classes="beside", elem_id="look")
    count = gr.Textbox(label="Found", interactive=False, elem_id="found")
    gallery = gr.Gallery(label="Samples, decoded from their latents", elem_id="samples", **GALLERY)
    table = gr.Dataframe(
        headers=SAMPLE_HEADERS,
        column_widths=["44%", "24%", "70px", "80px", "235px"],
        max_height=300,
        wrap=True,
        interactive=False,
        elem_id="sample-table",
    )

    @shown
    def on_look(path: str, text: str, wanted: str, number: int, adapter: str, diffusion: str) -> list[Any]:
        from pipelines.app.store_view import PAGE, cut, encoders, find_samples

        opened = open_store(path)
        known = encoders(opened)
        if wanted not in known:
            wanted = next((name for name in [encoder_of(adapter), *known] if name in known), "")
        found = find_samples(opened.snapshot(), text or "", wanted)
        first = PAGE * (min(max(1, number or 1), -(-len(found) // PAGE) or 1) - 1)
        rows = found.slice(first, PAGE).to_pylist()
        said = f"{len(found)} samples of version {opened.version}; shown: {first + bool(rows)} to {first + len(rows)}"
        listed = [[row["caption"], row["source"], row["row"], row["token_count"], cut(row)] for row in rows]
        drawn = pictures(models, opened, rows, adapter, diffusion)
        return [drawn, listed, said, gr.update(choices=[(label, name) for name, label in known.items()], value=wanted)]

    gr.on(
        [look.click, words.submit, page.submit],
        on_look,
        [store, words, encoder, page, chosen.adapter, chosen.diffusion],
        [gallery, table, count, encoder],
        api_name=False,
    )


def nearest_tab(models: Models, chosen: ModelFields, store: gr.Dropdown) -> None:
    """Make the tab of the captions whose encodings are nearest to a prompt's."""
    with gr.Row():
        prompt = gr.Textbox(label="Prompt", scale=5, elem_id="near-prompt")
        near = gr.Button("Find", variant="primary", min_width=120, elem_classes="beside", elem_id="near")
    neighbours = gr.Gallery(label="Nearest by encoding, with cosine", elem_id="neighbours", **GALLERY)

    @shown
    def on_near(path: str, text: str, adapter: str, llm: str, diffusion: str) -> Any:
        from llmdiff.adapter.config import read_config
        from pipelines.app.store_view import nearest
        from pipelines.runtime.adapter_source import resolve_adapter

        if not (text or "").strip():
            raise ValueError("prompt: expected some words, found none")
        source = resolve_adapter.fn(adapter, chosen_or_none(llm), chosen_or_none(diffusion))
        if source.llm is None:
            raise ValueError(f"{adapter}: reads the base's own text features: choose an adapter that reads an LLM's")
        opened = open_store(path)
        with models.lock:
            (encoding,) = models.encoder(source)([text])
        found = nearest(opened, read_config(source.adapter).encoder_fingerprint, encoding)
        labels = [f"{cosine:.3f} " for cosine, _ in found]
        return pictures(models, opened, [row for _, row in found], adapter, diffusion, labels)

    gr.on(
        [near.click, prompt.submit],
        on_near,
        [store, prompt, *chosen.all],
        neighbours,
        concurrency_id=MODELS,
        concurrency_limit=1,
        api_name=False,
    )


def rejects_tab(store: gr.Dropdown, tab: gr.Tab) -> None:
    """Make the tab of the refused rows, which are listed when it is opened."""
    with gr.Row():
        count = gr.Textbox(label="Found", interactive=False, scale=5)
        again = gr.Button("List again", min_width=120, elem_classes="beside", elem_id="list-rejects")
    with gr.Row():
        rejects = gr.Dataframe(
            headers=REJECT_HEADERS,
            column_widths=["22%", "70px", "150px", "32%", "110px", "110px"],
            interactive=False,
            wrap=True,
            scale=3,
            elem_id="rejects",
        )
        picture = gr.Image(label="The row's picture: click a row", scale=1, **PICTURE)

    @shown
    def on_list(path: str) -> list[Any]:
        from pipelines.app.rejected import SHOWN_REJECTS, list_rejects

        store = open_store(path)
        listed = list_rejects(store)
        known = len(listed) if len(listed) < SHOWN_REJECTS else store.rejects().num_rows
        return [listed, f"{known} refused rows; shown: {len(listed)}"]

    @shown
    def on_row(path: str, event: gr.SelectData) -> Any:
        from pipelines.app.rejected import rejected_picture

        _, row, _, _, source_hash, encoder = event.row_value
        return rejected_picture(open_store(path), str(source_hash), int(row), str(encoder))

    gr.on([again.click, tab.select], on_list, store, [rejects, count], api_name=False)
    rejects.select(on_row, store, picture, api_name=False)


def sources_tab(store: gr.Dropdown, tab: gr.Tab) -> None:
    """Make the tab of the sources, which are counted when it is opened."""
    with gr.Row():
        count = gr.Textbox(label="Found", interactive=False, scale=5)
        again = gr.Button("Count again", min_width=120, elem_classes="beside", elem_id="count-sources")
    sources = gr.Dataframe(headers=SOURCE_HEADERS, interactive=False, wrap=True, elem_id="sources")

    @shown
    def on_count(path: str) -> list[Any]:
        from pipelines.app.store_view import sources as counted

        found = counted(open_store(path))
        samples = sum(row[1] for row in found)
        return [[[*row, round(size / 1e6, 2)] for *row, size in found], f"{len(found)} sources, {samples} samples"]

    gr.on([again.click, tab.select], on_count, store, [sources, count], api_name=False)


def open_store(path: str | None) -> Any:
    """Open a store at its newest version; errors as of `EncodingStore.open`."""
    from storage import EncodingStore

    if not path:
        raise ValueError("store: expected a folder or an s3:// address, found none")
    return EncodingStore.open(path)


def pictures(
    models: Models, store: Any, rows: FoundSamples, adapter: str, diffusion: str, labels: list[str] | None = None
) -> list[tuple[Any, str]]:
    """Return the pictures of samples with what is known of them; a caption alone has a blank one."""
    from PIL import Image

    from pipelines.app.store_view import decode_pictures, describe_sample

    decoded = {}
    if any(row["latent_key"] is not None for row in rows):
        with models.lock:
            decoded = decode_pictures(store, rows, models.latent_encoder(base_of(adapter, diffusion)))
    blank = Image.new("RGB", (64, 64), "white")
    before = labels or [""] * len(rows)
    return [
        (decoded.get(row["latent_key"] or "", blank), label + describe_sample(row))
        for label, row in zip(before, rows, strict=True)
    ]


def base_of(adapter: str, diffusion: str) -> str:
    """Return the base model whose autoencoder decodes: the chosen one, or the adapter's."""
    if (given := chosen_or_none(diffusion)) is not None:
        return given
    if not adapter:
        raise ValueError("base model: expected one, to decode the latents with, found none")
    return config_of(adapter).base_model


def encoder_of(adapter: str) -> str:
    """Return the fingerprint of the encoder that an adapter was trained with; empty where none can be read."""
    try:
        return config_of(adapter).encoder_fingerprint if adapter else ""
    except (OSError, ValueError):
        return ""  # a store is browsed without an adapter, too


def config_of(adapter: str) -> AdapterConfig:
    """Return the configuration of an adapter's folder or registered version."""
    from infra.tracking.registry import fetch_adapter
    from llmdiff.adapter.config import read_config

    return read_config(fetch_adapter(adapter))


def chosen_or_none(value: str | None) -> str | None:
    """Return a menu's value; None where it is the recorded one."""
    return None if value in (None, "", RECORDED) else value
