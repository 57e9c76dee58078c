"""Sightings of new, expired and evicted ids, processed one by one."""

import numpy as np
from numba import njit

from embeddings.core.eviction import begin, evicted, limit, note_limit, pass_time, turn, use
from embeddings.core.index import ask, guess_one, locate, remove, tag_of
from embeddings.core.lifetimes import SWEPT_PER_ROW, advance, count_in, count_out, renew
from embeddings.core.positions import Ages, State
from embeddings.core.slots import mark, release, start_row, take_slot
from embeddings.core.store import AHEAD, TAIL
from embeddings.kernels.admission import admit, ask_for_line
from embeddings.kernels.expiry import gone, sweep_evicted, sweep_expired
from embeddings.kernels.lookup import UNSEEN, ask_for_row, lines_of
from ground.kernels.intrinsics import borrow, prefetch
from ground.kernels.simd import copy


@njit(cache=True, nogil=True)
def take_in(store, rules, sightings, one_by_one, removed):
    """Find the row of each sighting of an UNSEEN id, or make one if it is admitted, in order.

    Args:
        rules: the table's `Rules`.
        sightings: the batch; `slots` and `vectors` are completed, -1 and zeros where there is no row, and
            `inverse` becomes the number of each sighting's slot. With eviction, the clock has been moved
            over the batch and `stamps` are known, unless `one_by_one`.
        one_by_one: all ids are UNSEEN, and eviction's clock advances with each sighting: rows may be
            evicted within the batch.
        removed: uint64, out: keys whose row was expired or evicted; `sighting.py` computes its size.

    Returns:
        How many numbers there are, at least as many as distinct keys, and how many keys are in `removed`.
    """
    buckets = borrow(store.buckets)
    rows = borrow(store.rows)
    bits = borrow(store.bits)
    slot_key = borrow(store.slot_key)
    versions = borrow(store.versions)
    in_use = borrow(store.in_use)
    listed = borrow(store.listed)
    touched = borrow(store.touched)
    free = borrow(store.free)
    template = borrow(store.template)
    filter_lines = borrow(store.filter_lines)
    line_changed = borrow(store.line_changed)
    changed = borrow(store.changed)
    ages = borrow(store.ages)
    held = borrow(store.held)
    age_times = borrow(store.age_times)
    alive = borrow(store.alive)
    path = borrow(store.path)
    state = borrow(store.state)
    keys, slots, vectors = borrow(sightings.keys), borrow(sightings.slots), borrow(sightings.vectors)
    times, inverse, stamps = borrow(sightings.times), borrow(sightings.inverse), borrow(sightings.stamps)
    distinct = sightings.distinct.shape[0]
    seen_column = bits.shape[1] - TAIL
    ttl_s, tick_s = rules.ttl_s, rules.tick_s
    evicts = rules.classes > 0
    counts_alive = ttl_s > 0 and not evicts
    usable = state[State.FREE_TAIL]
    n = keys.shape[0]
    lines = lines_of(bits, vectors.shape[1], rules)
    current = np.empty(distinct, dtype=np.int64)  # the current number of each UNSEEN id
    wanted = np.empty(distinct, dtype=np.uint8)  # bytes, so that they stay in the L1 cache
    for i in range(distinct):
        wanted[i] = slots[i] == UNSEEN
    for i in range(distinct):
        if wanted[i]:
            current[i] = i
    todo = np.empty(n + 1, dtype=np.int64)
    end = np.uint64(0)
    for i in range(n):
        todo[end] = i
        end += np.uint64(wanted[np.uint64(inverse[i])])
    todo_count = np.int64(end)
    clock = ages[Ages.NEWEST]  # the table's clock at the sighting before `passed`
    passed = 0
    count = distinct
    out = 0
    due = 0  # slots that the hand must check for the new rows
    due_expired = 0  # slots that the sweep for expired rows must check
    for step in range(todo_count + 2 * AHEAD):
        if step < todo_count:
            ask(buckets, state, keys[todo[step]])
            if rules.admit_after > 1:
                ask_for_line(filter_lines, keys[todo[step]])
        if AHEAD <= step < todo_count + AHEAD:
            soon = guess_one(buckets, state, tag_of(state, keys[todo[step - AHEAD]]))
            if soon >= 0:
                ask_for_row(bits, soon, lines)
        if step < 2 * AHEAD:
            continue
        i = todo[step - 2 * AHEAD]
        which = inverse[i]
        key = keys[i]
        time = times[i]
        now = np.int64(0)
        if counts_alive:
            clock = max(clock, np.int64(times[passed : i + 1].max()))
            passed = i + 1
            advance(alive, ages, clock, rules)
        if one_by_one and evicts:
            if ages[Ages.LEFT] == 0 and turn(held, ages, age_times, rules):
                out = sweep_evicted(store, rules, state[State.HIGH], removed, out)
                due = 0
                limit(held, ages, state, rules.rows_max)
                note_limit(alive, ages, state)
            ages[Ages.LEFT] -= 1
            pass_time(ages, age_times, time)
            now = ages[Ages.GENERATION]
        elif evicts:
            now = np.int64(stamps[which])
        slot = locate(buckets, slot_key, state, key)
        if slot >= 0 and (ttl_s > 0 or evicts):
            seen = bits[slot, seen_column]
            lost = gone(np.int64(seen), np.int64(time), ttl_s, tick_s)
            state[State.EXPIRED] += lost
            if lost or evicted(bits, ages, slot, rules):
                remove(buckets, state, key, slot)
                release(in_use, free, state, slot)
                if counts_alive:
                    count_out(alive, ages, seen, rules)
                removed[out] = key
                out += 1
                slot = np.int64(-1)
            else:
                wrote = evicts and use(bits, held, ages, slot, rules, now)
                if ttl_s > 0 and time > seen:
                    if counts_alive:
                        renew(alive, ages, seen, time, rules)
                    bits[slot, seen_column] = time
                    wrote = True
                if wrote:
                    mark(listed, touched, state, slot)
        if slot < 0:
            if not admit(filter_lines, line_changed, changed, state, key, time, rules):
                state[State.REFUSED] += 1
            else:
                # Without a count of those alive, the slots are the limit, unless rows rest on disk.
                held_rows = ages[Ages.HELD] if counts_alive else state[State.LIVE] + state[State.RESTING]
                if evicts or held_rows < rules.rows_max:
                    slot = take_slot(buckets, path, slot_key, versions, in_use, free, state, key, usable)
                if slot < 0:
                    state[State.FULL] += 1
                else:
                    prefetch(bits, np.int64(free[(state[State.FREE_HEAD] + AHEAD) % free.shape[0]]), 0)
                    start_row(rows, bits, versions, template, slot, key, time, rules)
                    mark(listed, touched, state, slot)
                    state[State.INSERTED] += 1
                    if ttl_s > 0 and state[State.LIVE] > rules.crowded:
                        due_expired += SWEPT_PER_ROW
                    if counts_alive:
                        count_in(alive, ages, time, rules)
                    if evicts:
                        begin(bits, held, ages, slot, rules, now, np.int64(1))
                        due += state[State.STRIDE]
        number = current[which]
        if slots[number] != slot:
            if slots[number] != UNSEEN:
                number = count
                count += 1
                current[which] = number
            slots[number] = slot
            if slot >= 0:
                copy(rows, np.uint64(slot), 0, vectors, number, 0, vectors.shape[1])
            else:
                vectors[number, :] = 0
        inverse[i] = number
    if due > 0:
        out = sweep_evicted(store, rules, due, removed, out)
    clock = max(clock, np.int64(times.max()))
    if counts_alive:
        advance(alive, ages, clock, rules)
    if due_expired > 0:
        out = sweep_expired(store, rules, clock, due_expired, removed, out)
    return count, out
