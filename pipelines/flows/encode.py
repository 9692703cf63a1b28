"""The encode flow: captions and pictures of a data set, shard by shard, into an encoding store."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

from prefect import Task, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from llmdiff.data.encode import ShardReport, encode_captions, encode_shard
from llmdiff.data.encode.data_set import LeftRows, find_left, note_sources
from llmdiff.data.encode.pipeline import ahead
from llmdiff.data.rejects import printable
from llmdiff.data.remote import is_remote, shown
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources import Listing, Scan, SourceShard, list_data, scan, shards_of
from llmdiff.data.sources.kohya import folder_repeats, in_words
from llmdiff.data.sources.leftovers import unnamed_pictures
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode_checks import check_pictures
from pipelines.runtime.encode_job import EncodeJob, loaded_encoders, make_job
from pipelines.runtime.encode_lines import found_lines
from pipelines.runtime.executors import Workers, absolute, absolute_model, lent_gpu, limited, may_pass, workers
from pipelines.runtime.progress import advance, progress
from pipelines.runtime.row_counts import count_rows, keep_counts, recall_counts
from pipelines.runtime.stage import stage
from storage import EncodingStore

SHOWN = 10
"""Lines about what is not read."""


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
    repeated: int = Field(default=0, description="of the known rows, those found now by their picture and caption")
    replaced: int = Field(default=0, description="samples taken out of the newest version: their rows were edited")
    missing: int | None = Field(default=0, description="samples whose rows left the data; None where that is not known")
    missing_rows: list[str] = Field(default=[], description="the first of them; or why their number is not known")
    unreadable: dict[str, str] = Field(description="shards that could not be read, and why")
    unfinished: dict[str, str] = Field(default={}, description="files left alone because they are being written")
    passed_over: dict[str, str] = Field(default={}, description="what looks like data and is not read, and why")
    seconds: float


@stage("encode")
def encode_flow(request: EncodeRequest) -> EncodeResult:
    """Encode what the store does not hold yet: a second run encodes nothing.

    A shard is the unit of retry, of concurrency and of commit.
    """
    start = time.perf_counter()
    request = reachable(request)
    listed, found = look_at(request)
    shards = shards_of(found.whole, request.columns)
    recall_counts(shards)
    pictures = any(each(_has_pictures, shards, is_remote(request.data)))
    job = make_job(request, pictures)
    to_do, broken = count_rows(request, shards)
    unnamed = {} if found.unfinished else unnamed_pictures(listed.pictures, shards)
    announce(shards, listed.passed_over | unnamed | broken)
    check_pictures(request, pictures, to_do.total != 0)
    encode = limited(encode_source, request.limit)
    with progress("encode", to_do.total, to_do.unit) as work, workers(request.ray, request.processes) as run:
        ((_, prepared),) = run(prepare_store, job, [request.captions or []])
        fingerprint = prepared()
        work.count_from(0)  # the time left is of rows, without what the models took to load
        reports, unreadable = encode_all(run, encode, job, shards, fingerprint, to_do.sizes)
    loaded_encoders.cache_clear()
    if unreadable and not reports and request.readiness is None:
        raise ValueError("; ".join(unreadable.values()))
    left = {"unreadable": unreadable, "unfinished": found.unfinished, "passed_over": listed.passed_over}
    left["unnamed"] = unnamed
    result = report(job, fingerprint, reports, left, time.perf_counter() - start)
    if request.readiness is None and not any(map(_usable, reports)):
        raise ValueError(nothing_usable(shown(request.data), result))
    return result


def reachable(request: EncodeRequest) -> EncodeRequest:
    """Return the request with paths as the processes of a Ray cluster know them, where there is one."""
    if request.ray is None:
        return request
    paths = {"data": absolute(request.data), "store": absolute(request.store)}
    models = {"diffusion": absolute_model(request.diffusion), "llm": absolute_model(request.llm)}
    return request.model_copy(update={**paths, **models})


def look_at(request: EncodeRequest) -> tuple[Listing, Scan]:
    """Return what the data hold, and which of it is whole; all of it where no readiness policy is given."""
    how = request.readiness
    listed = list_data(request.data, may_be_empty=how is not None, columns=request.columns)
    return listed, Scan(listed.files, {}) if how is None else scan(listed.root, listed.files, how)


def announce(shards: list[SourceShard], passed_over: dict[str, str]) -> None:
    """Say what was found before anything is encoded: in the terminal, and in the run's log."""
    lines = found_lines(shards, passed_over, SHOWN)
    if numbered := folder_repeats(shard.name for shard in shards):
        why = "no repeats unless training has --set kohya_repeats=true"
        lines.append(f"numbers before folders' names: {in_words(numbered)}: {why}")
    for line in lines:
        get_run_logger().info(line)
        print(line, file=sys.stderr)


def encode_all(
    run: Workers,
    encode: Task[..., ShardReport],
    job: EncodeJob,
    shards: list[SourceShard],
    fingerprint: str,
    sizes: Mapping[str, int],
) -> tuple[list[ShardReport], dict[str, str]]:
    """Return what became of the shards, in order, and why some can't be read; tasks elsewhere can't move the bar."""
    remote = job.request.ray is not None or job.request.processes > 1
    reports: dict[str, ShardReport] = {}
    unreadable = {}
    try:
        with closing(ahead(hashed(shards), 1, "hash")) as hashed_ahead:
            for shard, ended in run(encode, job, shards if remote else hashed_ahead):
                try:
                    reports[shard.name] = ended()
                except ValueError as error:
                    unreadable[shard.name] = printable(str(error))
                else:
                    advance(reports[shard.name].rows * remote)
                advance(sizes.get(shard.name, 0), in_bytes=True)
    finally:  # a run that is cut short has encoded these, and only a run knows of which data set they are
        request, found = job.request, sources_of(reports.values())
        note_sources(EncodingStore.open(request.store), request.data, fingerprint, found, request.columns)
        keep_counts(shards, list(reports.values()))
    return [reports[shard.name] for shard in shards if shard.name in reports], unreadable


