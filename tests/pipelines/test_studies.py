"""Studies at the sizes of a trial: every part for real, nothing done twice, and pages that tell what was found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer

from llmdiff.adapter import AdapterSettings, LLMAdapter
from llmdiff.diffusion.base import load_unet
from llmdiff.evaluation import held_out_prompts
from llmdiff.shapes import DIFFUSION, PHI
from llmdiff.shapes.captions import PROMPT
from llmdiff.studies.readings import StudyReading
from pipelines.cli.study import study_app
from pipelines.requests.study import ON_ANY_LLM, StudyRequest
from pipelines.studies import closed, encodings, probe, prompts, real, stability
from pipelines.studies.flow import study_flow
from pipelines.studies.llm import EMBEDDED, name_of
from pipelines.studies.page import write_docs, write_paper
from pipelines.studies.run import artifact_key, workspace_of
from pipelines.studies.scoring import StudyModel, drawn, load
from pipelines.studies.workspace import BASE, Sizes, Variant, Workspace

pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("second server")]
TINY = Sizes(pictures=32, scenes=1, captions=2)


@pytest.fixture(scope="module")
def shared_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of studies of the embedded LLM, with the store and the adapter that they share."""
    return tmp_path_factory.mktemp("studies")


def run(name: str, output: Path, llm: Path | None = None) -> dict[str, object]:
    done = study_flow(
        StudyRequest(name=name, output=str(output), sizes=TINY, quick=True, llm=None if llm is None else str(llm))
    )
    folder = Path(done["folder"])
    assert folder == (output / name if llm is None else output / "by-llm" / llm.name / name)
    assert (folder / "plot.png").stat().st_size > 5_000
    assert (folder / "finding.md").read_text() == done["finding"] != ""
    result = json.loads((folder / "result.json").read_text())
    assert (folder / "table.md").read_text().count("\n") == len(result["rows"]) + 2
    assert result["sizes"]["scenes"] == 1
    assert result["sizes"]["steps"] == 2
    return result


def test_studies_share_what_they_make_and_end_in_pages(
    shared_output: Path, tmp_path: Path, tracking: Path, in_process: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "variants", lambda workspace: [BASE, workspace.paper])  # one training is enough
    output = shared_output
    with pytest.raises(ValueError, match="expected results of some study, found none"):
        write_docs(tmp_path / "none", tmp_path / "docs")
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
    shared_output: Path, tracking: Path, in_process: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["one", "other", "third"]  # of the same encodings: one training and one measurement are enough
    variants = [Variant(name=name, reading=EMBEDDED.reading(), seeds=1) for name in names]
    monkeypatch.setattr(probe, "variants", lambda: variants)
    found = run("probe", shared_output)
    assert [row["encoder"] for row in found["rows"]] == names
    assert all(0 <= row[f"binding, {name}"] <= 1 for row in found["rows"] for name in probe.PROBES)
    assert {rho["value"] for rho in found["correlations"].values()} == {None}, "equal figures have no order"
    made = {path: path.stat().st_mtime_ns for path in shared_output.glob("probe/probes/*")}
    assert len(made) == len(list(shared_output.glob("adapters/*"))) == 1
    assert run("probe", shared_output)["rows"] == found["rows"]
    assert {path: path.stat().st_mtime_ns for path in shared_output.glob("probe/probes/*")} == made


