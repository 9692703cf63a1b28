"""Checks of this machine: what it can do, and what is wrong with it; nothing heavy is imported for them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import typer

from infra import servers
from infra.environment import home, tracking_uri
from infra.service.secrets import redacted
from llmdiff.extras import PACKAGES

doctor_app = typer.Typer()
CORE = ("torch", "transformers", "diffusers")
OPTIONAL = ("deepspeed", "zarr", "zarrs", "deltalake", "prefect", "mlflow", "gguf", "bitsandbytes", "torchao")
PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest Python that the pins of constraints.txt were resolved for."""
PATCHED = {11: 14, 12: 12, 13: 6}
"""The first release of each Python that refuses tars with negative sizes (CVE-2025-8194), as llmdiff does itself."""
LEAST_FREE = 5 * 10**9


class Finding(NamedTuple):
    """One thing looked at."""

    name: str
    fine: bool
    detail: str


@doctor_app.command(epilog="Example: llmdiff doctor")
def doctor() -> None:
    """Say what this machine can do, and what is wrong with it; exit code 1 where something is."""
    findings = examine()
    for finding in findings:
        print(f"{'ok ' if finding.fine else 'BAD'}  {finding.name:14} {finding.detail}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Return everything that was looked at, in order."""
    return [check() for check in CHECKS]


def python() -> Finding:
    """Look at the interpreter."""
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    fine = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    detail = f"{sys.version.split()[0]} at {sys.executable}; expected {first} to {last}"
    return Finding("python", fine, f"{detail}; {tar_fix(*sys.version_info[:3])}")


def tar_fix(major: int, minor: int, micro: int) -> str:
    """Return in words whether a release of Python is safe from tars that are made to never end."""
    needed = PATCHED.get(minor, 0)
    if (major, micro) >= (3, needed):
        return "its tarfile refuses hostile tars"
    advice = f"update to 3.{minor}.{needed} where other programs read tars"
    return f"its tarfile hangs on hostile tars (CVE-2025-8194), which llmdiff refuses by itself: {advice}"


def packages() -> Finding:
    """List the libraries with their versions; only those of the light core must be there."""
    if missing := [name for name in CORE if not _installed(name)]:
        return Finding("packages", False, f"missing: {', '.join(missing)}")
    there = [name for name in (*CORE, *OPTIONAL) if _installed(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in there)
    extras = sorted({PACKAGES[name][1] for name in OPTIONAL if name not in there})
    return Finding("packages", True, f"{versions}; not installed: llmdiff[{','.join(extras)}]" if extras else versions)


def kernels() -> Finding:
    """Look for another package of the name, which ours hides or which hides ours."""
    try:
        import llmdiff.encoder  # noqa: F401 which refuses both
    except ImportError as error:
        return Finding("kernels", False, str(error))
    return Finding("kernels", True, "no other package of that name")


def processors() -> Finding:
    """Look at the cores that this process may use, and memory."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("cpu", True, f"{cores} cores, {memory:.0f} GiB of memory")


def gpu() -> Finding:
    """Look at what nvidia-smi lists."""
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", True, "none: everything runs on the CPU")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    fine = done.returncode == 0
    return Finding("gpu", fine, "; ".join((done.stdout if fine else done.stdout + done.stderr).split("\n")).strip("; "))


def triton() -> Finding:
    """Look whether kernels are compiled here."""
    if not _installed("triton"):
        return Finding("triton", True, "not installed: the PyTorch path is used")
    where = "compiles kernels" if shutil.which("nvidia-smi") else "no GPU: the PyTorch path is used"
    return Finding("triton", True, f"{importlib.metadata.version('triton')}; {where}")


def deepspeed() -> Finding:
    """Look for a compiler, which DeepSpeed's own operators need; training here uses none of them by default."""
    if not _installed("deepspeed"):
        return Finding("deepspeed", True, "not installed; training needs it")
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    tools = [name for name, there in (("ninja", shutil.which("ninja") or _ninja()), ("c++", compiler)) if not there]
    note = (
        f"can't compile its operators ({', '.join(tools)} missing); none is needed"
        if tools
        else "can compile its operators"
    )
    return Finding("deepspeed", True, note)


def disk() -> Finding:
    """Look at the free space where runs go."""
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk", free > LEAST_FREE, f"{free / 1e9:.1f} GB free for {home()}; an SD 1.5 run wants 5 GB and more"
    )


def prefect_server() -> Finding:
    """Look whether a Prefect server is set, by the environment or a profile of Prefect's, and answers."""
    found = servers.prefect_server()
    if found is None:
        return Finding("prefect", True, "no server set: runs are not recorded (PREFECT_API_URL names a server)")
    return _answer("prefect", found)


def mlflow_server() -> Finding:
    """Look where runs are tracked: a server that answers, or a database."""
    try:
        uri = tracking_uri()
    except ValueError as error:
        return Finding("mlflow", False, str(error))
    if not uri.startswith("http"):
        return Finding("mlflow", True, f"{redacted(uri)} (MLFLOW_TRACKING_URI names a server)")
    return _answer("mlflow", servers.mlflow_server(uri))


def _answer(name: str, setting: servers.Setting) -> Finding:
    silence = servers.silence(setting)
    return Finding(name, silence is None, f"{redacted(setting.url)} {silence or 'answers'} ({setting.where})")


def proxy() -> Finding:
    """Look whether the proxies that are set can be used; nothing on this machine is asked through one."""
    try:
        servers.check_proxies()
    except ValueError as error:
        return Finding("proxy", False, str(error))
    found = list(servers.proxies())
    if dead := [proxy for proxy in found if not _listens(proxy.url)]:
        return Finding("proxy", False, f"{dead[0].where}: {redacted(dead[0].url)} does not answer")
    return Finding("proxy", True, ", ".join(proxy.where for proxy in found) or "none set")


def temporary() -> Finding:
    """Look at the folder of temporary files: where the one that is set can't be written, Python takes another."""
    given = os.environ.get("TMPDIR")
    if given and not os.access(given, os.W_OK):
        return Finding("tmp", False, f"TMPDIR: expected a folder that can be written, found {given!r}")
    return Finding("tmp", True, tempfile.gettempdir())


def _listens(url: str) -> bool:
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), 0.5):
            return True
    except (OSError, ValueError):
        return False


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _ninja() -> bool:
    return Path(sys.executable).with_name("ninja").exists()


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    packages,
    kernels,
    processors,
    gpu,
    triton,
    deepspeed,
    disk,
    temporary,
    proxy,
    prefect_server,
    mlflow_server,
)
