"""The retrain flow: encode what is new, train on from the champion where no version has seen it, promote or not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from infra.tracking.coverage import unseen_files
from infra.tracking.registry import MODEL, Registered, address_of, find_champion
from llmdiff.data.sources import ReadinessPolicy, scan, signature, source_files
from llmdiff.encoder import EncoderConfig
from llmdiff.folders import check_base, check_llm
from llmdiff.training.config import TrainSettings
from pipelines.flows.encode import encode_flow
from pipelines.flows.promote import Decision, is_pending, promote_flow
from pipelines.flows.register import register_flow
from pipelines.flows.train import train_flow
from pipelines.runtime.promotion_policy import PromotionPolicy, prompts_of
from pipelines.runtime.scan_cache import ScanRecord, keep, model_signature, recall, scan_cache_path
from storage import EncodingStore
from storage.locks.mutex import job_mutex

Outcome = Literal["nothing to do", "busy", "promoted", "not promoted"]
SHOWN = 5  # files that a line names


class Found(BaseModel):
    """What a look at the data found, and what encoding them did."""

    model_config = ConfigDict(frozen=True)

    store_version: int
    fingerprint: str
    samples: int = 0
    """Encoded now."""
    unfinished: dict[str, str] = {}
    """Files that are being written, and how that was told: left for the next time."""
    broken: dict[str, str] = {}
    """Files that can't be read, and why; looked into again once they change."""


class RetrainResult(BaseModel):
    """What a retrain did, and why."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    reason: str
    found: Found | None = None
    """None where another retrain was at work."""
    unseen: list[str] = []
    """Files that no version had been trained on."""
    parent: str | None = None
    """The version that training went on from."""
    version: int | None = None
    """The version that was registered."""
    decision: Decision | None = None
    seconds: float = 0.0


@flow(name="retrain")
def retrain_flow(
    data: str,
    store: str,
    diffusion: str,
    llm: str | None = None,
    encoder: Literal["llm", "base"] = "llm",
    name: str = MODEL,
    processes: Annotated[int, Field(ge=1)] = 1,
    encoder_settings: EncoderConfig = EncoderConfig(),
    settings: TrainSettings = TrainSettings(),
    ray: str | None = None,
    start: Literal["champion", "scratch"] = "champion",
    growing: ReadinessPolicy = ReadinessPolicy(),
    rule: PromotionPolicy = PromotionPolicy(),
    wait: Annotated[float, Field(ge=0)] = 0.0,
) -> RetrainResult:
    """Brings the registry up to date with the data. One at a time on a store: another one waits, or ends as busy.

    Cut short anywhere, the next one finishes what is left: what is in the store and in no version is trained on, and a
    candidate that nobody has decided about is judged.

    Args:
        data: file or folder of captions with pictures, which grows.
        store: folder of the encoding store.
        diffusion: folder or name of the base diffusion model.
        llm: folder or name of the decoder-only LLM.
        encoder: "llm", or "base" for the control.
        name: registered model.
        processes: of training, on this machine.
        encoder_settings: of the LLM's encoder; "base" has none.
        settings: of training: steps, batch size, learning rate, ...
        ray: address of a Ray cluster to encode on, see `pipelines.flows.encode.encode_flow`.
        start: training goes on from the champion's weights, where there is a champion, or from scratch.
        growing: how files that are still being written are told.
        rule: by which the candidate is compared with the champion.
        wait: seconds to wait for another retrain on the store to end.
    """
    began = time.perf_counter()
    check(data, diffusion, llm, settings, rule)
    with job_mutex(EncodingStore.open_or_create(store).path, "retrain", wait) as holder:
        if holder is not None:
            return ended(RetrainResult(outcome="busy", reason=f"another retrain is at work: {holder}"), began)
        found = encode_new(data, store, diffusion, llm, encoder, encoder_settings, growing, ray)
        unseen = [file.source for file in unseen_files(name, store, found.store_version, found.fingerprint)]
        parent = champion_address(name) if unseen and start == "champion" else None
        made = None
        if unseen:
            made = train_on(found, parent, store, diffusion, llm, encoder, name, processes, settings)
        decision = None
        if made is not None or is_pending(name, found.fingerprint):
            decision = promote_flow(name, **rule.model_dump())
        return ended(summed_up(found, unseen, parent, made, decision), began)


def check(data: str, diffusion: str, llm: str | None, settings: TrainSettings, rule: PromotionPolicy) -> None:
    """Refuses what can be refused before anything is made."""
    source_files(data, may_be_empty=True)
    check_base(diffusion, "vae", "unet", "scheduler")
    if llm is not None:
        check_llm(llm)
    prompts_of(rule)
    if settings.start_from is not None:
        raise ValueError('settings.start_from: expected none, for it follows from start, "champion" or "scratch"')


def encode_new(
    data: str,
    store: str,
    diffusion: str,
    llm: str | None,
    encoder: Literal["llm", "base"],
    settings: EncoderConfig,
    growing: ReadinessPolicy,
    ray: str | None,
) -> Found:
    """Encodes what the store does not hold; data and models that are as they were last time are not read again."""
    models = [model_signature(model) for model in (diffusion, llm)]
    root, looked = Path(data), scan(Path(data), source_files(data, may_be_empty=True), growing)
    now = signature(root, [root / name if root.is_dir() else root for name in looked.unfinished])
    path = scan_cache_path(
        {"data": data, "store": store, "encoder": encoder, "settings": settings, "models": (diffusion, llm)}
    )
    last, opened = recall(path), EncodingStore.open(store)
    if last is not None and (last.data, last.models) == (now, models) and last.store_version <= opened.version:
        return Found(
            store_version=opened.version,
            fingerprint=last.fingerprint,
            unfinished=looked.unfinished,
            broken=last.broken,
        )
    done = encode_flow(data, store, diffusion, llm, encoder, settings=settings, ray=ray, growing=growing)
    if "no_answer" not in done.rejected and done.unfinished.keys() == looked.unfinished.keys():
        look = ScanRecord(
            data=now,
            models=models,
            fingerprint=done.fingerprint,
            store_version=done.store_version,
            broken=done.unreadable,
        )
        keep(path, look)
    return Found(
        store_version=done.store_version,
        fingerprint=done.fingerprint,
        samples=done.samples,
        unfinished=done.unfinished,
        broken=done.unreadable,
    )


def champion_address(name: str) -> str | None:
    """The champion as a version's address; None where there is none yet."""
    champion = find_champion(name)
    return None if champion is None else address_of(champion)


