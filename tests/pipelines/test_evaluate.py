"""`llmdiff evaluate` on prompts of a file: pictures once, a table of every picture, a report, MLflow."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.tracking.run import client
from pipelines.cli.main import main
from pipelines.requests.evaluate import EvaluateRequest
from tests.adapter import tiny
from tests.evaluation import metric_models
from tests.infra.tiny_adapter import make_adapter, make_base
from tests.pipelines.conftest import Server

SEEDS = (3, 4)
PROMPTS = [("<img src=x>", "Odd <i>"), ("a cat", "Animals"), *((letter, "Letters") for letter in "bcdefghijk")]


class Parts(NamedTuple):
    """Folders: an adapter and its base, another pipeline, metric models, references; and a file of prompts."""

    adapter: str
    other: str
    xl: str
    clip: str
    vision: str
    references: str
    prompts: str


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    root = tmp_path_factory.mktemp("evaluate")
    base = make_base(root / "sd")
    tiny.xl_pipeline().save_pretrained(root / "xl")
    (root / "references").mkdir()
    for i, picture in enumerate(metric_models.pictures(12)):
        picture.save(root / "references" / f"{i}.png")
    (root / "prompts.tsv").write_text("Prompt\tCategory\n" + "".join(f"{text}\t{kind}\n" for text, kind in PROMPTS))
    return Parts(
        str(make_adapter(root / "adapter", base)),
        str(make_adapter(root / "other", base, seed=1)),
        str(root / "xl"),
        str(metric_models.clip(root / "clip")),
        str(metric_models.vision(root / "vision")),
        str(root / "references"),
        str(root / "prompts.tsv"),
    )


def options(parts: Parts, output: Path) -> dict[str, Any]:
    return {
        "adapter": parts.adapter,
        "prompts": parts.prompts,
        "baselines": ["base", f"xl={parts.xl}", parts.other],
        "metrics": [f"clip-iqa={parts.clip}", f"clip={parts.clip}", f"cmmd={parts.clip}", f"fid={parts.vision}"],
        "references": parts.references,
        "seeds": list(SEEDS),
        "steps": 2,
        "size": 64,
        "output": str(output),
        "pictures": str(output.parent / "pictures"),
    }


class Page(HTMLParser):
    """What a page loads and runs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_an_adapter_against_its_base_another_pipeline_and_another_adapter(
    parts: Parts, in_process: Server, tmp_path: Path, tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.flows.evaluate import evaluate_flow

    monkeypatch.setenv("LLMDIFF_HOME", str(tracking.parent))
    result = evaluate_flow(EvaluateRequest(**options(parts, tmp_path / "one")))
    folder, report = Path(result.output), result.report
    assert json.loads((folder / "report.json").read_text())["scores"].keys() == report["scores"].keys()

    models = ["adapter", "base", "xl", "other"]
    assert list(report["models"]) == models
    assert list(report["columns"]) == ["quality", "complexity", "beauty", "clip"]
    table = pq.read_table(folder / "scores.parquet")
    assert table.num_rows == len(models) * len(PROMPTS) * len(SEEDS)
    assert {(row["prompt"], row["category"]) for row in table.to_pylist()} == set(PROMPTS)
    values = {
        model: np.array([row["quality"] for row in table.to_pylist() if row["model"] == model]) for model in models
    }
    assert report["scores"]["quality"]["xl"]["mean"] == pytest.approx(values["xl"].mean())
    difference = report["differences"]["quality"]["base"]
    assert difference["mean"] == pytest.approx((values["adapter"] - values["base"]).mean())
    assert difference["n"] == len(PROMPTS)
    assert (values["adapter"] != values["base"]).any()
    assert (values["adapter"] != values["other"]).any()
    for row in table.to_pylist():
        assert Image.open(row["picture"]).size == (64, 64)
    assert set(report["distances"]) == {"cmmd", "fid"}
    assert set(report["not_run"]) == {"facts", "siglip", "siglip2"}

    page = Page((folder / "report.html").read_text())
    assert not {"script", "link", "iframe", "object", "i"} & set(page.tags)
    assert {source.partition(":")[0] for source in page.sources} == {"data"}
    assert "Odd &lt;i&gt;" in (folder / "report.html").read_text()
    assert page.tags.count("figure") % len(models) == 0
    assert page.tags.count("figure") > 0

    api = client()
    run = api.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["quality.adapter-base"] == pytest.approx(difference["mean"])
    assert run.data.metrics["quality.adapter-base.low"] == pytest.approx(difference["interval"][0])
    assert run.data.metrics["fid.xl"] == pytest.approx(report["distances"]["fid"]["values"]["xl"]["value"])
    assert {file.path for file in api.list_artifacts(result.run_id)} == {
        *("report.html", "report.json", "scores.parquet")
    }

    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "pictures").rglob("*.png")}
    assert len(written) == table.num_rows
    again = evaluate_flow(
        EvaluateRequest(
            **{**options(parts, tmp_path / "two"), "metrics": [f"clip-iqa={parts.clip}"], "references": None}
        )
    )
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "pictures").rglob("*.png")} == written
    assert again.report["scores"]["quality"] == report["scores"]["quality"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "{bad}"], r"bad\.csv: row 1 \(from 0\): expected a prompt, found ' '"),
        (["--metric", "sigclip"], "metric: expected one of facts, siglip, .*, found 'sigclip'"),
        (["--metric", "cmmd", "--metric", "facts"], "metric cmmd: expected a folder of reference pictures, found none"),
        (
            ["--metric", "facts", "--prompts", "{prompts}"],
            "metric facts: expected prompts of the synthetic shapes benchmark",
        ),
        (["--metric", "facts", "--references", "."], "expected a metric that uses them: fid or cmmd"),
        (["--seeds", "1", "--seeds", "1", "--prompts", "{prompts}"], "seeds: expected different ones"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_flows_start(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text('prompt,note\na cat,\n"  ",x\n')
    given = [argument.format(bad=bad, prompts=parts.prompts) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", parts.adapter, *given])
    assert ended.value.code == 1
    assert re.search(message, capsys.readouterr().err)


def test_two_baselines_of_one_name_are_refused(parts: Parts, in_process: Server) -> None:
    from pipelines.runtime.eval_models import find_eval_models

    with pytest.raises(ValueError, match="expected different names, found adapter, base, base; name one with NAME="):
        find_eval_models(parts.adapter, ["base", f"base={parts.xl}"], None, None)
    with pytest.raises(ValueError, match=r"expected a name of letters, digits, dots and dashes, found 'a/b'"):
        find_eval_models(parts.adapter, [f"a/b={parts.xl}"], None, None)
