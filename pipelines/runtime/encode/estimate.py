"""Estimates of how much an encode run would write, from configurations and tokenizers alone."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTokenizer

from llmdiff.data.buckets import Buckets, check_step, default_step
from llmdiff.diffusion.base import is_xl, latent_size, pooled_width, read_config, unet_config
from llmdiff.encoder.llm.loading import load_tokenizer
from llmdiff.encoder.template import resolve_template
from llmdiff.encoder.tokens import Tokens, normalise, try_tokenise
from pipelines.requests.encode import EncodeRequest

BYTES = 2
"""Bytes of a number in the store: bfloat16 in encodings, float16 in latents."""
UNKNOWN_SIZE, UNKNOWN_FACTOR = 512, 8
"""Side of the square that pictures are tried at, and of a latent's share of it, in pixels, where no diffusion model
says another."""


class CaptionSize(NamedTuple):
    """Size of captions' encodings in the mean."""

    tokens: float
    width: int
    """Width of a token's encoding, of all bands together."""
    truncated: int
    """Number of captions that would be cut."""
    rejected: Counter[str]
    """Number of captions that would have no encoding, by reason."""
    bytes: float


class LatentSize(NamedTuple):
    """Size of a picture's latent."""

    size: int
    """Side of the square in pixels; buckets have at most as many pixels as this square."""
    factor: int
    """Pixels per side that one number of the latent stands for."""
    bytes: int
    """Most bytes of a picture's latent, with its mirror image where that is kept, too."""


def caption_size(request: EncodeRequest, captions: list[str]) -> CaptionSize:
    """Return what some captions take in the mean; errors as loading the encoder has them.

    Raises:
        ValueError: the configuration or the tokenizer can't be read, or the template leaves no room for a caption.
        FileNotFoundError: there is no such folder.
    """
    if request.encoder == "base":
        assert request.diffusion is not None
        return _of_base(request.diffusion)
    assert request.llm is not None
    config, tokenizer = load_tokenizer(request.llm, None, request.settings)
    of_text, settings = config.get_text_config(), resolve_template(tokenizer, request.settings)
    found = try_tokenise(tokenizer, [normalise(text) for text in captions], settings, of_text.vocab_size)
    good = [each for each in found if isinstance(each, Tokens)]
    tokens = sum(each.kept for each in good) / max(1, len(good))
    width = of_text.hidden_size * settings.bands
    pooled = 0 if request.diffusion is None else _pooled(request.diffusion)
    return CaptionSize(
        tokens=tokens,
        width=width,
        truncated=sum(each.truncated for each in good),
        rejected=Counter(each.reason for each in found if not isinstance(each, Tokens)),
        bytes=BYTES * (tokens * width + pooled),
    )


def latent_of(request: EncodeRequest) -> LatentSize:
    """Return what a picture's latent is like, at the size that is asked for or at the model's own.

    ValueError where none fits.
    """
    assert request.diffusion is not None
    vae = read_config(request.diffusion, "vae", AutoencoderKL.load_config)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    size = request.size or latent_size(request.diffusion) * factor
    if size % factor:
        raise ValueError(f"size: expected a multiple of {factor} pixels, found {size}")
    numbers = vae["latent_channels"] * (size // factor) ** 2
    return LatentSize(size, factor, BYTES * numbers * (1 + request.flip))


def buckets_of(request: EncodeRequest, latent: LatentSize | None) -> Buckets | None:
    """Return the buckets that are asked for, if any; ValueError where their step does not fit the size."""
    if not request.buckets:
        return None
    size, factor = (request.size or UNKNOWN_SIZE, UNKNOWN_FACTOR) if latent is None else latent[:2]
    step = request.bucket_step or default_step(size, factor)
    check_step(size, step, factor)
    return Buckets(size=size, step=step)


def _of_base(diffusion: str) -> CaptionSize:
    """Return the size of the base's own features: as many tokens for every caption."""
    parts = ("text_encoder", "text_encoder_2") if is_xl(unet_config(diffusion)) else ("text_encoder",)
    width = sum(read_config(diffusion, part, CLIPTextConfig.from_pretrained).hidden_size for part in parts)
    tokens = read_config(diffusion, "tokenizer", CLIPTokenizer.from_pretrained).model_max_length
    size = BYTES * (tokens * width + _pooled(diffusion))
    return CaptionSize(tokens=tokens, width=width, truncated=0, rejected=Counter(), bytes=size)


def _pooled(diffusion: str) -> int:
    """Return the width of the pooled embedding that SDXL reads besides; 0 for another base."""
    unet = unet_config(diffusion)
    return pooled_width(unet) if is_xl(unet) else 0
