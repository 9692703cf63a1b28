"""The demonstration, shortened: every stage for real, everything it promises left behind."""

import json
from dataclasses import replace

from pipelines.demo import QUICK, run_demo
from pipelines.runtime.shapes_benchmark import TRAINING


def test_demo_leaves_report_pictures_and_figures(tmp_path, tracking, in_process, capsys, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.demo.PROCESSES", 1)  # of training: each takes seconds to start
    out = tmp_path / "demo"
    report = run_demo(out, replace(QUICK, pictures=80, prompts=2, training=TRAINING.model_copy(update={"steps": 4})))
    assert json.loads((out / "report.json").read_text())["registry"] == report["registry"]
    assert report["prompts"] == 6
    assert report["registry"]["alias"] == "candidate"
    assert report["store"]["captions"] <= 81
    assert report["store"]["bytes_per_caption"] > 0
    assert {"encode", "train_both", "evaluate"} <= set(report["seconds"])
    for model in ("base", "adapter", "control"):
        assert set(report[model]) == {"template", "natural", "unseen_wording"}
    page = (out / "report.html").read_text()
    assert "data:image/png" in page
    assert QUICK.note is not None
    assert "proves nothing" in QUICK.note
    assert report["note"] == QUICK.note
    assert QUICK.note in page
    assert capsys.readouterr().err.count(QUICK.note) == 2, "before the first stage, and after the figures"
    assert (out / "samples.png").stat().st_size > 10_000
    drawn = {path.name for path in (out / "adapter" / "samples").iterdir()}
    assert drawn == {f"step-{step:08d}.{kind}" for step in (2, 4) for kind in ("safetensors", "png")}
