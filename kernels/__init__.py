"""Triton kernels, each in a folder with its plain PyTorch reference. Imports torch and triton alone."""

from kernels.name_conflict import refuse_other

refuse_other()
