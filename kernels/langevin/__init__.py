"""The Langevin step of Algorithm 1, which folds one transformer block's scores into the text encoding."""

from kernels.langevin.ops import langevin_step
from kernels.langevin.reference import TokenRows, gaussian
from kernels.name_conflict import refuse_other

refuse_other()  # here too: if the other package was installed over ours, `kernels/__init__.py` is its own

__all__ = ["TokenRows", "gaussian", "langevin_step"]
