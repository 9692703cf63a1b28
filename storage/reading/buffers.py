"""Memory for batches, used again as soon as nobody holds it: new memory costs more than filling it."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

UNHELD = 3
"""What `sys.getrefcount` says in `_unheld` of memory that the list of it alone holds."""
STEP = 2**20
"""Sizes are whole numbers of this, so that batches of about one size share memory."""


class Buffers:
    """Arrays on memory that returns here when the last view of it, NumPy's or torch's, is gone.

    Any thread may take and let go. It keeps as much as was ever held at once.
    """

    def __init__(self) -> None:
        self._all: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """A C-contiguous array of any content, which is the caller's for as long as it holds it or a view of it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            memory = self._unheld(size)[:size]
        return memory.view(dtype).reshape(shape)

    def _unheld(self, size: int) -> np.ndarray:
        small = None
        for memory in self._all:
            if sys.getrefcount(memory) == UNHELD:
                if memory.nbytes >= size:
                    return memory
                small = memory
        new = np.empty(-(-size // STEP) * STEP, np.uint8)
        self._all = [memory for memory in self._all if memory is not small]
        self._all.append(new)
        return new
