"""What the studies compare: LLMs, settings, variants and encoders."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from llmdiff.encoder import Encoder
from llmdiff.shapes import DIFFUSION, PHI
from llmdiff.shapes.captions import PROMPT
from llmdiff.studies.readings import StudyReading
from pipelines.studies import encodings, pathways, probe, scale, stability
from pipelines.studies.catalogue import CATALOGUE, EXPERIMENTS, StudyName
from pipelines.studies.llm import EMBEDDED, StudyLLM, read_llm
from pipelines.studies.smollm2 import NAME, VARIABLE
from pipelines.studies.workspace import PAPER, QUICK, Sizes, Variant, Workspace, remembered

DEEP = StudyLLM(source="deep", name="Deep", blocks=30, width=576, template="{caption}", dtype="float32")


def test_every_study_of_the_catalogue_is_there() -> None:
    from importlib import import_module

    assert set(CATALOGUE) == set(get_args(StudyName))
    assert set(EXPERIMENTS) <= set(CATALOGUE)
    for name in CATALOGUE:
        assert callable(import_module(f"pipelines.studies.{name}").study)


def test_the_embedded_llm_is_what_studies_say_of_it() -> None:
    encoder = StudyReading().load(str(DIFFUSION))
    assert isinstance(encoder, Encoder)
    assert (EMBEDDED.blocks, EMBEDDED.width) == (encoder.llm.blocks, encoder.hidden_size)
    assert EMBEDDED.reading() == StudyReading()


def test_settings_go_with_the_depth_and_the_norm_of_an_llm() -> None:
    found = {
        variant.name: variant.reading.settings for variant, _ in stability.variants(DEEP, 700.0) if variant.reading
    }
    assert [name for name in found if name.startswith(("first", "last"))] == [
        *("first 6 blocks", "first 12 blocks", "first 18 blocks", "first 24 blocks"),
        *("last 6 blocks", "last 12 blocks", "last 18 blocks", "last 24 blocks"),
    ]
    assert found["last 6 blocks"]["g"] == [0.0] * 24 + [1.0] * 6
    noise = (2 * DEEP.blocks * DEEP.width * found["noise cached, 50% of the norm"]["h"]) ** 0.5
    assert noise == pytest.approx(350, rel=0.01)
    embedded = {variant.name: variant.reading for variant, _ in stability.variants(EMBEDDED, 81.3)}
    assert embedded["noise cached, h 1"] == StudyReading(settings={"template": PROMPT, "noise": "cached", "h": 1.0})
    assert embedded["first block"] == StudyReading(settings={"template": PROMPT, "g": [1.0, 0, 0, 0, 0]})
    assert list(encodings.readings(DEEP).values()) == [
        *("score_norm", "last", "layer:-2", "layer:15", "layer:20", "mean", "norm_mean")
    ]
    assert encodings.readings(EMBEDDED)["a middle layer"] == "layer:3"
    shallow = StudyLLM(source="x", name="x", blocks=2, width=8, template="{caption}")
    names = [variant.name for variant, _ in stability.parts(shallow)]
    assert names == ["first block", "first 2 blocks", "last block", "last 2 blocks"]


def test_shipped_llms_are_a_configuration_that_the_study_takes(tmp_path: Path) -> None:
    sizes = scale.read_sizes(Path(__file__).parents[2] / "infra" / "recipes" / "scale.yaml")
    assert [size.name for size in sizes] == ["Phi-1.5", "Llama-7B", "Mistral-7B", "Vicuna-7B"]
    assert {size.variant.reading.settings["template"] for size in sizes if size.variant.reading} == {
        StudyReading().settings["template"]
    }
    (tmp_path / "none.yaml").write_text("{}")
    with pytest.raises(ValueError, match="expected a list of LLMs with name, llm and settings, found dict"):
        scale.read_sizes(tmp_path / "none.yaml")


def test_variants_differ_in_what_they_name_and_in_nothing_else(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Sizes(steps=300))
    common = workspace.training(Variant(name="paper"), 1)
    removed = workspace.training(pathways.REMOVED, 1)
    assert removed.adapter == common.adapter.model_copy(update={"paths": "new"})
    assert removed.model_copy(update={"adapter": common.adapter}) == common
    assert common.steps == 300
    assert common.batch_size * workspace.sizes.processes == 32
    assert Workspace(tmp_path, QUICK).training(Variant(name="paper"), 0).batch_size == 32
    assert list(workspace.seeds(pathways.BASE)) == [0]
    assert list(workspace.seeds(pathways.BOTH)) == [0, 1]


def test_what_is_remembered_is_made_again_where_it_is_of_another_thing(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> int:
        calls.append(1)
        return len(calls)

    path = tmp_path / "a" / "b.json"
    assert [remembered(path, {"size": size}, make) for size in (1, 1, 2, 2)] == [1, 1, 2, 2]


def test_a_probe_study_has_ten_encoders_and_more_where_a_real_llm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    embedded = [variant.name for variant in probe.variants()]
    assert len(set(embedded)) == len(embedded) == 11
    monkeypatch.setenv(VARIABLE, str(PHI))  # in its place
    added = probe.variants()[11:]
    assert [variant.name for variant in added[:2]] == [f"{NAME}, score", f"{NAME}, score_norm"]
    assert len(added) == 5
    assert added[-1].name == f"{NAME}, layer:{probe.three_fifths(read_llm(str(PHI)))}"
    assert probe.three_fifths(DEEP) == 18  # of SmolLM2's 30
    assert [variant.reading for variant in added[:3]] == [
        read_llm(str(PHI)).reading(**settings) for settings in ({}, {"reading": "score_norm"}, {"reading": "norm_mean"})
    ]
    paper = next(variant for variant in probe.variants() if variant.name == "llama, score")
    assert paper.reading == PAPER.reading


def test_verdicts_of_an_earlier_version_are_found_again(tmp_path: Path) -> None:
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "one.json").touch()
    assert (Workspace(tmp_path, QUICK).scored / "one.json").exists()
    assert not (tmp_path / "judged").exists()
