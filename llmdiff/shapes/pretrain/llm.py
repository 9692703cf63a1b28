"""The embedded decoder-only LLMs: trained on text alone, captions in every wording followed by restated facts.

A model of one million parameters need not remember what a caption said as a large one does. So each caption is followed
by three questions, and each asks for four words at once (multi-token prediction, arXiv 2404.19737): what the caption
says of one thing must be found at one token. And in a share of the documents what is restated sees the caption through
the questions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from llmdiff.shapes.captions import QUESTIONS, WORDINGS, answers, document
from llmdiff.shapes.pretrain.common import fast_cpu_math, save_fp16, train, write_card
from llmdiff.shapes.scene import Scene
from llmdiff.shapes.shards import random_scene

SEED, POOL = 0, 16  # batches made at once
SCENES = 20_000
END, PAD, END_ID = "<|endoftext|>", "<|pad|>", 0
WORDS = 4  # words of an answer, one token each


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained."""

    steps: int
    batch: int = 64
    bottleneck: float = 0.5
    """Share of documents whose restated part sees the caption only through the questions."""
    learning_rate: float = 2e-3


def llama(vocabulary: int, *, hidden: int, blocks: int, heads: int) -> LlamaForCausalLM:
    """Return a Llama with twice its width in the MLP and two query heads to a key."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


TRAINING = {  # the two smaller Llamas are not embedded: a study of LLM sizes trains them
    "llama": Training(steps=2500),
    "phi": Training(steps=1200),
    "llama-small": Training(steps=1200),
    "llama-tiny": Training(steps=1200),
}
MODELS: dict[str, Callable[[int], Any]] = {  # functions of the vocabulary's size
    "llama": partial(llama, hidden=160, blocks=5, heads=8),
    "llama-small": partial(llama, hidden=96, blocks=4, heads=4),
    "llama-tiny": partial(llama, hidden=48, blocks=3, heads=4),
    "phi": lambda vocabulary: PhiForCausalLM(
        PhiConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            partial_rotary_factor=0.5,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
        )
    ),
}


def pretrain_llm(folder: Path, name: str, steps: int | None = None) -> None:
    """Train the named LLM and save it with tokenizer and card under ``folder/name``; `steps` shortens it."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED + 1)
    tokenizer = train_tokenizer(np.random.default_rng(SEED))
    model = MODELS[name](len(tokenizer))
    training = replace(TRAINING[name], steps=steps or TRAINING[name].steps)
    figures = train_llm(name, model, tokenizer, training, rng)
    save_fp16(model, folder / name)
    tokenizer.save_pretrained(folder / name)
    write_card(
        folder / name,
        data="captions of random scenes in every wording, each followed by questions that ask for its things, its "
        "template and one of its facts; no picture, no held-out pair",
        command=f"python -m llmdiff.shapes.pretrain {name}",
        seed=SEED,
        **asdict(training),
        figures=figures,
    )


def train_llm(
    name: str, model: Any, tokenizer: PreTrainedTokenizerFast, training: Training, rng: np.random.Generator
) -> dict[str, float]:
    """Train by the next-token loss of the restated part, and of four tokens at each question; return the figures."""
    heads = torch.nn.Linear(model.config.hidden_size, WORDS * len(tokenizer))  # discarded after training
    batches = text_batches(rng, training.batch)
    asked: list[float] = []

    def loss_of(step: int) -> torch.Tensor:
        texts, wanted = zip(*next(batches), strict=True)
        batch = tokenizer(list(texts), return_tensors="pt", padding=True)
        expected = tokenizer([" ".join(answer) for answer in wanted], return_tensors="pt").input_ids  # (b, 3 * 4)
        present = batch.attention_mask == 1
        mask, restated = restating(batch.input_ids, present, torch.rand(training.batch) < training.bottleneck)
        with fast_cpu_math():
            hidden = model.model(input_ids=batch.input_ids, attention_mask=mask, use_cache=False).last_hidden_state
            following = model.lm_head(hidden[:, :-1][restated[:, 1:]])
            said = heads(hidden[torch.arange(training.batch)[:, None], questions(batch.input_ids)])
        answered = F.cross_entropy(said.float().reshape(-1, len(tokenizer)), expected.flatten())
        asked.append(float(answered))
        return answered + F.cross_entropy(following.float(), batch.input_ids[:, 1:][restated[:, 1:]])

    figures = train(name, [*model.parameters(), *heads.parameters()], loss_of, training.steps, training.learning_rate)
    return {**figures, "final_answer_loss": float(np.mean(asked[-200:]))}


def restating(ids: torch.Tensor, present: torch.Tensor, bottleneck: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention mask of documents ``caption questions end restated end``, and which tokens are restated.

    Args:
        ids: ``(document, token)``.
        present: ``(document, token)`` bool, False for padding.
        bottleneck: ``(document,)`` bool, True where the restated part may look at the questions and the end mark alone.

    Returns:
        ``(document, 1, token, token)`` bool, True where a token may look; ``(document, token)`` bool.
    """
    ends = ((ids == END_ID) & present).cumsum(1)
    restated = ((ends - (ids == END_ID).long()) > 0) & present
    positions = torch.arange(ids.shape[1])
    said = positions < questions(ids)[:, :1]  # the caption and the colon that ends it
    hidden = bottleneck[:, None, None] & restated[:, :, None] & said[:, None, :]
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    return (causal & ~hidden).unsqueeze(1), restated


def questions(ids: torch.Tensor) -> torch.Tensor:
    """Return where questions stand in documents ``(document, token)``, before the first end mark: ``(document, 3)``."""
    return (ids == END_ID).int().argmax(1, keepdim=True) - torch.arange(len(QUESTIONS), 0, -1)


def text_batches(rng: np.random.Generator, batch: int) -> Iterator[list[tuple[str, list[str]]]]:
    """Yield batches of documents with their answers, of like length, in random order, without end."""
    scenes = [random_scene(rng) for _ in range(SCENES)]
    while True:
        documents = (text(scenes[i], rng) for i in rng.integers(SCENES, size=batch * POOL))
        texts = sorted(documents, key=lambda pair: pair[0].count(" "))
        for i in rng.permutation(POOL):
            yield texts[i * batch : (i + 1) * batch]


def text(scene: Scene, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Return a training document about the scene, and the answers to its questions."""
    return document(scene, str(rng.choice(list(WORDINGS))), rng, END), answers(scene)


def train_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of at most 512 tokens over the documents' language."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (
            " ".join([document.replace(END, " "), *answers])
            for document, answers in (text(random_scene(rng), rng) for _ in range(4000))
        ),
        trainer,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="right", model_max_length=256
    )
