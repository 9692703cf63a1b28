"""Why a picture came out as it did: what the LLM's blocks add to each token, and what each place attended to."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from llmdiff.adapter.attention_maps import NEW, ORIGINAL, AttentionMaps, recorded
from llmdiff.encoder.inspect import COLOURS, draw_heat_map, inspect
from llmdiff.encoder.tokens import normalise, tokenise
from llmdiff.pipeline import adapter_of
from llmdiff.sampling import draw, to_images
from pipelines.app.drawing import OnStep, Steps, StoppedError
from pipelines.app.models import Models
from pipelines.requests.generate import GenerateRequest
from pipelines.runtime.adapter_source import Source, resolve_adapter

Labelled = list[tuple[Image.Image, str]]


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """Pictures that explain one prompt's picture."""

    heat_map: Image.Image | None
    """Token by block: sentence, word and context score; None for an adapter on the base's own text features."""
    picture: Image.Image
    new: Labelled
    """The picture under the new path's map of each token, with the token and its share of the attention."""
    original: Labelled
    """The picture under the original path's map of each token, with the token and its share of the attention."""


def reasons(models: Models, request: GenerateRequest, show: OnStep, stop: threading.Event) -> Reasons:
    """Draw the first prompt, and return what its tokens did.

    Raises:
        StoppedError: it was stopped.
        ValueError: there is no prompt, or the models do not go together.
    """
    if not request.prompts:
        raise ValueError("prompts: expected at least one, found none")
    if stop.is_set():
        raise StoppedError
    prompt = request.prompts[0]
    source = resolve_adapter.fn(request.adapter, request.llm, request.diffusion)
    sampling = request.sampling
    steps = Steps(request.steps, show, stop)
    with models.drawing(source, sampling) as pipe:
        side = pipe.unet.config.sample_size
        with recorded(adapter_of(pipe), (side, side)) as maps:
            (pictures,) = draw(pipe, [prompt], [request.seed], sampling, 1, callback_on_step_end=steps.callback)
        picture = to_images(pictures)[0]
        own, of_base = read_tokens(models, pipe, source, prompt)
        heat = draw_heat_map(inspect(models.encoder(source), prompt)) if source.llm else None
    return Reasons(
        heat_map=heat,
        picture=picture,
        new=labelled(picture, maps, NEW, own),
        original=labelled(picture, maps, ORIGINAL, of_base),
    )


def read_tokens(models: Models, pipe: Any, source: Source, prompt: str) -> tuple[list[str], list[str]]:
    """Return the tokens that the new path reads of a prompt, and those that the original path reads."""
    ids = pipe.tokenizer(prompt, truncation=True, max_length=pipe.tokenizer.model_max_length).input_ids
    of_base = in_words(pipe.tokenizer, ids)
    if not source.llm:
        return of_base, of_base
    encoder = models.encoder(source)
    (tokens,) = tokenise(encoder.tokenizer, [normalise(prompt)], encoder.config, encoder.llm.vocabulary)
    own = in_words(encoder.tokenizer, tokens.ids[tokens.keep])
    return own, of_base if adapter_of(pipe).config.base_tokens else own


def in_words(tokenizer: Any, ids: list[int]) -> list[str]:
    """Return the text of each token; of one that is a space alone, or no text, its name."""
    names = tokenizer.convert_ids_to_tokens(ids)
    return [tokenizer.decode([i]).strip() or str(name) for i, name in zip(ids, names, strict=True)]


def labelled(picture: Image.Image, maps: AttentionMaps, path: str, tokens: list[str]) -> Labelled:
    """Return the picture under each token's map, its token with its share of all attention as the label."""
    if (shares := maps.mean(path)) is None:
        return []
    shares = shares[: len(tokens)]  # padding, and the row of zeros that ends a context
    return [
        (overlay(picture, share), f"{i} {token} · {float(share.mean()):.1%}")
        for i, (token, share) in enumerate(zip(tokens, shares, strict=False))
    ]


def overlay(picture: Image.Image, share: Tensor) -> Image.Image:
    """Return a picture half under the colours of a map ``(height, width)``, from 0 to the map's own largest share."""
    scaled = (share / share.max().clamp_min(1e-12)).numpy()
    grey = Image.fromarray((scaled * 255).round().astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
    levels = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.asarray(grey), levels, [colour[c] for colour in COLOURS]) for c in range(3)]
    colours = Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
    return Image.blend(picture.convert("RGB"), colours, 0.6)
