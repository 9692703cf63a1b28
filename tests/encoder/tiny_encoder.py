"""A tiny encoder, captions for it, a tokenizer whose words are pieces, and what a pass costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from llmdiff.encoder import Encoder, EncoderConfig
from tests.encoder.tiny_models import build, tokenizer

CAPTIONS = ["a red circle next to the blue square", "a", "the small green triangle is above a large red square"]


def make(name: str = "llama", **settings) -> Encoder:
    config = EncoderConfig(**{"dtype": "float32", **settings})
    return Encoder(build(name, getattr(torch, config.dtype)), tokenizer(), config)


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


def ending_itself(words: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, which ends every text with EOS from now on."""
    end = (words.eos_token, words.eos_token_id)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    return words


class Slow:
    """A tokenizer that cannot say which letters a token is of."""

    is_fast = False

    def __init__(self, words: PreTrainedTokenizerFast) -> None:
        self._words = words

    def __getattr__(self, name: str) -> Any:
        return getattr(self._words, name)

    def __call__(self, *texts: Any, **settings: Any) -> Any:
        assert "return_offsets_mapping" not in settings
        return self._words(*texts, **settings)


@torch.no_grad()
def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
