"""The embedded decoder-only LLMs: trained on text alone, captions in every wording followed by restated facts.

A model of two million parameters need not remember what a caption said as a large one does. So in a share of the
documents the facts see the caption through its end mark alone: what it means must be carried there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from llmdiff.shapes.captions import WORDINGS, document
from llmdiff.shapes.pretrain.common import fast_cpu_math, save_fp16, train, write_card
from llmdiff.shapes.shards import random_scene

SEED, POOL = 0, 16  # batches made at once
END, PAD, END_ID = "<|endoftext|>", "<|pad|>", 0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with its own warm-up and decay."""

    steps: int
    batch: int
    bottleneck: float
    """Share of documents whose facts see the caption through the end mark alone."""
    facts: int
    """Facts in a document, besides the template."""
    learning_rate: float


READ = Phase(steps=5000, batch=32, bottleneck=0.5, facts=3, learning_rate=2e-3)
CARRY = Phase(steps=3500, batch=48, bottleneck=1.0, facts=1, learning_rate=1.5e-3)
PHASES = {"llama": (READ, CARRY), "phi": (replace(READ, steps=3000),)}
MODELS = {
    "llama": lambda vocabulary: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
        )
    ),
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
    """Trains the named LLM and saves it with tokenizer and card under ``folder/name``; `steps` shortens each phase."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED + 1)
    tokenizer = train_tokenizer(np.random.default_rng(SEED))
    model = MODELS[name](len(tokenizer))
    phases = [replace(phase, steps=steps or phase.steps) for phase in PHASES[name]]
    figures = [train_phase(name, model, tokenizer, phase, rng) for phase in phases]
    save_fp16(model, folder / name)
    tokenizer.save_pretrained(folder / name)
    write_card(
        folder / name,
        data="captions of random scenes in every wording, each followed by its template and some of its facts, which "
        "in a share of the documents see the caption through the end mark alone; no picture, no held-out pair",
        command=f"python -m llmdiff.shapes.pretrain {name}",
        seed=SEED,
        phases=[{**asdict(phase), **figure} for phase, figure in zip(phases, figures, strict=True)],
    )


def train_phase(
    name: str, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, phase: Phase, rng: np.random.Generator
) -> dict[str, float]:
    """One phase of training; returns its figures."""
    batches = text_batches(rng, phase)

    def loss_of(step: int) -> torch.Tensor:
        batch = tokenizer(next(batches), return_tensors="pt", padding=True)
        bottleneck = torch.rand(phase.batch) < phase.bottleneck
        mask, labels = restating(batch.input_ids, batch.attention_mask == 1, bottleneck)
        with fast_cpu_math():
            return model(input_ids=batch.input_ids, attention_mask=mask, labels=labels, use_cache=False).loss

    return train(name, list(model.parameters()), loss_of, phase.steps, phase.learning_rate)


def restating(ids: torch.Tensor, present: torch.Tensor, bottleneck: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention mask and labels of documents ``caption end facts end``: the loss is on what follows the first end mark.

    Args:
        ids: ``(document, token)``.
        present: ``(document, token)`` bool, False for padding.
        bottleneck: ``(document,)`` bool, True where the facts may not look at the caption, only at the end mark.

    Returns:
        ``(document, 1, token, token)`` bool, True where a token may look; ``(document, token)`` labels.
    """
    ended = ((ids == END_ID) & present).cumsum(1) > 0  # from the first end mark on
    after = ended & (torch.cat([ended.new_zeros(len(ids), 1), ended[:, :-1]], 1))
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    hidden = bottleneck[:, None, None] & after[:, :, None] & ~ended[:, None, :]
    return (causal & ~hidden).unsqueeze(1), ids.masked_fill(~(after & present), -100)


def text_batches(rng: np.random.Generator, phase: Phase) -> Iterator[list[str]]:
    """Batches of documents of like length, in random order, without end."""
    while True:
        texts = sorted(
            (text(rng, phase.facts) for _ in range(phase.batch * POOL)), key=lambda document: document.count(" ")
        )
        for i in rng.permutation(POOL):
            yield texts[i * phase.batch : (i + 1) * phase.batch]


def text(rng: np.random.Generator, facts: int = 3) -> str:
    """One training document."""
    return document(random_scene(rng), str(rng.choice(list(WORDINGS))), rng, END, facts)


def train_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 512 tokens over the documents' language."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text(rng).replace(END, " ") for _ in range(4000)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="right", model_max_length=256
    )