def train_on(
    found: Found,
    parent: str | None,
    store: str,
    diffusion: str,
    llm: str | None,
    encoder: Literal["llm", "base"],
    name: str,
    processes: int,
    settings: TrainSettings,
) -> Registered:
    """Trains on all that the store holds now, and registers the result; a run that was cut short goes on."""
    started = settings.model_copy(update={"start_from": parent})
    trained = train_flow(
        store, diffusion, None, encoder, found.fingerprint, found.store_version, processes, started, llm
    )
    return register_flow(trained.adapter, trained.run_id, name, llm=llm)


def summed_up(
    found: Found, unseen: list[str], parent: str | None, made: Registered | None, decision: Decision | None
) -> RetrainResult:
    """The result, with all that was done in one line."""
    if decision is None:
        done = f"nothing to do: every sample in version {found.store_version} of the store has been trained on"
    else:
        done = decision.reason
    if made is not None:
        source = f"on from {parent}" if parent is not None else "from scratch"
        done = f"{found.samples} new samples, {named(unseen)} new to all versions: trained {source}; {done}"
    for what, files in (("left for the next time", found.unfinished), ("broken", found.broken)):
        done += f"; {what}: {named(list(files))}" if files else ""
    return RetrainResult(
        outcome="nothing to do" if decision is None else "promoted" if decision.promoted else "not promoted",
        reason=done,
        found=found,
        unseen=unseen,
        parent=parent,
        version=None if made is None else made.version,
        decision=decision,
    )


def named(files: list[str]) -> str:
    """Some files by name, and how many more there are."""
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more


def ended(result: RetrainResult, began: float) -> RetrainResult:
    """Says how it ended, in the log and in the Prefect UI."""
    get_run_logger().info(result.reason)
    show(result)
    return result.model_copy(update={"seconds": time.perf_counter() - began})


@task(name="show retrain", cache_policy=NO_CACHE)
def show(result: RetrainResult) -> None:
    """Sums it up in the Prefect UI."""
    found = result.found
    files = {} if found is None else {**found.unfinished, **found.broken}
    lines = [f"{result.outcome}: {result.reason}", *(f"- `{name}`: {why}" for name, why in files.items())]
    create_markdown_artifact("\n".join(lines), key="retrain")
