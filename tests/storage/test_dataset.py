import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from storage import EncodingStore, ShardWriter, caption_hash
from storage.reading.batch import BatchFiller
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.examples import some
from tests.storage import synthetic

ROWS = 70


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store of three sources under an LLM's fingerprint and the base's, and the empty caption."""
    store, llm = synthetic.make_store(tmp_path_factory.mktemp("reader") / "store")
    base = store.register_fingerprint(synthetic.BASE)
    with ShardWriter(store, "null", llm) as writer:
        writer.add_encoding(caption_hash(""), synthetic.encoding(""))
    for source in ("a", "b", "c"):
        synthetic.encode(store, llm, source, range(ROWS), base=base)
    return store, llm, base


def dataset(filled, batch_size=8, **settings):
    store, llm, _ = filled
    settings = {"block_size": 4, "blocks_together": 8, "lanes": 4, "read_ahead": 2, **settings}
    config = DatasetConfig(version=store.version, fingerprint=llm, batch_size=batch_size, **settings)
    return EncodingDataset(store.path, config)


def as_bits(tensor):
    return tensor.contiguous().view(torch.uint16).numpy()


def test_batches_hold_what_was_committed(filled):
    data = dataset(filled, base_fingerprint=filled[2])
    seen = []
    for batch in data.epoch(0):
        size = len(batch.caption_hashes)
        assert batch.encodings.dtype == batch.base_encodings.dtype == torch.bfloat16
        assert batch.latents.dtype == torch.float16
        assert batch.mask.shape == batch.encodings.shape[:2] == (size, batch.mask.sum(1).max())
        assert batch.latents.shape == (size, 4, 8, 8)
        for i, (source, row) in enumerate(batch.rows):
            caption = synthetic.caption(source.removesuffix(".parquet"), row)
            assert batch.caption_hashes[i] == caption_hash(caption)
            np.testing.assert_array_equal(as_bits(batch.encodings[i][batch.mask[i]]), synthetic.encoding(caption))
            assert not as_bits(batch.encodings[i][~batch.mask[i]]).any()
            base = as_bits(batch.base_encodings[i][batch.base_mask[i]])
            np.testing.assert_array_equal(base, synthetic.encoding(caption, width=8, longest=5))
            latent = synthetic.latent(f"{source.removesuffix('.parquet')}/{row}")
            np.testing.assert_array_equal(batch.latents[i].numpy(), latent)
        seen += batch.rows
    store, llm, _ = filled
    assert sorted(seen) == [(source, row) for source, row, _ in synthetic.rows_of(store, llm)]
    np.testing.assert_array_equal(as_bits(data.null()), synthetic.encoding(""))


def test_bands_come_before_tokens(tmp_path):
    store = EncodingStore.create(tmp_path)
    llm = store.register_fingerprint({**synthetic.LLM, "bands": 2})
    synthetic.encode(store, llm, "a")
    (batch,) = EncodingDataset(tmp_path, DatasetConfig(fingerprint=llm, batch_size=100)).epoch(0)
    for i, (_, row) in enumerate(batch.rows):
        bits = synthetic.encoding(synthetic.caption("a", row))  # (token, band * hidden)
        np.testing.assert_array_equal(as_bits(batch.encodings[i, 0][batch.mask[i]]), bits[:, : synthetic.HIDDEN // 2])
        np.testing.assert_array_equal(as_bits(batch.encodings[i, 1][batch.mask[i]]), bits[:, synthetic.HIDDEN // 2 :])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_are_disjoint_and_in_step(filled, ranks):
    data = [dataset(filled, batch_size=7, rank=rank, world_size=ranks, seed=5) for rank in range(ranks)]
    batches = [list(each.epoch(2)) for each in data]
    assert {len(each) for each in batches} == {data[0].batches_per_epoch}
    rows = [row for each in batches for batch in each for row in batch.rows]
    assert len(rows) == len(set(rows)) == data[0].samples_per_epoch
    for together in zip(*batches, strict=True):
        assert len({batch.position for batch in together}) == 1
    assert batches[0][-1].position == data[0].samples_per_epoch


def test_drop_last_leaves_out_the_rest(filled):
    data = dataset(filled, batch_size=16, world_size=2, drop_last=True)
    batches = list(data.epoch(0))
    assert [len(batch.rows) for batch in batches] == [16] * (data.samples_per_epoch // 32)
    assert batches[-1].position == data.samples_per_epoch // 32 * 32


def test_resume_after_a_batch(filled):
    data = dataset(filled, rank=1, world_size=2)
    whole = list(data.epoch(3))
    for start in (1, 4, len(whole)):
        rest = list(dataset(filled, rank=1, world_size=2).epoch(3, start=start))
        assert [batch.rows for batch in rest] == [batch.rows for batch in whole[start:]]
        assert [batch.position for batch in rest] == [batch.position for batch in whole[start:]]


@pytest.mark.parametrize(
    "legs",
    some([[(2, 8), (3, 5)], [(2, 8), (3, 8)], [(1, 8), (1, 3)], [(3, 4), (1, 30)], [(2, 8), (3, 5), (1, 7), (5, 2)]]),
    ids=str,
)
def test_resume_with_other_ranks_or_another_batch_size(filled, legs):
    """Each leg is some ranks of a batch size; all but the last stop after four batches. Every sample comes once."""
    rows, position = [], 0
    for number, (ranks, batch_size) in enumerate(legs):
        data = [dataset(filled, batch_size, rank=rank, world_size=ranks, seed=1) for rank in range(ranks)]
        batches = [list(each.epoch(1, position=position)) for each in data]
        if number < len(legs) - 1:
            batches = [each[:4] for each in batches]
            assert {each[-1].position for each in batches} == {position + 4 * ranks * batch_size}
        position = batches[0][-1].position
        rows += [row for each in batches for batch in each for row in batch.rows]
    assert position == dataset(filled).samples_per_epoch
    assert len(rows) == len(set(rows)) == dataset(filled).samples_per_epoch


def test_resume_goes_on_with_the_samples_that_would_have_come(filled):
    """Whatever the ranks and the batch size, the samples up to a position are the same ones."""
    (first,) = {frozenset(seen_until(filled, 48, *settings)) for settings in [(1, 8), (2, 8), (3, 16), (1, 48)]}
    assert len(first) == 48


def seen_until(filled, position, ranks, batch_size):
    data = [dataset(filled, batch_size, rank=rank, world_size=ranks, seed=1) for rank in range(ranks)]
    return [row for each in data for batch in each.epoch(1) if batch.position <= position for row in batch.rows]


def test_order_depends_on_the_samples_alone(filled, tmp_path):
    """A store made again, in another order of commits and after a rewrite, gives the same batches."""
    store, llm = synthetic.make_store(tmp_path)
    for source in ("c", "a", "b"):
        synthetic.encode(store, llm, source, range(ROWS))
    config = DatasetConfig(fingerprint=llm, batch_size=8, block_size=4, blocks_together=8, lanes=4)
    again = EncodingDataset(tmp_path, config)
    for one, other in zip(dataset(filled).epoch(0), again.epoch(0), strict=True):
        assert one.rows == other.rows
        np.testing.assert_array_equal(as_bits(one.encodings), as_bits(other.encodings))


def test_later_commits_do_not_disturb_an_epoch(tmp_path):
    store, llm = synthetic.make_store(tmp_path)
    synthetic.encode(store, llm, "a")
    data = EncodingDataset(tmp_path, DatasetConfig(fingerprint=llm, batch_size=4))
    epoch = data.epoch(0)
    rows = next(epoch).rows
    synthetic.encode(store, llm, "b")
    for batch in epoch:
        rows += batch.rows
    assert (data.version, data.samples_per_epoch, len(set(rows))) == (1, 18, 18)


def test_reading_ahead_is_bounded_and_ends(filled, monkeypatch):
    """In memory are as many batches as were asked for, however slow the training; then the threads end."""
    made_so_far = []
    fill = BatchFiller.fill
    monkeypatch.setattr(BatchFiller, "fill", lambda *of: made_so_far.append(of) or fill(*of))
    data = dataset(filled, batch_size=1, block_size=1, blocks_together=1, read_ahead=3)
    before = set(threading.enumerate())
    epoch = data.epoch(0)
    for taken in range(1, 4):
        next(epoch)
        deadline = time.monotonic() + 10
        while len(made_so_far) < taken + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(made_so_far) == taken + 3
    assert len(set(threading.enumerate()) - before) == 1
    epoch.close()
    assert not set(threading.enumerate()) - before
    assert len(made_so_far) == 6


def test_an_error_of_a_reading_thread_comes_after_the_batches_before_it(filled, monkeypatch):
    data = dataset(filled, batch_size=1)
    good = [batch.rows for batch in data.epoch(0)][:2]
    fill = BatchFiller.fill

    def fails_third(self, planned, blocks):
        if planned.position == 3:
            raise ValueError("damaged")
        return fill(self, planned, blocks)

    monkeypatch.setattr(BatchFiller, "fill", fails_third)
    epoch = data.epoch(0)
    assert [next(epoch).rows, next(epoch).rows] == good
    with pytest.raises(ValueError, match="damaged"):
        next(epoch)


def test_several_threads_give_the_batches_of_one(filled):
    one, three = (list(dataset(filled, batch_size=2, threads=threads).epoch(1)) for threads in (1, 3))
    assert len(one) == len(three) > 1
    for left, right in zip(one, three, strict=True):
        assert (left.rows, left.position) == (right.rows, right.position)
        assert torch.equal(left.encodings.view(torch.int16), right.encodings.view(torch.int16))
        assert torch.equal(left.latents.view(torch.int16), right.latents.view(torch.int16))


def test_a_fingerprint_without_samples_is_told_what_was_found(filled):
    """The base's fingerprint has encodings and no samples."""
    store, llm, base = filled
    for version, found in ((store.version, [llm]), (0, [])):
        with pytest.raises(ValueError, match="no samples of fingerprint") as refused:
            EncodingDataset(store.path, DatasetConfig(version=version, fingerprint=base, batch_size=4))
        assert str(refused.value) == (
            f"{store.path}: no samples of fingerprint {base} at version {version}, found those of {found}"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 32}, "no samples of fingerprint 00000"),
        ({"version": 99}, "expected version 99"),
        ({"base_fingerprint": "0" * 32}, "180 of 180 samples have no encoding under the base fingerprint"),
        (
            {"pooled_fingerprint": "0" * 32},
            "180 of 180 .* the pooled fingerprint .*: encode again with --diffusion",
        ),
        ({"rank": 2, "world_size": 2}, "rank 2, world_size 2"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"read_ahead": 0}, "read_ahead 0, threads 1"),
        ({"world_size": 181}, "at least a sample for each of 181 ranks, found 180"),
    ],
)
def test_refusals(filled, change, message):
    store, llm, _ = filled
    settings = {"version": store.version, "fingerprint": llm, "batch_size": 4} | change
    with pytest.raises(ValueError, match=message):
        EncodingDataset(store.path, DatasetConfig(**settings))


