"""The autoencoder's passes: their dtype, which the latents' key tells, and their size, which memory bounds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmdiff.data.encode import prepare
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder
from storage import EncodingStore
from tests.adapter import tiny
from tests.data.conftest import SIZE
from tests.graphs import Graphs

IMAGES = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)


class SmallMemory:
    """A stand-in for an autoencoder's encoder pass: memory for so many pictures, and which passes were tried."""

    def __init__(self, vae: Any, room: int) -> None:
        self.encode, self.room = vae.encode, room
        self.tried: list[int] = []

    def __call__(self, images: torch.Tensor) -> Any:
        self.tried.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.encode(images)


def test_out_of_memory_halves_the_pictures_of_a_pass_for_good(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = LatentEncoder(tiny.vae())(IMAGES)
    vae = tiny.vae()
    memory = SmallMemory(vae, 3)
    monkeypatch.setattr(vae, "encode", memory)
    encoder = LatentEncoder(vae, at_once=8)
    with caplog.at_level(logging.WARNING):
        found = encoder(IMAGES)
    assert memory.tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert "out of memory on a batch of 4 pictures; going on with 2" in caplog.text
    torch.testing.assert_close(found, expected, rtol=2**-10, atol=1e-3)
    memory.tried.clear()
    encoder(IMAGES[:4])
    assert memory.tried == [2, 2]


def test_one_picture_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny.vae()
    monkeypatch.setattr(vae, "encode", SmallMemory(vae, 0))
    with pytest.raises(MemoryError, match="one picture does not fit into memory: CUDA out of memory"):
        LatentEncoder(vae)(IMAGES[:2])


def test_other_errors_are_raised_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny.vae()

    def broken(images: torch.Tensor) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(vae, "encode", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        LatentEncoder(vae)(IMAGES)


def test_bfloat16_has_a_key_of_its_own_and_float32_the_one_it_had(tmp_path: Path) -> None:
    full = LatentEncoder(tiny.vae())
    assert list(full.describe()) == ["kind", "model", "weights", "scaling_factor", "formula"]
    tiny.save_base(tmp_path / "sd")
    half = LatentEncoder.from_pretrained(str(tmp_path / "sd"), dtype=torch.bfloat16)
    assert half.describe() == {**full.describe(), "dtype": "bfloat16"}
    assert half.vae.dtype == torch.bfloat16
    found, expected = half(IMAGES), full(IMAGES)
    assert found.dtype == torch.float16
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    stored = float((expected.float() - expected.float().bfloat16().float()).norm() / expected.float().norm())
    assert stored / 2 < error < 0.05, "a bfloat16 pass is off at least by its result's own rounding"


def test_a_store_of_one_dtype_refuses_the_other(encoder: Encoder, tmp_path: Path) -> None:
    full, half = LatentEncoder(tiny.vae()), LatentEncoder(tiny.vae().to(torch.bfloat16))
    for first, second, words in (
        (full, half, "expected dtype 'float32', found 'bfloat16'"),
        (half, full, "expected dtype 'bfloat16', found 'float32'"),
    ):
        store = EncodingStore.create(tmp_path / str(first.vae.dtype))
        prepare(store, encoder, first, SIZE)
        with pytest.raises(ValueError, match=words):
            prepare(store, encoder, second, SIZE)


@pytest.mark.xdist_group("torch.compile")
def test_compiled_and_with_channels_last_the_latents_are_the_same(graphs: Graphs, tmp_path: Path) -> None:
    tiny.vae(levels=2).save_pretrained(tmp_path / "base" / "vae")
    expected = LatentEncoder.from_pretrained(str(tmp_path / "base"))
    encoder = LatentEncoder.from_pretrained(str(tmp_path / "base"), torch_compile=True, channels_last=True, at_once=4)
    assert encoder.describe() == expected.describe()
    wide = IMAGES[:, : SIZE // 2]
    for images in (IMAGES, IMAGES[:7], wide, wide[:3]):
        torch.testing.assert_close(encoder(images), expected(images), rtol=2**-9, atol=1e-3)
    assert (graphs.count, graphs.breaks) == (2, [])  # one for each size of picture; fewer than four run as they are
