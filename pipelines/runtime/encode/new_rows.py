"""An encode run's models at work: its tasks, in the run's own process or in any that its executors use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress

from llmdiff.data.encode import ShardReport, encode_captions, encode_shard
from llmdiff.data.encode.data_set import note_sources
from llmdiff.data.encode.pipeline import ahead
from llmdiff.data.rejects import printable
from llmdiff.data.sources import SourceShard
from pipelines.runtime.encode.checks import check_pictures
from pipelines.runtime.encode.job import EncodeJob, loaded_encoders
from pipelines.runtime.encode.known_shards import Encoded, sources_of
from pipelines.runtime.encode.row_counts import Work, keep_counts
from pipelines.runtime.executors import Workers, lent_gpu, limited, may_pass, workers
from pipelines.runtime.progress import advance, progress
from pipelines.runtime.recording import run_logger
from pipelines.runtime.stage import StageTask, task
from storage import EncodingStore


def encode_new(
    job: EncodeJob, captions: list[str], shards: list[SourceShard], to_do: Work, known: Encoded | None
) -> Encoded:
    """Load the models, encode the captions without pictures and what the store does not know of the shards.

    Those that are in `known` are not looked up again. ValueError where a model is named for pictures alone, and there
    are none.
    """
    request = job.request
    check_pictures(request, job.pictures, to_do.total != 0)
    encode = limited(encode_source, request.limit)
    with progress("encode", to_do.total, to_do.unit) as work, workers(request.ray, request.processes) as run:
        ((_, prepared),) = run(prepare_store, job, [captions])
        fingerprint = prepared()
        done = known if known and known.fingerprint == fingerprint else Encoded(fingerprint, [], {}, shards)
        work.count_from(to_do.of(done.reports))  # the time left is of rows, without what the models took to load
        done = encode_all(run, encode, job, done, to_do.sizes)
    loaded_encoders.cache_clear()
    return done


def encode_all(
    run: Workers, encode: StageTask[..., ShardReport], job: EncodeJob, known: Encoded, sizes: Mapping[str, int]
) -> Encoded:
    """Return what became of all shards, those that were left now included; tasks elsewhere can't move the bar."""
    remote = job.request.ray is not None or job.request.processes > 1
    reports: dict[str, ShardReport] = {}
    unreadable = dict(known.unreadable)
    try:
        with closing(ahead(hashed(known.left), 1, "hash")) as hashed_ahead:
            for shard, ended in run(encode, job, known.left if remote else hashed_ahead):
                try:
                    reports[shard.name] = ended()
                except ValueError as error:
                    unreadable[shard.name] = printable(str(error))
                else:
                    advance(reports[shard.name].rows * remote)
                advance(sizes.get(shard.name, 0), in_bytes=True)
    finally:  # a run that is cut short has encoded these, and only a run knows of which data set they are
        request, found = job.request, sources_of([*known.reports, *reports.values()])
        note_sources(EncodingStore.open(request.store), request.data, known.fingerprint, found, request.columns)
        keep_counts(known.left, list(reports.values()))
    new = [reports[shard.name] for shard in known.left if shard.name in reports]
    return Encoded(known.fingerprint, [*known.reports, *new], unreadable, [])


def hashed(shards: list[SourceShard]) -> Iterator[SourceShard]:
    """Yield shards with their content hashed, the next one's while one is encoded; an unreadable one says so later.

    So does one whose place does not answer: in its own task, which is tried again.
    """
    for shard in shards:
        with suppress(ValueError, OSError):
            _ = shard.content_hash
        yield shard


@task("prepare store")
def prepare_store(job: EncodeJob, captions: list[str]) -> str:
    """Load the models, register them in the store, encode the captions without pictures; return the fingerprint."""
    encoders = loaded_encoders(job.model_dump_json(), lent_gpu())
    store = EncodingStore.open(job.request.store)
    for one in encoders.of_captions:
        encode_captions(store, one.fingerprint, one.encoder, captions)
    return encoders.fingerprint


@task("encode shard", run_name="encode {shard.name}", delays=(5, 60), may_pass=may_pass)
def encode_source(job: EncodeJob, shard: SourceShard) -> ShardReport:
    """Encode one shard and commit it. Idempotent: a row that is in the store is left alone."""
    encoders = loaded_encoders(job.model_dump_json(), lent_gpu())
    store, allow_private = EncodingStore.open(job.request.store), job.request.allow_private_addresses
    done = encode_shard(store, shard, encoders, advance, allow_private=allow_private)
    run_logger().info("%s: %d rows, %d new, %d rejected", done.source, done.rows, done.samples, done.rejected.total())
    return done
