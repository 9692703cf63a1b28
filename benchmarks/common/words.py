"""Bytes, numbers, captions and times in words."""

from __future__ import annotations

import math


def size(value: float) -> str:
    """Return bytes in decimal units."""
    power = max(0, min(5, int(math.log10(max(value, 1)) // 3)))
    return f"{value / 1000**power:.3g} {['B', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}"


def number(value: float) -> str:
    """Return a number in the two or three digits that count."""
    return f"{value:.2g}" if value < 10 else f"{float(f'{value:.3g}'):,.0f}"


def count(value: float) -> str:
    """Return a number of captions in words."""
    if 1e8 <= value < 1e9:
        return f"{value / 1e6:,.0f} M"
    name, unit = ("M", 1e6) if value < 1e8 else ("B", 1e9)
    return f"{float(f'{value / unit:.2g}'):,g} {name}"


def duration(seconds: float) -> str:
    """Return a time in the largest unit that it is two of."""
    units = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
    name, unit = next(((name, unit) for name, unit in units if seconds >= 2 * unit), units[-1])
    return f"{number(seconds / unit)} {name}"
