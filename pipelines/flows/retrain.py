"""The retrain flow: encode what is new, train on from the champion where no version has seen it, promote or not."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infra.tracking.coverage import unseen_files
from infra.tracking.lineage import DataFile
from infra.tracking.registry import Registered, address_of, find_champion
from llmdiff.data.sources import check_data, list_data, scan, signature
from llmdiff.model_files.base_folders import check_base
from llmdiff.model_files.model_folders import check_llm
from pipelines.flows.encode import encode_flow
from pipelines.flows.promote import Decision, is_pending, promote_flow
from pipelines.flows.register import register_flow
from pipelines.flows.train import train_flow
from pipelines.requests.retrain import RetrainRequest
from pipelines.runtime.artifacts import show_text
from pipelines.runtime.encode.scan_cache import ScanRecord, keep, model_signature, recall, scan_cache_path
from pipelines.runtime.init_checkpoint import check_same_encodings
from pipelines.runtime.promotion_policy import prompts_of
from pipelines.runtime.recording import run_logger
from pipelines.runtime.stage import stage, task
from storage import EncodingStore
from storage.locks.mutex import job_mutex

Outcome = Literal["nothing to do", "busy", "promoted", "not promoted"]
SHOWN = 5  # files that a line names


class EncodedData(BaseModel):
    """Findings of a scan of the data, and the result of encoding them."""

    model_config = ConfigDict(frozen=True)

    store_version: int
    fingerprint: str
    samples: int = 0
    """Samples encoded now."""
    unfinished: dict[str, str] = {}
    """Files that are being written, and what shows it: left for the next time."""
    broken: dict[str, str] = {}
    """Files that can't be read, and why; looked into again once they change."""


class RetrainResult(BaseModel):
    """The result of a retraining, and its reason."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    reason: str
    found: EncodedData | None = None
    """What was found in the data; None where another retrain was at work."""
    unseen: list[str] = []
    """Files that no version had been trained on."""
    parent: str | None = None
    """The version that training went on from."""
    version: int | None = None
    """The version that was registered."""
    decision: Decision | None = None
    seconds: float = 0.0


@stage("retrain")
def retrain_flow(request: RetrainRequest) -> RetrainResult:
    """Bring the registry up to date with the data. One at a time on a store: another one waits, or ends as busy.

    Cut short anywhere, the next one finishes what is left: what is in the store and in no version is trained on, and a
    candidate that nobody has decided about is evaluated.
    """
    began = time.perf_counter()
    check(request)
    with job_mutex(EncodingStore.open_or_create(request.store).path, "retrain", request.wait) as mutex:
        if not mutex.is_ours:
            return ended(RetrainResult(outcome="busy", reason=f"another retrain is at work: {mutex.taken_by}"), began)
        found = encode_new(request)
        unseen = [file.source for file in unseen_in(request, found)]
        initial = champion_address(request.name) if unseen and request.start == "champion" else None
        made = train_on(request, found, initial) if unseen else None
        decision = None
        if made is not None or is_pending(request.name, found.fingerprint):
            decision = promote_flow(request.to_promote())
        return ended(summed_up(found, unseen, initial, made, decision), began)


def check(request: RetrainRequest) -> None:
    """Refuse what can be refused before anything is made."""
    request.to_encode().check_named(pictures=False)
    check_data(request.data, may_be_empty=True)
    check_base(request.diffusion, "vae", "unet", "scheduler")
    if request.llm is not None:
        check_llm(request.llm)
    prompts_of(request.policy)
    if request.settings.start_from is not None:
        raise ValueError('settings.start_from: expected none, for it follows from start, "champion" or "scratch"')


def encode_new(request: RetrainRequest) -> EncodedData:
    """Encode what the store does not hold; data and models that are as they were last time are not read again."""
    models = [model_signature(model) for model in (request.diffusion, request.llm)]
    listed = list_data(request.data, may_be_empty=True, columns=request.columns)
    root, found = listed.root, scan(listed.root, listed.files, request.readiness)
    now = signature(root, [root / name if root.is_dir() else root for name in found.unfinished])
    path = scan_cache_path(request.to_encode())
    last, store = recall(path), EncodingStore.open(request.store)
    same = last is not None and (last.data, last.models, last.store_id) == (now, models, store.id)
    if last is not None and same and last.store_version <= store.version:
        return EncodedData(
            store_version=store.version,
            fingerprint=last.fingerprint,
            unfinished=found.unfinished,
            broken=last.broken,
        )
    if request.encoder == "llm" and request.start == "champion" and (champion := champion_address(request.name)):
        check_same_encodings(champion, request.encoder_settings)
    done = encode_flow(request.to_encode())
    if "no_answer" not in done.rejected and done.unfinished.keys() == found.unfinished.keys():
        keep(
            path,
            ScanRecord(
                data=now,
                models=models,
                fingerprint=done.fingerprint,
                store_id=store.id,
                store_version=done.store_version,
                broken=done.unreadable,
            ),
        )
    return EncodedData(
        store_version=done.store_version,
        fingerprint=done.fingerprint,
        samples=done.samples,
        unfinished=done.unfinished,
        broken=done.unreadable,
    )


def unseen_in(request: RetrainRequest, found: EncodedData) -> list[DataFile]:
    """Return the files that no version was trained on."""
    return unseen_files(request.name, request.store, found.store_version, found.fingerprint)


def champion_address(name: str) -> str | None:
    """Return the champion as a version's address; None where there is none yet."""
    champion = find_champion(name)
    return None if champion is None else address_of(champion)


def train_on(request: RetrainRequest, found: EncodedData, initial: str | None) -> Registered:
    """Train on all that the store holds now, and register the result; a run that was cut short goes on."""
    trained = train_flow(request.to_train(found.fingerprint, found.store_version, initial))
    return register_flow(request.to_register(trained.adapter, trained.run_id))


def summed_up(
    found: EncodedData, unseen: list[str], initial: str | None, made: Registered | None, decision: Decision | None
) -> RetrainResult:
    """Return the result, with all that was done in one line."""
    if decision is None:
        done = f"nothing to do: every sample in version {found.store_version} of the store has been trained on"
    else:
        done = decision.reason
    if made is not None:
        source = f"on from {initial}" if initial is not None else "from scratch"
        done = f"{found.samples} new samples, {named(unseen)} new to all versions: trained {source}; {done}"
    for what, files in (("left for the next time", found.unfinished), ("broken", found.broken)):
        done += f"; {what}: {named(list(files))}" if files else ""
    return RetrainResult(
        outcome="nothing to do" if decision is None else "promoted" if decision.promoted else "not promoted",
        reason=done,
        found=found,
        unseen=unseen,
        parent=initial,
        version=None if made is None else made.version,
        decision=decision,
    )


def named(files: list[str]) -> str:
    """Return some files by name, and how many more there are."""
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more


def ended(result: RetrainResult, began: float) -> RetrainResult:
    """Say how it ended, in the log and in the Prefect UI."""
    run_logger().info(result.reason)
    show(result)
    return result.model_copy(update={"seconds": time.perf_counter() - began})


@task("show retrain")
def show(result: RetrainResult) -> None:
    """Sum it up in the Prefect UI."""
    found = result.found
    files = {} if found is None else {**found.unfinished, **found.broken}
    lines = [f"{result.outcome}: {result.reason}", *(f"- `{name}`: {why}" for name, why in files.items())]
    show_text("\n".join(lines), key="retrain")
