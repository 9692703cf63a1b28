"""The folders of tiny parts that the tests of the adapter use, ComfyUI, and an LLM for its nodes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.adapter.conftest import folders
from tests.encoder import tiny_models as models
from tests.integrations import comfyui

__all__ = ["folders"]


@pytest.fixture(scope="module")
def ui() -> SimpleNamespace:
    return comfyui.load()


@pytest.fixture
def inference() -> Iterator[None]:
    """Inference mode, in which ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    models.build("llama").save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder
