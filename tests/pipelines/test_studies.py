"""Studies at the sizes of a trial: every part for real, nothing done twice, and pages that tell what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmdiff.adapter import AdapterSettings, LLMAdapter
from llmdiff.diffusion.base import load_unet
from llmdiff.evaluation import held_out_prompts
from llmdiff.shapes import DIFFUSION
from llmdiff.shapes.captions import PROMPT
from llmdiff.studies.readings import Reading
from pipelines.studies import probe, prompts
from pipelines.studies.flow import study_flow
from pipelines.studies.page import write_docs, write_paper
from pipelines.studies.scoring import StudyModel, drawn, load
from pipelines.studies.workspace import BASE, PAPER, Sizes, Variant

pytestmark = pytest.mark.timeout(1800)
TINY = Sizes(pictures=32, scenes=1, captions=2)


def run(name: str, output: Path) -> dict[str, object]:
    done = study_flow(name=name, output=str(output), sizes=TINY, quick=True)
    folder = Path(done["folder"])
    assert folder == output / name
    assert (folder / "plot.png").stat().st_size > 5_000
    assert (folder / "finding.md").read_text() == done["finding"] != ""
    result = json.loads((folder / "result.json").read_text())
    assert (folder / "table.md").read_text().count("\n") == len(result["rows"]) + 2
    assert result["sizes"]["scenes"] == 1
    assert result["sizes"]["steps"] == 2
    return result


def test_studies_share_what_they_make_and_end_in_pages(
    tmp_path: Path, tracking: Path, in_process: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "VARIANTS", [BASE, PAPER])  # one training is enough
    output = tmp_path / "studies"
    with pytest.raises(ValueError, match="expected results of some study, found none"):
        write_docs(output, tmp_path / "docs")
    weights = run("weights", output)
    assert [row["layer"] for row in weights["rows"]][:3] == [
        *("down_blocks.0.attentions.0", "down_blocks.1.attentions.0", "mid_block.attentions.0")
    ]
    assert len(weights["weights"][0][0]) == len(weights["rows"]) == 7
    closed = run("closed", output)
    assert [row["what is shown"] for row in closed["rows"]][:2] == ["base", "the score difference itself"]
    assert [row["R²"] is None for row in closed["rows"]] == [True, True, False, False, False, False]
    told = run("prompts", output)
    assert [row["model"] for row in told["rows"]] == ["base"] * 3 + ["score difference"] * 3
    assert len(list((output / "adapters").iterdir())) == 1
    before = times(output)
    assert run("closed", output)["rows"] == closed["rows"]
    assert run("prompts", output)["rows"] == told["rows"]
    assert times(output) == before
    page = write_docs(output, tmp_path / "docs").read_text()
    for name in ("weights", "closed", "prompts"):
        assert (output / name / "table.md").read_text() in page
        assert f"](studies/{name}.png)" in page
        assert (tmp_path / "docs" / "studies" / f"{name}.png").exists()
    assert "Not run yet: `llmdiff study scale`." in page
    paper = write_paper(output)
    assert (output / "prompts" / "table.md").read_text() in paper.read_text()
    assert (paper.parent / "prompts.png").exists()


def test_a_probe_is_compared_with_trained_adapters(
    tmp_path: Path, tracking: Path, in_process: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["one", "other", "third"]  # of the same encodings: one training and one measurement are enough
    monkeypatch.setattr(probe, "variants", lambda: [Variant(name=name, seeds=1) for name in names])
    found = run("probe", tmp_path)
    assert [row["encoder"] for row in found["rows"]] == names
    assert all(0 <= row[f"binding, {name}"] <= 1 for row in found["rows"] for name in probe.PROBES)
    assert {rho["value"] for rho in found["correlations"].values()} == {None}, "equal figures have no order"
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("probe/probes/*")}
    assert len(made) == len(list(tmp_path.glob("adapters/*"))) == 1
    assert run("probe", tmp_path)["rows"] == found["rows"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("probe/probes/*")} == made


def times(output: Path) -> dict[Path, int]:
    """When everything that is made once was written."""
    found = [
        *output.glob("judged/*"),
        *output.glob("readings/*"),
        *output.glob("students/*/*"),
        *output.glob("adapters/*/*"),
    ]
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_hidden_states_steer_an_adapter_that_reads_them_and_forced_weights_hold(tmp_path: Path) -> None:
    """The path of a comparison's encoder through a pipeline: an untrained adapter will do."""
    reading = Reading(settings={"template": PROMPT, "reading": "layer:3"})
    hidden = reading.load(str(DIFFUSION))
    unet = load_unet(str(DIFFUSION))
    about = {"encoding_dim": hidden.hidden_size, "encoder_description": hidden.describe(), "base_model": str(DIFFUSION)}
    LLMAdapter.for_unet(unet, AdapterSettings(), **about).save(tmp_path)
    common = {"adapter": str(tmp_path), "steps": 2, "guidance": 2.0}
    prompts_of_a_scene = held_out_prompts(1)[1:2]
    both = drawn(StudyModel(reading=reading, **common), prompts_of_a_scene).pictures[0]
    alone = drawn(StudyModel(reading=reading, weights=(1.0, 0.0), **common), prompts_of_a_scene).pictures[0]
    assert (both != alone).any()
    pipe = load(StudyModel(reading=reading, weights=(0.0, 1.0), **common))
    assert {(row["original"], row["new"]) for row in pipe.llm_adapter.weights_by_layer()} == {(0.0, 1.0)}
    with pytest.raises(ValueError, match="was trained with another encoder: reading"):
        load(StudyModel(reading=Reading(settings={"template": PROMPT, "reading": "last"}), **common))
