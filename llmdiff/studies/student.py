"""A student of an LLM that shows its outputs alone (the paper's open question 1).

It sees a caption's tokens, and what an API gives of them: next-token log-probabilities, all of them or the greatest, or
one embedding a text. From these it guesses the encodings that the score difference gave, which are in the store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmdiff.adapter.padding import pad
from llmdiff.encoder import Encoder
from llmdiff.encoder.batch_encoder import pad as pad_ids
from llmdiff.encoder.tokens import normalise, padding_id, tokenise
from llmdiff.one_cycle import one_cycle
from llmdiff.studies.geometry import mean_cosine, r_squared
from llmdiff.studies.readings import hidden_states

Shown = Literal["tokens", "embedding", "top", "logprobs"]
TOP = 20
"""Most log-probabilities that an API shows for a token; the others count as the least of them."""
WEIGHTS, CONFIG = "student.safetensors", "student.json"
BATCH = 64
CHANNELS = 1024
"""Numbers for a token that a student sees, in place of log-probabilities over a vocabulary above `LARGE`."""
LARGE = 4096


class StudentConfig(BaseModel):
    """A student and its training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shown: Shown
    """Output that the API shows besides the text: nothing (``tokens``), one ``embedding`` a text (the mean of the last
    hidden states), the ``top`` log-probabilities of each next token, or all ``logprobs``."""
    width: int = Field(default=128, gt=0)
    blocks: int = Field(default=2, gt=0)
    heads: int = Field(default=4, gt=0)
    steps: int = Field(default=1000, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    seed: int = 0


class Seen(NamedTuple):
    """The visible part of one caption."""

    ids: Tensor
    """int64 ``(token,)``."""
    shown: Tensor
    """float32 ``(token, channel)``; no channels where only the text is visible."""


class Student(nn.Module):
    """A small transformer from what is visible to encodings, both scaled channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: StudentConfig, vocabulary: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, config.width)
        self.place = nn.Embedding(512, config.width)
        self.norm = nn.LayerNorm(channels) if channels else None
        self.read = nn.Linear(channels, config.width) if channels else None
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.blocks, enable_nested_tensor=False)
        self.write = nn.Linear(config.width, hidden)
        self.register_buffer("mean", torch.zeros(hidden))
        self.register_buffer("std", torch.ones(hidden))

    def forward(self, ids: Tensor, shown: Tensor, mask: Tensor) -> Tensor:
        """Return scaled encodings from `ids` ``(caption, token)``, `shown` ``(caption, token, channel)`` and a mask."""
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1], device=ids.device))
        if self.norm is not None and self.read is not None:
            x = x + self.read(self.norm(shown))
        found: Tensor = self.write(self.blocks(x, src_key_padding_mask=~mask))
        return found


class StudentEncoder:
    """A student as an encoder: an adapter trained on its teacher's encodings takes it for the teacher."""

    def __init__(self, teacher: Encoder, student: Student, config: StudentConfig) -> None:
        self.teacher = teacher
        self.student = student.eval()
        self.config = config

    @classmethod
    def load(cls, folder: Path, teacher: Encoder) -> StudentEncoder:
        """Return what `train_student` wrote."""
        about = json.loads((folder / CONFIG).read_text())
        config = StudentConfig(**about["config"])
        student = Student(config, **about["shape"])
        student.load_state_dict(load_file(folder / WEIGHTS))
        return cls(teacher, student, config)

    @property
    def hidden_size(self) -> int:
        return self.teacher.hidden_size

    def describe(self) -> dict[str, Any]:
        """Return the teacher's description, whose encodings these stand for."""
        return self.teacher.describe()

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        """Return a ``(token, hidden)`` float32 tensor for each caption."""
        found: list[Tensor] = []
        for start in range(0, len(captions), BATCH):
            seen = look(self.teacher, captions[start : start + BATCH], self.config.shown)
            ids, shown, mask = batched(seen)
            guessed = self.student(ids, shown, mask) * self.student.std + self.student.mean
            found += [row[: len(one.ids)] for row, one in zip(guessed, seen, strict=True)]
        return found


@torch.no_grad()
def look(teacher: Encoder, captions: Sequence[str], shown: Shown) -> list[Seen]:
    """Return, on the CPU, what an API of the teacher's LLM would show of captions in the encoder's template."""
    texts = [normalise(caption) for caption in captions]
    tokens = tokenise(teacher.tokenizer, texts, teacher.config, teacher.llm.vocabulary)
    rows = [token.ids for token in tokens]
    if shown == "tokens":
        return [Seen(torch.tensor(row), torch.zeros(len(row), 0)) for row in rows]
    found: list[Seen] = []
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        last = hidden_states(teacher, pad_ids(some, padding_id(teacher.tokenizer)).to(teacher.llm.device))[-1]
        for row, states in zip(some, last, strict=True):
            found.append(Seen(torch.tensor(row), SHOW[shown](teacher, states[: len(row)])))
    return found


def embedding_of(teacher: Encoder, states: Tensor) -> Tensor:
    """Return one embedding a text, ``(token, hidden)``, the same at every token."""
    return states.float().mean(0, keepdim=True).expand(len(states), -1).cpu()


def logprobs_of(teacher: Encoder, states: Tensor) -> Tensor:
    """Return log-probabilities of the next token, ``(token, channel)``: see `narrowed`."""
    return narrowed(next_token(teacher, states))


def top_of(teacher: Encoder, states: Tensor) -> Tensor:
    """Return log-probabilities with all but the greatest `TOP` set to the least of these."""
    logprobs = next_token(teacher, states)
    least = logprobs.topk(min(TOP, logprobs.shape[1])).values[:, -1:]
    return narrowed(logprobs.maximum(least))


def next_token(teacher: Encoder, states: Tensor) -> Tensor:
    """Return log-probabilities of the next token, ``(token, vocabulary)`` float32."""
    logits: Tensor = teacher.llm.model.get_output_embeddings()(states)
    return logits.float().log_softmax(-1).cpu()


def narrowed(logprobs: Tensor) -> Tensor:
    """Return ``(token, vocabulary)`` as it is; a large vocabulary's less its mean, projected at random to `CHANNELS`.

    All captions' log-probabilities over 50,000 tokens would not fit into memory. Less their mean they are a linear
    function of hidden states, or have but `TOP` values that stand out; the projection keeps distances to about 2 %.
    """
    if logprobs.shape[1] <= LARGE:
        return logprobs
    return (logprobs - logprobs.mean(1, keepdim=True)) @ projection(logprobs.shape[1])


@lru_cache(maxsize=1)
def projection(vocabulary: int) -> Tensor:
    """Return ``(vocabulary, channel)`` that keeps distances (Johnson and Lindenstrauss), the same in every process."""
    drawn = torch.randn(vocabulary, CHANNELS, generator=torch.Generator().manual_seed(0))
    return drawn / math.sqrt(CHANNELS)


SHOW: dict[Shown, Callable[[Encoder, Tensor], Tensor]] = {
    "embedding": embedding_of,
    "top": top_of,
    "logprobs": logprobs_of,
}


def train_student(
    config: StudentConfig,
    teacher: Encoder,
    captions: Sequence[str],
    encodings: Sequence[Tensor],
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> StudentEncoder:
    """Train a student on captions and their stored encodings ``(token, hidden)``, and write it into a folder.

    ValueError where a stored encoding has another number of tokens than the caption.
    """
    torch.manual_seed(config.seed)
    seen = look(teacher, captions, config.shown)
    for caption, one, encoding in zip(captions, seen, encodings, strict=True):
        if len(one.ids) != len(encoding):
            raise ValueError(
                f"caption {caption!r}: expected an encoding of {len(one.ids)} tokens, found {encoding.shape}"
            )
    shape = {"vocabulary": teacher.llm.vocabulary, "channels": seen[0].shown.shape[1], "hidden": teacher.hidden_size}
    student = Student(config, **shape)
    rows = torch.cat([encoding.float() for encoding in encodings])
    student.mean.copy_(rows.mean(0))
    student.std.copy_(rows.std(0).clamp_min(1e-6))
    fit(student, config, seen, encodings, progress)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(student.state_dict(), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"config": config.model_dump(), "shape": shape}))
    return StudentEncoder(teacher, student, config)


