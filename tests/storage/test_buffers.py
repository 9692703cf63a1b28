"""Memory that comes back when nobody holds it, and never before."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import numpy as np
import pytest
import torch

from storage.reading.buffers import STEP, Buffers

SHAPE = (4, 3)


@pytest.fixture(scope="module", autouse=True)
def old_objects_are_not_looked_at() -> None:
    """Each test has garbage collected, which would go through all that tests before these have imported."""
    gc.freeze()


VIEWS: dict[str, Callable[[np.ndarray], object]] = {
    "the array": lambda array: array,
    "a slice": lambda array: array[1:, :2],
    "a slice of a slice": lambda array: array[1:][:, ::2],
    "a transpose": lambda array: array.T,
    "another dtype": lambda array: array.view(np.int16),
    "a reshape": lambda array: array.reshape(-1)[2:],
    "an iterator's row": lambda array: next(iter(array)),
    "a broadcast": lambda array: np.broadcast_to(array, (2, *SHAPE)),
    "a window": lambda array: np.lib.stride_tricks.sliding_window_view(array, 2, axis=0),
    "the last base but the lease": lambda array: bases(array)[-2],
    "the lease": lambda array: bases(array)[-1],
    "a memoryview": lambda array: memoryview(array),
    "a memoryview's slice": lambda array: array.data.cast("B")[3:],
    "an array of a memoryview": lambda array: np.frombuffer(memoryview(array)[1:], np.uint8),
    "a tensor": lambda array: torch.from_numpy(array),
    "a tensor's dtype": lambda array: torch.from_numpy(array).view(torch.bfloat16),
    "a tensor's slice": lambda array: torch.from_numpy(array).view(torch.bfloat16)[1:, 0],
    "a tensor's row": lambda array: torch.from_numpy(array).unbind()[2],
    "a tensor's transpose": lambda array: torch.from_numpy(array).t().unsqueeze(0),
    "a detached tensor": lambda array: torch.from_numpy(array).view(torch.bfloat16).detach(),
    "a tensor's storage": lambda array: torch.from_numpy(array).untyped_storage(),
    "an array of a tensor": lambda array: torch.from_numpy(array)[1:].numpy(),
    "a DLPack tensor": lambda array: torch.from_dlpack(array),
    "a DLPack array": lambda array: np.from_dlpack(torch.from_numpy(array).view(torch.int16)),
    "what autograd saves": lambda array: saved_for_backward(torch.from_numpy(array).view(torch.bfloat16)),
}


def bases(array: np.ndarray) -> list[object]:
    """The owners of an array's memory, one of the other, the array first."""
    found: list[object] = [array]
    while (base := getattr(found[-1], "base", None)) is not None:
        found.append(base)
    return found


def saved_for_backward(tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones(SHAPE, dtype=tensor.dtype, requires_grad=True) * tensor


def lent(buffers: Buffers) -> tuple[np.ndarray, int]:
    array = buffers.empty(SHAPE, np.uint16)
    array[:] = 7
    return array, array.ctypes.data


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_keeps_the_memory_and_the_last_one_gives_it_back(kind: str) -> None:
    buffers = Buffers()
    array, place = lent(buffers)
    view = VIEWS[kind](array)
    lease = weakref.ref(bases(array)[-1])
    del array
    gc.collect()
    assert lease() is not None
    other = buffers.empty(SHAPE, np.uint16)
    assert other.ctypes.data != place
    other[:] = 0
    assert (np.frombuffer(ctypes.string_at(place, other.nbytes), np.uint16) == 7).all()
    del view
    gc.collect()
    assert lease() is None
    assert buffers.empty(SHAPE, np.uint16).ctypes.data == place


def test_a_copy_does_not_keep_it() -> None:
    buffers = Buffers()
    array, place = lent(buffers)
    copies = array.copy(), torch.from_numpy(array).float(), torch.from_numpy(array).clone()
    del array
    assert buffers.empty(SHAPE, np.uint16).ctypes.data == place
    assert all((copy == 7).all() for copy in copies)


def test_memory_that_nobody_holds_is_given_again() -> None:
    buffers = Buffers()
    first = torch.from_numpy(buffers.empty((100,), np.float16)).view(10, 10)
    place = first.data_ptr()
    del first
    second = buffers.empty((2, 7), np.uint16)
    assert second.ctypes.data == place
    assert buffers.empty((2, 7), np.uint16).ctypes.data != place  # `second` holds it


def test_tensors_handed_to_other_threads_keep_it() -> None:
    """Each thread holds a part of each batch for a while, then lets it go: nobody sees what another wrote."""
    buffers, queues = Buffers(), [Queue[torch.Tensor | None](maxsize=3) for _ in range(4)]
    wrong: list[tuple[int, torch.Tensor]] = []

    def hold(number: int, queue: Queue[torch.Tensor | None]) -> None:
        held: list[torch.Tensor] = []
        while (tensor := queue.get()) is not None:
            held = [*held, tensor][-1 - number :]
            wrong.extend((number, each) for each in held if len(each.unique()) != 1)

    threads = [threading.Thread(target=hold, args=item) for item in enumerate(queues)]
    for thread in threads:
        thread.start()
    for value in range(400):
        batch = torch.from_numpy(buffers.empty((8, 50 + value % 3), np.int32))
        batch.fill_(value)
        for queue, part in zip(queues, batch.chunk(4), strict=True):
            queue.put(part)
        del batch, part
    for queue in queues:
        queue.put(None)
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= buffers.pieces <= 4 * (3 + 1 + 4) + 1


def test_many_threads_take_and_let_go() -> None:
    buffers = Buffers()

    def take(value: int) -> bool:
        arrays = [buffers.empty((3, 1000 + value % 7), np.int64) for _ in range(3)]
        for i, array in enumerate(arrays):
            array[:] = value * 3 + i
        return all((array == value * 3 + i).all() for i, array in enumerate(arrays))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(take, range(2000)))
    assert buffers.pieces <= 8 * 3


def test_a_finalizer_may_run_where_memory_is_being_taken() -> None:
    """The collector may find a forgotten cycle with a batch in it while the lock is held by the same thread."""
    buffers = Buffers()
    cycle: list[object] = [buffers.empty(SHAPE, np.uint16)]
    place = cycle[0].ctypes.data  # type: ignore[attr-defined]
    cycle.append(cycle)
    with buffers._lock:
        del cycle
        gc.collect()
    assert buffers.empty(SHAPE, np.uint16).ctypes.data == place


def test_memory_that_is_too_small_makes_room_for_larger() -> None:
    buffers = Buffers()
    for size in (10, 3_000_000, 2_000_000, 3_500_000):
        array = buffers.empty((size,), np.uint8)
        assert array.shape == (size,)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        del array
        assert buffers.pieces == 1
    assert buffers.empty((1,), np.uint8).nbytes < STEP


def test_an_empty_array_is_one() -> None:
    assert Buffers().empty((0, 3), np.uint16).shape == (0, 3)


def test_views_live_longer_than_the_buffers() -> None:
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.empty((1000,), np.int32))
    tensor.fill_(5)
    del buffers
    gc.collect()
    assert (tensor == 5).all()
