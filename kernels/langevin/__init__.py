"""The Langevin step of Algorithm 1: one transformer block's scores folded into the text encoding."""

from kernels.langevin.ops import langevin_step
from kernels.langevin.reference import TokenRows, gaussian

__all__ = ["TokenRows", "gaussian", "langevin_step"]
