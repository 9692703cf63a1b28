"""Content hashes: which LLM and which tokenizer an encoding came from, whatever folder they were loaded from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

# Of a transformers configuration: what says where it came from or how it is run, not what it computes.
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


def model_identity(backbone: Any) -> str:
    """Return the SHA-256 of the decoder's configuration and of every tensor in its state, in hexadecimal."""
    config = {key: value for key, value in backbone.config.to_diff_dict().items() if key not in INCIDENTAL}
    digest = hashlib.sha256(_canonical(config))
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
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


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
