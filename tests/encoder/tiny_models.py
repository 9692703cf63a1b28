"""Tiny random LLMs of every family, each by its own class, and a tokenizer to go with them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [
    *("a", "an", "the", "red", "green", "blue", "small", "large", "circle", "square", "triangle"),
    *("next", "to", "left", "right", "of", "above", "below", "and"),
]
VOCABULARY = 64
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}


def llama(**kw: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**GROUPED, **kw}))


def llama3(**kw: Any) -> Any:
    """Llama 3.1 and later stretch their rotary embedding's long waves: here all three of its ranges are met."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    return llama(rope_parameters=rope, **kw)


def phi(**kw: Any) -> Any:
    return transformers.PhiForCausalLM(transformers.PhiConfig(**{**SMALL, **kw}))


def mistral(**kw: Any) -> Any:
    return transformers.MistralForCausalLM(
        transformers.MistralConfig(**{**GROUPED, "sliding_window": 4, "head_dim": 16, **kw})
    )


def qwen2(**kw: Any) -> Any:
    kw = {**GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, **kw}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**kw))


def qwen3(**kw: Any) -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**GROUPED, "head_dim": 16, **kw}))


def gemma2(**kw: Any) -> Any:
    kw = {
        **GROUPED,
        "head_dim": 16,
        "sliding_window": 4,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        **kw,
    }
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**kw))


def gemma3(**kw: Any) -> Any:
    kw = {**GROUPED, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16, **kw}
    kw["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**kw))


def gpt_neox(**kw: Any) -> Any:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**{**SMALL, **kw}))


FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": llama,
    "llama-bias": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama-multi-query": lambda: llama(num_key_value_heads=1),
    "llama-3": llama3,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi": phi,
    "phi-grouped": lambda: phi(num_key_value_heads=2),
    "phi-qk-norm": lambda: phi(qk_layernorm=True),
    "gpt-neox": gpt_neox,
    "gpt-neox-sequential": lambda: gpt_neox(use_parallel_residual=False),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The family's model with random weights that make every part matter (norms, biases and all)."""
    model = copy.deepcopy(_built(name))
    torch.manual_seed(0)
    return model.to(dtype)


@functools.cache
def _built(name: str) -> Any:
    torch.manual_seed(0)
    return scramble(FAMILIES[name]()).eval()


def scramble(model: Any) -> Any:
    """Random values for every parameter: the initial ones and zeros would hide mistakes."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn_like(parameter)
            parameter.copy_(0.5 * noise + 1.0 if "norm" in name and name.endswith("weight") else 0.15 * noise)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with pad and EOS."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=256
    )
