"""What an encoder does with captions: tokens, bands, initial values, noise, batches, failures, identity."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from kernels.langevin import TokenRows, gaussian
from llmdiff.encoder import Encoder, EncoderConfig, NonFinite
from llmdiff.encoder.batching import Budget, batches_by_tokens, run_in_batches
from llmdiff.encoder.scores import BlockScore
from llmdiff.encoder.tokens import BadCaption, caption_key, tokenise, try_tokenise
from tests.encoder.brute_force import scores
from tests.encoder.tiny_models import WORDS, build, gemma2, gpt_neox, llama, phi, tokenizer
from tests.kernels.allocations import Allocations

CAPTIONS = ["a red circle next to the blue square", "a", "the small green triangle is above a large red square"]


def make(name: str = "llama", **settings) -> Encoder:
    config = EncoderConfig(**{"dtype": "float32", **settings})
    return Encoder(build(name, getattr(torch, config.dtype)), tokenizer(), config)


def test_one_float32_tensor_a_caption_in_the_callers_order() -> None:
    encoder = make(dtype="bfloat16")
    encodings = encoder(CAPTIONS)
    assert [tuple(encoding.shape) for encoding in encodings] == [(9, 48), (2, 48), (11, 48)]
    assert {encoding.dtype for encoding in encodings} == {torch.float32}
    assert encoder.hidden_size == 48
    assert encoder([]) == []


def test_encodings_may_be_trained_on() -> None:
    layer = torch.nn.Linear(48, 4)
    layer(make()(["a red circle"])[0]).sum().backward()
    assert layer.weight.grad is not None


def test_equal_captions_are_encoded_once() -> None:
    seen: list[int] = []
    encoder = make()
    handle = encoder.llm.backbone.register_forward_hook(lambda module, args, output: seen.append(output[0].shape[0]))
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    encodings = encoder(["a red circle", decomposed, "a red circle", composed])
    handle.remove()
    assert sum(seen) == 2
    assert encodings[0] is encodings[2]
    assert encodings[1] is encodings[3]


def test_progress_counts_every_caption() -> None:
    seen: list[tuple[int, int]] = []
    make(token_budget=12)([*CAPTIONS, *CAPTIONS], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_the_empty_caption_is_eos_alone_and_needs_it() -> None:
    encoder = make()
    embedding = encoder.llm.backbone.get_input_embeddings().weight[1]
    assert torch.equal(encoder([""])[0][0], embedding)
    with pytest.raises(ValueError, match="has no token; expected text, or append_eos=True"):
        make(append_eos=False)([""])


def test_long_captions_are_cut_counted_and_reported(caplog) -> None:
    encoder = make(max_tokens=5)
    with caplog.at_level(logging.WARNING):
        encodings = encoder([*CAPTIONS, CAPTIONS[0]])
    assert [len(encoding) for encoding in encodings] == [5, 2, 5, 5]
    assert encoder.truncated == 3
    assert "3 captions were cut to 5 tokens" in caplog.text
    cut = make()(["a red circle next"])[0]
    torch.testing.assert_close(encodings[0], cut)


def test_the_template_goes_round_the_caption() -> None:
    plain = make()(["a red {circle}"])[0]
    wrapped = make(template="the {caption} below")(["a red {circle}"])[0]
    assert len(wrapped) == len(plain) + 2


def test_what_the_template_puts_after_a_caption_is_never_cut() -> None:
    encoder = make(template="{caption} next to the", max_tokens=7)
    encodings = encoder(["a red circle", "a red circle left of a blue square"])
    assert [len(encoding) for encoding in encodings] == [7, 7]
    assert encoder.truncated == 1
    torch.testing.assert_close(encodings[0], encodings[1])
    with pytest.raises(ValueError, match="max_tokens is 4; expected more than the template's 3"):
        make(template="{caption} next to the", max_tokens=4)(["a"])


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """Trained on a few sentences, so that words are pieces, and a word's pieces depend on its neighbours."""
    sentences = [*CAPTIONS, "two squares, three circles: triangles", "(the blue one) as a picture. squares below"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


@pytest.mark.parametrize(
    "after", [" as a picture.", ", as a picture", "s below", "uares, (the blue one)", "one below", "\u00e9 below"]
)
def test_bytes_that_the_template_puts_after_a_caption_are_never_cut(after: str) -> None:
    """Alone they may fall into other tokens, fewer or more, than in place, where the caption's last letters join in."""
    words = byte_level_bpe()
    config = EncoderConfig(template="the {caption}" + after, max_tokens=16)
    captions = [
        f"{caption}, {caption} {end}"
        for caption in CAPTIONS[::2]
        for end in ("sq", "ab", "red caf", "a large red square next to")
    ]
    for caption, found in zip(captions, tokenise(words, captions, config, 400), strict=True):
        assert found.truncated
        assert len(found.ids) == 16
        whole = words(f"the {caption}{after}")["input_ids"]
        kept = next(k for k in range(1, 16) if words.decode(whole[-k:]).endswith(after))
        assert found.ids == [*whole[: 15 - kept], *whole[len(whole) - kept :], 1]


def test_an_eos_of_the_tokenizers_own_is_not_doubled() -> None:
    class OwnEos:
        """A tokenizer that ends every text with EOS, as some do."""

        eos_token_id, pad_token_id = 1, 0

        def __call__(self, texts, **settings):
            found = tokenizer()(texts, **settings)
            return {"input_ids": [[*ids, 1] for ids in found["input_ids"]]}

    encoder = make()
    expected = encoder(CAPTIONS)
    encoder.tokenizer = OwnEos()
    assert all(torch.equal(one, other) for one, other in zip(encoder(CAPTIONS), expected, strict=True))


def test_padding_is_never_read() -> None:
    """Any token may fill a batch."""
    encoder = make()
    expected = encoder(CAPTIONS)
    for token in ("<eos>", "red"):
        encoder.tokenizer.pad_token = token
        assert all(torch.equal(one, other) for one, other in zip(encoder(CAPTIONS), expected, strict=True))


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


@torch.no_grad()
def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_tokenizer_without_what_is_needed_is_refused() -> None:
    bare = tokenizer()
    bare.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        Encoder(build("llama"), bare, EncoderConfig(dtype="float32"))
    bare = tokenizer()
    bare.pad_token = None
    with pytest.raises(ValueError, match=r"no pad token; .* tokenizer.pad_token = tokenizer.eos_token"):
        Encoder(build("llama"), bare, EncoderConfig(dtype="float32"))


def test_an_id_without_an_embedding_names_the_caption() -> None:
    larger = tokenizer()
    larger.add_tokens([f"word{i}" for i in range(80)])
    encoder = Encoder(build("llama"), larger, EncoderConfig(dtype="float32"))
    with pytest.raises(ValueError, match="caption 'a word79': the tokenizer gives id 101; expected ids below 64"):
        encoder(["a word79"])


@pytest.mark.parametrize("word_path", ["block", "isolated"])
def test_bands_sum_to_the_one_encoding(word_path: str, tmp_path) -> None:
    model = build("phi")
    whole, banded = (
        Encoder(
            model,
            tokenizer(),
            EncoderConfig(dtype="float32", g=[0.5, 1.0, 2.0], bands=bands, word_path=word_path),
            cache_folder=tmp_path,
        )(CAPTIONS)
        for bands in (1, 3)
    )
    for one, other in zip(whole, banded, strict=True):
        assert other.shape == (3, *one.shape)
        torch.testing.assert_close(other.sum(0), one, rtol=1e-5, atol=1e-5)


def test_a_band_holds_its_own_blocks() -> None:
    encoder = make(bands=2, initial="zeros", dtype="float64")
    encoding = encoder(CAPTIONS[:1])[0]
    ids = [*encoder.tokenizer(CAPTIONS[0])["input_ids"], 1]
    _, sentence, word = scores(encoder.llm.model, ids, "block")
    difference = sentence - word
    torch.testing.assert_close(encoding, torch.stack([difference[:2].sum(0), difference[2]]), rtol=1e-6, atol=1e-6)


def test_initial_values() -> None:
    zeros, embedding, noise = (make(initial=initial)(CAPTIONS)[0] for initial in ("zeros", "embedding", "noise"))
    encoder = make()
    ids = torch.tensor([*encoder.tokenizer(CAPTIONS[0])["input_ids"], 1])
    torch.testing.assert_close(embedding - zeros, encoder.llm.backbone.get_input_embeddings()(ids).detach())
    torch.testing.assert_close(noise - zeros, eps(CAPTIONS[0], block=0), rtol=1e-5, atol=1e-5)


def test_cached_noise_is_that_of_algorithm_1() -> None:
    quiet = make(initial="zeros")(CAPTIONS)
    loud = make(initial="zeros", noise="cached", h=[0.5, 0.02, 0.0], seed=9)(CAPTIONS)
    for caption, one, other in zip(CAPTIONS, quiet, loud, strict=True):
        expected = 1.0 * eps(caption, seed=9, block=3) + 0.2 * eps(caption, seed=9, block=2)
        torch.testing.assert_close(other - one, expected, rtol=1e-5, atol=1e-5)


def test_fresh_noise_is_left_to_its_users() -> None:
    encoder = make(noise="fresh", h=[0.5, 0.5, 2.0], bands=2, initial="zeros")
    assert encoder.noise_std == (2.0**0.5, 2.0)
    quiet = make(bands=2, initial="zeros")
    assert torch.equal(encoder(CAPTIONS)[0], quiet(CAPTIONS)[0])
    assert quiet.noise_std == (0.0, 0.0)


def eps(caption: str, *, seed: int = 0, block: int) -> torch.Tensor:
    count = len(caption.split()) + 1
    rows = TokenRows(
        position=torch.arange(count, dtype=torch.int32), caption=torch.full((count,), caption_key(caption))
    )
    return gaussian(rows, 48, seed, block)


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


def test_threads_that_share_a_model_take_turns() -> None:
    encoder = make(token_budget=12)
    captions = [f"{CAPTIONS[i % 3]} {WORDS[i % 19]}" for i in range(40)]
    expected = encoder(captions)
    with ThreadPoolExecutor(4) as pool:
        for encodings in pool.map(lambda _: encoder(captions), range(8)):
            assert all(torch.equal(one, other) for one, other in zip(encodings, expected, strict=True))


def fragile() -> Encoder:
    """A Phi in float16 whose block 1 overflows at channel 5 for the word "triangle" and for nothing else."""
    encoder = make("phi", dtype="float16")
    with torch.no_grad():
        encoder.llm.backbone.get_input_embeddings().weight[tokenizer().convert_tokens_to_ids("triangle"), 5] = 60000.0
        encoder.llm.layers[1].mlp.fc2.bias[5] = 10000.0
    return encoder


@pytest.mark.parametrize("word_path", ["block", "isolated"])
def test_a_non_finite_caption_is_named_and_the_rest_go_on(word_path: str, tmp_path) -> None:
    fine = fragile()(CAPTIONS[:2])
    encoder = fragile()
    if word_path == "isolated":
        config = EncoderConfig(dtype="float16", word_path="isolated")
        encoder = Encoder(encoder.llm.model, encoder.tokenizer, config, cache_folder=tmp_path)
    results = encoder.encode(CAPTIONS)
    error = results[2]
    assert isinstance(error, NonFinite)
    assert (error.caption, error.block, error.token, error.channel) == (CAPTIONS[2], 1, 3, 5)
    assert "block 1, token 3, channel 5" in str(error)
    if word_path == "block":
        assert all(torch.equal(one, other) for one, other in zip(results[:2], fine, strict=True))
    with pytest.raises(NonFinite, match="triangle"):
        encoder(CAPTIONS)


def spoiled(model: Any, value: float, *, alone: bool) -> Any:
    """The model with `value` in channel 5 of its last MLP for "triangle": always, or only where it is alone."""
    seen: list[torch.Tensor] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )

    def spoil(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if seen[-1].shape[1] == 1 or not alone:
            output[seen[-1] == 3 + WORDS.index("triangle"), 5] = value

    model.get_decoder().layers[-1].mlp.register_forward_hook(spoil)
    return model


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("word_path", ["block", "isolated"])
@pytest.mark.parametrize("name", ["phi", "gpt-neox", "llama"])
def test_a_last_block_that_is_not_finite_is_named(name: str, word_path: str, value: float, tmp_path) -> None:
    """The MLP of a parallel block cancels in the score, and no block comes after the last to show what it gave."""
    config = EncoderConfig(dtype="float32", word_path=word_path)
    *fine, error = Encoder(spoiled(build(name), value, alone=False), tokenizer(), config, cache_folder=tmp_path).encode(
        CAPTIONS
    )
    assert not any(isinstance(encoding, NonFinite) for encoding in fine)
    assert isinstance(error, NonFinite)
    assert (error.caption, error.block, error.token, error.channel) == (CAPTIONS[2], 2, 3, 5)


def test_a_token_that_is_not_finite_alone_is_named(tmp_path) -> None:
    config = EncoderConfig(dtype="float32", word_path="isolated")
    encoder = Encoder(spoiled(build("llama"), torch.nan, alone=True), tokenizer(), config, cache_folder=tmp_path)
    error = encoder.encode(CAPTIONS)[2]
    assert isinstance(error, NonFinite)
    assert (error.block, error.token, error.channel) == (2, 3, 5)


def test_a_non_finite_embedding_is_named() -> None:
    encoder = make()
    with torch.no_grad():
        encoder.llm.backbone.get_input_embeddings().weight[3 + WORDS.index("red"), 7] = torch.nan
    error = encoder.encode(["a red circle"])[0]
    assert isinstance(error, NonFinite)
    assert (error.block, error.token, error.channel) == (-1, 1, 7)


def test_the_isolated_table_is_kept_on_disk(tmp_path) -> None:
    model = build("llama")
    config = EncoderConfig(word_path="isolated", dtype="float32")
    first = Encoder(model, tokenizer(), config, cache_folder=tmp_path)(CAPTIONS)
    tables = list(tmp_path.rglob("*.safetensors"))
    assert len(tables) == 1
    written = tables[0].stat().st_mtime_ns
    second = Encoder(model, tokenizer(), config, cache_folder=tmp_path)
    rows: list[int] = []
    model.model.register_forward_hook(lambda module, args, output: rows.append(output[0].shape[1]))
    assert all(torch.equal(one, other) for one, other in zip(second(CAPTIONS), first, strict=True))
    assert rows == [11], "one forward pass: the captions'"
    assert tables[0].stat().st_mtime_ns == written
    Encoder(model, tokenizer(), EncoderConfig(word_path="isolated", dtype="float32", g=2.0), cache_folder=tmp_path)(
        ["a"]
    )
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    tables[0].write_bytes(tables[0].read_bytes()[:-8])
    third = Encoder(model, tokenizer(), config, cache_folder=tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(third(CAPTIONS), first, strict=True))


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
    """In a process of its own with little memory: one batch of 500 captions does not fit, smaller ones do."""
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
        list(run_in_batches([3, 7], Budget(100), run))


def test_a_budget_that_memory_did_not_bear_is_not_tried_again() -> None:
    sizes: list[int] = []

    def run(indices: list[int]) -> None:
        sizes.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("out of memory")

    budget = Budget(8)
    assert sorted(i for indices, _ in run_in_batches([1] * 8, budget, run) for i in indices) == list(range(8))
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert budget.tokens == 2
    list(run_in_batches([1] * 4, budget, run))
    assert sizes[6:] == [2, 2]


def test_other_errors_are_not_taken_for_memory() -> None:
    def run(indices: list[int]) -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        list(run_in_batches([3], Budget(100), run))


def test_the_description_says_all_that_matters_and_nothing_else(tmp_path) -> None:
    base = make().describe()
    assert json.loads(json.dumps(base)) == base
    assert make(token_budget=7).describe() == base
    assert make(seed=5).describe() == base, "no noise, no seed"
    assert "noise_std" not in base, "the fingerprints of encodings without such noise stay what they were"
    fresh = make(noise="fresh", h=[0.5, 0.5, 2.0], bands=2).describe()
    assert fresh["noise_std"] == [2.0**0.5, 2.0]
    changes = [
        {"word_path": "isolated"},
        {"g": 2.0},
        {"bands": 2},
        {"initial": "zeros"},
        {"initial": "noise"},
        {"initial": "noise", "seed": 1},
        {"noise": "fresh"},
        {"noise": "fresh", "h": 0.3},
        {"noise": "cached", "h": 0.1},
        {"noise": "cached", "h": 0.1, "seed": 2},
        {"max_tokens": 77},
        {"append_eos": False},
        {"template": "a picture of {caption}"},
        {"dtype": "float64"},
    ]
    descriptions = [base, *(make(**change).describe() for change in changes), make("phi").describe()]
    assert len({json.dumps(description, sort_keys=True) for description in descriptions}) == len(descriptions)


def test_a_changed_weight_or_token_changes_the_description() -> None:
    base = make().describe()
    model, words = build("llama"), tokenizer()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[3, 4] += 1e-3
    assert Encoder(model, tokenizer(), EncoderConfig(dtype="float32")).describe()["llm"] != base["llm"]
    words.add_tokens(["purple"])
    changed = Encoder(build("llama"), words, EncoderConfig(dtype="float32")).describe()
    assert changed["llm"] == base["llm"]
    assert changed["tokenizer"] != base["tokenizer"]


def test_the_head_and_training_state_do_not_matter() -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert Encoder(model.train(), tokenizer(), EncoderConfig(dtype="float32")).describe() == make().describe()


def test_wrong_settings_of_the_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="weights are torch.float32; expected torch.bfloat16"):
        Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="bfloat16"))
    with pytest.raises(ValueError, match="bands is 4; expected at most 3"):
        make(bands=4)
    with pytest.raises(ValueError, match="a schedule of 2 numbers for an LLM of 3 blocks"):
        make(g=[1.0, 2.0])


