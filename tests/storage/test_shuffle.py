import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.reading.shuffle import BlockShuffle, batch_bounds, share

SHUFFLES = st.builds(
    BlockShuffle,
    seed=st.integers(0, 2**40),
    block_size=st.integers(1, 9),
    blocks_together=st.integers(1, 9),
    lanes=st.integers(1, 9),
)


@settings(max_examples=60, deadline=None)
@given(SHUFFLES, st.integers(1, 300), st.integers(0, 5))
def test_an_epoch_has_every_sample_once(shuffle, count, epoch):
    order, lanes = shuffle.order(count, epoch)
    assert sorted(order) == list(range(count))
    blocks_of_lane = {}
    for sample, lane in zip(order, lanes, strict=True):
        assert blocks_of_lane.setdefault(sample // shuffle.block_size, lane) == lane
    again, _ = shuffle.order(count, epoch)
    np.testing.assert_array_equal(order, again)


def test_epochs_and_seeds_differ():
    orders = [BlockShuffle(seed=seed).order(1000, epoch)[0] for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4


def test_neighbours_part_but_stay_near():
    """Samples of one block are read together, so they come within one round of the lanes; but not one after another."""
    shuffle = BlockShuffle(block_size=64, blocks_together=16, lanes=8)
    order, _ = shuffle.order(64 * 64, 0)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    spans = np.ptp(place.reshape(64, 64), axis=1)
    assert spans.max() <= 64 * 16
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01


def test_the_order_of_an_epoch_is_for_ever():
    """A run that resumes with a later version of this code must see the same order."""
    order, _ = BlockShuffle(seed=3, block_size=2, blocks_together=4, lanes=2).order(12, 1)
    assert order.tolist() == [6, 1, 8, 0, 9, 11, 7, 10, 4, 3, 5, 2]


@settings(max_examples=100, deadline=None)
@given(SHUFFLES, st.integers(1, 200), st.integers(1, 5), st.integers(1, 7), st.booleans())
def test_ranks_see_disjoint_samples_and_all_of_them(shuffle, count, ranks, batch_size, drop_last):
    order, lanes = shuffle.order(count, 0)
    bounds = batch_bounds(count, 0, batch_size * ranks, ranks, drop_last)
    seen = []
    for a, b in bounds:
        shares = [order[a:b][share(lanes[a:b], rank, ranks)] for rank in range(ranks)]
        sizes = {len(part) for part in shares}
        assert sizes == {batch_size} or (not drop_last and (a, b) == bounds[-1])
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 or count < ranks
        seen += np.concatenate(shares).tolist()
    assert len(set(seen)) == len(seen)
    full = count - count % (batch_size * ranks)
    assert len(seen) == (full if drop_last else count)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 500), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=4), st.data()
)
def test_a_position_goes_on_with_other_ranks_and_batch_sizes(count, phases, data):
    """Whatever the ranks before, the samples after a position are the rest of the epoch."""
    position = 0
    for ranks, batch_size in phases:
        bounds = batch_bounds(count, position, ranks * batch_size, ranks, drop_last=False)
        assert [a for a, _ in bounds] == [position, *(b for _, b in bounds)][: len(bounds)]
        if not bounds:
            assert position == count
            continue
        assert bounds[-1][1] == count
        position = data.draw(st.sampled_from([b for _, b in bounds]))


def test_ranks_read_blocks_of_their_own():
    shuffle = BlockShuffle(block_size=8, blocks_together=8, lanes=4)
    order, lanes = shuffle.order(8 * 64, 0)
    blocks = [set(), set()]
    for a, b in batch_bounds(len(order), 0, 32, 2, drop_last=False):
        for rank in range(2):
            blocks[rank] |= set((order[a:b][share(lanes[a:b], rank, 2)] // 8).tolist())
    assert not blocks[0] & blocks[1]
