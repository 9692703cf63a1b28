"""Writes a tiny Llama as llama.cpp's converter does: its names, its order of query and key rows, a byte-level BPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from torch import Tensor

from tests.encoder.tiny_models import WORDS
from tests.real_shapes import byte_letters

TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def save_gguf(model: Any, path: Path) -> Path:
    """Write a Llama, its matrices in 8-bit blocks of 32, and a tokenizer of letters with three control tokens."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, config.vocab_size)
    state = model.state_dict()
    add(writer, "token_embd.weight", state["model.embed_tokens.weight"])
    add(writer, "output_norm.weight", state["model.norm.weight"])
    add(writer, "output.weight", state["lm_head.weight"])
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        for ours, theirs in TENSORS.items():
            weight = state[f"model.layers.{i}.{ours}.weight"]
            add(writer, f"blk.{i}.{theirs}.weight", interleaved(weight, heads[ours]) if ours in heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: GGUFWriter, size: int) -> None:
    letters = sorted({letter for word in WORDS for letter in word})
    tokens = ["<pad>", "<eos>", "<unk>", byte_letters()[ord(" ")], *letters]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens and len(tokens) < size:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    tokens += [f"<unused{i}>" for i in range(size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (size - 3)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_pad_token_id(0)


def add(writer: GGUFWriter, name: str, weight: Tensor) -> None:
    numbers = weight.detach().float().numpy()
    if numbers.ndim == 1 or numbers.shape[1] % 32:
        writer.add_tensor(name, np.ascontiguousarray(numbers))
        return
    kind = GGMLQuantizationType.Q8_0
    writer.add_tensor(name, quantize(numbers, kind), raw_dtype=kind)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return rows in the order that llama.cpp's rotary embedding has them in each head: halves, one of each in turn."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)
