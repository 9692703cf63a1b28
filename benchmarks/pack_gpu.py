"""Packs what ``benchmarks/gpu.py`` needs on a machine that has torch, triton and transformers, and says what to carry.

    python benchmarks/pack_gpu.py --python 3.12         # the other machine's Python; wheels go to .whl

Wheels come from pip's index at the versions of ``constraints.txt``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("diffusers", "pydantic", "pydantic-core", "annotated-types", "typing-inspection")
"""What the parts import beyond those three and their own dependencies."""
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17)) + ("manylinux2014_x86_64",)
LIMIT = 60e6
RUN = """On the other machine, in the project's folder:

    python3 -m pip install --no-index --no-deps --target {wheels}/site {wheels}/*.whl
    PYTHONPATH={wheels}/site python3 benchmarks/gpu.py

Rows go to benchmarks/results/; bring them back before the next run there, and it goes on where this one ended."""


def main() -> None:
    arguments = parse()
    download(arguments.wheels, arguments.python)
    wheels = size_of(arguments.wheels.glob("*.whl"))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree = size_of(ROOT / name for name in listed.split("\0") if name)
    print(f"Carry the project's files ({tree / 1e6:.0f} MB) and {arguments.wheels} ({wheels / 1e6:.0f} MB).")
    print(RUN.format(wheels=arguments.wheels))
    if tree + wheels > LIMIT:
        sys.exit(f"expected at most {LIMIT / 1e6:g} MB together, found {(tree + wheels) / 1e6:.0f} MB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument("--wheels", type=Path, default=Path(".whl"), help="folder for the wheels")
    return parser.parse_args()


def download(folder: Path, python: str) -> None:
    """Fetch the wheels; those of before go, for two versions of one package can't be installed together."""
    for wheel in folder.glob("*.whl"):
        wheel.unlink()
    platforms = [f"--platform={name}" for name in PLATFORMS]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target, f"--dest={folder}"]
    subprocess.run([*command, *pins((ROOT / "constraints.txt").read_text())], check=True)


def pins(constraints: str) -> list[str]:
    """Return the packages at their tested versions.

    Raises:
        ValueError: one has no pin.
    """
    found = {
        re.sub(r"[._]", "-", name.lower()): pin
        for pin, name in re.findall(r"^(([\w.-]+)==[^\s;#]+)", constraints, re.MULTILINE)
    }
    missing = [name for name in PACKAGES if name not in found]
    if missing:
        raise ValueError(f"constraints.txt: expected pins of {', '.join(missing)}, found none")
    return [found[name] for name in PACKAGES]


def size_of(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
