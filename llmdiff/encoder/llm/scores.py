"""Sentence and word scores of every block, or their outputs alone, taken from one forward pass of the LLM (Eq. 5).

Hooks read what a block computes anyway; nothing of the LLM is rewritten, so masks, rotary embeddings, windows and norms
are its own. Padding is on the right and attention is causal: no token ever sees it, and no attention mask is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llmdiff.encoder.llm.families import Family
from llmdiff.encoder.llm.projection import without_bias


@dataclass(frozen=True, kw_only=True)
class BlockScore:
    """Contribution of one block to the encoding: ``plus + also - minus``, in the LLM's dtype.

    All of them are (batch, token, hidden), padding and all, or all (row, hidden), the real tokens alone. They lie where
    the block does, which need not be where the LLM begins.
    """

    index: int
    """The block, from 0 at the embedding side."""
    plus: Tensor
    also: Tensor | None = None
    minus: Tensor | None = None
    output: Tensor
    """The block's output (batch, token, hidden), the hidden state of the next."""


Fold = Callable[[BlockScore], None]


class Watcher(Protocol):
    """Hooks for one block that call ``fold`` with the block's score each time the block has run."""

    def watch(self) -> list[RemovableHandle]: ...


@contextmanager
def watching(watchers: list[Watcher]) -> Iterator[None]:
    """Keep hooks in place inside the context, and remove them after it."""
    handles: list[RemovableHandle] = []
    try:
        for watcher in watchers:
            handles += watcher.watch()
        yield
    finally:
        for handle in handles:
            handle.remove()


class FirstInput:
    """Passes to ``start`` the hidden states that the first block is fed: ``x^T``."""

    def __init__(self, layer: nn.Module, start: Callable[[Tensor], None]) -> None:
        self.layer, self.start = layer, start

    def watch(self) -> list[RemovableHandle]:
        return [self.layer.register_forward_pre_hook(self._see_input, with_kwargs=True)]

    def _see_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.start(block_input(args, kwargs))


