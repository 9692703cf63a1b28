"""The encode flow: captions and pictures of a data set, shard by shard, into an encoding store."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import Task, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from llmdiff.data.encode import ShardReport, encode_captions, encode_shard
from llmdiff.data.sources import ReadinessPolicy, Scan, SourceShard, scan, shards_of, source_files
from llmdiff.encoder import EncoderConfig
from pipelines.runtime.encode_job import EncodeJob, loaded_encoders, make_job
from pipelines.runtime.executors import Workers, absolute, absolute_model, lent_gpu, limited, may_pass, workers
from pipelines.runtime.progress import advance, progress
from storage import EncodingStore


class EncodeResult(BaseModel):
    """What an encode run did: over readable shards, ``rows == known + samples + sum(rejected.values())``."""

    model_config = ConfigDict(frozen=True)

    store: str
    store_version: int
    fingerprint: str
    rows: int
    known: int
    samples: int
    rejected: dict[str, int]
    captions: int
    tokens: int
    latents: int
    truncated: int
    bytes_per_caption: float = Field(description="of the encodings written by this run; 0 where it wrote none")
    shards: list[ShardReport]
    unreadable: dict[str, str] = Field(description="shards that could not be read, and why")
    unfinished: dict[str, str] = Field(default={}, description="files left alone because they are being written")
    seconds: float


@flow(name="encode", validate_parameters=True)
def encode_flow(
    data: str,
    store: str,
    diffusion: str | None = None,
    llm: str | None = None,
    encoder: Literal["llm", "base"] = "llm",
    size: Annotated[int, Field(ge=1)] | None = None,
    settings: EncoderConfig = EncoderConfig(),
    captions: list[str] | None = None,
    min_side: Annotated[int, Field(ge=1)] | None = None,
    ray: str | None = None,
    limit: str | None = None,
    growing: ReadinessPolicy | None = None,
) -> EncodeResult:
    """Encodes what the store does not hold yet: a second run encodes nothing.

    A shard is the unit of retry, of concurrency and of commit.

    Args:
        data: file or folder that `llmdiff.data.sources.open_source` takes.
        store: folder of the encoding store; made if it is missing.
        diffusion: folder or name of the Stable Diffusion model whose autoencoder makes the latents; captions alone need
            none.
        llm: folder or name of the decoder-only LLM.
        encoder: "llm", or "base" for the diffusion model's own text features (the control).
        size: side of the pictures in pixels; None is what the diffusion model was made for.
        settings: of the LLM's encoder; "base" has none.
        captions: more captions to encode, without pictures: validation prompts.
        min_side: the fewest pixels of a picture's shorter side; None is a quarter of the size.
        ray: address of a Ray cluster that encodes shards at once, "local" for one on this machine; None is this
            process. Its machines must see data, store and models under the same paths.
        limit: tag of a Prefect concurrency limit; a shard has one of its slots while it is encoded.
        growing: how files that are being written are told, to be left alone; data without a usable row are then no
            error. None takes every file as whole.
    """
    start = time.perf_counter()
    if ray is not None:
        data, store = absolute(data), absolute(store)
        diffusion, llm = absolute_model(diffusion), absolute_model(llm)
    looked = look_at(data, growing)
    shards = shards_of(looked.whole)
    pictures = any(map(_has_pictures, shards))
    job = make_job(store, diffusion, llm, encoder, size, settings, min_side, pictures)
    encode = limited(encode_source, limit)
    with progress("encode", sum(map(_rows, shards)), "row") as work, workers(ray) as run:
        ((_, prepared),) = run(prepare_store, job, [captions or []])
        fingerprint = prepared()
        work.count_from(0)  # the time left is of rows, without what the models took to load
        reports, unreadable = encode_all(run, encode, job, shards, remote=ray is not None)
    loaded_encoders.cache_clear()
    if unreadable and not reports and growing is None:
        raise ValueError("; ".join(unreadable.values()))
    result = report(job, fingerprint, reports, unreadable, looked.unfinished, time.perf_counter() - start)
    if growing is None and not any(shard.rows - shard.known_bad - shard.rejected.total() for shard in reports):
        raise ValueError(nothing_usable(data, result))
    return result


def look_at(data: str, growing: ReadinessPolicy | None) -> Scan:
    """The files of the data, apart from those that are being written; all of them where nobody says how to tell."""
    files = source_files(data, may_be_empty=growing is not None)
    return Scan(files, {}) if growing is None else scan(Path(data), files, growing)


def encode_all(
    run: Workers, encode: Task[..., ShardReport], job: EncodeJob, shards: list[SourceShard], remote: bool
) -> tuple[list[ShardReport], dict[str, str]]:
    """What became of the shards, in their order, and why some could not be read; `remote` tasks can't move the bar."""
    reports, unreadable = {}, {}
    for shard, ended in run(encode, job, shards):
        try:
            reports[shard.name] = ended()
        except ValueError as error:
            unreadable[shard.name] = str(error)
        else:
            advance(reports[shard.name].rows * remote)
    return [reports[shard.name] for shard in shards if shard.name in reports], unreadable


