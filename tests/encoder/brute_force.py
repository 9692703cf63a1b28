"""The brute-force reference: every hidden state really fed alone to every block, in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from llmdiff.encoder.llm.decoder_llm import find_layers
from llmdiff.encoder.llm.scores import block_input, first


def in_float64(model: Any) -> Any:
    """A copy in float64, or the model itself where it is."""
    return model if model.dtype == torch.float64 else copy.deepcopy(model).double()


@torch.no_grad()
def scores(model: Any, ids: list[int], word_path: str) -> tuple[Tensor, Tensor, Tensor]:
    """(x^T, S, W) of one caption: float64 (token, hidden), (block, token, hidden), (block, token, hidden)."""
    model = in_float64(model)
    calls = record(model, torch.tensor([ids]))
    sentence = torch.stack([output[0] - x[0] for x, _, _, output in calls])
    if word_path == "block":
        word = torch.stack([alone(model, i, x, kwargs) for i, (x, _, kwargs, _) in enumerate(calls)])
    else:
        tokens = record(model, torch.tensor(ids)[:, None])
        word = torch.stack([(output - x)[:, 0] for x, _, _, output in tokens])
    return calls[0][0][0], sentence, word


@torch.no_grad()
def states(model: Any, ids: list[int]) -> Tensor:
    """One caption's embedding, every block's output, and the last one after the final norm: (T + 2, token, hidden)."""
    model = in_float64(model)
    calls = record(model, torch.tensor([ids]))
    end = model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False)[0]
    return torch.stack([calls[0][0][0], *(output[0] for *_, output in calls), end[0]])


def reading(name: str, x: Tensor, score: Tensor, states: Tensor, g: Tensor, bands: int = 1) -> Tensor:
    """What a reading is, of the embedding, the blocks' scores (block, token, hidden) and `states`: ([band,] ...)."""
    blocks = len(score)
    groups = [[i for i in range(blocks) if i * bands // blocks == band] for band in range(bands)]
    if name == "last":
        return states[-1]
    if name.startswith("layer"):
        chosen = [states[:-1][int(layer)] for layer in name.partition(":")[2].split(",")]
        return torch.stack(chosen) if name.startswith("layers:") else chosen[0]
    if name in ("mean", "norm_mean"):
        outputs = states[1:-1] if name == "mean" else standardised(states[1:-1])
        found = [outputs[group].mean(0) for group in groups]
    else:
        if name == "score_norm":
            score = standardised(score)
            score[:, 0] = 0.0
        weighted = g.to(score)[:, None, None] * score
        found = [weighted[group].sum(0) for group in groups]
        found[0] = found[0] + x
    return found[0] if bands == 1 else torch.stack(found)


def standardised(values: Tensor) -> Tensor:
    """Encodings less their mean over channels, over the root of the variance plus 1e-5."""
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def alone(model: Any, index: int, x: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """The block's update of each hidden state by itself: no mask, no neighbour, its own position, a row of a batch."""
    rows = x.transpose(0, 1)  # (token, 1, hidden)
    cos, sin = (angles.transpose(0, 1) for angles in kwargs["position_embeddings"])
    own = {**kwargs, "attention_mask": None, "position_embeddings": (cos, sin), "position_ids": None}
    return (model.get_decoder().layers[index](rows, **own) - rows)[:, 0]


@torch.no_grad()
def context_scores(model: Any, ids: list[int]) -> Tensor:
    """``S - W`` of every block of any family, in the model's dtype: (block, token, hidden).

    A state is fed alone to its block with what the block is given when that token is all there is.
    """
    whole = record(model, torch.tensor([ids]))
    singles = [record(model, torch.tensor([[token]])) for token in ids]
    found = []
    for i, (layer, (x, _, _, output)) in enumerate(zip(find_layers(model.get_decoder()), whole, strict=True)):
        alone = [first(layer(x[:, d : d + 1], *one[i][1], **one[i][2])) for d, one in enumerate(singles)]
        found.append((output - torch.cat(alone, dim=1))[0])
    return torch.stack(found)


def record(model: Any, ids: Tensor) -> list[tuple[Tensor, Any, dict[str, Any], Tensor]]:
    """(input, arguments, keyword arguments, output) of every block of one forward pass."""
    calls: list[tuple[Tensor, Any, dict[str, Any], Tensor]] = []

    def see(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        calls.append((block_input(args, kwargs), args[1:], others, first(output)))

    layers = find_layers(model.get_decoder())
    handles = [layer.register_forward_hook(see, with_kwargs=True) for layer in layers]
    model.get_decoder()(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return calls
