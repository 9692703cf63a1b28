from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmdiff.training import TrainConfig
from tests.training import training_run
from tests.training.training_run import DRAWING, train


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a base that no test changes."""
    root = tmp_path_factory.mktemp("training")
    training_run.save_base(root / "base")
    llm, base = training_run.make_store(root / "store")
    (root / "fingerprints.json").write_text(json.dumps({"llm": llm, "base": base}))
    return root


@pytest.fixture
def root(parts: Path, tmp_path: Path) -> Path:
    """A folder of a test's own, with the store and the base in it."""
    for path in parts.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture(autouse=True)
def not_launched() -> Iterator[None]:
    """A run in this process sets what a launcher would; the processes of later tests must not inherit it."""
    yield
    for name in training_run.LAUNCHED:
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def finished(parts: Path) -> TrainConfig:
    """An uninterrupted run."""
    config = training_run.config(parts, "finished", **DRAWING)
    assert train(config) == Path(config.output) / "adapter"
    return config
