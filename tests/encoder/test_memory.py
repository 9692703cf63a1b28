"""What encoding costs: nothing is kept of a block, nothing computed for padding, and batches fit into memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.batching import BatchBudget, batches_by_tokens, run_in_batches
from llmdiff.encoder.llm.scores import BlockScore
from tests.encoder.tiny_encoder import CAPTIONS, flops, make
from tests.encoder.tiny_models import gemma2, gpt_neox, llama, phi, tokenizer
from tests.kernels.allocations import Allocations


@pytest.mark.parametrize("name", ["llama", "phi", "gemma2"])
def test_the_word_path_costs_nothing_for_padding(name: str) -> None:
    """What encoding adds to a plain pass is the same whether captions are padded to the longest or each alone."""
    extra = []
    for budget in (8192, 1):
        encoder = make(name, token_budget=budget)
        shapes: list[tuple[int, int]] = []
        handle = encoder.llm.backbone.register_forward_pre_hook(
            lambda module, args, kwargs, shapes=shapes: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        encode = flops(lambda encoder=encoder: encoder(CAPTIONS))
        handle.remove()
        assert len(shapes) == (1 if budget > 1 else 3)
        plain = flops(
            lambda encoder=encoder, shapes=shapes: [encoder.llm.forward(torch.ones(*s).long()) for s in shapes]
        )
        extra.append(encode - plain)
    assert extra[0] == extra[1] > 0


def test_neither_the_head_nor_a_hook_is_left(monkeypatch) -> None:
    """No logits are computed, and the model is as it was."""
    encoder = make()
    model = encoder.llm.model
    calls: list[object] = []
    model.lm_head.register_forward_hook(lambda *args: calls.append(args))
    encoder(CAPTIONS)
    assert not calls
    layers = model.get_decoder().layers
    assert not any(module._forward_hooks or module._forward_pre_hooks for layer in layers for module in layer.modules())


def test_hooks_are_gone_after_an_error() -> None:
    encoder = make()
    with pytest.raises(IndexError):
        encoder.llm.stream(torch.tensor([[10**6]]), "context", lambda score: None)
    assert not any(module._forward_hooks for module in encoder.llm.backbone.modules())


def test_blocks_are_forgotten_as_they_go() -> None:
    """When a block's score comes, nothing of the block before is alive: memory does not grow with the blocks."""
    for name in ("llama", "phi", "gemma2"):
        encoder = make(name)
        for path in ("context", "sentence"):
            earlier: list[weakref.ref[torch.Tensor]] = []

            def fold(score: BlockScore, earlier=earlier) -> None:
                assert not any(tensor() is not None for tensor in earlier)
                earlier[:] = [weakref.ref(term) for term in (score.plus, score.also, score.minus) if term is not None]

            encoder.llm.stream(torch.tensor([[3, 4, 5, 1]]), path, fold)
            assert earlier


@pytest.mark.parametrize("word_path", ["block", "isolated"])
@pytest.mark.parametrize("family", [llama, phi, gemma2, gpt_neox])
def test_memory_does_not_grow_with_the_blocks(family: Callable[..., Any], word_path: str, tmp_path) -> None:
    """The most bytes alive at once, weights apart, are the same for 3 blocks and for 12."""
    peaks, kept = [], []
    for blocks in (3, 12):
        model = family(num_hidden_layers=blocks).eval()
        config = EncoderConfig(dtype="float32", word_path=word_path)
        encoder = Encoder(model, tokenizer(), config, cache_folder=tmp_path)
        encoder([""])  # makes the table
        with Allocations([*model.parameters(), *model.buffers()]) as allocations:
            encoder(CAPTIONS)
        peaks.append(allocations.peak)
        with Allocations([*model.parameters(), *model.buffers()]) as allocations, torch.no_grad():
            model.get_decoder()(torch.ones(3, 11, dtype=torch.int64), output_hidden_states=True, use_cache=False)
        kept.append(allocations.peak)
    assert peaks[0] == peaks[1] > 0
    assert kept[1] - kept[0] >= 9 * 3 * 11 * 48 * 4, "hidden states that are kept are seen to be"


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_batches_hold_every_caption_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_tokens(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert longest * len(batch) <= budget or len(batch) == 1


def test_little_of_a_batch_is_padding() -> None:
    lengths = [1 + i * i % 97 for i in range(3000)]
    batches = list(batches_by_tokens(lengths, 4096))
    assert sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) < 1.06 * sum(lengths)
    assert len(batches) < 2 * sum(lengths) / 4096


@pytest.mark.process
def test_real_memory_exhaustion_halves_the_budget_and_goes_on() -> None:
    """In a process with little memory one batch of 500 captions does not fit, and smaller ones do."""
    code = """
    import logging, resource, sys, torch
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    from llmdiff.encoder import Encoder, EncoderConfig
    from tests.encoder.tiny_models import WORDS, llama, tokenizer
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = llama(intermediate_size=4096).eval()
    words = [f"{WORDS[i % 19]} {WORDS[i // 19 % 19]} {WORDS[i // 361 % 19]} red circle" for i in range(500)]
    expected = Encoder(model, tokenizer(), EncoderConfig(dtype="float32", token_budget=300))(words)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), resource.RLIM_INFINITY))
    encoder = Encoder(model, tokenizer(), EncoderConfig(dtype="float32", token_budget=3000))
    for one, other in zip(encoder(words), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    print("all encoded")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=None)
    assert done.returncode == 0, done.stderr
    assert "out of memory on a batch of 3000 tokens; going on with 1500" in done.stdout
    assert "all encoded" in done.stdout


def test_one_caption_that_does_not_fit_is_an_error() -> None:
    def run(indices: list[int]) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(MemoryError, match="one caption of 7 tokens does not fit"):
        list(run_in_batches([3, 7], BatchBudget(100), run))


def test_a_budget_that_memory_did_not_bear_is_not_tried_again() -> None:
    sizes: list[int] = []

    def run(indices: list[int]) -> None:
        sizes.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("out of memory")

    budget = BatchBudget(8)
    assert sorted(i for indices, _ in run_in_batches([1] * 8, budget, run) for i in indices) == list(range(8))
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert budget.tokens == 2
    list(run_in_batches([1] * 4, budget, run))
    assert sizes[6:] == [2, 2]


def test_other_errors_are_not_taken_for_memory() -> None:
    def run(indices: list[int]) -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        list(run_in_batches([3], BatchBudget(100), run))
