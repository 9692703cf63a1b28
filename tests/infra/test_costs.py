"""The page of costs says what its script makes of the measured rows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("costs", ROOT / "benchmarks" / "costs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["costs"] = module  # dataclasses look themselves up
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as `python benchmarks/costs.py` has it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_the_page_has_the_tables_that_the_script_makes(costs: ModuleType) -> None:
    text = (ROOT / "docs" / "costs.md").read_text()
    assert costs.page(text, costs.tables(costs.Assumptions())) == text


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
    largest = costs.index_rows("memory of looking up", cache="warm")[-1]
    assert small.encoder_memory(int(largest["rows"])) == pytest.approx(float(largest["value"]) * 1e6)