def fit(
    student: Student,
    config: StudentConfig,
    seen: Sequence[Seen],
    encodings: Sequence[Tensor],
    progress: Callable[[int], None] | None,
) -> None:
    """Train by mean squared error on scaled encodings; the rate rises and falls once."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=0.01)
    rate = one_cycle(optimiser, config.learning_rate, config.steps)
    drawn = torch.Generator().manual_seed(config.seed)
    with sdpa_kernel(SDPBackend.MATH):
        for _ in range(config.steps):
            some = torch.randint(len(seen), (BATCH,), generator=drawn).tolist()
            ids, shown, mask = batched([seen[i] for i in some])
            expected = pad([encodings[i].float() for i in some])[0]
            guessed = student(ids, shown, mask)[mask]
            loss = (guessed - ((expected - student.mean) / student.std)[mask]).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad(set_to_none=True)
            if progress is not None:
                progress(1)


def batched(seen: Sequence[Seen]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids ``(caption, token)``, what is shown ``(caption, token, channel)``, mask ``(caption, token)``."""
    shown, mask = pad([one.shown for one in seen])
    ids = pad_ids([one.ids.tolist() for one in seen], 0)
    return ids, shown, mask


def agreement(student: StudentEncoder, teacher: Encoder, captions: Sequence[str]) -> dict[str, float]:
    """Return the mean cosine with the teacher's encodings and the R² of tokens, on captions that the student never saw.

    Both are of encodings less the student's mean of the training data, for all encodings share that.
    """
    mean = student.student.mean
    true = torch.cat(list(teacher(list(captions)))) - mean
    guessed = torch.cat(student(captions)) - mean
    return {"cosine": mean_cosine(guessed, true), "r2": r_squared(guessed, true)}
