"""Imports of other packages that our own programs skip or delay, because nothing here needs them.

Each of these is tied to a name that the package does not promise. `tests/adapter/test_spared_imports.py` holds the
names against the installed versions; where one is gone, the package is imported as it is.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

Change = Callable[[Any], AbstractContextManager[None]]
"""A function of a module that returns a context to load it in."""
LATER = ("scipy.integrate", "scipy.stats")
"""Modules that run only once something of them is used: diffusers' samplers import them for rare settings."""


def spare_imports(changes: Mapping[str, Change] | None = None) -> None:
    """Make this process import less of other packages from now on; a program calls this before it imports torch.

    It saves a third of what a command that draws imports. A library leaves the choice to the program. `changes` takes
    the place of `CHANGES`.
    """
    sys.meta_path.insert(0, Spared(CHANGES if changes is None else changes))


class Spared(MetaPathFinder):
    """Finds the modules of `LATER` and of the changes in their usual place, and has them loaded in another way.

    A module of `LATER` is found once. The others may be looked for several times, before they are imported.
    """

    def __init__(self, changes: Mapping[str, Change]) -> None:
        self.changes = changes
        self.left = {*LATER}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec; None for other modules, and for one that is no plain file."""
        if fullname not in self.left and fullname not in self.changes:
            return None
        self.left.discard(fullname)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        if fullname in LATER:
            spec.loader = Delayed(fullname, spec.origin)
        else:
            spec.loader = Changed(fullname, spec.origin, self.changes[fullname])
        return spec


class Changed(SourceFileLoader):
    """Loads a module within a context."""

    def __init__(self, fullname: str, path: str, change: Change) -> None:
        super().__init__(fullname, path)
        self.change = change

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        with self.change(module):
            super().exec_module(module)


class Delayed(SourceFileLoader):
    """Puts a stand-in in a module's place."""

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing yet."""
        module.__class__ = StandIn


class StandIn(ModuleType):
    """A stand-in for a module, which imports it when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # which any module may be asked for
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def plainly_told(module: Any) -> Iterator[None]:
    """Spare diffusers a look at the files of all packages while its module is loaded.

    It looks to tell which distribution the quantisers of a base come from. No program of ours loads them.
    """
    read = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = dict
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = read


@contextmanager
def without_peft(module: Any) -> Iterator[None]:
    """Tell diffusers that PEFT is missing, which it imports for a LoRA: no program of ours loads one."""
    with plainly_told(module):
        yield
    module._peft_available = False


@contextmanager
def scanned_once(module: Any) -> Iterator[None]:
    """Let transformers scan its models once, and not look for a package `kernels`.

    It reads the source of all its models for their names, for the package and then for `models` in it. It also reads
    the lists of files of all packages, to tell which one our `kernels` is, beside which there can be no other.
    """
    yield
    scan = functools.cache(module.create_import_structure_from_path)

    def once(path: str | os.PathLike[str]) -> Any:
        return scan(str(Path(path).parent if Path(path).is_file() else path))

    module.create_import_structure_from_path = once
    module.is_kernels_available = lambda *_, **__: False


@contextmanager
def without_scipy(module: Any) -> Iterator[None]:
    """Tell transformers that SciPy is missing, which its losses for object detection import for every model."""
    from transformers import utils

    there: Any = utils
    known = there.is_scipy_available
    there.is_scipy_available = lambda: False
    try:
        yield
    finally:
        there.is_scipy_available = known


@contextmanager
def without_signals(module: Any) -> Iterator[None]:
    """Give torchmetrics a stand-in for SciPy's signal processing, which it imports only for an audio package."""
    name = "scipy.signal"
    if name in sys.modules:
        yield
        return
    found: Any = ModuleType(name)
    found.hamming = None
    sys.modules[name] = found
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without_stubs(module: Any) -> Iterator[None]:
    """Keep Gradio from parsing the source of its components, to write stubs for type checkers."""
    yield
    module.create_or_modify_pyi = lambda *_: None


CHANGES: dict[str, Change] = {
    "diffusers.utils.import_utils": without_peft,
    "gradio.component_meta": without_stubs,
    "torchmetrics": without_signals,
    "transformers.loss.loss_utils": without_scipy,
    "transformers.utils.import_utils": scanned_once,
}
