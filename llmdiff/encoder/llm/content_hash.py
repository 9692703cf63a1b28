"""Content hashes: which LLM and which tokenizer an encoding came from, whatever folder they were loaded from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Fields of a transformers configuration that say where it came from or how it is run, not what it computes.
INCIDENTAL = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}

OF_PACKAGE = {"_version", "set_inductor_config"}
"""Fields of torchao's part in a configuration that are ignored too: its format, and how it is compiled."""


def model_identity(backbone: Any) -> str:
    """Return the SHA-256 of the decoder's configuration and of every tensor in its state, in hexadecimal."""
    config = {key: _settled(value) for key, value in backbone.config.to_diff_dict().items() if key not in INCIDENTAL}
    digest = hashlib.sha256(_canonical(config))
    for name, tensor in sorted(backbone.state_dict().items()):
        for part, plain in _plain(name, _fetched(backbone, name) if tensor.is_meta else tensor):
            digest.update(f"{part} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(_bytes(plain))
    return digest.hexdigest()


def tokenizer_identity(tokenizer: Any, *, eos_pads: bool = False) -> str:
    """Return the SHA-256 of all that decides which ids a text gets, in hexadecimal.

    With ``eos_pads`` a tokenizer whose pad token is its EOS counts as the one without a pad token that it was.
    """
    if getattr(tokenizer, "is_fast", False):
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content = {key: value for key, value in content.items() if key not in ("padding", "truncation")}
    else:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    if eos_pads and special.get("pad_token") == special.get("eos_token"):
        special.pop("pad_token", None)
    return hashlib.sha256(_canonical({"content": content, "special": special})).hexdigest()


def _fetched(backbone: Any, name: str) -> Tensor:
    """Return an offloaded tensor with its numbers, which the model's state lacks."""
    from accelerate.utils import align_module_device

    path, _, own = name.rpartition(".")
    module = backbone.get_submodule(path)
    with align_module_device(module, torch.device("cpu")):
        fetched: Tensor = module.state_dict()[own].detach().clone()
    return fetched


def _plain(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor with its name, or for a tensor of torchao's own class the tensors that it is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for inner in tensor.__tensor_flatten__()[0]:
        yield from _plain(f"{name} {type(tensor).__name__}.{inner}", getattr(tensor, inner))


def _settled(value: Any) -> Any:
    """Return a configuration's value without the fields that say how its package runs it."""
    if isinstance(value, dict):
        return {key: _settled(item) for key, item in value.items() if key not in OF_PACKAGE}
    return value


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
