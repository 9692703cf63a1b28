"""A run that is interrupted in the middle of an epoch goes on with the batches that it would have seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from storage import EncodingStore
from storage.reading.batch import Batch
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.examples import some
from tests.storage import synthetic

EPOCHS = 3
EARLIER = {"version", "fingerprint", "seed", "block_size", "blocks_together", "lanes", "epoch", "position"}
"""What a state was before there were several shapes of latents."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EncodingStore:
    store, llm = synthetic.make_store(tmp_path_factory.mktemp("resume") / "store")
    for source in ("a", "b"):
        synthetic.encode(store, llm, source, range(40))
    return store


def dataset(store: EncodingStore, **settings: Any) -> EncodingDataset:
    (llm,) = store.fingerprints()
    settings = {"batch_size": 6, "seed": 3, "block_size": 4, "blocks_together": 8, "lanes": 4, **settings}
    return EncodingDataset(store.path, DatasetConfig(fingerprint=llm, version=store.version, **settings))


def loader(data: EncodingDataset) -> StatefulDataLoader:
    return StatefulDataLoader(data, batch_size=None, num_workers=0)


def epochs(batches: Iterable[Batch], count: int = EPOCHS) -> Iterator[Batch]:
    for _ in range(count):
        yield from batches


def content(batch: Batch) -> tuple[list[tuple[str, int]], int, bytes, bytes]:
    bits = batch.encodings.contiguous().view(torch.int16).numpy()
    return batch.rows, batch.position, bits.tobytes(), batch.latents.numpy().tobytes()


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as a checkpoint keeps it."""
    copy: dict[str, Any] = json.loads(json.dumps(state))
    return copy


@pytest.fixture(scope="module")
def uninterrupted(store: EncodingStore) -> list[Any]:
    data = dataset(store)
    found = [content(batch) for epoch in range(EPOCHS) for batch in data.epoch(epoch)]
    assert len(found) == EPOCHS * data.batches_per_epoch
    return found


def each_interruption() -> list[int]:
    """Return numbers of batches: none, some of the first epoch, all of it, some of the second, nearly all, all."""
    return [0, 1, 5, 11, 12, 13, 18, 24, 31, 36]


def test_iterating_gives_one_epoch_after_the_other(store: EncodingStore, uninterrupted: list[Any]) -> None:
    data = dataset(store)
    assert data.batches_per_epoch == 12
    assert [content(batch) for batch in epochs(data)] == uninterrupted


@pytest.mark.parametrize("after", some(each_interruption()))
def test_a_fresh_dataset_goes_on(store: EncodingStore, uninterrupted: list[Any], after: int) -> None:
    data = dataset(store)
    first = [content(batch) for batch in islice(epochs(data), after)]
    state = through_json(data.state_dict())
    again = dataset(store)
    again.load_state_dict(state)
    assert again.state_dict() == state
    left = EPOCHS + 1 - state["epoch"]  # one more, for an epoch whose last batch was the last one seen is empty
    rest = [content(batch) for batch in islice(epochs(again, left), len(uninterrupted) - after)]
    assert first + rest == uninterrupted


@pytest.mark.parametrize("after", some(each_interruption()))
def test_a_fresh_stateful_data_loader_goes_on(store: EncodingStore, uninterrupted: list[Any], after: int) -> None:
    """torchdata's loader keeps the dataset's state in its own, whether or not an epoch was left in the middle."""
    train = loader(dataset(store))
    first = [content(batch) for batch in islice(epochs(train), after)]
    state = train.state_dict()
    again = loader(dataset(store))
    again.load_state_dict(state)
    rest = [content(batch) for batch in islice(epochs(again, EPOCHS + 1), len(uninterrupted) - after)]
    assert first + rest == uninterrupted


def test_a_loader_that_is_interrupted_again_and_again(store: EncodingStore, uninterrupted: list[Any]) -> None:
    """The loop of a training run that is stopped every five batches; its epochs end where they would have."""
    found: list[Any] = []
    ends: list[int] = []
    state: dict[str, Any] | None = None
    while len(ends) < EPOCHS:
        train = loader(dataset(store))
        if state is not None:
            train.load_state_dict(state)
        stop = len(found) + 5
        for batch in train:
            found.append(content(batch))
            state = train.state_dict()
            if len(found) == stop:
                break
        else:
            ends.append(len(found))
            state = train.state_dict()
    assert found == uninterrupted
    assert ends == [12, 24, 36]


def test_the_loader_is_not_read_ahead_of_its_state(store: EncodingStore) -> None:
    """Threads have made more batches than were handed out; those are not lost."""
    data = dataset(store, read_ahead=8)
    batches = iter(data)
    assert next(batches).position == data.state_dict()["position"] == 6
    next(batches)
    assert data.state_dict()["position"] == 12


def test_a_second_iterator_goes_on_after_the_first(store: EncodingStore, uninterrupted: list[Any]) -> None:
    data = dataset(store)
    found = [content(batch) for batch in islice(iter(data), 4)]
    found += [content(batch) for batch in data]
    assert found == uninterrupted[:12]


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 6), (3, 2), (1, 20)])
def test_other_ranks_go_on(store: EncodingStore, ranks: int, batch_size: int) -> None:
    """Every sample of the epoch comes once, though it began with one rank."""
    data = dataset(store)
    rows = [row for batch in islice(iter(data), 4) for row in batch.rows]
    for rank in range(ranks):
        share = dataset(store, rank=rank, world_size=ranks, batch_size=batch_size)
        share.load_state_dict(data.state_dict())
        rows += [row for batch in share for row in batch.rows]
        assert share.state_dict()["epoch"] == 1
    assert len(rows) == len(set(rows)) == data.samples_per_epoch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "state: expected seed 3, found 4"),
        ({"lanes": 2}, "state: expected lanes 4, found 2"),
        ({"version": 0}, "state: expected version 2, found 0"),
        ({"fingerprint": "other"}, "found 'other'"),
        ({"position": 71, "seen": [71]}, "position: expected 0 to 70 of 4x8x8, found"),
        ({"position": -1, "seen": [-1]}, "position: expected 0 to 70 of 4x8x8, found"),
        ({"position": 6}, "state: expected position 0, as seen says, found 6"),
        ({"epoch": -1}, "state: expected an epoch from 0, found -1"),
    ],
)
def test_a_state_of_another_order_is_refused(store: EncodingStore, change: dict[str, Any], message: str) -> None:
    data = dataset(store)
    with pytest.raises(ValueError, match=message):
        data.load_state_dict({**data.state_dict(), **change})
    with pytest.raises(ValueError, match="expected version 2, found None"):
        data.load_state_dict({})


def test_a_state_of_an_earlier_version_goes_on(store: EncodingStore, uninterrupted: list[Any]) -> None:
    data = dataset(store)
    list(islice(iter(data), 4))
    state = {name: value for name, value in data.state_dict().items() if name in EARLIER}
    assert len(state) == len(EARLIER)
    again = dataset(store)
    again.load_state_dict(state)
    assert [content(batch) for batch in again] == uninterrupted[4:12]


@pytest.mark.process
@pytest.mark.parametrize(("start", "error"), [("fork", ValueError), ("spawn", TypeError)])
def test_worker_processes_are_refused(store: EncodingStore, start: str, error: type[Exception]) -> None:
    """Each would read every batch; and the codecs must not be forked after a read."""
    train = StatefulDataLoader(dataset(store), batch_size=None, num_workers=1, multiprocessing_context=start)
    with pytest.raises(error, match="expected num_workers=0, for its threads read ahead"):
        next(iter(train))


def test_a_path_may_be_a_string(store: EncodingStore) -> None:
    (llm,) = store.fingerprints()
    config = DatasetConfig(fingerprint=llm, batch_size=4)
    for path in (str(store.path), Path(store.path)):
        assert EncodingDataset(path, config).version == store.version
