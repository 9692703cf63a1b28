"""Triton's interpreter, set before the kernel is first imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
