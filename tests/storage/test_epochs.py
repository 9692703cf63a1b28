"""Epochs over several shapes of latents, mirror images, drawn captions and repeats: each once, resumed exactly."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import EncodingStore, ShardWriter, caption_hash, content_hash
from storage.reading.batch import Batch
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.examples import examples
from tests.storage import synthetic

SHAPES = {(4, 8, 8): 13, (4, 6, 10): 9, (4, 10, 6): 1}
"""Pictures of each; of the last one there are fewer than ranks."""
SOURCES = ("1_a/", "3_b/")


class KnownRow(NamedTuple):
    """What the tests know of a row."""

    picture: str
    caption: str


def caption(picture: str, number: int) -> str:
    return f"caption {number} of {picture}" + (", a Left, hand" if number == 1 else "")


def make(folder: Path, pairs: bool) -> tuple[EncodingStore, dict[tuple[str, int], KnownRow]]:
    """A store of 23 pictures in two sources with one to three captions each, and what its rows are."""
    store, llm = synthetic.make_store(folder)
    rows: dict[tuple[str, int], KnownRow] = {}
    pictures = [shape for shape, count in SHAPES.items() for _ in range(count)]
    for source in SOURCES:
        with ShardWriter(store, None, llm) as writer:
            row = 0
            for i, shape in list(enumerate(pictures))[SOURCES.index(source) :: 2]:
                picture = f"picture {i}"
                latent = [synthetic.latent(f"{picture}{side}", shape) for side in ("", " mirrored")]
                writer.add_latent(content_hash(picture.encode()), np.stack(latent) if pairs else latent[0])
                for number in range(1 + i % 3):
                    text = caption(picture, number)
                    writer.add_encoding(caption_hash(text), synthetic.encoding(text))
                    sample = synthetic.sample(llm, source, row, text)
                    about = {**vars(sample), "source": source, "latent_key": content_hash(picture.encode())}
                    writer.add_sample(type(sample)(**about))
                    rows[source, row] = KnownRow(picture, text)
                    row += 1
    return store, rows


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "mirrored"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("epochs") / "store", request.param)


def dataset(store: EncodingStore, **options: Any) -> EncodingDataset:
    options = {"seed": 3, "block_size": 2, "blocks_together": 4, "lanes": 2, **options}
    return EncodingDataset(store.path, DatasetConfig(fingerprint=next(iter(store.fingerprints())), **options))


def of_ranks(store: EncodingStore, ranks: int, epoch: int, position: Any = 0, **options: Any) -> list[list[Batch]]:
    """The global batches of an epoch, each as its ranks' parts."""
    data = [dataset(store, rank=rank, world_size=ranks, **options) for rank in range(ranks)]
    return list(map(list, zip(*(each.epoch(epoch, position=position) for each in data), strict=True)))


def entries(together: Iterable[Batch]) -> list[tuple[str, int, int, bool]]:
    """What a global batch trains on: row, repeat and orientation, sorted."""
    found = []
    for batch in together:
        if batch.borrowed:
            continue
        mirrored = [False] * len(batch.rows) if batch.mirrored is None else batch.mirrored.tolist()
        repeats = batch.repeats or [0] * len(batch.rows)
        found += [(*row, n, side) for row, n, side in zip(batch.rows, repeats, mirrored, strict=True)]
    return sorted(found)


def check_content(batch: Batch, rows: dict[tuple[str, int], KnownRow]) -> None:
    for i, row in enumerate(batch.rows):
        mirrored = batch.mirrored is not None and bool(batch.mirrored[i])
        side = " mirrored" if mirrored else ""
        expected = synthetic.latent(f"{rows[row].picture}{side}", tuple(batch.latents.shape[1:]))
        np.testing.assert_array_equal(batch.latents[i].numpy(), expected)
        assert batch.caption_hashes[i] == caption_hash(rows[row].caption)
        assert not (mirrored and "Left" in rows[row].caption)


OPTIONS = st.fixed_dictionaries(
    {
        "caption_choice": st.sampled_from(["all", "one"]),
        "flip": st.booleans(),
        "repeats": st.sampled_from([{}, {"3_b/": 3}]),
        "seed": st.integers(0, 9),
    }
)


