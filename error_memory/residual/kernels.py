"""The kernels of the residual memory: look up a row's keys, correct a prediction, learn a request.

Most of the time is spent waiting for memory. So the cache lines of a request are prefetched while earlier
requests are learned (`observe_rows`).
"""

from math import isnan, log, sqrt

import numpy as np
from numba import njit

from error_memory.residual import cells as table
from error_memory.residual import gate as gates
from error_memory.residual import generations, levels
from error_memory.residual.levels import CLOCK, EXAMPLES, GAINS, MOVED_AT, SCALES, SMALL, SQUARES
from ground.kernels.bayes import PROBIT, error_of, move, predict
from ground.kernels.intrinsics import borrow, prefetch, prefetch_element
from ground.kernels.logistic import logit, sigmoid
from ground.rows import Rows

LOGIT_MAX = 16.0
"""A base probability of 0 or 1 counts as this logit, so that one wrong certainty does not dominate the
memory."""
HALF_LIVES_OPEN = 16.0
"""A generation closes at this age, in half lives, so that float32 holds its scale."""
LARGE = 0.7
"""At this correction of one key (in logits) the other keys of the row learn half as much, and less above it,
so that one odd entity does not bias the keys seen with it."""

# Indices into the array of counters; `error_memory.residual.levels` has those of the other array.
CURRENT, NEXT_EPOCH, SPAN, WATERMARK, EVICTED, MERGES, SKIPPED = range(7)
SCALE_RATE, SCALE_SQUARES = 0.3, 30.0
SCALE_MIN, SCALE_MAX = -4.0, 0.0
"""One factor on all prior variances is learned by gradient too, for each power of two of examples held; it
learns faster than a column's own variance. Adagrad's rate and initial sum of squares, and the range of ln
factor."""

_find, _total, _claim, _settle, _tag_of = table.find, table.total, table.claim, table.settle, table.tag_of
_bucket_of = table.bucket_of
_free_place, _merge_neighbours = generations.free_place, table.merge_neighbours
_tick, _oldest_epoch = generations.tick, generations.oldest_epoch
_logloss, _level_of, _moved, _bounded = gates.logloss, gates.level_of, gates.moved, gates.bounded
_gain, _scale = levels.gain, levels.scale
_shrink = table.shrink
REPEATED = -2
_NO_EPOCH = np.uint32(0xFFFFFFFF)


