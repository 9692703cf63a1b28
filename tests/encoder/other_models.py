"""Tiny random LLMs of families that the encoder has no entry for: each is one of those that people bring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers

from tests.encoder.tiny_models import GROUPED, SMALL, VOCABULARY

WIDE = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
OF_GPT = {**WIDE, "n_embd": 48, "n_layer": 3, "n_head": 4}
OF_OPT = {**WIDE, "hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
GROUPS = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}


def build(name: str, **settings: Any) -> Any:
    """A model for causal language with the weights that its class begins with."""
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**settings))


def opt(**settings: Any) -> Any:
    return build("OPT", **{**OF_OPT, "max_position_embeddings": 128, "word_embed_proj_dim": 16, **settings})


def gemma3n() -> Any:
    """Whose blocks pass several versions of each state on."""
    layers = ["sliding_attention", "full_attention", "full_attention"]
    inputs = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "laurel_rank": 8}
    more = {"head_dim": 16, "layer_types": layers, "num_kv_shared_layers": 0, "activation_sparsity_pattern": None}
    model = transformers.Gemma3nForCausalLM
    return model(transformers.Gemma3nTextConfig(**{**GROUPED, **inputs, **more}))


OTHERS: dict[str, Callable[[], Any]] = {
    "gpt": lambda: transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**OF_GPT)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**OF_GPT)),
    "gptj": partial(build, "GPTJ", **OF_GPT, rotary_dim=4),
    "bloom": partial(build, "Bloom", **WIDE, hidden_size=48, n_layer=3, n_head=4),
    "mpt": partial(build, "Mpt", **WIDE, d_model=48, n_layers=3, n_heads=4, expansion_ratio=2, max_seq_len=128),
    "falcon": partial(build, "Falcon", **SMALL),
    "falcon-alibi": partial(build, "Falcon", **SMALL, alibi=True, parallel_attn=False, multi_query=False),
    "opt": opt,  # of width 16 at its ends
    "xglm": partial(build, "XGLM", **WIDE, d_model=48, ffn_dim=80, num_layers=3, attention_heads=4),
    "phi3": partial(build, "Phi3", **GROUPED),
    "stablelm": partial(build, "StableLm", **{**GROUPED, "hidden_size": 64}, use_parallel_residual=True),
    "olmo2": partial(build, "Olmo2", **GROUPED),
    "smollm3": partial(build, "SmolLM3", **GROUPED),
    "granite": partial(build, "Granite", **GROUPED, residual_multiplier=0.3),
    "mixtral": partial(build, "Mixtral", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "deepseek-v3": partial(build, "DeepseekV3", **{**SMALL, **EXPERTS, **LATENT, **GROUPS}),
    "gpt-oss": lambda: transformers.GptOssForCausalLM(
        transformers.GptOssConfig(**{**GROUPED, **EXPERTS, "head_dim": 16, "num_local_experts": 4, "sliding_window": 4})
    ),
    "llama-4": lambda: transformers.Llama4ForCausalLM(
        transformers.Llama4TextConfig(
            **{**GROUPED, "head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 80}
        )
    ),
}
