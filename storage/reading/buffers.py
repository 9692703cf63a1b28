"""Memory for batches, used again as soon as nobody holds it: new memory costs more than filling it."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

STEP = 2**20
"""Unit of sizes in bytes: they are whole multiples of it, so that batches of about one size share memory."""


class Buffers:
    """Arrays on memory that returns here when the last view of it, NumPy's or torch's, is gone.

    Each array lies on a lease of a piece of memory. Views of an array, and tensors made of it, hold the lease, and
    when the last one is gone its finalizer gives the memory back. Any thread may take and let go. It keeps as much as
    was ever held at once.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._returned: deque[np.ndarray] = deque()
        self._lock = threading.Lock()
        self.pieces = 0
        """Number of pieces of memory, held or free."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Return a C-contiguous array of any content, the caller's for as long as it or a view of it is held."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            memory = self._take(size)
        lease = Lease(memory, size)
        # A finalizer runs in any thread and between any two instructions, even of one that holds the lock here: it
        # does nothing but append, which takes no lock of ours.
        weakref.finalize(lease, self._returned.append, memory).atexit = False
        return np.asarray(lease).view(dtype).reshape(shape)

    def _take(self, size: int) -> np.ndarray:
        """Return free memory of at least a size, or new memory, which takes the place of a piece that is too small.

        What was given back last is in the processor's cache still.
        """
        while self._returned:
            self._free.append(self._returned.popleft())
        for i in reversed(range(len(self._free))):
            if self._free[i].nbytes >= size:
                return self._free.pop(i)
        if self._free:
            self._free.pop(0)
        else:
            self.pieces += 1
        return np.empty(-(-size // STEP) * STEP, np.uint8)


class Lease:
    """The right to use a piece of memory; NumPy keeps it as the base of the arrays that it makes of it."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, memory: np.ndarray, size: int) -> None:
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": (size,),
            "typestr": "|u1",
            "data": (memory.ctypes.data, False),
        }
