from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.cli.config_files import read_settings
from pipelines.requests.base import one_line


def test_assignments_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("steps: 10\nadapter: {new_weight: 0.1, base_context: llm}\n")
    settings = read_settings(file, ["steps=20", "adapter.new_weight=0.5", "g=[1, 2]", "seed=7"])
    assert settings == {"steps": 20, "adapter": {"new_weight": 0.5, "base_context": "llm"}, "g": [1, 2], "seed": 7}


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2]", "expected a mapping of settings, found list"), ("a: [", "expected YAML or JSON"), (None, "no such")],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.yaml").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"x.yaml: {message}"):
        read_settings(tmp_path / "x.yaml")


@pytest.mark.parametrize("assignment", ["steps", "=3", "adapter.x=1"])
def test_an_assignment_that_makes_no_sense(assignment: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("adapter: 3")
    with pytest.raises(ValueError, match="expected key=value|no group of settings"):
        read_settings(tmp_path / "x.yaml", [assignment])


def test_a_value_that_is_no_yaml_names_its_assignment() -> None:
    with pytest.raises(ValueError, match=r"--set g=\[1: expected a value in YAML"):
        read_settings(None, ["g=[1"])


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "of at most 10000 values, found 3.2"),
        ("a: &a [*a]", "found values in values without end"),
        ("a: &a {b: *a}", "found values in values without end"),
        ("[" * 100_000, "found values in values without end"),
        ('{"a": ' * 30_000, "found values in values without end"),
        ("g: [" + "1, " * 10_000 + "1]", "of at most 10000 values, found 1e+04"),
        ("g: [" + "1, " * 200_000 + "1]", "expected settings of at most 262144 bytes, found 600006"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
    ids=["aliases", "list in itself", "mapping in itself", "depth", "deep JSON", "values", "bytes", "code"],
)
@pytest.mark.timeout(60)
def test_settings_that_would_fill_memory_end_in_a_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match="x.yaml: expected ") as caught:
        read_settings(tmp_path / "x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_of_settings_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {x: 1}\nb: *a\n")
    assert read_settings(tmp_path / "x.yaml") == {"a": {"x": 1}, "b": {"x": 1}}


def test_an_unknown_key_and_a_wrong_value_make_one_line() -> None:
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        weight: float = 1.0
        paths: int = 2

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        steps: int
        adapter: Inner

    with pytest.raises(ValidationError) as caught:
        Settings(steps="many", stepz=3, adapter={"wait": 1})
    line = one_line(caught.value, Settings)
    assert "\n" not in line
    assert "steps: " in line
    assert "found 'many'" in line
    assert "stepz: unknown; expected some of steps, adapter, found 3" in line
    assert "adapter.wait: unknown; expected some of weight, paths, found 1" in line
