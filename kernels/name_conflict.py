"""Another package named `kernels`: the Python package index has one, which transformers and diffusers look for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

REMEDY = "uninstall it (pip uninstall kernels), then install llmdiff again, for both write kernels/__init__.py"


def other_version() -> str | None:
    """Return the version of the other package where it is installed; ours belongs to llmdiff and has no name there."""
    try:
        return version("kernels")
    except PackageNotFoundError:
        return None


def refuse_other() -> None:
    """Raise ImportError where the other package is installed: libraries would take ours for it, or it hides ours."""
    if (found := other_version()) is not None:
        raise ImportError(
            f"expected llmdiff's own kernels alone, found the package `kernels` {found} of the Python package index "
            f"beside them: {REMEDY}"
        )
