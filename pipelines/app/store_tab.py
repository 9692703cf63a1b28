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

SOURCE_HEADERS = ["source", "samples", "captions", "tokens", "latents", "rejects", "bytes"]
Found = list[dict[str, Any]]


def store_tab(models: Models, chosen: ModelFields) -> gr.Dropdown:
    """Make the tab in the block that is open; return the field of the store."""
    store = gr.Dropdown(label="Store", info="Folder or s3:// address", allow_custom_value=True, elem_id="store")
    with gr.Tab("Samples"):
        with gr.Row():
            words = gr.Textbox(label="Words of the caption", elem_id="words")
            fingerprint = gr.Dropdown(label="Encoder", allow_custom_value=True, scale=2)
            number = gr.Number(1, label="Page", precision=0, minimum=1, min_width=80)
            look = gr.Button("Look", variant="primary", elem_id="look")
        count = gr.Textbox(label="Found", interactive=False, elem_id="found")
        samples = gr.Gallery(label="Samples, decoded from their latents", columns=6, format="png", elem_id="samples")
        table = gr.Dataframe(
            headers=["caption", "source", "row", "tokens", "crop"],
            column_widths=["46%", "26%", "8%", "8%", "12%"],
            max_height=300,
            wrap=True,
            interactive=False,
            elem_id="sample-table",
        )
    with gr.Tab("Nearest captions"):
        with gr.Row():
            prompt = gr.Textbox(label="Prompt", elem_id="near-prompt")
            near = gr.Button("Find", variant="primary", elem_id="near")
        neighbours = gr.Gallery(label="Nearest by encoding, with cosine", columns=6, format="png", elem_id="neighbours")
    with gr.Tab("Rejects"):
        list_them = gr.Button("List", elem_id="list-rejects")
        with gr.Row():
            rejects = gr.Dataframe(
                headers=["source", "row", "reason", "detail", "source hash", "encoder"],
                interactive=False,
                wrap=True,
                elem_id="rejects",
            )
            refused = gr.Image(label="The row's picture: click a row", **PICTURE)
    with gr.Tab("Sources"):
        count_them = gr.Button("Count", elem_id="count-sources")
        sources = gr.Dataframe(headers=SOURCE_HEADERS, interactive=False, elem_id="sources")

    @shown
    def on_look(path: str, text: str, encoder: str, page: int, adapter: str, diffusion: str) -> list[Any]:
        from pipelines.app.store_view import PAGE, find_samples, fingerprints

        opened = open_store(path)
        known = fingerprints(opened)
        if encoder not in known:
            encoder = next((name for name in [encoder_of(adapter), *known] if name in known), "")
        found = find_samples(opened.snapshot(), text or "", encoder)
        first = PAGE * (max(1, page or 1) - 1)
        rows = found.slice(first, PAGE).to_pylist()
        said = f"{len(found)} samples of version {opened.version}; shown: {first + bool(rows)} to {first + len(rows)}"
        listed = [[row["caption"], row["source"], row["row"], row["token_count"], str(row["crop"])] for row in rows]
        drawn = pictures(models, opened, rows, adapter, diffusion)
        return [drawn, listed, said, gr.update(choices=known, value=encoder)]

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

    @shown
    def on_rejects(path: str) -> Any:
        from pipelines.app.rejected import list_rejects

        return list_rejects(open_store(path))

    @shown
    def on_reject(path: str, event: gr.SelectData) -> Any:
        from pipelines.app.rejected import rejected_picture

        _, row, _, _, source_hash, encoder = event.row_value
        return rejected_picture(open_store(path), str(source_hash), int(row), str(encoder))

    @shown
    def on_sources(path: str) -> Any:
        from pipelines.app.store_view import sources as counted

        return counted(open_store(path))

    inputs = [store, words, fingerprint, number, chosen.adapter, chosen.diffusion]
    gr.on(
        [look.click, words.submit, number.submit], on_look, inputs, [samples, table, count, fingerprint], api_name=False
    )
    gr.on(
        [near.click, prompt.submit],
        on_near,
        [store, prompt, *chosen.all],
        neighbours,
        concurrency_id=MODELS,
        concurrency_limit=1,
        api_name=False,
    )
    list_them.click(on_rejects, store, rejects, api_name=False)
    rejects.select(on_reject, store, refused, api_name=False)
    count_them.click(on_sources, store, sources, api_name=False)
    return store


def open_store(path: str | None) -> Any:
    """Open a store at its newest version; errors as of `EncodingStore.open`."""
    from storage import EncodingStore

    if not path:
        raise ValueError("store: expected a folder or an s3:// address, found none")
    return EncodingStore.open(path)


def pictures(
    models: Models, store: Any, rows: Found, adapter: str, diffusion: str, labels: list[str] | None = None
) -> list[tuple[Any, str]]:
    """Return the pictures of samples with what is known of them; a caption alone has a blank one."""
    from PIL import Image

    from pipelines.app.store_view import decode_pictures, describe_sample

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
    """Return the fingerprint of the encoder that an adapter was trained with; empty where none is chosen."""
    return config_of(adapter).encoder_fingerprint if adapter else ""


def config_of(adapter: str) -> AdapterConfig:
    """Return the configuration of an adapter's folder or registered version."""
    from infra.tracking.registry import fetch_adapter
    from llmdiff.adapter.config import read_config

    return read_config(fetch_adapter(adapter))


def chosen_or_none(value: str | None) -> str | None:
    """Return a menu's value; None where it is the recorded one."""
    return None if value in (None, "", RECORDED) else value
