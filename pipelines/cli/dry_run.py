"""``llmdiff encode --dry-run``: what a run would read, refuse and write, without a model, a store or Prefect."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from llmdiff.data.encode.preview import preview
from llmdiff.data.encode.reading import cores
from llmdiff.data.sources import SourceShard, known_row_count, list_data, shards_of
from llmdiff.data.sources.leftovers import unnamed_pictures
from pipelines.cli.console import print_json
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode_checks import check_models, check_pictures
from pipelines.runtime.encode_estimate import CaptionSize, LatentSize, caption_size, latent_of

SHOWN = 10
"""Shards, and things not read, that are printed; JSON has all."""
UNKNOWN_SIZE = 512
"""Side of the square that pictures are tried at, in pixels, where no diffusion model says another."""


class ShardPlan(BaseModel):
    """What a run would find in a shard."""

    name: str
    rows: int | None = Field(default=0, description="none where counting them takes fetching all of it")
    pictures: bool = False
    columns: tuple[str, ...] = Field(default=(), description="that its rows are made of")
    unread: tuple[str, ...] = Field(default=(), description="what no row is made of, where the shard was looked at")
    unreadable: str | None = None


class DryRun(BaseModel):
    """What an encode run would do. Rows that the store has already are not counted: that takes the models' weights."""

    model_config = ConfigDict(frozen=True)

    rows: int
    pictures: int
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
    size: int | None = Field(description="side of the pictures that are kept, in pixels")
    latent_bytes: int | None = Field(description="at most, for equal pictures are encoded once")
    decoded_per_second: float = Field(description="measured here, reading included; 0 where no picture was decoded")
    decoders: int
    rate: float | None = Field(description="rows a second that the models do, as given")
    hours: float | None = Field(description="at the slower of both rates")


def dry_run(request: EncodeRequest, rate: float | None = None) -> DryRun:
    """Return what a run would do; ValueError and FileNotFoundError where the data or a model's folder say nothing."""
    listed = list_data(request.data, columns=request.columns)
    shards = shards_of(listed.files, request.columns)
    plans = [plan_of(shard) for shard in shards]
    rows, pictures = (sum(plan.rows or 0 for plan in plans if plan.pictures or not only) for only in (False, True))
    latent = None if request.diffusion is None or not pictures else latent_of(request.diffusion, request.size)
    size = latent.size if latent is not None else request.size or UNKNOWN_SIZE
    seen = preview(shards, size, request.min_side or size // 4)
    has_encoder = (request.llm if request.encoder == "llm" else request.diffusion) is not None
    caption = caption_size(request, seen.captions) if has_encoder else None
    for plan in plans:
        plan.unread = seen.unread.get(plan.name, ())
        plan.unreadable = plan.unreadable or seen.unreadable.get(plan.name)
    rejected = seen.rejected + (Counter() if caption is None else caption.rejected)
    usable = 1 - rejected.total() / max(1, seen.rows)
    rates = [each for each in (seen.decode_rate, rate) if each]
    return DryRun(
        rows=rows,
        pictures=pictures,
        shards=plans,
        passed_over=listed.passed_over | unnamed_pictures(listed.pictures, shards),
        refused=refusal(request, bool(pictures), bool(rows)),
        looked_at=seen.rows,
        rejected=dict(rejected),
        examples=seen.examples,
        first=[asdict(row) for row in seen.first],
        behind_urls=seen.behind_urls,
        **sizes(caption, latent, rows * usable, pictures * usable),
        decoded_per_second=seen.decode_rate,
        decoders=cores(),
        rate=rate,
        hours=rows / min(rates) / 3600 if rates else None,
    )


def sizes(caption: CaptionSize | None, latent: LatentSize | None, captions: float, pictures: float) -> dict[str, Any]:
    """Return the fields about what would be written."""
    return {
        "tokens_a_caption": caption and caption.tokens,
        "truncated": caption and caption.truncated,
        "encoding_bytes": caption and round(captions * caption.bytes),
        "size": latent and latent.size,
        "latent_bytes": latent and round(pictures * latent.bytes),
    }


def plan_of(shard: SourceShard) -> ShardPlan:
    """Return what a run would find in a shard, or why it can't be read."""
    try:
        return ShardPlan(
            name=shard.name, rows=known_row_count(shard), pictures=shard.has_pictures, columns=shard.columns_read
        )
    except ValueError as error:
        return ShardPlan(name=shard.name, unreadable=str(error))


def refusal(request: EncodeRequest, pictures: bool, rows: bool) -> str | None:
    """Return why a run would end before it has begun; None where it would not."""
    try:
        check_models(request, pictures)
        check_pictures(request, pictures, rows)
    except ValueError as error:
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
    """Return it in words."""
    text = [f"{len(found.shards)} shards, {found.rows:,} rows, {found.pictures:,} of them with pictures"]
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


def shard_line(shard: ShardPlan) -> str:
    """Return a shard in words."""
    if shard.unreadable is not None:
        return f"{shard.name}: can't be read: {shard.unreadable}"
    rows = "uncounted" if shard.rows is None else f"{shard.rows:,}"
    parts = [f"{shard.name}: {rows} rows", "with pictures" if shard.pictures else "captions alone"]
    parts += [f"from {', '.join(shard.columns)}"] * bool(shard.columns)
    parts += [f"not read: {', '.join(shard.unread)}"] * bool(shard.unread)
    return ", ".join(parts)


def row_line(row: dict[str, Any]) -> str:
    """Return a row in words."""
    caption = "no caption" if row["caption"] is None else repr(row["caption"])
    parts = [f"{row['shard']} row {row['row']}: {caption:.120}", row["picture"]]
    parts += [f"rejected, {row['refused']}"] * (row["refused"] is not None)
    return "; ".join(filter(None, parts))


def size_lines(found: DryRun) -> list[str]:
    """Return in words what would be written, and how long it would take."""
    text = []
    if found.encoding_bytes is not None:
        cut = f", {found.truncated} of those looked at cut" if found.truncated else ""
        tokens = f"{found.tokens_a_caption:.1f} tokens a caption{cut}"
        text.append(f"encodings: at most {found.encoding_bytes / 1e9:.3g} GB, {tokens}")
    if found.latent_bytes is not None:
        text.append(f"latents: at most {found.latent_bytes / 1e9:.3g} GB, pictures of {found.size}x{found.size} pixels")
    here = f"{found.decoded_per_second:.3g} pictures a second are read and decoded here in {found.decoders} threads"
    text += [here] * (found.decoded_per_second > 0)
    models = f"the models' {found.rate:g} rows a second, as given" if found.rate else "the models left out: see --rate"
    time = "not known" if found.hours is None else tqdm.format_interval(found.hours * 3600)
    return [*text, f"time (hours:minutes:seconds): {time}, with {models}"]
