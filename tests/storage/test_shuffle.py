from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.reading.shuffle import BlockShuffle, batch_edges, places_of_rank
from tests.examples import examples

SHUFFLES = st.builds(
    BlockShuffle,
    seed=st.integers(0, 2**40),
    block_size=st.integers(1, 9),
    blocks_together=st.integers(1, 9),
    lanes=st.integers(1, 9),
)


def whole(shuffle, count, epoch):
    return shuffle.order(count, epoch).part(0, count)


def bounds_of(count, start, global_batch, ranks, drop_last):
    return list(pairwise(batch_edges(count, start, global_batch, ranks, drop_last).tolist()))


def sorted_at_once(shuffle, count, epoch, shape):
    """The order by its definition, with all samples in memory."""
    key, counter = (np.array(words, np.uint64) for words in ([shuffle.seed, epoch], [0, 0, shape, 0]))
    random = np.random.Philox(key=key, counter=counter)
    blocks = -(-count // shuffle.block_size)
    place = np.empty(blocks, np.int64)
    place[np.argsort(random.random_raw(blocks), kind="stable")] = np.arange(blocks)
    place = place[np.arange(count) // shuffle.block_size]
    lane, number = place % shuffle.lanes, place // shuffle.lanes
    together = max(1, shuffle.blocks_together // shuffle.lanes)
    by_lane = np.lexsort((random.random_raw(count), number // together, lane))
    lane = lane[by_lane]
    step = np.arange(count) - np.searchsorted(lane, np.arange(shuffle.lanes))[lane]
    by_step = np.lexsort((lane, step))
    return by_lane[by_step], lane[by_step]


@settings(max_examples=examples(100), deadline=None)
@given(SHUFFLES, st.integers(1, 300), st.integers(0, 5), st.integers(0, 3), st.floats(0, 1), st.floats(0, 1))
def test_any_part_of_the_order_is_as_if_all_were_sorted_at_once(shuffle, count, epoch, shape, begin, end):
    first, last = sorted((int(begin * (count - 1)), int(end * (count - 1))))
    expected = sorted_at_once(shuffle, count, epoch, shape)
    found = shuffle.order(count, epoch, shape).part(first, last + 1)
    np.testing.assert_array_equal(found, [each[first : last + 1] for each in expected])


@settings(max_examples=examples(60), deadline=None)
@given(SHUFFLES, st.integers(1, 300), st.integers(0, 5))
def test_an_epoch_has_every_sample_once(shuffle, count, epoch):
    order, lanes = whole(shuffle, count, epoch)
    assert sorted(order) == list(range(count))
    blocks_of_lane = {}
    for sample, lane in zip(order, lanes, strict=True):
        assert blocks_of_lane.setdefault(sample // shuffle.block_size, lane) == lane
    again, _ = whole(shuffle, count, epoch)
    np.testing.assert_array_equal(order, again)


def test_epochs_and_seeds_differ():
    orders = [whole(BlockShuffle(seed=seed), 1000, epoch)[0] for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4


def test_neighbours_part_but_stay_near():
    """Samples of one block are read together, so they come within one round of the lanes; but not one after another."""
    shuffle = BlockShuffle(block_size=64, blocks_together=16, lanes=8)
    order, _ = whole(shuffle, 64 * 64, 0)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    spans = np.ptp(place.reshape(64, 64), axis=1)
    assert spans.max() <= 64 * 16
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01


def test_the_order_of_an_epoch_is_for_ever():
    """A run that resumes with a later version of this code must see the same order."""
    order, _ = whole(BlockShuffle(seed=3, block_size=2, blocks_together=4, lanes=2), 12, 1)
    assert order.tolist() == [6, 1, 8, 0, 9, 11, 7, 10, 4, 3, 5, 2]


@settings(max_examples=examples(100), deadline=None)
@given(SHUFFLES, st.integers(1, 200), st.integers(1, 5), st.integers(1, 7), st.booleans())
def test_ranks_see_disjoint_samples_and_all_of_them(shuffle, count, ranks, batch_size, drop_last):
    order, lanes = whole(shuffle, count, 0)
    bounds = bounds_of(count, 0, batch_size * ranks, ranks, drop_last)
    seen = []
    for a, b in bounds:
        shares = [order[a:b][places_of_rank(lanes[a:b], rank, ranks)] for rank in range(ranks)]
        sizes = {len(part) for part in shares}
        assert sizes == {batch_size} or (not drop_last and (a, b) == bounds[-1])
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 or count < ranks
        seen += np.concatenate(shares).tolist()
    assert len(set(seen)) == len(seen)
    full = count - count % (batch_size * ranks)
    assert len(seen) == (full if drop_last else count)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(1, 500), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=4), st.data()
)
def test_a_position_goes_on_with_other_ranks_and_batch_sizes(count, phases, data):
    """Whatever the ranks before, the samples after a position are the rest of the epoch."""
    position = 0
    for ranks, batch_size in phases:
        bounds = bounds_of(count, position, ranks * batch_size, ranks, drop_last=False)
        assert [a for a, _ in bounds] == [position, *(b for _, b in bounds)][: len(bounds)]
        if not bounds:
            assert position == count
            continue
        assert bounds[-1][1] == count
        position = data.draw(st.sampled_from([b for _, b in bounds]))


def test_ranks_read_blocks_of_their_own():
    shuffle = BlockShuffle(block_size=8, blocks_together=8, lanes=4)
    order, lanes = whole(shuffle, 8 * 64, 0)
    blocks = [set(), set()]
    for a, b in bounds_of(len(order), 0, 32, 2, drop_last=False):
        for rank in range(2):
            blocks[rank] |= set((order[a:b][places_of_rank(lanes[a:b], rank, 2)] // 8).tolist())
    assert not blocks[0] & blocks[1]
