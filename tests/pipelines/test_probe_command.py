"""The command `llmdiff probe`: its table, its JSON, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmdiff.encoder import EncoderConfig
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT
from llmdiff.training.config import TrainSettings
from pipelines.cli.config_files import read_settings
from tests.docs.test_commands import check
from tests.encoder.tiny_models import llama, scramble
from tests.pipelines.command_line import fails, succeeds

SIZES = ("--captions", "24", "--tests", "10", "--steps", "2", "--reach", "1")
CHOSEN = ("--llm", LLAMA, "--reading", "last", "--reading", "layer:2", "--template", PROMPT, "--template", "{caption}")


def test_a_table_ends_in_commands_that_the_program_takes(capsys: pytest.CaptureFixture[str]) -> None:
    out = succeeds(capsys, "probe", *map(str, CHOSEN), "--diffusion", str(DIFFUSION), *SIZES)
    assert out.count("on top: natural") == 3
    assert out.index(f"template {PROMPT!r}") < out.index("template '{caption}'") < out.index("its own text features")
    assert "Shares of 10 captions of held-out pairs" in out
    encode, train = (line.strip() for line in out.splitlines() if line.startswith("  llmdiff"))
    import shlex

    words = shlex.split(encode.replace("…", "--data photos --store s"))[1:]
    check(words)
    check(shlex.split(train.replace("…", "--store s --diffusion d"))[1:])
    settings = EncoderConfig.from_dict(
        read_settings(None, [words[i + 1] for i, word in enumerate(words) if word == "--set"])
    )
    assert settings.reading in ("last", "layer:2")
    assert settings.template in (PROMPT, "{caption}")


def test_a_refiner_comes_with_its_learning_rate() -> None:
    from llmdiff.probe.fit import Figures
    from llmdiff.probe.probing import ProbeResult, Recommendation
    from pipelines.cli.probe import commands
    from pipelines.requests.probe import ProbeRequest

    row = ProbeResult(reading="norm_mean", template="{caption}", on_top=Figures(0, 0, 0, 0))
    told = [
        commands(ProbeRequest(llm=str(LLAMA)), Recommendation(row, refiner))[1].partition("… ")[2].split(" ")[1::2]
        for refiner in (False, True)
    ]
    plain = "adapter.standardise=true"
    assert told == [[plain], [plain, "adapter.refiner=2", "layout_steps=2000", "learning_rate=1e-3"]]
    assert TrainSettings(**read_settings(None, told[1])).learning_rate == 1e-3


def test_json_has_every_figure_and_is_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("probe", *map(str, CHOSEN), *SIZES, "--seed", "2", "--set", "max_tokens=60", "--json")
    first = json.loads(succeeds(capsys, *arguments))
    assert first == json.loads(succeeds(capsys, *arguments))
    assert [(row["reading"], row["template"]) for row in first["rows"]] == [
        *(("last", PROMPT), ("layer:2", PROMPT), ("last", "{caption}"), ("layer:2", "{caption}"))
    ]
    for row in first["rows"]:
        found = row["on_top"]
        shares = [found[name] for name in ("binding", "relation", "new_binding", "new_relation")]
        assert all(0 <= share <= 1 for share in shares)
        assert found["mean"] == pytest.approx(sum(shares) / 4)
        assert found["relation"] <= found["binding"]
    assert sum(row["in_reach"] is not None for row in first["rows"]) == 1
    assert first["request"]["captions"] == 24
    recommended = first["recommended"]
    assert "--set max_tokens=60" in recommended["commands"][0]
    chosen = {name: recommended[name] for name in ("reading", "template")}
    assert chosen not in recommended["not_clearly_worse"]


def test_the_base_alone(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(succeeds(capsys, "probe", "--diffusion", str(DIFFUSION), *SIZES, "--json"))
    assert [row["reading"] for row in found["rows"]] == ["base"]
    assert found["recommended"]["commands"][0] == f"llmdiff encode … --encoder base --diffusion {DIFFUSION}"


def test_settings_of_a_file_name_reading_and_template_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "encode.yaml"
    file.write_text(json.dumps({"template": "{caption} :", "reading": "mean", "append_eos": False}))
    given = ("probe", "--llm", str(LLAMA), "--config", str(file), *SIZES, "--json")
    found = json.loads(succeeds(capsys, *given))
    assert [(row["reading"], row["template"]) for row in found["rows"]] == [("mean", "{caption} :")]
    assert "--set append_eos=false" in found["recommended"]["commands"][0]
    file.write_text(json.dumps({"reading": "first"}))
    assert f"{file}: reading must be score, " in fails(capsys, *given)


def test_a_gguf_file_is_probed_as_a_folder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    from tests.encoder.tiny_gguf import save_gguf

    file = save_gguf(scramble(llama(hidden_size=64, intermediate_size=96, head_dim=16)), tmp_path / "tiny.Q8_0.gguf")
    templates = ("--template", "{caption}", "--template", "the {caption}")
    given = ("--llm", str(file), "--reading", "score", "--reading", "layer:1", *templates, "--set", "max_tokens=64")
    found = json.loads(succeeds(capsys, "probe", *given, *SIZES, "--json"))
    assert len(found["rows"]) == 4
    assert f"--llm {file} " in found["recommended"]["commands"][0]
    file.write_bytes(b"GGML")
    assert "expected a GGUF file, found 4 bytes" in fails(capsys, "probe", *given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "llm: expected the folder or name of a decoder-only LLM, or that of a diffusion model"),
        (("--llm", "./none"), "LLM folder ./none: no such folder"),
        (("--diffusion", "./none"), "diffusion folder ./none: no such folder"),
        (("--diffusion", DIFFUSION, "--reading", "last"), "expected the folder or name of one, for readings"),
        (("--diffusion", DIFFUSION, "--set", "max_tokens=9"), "expected the folder or name of one, for max_tokens"),
        (("--llm", LLAMA, "--reading", "first"), "reading must be score, score_norm, last"),
        (("--llm", LLAMA, "--reading", "layer:9"), f"LLM {LLAMA}: reading is layer:9; expected layers from 0 to 5"),
        (("--llm", LLAMA, "--template", "no place"), "template must hold {caption} once"),
        (("--llm", LLAMA, "--template", "chat"), f"LLM {LLAMA}: template is 'chat', and the tokenizer has no chat"),
        (("--llm", LLAMA, "--set", "g=linear"), "g is 'linear' with reading='last'; expected 1.0"),
        (("--llm", LLAMA, "--set", "gee=1"), "unknown encoder setting gee"),
        (("--llm", LLAMA, "--reading", "score", "--set", "word_path=isolated"), "word_path is 'isolated'; expected"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    arguments: tuple[str | Path, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, "probe", *arguments)
