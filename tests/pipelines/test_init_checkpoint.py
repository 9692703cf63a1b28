"""What is said of the adapter that a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from safetensors.numpy import save

from llmdiff.adapter.config import AdapterConfig
from llmdiff.adapter.files import write_files
from llmdiff.training.config import TrainConfig
from pipelines.runtime.init_checkpoint import check_start


@pytest.mark.parametrize(("trained_on", "warns"), [("one", False), ("other", True), ("", False)])
def test_a_start_from_an_adapter_of_another_store_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trained_on: str, warns: bool
) -> None:
    """At the same path: its weights are of use, and they know other data."""
    about = {"encoder_fingerprint": "f", "base_model": "b", "store": "s", "training": {"store_id": trained_on}}
    write_files(tmp_path, save({}), AdapterConfig(encoding_dim=8, context_dim=8, **about))
    paths = {"store": "s", "base": "b", "output": "o", "start_from": str(tmp_path)}
    with caplog.at_level(logging.WARNING):
        check_start(TrainConfig(**paths, store_id="one", fingerprint="f", steps=1))
    told = f"{tmp_path} was trained on the store other at s; this run reads the store one at s"
    assert [record.getMessage() for record in caplog.records] == [told] * warns
