"""The Langevin step of Algorithm 1: one transformer block's scores folded into the text encoding."""

from kernels.langevin.ops import langevin_step
from kernels.langevin.reference import Rows, gaussian

__all__ = ["Rows", "gaussian", "langevin_step"]
