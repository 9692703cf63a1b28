"""``llmdiff encode --dry-run``: what a run would read, refuse and write, without a model, a store or Prefect."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from llmdiff.data.buckets import Buckets
from llmdiff.data.encode.preview import Preview, preview
from llmdiff.data.encode.reading import cores
from llmdiff.data.rejects import printable
from llmdiff.data.sources import SourceShard, expected_row_count, known_row_count, list_data, shards_of
from llmdiff.data.sources.streamed import Streamed
from llmdiff.data.sources.unread_files import unnamed_pictures
from pipelines.cli.console import print_json
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode.checks import check_models, check_pictures
from pipelines.runtime.encode.estimate import (
    UNKNOWN_SIZE,
    CaptionSize,
    LatentSize,
    buckets_of,
    caption_size,
    latent_of,
)
from pipelines.runtime.encode.row_counts import recall_counts

SHOWN = 10
"""Shards, and things not read, that are printed; JSON has all."""


class ShardPlan(BaseModel):
    """A shard as a run would find it."""

    name: str
    rows: int | None = Field(default=0, description="none where counting them takes fetching all of it")
    pictures: bool = False
    columns: tuple[str, ...] = Field(default=(), description="that its rows are made of")
    unread: tuple[str, ...] = Field(default=(), description="what no row is made of, where the shard was looked at")
    unreadable: str | None = None


class DryRun(BaseModel):
    """A plan of an encode run. Rows that the store has already are not counted: that takes the models' weights."""

    model_config = ConfigDict(frozen=True)

    rows: int | None = Field(description="none where a shard is uncounted")
    pictures: int | None = Field(description="likewise")
    shards: list[ShardPlan]
    passed_over: dict[str, str] = Field(description="what looks like data and is not read, and why")
    refused: str | None = Field(description="why the run would end before it has begun")
    looked_at: int = Field(description="rows that the following was seen in, from the first on")
    rejected: dict[str, int]
    examples: list[str]
    first: list[dict[str, Any]]
    behind_urls: int = Field(description="of the rows looked at, pictures that a run would download")
    tokens_a_caption: float | None
    truncated: int | None
    encoding_bytes: int | None = Field(description="at most, for equal captions are encoded once")
    size: int | None = Field(description="side of the pictures that are kept, in pixels; of buckets, of their square")
    buckets: int = Field(description="sizes that pictures are put into; 0 where all become squares")
    flip: bool = Field(description="whether each picture's mirror image is kept, too")
    latent_bytes: int | None = Field(description="at most, for equal pictures are encoded once")
    decoded_per_second: float = Field(description="measured here, reading included; 0 where no picture was decoded")
    decoders: int
    rate: float | None = Field(description="rows a second that the models do, as given")
    hours: float | None = Field(description="at the slower of both rates")