def test_a_pooled_encoding_comes_with_the_crop(tmp_path):
    store, llm = synthetic.make_store(tmp_path)
    pooled = store.register_fingerprint({"kind": "pooled"})
    config = DatasetConfig(fingerprint=llm, batch_size=2, pooled_fingerprint=pooled)
    for i, crop in enumerate([(64, 48, 8, 0), (31, 900, 0, 7), None]):
        caption = f"caption {i}"
        with ShardWriter(store, f"shard-{i}", llm) as writer:
            writer.add_encoding(caption_hash(caption), synthetic.encoding(caption))
            writer.add_encoding(caption_hash(caption), synthetic.encoding(caption, width=8)[:1], pooled)
            writer.add_latent(synthetic.latent_key("a", i), synthetic.latent("x"))
            writer.add_sample(dataclasses.replace(synthetic.sample(llm, "a", i, caption), crop=crop))
        if crop is None:
            with pytest.raises(ValueError, match=r"1 of 3 samples don't say .*; a.parquet row 2 is the first: encode"):
                EncodingDataset(tmp_path, config)
            continue
        (batch,) = EncodingDataset(tmp_path, config).epoch(0)
        for (_, row), found, kept in zip(batch.rows, batch.pooled, batch.crops, strict=True):
            np.testing.assert_array_equal(as_bits(found), synthetic.encoding(f"caption {row}", width=8)[0])
            assert tuple(kept.tolist()) == [(64, 48, 8, 0), (31, 900, 0, 7)][row]
        assert batch.pooled.shape == (i + 1, 8)
    (batch,) = EncodingDataset(tmp_path, DatasetConfig(fingerprint=llm, batch_size=3)).epoch(0)
    assert (batch.pooled, batch.crops) == (None, None)


@pytest.mark.parametrize("damage", ["flip", "remove", "truncate"])
@pytest.mark.parametrize("array", ["encodings", "latents"])
def test_damage_is_an_error_and_never_a_batch(tmp_path, array, damage):
    store, llm = synthetic.make_store(tmp_path)
    synthetic.encode(store, llm, "a", shard="a")
    path = next(path for path in (tmp_path / "shards/a" / array).rglob("c/**/*") if path.is_file())
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[100] ^= 1
        path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged|checksum|failed|rows"):
        list(EncodingDataset(tmp_path, DatasetConfig(fingerprint=llm, batch_size=4)).epoch(0))