class SentenceScore:
    """``S_t`` alone, the block's residual update: attention plus MLP, before the residual is added.

    The isolated word path folds it twice: over the sentence, and over each token alone.
    """

    def __init__(
        self, index: int, layer: nn.Module, config: Any, family: Family, fold: Fold, rows: Tensor | None
    ) -> None:
        self.index, self.layer, self.fold = index, layer, fold
        self.attention_part = layer.get_submodule(family.after_attention or family.output)
        self.mlp_part = layer.get_submodule(family.after_mlp or family.mlp)
        self.attention: Tensor | None = None
        self.mlp: Tensor | None = None

    def watch(self) -> list[RemovableHandle]:
        return [
            self.attention_part.register_forward_hook(self._see_attention),
            self.mlp_part.register_forward_hook(self._see_mlp),
            self.layer.register_forward_hook(self._see_block),
        ]

    def _see_attention(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.attention = output

    def _see_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.mlp = output

    def _see_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self.attention is not None
        self.fold(BlockScore(index=self.index, plus=self.attention, also=self.mlp, output=first(output)))
        self.attention = self.mlp = None


class ContextScore:
    """``S_t - W_t`` of a block that is fed the same hidden state in context and alone (the block word path).

    A token that attends to itself alone has softmax weight 1: its attention output is ``W_O v``, with the values that
    the sentence path has projected already. Parallel blocks end there, for both paths share the MLP; sequential blocks
    run their MLP on the word path as well. Differences are taken before the residual is added, so that nothing large
    cancels.

    A word knows no neighbours, so all of it runs on the real tokens alone: on `rows` of (batch * token), or on all.
    """

    def __init__(
        self, index: int, layer: nn.Module, config: Any, family: Family, fold: Fold, rows: Tensor | None
    ) -> None:
        self.index, self.layer, self.config, self.family, self.fold = index, layer, config, family, fold
        self.rows = rows
        self.parallel = family.parallel(config)
        self.value, self.projection = layer.get_submodule(family.value), layer.get_submodule(family.output)
        self.after_attention = layer.get_submodule(family.after_attention) if family.after_attention else None
        self._forget()

    def _forget(self) -> None:
        self.x: Tensor | None = None  # (b, t, d)
        self.values: Tensor | None = None  # (b, t, d)
        self.context: Tensor | None = None  # (r, d): what attention adds in context and not alone
        self.word: Tensor | None = None  # (r, d): what the word path's MLP reads, before its norm
        self.sentence_mlp: Tensor | None = None  # (r, d)

    def watch(self) -> list[RemovableHandle]:
        handles = [
            self.layer.register_forward_pre_hook(self._see_input, with_kwargs=True),
            self.value.register_forward_hook(self._see_values),
            self.projection.register_forward_hook(self._see_attention),
            self.layer.register_forward_hook(self._see_block),
        ]
        if not self.parallel:
            mlp = self.layer.get_submodule(self.family.after_mlp or self.family.mlp)
            handles.append(mlp.register_forward_hook(self._see_mlp))
        return handles

    def _see_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.x = block_input(args, kwargs)

    def _see_values(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.values = self.family.values(self.config, output)

    def _see_attention(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert self.values is not None
        assert self.x is not None
        difference = self._on_rows(minus_values(args[0], self.values, self.config))
        self.values = None
        self.context = without_bias(self.projection, difference)  # it cancels
        if self.parallel:
            return
        sentence = self._on_rows(output)
        alone = sentence - self.context
        if self.after_attention is not None:
            alone = self.after_attention.forward(alone)
            self.context = self.after_attention.forward(sentence) - alone
        self.word = self._on_rows(self.x).to(alone.device) + alone  # on several devices, it may lie on another one

    def _see_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.sentence_mlp = self._on_rows(output)

    def _see_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self.context is not None
        word_mlp = None if self.word is None else self._word_mlp(self.word)
        score = BlockScore(
            index=self.index, plus=self.context, also=self.sentence_mlp, minus=word_mlp, output=first(output)
        )
        self._forget()
        self.fold(score)

    def _on_rows(self, padded: Tensor) -> Tensor:
        """Return the real tokens (r, d) of (b, t, d)."""
        flat = padded.flatten(0, 1)
        return flat if self.rows is None else flat.index_select(0, self.rows.to(flat.device))

    def _word_mlp(self, word: Tensor) -> Tensor:
        """Return the feed-forward part on the word path; ``forward`` leaves the hooks out."""
        self.word = None
        for path in (self.family.mlp_norm, self.family.mlp, self.family.after_mlp):
            word = word if path is None else self.layer.get_submodule(path).forward(word)
        return word


class WholeBlockScore:
    """The score of any block, computed from its input and output alone: what an unknown family falls back to."""

    def __init__(
        self, index: int, layer: nn.Module, config: Any, family: Family | None, fold: Fold, rows: Tensor | None
    ) -> None:
        self.index, self.layer, self.fold = index, layer, fold

    def watch(self) -> list[RemovableHandle]:
        return [self.layer.register_forward_hook(self._see_block, with_kwargs=True)]

    def _see_block(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        x, minus = first(output), self.minus(args, kwargs)
        self.fold(BlockScore(index=self.index, plus=x, minus=minus.to(x.device), output=x))

    def minus(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return what is subtracted from the block's output; `args` and `kwargs` are those of the block's call."""
        raise NotImplementedError


class ReferenceScore(WholeBlockScore):
    """``S_t - W_t`` of any block by running it again under a diagonal mask."""

    def minus(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return run_alone(self.layer, block_input(args, kwargs), args, kwargs)


class DiagonalMaskCheck:
    """Raises ValueError where a block (a recurrent one) lets a token see its neighbours in spite of a diagonal mask."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def watch(self) -> list[RemovableHandle]:
        return [self.layer.register_forward_hook(self._see_block, with_kwargs=True)]

    def _see_block(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        x = block_input(args, kwargs)
        other = x.clone()
        other[:, 0] = x[:, -1]
        one, two = (run_alone(self.layer, hidden, args, kwargs)[:, -1] for hidden in (x, other))
        if not torch.allclose(one, two, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"{type(module).__name__}: a token sees others in spite of the mask; it gives no word score"
            )


class BlockOutput(WholeBlockScore):
    """The block's output alone, for readings of hidden states."""

    def _see_block(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.fold(BlockScore(index=self.index, plus=first(output), output=first(output)))


class UpdateScore(WholeBlockScore):
    """``S_t`` of any block as output minus input: the isolated word path of an unknown family."""

    def minus(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return block_input(args, kwargs)


def minus_values(attended: Tensor, values: Tensor, config: Any) -> Tensor:
    """Return what the output projection reads in context minus alone, values repeated over the query groups."""
    groups = attended.shape[-1] // values.shape[-1]
    if groups == 1:
        return attended - values
    heads = config.num_key_value_heads
    grouped = attended.unflatten(-1, (heads, groups, -1))  # (b, t, k, g, d)
    return (grouped - values.unflatten(-1, (heads, 1, -1))).flatten(-3)


def run_alone(layer: nn.Module, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the block's output on states that each attend to themselves alone, other arguments as they were.

    Raises:
        ValueError: the block takes no attention mask.
    """
    parameters = signature(layer.forward)
    if "attention_mask" not in parameters.parameters:
        raise ValueError(f"{type(layer).__name__} takes no attention mask; only blocks of attention give word scores")
    call = parameters.bind(*((x, *args[1:]) if args else ()), **{**kwargs, **({} if args else {"hidden_states": x})})
    call.arguments["attention_mask"] = diagonal_mask(x, like=call.arguments.get("attention_mask"))
    return first(layer.forward(*call.args, **call.kwargs))


def diagonal_mask(x: Tensor, like: Any = None) -> Tensor:
    """Return the mask (batch, 1, token, token), added to scores, under which each token attends to itself alone; it is
    true where it hides for a block whose own mask `like` is (MPT's).
    """
    batch, tokens, _ = x.shape
    others = ~torch.eye(tokens, dtype=torch.bool, device=x.device)
    if isinstance(like, Tensor) and like.dtype == torch.bool and not bool(like[..., 0, 0].any()):
        return others.expand(batch, 1, tokens, tokens)
    return others.to(x.dtype).masked_fill(others, torch.finfo(x.dtype).min).expand(batch, 1, tokens, tokens)


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden state a block is called with, by position or by name."""
    x: Tensor = args[0] if args else kwargs["hidden_states"]
    return x


def first(output: Any) -> Tensor:
    """Return a block's hidden state, alone or first of several outputs."""
    tensor: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return tensor
