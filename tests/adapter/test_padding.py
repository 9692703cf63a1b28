"""Padding changes nothing that the adapter gives, and captions of any length make a batch."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmdiff.adapter import padding
from llmdiff.adapter.padding import pad, replace
from llmdiff.adapter.prompts import same_length
from tests.adapter import tiny
from tests.examples import examples


@functools.cache
def installed(bands: int, clip: bool) -> tuple[Any, Any]:
    """A U-Net and the adapter in it, the same for every example of a test."""
    unet = tiny.unet()
    adapter = tiny.adapter(unet, {"bands": bands}, base_context="clip" if clip else "llm", new_weight=0.5)
    adapter.install(unet)
    return unet, adapter


@settings(max_examples=examples(25), deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    junk=st.sampled_from([0.0, 1.0, -1e30, float("inf"), float("nan")]),
    clip=st.booleans(),
)
def test_padding_never_changes_the_output(lengths: list[int], junk: float, clip: bool) -> None:
    (unet, adapter), x = installed(1, clip), tiny.inputs()
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    dirty = torch.where(mask[..., None], x["encodings"], junk)
    results = []
    for encodings in (x["encodings"], dirty):
        adapter.zero_grad()
        output = tiny.predict(unet, x, adapter.context(encodings, mask, x["base"] if clip else None))
        output.square().mean().backward()
        results.append([output.detach(), *(p.grad.clone() for p in adapter.parameters())])
    assert all(torch.equal(clean, soiled) for clean, soiled in zip(*results, strict=True))


@settings(max_examples=examples(25), deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    negative_lengths=st.lists(st.integers(1, 4), min_size=2, max_size=2),
    junk=st.sampled_from([0.0, 1.0, -1e30, float("inf"), float("nan")]),
    bands=st.sampled_from([1, 3]),
    clip=st.booleans(),
)
def test_padding_never_changes_what_guidance_sees(
    lengths: list[int], negative_lengths: list[int], junk: float, bands: int, clip: bool
) -> None:
    """Prompts and negative prompts of other lengths, as a pipeline brings them together."""
    (unet, adapter), x = installed(bands, clip), tiny.inputs(batch=4)

    def predicted(junk: float) -> torch.Tensor:
        contexts = []
        for found, tokens in ((lengths, 6), (negative_lengths, 4)):
            generator = torch.Generator().manual_seed(tokens)
            encodings = torch.randn(2, *([bands] if bands > 1 else []), tokens, tiny.HIDDEN, generator=generator)
            mask = torch.arange(tokens) < torch.tensor(found)[:, None]
            seen = mask[:, None, :, None] if bands > 1 else mask[..., None]
            encodings = torch.where(seen, encodings, junk)
            contexts.append(adapter.context(encodings, mask, x["base"][:2] if clip else None))
        return tiny.predict(unet, x, torch.cat(same_length(*contexts)))

    assert torch.equal(predicted(0.0), predicted(junk))


def test_more_padding_is_the_same_caption() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, new_weight=0.5)
    adapter.install(unet)
    longer = torch.nn.functional.pad(x["encodings"], (0, 0, 0, 9))
    mask = torch.nn.functional.pad(x["mask"], (0, 9))
    short = tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    torch.testing.assert_close(tiny.predict(unet, x, adapter.context(longer, mask)), short)


def test_a_context_of_padding_alone_is_finite() -> None:
    unet, x = tiny.unet(), tiny.inputs()
    tiny.adapter(unet, new_weight=0.5).install(unet)
    assert tiny.predict(unet, x, torch.zeros(2, 5, tiny.WIDTH)).isfinite().all()


def test_captions_of_different_lengths_pad_into_a_batch() -> None:
    encodings, mask = pad([torch.ones(2, 3), torch.ones(4, 3)])
    assert encodings.shape == (2, 4, 3)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert encodings[0, 2:].abs().sum() == 0


@pytest.mark.parametrize("null_length", [1, 4, 7])
@pytest.mark.parametrize("bands", [(), (2,)])
def test_dropped_captions_become_the_empty_one(null_length: int, bands: tuple[int, ...]) -> None:
    encodings, mask = torch.randn(3, *bands, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    null = torch.randn(*bands, null_length, 5)
    replaced, new_mask = replace(encodings, mask, null, torch.tensor([False, True, False]))
    assert torch.equal(replaced[1][..., :null_length, :], null)
    assert new_mask.sum(1).tolist() == [4, null_length, 1]
    assert torch.equal(replaced[0][..., :4, :], encodings[0])
    assert torch.equal(replaced[2][..., :4, :], encodings[2])


def test_rows_of_like_length_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "GROUP", 2)
    mask = torch.arange(6) < torch.tensor([5, 1, 6, 3, 1])[:, None]
    assert [(rows.tolist(), longest) for rows, longest in padding.by_length(mask)] == [
        ([1, 4], 1),
        ([3, 0], 5),
        ([2], 6),
    ]
