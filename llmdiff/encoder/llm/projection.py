"""Compute a projection without its bias, however its weights are kept."""

from __future__ import annotations

from torch import Tensor, nn


def without_bias(projection: nn.Module, x: Tensor) -> Tensor:
    """Return ``x W^T`` in the dtype of `x`, for any module that computes ``x W^T + b``.

    A linear layer's weight is read. One that is packed, or that lies elsewhere until the layer runs, can't be: then the
    module's own ``forward`` computes it, and what it adds is taken off again.
    """
    if type(projection) is nn.Linear and not projection.weight.is_meta:
        return nn.functional.linear(x, projection.weight)
    projected: Tensor = projection.forward(x)
    bias = getattr(projection, "bias", None)
    if bias is not None and bias.is_meta:
        bias = projection.forward(x.new_zeros(1, x.shape[-1]))
    return projected if bias is None else projected - bias.to(projected.dtype)
