"""Decoder-only LLMs as text encoders. Imports torch, triton and transformers alone."""

try:
    import kernels.langevin  # noqa: F401 before the modules here import it, each with an error that says nothing
except ModuleNotFoundError as error:
    if error.name not in ("kernels.langevin", "kernels.clash"):
        raise
    raise ImportError(
        f"expected llmdiff's own kernels, found another package of the name that hides them ({error}): uninstall it "
        "(pip uninstall kernels), then install llmdiff again"
    ) from error

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.encoder import FORMULA_VERSION, Encoder
from llmdiff.encoder.nonfinite import NonFinite

__all__ = ["FORMULA_VERSION", "Encoder", "EncoderConfig", "NonFinite"]
