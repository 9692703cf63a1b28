"""Studies at the sizes of a trial: every part for real, nothing done twice, and pages that tell what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.studies.flow import study_flow
from pipelines.studies.lab import Sizes
from pipelines.studies.page import write_docs, write_paper

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect"), pytest.mark.timeout(900)]
TINY = Sizes(pictures=32, scenes=1, captions=2)


def run(name: str, output: Path) -> dict[str, object]:
    done = study_flow(name, str(output), TINY, quick=True)
    folder = Path(done["folder"])
    assert folder == output / name
    assert (folder / "plot.png").stat().st_size > 5_000
    assert (folder / "finding.md").read_text() == done["finding"] != ""
    result = json.loads((folder / "result.json").read_text())
    assert (folder / "table.md").read_text().count("\n") == len(result["rows"]) + 2
    assert result["sizes"]["scenes"] == 1
    assert result["sizes"]["steps"] == 2
    return result


def test_studies_share_what_they_make_and_end_in_pages(tmp_path: Path, tracking: Path, in_process: object) -> None:
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
    made = {path: path.stat().st_mtime_ns for path in output.rglob("*.json") if path.name != "result.json"}
    assert len(list((output / "adapters").iterdir())) == 1
    assert run("closed", output)["rows"] == closed["rows"]
    assert made == {path: path.stat().st_mtime_ns for path in output.rglob("*.json") if path.name != "result.json"}
    prompts = run("prompts", output)
    assert {row["model"] for row in prompts["rows"]} == {"base", "score difference", "CLIP"}
    assert len(prompts["rows"]) == 9
    assert len(list((output / "adapters").iterdir())) == 2
    page = write_docs(output, tmp_path / "docs").read_text()
    for name in ("weights", "closed", "prompts"):
        assert (output / name / "table.md").read_text() in page
        assert f"](studies/{name}.png)" in page
        assert (tmp_path / "docs" / "studies" / f"{name}.png").exists()
    assert "Not run yet: `llmdiff study scale`." in page
    told = write_paper(output)
    assert (output / "prompts" / "table.md").read_text() in told.read_text()
    assert (told.parent / "prompts.png").exists()
