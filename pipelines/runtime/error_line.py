"""Errors in one line: of the command line, and in the page."""

from __future__ import annotations

from llmdiff.extras import missing_extra


def error_line(error: Exception) -> str:
    """Return an error in one line; the kinds that are nobody's plain words keep their name."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (advice := missing_extra(error)) is not None:
        return advice
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    known = isinstance(error, (ValueError, OSError)) or type(error).__name__ == "LaunchError"
    return text if known and text else f"{type(error).__name__}: {text}"
