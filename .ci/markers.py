"""Print the installed packages' requirements whose markers hold under another Python, and not under this one."""

from __future__ import annotations

import importlib.metadata
import sys

from packaging.requirements import Requirement


def requirements_of(version: str) -> list[str]:
    """Return the requirements, without markers or extras, that Python `version` adds to this environment's."""
    there = {"python_version": version, "python_full_version": f"{version}.0", "extra": ""}
    lines = {line for dist in importlib.metadata.distributions() for line in dist.requires or ()}
    parsed = [Requirement(line) for line in lines]
    added = [r for r in parsed if r.marker and r.marker.evaluate(there) and not r.marker.evaluate({"extra": ""})]
    return sorted(f"{r.name}{r.specifier}" for r in added)


if __name__ == "__main__":
    for requirement in requirements_of(sys.argv[1]):
        print(requirement)
