"""Peak speeds of GPUs as their makers publish them."""

from __future__ import annotations

BF16 = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}
"""TFLOP/s of dense matrix products in bfloat16, by a part of the device's name. In TF32 it is half as much."""


def published_peak(device: str) -> float | None:
    """Return the peak of a GPU by its name; None for one that is not listed."""
    return next((peak for name, peak in BF16.items() if name in device), None)