def hashed(shards: list[SourceShard]) -> Iterator[SourceShard]:
    """Yield shards with their content hashed, the next one's while one is encoded; an unreadable one says so later.

    So does one whose place does not answer: in its own task, which is tried again.
    """
    for shard in shards:
        with suppress(ValueError, OSError):
            _ = shard.content_hash
        yield shard


@task(name="prepare store", cache_policy=NO_CACHE)
def prepare_store(job: EncodeJob, captions: list[str]) -> str:
    """Load the models, register them in the store, encode the captions without pictures; return the fingerprint."""
    encoders = loaded_encoders(job.model_dump_json(), lent_gpu())
    store = EncodingStore.open(job.request.store)
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
    """Encode one shard and commit it. Idempotent: a row that is in the store is left alone."""
    encoders = loaded_encoders(job.model_dump_json(), lent_gpu())
    store, allow_private = EncodingStore.open(job.request.store), job.request.allow_private_addresses
    done = encode_shard(store, shard, encoders, advance, allow_private=allow_private)
    get_run_logger().info(
        "%s: %d rows, %d new, %d rejected", done.source, done.rows, done.samples, done.rejected.total()
    )
    return done


@task(name="report", cache_policy=NO_CACHE)
def report(
    job: EncodeJob,
    fingerprint: str,
    reports: list[ShardReport],
    left: dict[str, dict[str, str]],
    seconds: float,
) -> EncodeResult:
    """Add the shards up, and show them as a table in the Prefect UI; `left` is what was not read, and why."""
    store = EncodingStore.open(job.request.store)
    found = sources_of(reports), left["unreadable"] | left["unfinished"], left["passed_over"], job.request.columns
    report_left(gone := find_left(store, job.request.data, fingerprint, *found))
    rejected: Counter[str] = sum((shard.rejected for shard in reports), Counter())
    totals = {
        name: sum(getattr(shard, name) for shard in reports)
        for name in ("rows", "known", "repeated", "samples", "captions", "tokens", "latents", "truncated")
    }
    rows: list[dict[str, Any]] = [
        {"shard": s.source, "rows": s.rows, "known": s.known, "new": s.samples, "rejected": counted(s.rejected)}
        for s in reports
    ] + [{"shard": name, "error": reason} for reasons in left.values() for name, reason in reasons.items()]
    create_table_artifact(rows, key="encode-shards", description=f"Shards encoded into {job.request.store}")
    return EncodeResult(
        store=job.request.store,
        store_version=store.version,
        fingerprint=fingerprint,
        rejected=dict(rejected),
        bytes_per_caption=encoding_bytes(store, fingerprint) * totals["tokens"] / max(1, totals["captions"]),
        replaced=gone.replaced,
        missing=gone.count,
        missing_rows=gone.examples,
        shards=reports,
        unreadable=left["unreadable"],
        unfinished=left["unfinished"],
        passed_over=left["passed_over"] | left["unnamed"],
        seconds=seconds,
        **totals,
    )


def sources_of(reports: Iterable[ShardReport]) -> dict[str, str]:
    """Return the names of the shards that were read, by the hashes of their content."""
    return {report.source_hash: report.source for report in reports}


def report_left(gone: LeftRows) -> None:
    """Say in the run's log which of the store's rows were replaced or are in the data no more."""
    logger = get_run_logger()
    if gone.replaced:
        logger.info("%d rows were edited: their samples before that are out of the newest version", gone.replaced)
    if gone.count is None:
        logger.info("it is not known which rows left the data: %s", "; ".join(gone.examples))
    elif gone.count:
        logger.warning("%d samples are of rows that left the data: %s", gone.count, "; ".join(gone.examples))


def counted(rejected: dict[str, int]) -> str:
    """Return rejects in words: how many for each reason."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))


def encoding_bytes(store: EncodingStore, fingerprint: str) -> int:
    """Return the bytes of one token's encoding."""
    description = store.fingerprints()[fingerprint]
    hidden = description.get("hidden_size") or description["llm"]["hidden_size"]
    return 2 * int(hidden) * int(description.get("bands", 1))


def nothing_usable(data: str, result: EncodeResult) -> str:
    """Return one line that says why no row of the data is of any use."""
    examples = [example for shard in result.shards for example in shard.examples]
    reasons = [*result.unreadable.values(), *examples[:1]]
    if result.rows:
        reasons.append(f"`llmdiff store rejects {result.store}` lists them")
    return "; ".join([f"{data}: expected usable rows, found {result.rows} rows and none usable", *reasons])


def _usable(shard: ShardReport) -> int:
    """Return how many rows of a shard are of use."""
    return shard.rows - shard.known_bad - shard.rejected.total()


def _has_pictures(shard: SourceShard) -> bool:
    """Return whether a shard needs the autoencoder; an unreadable one does not."""
    try:
        return shard.has_pictures
    except ValueError:
        return False
