"""Facts of an LLM family that the encoder needs: the names of a block's parts, and whether they run in parallel.

A new family is one entry of :data:`FAMILIES`. Rotary embeddings, masks, windows, query and key norms and soft-capping
need no entry: the LLM's own forward pass runs them, and one token alone has no use for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def all_of_it(config: Any, projected: Tensor) -> Tensor:
    """Return the whole output of a projection that computes values alone."""
    return projected


def last_third_of_each_head(config: Any, projected: Tensor) -> Tensor:
    """Return the values where one projection gives query, key and value of head 0, then of head 1, ..."""
    per_head = projected.unflatten(-1, (config.num_attention_heads, -1))
    return per_head.chunk(3, dim=-1)[2].flatten(-2)


@dataclass(frozen=True, kw_only=True)
class Family:
    """The parts of a transformer block, as paths inside it."""

    value: str = "self_attn.v_proj"
    """The projection that gives the values."""
    output: str = "self_attn.o_proj"
    """The attention's output projection."""
    mlp: str = "mlp"
    """The feed-forward part."""
    mlp_norm: str = "post_attention_layernorm"
    """The norm before it, of residual + attention (sequential blocks)."""
    after_attention: str | None = None
    """A norm of the attention's output, before the residual is added (sandwich norms)."""
    after_mlp: str | None = None
    """A norm of the feed-forward part's output, before the residual is added."""
    parallel: Callable[[Any], bool] = lambda config: False
    """Function that tells from the model's configuration whether attention and MLP both read the block's input."""
    values: Callable[[Any, Tensor], Tensor] = all_of_it
    """Function that takes the values (batch, token, key-value heads * head) out of the output of ``value``."""

    @property
    def read(self) -> tuple[str, ...]:
        """Paths of the parts whose output is read."""
        paths = (self.value, self.output, self.mlp, self.after_attention, self.after_mlp)
        return tuple(path for path in paths if path is not None)


SANDWICH = Family(
    mlp_norm="pre_feedforward_layernorm",
    after_attention="post_attention_layernorm",
    after_mlp="post_feedforward_layernorm",
)

FAMILIES: dict[str, Family] = {  # by the model_type of the text model's configuration
    "llama": Family(),  # Llama 1, 2, 3; Vicuna
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma2": SANDWICH,
    "gemma3_text": SANDWICH,
    "phi": Family(output="self_attn.dense", parallel=lambda config: True),  # Phi 1, 1.5, 2
    "gpt_neox": Family(  # Pythia
        value="attention.query_key_value",
        output="attention.dense",
        values=last_third_of_each_head,
        parallel=lambda config: config.use_parallel_residual,
    ),
}
