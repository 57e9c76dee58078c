"""Process a batch of sightings as if one by one, in order, with one lookup per distinct id."""

import numpy as np
import numpy.typing as npt

from embeddings.core.eviction import limit_is_far, pass_batch
from embeddings.core.lifetimes import SWEPT_PER_ROW
from embeddings.core.positions import AGES_SIZE, Ages, State
from embeddings.core.store import Store
from embeddings.kernels import arrivals, batches, lookup
from embeddings.kernels.lookup import Sightings
from embeddings.spec import Rules, TableSpec
from embeddings.types import Block, Keys


def sight(
    spec: TableSpec, store: Store, rules: Rules, keys: Keys, times: npt.NDArray[np.uint32], columns: int
) -> tuple[Block, Keys]:
    """Find or make the row of each sighting, and fetch its first columns.

    Distinct ids whose row exists throughout the batch are looked up once each; the sightings of the others
    are processed one by one. If rows may be evicted within a batch, all its sightings are processed one by
    one. Optimistic: assume that nothing is evicted, and roll back if the number of new ids shows otherwise.

    Args:
        keys, times: (n,) uint64 and (n,) uint32.

    Returns:
        The block of the batch, and the keys whose expired or evicted rows were removed.
    """
    n = len(keys)
    distinct, inverse = batches.number(keys, np.uint64(store.state[State.SALT]))
    m = len(distinct)
    evicts = spec.evict != "none"
    latest = np.zeros(m if spec.ttl_s else 0, dtype=np.uint32)
    first_time, last_time = (int(times[0]), int(times.max())) if spec.ttl_s and n else (0, 0)
    if spec.ttl_s and n:
        latest[:] = times.min()
        if last_time != latest[0]:
            batches.newest(inverse, times, latest)
    if evicts:
        one_by_one = _may_expire_within(spec, store, times)
    else:  # `lifetimes.py` has cells for two TTLs, no more
        one_by_one = spec.ttl_s > 0 and last_time - max(first_time, int(store.ages[Ages.NEWEST])) > spec.ttl_s
    sure = one_by_one or not evicts or limit_is_far(store.ages, spec.rows_max, n, m)
    sightings = Sightings(
        keys=keys,
        times=times,
        distinct=distinct,
        inverse=inverse,
        latest=latest,
        tally=np.zeros(m if spec.evict == "least_frequent" else 0, dtype=np.uint32),
        stamps=np.empty(m if evicts else 0, dtype=np.uint32),
        before=np.empty(0 if sure else m, dtype=np.uint64),
        uses_before=np.empty(m if not sure and spec.evict == "least_frequent" else 0, dtype=np.uint32),
        slots=np.empty(n, dtype=np.int64),
        vectors=np.empty((n, columns), dtype=np.float32),
    )
    clock = store.book[len(store.filter_lines) :]
    clock_before = clock[:0] if sure else clock.copy()
    if evicts and not one_by_one:
        if len(sightings.tally):
            batches.tally(inverse, sightings.tally)
        pass_batch(store.held, store.ages, store.age_times, rules, times, inverse, sightings.stamps)
    unseen = m
    if not one_by_one:
        unseen = lookup.meet(store, rules, sightings, first_time, last_time, sure)
    if not sure:
        ages = clock_before.view(np.int64).reshape(-1)[:AGES_SIZE]
        if not limit_is_far(ages, spec.rows_max, n, unseen):
            lookup.unmeet(store, rules, sightings)
            clock[:] = clock_before
            one_by_one, unseen = True, m
    if one_by_one:
        sightings.slots[:m] = lookup.UNSEEN
    count, removed = m, np.empty(0, dtype=np.uint64)
    if unseen:
        removed = np.empty(_removals_max(spec, store, rules, times, unseen, one_by_one), dtype=np.uint64)
        count, removed_count = arrivals.take_in(store, rules, sightings, one_by_one, removed)
        removed = removed[:removed_count]
    return Block(sightings.slots[:count], inverse, sightings.vectors[:count]), removed


def _removals_max(
    spec: TableSpec, store: Store, rules: Rules, times: npt.NDArray[np.uint32], unseen: int, one_by_one: bool
) -> int:
    """How many rows a batch with `unseen` UNSEEN ids may remove at most.

    Not more than needed: if each step allocates and frees a large array, the allocator returns its memory to
    the system, and the next step has to map all of it again.
    """
    n = len(times)
    if not spec.rows_leave:
        return 0
    high = int(store.state[State.HIGH]) + n
    if one_by_one:
        return 2 * n + high
    if spec.ttl_s and int(times.max()) - int(times.min()) > spec.ttl_s:
        unseen = n  # the row of an id may be made and expire within the batch
    swept = unseen * int(store.state[State.STRIDE]) if spec.evict != "none" else 0
    if spec.ttl_s and int(store.state[State.LIVE]) + unseen > rules.crowded:
        swept += unseen * SWEPT_PER_ROW
    return unseen + min(swept, high)


def _may_expire_within(spec: TableSpec, store: Store, times: npt.NDArray[np.uint32]) -> bool:
    """Whether a row may expire between two sightings of a batch within which a generation ends."""
    if spec.ttl_s == 0 or len(times) <= store.ages[Ages.LEFT]:
        return False
    return max(int(times.max()), int(store.ages[Ages.NEWEST])) - int(times.min()) > spec.ttl_s
