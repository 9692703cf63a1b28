"""What a computation allocates: every new storage that an operation's result lies in, and how many bytes are alive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Bytes of the storages made inside the context: the most alive at once, and the largest.

    Args:
        known: tensors whose storages were there before, such as weights: views of them are nothing new.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.known: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being used again
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.largest = 0
        self._know(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._know(_tensors((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        for storage in [tensor.untyped_storage() for tensor in _tensors(result)]:
            if storage._cdata not in self.known and storage._cdata not in self.alive:
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result

    def _know(self, tensors: Iterable[Tensor]) -> None:
        for storage in [tensor.untyped_storage() for tensor in tensors]:
            if storage._cdata not in self.alive:
                self.known.setdefault(storage._cdata, StorageWeakRef(storage))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
