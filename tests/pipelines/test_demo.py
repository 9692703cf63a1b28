"""The demonstration, shortened: every stage for real, everything it promises left behind."""

import json

from pipelines.demo import run_demo


def test_demo_leaves_report_pictures_and_figures(tmp_path, tracking, in_process) -> None:
    out = tmp_path / "demo"
    report = run_demo(out, pictures=80, prompts=2, steps=4)
    assert json.loads((out / "report.json").read_text())["registry"] == report["registry"]
    assert report["prompts"] == 6
    assert report["registry"]["alias"] == "candidate"
    assert report["store"]["captions"] <= 81
    assert report["store"]["bytes_per_caption"] > 0
    assert {"encode", "train", "evaluate"} <= set(report["seconds"])
    for model in ("base", "adapter", "control"):
        assert set(report[model]) == {"template", "natural", "unseen_wording"}
    assert "data:image/png" in (out / "report.html").read_text()
    assert (out / "samples.png").stat().st_size > 10_000
