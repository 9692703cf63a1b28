"""The encode flow: captions and pictures of a data set, shard by shard, into an encoding store."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from llmdiff.data.encode import ShardReport
from llmdiff.data.encode.data_set import LeftRows, find_left
from llmdiff.data.remote import is_remote, shown
from llmdiff.data.remote.parallel import each
from llmdiff.data.sources import Listing, Scan, SourceShard, list_data, scan, shards_of
from llmdiff.data.sources.folders.kohya import folder_repeats, in_words
from llmdiff.data.sources.unread_files import unnamed_pictures
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.artifacts import show_table
from pipelines.runtime.encode import known_encoders
from pipelines.runtime.encode.known_shards import Encoded, find_known, sources_of
from pipelines.runtime.encode.lines import found_lines
from pipelines.runtime.encode.row_counts import Work, count_rows, recall_counts
from pipelines.runtime.executors import absolute, absolute_model
from pipelines.runtime.recording import run_logger
from pipelines.runtime.stage import stage, task
from storage import EncodingStore

if TYPE_CHECKING:
    from pipelines.runtime.encode.job import EncodeJob

SHOWN = 10
"""Number of lines about what is not read."""


class EncodeResult(BaseModel):
    """The result of an encode run: over readable shards, ``rows == known + samples + sum(rejected.values())``."""

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


def needs_engine(request: EncodeRequest) -> bool:
    """Return whether tasks run in other processes or under a limit, which Prefect sees to."""
    return request.processes > 1 or request.ray is not None or request.limit is not None


@stage("encode", needs_engine=needs_engine)
def encode_flow(request: EncodeRequest) -> EncodeResult:
    """Encode what the store does not hold yet: a second run encodes nothing, and loads no model.

    A shard is the unit of retry, of concurrency and of commit.
    """
    start = time.perf_counter()
    request = reachable(request)
    listed, found = look_at(request)
    shards = shards_of(found.whole, request.columns)
    recall_counts(shards)
    pictures = any(each(_has_pictures, shards, is_remote(request.data)))
    known = known_encoders.recall(request, pictures)
    job = new_job(request, pictures) if known is None else None
    to_do, broken = count_rows(request, shards)
    unnamed = {} if found.unfinished else unnamed_pictures(listed.pictures, shards)
    announce(shards, listed.passed_over | unnamed | broken)
    done = None if known is None else find_known(request, known, shards, to_do)
    if done is None or done.left:
        done = encode_new(job or new_job(request, pictures), request.captions or [], shards, to_do, done)
    if done.unreadable and not done.reports and request.readiness is None:
        raise ValueError("; ".join(done.unreadable.values()))
    left = {"unreadable": done.unreadable, "unfinished": found.unfinished, "passed_over": listed.passed_over}
    left["unnamed"] = unnamed
    result = report(request, done.fingerprint, done.reports, left, time.perf_counter() - start)
    if request.readiness is None and not any(map(_usable, done.reports)):
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
    """Return the data's listing, and the scan of what of it is whole: all where no readiness policy is given."""
    how = request.readiness
    listed = list_data(request.data, may_be_empty=how is not None, columns=request.columns)
    return listed, Scan(listed.files, {}) if how is None else scan(listed.root, listed.files, how)


def new_job(request: EncodeRequest, pictures: bool) -> EncodeJob:
    """Return the job of a run that loads models, which is refused first if they can't be used; heavy to import."""
    from pipelines.runtime.encode.job import make_job

    return make_job(request, pictures)


def encode_new(
    job: EncodeJob, captions: list[str], shards: list[SourceShard], to_do: Work, known: Encoded | None
) -> Encoded:
    """Load the models, and encode what the store does not know; see `pipelines.runtime.encode.new_rows`."""
    from pipelines.runtime.encode.new_rows import encode_new

    return encode_new(job, captions, shards, to_do, known)


def announce(shards: list[SourceShard], passed_over: dict[str, str]) -> None:
    """Say what was found before anything is encoded: in the terminal, and in the run's log."""
    lines = found_lines(shards, passed_over, SHOWN)
    if numbered := folder_repeats(shard.name for shard in shards):
        why = "no repeats unless training has --set kohya_repeats=true"
        lines.append(f"numbers before folders' names: {in_words(numbered)}: {why}")
    for line in lines:
        run_logger().info(line)
        print(line, file=sys.stderr)


@task("report")
def report(
    request: EncodeRequest,
    fingerprint: str,
    reports: list[ShardReport],
    left: dict[str, dict[str, str]],
    seconds: float,
) -> EncodeResult:
    """Add the shards up, and show them as a table in the Prefect UI; `left` is what was not read, and why."""
    store = EncodingStore.open(request.store)
    found = sources_of(reports), left["unreadable"] | left["unfinished"], left["passed_over"], request.columns
    report_left(gone := find_left(store, request.data, fingerprint, *found))
    rejected: Counter[str] = sum((shard.rejected for shard in reports), Counter())
    totals = {
        name: sum(getattr(shard, name) for shard in reports)
        for name in ("rows", "known", "repeated", "samples", "captions", "tokens", "latents", "truncated")
    }
    rows: list[dict[str, Any]] = [
        {"shard": s.source, "rows": s.rows, "known": s.known, "new": s.samples, "rejected": counted(s.rejected)}
        for s in reports
    ] + [{"shard": name, "error": reason} for reasons in left.values() for name, reason in reasons.items()]
    show_table(rows, key="encode-shards", title=f"Shards encoded into {request.store}")
    return EncodeResult(
        store=request.store,
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


def report_left(gone: LeftRows) -> None:
    """Say in the run's log which of the store's rows were replaced or are in the data no more."""
    logger = run_logger()
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