@njit(cache=True, nogil=True, error_model="numpy")
def _borrowed_generations(gens):
    return generations.Generations(
        borrow(gens.epoch), borrow(gens.first), borrow(gens.last), borrow(gens.examples), borrow(gens.origin),
        borrow(gens.weight),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _borrowed_rows(rows):
    return Rows(borrow(rows.start), borrow(rows.column), borrow(rows.key), borrow(rows.x))


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _ask(cells, rows, first, last, tags, slots):
    """Compute the tag of every entry of rows first to last, and prefetch its bucket.

    Keys that a candidate shares with the previous one, such as the request's own features, are looked up
    once: `slots` is 0 for an entry to look up, and REPEATED for one that equals the entry m before it.
    """
    for i in range(first, last):
        begin = rows.start[i]
        m = rows.start[i + 1] - begin
        like = i > first and begin - rows.start[i - 1] == m
        for e in range(begin, begin + m):
            if like and rows.key[e] == rows.key[e - m] and rows.column[e] == rows.column[e - m]:
                tags[e] = tags[e - m]
                slots[e] = REPEATED
            else:
                tags[e] = _tag_of(rows.column[e], rows.key[e])
                slots[e] = 0
                bucket = _bucket_of(cells, tags[e])
                prefetch_element(cells.tags, table.WAYS * bucket)
                prefetch(cells.worth, bucket, 0)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _look_up(cells, rows, first, last, tags, slots):
    """Find the cell row (-1: none) of every entry of rows first to last, and prefetch it."""
    for i in range(first, last):
        begin = rows.start[i]
        m = rows.start[i + 1] - begin
        for e in range(begin, begin + m):
            if slots[e] == REPEATED:
                slots[e] = slots[e - m]
                continue
            slots[e] = _find(cells, tags[e])
            if slots[e] >= 0:
                prefetch(cells.values, slots[e], 0)
                prefetch(cells.values, slots[e], 16)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _residuals(cells, gens, precision, rows, first, last, tags, slots, held, f):
    """f[i] = Σ x μ of rows first to last, NaN without evidence; changes no cell.

    `precision` is 1/τ by column. `held` (E, 2) receives each entry's (b, L), and `slots` -1 for rows that
    turn out to be dead.
    """
    for i in range(first, last):
        begin = rows.start[i]
        m = rows.start[i + 1] - begin
        f_i = 0.0
        known = False
        for e in range(begin, begin + m):
            held[e, 0] = 0.0
            held[e, 1] = 0.0
            slot = slots[e]
            if slot < 0 or cells.tags[slot] != tags[e]:
                # Since the early look-up the key may have been added, moved or evicted.
                slot = _find(cells, tags[e])
                slots[e] = slot
                if slot < 0:
                    continue
            if i > first and e - m >= rows.start[first] and slot == slots[e - m]:
                held[e, 0] = held[e - m, 0]
                held[e, 1] = held[e - m, 1]
            else:
                held[e, 0], held[e, 1], live = _total(cells, gens, slot)
                if not live:
                    slots[e] = -1
                    continue
            known = True
            f_i += rows.x[e] * (held[e, 0] / (precision[rows.column[e]] + held[e, 1]))
        f[i] = f_i if known else np.nan


# nogil=False on purpose: every answer calls this, and getting the GIL back would take longer than the call.
@njit(cache=True, nogil=False, error_model="numpy")
def correct_rows(cells, gens, tau, small, gating, rows, p):
    """Correct `p` (n,), in place, by the gate's share of the residuals."""
    if _oldest_epoch(gens) == _NO_EPOCH:
        return
    cells = table.borrowed(cells)
    gens = _borrowed_generations(gens)
    rows = _borrowed_rows(rows)
    gate = sigmoid(_gain(small, _level_of(gens)) - gating[1])
    entries = len(rows.key)
    n = len(p)
    tags = np.empty(entries, dtype=np.uint64)
    slots = np.empty(entries, dtype=np.int64)
    held = np.empty((entries, 2))
    f = np.empty(n)
    _ask(cells, rows, 0, n, tags, slots)
    _look_up(cells, rows, 0, n, tags, slots)
    _residuals(cells, gens, 1.0 / (tau * _scale(small, _level_of(gens))), rows, 0, n, tags, slots, held, f)
    for i in range(n):
        if not isnan(f[i]):
            p[i] = sigmoid(logit(p[i], LOGIT_MAX) + gate * f[i])


@njit(cache=True, nogil=True, error_model="numpy")
def explain_rows(cells, gens, tau, small, gating, rows, p, z, part, evidence):
    """Correct `p` (n,) exactly as `correct_rows` does, and write the parts; see `Explained`. Returns the
    gate."""
    gate = sigmoid(_gain(small, _level_of(gens)) - gating[1])
    precision = 1.0 / (tau * _scale(small, _level_of(gens)))
    empty = _oldest_epoch(gens) == _NO_EPOCH
    for i in range(len(p)):
        z[i] = logit(p[i], LOGIT_MAX)
        f = 0.0
        known = False
        for e in range(rows.start[i], rows.start[i + 1]):
            part[e] = np.nan
            evidence[e] = 0.0
            slot = -1 if empty else _find(cells, _tag_of(rows.column[e], rows.key[e]))
            if slot < 0:
                continue
            b, L, live = _total(cells, gens, slot)
            if live:
                part[e] = rows.x[e] * (b / (precision[rows.column[e]] + L))
                evidence[e] = L
                f += part[e]
                known = True
        if known:
            p[i] = sigmoid(z[i] + gate * f)
    return gate


@njit(cache=True, nogil=True, error_model="numpy")
def _current(cells, gens, state, small, position, half_life):
    """The index of the generation that learns a request at `position`; opens a new one if needed."""
    g = state[CURRENT]
    young = half_life <= 0.0 or small[CLOCK] - gens.origin[g] <= HALF_LIVES_OPEN * half_life
    if g >= 0 and gens.epoch[g] != 0 and gens.examples[g] < state[SPAN] and young:
        gens.first[g] = min(gens.first[g], position)
        gens.last[g] = max(gens.last[g], position)
        return g
    if _oldest_epoch(gens) == _NO_EPOCH:
        _shrink(cells)
    g = _free_place(gens)
    if g < 0:
        _merge_neighbours(cells, gens, half_life)
        state[SPAN] *= 2
        state[MERGES] += 1
        g = _free_place(gens)
    gens.epoch[g] = state[NEXT_EPOCH]
    gens.first[g] = position
    gens.last[g] = position
    gens.examples[g] = 0
    gens.origin[g] = small[CLOCK]
    gens.weight[g] = 1.0
    state[NEXT_EPOCH] += 1
    state[CURRENT] = g
    return g


@njit(cache=True, nogil=True, error_model="numpy")
def _longest(start):
    """Entries of the longest row."""
    m = 1
    for i in range(len(start) - 1):
        m = max(m, start[i + 1] - start[i])
    return m


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _learn_row(
    cells, gens, priors, tau, tau0, state, now, rows, i, z, y, weight, before, tags, slots, held, fresh, work
):
    """Learn one example: row i, base logit z, label y, of this weight, learned with label `before` before.

    `fresh`: `held` equals the cells. If not, another candidate of the request was learned since.
    """
    w, col, x, mean, P = work
    a = rows.start[i]
    n = rows.start[i + 1] - a
    moved = False
    oldest = _oldest_epoch(gens)
    for e in range(a, a + n):
        if not fresh:
            held[e, 0] = 0.0
            held[e, 1] = 0.0
            slots[e] = _find(cells, tags[e])
            if slots[e] >= 0:
                held[e, 0], held[e, 1], live = _total(cells, gens, slots[e])
                if not live:
                    slots[e] = -1
        if slots[e] < 0:
            buckets = cells.size[0]
            slots[e], evicted = _claim(cells, gens, tags[e], now, oldest)
            state[EVICTED] += evicted
            moved |= evicted > 0 or buckets != cells.size[0]
    m = 0
    for e in range(a, a + n):
        if moved and cells.tags[slots[e]] != tags[e]:
            # The table has grown, or entries of this row have evicted each other from a bucket.
            slots[e] = _find(cells, tags[e])
            if slots[e] < 0:
                continue
        slots[a + m] = slots[e]
        held[a + m, 0] = held[e, 0]
        held[a + m, 1] = held[e, 1]
        w[m, 0] = held[e, 0]
        w[m, 1] = held[e, 1]
        col[m] = rows.column[e]
        x[m] = rows.x[e]
        m += 1
    f, s2 = predict(w, col, x, m, tau, mean, P)
    # `learn` shrinks its logit for uncertainty, but the base's logit is shrunk already. So it is stretched
    # first. Otherwise every unknown key would look over-predicted where clicks are rare.
    stretched = (z + f) * sqrt(1.0 + PROBIT * s2)
    largest = 0
    most = 0.0
    for k in range(m):
        if abs(x[k] * mean[k]) > most:
            most = abs(x[k] * mean[k])
            largest = k
    others_share = 1.0 / (1.0 + (most / LARGE) ** 4)
    sighted = isnan(before)
    if sighted:
        error, h = error_of(stretched, s2, y)
    else:  # the difference of two log losses: a line by the logit
        error, h = y - before, 0.0
    error *= weight
    h *= weight
    step = 0.0
    if most > LARGE:
        # Such a row does not move the priors of its columns either.
        move(
            w, col, x, m, mean, P, tau.copy(), tau0, priors.theta.copy(), priors.grad2.copy(), priors.keep,
            s2, error, h, sighted,
        )  # fmt: skip
    else:
        move(w, col, x, m, mean, P, tau, tau0, priors.theta, priors.grad2, priors.keep, s2, error, h, sighted)
        for k in range(m):
            c = col[k]
            if mean[k] != 0.0:
                step += error * x[k] * mean[k] * P[k] / tau[c]
                priors.tau[c] = tau[c] * (priors.tau0[c] / tau0[c])
    for k in range(m):
        keep = priors.keep[col[k]] if sighted else 1.0
        b, L = held[a + k, 0], held[a + k, 1]
        share = 1.0 if k == largest else others_share
        new_b = keep * b + share * (w[k, 0] - keep * b)
        new_L = keep * L + share * (w[k, 1] - keep * L)
        _settle(cells, gens, slots[a + k], now, b, L, new_b, new_L, keep)
    return step


@njit(cache=True, nogil=True, error_model="numpy")
def observe_rows(cells, gens, priors, state, small, gating, rows, seen):
    """Correct `seen.p` in place, request by request, and learn each request after it is corrected.

    `gating` is (decay, bias, toll, half life).
    """
    decay, bias, toll, half_life = gating
    cells = table.borrowed(cells)
    gens = _borrowed_generations(gens)
    rows = _borrowed_rows(rows)
    longest = _longest(rows.start)
    entries = len(rows.key)
    work = (
        np.empty((longest, 2)), np.empty(longest, dtype=np.int32), np.empty(longest), np.empty(longest),
        np.empty(longest),
    )  # fmt: skip
    tags = np.empty(entries, dtype=np.uint64)
    slots = np.empty(entries, dtype=np.int64)
    held = np.empty((entries, 2))
    z = np.empty(len(seen.p))
    f = np.empty(len(seen.p))
    gains = small[GAINS:MOVED_AT]
    scales = small[SCALES:SQUARES]
    squares = small[SQUARES:SMALL]
    tau = np.empty(len(priors.tau))
    tau0 = np.empty(len(priors.tau))
    R = len(seen.position)
    # Prefetch the cache lines of a request while earlier requests are learned.
    for r in range(-2, R):
        if r + 2 < R:
            _ask(cells, rows, seen.requests[r + 2], seen.requests[r + 3], tags, slots)
        if r >= -1 and r + 1 < R:
            _look_up(cells, rows, seen.requests[r + 1], seen.requests[r + 2], tags, slots)
        if r < 0:
            continue
        if half_life > 0.0:
            small[CLOCK] = max(small[CLOCK], seen.times[r])
            _tick(gens, small[CLOCK], half_life)
        position = seen.position[r]
        a = seen.requests[r]
        b = seen.requests[r + 1]
        known_to_base = position <= state[WATERMARK]
        level = _level_of(gens)
        D = _gain(small, level)
        gate = sigmoid(D - bias)
        scale = _scale(small, level)
        for c in range(len(tau)):
            tau[c] = priors.tau[c] * scale
            tau0[c] = priors.tau0[c] * scale
        _residuals(cells, gens, 1.0 / tau, rows, a, b, tags, slots, held, f)
        learnt = 0
        for i in range(a, b):
            learnt += seen.weight[i] > 0.0
            z[i] = logit(seen.p[i], LOGIT_MAX)
            # If the base has learned this label, the label does not measure the gain of a correction.
            if not known_to_base and seen.weight[i] > 0.0:
                moved = 0.0 if isnan(f[i]) else f[i]
                if isnan(seen.before[i]):
                    before = seen.weight[i] * _logloss(z[i], seen.y[i])
                    after = seen.weight[i] * _logloss(z[i] + moved, seen.y[i])
                    D = _moved(D, before, after, decay, toll, level)
                else:  # the gain was measured with another label
                    D = _bounded(D + seen.weight[i] * (seen.y[i] - seen.before[i]) * moved)
                gains[level] = D
            if not isnan(f[i]):
                seen.p[i] = sigmoid(z[i] + gate * f[i])
        if known_to_base:
            state[SKIPPED] += b - a
            continue
        if learnt == 0:
            continue
        small[EXAMPLES] += learnt
        small[MOVED_AT + level] = small[EXAMPLES]
        g = _current(cells, gens, state, small, position, half_life)
        steps = 0.0
        fresh = True
        for i in range(a, b):
            if seen.weight[i] == 0.0:
                continue
            steps += _learn_row(
                cells, gens, priors, tau, tau0, state, g, rows, i, z[i], seen.y[i], seen.weight[i],
                seen.before[i], tags, slots, held, fresh, work,
            )  # fmt: skip
            fresh = False
        if isnan(squares[level]):
            scales[level] = log(scale)
            squares[level] = SCALE_SQUARES
        squares[level] += steps * steps
        theta = scales[level] + SCALE_RATE * steps / sqrt(squares[level])
        scales[level] = min(max(theta, SCALE_MIN), SCALE_MAX)
        gens.examples[g] += learnt