def test_a_study_of_another_llm_stands_beside_the_embedded_ones(
    tmp_path: Path, tracking: Path, in_process: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded Phi in a published LLM's place: it has five blocks, and is asked nothing after the caption."""
    output, llm = tmp_path / "studies", tmp_path / "tiny-phi"
    shutil.copytree(PHI, llm)
    chosen = ("base", "score difference")  # one training is enough
    for module in (encodings, real):
        every = module.variants
        monkeypatch.setattr(module, "variants", lambda w, every=every: [v for v in every(w) if v.name in chosen])
    compared = run("encodings", output, llm)
    assert compared["llm"] == {"name": "tiny-phi", "source": str(llm), "template": "{caption}"}
    assert [row["variant"] for row in compared["rows"]] == ["base", "score difference"]
    curve = run("real", output, llm)
    assert [row["variant"] for row in curve["rows"]] == ["base", "score difference"]
    assert len(list((output / "adapters").iterdir())) == 1
    assert {point["steps"] for point in curve["curve"]} == {1, 2}
    before = times(output)
    assert run("real", output, llm)["rows"] == curve["rows"]
    assert times(output) == before
    page = write_docs(output, tmp_path / "docs").read_text()
    assert page.count("Not run yet: `llmdiff study encodings`.") == 1
    assert "Not run yet: `llmdiff study real`." not in page
    for name in ("encodings", "real"):
        assert f"| [{name} on tiny-phi](#{name}-on-tiny-phi) | `llmdiff study {name} --llm …` | 32 | 2 | 1 |" in page
        assert f"### {name} on tiny-phi\n\nWith `{{caption}}` as template, 32 pictures, 2 steps, 1 scenes." in page
        assert (output / "by-llm" / "tiny-phi" / name / "table.md").read_text() in page
        assert f"](studies/{name}-on-tiny-phi.png)" in page
        assert (tmp_path / "docs" / "studies" / f"{name}-on-tiny-phi.png").exists()
    again = tmp_path / "elsewhere" / "tiny-phi"
    shutil.copytree(PHI, again)
    with pytest.raises(ValueError, match="found some of .*, which has the same name: rename a folder"):
        study_flow(StudyRequest(name="prompts", output=str(output), llm=str(again), sizes=TINY, quick=True))


def test_an_llm_is_looked_at_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMDIFF_SMOLLM2", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"no LLM: expected --llm .* or SmolLM2-135M-Instruct in .*none"):
        workspace_of(StudyRequest(name="real"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        workspace_of(StudyRequest(name="encodings", llm=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="template must hold"):
        workspace_of(StudyRequest(name="encodings", llm=str(PHI), template="no caption"))
    with pytest.raises(
        ValueError, match="llm goes with prompts, encodings, stability, closed, real alone, found scale"
    ):
        StudyRequest(name="scale", llm=str(PHI))
    with pytest.raises(ValueError, match="template goes with an llm of your own"):
        StudyRequest(name="encodings", template="{caption}")
    monkeypatch.setenv("LLMDIFF_SMOLLM2", str(PHI))
    found = workspace_of(StudyRequest(name="real", sizes=Sizes(steps=7)))
    assert (found.llm.name, found.llm.blocks, found.llm.template) == ("SmolLM2-135M-Instruct", 5, "{caption}")
    assert (found.sizes.pictures, found.sizes.steps, found.sizes.scenes) == (6000, 7, 200)
    assert workspace_of(StudyRequest(name="encodings")).sizes == Sizes()
    (named := tmp_path / "folder").mkdir()
    (named / "config.json").write_text('{"_name_or_path": "someone/Small LLM-1.5"}')
    (tmp_path / "large-Q4.gguf").touch()
    names = {name_of(str(path)) for path in (named, tmp_path / "large-Q4.gguf")} | {name_of("someone/on-the-hub")}
    assert names == {"Small-LLM-1.5", "large-Q4", "on-the-hub"}
    assert artifact_key(found.llm, "real") == "study-real-smollm2-135m-instruct"


def test_commands_of_studies_that_take_an_llm_say_so() -> None:
    commands = typer.main.get_command(study_app).commands  # type: ignore[attr-defined]
    options = {name: {each.name: each.help for each in command.params} for name, command in commands.items()}
    assert {name for name, found in options.items() if "llm" in found} == set(ON_ANY_LLM)
    assert options["real"]["steps"].endswith("Default: 1000.")
    assert options["closed"]["steps"].endswith("Default: 200.")
    assert "Example: llmdiff study real --llm " in commands["real"].epilog


def test_other_llms_go_through_every_study_that_takes_them(tmp_path: Path) -> None:
    """What each study would train on the LLM is of that LLM; none of it is of the embedded one."""
    workspace = workspace_of(StudyRequest(name="encodings", llm=str(PHI), output=str(tmp_path)))
    found = [variant.reading for of in (encodings, prompts) for variant in of.variants(workspace)]
    found += [variant.reading for variant, _ in stability.variants(workspace.llm, 1.0)]
    of_llm = [reading for reading in found if reading is not None and reading.kind == "llm"]
    assert {reading.llm for reading in of_llm} == {str(PHI)}
    assert {(reading.settings["template"], reading.settings["dtype"]) for reading in of_llm} == {
        ("{caption}", "float32")
    }
    figures = stability.encoding_figures(workspace, stability.setting(workspace.llm, "default")[0])
    assert figures["norm"] > 0
    assert closed.student_name(workspace, "top") != closed.student_name(Workspace(tmp_path, Sizes()), "top")


def times(output: Path) -> dict[Path, int]:
    """When everything that is made once was written."""
    found = [
        *output.glob("scored/*"),
        *output.glob("readings/*"),
        *output.glob("students/*/*"),
        *output.glob("adapters/*/*"),
    ]
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_hidden_states_steer_an_adapter_that_reads_them_and_forced_weights_hold(tmp_path: Path) -> None:
    """The path of a comparison's encoder through a pipeline: an untrained adapter will do."""
    reading = StudyReading(settings={"template": PROMPT, "reading": "layer:3"})
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
        load(StudyModel(reading=StudyReading(settings={"template": PROMPT, "reading": "last"}), **common))
