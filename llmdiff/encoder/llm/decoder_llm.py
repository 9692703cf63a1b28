"""A decoder-only LLM as the encoder sees it: its blocks, its family, one forward pass without the head."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from itertools import chain
from threading import Lock
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from llmdiff.encoder.llm.content_hash import model_identity
from llmdiff.encoder.llm.families import FAMILIES, Family
from llmdiff.encoder.llm.quantization import keep_weights
from llmdiff.encoder.llm.scores import (
    BlockOutput,
    ContextScore,
    DiagonalMaskCheck,
    FirstInput,
    Fold,
    ReferenceScore,
    SentenceScore,
    UpdateScore,
    Watcher,
    first,
    watching,
)

ScorePath = Literal["context", "sentence", "output"]
PATHS: dict[tuple[ScorePath, bool], Any] = {  # by (what is wanted of each block, whether its family is known)
    ("context", True): ContextScore,
    ("sentence", True): SentenceScore,
    ("context", False): ReferenceScore,
    ("sentence", False): UpdateScore,
    ("output", True): BlockOutput,
    ("output", False): BlockOutput,
}

OWN_CODE = "transformers_modules"
MOST_BLOCKS = 1000
LOCKS: WeakKeyDictionary[nn.Module, Lock] = WeakKeyDictionary()  # hooks are called by any thread that runs the model


class DecoderLLM:
    """The blocks of a transformers model and the scores they give.

    Args:
        model: a transformers causal language model.
        scores: whether scores are wanted of it; blocks of any kind give hidden states.

    Raises:
        ValueError: the model is no decoder-only LLM, its blocks cannot be found, or give no scores where some are
            wanted.
    """

    def __init__(self, model: Any, scores: bool = True) -> None:
        check_own_code(model)
        check_decoder_only(model.config)
        self.model = model.eval()
        self.backbone: Any = model.get_decoder() if hasattr(model, "get_decoder") else model
        self.config: Any = self.backbone.config
        self.layers = find_layers(self.backbone)
        self.state_shape: tuple[int, ...] = (2, 2, self.hidden_size)
        self.end_width = self.hidden_size
        keep_weights(self.backbone)
        self.family: Family | None = FAMILIES.get(self.config.model_type)
        if self.family is None:
            self._check_causal()
            if scores:
                self.check_states(last=False)
                self._check_scores()

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self.model).__name__

    @property
    def blocks(self) -> int:
        """The number of blocks T."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """The width of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """The number of token ids that have an embedding."""
        return int(self.backbone.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Device of the embedding, which takes token ids and where encodings are summed; blocks may lie elsewhere."""
        tensors = chain(self.backbone.get_input_embeddings().parameters(), self.backbone.parameters())
        devices = (tensor.device for tensor in chain(tensors, self.backbone.buffers()) if not tensor.is_meta)
        return next(devices, torch.device("cpu"))  # an offloaded embedding has no device until it runs

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.backbone.get_input_embeddings().weight.dtype
        return dtype

    @cached_property
    def identity(self) -> str:
        """The hash of configuration and weights, see `model_identity`; it reads all of them, once."""
        return model_identity(self.backbone)

    @torch.no_grad()
    def stream(
        self,
        ids: Tensor,
        path: ScorePath,
        fold: Fold,
        start: Callable[[Tensor], None] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Run one pass over ``ids`` int64 (batch, token), padded on the right; return what :meth:`forward` does.

        ``start`` gets the first block's input ``x^T``, then ``fold`` each block's score in turn, or with the path
        ``output`` its output alone. Nothing is kept from block to block: no logits, no hidden states, no cache. Threads
        that share the model take turns.

        ``rows`` says which of (batch * token) are no padding, where some are: the block word path runs on those alone.
        """
        make = PATHS[path, self.family is not None]
        watchers: list[Watcher] = [
            make(i, layer, self.config, self.family, fold, rows) for i, layer in enumerate(self.layers)
        ]
        if start is not None:
            watchers.append(FirstInput(self.layers[0], start))
        with LOCKS.setdefault(self.backbone, Lock()), watching(watchers):
            return self.forward(ids)

    def forward(self, ids: Tensor) -> Tensor:
        """Run the plain forward pass, without the head; return the final norm's output (batch, token, hidden)."""
        hidden: Tensor = without_head(self.backbone)(input_ids=ids, use_cache=False)[0]
        return hidden

    def check_states(self, last: bool) -> None:
        """Raise ValueError where the final norm, or else the blocks, do not put out what an encoding is made of."""
        if last and self.end_width != self.hidden_size:
            found = f"{self.name} puts out {self.end_width}: read a layer, or the scores"
            raise ValueError(f"reading is 'last'; expected the blocks' width, {self.hidden_size}, at the end; {found}")
        if not last and self.state_shape != (2, 2, self.hidden_size):
            expected = (
                f"expected (batch, token, {self.hidden_size}); of such an LLM the reading 'last' alone is to be had"
            )
            raise ValueError(f"{self.name}: its blocks' states have {len(self.state_shape)} axes; {expected}")

    @torch.no_grad()
    def _check_causal(self) -> None:
        """Raise ValueError for a model in which, by its output, a token sees what comes after it."""
        handle = self.layers[0].register_forward_hook(self._see_state)
        try:
            end = self.forward(torch.tensor([[0, 1], [0, 2]], device=self.device))
        finally:
            handle.remove()
        self.end_width = end.shape[-1]
        one, other = end[:, 0]
        if not torch.allclose(one, other, rtol=1e-2, atol=1e-3):
            raise ValueError(f"{self.name} is not decoder-only: a token's hidden state depends on the tokens after it")

    def _see_state(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.state_shape = tuple(first(output).shape)

    @torch.no_grad()
    def _check_scores(self) -> None:
        """Warn of what scores of an unknown family cost; ValueError where its blocks give none."""
        try:
            with watching([DiagonalMaskCheck(layer) for layer in self.layers]):
                self.forward(torch.tensor([[0, 1], [0, 2]], device=self.device))
        except (RuntimeError, TypeError, LookupError, AttributeError, ValueError) as error:
            expected = "expected blocks of attention alone; readings of hidden states take any"
            raise ValueError(
                f"{self.name}: its blocks do not run under a diagonal mask ({error}); {expected}"
            ) from error
        warnings.warn(
            f"{self.name}: unknown family {self.config.model_type!r}; its blocks run a second time under a diagonal "
            f"mask, about twice the cost of one pass (known families: {', '.join(FAMILIES)})",
            stacklevel=4,
        )


def without_head(backbone: nn.Module) -> nn.Module:
    """Return the module that runs the blocks, also of a model whose decoder is itself and ends in logits (Llama 4)."""
    head = getattr(backbone, "get_output_embeddings", None)
    if head is None or head() is None:
        return backbone
    inner = [module for module in backbone.children() if hasattr(module, "get_input_embeddings")]
    return inner[0] if len(inner) == 1 else backbone


def check_own_code(model: Any) -> None:
    """Raise ValueError for a model of code from its own repository, which transformers imports under one package."""
    if any(cls.__module__.partition(".")[0] == OWN_CODE for cls in type(model).__mro__):
        raise ValueError(
            f"{type(model).__name__} is of code from its own repository (trust_remote_code); expected a model that "
            "transformers knows"
        )


def check_decoder_only(config: Any) -> None:
    """Raise ValueError for a configuration that is an encoder-decoder's or attends in both directions."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"model type {config.model_type!r} is an encoder-decoder; expected a decoder-only LLM")
    if getattr(text, "use_bidirectional_attention", False):
        raise ValueError(f"model type {text.model_type!r} attends in both directions; expected a decoder-only LLM")


def check_blocks(config: Any) -> None:
    """Raise ValueError for a configuration of more blocks than any LLM has: all would be made before weights are read.

    One that does not say how many passes.
    """
    blocks = getattr(config, "num_hidden_layers", None)
    if blocks is not None and not 0 < int(blocks) <= MOST_BLOCKS:
        raise ValueError(f"num_hidden_layers: expected 1 to {MOST_BLOCKS} blocks, found {blocks}")


def find_layers(backbone: nn.Module) -> nn.ModuleList:
    """Return the transformer blocks, which are the list of ``num_hidden_layers`` modules in the decoder."""
    count = getattr(backbone.config, "num_hidden_layers", None)
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(backbone).__name__}: found no list of {count} transformer blocks")
