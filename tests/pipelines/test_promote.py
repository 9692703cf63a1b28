from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.tracking.registry import adapter_tags, find_version, register_adapter, rollback
from infra.tracking.registry_names import MODEL
from infra.tracking.run import client
from pipelines.cli.main import main
from pipelines.flows import promote
from pipelines.requests.promote import PromoteRequest, PromotionPolicy
from tests.infra.tiny_adapter import make_adapter, make_base, make_store
from tests.pipelines.conftest import Server

CHAMPION = f"models:/{MODEL}@champion"


@pytest.fixture
def folder(tracking: Path, tmp_path: Path, in_process: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter, and a registry of the test's own."""
    monkeypatch.setenv("LLMDIFF_HOME", str(tracking.parent))
    store = tmp_path / "store"
    fingerprint, version = make_store(store, {"data/a.parquet": 4, "data/b.parquet": 3})
    facts = {"store": str(store), "store_version": version, "encoder_fingerprint": fingerprint}
    return make_adapter(tmp_path / "adapter", make_base(tmp_path / "sd"), **facts)


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The share that each version is given; those given are taken out of it."""
    given: dict[int, float] = {}

    def score_version(source: Any, policy: PromotionPolicy, prompts: Any) -> float:
        return given.pop(int(Path(source.adapter).name.removeprefix(MODEL).split("-")[1]))

    monkeypatch.setattr(promote, "score_version", score_version)
    return given


@pytest.fixture
def contest(folder: Path, shares: dict[int, float]) -> Callable[..., promote.Decision]:
    """Registers a version, and promotes it with these shares for it and the champion."""

    def run(*of: float, **policy: Any) -> promote.Decision:
        registered = register_adapter(folder, tags={})
        eval_models = [registered.version, *([champion()] if len(of) > 1 else [])]
        shares.update(zip(eval_models, of, strict=True))
        decision = promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
        assert not shares
        return decision

    return run


def test_the_better_one_becomes_the_champion_by_the_margin(contest: Callable[..., promote.Decision]) -> None:
    first = contest(0.25)
    assert (first.promoted, first.champion, first.candidate_score) == (True, None, 0.25)
    worse = contest(0.2, 0.25)
    same = contest(0.25, 0.25)
    little = contest(0.3, 0.25, margin=0.1)
    assert [each.promoted for each in (worse, same, little)] == [False] * 3
    assert champion() == 1
    assert "version 4 is not better than version 1: natural binding 0.300 against 0.250, margin 0.1" in little.reason
    exactly = contest(0.35, 0.25, margin=0.1)
    assert exactly.promoted
    assert champion() == 5


def test_decision_and_shares_are_on_the_version(contest: Callable[..., promote.Decision]) -> None:
    contest(0.25)
    decision = contest(0.5, 0.25, metric="relation", wording="template")
    tags = adapter_tags(f"models:/{MODEL}/2")
    found = {key.removeprefix("promotion."): value for key, value in tags.items() if key.startswith("promotion.")}
    assert found == {key: str(value) for key, value in decision.model_dump(exclude_none=True).items()}
    assert (found["candidate_score"], found["champion_score"], found["champion"]) == ("0.5", "0.25", "1")
    assert tags["previous_champion"] == "1"
    metrics = client().get_run(find_version(CHAMPION).run_id).data.metrics
    assert metrics == {"promotion.candidate": 0.5, "promotion.champion": 0.25}


def test_asked_again_nothing_is_drawn_and_nothing_changes(
    contest: Callable[..., promote.Decision], shares: dict[int, float]
) -> None:
    first = contest(0.25)
    assert promote.promote_flow(PromoteRequest()) == first
    kept = contest(0.2, 0.25)
    before = adapter_tags(f"models:/{MODEL}/2")
    assert promote.promote_flow(PromoteRequest()) == kept
    assert adapter_tags(f"models:/{MODEL}/2") == before
    shares.update({2: 0.5, 1: 0.4})
    # another policy: evaluated anew
    assert promote.promote_flow(PromoteRequest(policy=PromotionPolicy(scenes=50))).promoted


def test_what_was_cut_short_before_the_alias_moved_is_finished(
    contest: Callable[..., promote.Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    contest(0.25)
    with monkeypatch.context() as patch:
        patch.setattr(promote, "set_champion", lambda version: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            contest(0.5, 0.25)
    assert champion() == 1
    assert promote.promote_flow(PromoteRequest()).promoted
    assert champion() == 2


def test_what_was_rolled_back_is_not_promoted_again(contest: Callable[..., promote.Decision]) -> None:
    contest(0.25)
    contest(0.5, 0.25)
    assert rollback() == (2, 1)
    again = promote.promote_flow(PromoteRequest())
    assert not again.promoted
    assert "rolled back" in again.reason
    assert champion() == 1


def test_pictures_decide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="candidate: not in the registry sqlite:///.*mlflow.db: "):
        promote.promote_flow(PromoteRequest())
    register_adapter(folder, tags={})
    policy: dict[str, Any] = {"scenes": 2, "steps": 1, "metric": "colour"}
    assert promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy))).promoted
    register_adapter(folder, tags={})
    second = promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
    assert not second.promoted
    assert second.candidate_score == second.champion_score


def test_prompts_of_a_file_are_scored_by_a_vision_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.evaluation import metric_models

    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    metric = f"siglip={metric_models.siglip(tmp_path / 'siglip')}"
    policy: dict[str, Any] = {"prompts": str(tmp_path / "prompts.txt"), "metric": metric, "steps": 1}
    register_adapter(folder, tags={})
    first = promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
    assert first.promoted
    assert f"first champion: {metric} over {tmp_path / 'prompts.txt'} " in first.reason
    other = make_adapter(tmp_path / "other", tmp_path / "sd", seed=1)
    register_adapter(other, tags={})
    second = promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
    assert second.champion_score == pytest.approx(first.candidate_score, abs=1e-4)
    assert second.candidate_score != second.champion_score
    assert second.promoted == (second.candidate_score > second.champion_score)  # type: ignore[operator]
    (tmp_path / "prompts.txt").write_text("a red circle\na blue circle\n")
    scored: list[Any] = []
    monkeypatch.setattr(promote, "score_version", lambda *asked: scored.append(asked) or 0.5)
    register_adapter(folder, tags={})
    promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
    promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
    assert len(scored) == 2
    (tmp_path / "prompts.txt").write_text("a green circle\n")
    promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))
    assert len(scored) == 4


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            {"metric": "siglip"},
            r"metric\n.*expected one of colour, binding, relation, count for the shapes benchmark's",
        ),
        ({"prompts": "some.txt"}, r"metric\n.*expected one of siglip, siglip2, clip, clip-iqa for prompts of a file"),
        ({"prompts": "some.txt", "metric": "clip"}, "some.txt: no such file"),
    ],
)
def test_a_policy_that_scores_nothing_is_refused(folder: Path, policy: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        promote.promote_flow(PromoteRequest(policy=PromotionPolicy(**policy)))


def test_the_commands(
    folder: Path, shares: dict[int, float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = command(capsys)
    register_adapter(folder, tags={})
    shares[1] = 0.25
    assert run("promote") == "promoted: version 1 is the first champion: natural binding 0.250\n"
    register_adapter(folder, tags={"parent": f"models:/{MODEL}/1"})
    shares.update({2: 0.5, 1: 0.25})
    assert json.loads(run("promote", "--json"))["promoted"]
    text = run("lineage", "champion")
    for part in ("version: models:/llmdiff-adapter/2", "aliases: candidate, champion", "data: 2 files, 5 rows"):
        assert part in text
    assert text.count("data/a.parquet  hash of data/a.parquet     3") == 2  # of the version and of its parent
    found = json.loads(run("lineage", "2", "--json"))
    assert found["data"]["files"] == [
        {"source": "data/a.parquet", "hash": "hash of data/a.parquet", "rows": 3},
        {"source": "data/b.parquet", "hash": "hash of data/b.parquet", "rows": 2},
    ]
    assert found["parent"]["version"] == f"models:/{MODEL}/1"
    assert found["store"]["version"] == found["parent"]["store"]["version"]
    assert set(found["base"]) == {"name", "content"}
    assert run("rollback") == "champion: version 1, before: version 2\n"
    with pytest.raises(SystemExit):
        main(["rollback"])
    assert "version 1 is the first champion" in capsys.readouterr().err


def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


def champion() -> int:
    return int(find_version(CHAMPION).version)