@settings(max_examples=examples(10), deadline=None)
@given(
    options=OPTIONS,
    ranks=st.integers(1, 4),
    batch_size=st.integers(1, 4),
    epoch=st.integers(0, 2),
    moment=st.floats(0, 1),
    legs=st.sampled_from([1, 2, 3, 4]),
    smaller=st.integers(1, 5),
)
def test_each_entry_once_of_one_shape_and_resumed_exactly(
    stored: Any, options: Any, ranks: int, batch_size: int, epoch: int, moment: float, legs: int, smaller: int
) -> None:
    store, rows = stored
    whole = of_ranks(store, ranks, epoch, batch_size=batch_size, **options)
    seen = (0,) * len(SHAPES)
    for together in whole:
        assert len({tuple(batch.latents.shape[1:]) for batch in together}) == 1
        assert len({batch.seen for batch in together}) == 1
        sizes = [0 if batch.borrowed else len(batch.rows) for batch in together]
        assert sum(sizes) <= ranks * batch_size
        assert max(sizes) - min(sizes) <= 1
        assert sum(together[0].seen) == together[0].position == sum(seen) + sum(sizes)
        seen = together[0].seen
        for batch in together:
            check_content(batch, rows)
    came = Counter(
        (rows[row, n].picture if options["caption_choice"] == "one" else (row, n), repeat)
        for together in whole
        for row, n, repeat, _ in entries(together)
    )
    expected = expected_entries(rows, options)
    assert came == Counter(expected)
    data = dataset(store, batch_size=batch_size, rank=0, world_size=ranks, **options)
    assert data.samples_per_epoch == len(expected) == whole[-1][0].position
    assert data.batches_per_epoch == len(whole)
    at = int(moment * len(whole))
    position = whole[at - 1][0].seen if at else 0
    assert data.batches_left(position) == len(whole) - at
    if ranks * batch_size % legs == 0:  # the same global batch on other ranks
        rest = of_ranks(store, legs, epoch, position, batch_size=ranks * batch_size // legs, **options)
        assert [entries(together) for together in rest] == [entries(together) for together in whole[at:]]
    rest = of_ranks(store, legs, epoch, position, batch_size=smaller, **options)
    left = sorted(entry for together in whole[at:] for entry in entries(together))
    assert sorted(entry for together in rest for entry in entries(together)) == left


def expected_entries(rows: dict[tuple[str, int], KnownRow], options: Any) -> list[Any]:
    names = {(place.picture if options["caption_choice"] == "one" else row, row[0]) for row, place in rows.items()}
    return [(name, n) for name, source in names for n in range(options["repeats"].get(source, 1))]


@settings(max_examples=examples(6), deadline=None)
@given(options=OPTIONS, stop=st.integers(0, 40))
def test_a_state_goes_on_with_the_batches_that_would_have_come(stored: Any, options: Any, stop: int) -> None:
    store, _ = stored
    whole = [content(batch) for batch in several(dataset(store, batch_size=4, **options), 2)]
    data = dataset(store, batch_size=4, **options)
    first = [content(batch) for batch in islice(several(data, 2), stop)]
    state = json.loads(json.dumps(data.state_dict()))
    again = dataset(store, batch_size=4, **options)
    again.load_state_dict(state)
    assert again.state_dict() == state
    rest = islice(several(again, 3 - state["epoch"]), len(whole) - len(first))
    assert first + [content(batch) for batch in rest] == whole


def several(data: EncodingDataset, epochs: int) -> Iterable[Batch]:
    for _ in range(epochs):
        yield from data


def content(batch: Batch) -> tuple[Any, ...]:
    return batch.rows, batch.seen, batch.repeats, entries([batch]), batch.latents.numpy().tobytes()


def test_captions_and_orientations_are_drawn_evenly(stored: Any) -> None:
    store, rows = stored
    captions, sides = Counter[str](), Counter[bool]()
    epochs = 60
    data = dataset(store, batch_size=64, caption_choice="one")
    for epoch in range(epochs):
        for batch in data.epoch(epoch):
            captions.update(rows[row].caption for row in batch.rows)
            if batch.mirrored is not None:
                pairs = zip(batch.mirrored.tolist(), batch.rows, strict=True)
                free = [side for side, row in pairs if "Left" not in rows[row].caption]
                sides.update(free)
    for place in rows.values():
        each = sum(other.picture == place.picture for other in rows.values())
        assert captions[place.caption] == pytest.approx(epochs / each, abs=5 * (epochs / each) ** 0.5 * (each > 1))
    if sides:
        assert sides[True] == pytest.approx(sides.total() / 2, rel=0.15)
    assert bool(sides) == any(name.startswith("2x") for name in data.index.shapes)


def test_repeats_lie_apart(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path)
    synthetic.encode(store, llm, "a", range(300))
    data = EncodingDataset(
        tmp_path,
        DatasetConfig(fingerprint=llm, batch_size=10, repeats={"a.parquet": 2}, block_size=4, blocks_together=8),
    )
    batches = [batch.rows for batch in data.epoch(0)]
    assert sum(len(set(rows)) < len(rows) for rows in batches) < len(batches) / 4


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_spread_over_the_epoch(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """No quarter of an epoch has more than twice its part of a shape's batches."""
    store, llm = synthetic.make_store(tmp_path)
    with ShardWriter(store, "a", llm) as writer:
        writer.add_encoding(caption_hash("x"), synthetic.encoding("x"))
        for row in range(240):
            of_row = list(SHAPES)[row * 2 // 240 if row % 3 else 2]
            writer.add_latent(synthetic.latent_key("a", row), synthetic.latent("x", of_row))
            writer.add_sample(synthetic.sample(llm, "a", row, "x"))
    shapes = [tuple(batch.latents.shape[1:]) for batch in dataset(store, batch_size=2).epoch(0)]
    quarters = [shapes[i : i + 30].count(shape) for i in range(0, 120, 30)]
    assert sum(quarters) == 40
    assert max(quarters) <= 20


def test_drop_last_leaves_out_what_is_left_of_each_shape(stored: Any) -> None:
    store, _ = stored
    batches = of_ranks(store, 2, 0, batch_size=2, drop_last=True, caption_choice="one")
    assert [len(batch.rows) for together in batches for batch in together] == [2] * 10
    assert Counter(tuple(parts[0].latents.shape[1:]) for parts in batches) == {(4, 8, 8): 3, (4, 6, 10): 2}


def test_mirroring_is_turned_off_by_words_whole_and_in_any_case(tmp_path: Path) -> None:
    texts = ["x", "to the LEFT.", "leftmost", "left-handed", "bright", "слева от", "a Слева"]
    store, llm = synthetic.make_store(tmp_path)
    with ShardWriter(store, "a", llm) as writer:
        for row, text in enumerate(texts):
            writer.add_encoding(caption_hash(text), synthetic.encoding(text))
            writer.add_latent(synthetic.latent_key("a", row), np.zeros((2, 4, 8, 8), np.float16))
            writer.add_sample(synthetic.sample(llm, "a", row, text))

    def free(**options: Any) -> list[str]:
        found = dataset(store, batch_size=1, **options).index.may_flip
        return [text for text, may in zip(texts, found, strict=True) if may]

    assert free() == ["x", "leftmost", "bright", "слева от", "a Слева"]
    assert free(flip_words=("слева", "a.")) == ["x", "to the LEFT.", "leftmost", "left-handed", "bright"]
    assert free(flip_words=()) == texts
    assert free(flip=False) == []


def test_a_state_of_other_draws_is_refused(stored: Any) -> None:
    store, _ = stored
    data = dataset(store, batch_size=4)
    changes: list[dict[str, Any]] = [{"caption_choice": "one"}, {"repeats": {"3_b/": 2}}]
    if data.index.may_flip.any():
        changes += [{"flip": False}, {"flip_words": ("x",)}]
    for change in changes:
        other = dataset(store, batch_size=4, **change)
        for one, two in ((data, other), (other, data)):
            with pytest.raises(ValueError, match="state: expected (caption_choice|repeats|flip_words) "):
                one.load_state_dict(two.state_dict())


def test_positions_of_other_shapes_are_refused(stored: Any) -> None:
    store, _ = stored
    data = dataset(store, batch_size=4)
    for position in (4, (4,), (4, 0, 0, 0), (0, -1, 0), (99, 0, 0)):
        with pytest.raises(ValueError, match="position: expected 0 to .* of .*4x10x6 and 0 to .* of .*4x6x10 and "):
            data.epoch(0, position=position)
    with pytest.raises(ValueError, match=r"repeats: expected numbers >= 1, found '3_b/': 0"):
        dataset(store, batch_size=4, repeats={"3_b/": 0})


def test_an_epoch_of_one_shape_is_what_it_has_always_been(tmp_path: Path) -> None:
    """The digest is of the version that knew one shape alone."""
    store, llm = synthetic.make_store(tmp_path)
    for source in ("a", "b"):
        synthetic.encode(store, llm, source, range(40))
    digest = hashlib.sha256()
    for ranks, batch_size, drop_last in ((1, 6, False), (3, 5, False), (2, 8, True)):
        for rank in range(ranks):
            place = {"rank": rank, "world_size": ranks, "batch_size": batch_size, "drop_last": drop_last}
            config = DatasetConfig(fingerprint=llm, seed=3, block_size=4, blocks_together=8, lanes=4, **place)
            data = EncodingDataset(store.path, config)
            for epoch in (0, 1):
                for batch in data.epoch(epoch):
                    digest.update(repr((batch.rows, batch.position, batch.caption_hashes)).encode())
                    new = batch.seen, batch.mirrored, batch.repeats, batch.borrowed
                    assert new == ((batch.position,), None, None, False)
    assert digest.hexdigest() == "05c9d1fd14643f375da550c78d85070c0c5a8ee02e79204348e56c481f0aa198"