def test_a_model_keeps_its_own_dtype_where_none_is_asked_for() -> None:
    for dtype in ("float32", "bfloat16", "float64"):
        encoder = Encoder(build("llama", getattr(torch, dtype)), tokenizer())
        assert encoder.config.dtype == encoder.describe()["dtype"] == dtype
    quantised = build("llama").to(torch.float8_e4m3fn)
    with pytest.raises(
        ValueError, match="weights are torch.float8_e4m3fn; expected float32, bfloat16, float16, float64"
    ):
        Encoder(quantised, tokenizer())


@pytest.mark.process
def test_it_imports_with_torch_triton_and_transformers_alone() -> None:
    heavy = ("diffusers", "deepspeed", "zarr", "deltalake", "pyarrow", "prefect", "mlflow", "pydantic", "storage")
    code = f"import sys, llmdiff.encoder; found = set({heavy}) & set(sys.modules); print(found); sys.exit(bool(found))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_caption_that_has_no_encoding_costs_no_other_one() -> None:
    encoder = make()
    encoder.tokenizer.add_tokens([f"word{i}" for i in range(80)])  # of which the LLM has embeddings of a few
    results = encoder.encode(["a red circle", "a word79", "the blue square"])
    assert [isinstance(result, BadCaption) for result in results] == [False, True, False]
    assert isinstance(results[1], BadCaption)
    assert results[1].reason == "no_embedding"
    assert torch.equal(torch.cat(results[::2]), torch.cat(make()(["a red circle", "the blue square"])))
    with pytest.raises(BadCaption, match="the tokenizer gives id"):
        encoder(["a word79"])


def test_a_control_token_in_a_caption_is_text() -> None:
    encoder = make()
    (found,) = tokenise(encoder.tokenizer, ["red <eos> circle"], encoder.config, encoder.llm.vocabulary)
    assert found.ids.count(encoder.tokenizer.eos_token_id) == 1  # the one that `append_eos` adds
    config = dataclasses.replace(encoder.config, template="{caption} <pad>")
    (bad,) = try_tokenise(encoder.tokenizer, ["red <eos>"], config, encoder.llm.vocabulary)
    assert isinstance(bad, BadCaption)
    assert bad.reason == "control_token"


def test_more_tokens_than_the_llm_has_positions_are_refused_by_name() -> None:
    make(max_tokens=256)
    with pytest.raises(ValueError, match="max_tokens is 257; expected at most 256, the positions"):
        make(max_tokens=257)