@task(name="prepare store", cache_policy=NO_CACHE)
def prepare_store(job: EncodeJob, captions: list[str]) -> str:
    """Loads the models, registers them in the store, encodes the captions without pictures; returns the fingerprint."""
    encoders = loaded_encoders(job.model_dump_json(), lent_gpu())
    store = EncodingStore.open(job.store)
    for one in encoders.of_captions:
        encode_captions(store, one.fingerprint, one.encoder, captions)
    return encoders.fingerprint


@task(
    name="encode shard",
    task_run_name="encode {shard.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 60],
    retry_condition_fn=may_pass,
)
def encode_source(job: EncodeJob, shard: SourceShard) -> ShardReport:
    """Encodes one shard and commits it. Idempotent: a row that is in the store is left alone."""
    encoders = loaded_encoders(job.model_dump_json(), lent_gpu())
    done = encode_shard(EncodingStore.open(job.store), shard, encoders, advance)
    get_run_logger().info(
        "%s: %d rows, %d new, %d rejected", done.source, done.rows, done.samples, done.rejected.total()
    )
    return done


@task(name="report", cache_policy=NO_CACHE)
def report(
    job: EncodeJob,
    fingerprint: str,
    reports: list[ShardReport],
    unreadable: dict[str, str],
    unfinished: dict[str, str],
    seconds: float,
) -> EncodeResult:
    """Adds the shards up, and shows them as a table in the Prefect UI."""
    rejected: Counter[str] = sum((shard.rejected for shard in reports), Counter())
    totals = {
        name: sum(getattr(shard, name) for shard in reports)
        for name in ("rows", "known", "samples", "captions", "tokens", "latents", "truncated")
    }
    store = EncodingStore.open(job.store)
    rows: list[dict[str, Any]] = [
        {"shard": s.source, "rows": s.rows, "known": s.known, "new": s.samples, "rejected": counted(s.rejected)}
        for s in reports
    ] + [{"shard": name, "error": reason} for name, reason in (unreadable | unfinished).items()]
    create_table_artifact(rows, key="encode-shards", description=f"Shards encoded into {job.store}")
    return EncodeResult(
        store=job.store,
        store_version=store.version,
        fingerprint=fingerprint,
        rejected=dict(rejected),
        bytes_per_caption=encoding_bytes(store, fingerprint) * totals["tokens"] / max(1, totals["captions"]),
        shards=reports,
        unreadable=unreadable,
        unfinished=unfinished,
        seconds=seconds,
        **totals,
    )


def counted(rejected: dict[str, int]) -> str:
    """Rejects in words: how many for each reason."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))


def encoding_bytes(store: EncodingStore, fingerprint: str) -> int:
    """Bytes of one token's encoding."""
    description = store.fingerprints()[fingerprint]
    hidden = description.get("hidden_size") or description["llm"]["hidden_size"]
    return 2 * int(hidden) * int(description.get("bands", 1))


def nothing_usable(data: str, result: EncodeResult) -> str:
    """One line that says why no row of the data is of any use."""
    examples = [example for shard in result.shards for example in shard.examples]
    reasons = [*result.unreadable.values(), *examples[:1]]
    if result.rows:
        reasons.append(f"`llmdiff store rejects {result.store}` lists them")
    return "; ".join([f"{data}: expected usable rows, found {result.rows} rows and none usable", *reasons])


def _rows(shard: SourceShard) -> int:
    """Rows for the bar; an unreadable shard has none, and says why when its turn comes."""
    try:
        return shard.count
    except ValueError:
        return 0


def _has_pictures(shard: SourceShard) -> bool:
    """Whether it needs the autoencoder; an unreadable shard does not."""
    try:
        return shard.has_pictures
    except ValueError:
        return False