def dry_run(request: EncodeRequest, rate: float | None = None) -> DryRun:
    """Return what a run would do; ValueError and FileNotFoundError where the data or a model's folder say nothing."""
    listed = list_data(request.data, columns=request.columns)
    shards = shards_of(listed.files, request.columns)
    recall_counts(shards)
    plans = [plan_of(shard) for shard in shards]
    has_pictures = any(plan.pictures for plan in plans)
    latent = latent_of(request) if request.diffusion is not None and has_pictures else None
    size = latent.size if latent is not None else request.size or UNKNOWN_SIZE
    buckets, misfit = fitting_buckets(request, latent) if has_pictures else (None, None)
    seen = preview(shards, size, request.min_side or size // 4, buckets=buckets)
    add_seen(plans, shards, seen)
    rows, pictures = total(plans), total([plan for plan in plans if plan.pictures])
    has_encoder = (request.llm if request.encoder == "llm" else request.diffusion) is not None
    caption = caption_size(request, seen.captions) if has_encoder else None
    rejected = seen.rejected + (Counter() if caption is None else caption.rejected)
    usable = 1 - rejected.total() / max(1, seen.rows)
    rates = [each for each in (seen.decode_rate, rate) if each]
    return DryRun(
        rows=rows,
        pictures=pictures,
        shards=plans,
        passed_over=listed.passed_over | unnamed_pictures(listed.pictures, shards),
        refused=refusal(request, has_pictures, rows != 0) or misfit,
        looked_at=seen.rows,
        rejected=dict(rejected),
        examples=seen.examples,
        first=[asdict(row) for row in seen.first],
        behind_urls=seen.behind_urls,
        buckets=0 if buckets is None else len(buckets.sizes),
        flip=request.flip,
        **sizes(caption, latent, rows and rows * usable, pictures and pictures * usable),
        decoded_per_second=seen.decode_rate,
        decoders=cores(),
        rate=rate,
        hours=rows / min(rates) / 3600 if rates and rows is not None else None,
    )


def fitting_buckets(request: EncodeRequest, latent: LatentSize | None) -> tuple[Buckets | None, str | None]:
    """Return the buckets that are asked for, if any; or why the run would be refused for them."""
    try:
        return buckets_of(request, latent), None
    except ValueError as error:
        return None, str(error)


def add_seen(plans: list[ShardPlan], shards: list[SourceShard], seen: Preview) -> None:
    """Add to the plans what a look at the first rows told: one that was read to its end is counted by that."""
    for plan, shard in zip(plans, shards, strict=True):
        plan.unread = seen.unread.get(plan.name, ())
        plan.unreadable = plan.unreadable or seen.unreadable.get(plan.name)
        if plan.rows is None:
            plan.rows = 0 if plan.unreadable is not None else known_row_count(shard)


def total(plans: list[ShardPlan]) -> int | None:
    """Return the rows of some shards; None where one of them is uncounted."""
    rows = [plan.rows for plan in plans if plan.rows is not None]
    return sum(rows) if len(rows) == len(plans) else None


def sizes(
    caption: CaptionSize | None, latent: LatentSize | None, captions: float | None, pictures: float | None
) -> dict[str, Any]:
    """Return the fields about what would be written; of a number that is not known, nothing."""
    return {
        "tokens_a_caption": caption and caption.tokens,
        "truncated": caption and caption.truncated,
        "encoding_bytes": None if caption is None or captions is None else round(captions * caption.bytes),
        "size": latent and latent.size,
        "latent_bytes": None if latent is None or pictures is None else round(pictures * latent.bytes),
    }


def plan_of(shard: SourceShard) -> ShardPlan:
    """Return what a run would find in a shard, or why it can't be read."""
    try:
        return ShardPlan(
            name=shard.name, rows=row_count(shard), pictures=shard.has_pictures, columns=shard.columns_read
        )
    except ValueError as error:
        return ShardPlan(name=shard.name, unreadable=printable(str(error)))


def row_count(shard: SourceShard) -> int | None:
    """Return the rows of a shard, as far as that does not take fetching it; a tar of a disk is gone through."""
    rows = expected_row_count(shard)
    return shard.count if rows is None and not (isinstance(shard, Streamed) and shard.is_streamed) else rows


def refusal(request: EncodeRequest, pictures: bool, rows: bool) -> str | None:
    """Return why a run would end before it has begun; None where it would not."""
    try:
        check_models(request, pictures)
        check_pictures(request, pictures, rows)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return str(error)
    return None


def print_dry_run(found: DryRun, as_json: bool = False) -> None:
    """Print it as lines, or as one JSON document."""
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in lines(found):
        print(line)


def lines(found: DryRun) -> list[str]:
    """Return what the run would do as lines of text."""
    text = [total_line(found)]
    text += [f"  {shard_line(shard)}" for shard in found.shards[:SHOWN]]
    text += [f"  and {len(found.shards) - SHOWN} shards more"] * (len(found.shards) > SHOWN)
    text += [f"not read: {name}: {why}" for name, why in list(found.passed_over.items())[:SHOWN]]
    text += [f"not read: {len(found.passed_over) - SHOWN} more"] * (len(found.passed_over) > SHOWN)
    text += ["the first rows, as they would be read:", *(f"  {row_line(row)}" for row in found.first)]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(found.rejected.items())) or "none"
    text += [f"of the first {found.looked_at:,} rows would be rejected: {reasons}"]
    text += [f"  {example}" for example in found.examples]
    if found.behind_urls:
        text += [f"{found.behind_urls} of their pictures are behind URLs, and were not downloaded"]
    text += size_lines(found)
    text += [f"the run would be refused: {found.refused}"] * (found.refused is not None)
    return [*text, "nothing was written, and what the store holds already was not looked up"]


def total_line(found: DryRun) -> str:
    """Return the line about all shards together."""
    counted = [shard for shard in found.shards if shard.rows is not None]
    rows, pictures = total(counted), total([shard for shard in counted if shard.pictures])
    line = f"{len(counted)} shards, {rows:,} rows, {pictures:,} of them with pictures"
    more = len(found.shards) - len(counted)
    return line + f"; {more} more are counted once they are fetched" * (more > 0)


def shard_line(shard: ShardPlan) -> str:
    """Return the line about a shard."""
    if shard.unreadable is not None:
        return f"{shard.name}: can't be read: {shard.unreadable}"
    rows = "uncounted" if shard.rows is None else f"{shard.rows:,}"
    parts = [f"{shard.name}: {rows} rows", "with pictures" if shard.pictures else "captions alone"]
    parts += [f"from {printable(', '.join(shard.columns))}"] * bool(shard.columns)
    parts += [f"not read: {printable(', '.join(shard.unread))}"] * bool(shard.unread)
    return ", ".join(parts)


def row_line(row: dict[str, Any]) -> str:
    """Return the line about a row."""
    caption = "no caption" if row["caption"] is None else repr(row["caption"])
    parts = [f"{row['shard']} row {row['row']}: {caption:.120}", row["picture"]]
    parts += [f"rejected, {row['refused']}"] * (row["refused"] is not None)
    return "; ".join(filter(None, parts))


def size_lines(found: DryRun) -> list[str]:
    """Return lines about what would be written, and how long it would take."""
    text = []
    if found.encoding_bytes is not None:
        cut = f", {found.truncated} of those looked at cut" if found.truncated else ""
        tokens = f"{found.tokens_a_caption:.1f} tokens a caption{cut}"
        text.append(f"encodings: at most {found.encoding_bytes / 1e9:.3g} GB, {tokens}")
    if found.latent_bytes is not None:
        shape = f"pixels, or as many in {found.buckets} buckets" if found.buckets else "pixels"
        line = f"latents: at most {found.latent_bytes / 1e9:.3g} GB, pictures of {found.size}x{found.size} {shape}"
        text.append(line + ", and their mirror images" * found.flip)
    here = f"{found.decoded_per_second:.3g} pictures a second are read and decoded here in {found.decoders} threads"
    text += [here] * (found.decoded_per_second > 0)
    models = f"the models' {found.rate:g} rows a second, as given" if found.rate else "the models left out: see --rate"
    time = "not known" if found.hours is None else tqdm.format_interval(found.hours * 3600)
    return [*text, f"time (hours:minutes:seconds): {time}, with {models}"]
