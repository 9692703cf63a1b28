"""Triton kernels, each in a folder with its plain PyTorch reference. Imports torch and triton alone."""

from kernels.clash import refuse_other

refuse_other()
