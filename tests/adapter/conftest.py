"""Folders of tiny random parts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline

from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from tests.adapter import tiny
from tests.adapter.single_files import save_single
from tests.adapter.tiny import Folders, quiet
from tests.encoder import tiny_models as models


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as a single file, its configurations beside it but for the noise schedule."""
    return save_single(tmp_path_factory.mktemp("single") / "base", tiny.pipeline(), without=("scheduler",))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, an LLM, another LLM, and adapters on each kind of encodings."""
    root = tmp_path_factory.mktemp("parts")
    for name in ("llama", "phi"):
        models.build(name).save_pretrained(root / name)
        models.tokenizer().save_pretrained(root / name)
    encoder = Encoder.from_pretrained(root / "llama", EncoderConfig(dtype="float32", max_tokens=20))
    base = BaseTextEncoder.from_pretrained(tiny.save_base(root / "base", **tiny.ONE_RESOLUTION))
    facts = {"encoder_description": encoder.describe(), "encoder_fingerprint": "f1", "llm": "tiny-llama"}
    unet = tiny.unet(**tiny.ONE_RESOLUTION)
    tiny.adapter(unet, facts, new_weight=0.5, copy_original=False).save(root / "on-llm")
    tiny.adapter(unet, facts, new_weight=0.5, base_context="clip").save(root / "on-both")
    control = {"encoder": "base", "encoding_dim": tiny.WIDTH, "encoder_description": base.describe()}
    tiny.adapter(unet, control, new_weight=0.5).save(root / "control")
    xl = tiny.unet(**tiny.SDXL_CHANGES)
    tiny.adapter(xl, facts, new_weight=0.5, base_context="clip").save(root / "on-xl")
    tiny.adapter(xl, facts, new_weight=0.5).save(root / "on-xl-llm")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def base_parts(folders: Folders) -> dict[str, Any]:
    """The base's models, read once: nothing may be changed in them."""
    return StableDiffusionPipeline.from_pretrained(folders["base"]).components


@pytest.fixture
def plain(base_parts: dict[str, Any]) -> StableDiffusionPipeline:
    """The base, in models of the test's own."""
    return quiet(StableDiffusionPipeline(**copy.deepcopy(base_parts), requires_safety_checker=False))
