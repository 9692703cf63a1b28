"""The encoders that make a store's encodings and latents; the store registers them first."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmdiff.data.buckets import Buckets, check_step, default_step
from llmdiff.data.encode.captions import TextEncoder, encode_captions
from llmdiff.data.encode.known import check_same_latents, lacking_captions
from llmdiff.data.images import PIXELS
from llmdiff.diffusion.latents import LatentEncoder
from storage import EncodingStore, caption_hash, content_hash

logger = logging.getLogger(__name__)

CAPTIONS_AT_ONCE = 4096
"""Captions in one commit, where they are encoded apart from their samples."""


@dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """How captions become encodings."""

    encoder: TextEncoder
    fingerprint: str
    """Hash of all that decides the encodings' numbers."""


@dataclass(frozen=True, kw_only=True)
class LatentEncoding:
    """How pictures become latents."""

    encoder: LatentEncoder
    fingerprint: str
    """Hash of all that decides the latents' numbers."""
    size: int
    """Side of the square that is kept, in pixels."""
    min_side: int
    """Pictures whose shorter side has fewer pixels are refused."""
    buckets: Buckets | None = None
    """Sizes that pictures are fitted to, in place of the square."""
    flip: bool = False
    """Whether each picture's mirror image is kept too."""

    def key(self, image_hash: str) -> str:
        """Return the key of a picture's latent in the store."""
        return content_hash(f"{self.fingerprint}:{image_hash}".encode())

    def encode(self, pictures: np.ndarray) -> Tensor:
        """Return the latents of pictures ``(batch, height, width, 3)`` uint8 as the store keeps them, on the device.

        float16 ``(batch, channel, height, width)``; with `flip`, ``(batch, 2, channel, …)``: the mirror images' second.
        """
        latents = self.encoder(pictures)
        if not self.flip:
            return latents
        return torch.stack([latents, self.encoder(np.ascontiguousarray(pictures[:, :, ::-1]))], dim=1)


@dataclass(frozen=True, kw_only=True)
class EncoderSet(TextEncoding):
    """How rows become encodings and latents: the encoder of captions, and the others that rows need."""

    latents: LatentEncoding | None = None
    """How pictures become latents; None for captions alone."""
    pooled: TextEncoding | None = None
    """Encoder of the pooled embeddings that an SDXL base reads besides; the store keeps them with the encodings."""
    threads: int | None = None
    """Threads that decode pictures; None is one for each processor that the process may use."""

    @property
    def of_captions(self) -> list[TextEncoding]:
        """All encoders that a caption goes through."""
        return [self] if self.pooled is None else [self, self.pooled]


def prepare(
    store: EncodingStore,
    encoder: TextEncoder,
    latent_encoder: LatentEncoder | None = None,
    size: int | None = None,
    min_side: int | None = None,
    pooled: TextEncoder | None = None,
    *,
    buckets: bool = False,
    bucket_step: int | None = None,
    flip: bool = False,
) -> EncoderSet:
    """Register the encoders in the store, and the empty caption's encoding that caption dropout and guidance need.

    Args:
        store: opened for writing.
        encoder: the encoder of captions.
        latent_encoder: the encoder of pictures; None for captions alone.
        size: side of the pictures in pixels, where there are pictures.
        min_side: the fewest pixels of a picture's shorter side; None is a quarter of `size`.
        pooled: an SDXL base's `PooledTextEncoder`; None for another base. Captions that were encoded without it, by an
            earlier run or for another base, are encoded with it now.
        buckets: keep each picture's aspect ratio; see `llmdiff.data.buckets`.
        bucket_step: pixels between the sides of two buckets; None is `default_step`.
        flip: keep each picture's mirror image, too.

    Raises:
        ValueError: `size` or `bucket_step` does not fit the autoencoder, the store holds latents of another one or of
            pictures made ready otherwise, or the empty caption's encoding is not finite.
    """
    latents = None
    if latent_encoder is not None:
        assert size is not None
        step = (bucket_step or default_step(size, latent_encoder.factor)) if buckets else None
        least = size // 4 if min_side is None else min_side
        latents = prepare_latents(store, latent_encoder, size, least, step, flip)
    fingerprint = register(store, encoder)
    if pooled is None:
        return EncoderSet(encoder=encoder, fingerprint=fingerprint, latents=latents)
    beside = TextEncoding(encoder=pooled, fingerprint=register(store, pooled))
    complete(store, fingerprint, beside)
    return EncoderSet(encoder=encoder, fingerprint=fingerprint, latents=latents, pooled=beside)


def register(store: EncodingStore, encoder: TextEncoder) -> str:
    """Register an encoder of captions with the empty caption's encoding; see `prepare`."""
    fingerprint = str(store.register_fingerprint(encoder.describe()))
    encode_captions(store, fingerprint, encoder, [""])
    if not store.snapshot().encodings(fingerprint, [caption_hash("")]):
        reason = "holds NaN or infinity, and training needs it; the store's rejects say in which block"
        raise ValueError(f"{store.path}: the empty caption's encoding {reason}")
    return fingerprint


def complete(store: EncodingStore, fingerprint: str, beside: TextEncoding) -> None:
    """Encode with `beside` the captions of an encoder's samples that it has not encoded yet."""
    captions = lacking_captions(store.snapshot(), fingerprint, beside.fingerprint)
    if captions:
        logger.warning("%s: %d captions get a pooled embedding of this base", store.path, len(captions))
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        encode_captions(store, beside.fingerprint, beside.encoder, captions[start : start + CAPTIONS_AT_ONCE])


def prepare_latents(
    store: EncodingStore, encoder: LatentEncoder, size: int, min_side: int, step: int | None, flip: bool
) -> LatentEncoding:
    """Register the autoencoder; see `prepare`. `step` is None where there are no buckets."""
    if size < 1 or size % encoder.factor:
        raise ValueError(f"size: expected a multiple of {encoder.factor} pixels, found {size}")
    description = {**encoder.describe(), "size": size, "crop": "centre", "pixels": PIXELS}
    if step is not None:
        check_step(size, step, encoder.factor)
        description |= {"crop": "buckets/1", "bucket_step": step, "factor": encoder.factor}
    if flip:
        description["flip"] = True
    check_same_latents(store, description)
    fingerprint = str(store.register_fingerprint(description))
    return LatentEncoding(
        encoder=encoder,
        fingerprint=fingerprint,
        size=size,
        min_side=min_side,
        buckets=None if step is None else Buckets(size=size, step=step),
        flip=flip,
    )
