"""The page of costs says what its script makes of the measured rows."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def costs() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("costs", ROOT / "benchmarks" / "costs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["costs"] = module  # dataclasses look themselves up
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as `python benchmarks/costs.py` has it
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_page_has_the_tables_that_the_script_makes(costs: ModuleType) -> None:
    text = (ROOT / "docs" / "costs.md").read_text()
    assert costs.page(text, costs.tables(costs.defaults())) == text


def test_pages_say_what_was_measured_on_a_gpu(costs: ModuleType) -> None:
    pages = importlib.import_module("gpu_pages")
    for path in pages.PAGES:
        assert pages.page(path) == path.read_text(), f"{path}: run benchmarks/gpu_pages.py"


def test_measured_rows_take_the_place_of_the_assumed_share(costs: ModuleType, monkeypatch) -> None:
    """The share of the measured GPU alone is replaced; another one's hours stay arithmetic."""
    figures = importlib.import_module("common.gpu_figures")
    device = {"device": "NVIDIA H200"}
    setting = f"SD 1.5, 512², {figures.TRAINING}"
    rows = {
        "train.csv": [{**device, "what": "images a second", "setting": setting, "value": "250"}],
        "autoencoder.csv": [{**device, "model": "SD 1.5", "dtype": "tf32", "pictures_per_s": "180"}],
        "encode.csv": [],
    }
    before = costs.Costs(costs.llms()[0], costs.Assumptions())
    assert before.images_a_second() == pytest.approx(989 * 0.3 / 1.742)
    monkeypatch.setattr(figures, "rows_of", rows.__getitem__)
    measured = costs.Costs(costs.llms()[0], costs.defaults())
    assert measured.images_a_second() == pytest.approx(250)
    assert measured.encode_seconds(1) == pytest.approx(before.text_seconds() + 1 / 180)
    assert costs.Costs(costs.llms()[0], costs.Assumptions()).images_a_second() == before.images_a_second()
    assert figures.sentence() == (
        "Measured on one NVIDIA H200, random weights in the real shapes: training takes 250 pictures of 512² a second "
        "(batch 32), the autoencoder 180 (TF32)."
    )
    assert "NVIDIA H200" in importlib.import_module("gpu_pages").hours_table().splitlines()[0]


def test_hours_and_bytes_are_those_of_the_recipes(costs: ModuleType) -> None:
    phi, vicuna = (costs.Costs(llm, costs.Assumptions()) for llm in costs.llms())
    assert phi.encode_seconds(10**6) / 3600 == pytest.approx(0.1 + 2.1, abs=0.1)
    assert vicuna.encode_seconds(10**6) / 3600 == pytest.approx(1.0 + 2.1, abs=0.1)
    assert 10 * 10**6 / phi.images_a_second() / 3600 == pytest.approx(16.3, abs=0.1)
    assert phi.encodings(10**6) == pytest.approx(164e9, rel=0.01)
    assert vicuna.encodings(10**6) == pytest.approx(401e9, rel=0.01)


def test_where_a_limit_is_reached(costs: ModuleType) -> None:
    assert costs.crossing(lambda n: n / 5e6) == pytest.approx(5e6, rel=0.01)
    small, large = (costs.Costs(costs.llms()[0], costs.Assumptions(rows=rows)) for rows in (4096, 65536))
    assert small.commit_seconds(10**8) == pytest.approx(16 * large.commit_seconds(10**8), rel=0.01)
    largest = max(costs.index_rows("memory of looking up", cache="warm"), key=lambda row: int(row["rows"]))
    assert small.encoder_memory(int(largest["rows"])) == pytest.approx(float(largest["value"]) * 1e6)
