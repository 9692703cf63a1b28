"""Distances between drawn pictures and references as sets: less is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmdiff.evaluation.bootstrap import RESAMPLES

SIGMA, SCALE = 10.0, 1000.0
BLOCK = 1024  # columns of a kernel matrix at once
DISTANCES = ("fid", "cmmd")


class Features(torch.nn.Module):
    """A model for torchmetrics that returns its input, for that holds features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(drawn: np.ndarray, references: np.ndarray) -> float:
    """Return the Fréchet distance between two sets of features, ``(picture, width)`` each, by torchmetrics.

    It is FID (arXiv 1706.08500) where they are Inception's. With fewer pictures than features it is mostly bias:
    compare models on equally many pictures, and no figure with another page's.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    for what, features in (("drawn", drawn), ("reference", references)):
        if len(features) < 2:
            raise ValueError(f"fid: expected at least 2 {what} pictures, found {len(features)}")
    distance = FrechetInceptionDistance(feature=Features(drawn.shape[1])).set_dtype(torch.float64)
    distance.update(torch.from_numpy(references).double(), real=True)
    distance.update(torch.from_numpy(drawn).double(), real=False)
    return float(distance.compute())


def cmmd(drawn: np.ndarray, references: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return CMMD (arXiv 2401.09603): 1000 times the squared MMD of unit vectors, Gaussian, sigma 10.

    The estimate is the one with the diagonal, as its authors compute it.

    Args:
        drawn: ``(picture, width)``, CLIP's vectors of the drawn pictures.
        references: ``(reference, width)``.
        weights: ``(resample, picture)``, each row a sum of 1; None weighs all alike.

    Returns:
        ``(resample,)`` float64; one value without weights.
    """
    x, y = drawn.astype(np.float64), references.astype(np.float64)
    if weights is None:
        weights = np.full((1, len(x)), 1 / len(x))
    among = sum((weights[:, s] * (weights @ _kernel(x, x[s]))).sum(1) for s in _blocks(len(x)))
    between = sum(weights @ _kernel(x, y[s]).sum(1) for s in _blocks(len(y))) / len(y)
    reference = sum(_kernel(y, y[s]).sum() for s in _blocks(len(y))) / len(y) ** 2
    return SCALE * (among + reference - 2 * between)


def unit_weights(units: Sequence[int], seed: int = 0) -> np.ndarray:
    """Return weights ``(resample, picture)`` of a bootstrap over prompts: a drawn prompt brings all its pictures."""
    known, index = np.unique(np.asarray(units), return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=RESAMPLES)  # (resample, unit)
    weights = counts[:, index].astype(np.float64)
    return weights / weights.sum(1, keepdims=True)


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.exp(-squares / (2 * SIGMA**2))
