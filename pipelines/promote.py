"""The promote flow: the candidate becomes the champion where it is better on the same prompts and seeds."""

from __future__ import annotations

from typing import Literal

from mlflow.entities.model_registry import ModelVersion
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from infra.registry import MODEL, ROLLED_BACK, SCHEME, crown, find_alias, find_champion, find_version
from infra.tracking import client
from pipelines.generate import Source, load_pipeline, resolve_adapter
from pipelines.progress import advance, progress

Metric = Literal["colour", "binding", "relation", "count"]
Wording = Literal["template", "natural", "unseen_wording"]
PREFIX = "promotion."
"""Of the tags that hold a decision."""


class Rule(BaseModel):
    """What better means; see `promote_flow`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: Metric = "binding"
    """Of the embedded world's facts, the one that counts."""
    wording: Wording = "natural"
    """Of the prompts."""
    margin: float = Field(default=0.0, ge=0)
    """How much greater the candidate's share must be; with 0, greater at all."""
    scenes: int = Field(default=200, ge=1)
    """Held-out scenes, each a prompt."""
    seed: int = 0
    """Of the scenes, their captions and the noise."""
    steps: int = Field(default=20, ge=1)
    """Of sampling."""
    guidance: float = 3.0
    """Classifier-free guidance scale."""


RULE = set(Rule.model_fields)


class Decision(Rule):
    """Whether a candidate became the champion, and why; the shares are of prompts for which the metric holds."""

    promoted: bool
    reason: str
    candidate: int
    champion: int | None = None
    """The version that it was compared with."""
    candidate_share: float | None = None
    champion_share: float | None = None


@flow(name="promote")
def promote_flow(
    name: str = MODEL,
    metric: Metric = "binding",
    wording: Wording = "natural",
    margin: float = 0.0,
    scenes: int = 200,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 3.0,
    llm: str | None = None,
    diffusion: str | None = None,
) -> Decision:
    """Makes the candidate the champion if it is better by the margin, or if there is none yet.

    A decision stays: asked again about the same two by the same rule, nothing is drawn.

    Args:
        name: registered model.
        metric: of the embedded world's facts, the one that counts.
        wording: of the prompts.
        margin: how much greater the candidate's share must be; with 0, greater at all.
        scenes: held-out scenes, each a prompt.
        seed: of the scenes, their captions and the noise.
        steps: of sampling.
        guidance: classifier-free guidance scale.
        llm: folder or name of the LLM; None takes what was recorded with each version.
        diffusion: folder or name of the base model; None takes the one that each was trained on.
    """
    rule = Rule(metric=metric, wording=wording, margin=margin, scenes=scenes, seed=seed, steps=steps, guidance=guidance)
    candidate, champion = find_version(f"{SCHEME}{name}@candidate"), find_champion(name)
    decision = settled(candidate, champion, rule)
    if decision is None:
        contenders = [version for version in (candidate, champion) if version is not None]
        sources = [resolve_adapter(f"{SCHEME}{name}/{each.version}", llm, diffusion) for each in contenders]
        decision = decide(rule, contenders, [judge(source, rule) for source in sources])
        record(candidate, decision)
    if decision.promoted:
        crown(candidate)
    show(decision)
    return decision


def settled(candidate: ModelVersion, champion: ModelVersion | None, rule: Rule) -> Decision | None:
    """The decision where it needs no pictures; None where it does."""
    version = int(candidate.version)
    known = recorded(candidate)
    if ROLLED_BACK in candidate.tags:
        reason = f"version {version} was the champion and was rolled back at {candidate.tags[ROLLED_BACK]}"
        return Decision(**rule.model_dump(), promoted=False, reason=reason, candidate=version)
    if champion is not None and champion.version == candidate.version:
        reason = f"version {version} is the champion already"
        return known or Decision(**rule.model_dump(), promoted=True, reason=reason, candidate=version)
    opponent = None if champion is None else int(champion.version)
    same = known is not None and known.champion == opponent and known.model_dump(include=RULE) == rule.model_dump()
    return known if same else None


def undecided(name: str, fingerprint: str) -> bool:
    """Whether there is a candidate, of an encoder's encodings, of which nobody has decided yet."""
    candidate = find_alias("candidate", name)
    if candidate is None or candidate.tags.get("encoder_fingerprint") != fingerprint:
        return False
    return not {ROLLED_BACK, f"{PREFIX}reason"} & candidate.tags.keys()


def decide(rule: Rule, contenders: list[ModelVersion], shares: list[float]) -> Decision:
    """Compares the candidate's share with the champion's, where there is one."""
    candidate, *others = (int(each.version) for each in contenders)
    what = f"{rule.wording} {rule.metric} {shares[0]:.3f}"
    if not others:
        reason = f"version {candidate} is the first champion: {what}"
        return Decision(
            **rule.model_dump(), promoted=True, reason=reason, candidate=candidate, candidate_share=shares[0]
        )
    gain = shares[0] - shares[1]
    better = gain > 0 and gain >= rule.margin - 1e-9  # shares are counts over prompts
    verdict = "better" if better else "not better"
    return Decision(
        **rule.model_dump(),
        promoted=better,
        reason=f"version {candidate} is {verdict} than version {others[0]}: {what} against {shares[1]:.3f}, "
        f"margin {rule.margin:g}",
        candidate=candidate,
        champion=others[0],
        candidate_share=shares[0],
        champion_share=shares[1],
    )


@task(name="judge version", cache_policy=NO_CACHE)
def judge(source: Source, rule: Rule) -> float:
    """The share of the rule's prompts for which its metric holds in the adapter's pictures."""
    from llmdiff.evaluation import evaluate, held_out_prompts

    prompts = [prompt for prompt in held_out_prompts(rule.scenes, rule.seed) if prompt.category == rule.wording]
    with progress("judge", len(prompts), "picture"):
        pipe = load_pipeline(source, True)
        found = evaluate(pipe, prompts, steps=rule.steps, guidance=rule.guidance, progress=advance)
    return float(found.sample(rule.metric, rule.wording).mean())


@task(name="record decision", cache_policy=NO_CACHE)
def record(candidate: ModelVersion, decision: Decision) -> None:
    """Writes the decision on the version, as tags, and both shares as metrics of its run."""
    api = client()
    for key in Decision.model_fields:
        if f"{PREFIX}{key}" in candidate.tags:  # an earlier decision's
            api.delete_model_version_tag(candidate.name, candidate.version, f"{PREFIX}{key}")
    for key, value in decision.model_dump(exclude_none=True).items():
        api.set_model_version_tag(candidate.name, candidate.version, f"{PREFIX}{key}", str(value))
    for key, share in (("candidate", decision.candidate_share), ("champion", decision.champion_share)):
        if share is not None:
            api.log_metric(candidate.run_id, f"{PREFIX}{key}", share)


def recorded(version: ModelVersion) -> Decision | None:
    """The decision that `record` wrote; None where there is none, or not all of it."""
    tags = {key.removeprefix(PREFIX): value for key, value in version.tags.items() if key.startswith(PREFIX)}
    return Decision.model_validate(tags) if {*RULE, "promoted", "reason", "candidate"} <= tags.keys() else None


@task(name="show decision", cache_policy=NO_CACHE)
def show(decision: Decision) -> None:
    """Says it in the Prefect UI."""
    create_markdown_artifact(f"{'Promoted' if decision.promoted else 'Not promoted'}: {decision.reason}", "promotion")
