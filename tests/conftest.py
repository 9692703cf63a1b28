"""What every test gets: one thread a process, nothing written outside its own folder, no hub, and its kind."""

from __future__ import annotations

import ast
import gc
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from llmdiff.process.spared_imports import CHANGES, plainly_told, spare_imports
from llmdiff.process.startup import collect_seldom
from pipelines.studies.smollm2 import VARIABLE, is_there, location
from tests import kinds
from tests.examples import FAST, in_turn
from tests.graphs import Graphs, counted_graphs
from tests.hub_models import ModelHub, model_hub
from tests.object_store import BUCKET, object_store
from tests.python_path import python_path

# Before torch, transformers, Prefect or MLflow are imported: several test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PYTHONPATH=python_path(*(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)),
)
# As our programs do, but some tests put a LoRA of PEFT's beside an adapter.
spare_imports({**CHANGES, "diffusers.utils.import_utils": plainly_told})

# The same made-up inputs each time, however long one takes; `make nightly` tries others, and keeps those that fail.
settings.register_profile("llmdiff", deadline=None, derandomize="LLMDIFF_NIGHTLY" not in os.environ)
settings.load_profile("llmdiff")

IN_MEMORY = pytest.StashKey[str]()
MEMORY, ROOM = Path("/dev/shm"), 4 << 30
"""Folder in memory for temporary folders, and the room that it needs: stores sync each file, which disks do slowly."""


def pytest_configure(config: pytest.Config) -> None:
    memory = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM else None
    if config.option.basetemp is None and memory is not None:
        config.option.basetemp = config.stash[IN_MEMORY] = tempfile.mkdtemp(prefix="llmdiff-tests-", dir=memory)
    gc.disable()  # until all is imported
    os.environ["LLMDIFF_CACHE"] = tempfile.mkdtemp(prefix="llmdiff-tests-", dir=memory)
    kinds.note_starts()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background has it; some tests press Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.version_info < (3, 11, 8):
        ast.parse = parse_uncollected


def parse_uncollected(*args: Any, _parse: Any = ast.parse, **options: Any) -> Any:
    """Parse without garbage collection: a traceback that it logs is parsed too, which breaks this off (gh-106905)."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return _parse(*args, **options)
    finally:
        if collects:
            gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by mark, and before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Mark each test with its kind and its group; a server may take long to start on a machine that is busy.

    A fast run drops combinations of parameters first, whatever their kinds.
    """
    if FAST:
        stay = in_turn(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in stay])
        items[:] = [item for item in items if item in stay]
    for item in items:
        kind, group = kinds.kind_of(item), kinds.group_of(item)
        item.add_marker(kind)
        if kind == "service" and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=kinds.longest_first)


def pytest_collection_finish() -> None:
    """Leave all that was imported out of garbage collection: a third of a second each time, and seconds at the end.

    What is garbage among it stays too: some megabytes, which to look for takes a second.
    """
    kinds.note_engines()
    gc.freeze()
    collect_seldom()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ.pop("LLMDIFF_CACHE"), ignore_errors=True)
    if IN_MEMORY in config.stash:
        shutil.rmtree(config.stash[IN_MEMORY], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with kinds.nothing_started(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with kinds.nothing_started(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    try:
        return (yield)
    finally:
        kinds.end_servers(item, nextitem)


_folders = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test's own, made without looking through those of all tests before it, as pytest's is."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = tmp_path_factory.getbasetemp() / "tests" / f"{name}-{next(_folders)}"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def own_home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Runs, tracking and flow records of a test go below its own folder; one that needs no folder gets none made."""
    if "tmp_path" in request.fixturenames:
        home: Path = request.getfixturevalue("tmp_path") / "runs"
    else:
        home = tmp_path_factory.getbasetemp() / "homes" / str(next(_folders)) / "runs"
    monkeypatch.setenv("LLMDIFF_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    """Counts what is compiled."""
    with counted_graphs() as found:
        yield found


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real LLM, SmolLM2-135M-Instruct in float32."""
    folder = location()
    if not is_there(folder):
        pytest.skip(f"no SmolLM2 in {folder}: make smollm2 fetches it; {VARIABLE} names another folder")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with an empty bucket; the environment of every process started here leads to it."""
    with object_store(tmp_path_factory.mktemp("s3") / "server.log") as variables:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            yield variables["AWS_ENDPOINT_URL"]


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """A prefix that nothing lies under."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture(scope="module")
def hub_server() -> Iterator[ModelHub]:
    with model_hub() as found:
        yield found


@pytest.fixture
def hub(hub_server: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelHub:
    """An empty hub of models, as HF_ENDPOINT makes it a new process's, and a cache of the test's own."""
    import huggingface_hub

    hub_server.__init__(hub_server.url)  # type: ignore[misc]
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub_server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub_server


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking database whose tables are made: MLflow takes seconds for it."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking(own_home: Path, empty_tracking: Path) -> Path:
    """The test's own, empty tracking database."""
    own_home.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(empty_tracking, own_home / "mlflow.db"))
