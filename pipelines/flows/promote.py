"""The promote flow: the candidate becomes the champion where it is better on the same prompts and seeds."""

from __future__ import annotations

from mlflow.entities.model_registry import ModelVersion

from infra.tracking.registry import (
    ROLLED_BACK,
    address_of,
    find_alias,
    find_champion,
    find_version,
    set_champion,
)
from infra.tracking.registry_names import SCHEME
from infra.tracking.run import client
from llmdiff.evaluation import Prompt
from llmdiff.sampling import load_pipeline
from pipelines.requests.promote import PromoteRequest, PromotionPolicy
from pipelines.runtime.adapter_source import Source, resolve_adapter
from pipelines.runtime.artifacts import show_text
from pipelines.runtime.progress import progress, quieten_loading
from pipelines.runtime.promotion_policy import prompts_hash, prompts_of, score_of
from pipelines.runtime.stage import stage, task

PREFIX = "promotion."
"""Beginning of the tags that hold a decision."""
POLICY = set(PromotionPolicy.model_fields)


class Decision(PromotionPolicy):
    """A decision whether a candidate becomes the champion, and its reason."""

    promoted: bool
    reason: str
    candidate: int
    champion: int | None = None
    """The version that it was compared with."""
    prompts_hash: str | None = None
    """Hash of the texts and seeds that both were scored on."""
    candidate_score: float | None = None
    champion_score: float | None = None


@stage("promote")
def promote_flow(request: PromoteRequest) -> Decision:
    """Make the candidate the champion if it is better by the policy's margin, or if there is no champion yet.

    A decision stays: asked again about the same two by the same policy, nothing is drawn.
    """
    policy = request.policy
    prompts = prompts_of(policy)
    of_prompts = prompts_hash(prompts)
    candidate, champion = find_version(f"{SCHEME}{request.name}@candidate"), find_champion(request.name)
    decision = cached_decision(candidate, champion, policy, of_prompts)
    if decision is None:
        eval_models = [version for version in (candidate, champion) if version is not None]
        sources = [resolve_adapter(address_of(each), request.llm, request.diffusion) for each in eval_models]
        scores = [score_version(source, policy, prompts) for source in sources]
        decision = decide(policy, of_prompts, eval_models, scores)
        record(candidate, decision)
    if decision.promoted:
        set_champion(candidate)
    show(decision)
    return decision


def cached_decision(
    candidate: ModelVersion, champion: ModelVersion | None, policy: PromotionPolicy, of_prompts: str
) -> Decision | None:
    """Return the decision where it needs no pictures; None where it does."""
    version = int(candidate.version)
    known = recorded(candidate)
    if ROLLED_BACK in candidate.tags:
        reason = f"version {version} was the champion and was rolled back at {candidate.tags[ROLLED_BACK]}"
        return Decision(**policy.model_dump(), promoted=False, reason=reason, candidate=version)
    if champion is not None and champion.version == candidate.version:
        reason = f"version {version} is the champion already"
        return known or Decision(**policy.model_dump(), promoted=True, reason=reason, candidate=version)
    opponent = None if champion is None else int(champion.version)
    if known is None or (known.champion, known.prompts_hash) != (opponent, of_prompts):
        return None
    return known if known.model_dump(include=POLICY) == policy.model_dump() else None


def is_pending(name: str, fingerprint: str) -> bool:
    """Return whether there is a candidate, of an encoder's encodings, that nobody has decided about yet."""
    candidate = find_alias("candidate", name)
    if candidate is None or candidate.tags.get("encoder_fingerprint") != fingerprint:
        return False
    return not {ROLLED_BACK, f"{PREFIX}reason"} & candidate.tags.keys()


def decide(policy: PromotionPolicy, of_prompts: str, eval_models: list[ModelVersion], scores: list[float]) -> Decision:
    """Compare the candidate's score with the champion's, where there is one."""
    candidate, *others = (int(each.version) for each in eval_models)
    facts = {**policy.model_dump(), "candidate": candidate, "prompts_hash": of_prompts, "candidate_score": scores[0]}
    what = f"{policy.what} {scores[0]:.3f}"
    if not others:
        return Decision(**facts, promoted=True, reason=f"version {candidate} is the first champion: {what}")
    gain = scores[0] - scores[1]
    better = gain > 0 and gain >= policy.margin - 1e-9  # a share is a count over prompts
    reason = f"version {candidate} is {'better' if better else 'not better'} than version {others[0]}: {what}"
    reason += f" against {scores[1]:.3f}, margin {policy.margin:g}"
    return Decision(**facts, promoted=better, reason=reason, champion=others[0], champion_score=scores[1])


@task("score version")
def score_version(source: Source, policy: PromotionPolicy, prompts: list[Prompt]) -> float:
    """Return the score of the adapter's pictures of the policy's prompts."""
    quieten_loading()
    with progress("score", len(prompts), "picture"):
        return score_of(policy, lambda: load_pipeline(source.diffusion, source.adapter, source.llm), prompts)


@task("record decision")
def record(candidate: ModelVersion, decision: Decision) -> None:
    """Write the decision on the version, as tags, and both scores as metrics of its run."""
    api = client()
    for key in Decision.model_fields:
        if f"{PREFIX}{key}" in candidate.tags:  # an earlier decision's
            api.delete_model_version_tag(candidate.name, candidate.version, f"{PREFIX}{key}")
    for key, value in decision.model_dump(exclude_none=True).items():
        api.set_model_version_tag(candidate.name, candidate.version, f"{PREFIX}{key}", str(value))
    for key, score in (("candidate", decision.candidate_score), ("champion", decision.champion_score)):
        if score is not None:
            api.log_metric(candidate.run_id, f"{PREFIX}{key}", score)


def recorded(version: ModelVersion) -> Decision | None:
    """Return the decision that `record` wrote; None where there is none, or not all of it."""
    tags = {key.removeprefix(PREFIX): value for key, value in version.tags.items() if key.startswith(PREFIX)}
    # an earlier version of the program wrote others
    known = {key: value for key, value in tags.items() if key in Decision.model_fields}
    return Decision.model_validate(known) if {"metric", "promoted", "reason", "candidate"} <= known.keys() else None


@task("show decision")
def show(decision: Decision) -> None:
    """Say it in the Prefect UI."""
    show_text(f"{'Promoted' if decision.promoted else 'Not promoted'}: {decision.reason}", key="promotion")
