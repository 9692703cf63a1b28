"""Decoder-only LLMs as text encoders. Imports torch, triton and transformers alone, and the settings none of them.

The rest is imported on first use, so that a command line or a form that shows the settings need not load torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmdiff.encoder.config import EncoderConfig
from llmdiff.lazy import lazy

if TYPE_CHECKING:
    from llmdiff.encoder.encoder import FORMULA_VERSION, Encoder
    from llmdiff.encoder.nonfinite import NonFinite
    from llmdiff.encoder.tokens import BadCaption


def check_kernels() -> None:
    """Raise ImportError where another package hides llmdiff's own kernels; looking for them brings no torch."""
    try:
        if find_spec("kernels.langevin") is None:
            raise ModuleNotFoundError("No module named 'kernels.langevin'", name="kernels.langevin")
        from kernels.name_conflict import refuse_other
    except ModuleNotFoundError as error:
        if error.name not in ("kernels.langevin", "kernels.name_conflict"):
            raise
        raise ImportError(
            f"expected llmdiff's own kernels, found another package of the name that hides them ({error}): uninstall "
            "it (pip uninstall kernels), then install llmdiff again"
        ) from error
    refuse_other()


check_kernels()  # now, for imports of them below would fail with an unclear error

__all__ = ["FORMULA_VERSION", "BadCaption", "Encoder", "EncoderConfig", "NonFinite"]

__getattr__ = lazy(
    __name__,
    {
        "BadCaption": "llmdiff.encoder.tokens",
        "FORMULA_VERSION": "llmdiff.encoder.encoder",
        "Encoder": "llmdiff.encoder.encoder",
        "NonFinite": "llmdiff.encoder.nonfinite",
    },
)
