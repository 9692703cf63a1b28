"""Encoding in threads: the same shards as in one, and no thread left, however it ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from llmdiff.data.encode import EncoderSet, encode_shard, prepare
from llmdiff.data.encode.pipeline import Behind, ahead
from llmdiff.data.encode.reading import ROWS_AT_ONCE, ShardReader
from llmdiff.data.in_order import in_order
from llmdiff.data.sources import SourceShard, open_source
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore, ShardWriter
from storage.maintenance.verify import verify
from tests.data.conftest import SIZE
from tests.data.pictures import encoded, picture, write_parquet
from tests.data.sequential import encode_in_turn
from tests.encoder import tiny_models
from tests.examples import some
from tests.stores import left_behind

ROWS = ROWS_AT_ONCE + 40
REFUSED = 73
"""Rows whose caption has no finite encoding under `poisoned`."""


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> SourceShard:
    """More rows than are read at once; pictures and captions that come again, near and far, and rows of no use."""
    words = [word for word in tiny_models.WORDS if word not in ("a", "an", "the")]
    pngs = [encoded(picture(40 + i % 7, 30, seed=i)) for i in range(120)]
    rows: list[tuple[bytes | None, str | None]] = [
        (pngs[i * 7 % len(pngs) if i % 5 else 3], f"a {words[i % len(words)]} {words[i % 4]}") for i in range(ROWS)
    ]
    for i in (0, 17, 100, ROWS - 1):
        rows[i] = (rows[i][0], "") if i % 2 else (b"no picture", rows[i][1])
    rows[ROWS_AT_ONCE + 2] = (None, "no picture")
    (found,) = open_source(write_parquet(tmp_path_factory.mktemp("data") / "a.parquet", rows))
    return found


def poisoned() -> Encoder:
    """An encoder to which one word gives no finite encoding."""
    model, tokenizer = tiny_models.build("llama"), tiny_models.tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("blue")] = torch.inf
    return Encoder(model, tokenizer, EncoderConfig(dtype="float32"))


def files_of(store: EncodingStore) -> dict[str, bytes]:
    """All bytes of the shard that holds the samples, by path in it."""
    (name,) = set(store.samples()["shard"].to_pylist())
    folder = Path(str(store.path), "shards", name)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows_of(store: EncodingStore) -> list[list[dict[str, Any]]]:
    """Samples, rejects and repeats in the order in which they were committed."""
    of_samples = pc.field("source").is_valid()
    names = ["shard", "encoding_shard", "latent_shard"]
    return [
        store.snapshot().read(store.samples().schema.names, of_samples).drop_columns(names).to_pylist(),
        store.rejects().drop_columns(["shard"]).to_pylist(),
        store.snapshot().repeats().drop_columns(["shard"]).to_pylist(),
    ]


@pytest.mark.parametrize("threads", some([1, 3]))
def test_the_shards_are_those_of_one_thread_bit_for_bit(
    shard: SourceShard, latent_encoder: LatentEncoder, threads: int, tmp_path: Path
) -> None:
    in_turn, piped = (EncodingStore.create(tmp_path / name) for name in ("in-turn", "piped"))
    encoder = poisoned()
    encode_in_turn(in_turn, shard, prepare(in_turn, encoder, latent_encoder, SIZE))
    encoders = replace(prepare(piped, encoder, latent_encoder, SIZE), threads=threads)
    report = encode_shard(piped, shard, encoders)
    assert (report.samples, report.rejected["not_finite"]) == (len(in_turn.samples()), REFUSED)
    assert report.rejected.total() == len(in_turn.rejects())
    assert files_of(piped) == files_of(in_turn)
    assert rows_of(piped) == rows_of(in_turn)
    assert verify(piped) == []


class Interrupted(LatentEncoder):
    """An autoencoder in whose third pass somebody presses Ctrl-C."""

    passes = 0

    def __call__(self, images: Any) -> torch.Tensor:
        self.passes += 1
        if self.passes == 3:
            raise KeyboardInterrupt
        return super().__call__(images)


def threads_of_ours() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(("read_", "decode_", "lay_", "write_"))]


def test_ctrl_c_ends_every_thread_and_leaves_nothing_half_written(
    store: EncodingStore, shard: SourceShard, encoder: Encoder, latent_encoder: LatentEncoder
) -> None:
    encoders = prepare(store, encoder, Interrupted(latent_encoder.vae), SIZE)
    version, before = store.version, threads_of_ours()
    with pytest.raises(KeyboardInterrupt):
        encode_shard(store, shard, encoders)
    assert threads_of_ours() == before
    assert store.version == version
    assert left_behind(store) == []
    done = encode_shard(store, shard, encoders)
    assert done.samples + done.repeated == ROWS - 5


def test_a_disk_that_is_full_behind_the_models_ends_the_shard(
    store: EncodingStore, shard: SourceShard, encoders: EncoderSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.version

    def full(self: ShardWriter, key: str, latent: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "latents")

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add_latent", full)
        with pytest.raises(OSError, match="No space left on device: 'latents'"):
            encode_shard(store, shard, encoders)
    assert threads_of_ours() == []
    assert (store.version, left_behind(store)) == (version, [])


def test_reading_goes_no_further_ahead_than_it_may(
    store: EncodingStore, shard: SourceShard, encoders: EncoderSet
) -> None:
    """A chunk is with the decoders, one is read, and one is being read; nothing goes on until a step is asked for."""
    read = []

    def many() -> Iterator[tuple[int, Any]]:
        for number, row in ((number, row) for _ in range(8) for number, row in shard.rows()):
            read.append(number)
            yield number, row

    with ShardReader(store.snapshot(), encoders).steps(many()) as steps:
        next(steps)
        deadline = time.monotonic() + 20
        while len(read) < 3 * ROWS_AT_ONCE and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(read) <= 4 * ROWS_AT_ONCE


def test_an_iterator_is_ahead_by_so_many_and_ends_when_it_is_closed() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    found = ahead(numbers(), 3, "made-ahead")
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    found.close()  # type: ignore[attr-defined] # it is a generator
    assert len(made) <= 5 + 3
    assert not [each for each in threading.enumerate() if each.name.startswith("made-ahead")]


def test_an_error_ahead_is_raised_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    found = ahead(numbers(), 4, "made-ahead")
    assert next(found) == 1
    with pytest.raises(ValueError, match="the second"):
        next(found)


def test_results_come_in_order_and_those_not_begun_are_cancelled() -> None:
    begun: list[Future[Any]] = []
    ended = threading.Event()
    with ThreadPoolExecutor(4) as pool:

        def start(work: Callable[[], Any]) -> Future[Any]:
            begun.append(pool.submit(work))
            return begun[-1]

        def slower_first(i: int) -> Future[Any]:
            return start(lambda: time.sleep(0.01 * (5 - i % 5)) or i)

        def hold(i: int) -> Future[Any]:
            return start(lambda: i == 0 or ended.wait(60))

        assert list(in_order(slower_first, range(20), 6)) == [(i, i) for i in range(20)]
        begun.clear()
        found = in_order(hold, iter(range(100)), 30)
        assert next(found) == (0, True)
        found.close()
        ended.set()
        assert len(begun) == 31
        assert sum(each.cancelled() for each in begun) >= 31 - 1 - 4, "all but the first, and one a thread"


def test_calls_behind_keep_their_order_and_their_errors_come_up() -> None:
    done: list[int] = []
    with Behind(2, "behind") as behind:
        for i in range(50):
            behind(done.append, i)
    assert done == list(range(50))
    with pytest.raises(OSError, match="no space"):
        fail_behind()
    assert not [each for each in threading.enumerate() if each.name.startswith("behind")]


def fail_behind() -> None:
    def fail() -> None:
        raise OSError("no space")

    with Behind(2, "behind") as behind:
        behind(fail)
        for _ in range(1000):
            behind(time.sleep, 0.001)
        pytest.fail("expected the error within a thousand calls, found none")
