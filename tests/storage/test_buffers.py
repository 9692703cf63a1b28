"""Memory that comes back."""

from __future__ import annotations

import numpy as np
import torch

from storage.reading.buffers import Buffers


def test_memory_that_is_held_is_not_given_again() -> None:
    buffers = Buffers()
    first = torch.from_numpy(buffers.empty((4, 3), np.uint16)).view(torch.bfloat16)
    part = first[1:, :2]
    del first
    part.fill_(1.0)
    second = buffers.empty((4, 3), np.uint16)
    second[:] = 0
    assert torch.equal(part, torch.ones(3, 2, dtype=torch.bfloat16))


def test_memory_that_nobody_holds_is_given_again() -> None:
    buffers = Buffers()
    first = torch.from_numpy(buffers.empty((100,), np.float16)).view(10, 10)
    place = first.data_ptr()
    del first
    second = buffers.empty((2, 7), np.uint16)
    assert second.ctypes.data == place
    assert buffers.empty((2, 7), np.uint16).ctypes.data != place  # `second` holds it


def test_memory_that_is_too_small_makes_room_for_larger() -> None:
    buffers = Buffers()
    for size in (10, 3_000_000, 2_000_000, 3_500_000):
        array = buffers.empty((size,), np.uint8)
        assert array.shape == (size,)
        assert array.flags.c_contiguous
        del array
    assert len(buffers._all) == 1
