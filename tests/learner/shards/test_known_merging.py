"""What shards made of one row of a history or a rate is what one learner would have made of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.features.known.rings import push, take_out, words_of
from learner.features.known.windows import ROW_WORDS, add, look_back
from learner.shards.known.merging import WINDOWS, merge_rings, merge_rows, merge_windows
from tests.helpers.depth import many

PART_S = 8.0
LENGTH = 4


def windows_of(events: list[tuple[float, int, int]], row: np.ndarray) -> np.ndarray:
    row = row.copy()
    for time, count, total in sorted(events):
        add(row.view(np.uint32), row, time, PART_S, float(count), float(total))
    return row


events = st.lists(st.tuples(st.integers(0, 400).map(lambda t: t / 4), st.integers(1, 5), st.integers(0, 5)))


@settings(max_examples=many(60), deadline=None)
@given(events, st.lists(events, min_size=2, max_size=3))
def test_windows_of_shards_are_those_of_one_learner(before, of_shards):
    old = windows_of(before, np.zeros(ROW_WORDS, dtype=np.float32))
    after = max((time for time, _, _ in before), default=0.0)  # no shard drops what another one keeps
    later = [[(time + after, *said) for time, *said in mine] for mine in of_shards]
    merged = merge_windows(old, np.stack([windows_of(mine, old) for mine in later]))
    alone = windows_of([event for mine in later for event in mine], old)
    last = max((time for mine in later for time, _, _ in mine), default=after)
    for now in (last, last + 0.25, last + 3 * PART_S):
        got, expected = (look_back(row.view(np.uint32), row, now, PART_S) for row in (merged, alone))
        assert got == expected


pushes = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=7)


def pushed(ring: np.ndarray, said: list[tuple[int, int]]) -> np.ndarray:
    ring = ring.copy()
    for key, second in said:
        push(ring, LENGTH, np.uint64(key << 33), second)
    return ring


@settings(max_examples=many(60), deadline=None)
@given(pushes, st.lists(pushes, min_size=2, max_size=3))
def test_rings_of_shards_are_those_of_one_learner(before, of_shards):
    old = pushed(np.zeros(words_of(LENGTH), dtype=np.uint32), before)
    # ids of one second keep the order of ranks; a learner would have met them in some order
    merged = merge_rings(old, np.stack([pushed(old, mine) for mine in of_shards]), LENGTH)
    alone = pushed(old, [one for mine in of_shards for one in mine])
    times = [ring[3::3][: int(ring[0])].tolist() for ring in (merged, alone)]
    assert times[0] == times[1]
    if len({second for mine in (before, *of_shards) for _, second in mine}) == len(before) + sum(
        map(len, of_shards)
    ):
        assert merged.tolist() == alone.tolist()


def test_what_one_shard_takes_out_of_a_ring_is_out_and_what_one_alone_changes_is_taken_as_it_is():
    old = pushed(np.zeros(words_of(LENGTH), dtype=np.uint32), [(1, 1), (2, 2), (3, 3)])
    taken = old.copy()
    assert take_out(taken, np.array([2 << 33], dtype=np.uint64), 2) == 1
    more = pushed(old, [(4, 4)])
    merged = merge_rings(old, np.stack([taken, more]), LENGTH)
    assert merged.tolist() == pushed(taken, [(4, 4)]).tolist()
    rows = np.zeros((2, words_of(LENGTH) + 2), dtype=np.float32)
    rows.view(np.uint32)[0, :-2] = old
    alone = rows[:1].copy()
    alone.view(np.uint32)[0, :-2] = more
    alone.view(np.uint32)[0, -2:] = 7, 3
    new, changed = merge_rows(rows, np.array([0, 0, 1]), np.concatenate([rows[:1], alone, rows[1:]]), LENGTH)
    assert changed.tolist() == [True, False] and (new.view(np.uint32)[0] == alone.view(np.uint32)[0]).all()


def test_last_seen_is_the_latest_and_counts_are_added():
    old = np.zeros((1, ROW_WORDS + 2), dtype=np.float32)
    old.view(np.uint32)[0, -2:] = 5, 2
    rows = np.repeat(old, 2, axis=0)
    rows.view(np.uint32)[:, -2:] = [[9, 3], [7, 4]]
    new, _ = merge_rows(old, np.array([0, 0]), rows, WINDOWS)
    assert new.view(np.uint32)[0, -2:].tolist() == [9, 5]
