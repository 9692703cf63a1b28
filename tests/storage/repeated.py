"""Samples that hold what others hold, and writers that have not looked."""

from __future__ import annotations

from dataclasses import replace

from storage import EncodingStore, Repeat, Sample, ShardWriter, content_hash
from tests.storage import synthetic


def elsewhere(sample: Sample, source: str, row: int) -> Sample:
    """Return a sample of the same picture and caption in another row."""
    return replace(sample, source=f"{source}.parquet", source_hash=content_hash(source.encode()), row=row)


def repeat_of(sample: Sample) -> Repeat:
    names = ("fingerprint", "source", "source_hash", "row", "caption_hash", "image_hash")
    return Repeat(**{name: getattr(sample, name) for name in names})


def write(store: EncodingStore, *samples: Sample, repeats: tuple[Repeat, ...] = (), shard: str | None = None) -> int:
    """Write samples as a writer does that has not looked; return how many were left out."""
    with ShardWriter(store, shard, samples[0].fingerprint if samples else None) as writer:
        add(writer, *samples)
        for repeat in repeats:
            writer.add_repeat(repeat)
    return writer.left_out


def add(writer: ShardWriter, *samples: Sample) -> None:
    for sample in samples:
        writer.add_encoding(sample.caption_hash, synthetic.encoding(sample.caption), sample.fingerprint)
        writer.add_latent(sample.latent_key, synthetic.latent(sample.latent_key))
        writer.add_sample(sample)
