"""The residual memory: Bayesian residuals per entity on the base's logit, dropped by stream position.

The model is that of `ground.bayes`, on offset z = logit(p): f = Σ x μ over a row's entries, each
weight's evidence being the sum of its live generations (`error_memory.cells`). An online gate
g = σ(D - bias) weighs the correction by its own recent worth, D ← decay·D + [logloss(z) -
logloss(z + f)] - toll, so that a memory that does not help fades to nothing.

What helps a base that is an hour old can harm one that is a second old: a handful of examples says
much of what nobody has learnt and little of what the base knows. So there is one D for each power of
two of examples held; a level met for the first time begins with the D of the next lower one.
"""

from math import exp, isnan, log, log1p, log2, sqrt
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from error_memory import cells as table
from error_memory.errors import MemoryInputError
from error_memory.protocol import Floats, Keys, as_observed, as_probabilities, as_rows
from error_memory.saved import pack, unpack
from error_memory.settings import MemorySettings, by_column
from ground.bayes import PROBIT, TAU_MAX, TAU_MIN, Priors, learn, make_priors, predict, sigmoid

LOGIT_MAX = 16.0
"""A base's 0 or 1 counts as this logit: one wrong certainty must not swamp the memory."""
GAIN_MAX = 10.0
"""Bound of |D|: a gate that has long been open must be able to close within some thousand examples."""
LEVELS = 40
HALF_LIVES_OPEN = 16.0
"""A generation closes at this age, in half lives, so that float32 holds its scale."""
HALF_LIVES_MAX = 40.0
"""A generation older than this is worth less than 1e-12 of itself, and goes."""

# Places in the two small arrays of counters that the kernels move.
CURRENT, NEXT_EPOCH, SPAN, WATERMARK, EVICTED, MERGES, SKIPPED = range(7)
CLOCK, GAINS = 0, 1  # GAINS and on: D of each level, NaN where it was never met
_NOTHING_LEARNT = np.iinfo(np.int64).min

_find, _total, _claim, _settle, _tag_of = table.find, table.total, table.claim, table.settle, table.tag_of
_free_place, _drop, _merge_neighbours = table.free_place, table.drop, table.merge_neighbours


@njit(cache=True, nogil=True, error_model="numpy")
def _logit(p):  # type: ignore[no-untyped-def]
    """ln(p / (1 - p)), within ±LOGIT_MAX."""
    if p <= 0.0:
        return -LOGIT_MAX
    if p >= 1.0:
        return LOGIT_MAX
    return min(max(log(p) - log1p(-p), -LOGIT_MAX), LOGIT_MAX)


@njit(cache=True, nogil=True, error_model="numpy")
def _logloss(z, y):  # type: ignore[no-untyped-def]
    """-y ln σ(z) - (1 - y) ln(1 - σ(z))."""
    return max(z, 0.0) - y * z + log1p(exp(-abs(z)))


@njit(cache=True, nogil=True, error_model="numpy")
def _level(gens):  # type: ignore[no-untyped-def]
    """⌊log₂(1 + examples held)⌋, within LEVELS."""
    return min(np.int64(log2(1.0 + gens.examples.sum())), LEVELS - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _gain(small, level):  # type: ignore[no-untyped-def]
    """D at a level, or of the next lower one that was ever met; 0 where there is none."""
    for k in range(level, -1, -1):
        if not isnan(small[GAINS + k]):
            return small[GAINS + k]
    return 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _residual(cells, gens, tau, rows, i, w, col, x):  # type: ignore[no-untyped-def]
    """(f, known) of row i: its residual logit, and whether anything is known of it. Inserts nothing."""
    m = 0
    for j in range(rows.start[i], rows.start[i + 1]):
        row = _find(cells, _tag_of(rows.column[j], rows.key[j]))
        if row >= 0:
            b, L, live = _total(cells, gens, row)
            if live:
                w[m, 0] = b
                w[m, 1] = L
                col[m] = rows.column[j]
                x[m] = rows.x[j]
                m += 1
    # A key without evidence has mean 0: it adds nothing to f.
    f, _ = predict(w, col, x, m, tau)
    return f, m > 0


@njit(cache=True, nogil=True, error_model="numpy")
def _longest(start):  # type: ignore[no-untyped-def]
    """Entries of the longest row."""
    m = 1
    for i in range(len(start) - 1):
        m = max(m, start[i + 1] - start[i])
    return m


@njit(cache=True, nogil=True, error_model="numpy")
def correct_rows(cells, gens, tau, gate, rows, p):  # type: ignore[no-untyped-def]
    """Correct `p` (n,), in place, by share `gate` of the residuals."""
    m = _longest(rows.start)
    w = np.empty((m, 2))
    col = np.empty(m, dtype=np.int32)
    x = np.empty(m)
    for i in range(len(p)):
        f, known = _residual(cells, gens, tau, rows, i, w, col, x)
        if known:
            p[i] = sigmoid(_logit(p[i]) + gate * f)


@njit(cache=True, nogil=True, error_model="numpy")
def _tick(gens, small, time, half_life):  # type: ignore[no-untyped-def]
    """Move the clock to a request's event time and weigh the generations by their age."""
    small[CLOCK] = max(small[CLOCK], time)
    for g in range(len(gens.epoch)):
        if gens.epoch[g] != 0:
            age = (small[CLOCK] - gens.origin[g]) / half_life
            if age > HALF_LIVES_MAX:
                _drop(gens, g)
            else:
                gens.weight[g] = 2.0**-age


@njit(cache=True, nogil=True, error_model="numpy")
def _current(cells, gens, state, small, position, half_life):  # type: ignore[no-untyped-def]
    """The place of the generation that learns a request at `position`; opens one when it is time."""
    g = state[CURRENT]
    young = half_life <= 0.0 or small[CLOCK] - gens.origin[g] <= HALF_LIVES_OPEN * half_life
    if g >= 0 and gens.epoch[g] != 0 and gens.examples[g] < state[SPAN] and young:
        gens.first[g] = min(gens.first[g], position)
        gens.last[g] = max(gens.last[g], position)
        return g
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
def _learn_row(cells, gens, priors, state, current, rows, i, z, y, slots, tags, w, old, col, x):  # type: ignore[no-untyped-def]
    """Learn one example: row i, base logit z, label y."""
    a = rows.start[i]
    n = rows.start[i + 1] - a
    for k in range(n):
        tags[k] = _tag_of(rows.column[a + k], rows.key[a + k])
        slots[k], evicted = _claim(cells, gens, tags[k])
        state[EVICTED] += evicted
    m = 0
    for k in range(n):
        # A row's own entries may displace each other in a bucket that is full of them.
        if cells.tags[slots[k]] == tags[k]:
            slots[m] = slots[k]
            old[m, 0], old[m, 1], _ = _total(cells, gens, slots[m])
            w[m, 0] = old[m, 0]
            w[m, 1] = old[m, 1]
            col[m] = rows.column[a + k]
            x[m] = rows.x[a + k]
            m += 1
    f, s2 = predict(w, col, x, m, priors.tau)
    # `learn` shrinks its logit for uncertainty, and the base's is honest already: stretched beforehand,
    # or where clicks are rare every unknown key would look over-predicted and be pushed down.
    logit = (z + f) * sqrt(1.0 + PROBIT * s2)
    learn(w, col, x, m, priors.tau, priors.tau0, priors.theta, priors.grad2, priors.keep, logit, s2, y)
    for k in range(m):
        _settle(cells, gens, slots[k], current, old[k, 0], old[k, 1], w[k, 0], w[k, 1], priors.keep[col[k]])


@njit(cache=True, nogil=True, error_model="numpy")
def observe_rows(cells, gens, priors, state, small, gating, rows, seen):  # type: ignore[no-untyped-def]
    """Correct `seen.p` in place, request by request, and learn each request after it is corrected.

    `gating` is (decay, bias, toll, half life).
    """
    decay, bias, toll, half_life = gating
    m = _longest(rows.start)
    w = np.empty((m, 2))
    old = np.empty((m, 2))
    col = np.empty(m, dtype=np.int32)
    x = np.empty(m)
    slots = np.empty(m, dtype=np.int64)
    tags = np.empty(m, dtype=np.uint64)
    z = np.empty(len(seen.p))
    for r in range(len(seen.position)):
        if half_life > 0.0:
            _tick(gens, small, seen.times[r], half_life)
        position = seen.position[r]
        known_to_base = position <= state[WATERMARK]
        level = _level(gens)
        D = _gain(small, level)
        gate = sigmoid(D - bias)
        for i in range(seen.requests[r], seen.requests[r + 1]):
            z[i] = _logit(seen.p[i])
            f, known = _residual(cells, gens, priors.tau, rows, i, w, col, x)
            if known:
                seen.p[i] = sigmoid(z[i] + gate * f)
            # A base that has learnt this label says nothing about the worth of a correction.
            if not known_to_base:
                gain = _logloss(z[i], seen.y[i]) - _logloss(z[i] + f, seen.y[i])
                D = min(max(decay * D + gain - toll, -GAIN_MAX), GAIN_MAX)
                small[GAINS + level] = D
        if known_to_base:
            state[SKIPPED] += seen.requests[r + 1] - seen.requests[r]
            continue
        if seen.requests[r + 1] == seen.requests[r]:
            continue
        g = _current(cells, gens, state, small, position, half_life)
        for i in range(seen.requests[r], seen.requests[r + 1]):
            _learn_row(cells, gens, priors, state, g, rows, i, z[i], seen.y[i], slots, tags, w, old, col, x)
        gens.examples[g] += seen.requests[r + 1] - seen.requests[r]


class ResidualMemory:
    """The default `ErrorMemory`.

    Reading or learning a row of m entries costs O(m), whatever was observed before. Memory is fixed:
    8 + 12 G bytes per key, for `capacity` keys.
    """

    def __init__(self, settings: MemorySettings, columns: int) -> None:
        self.settings = settings
        self.columns = columns
        self._lock = Lock()
        self._cells = table.make_cells(settings.capacity, settings.generations)
        self._gens = table.make_generations(settings.generations)
        self._priors = make_priors(by_column(settings.tau0, columns), by_column(settings.keep, columns))
        self._state = np.zeros(7, dtype=np.int64)
        self._state[[CURRENT, NEXT_EPOCH, SPAN, WATERMARK]] = -1, 1, settings.span, _NOTHING_LEARNT
        self._small = np.full(GAINS + LEVELS, np.nan)
        self._small[CLOCK] = -np.inf
        self._gating = (settings.gate_decay, settings.gate_bias, settings.gate_toll, settings.half_life_s)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return sum(array.nbytes for array in (*self._cells, *self._gens, *self._priors))

    @property
    def gate(self) -> float:
        """g = σ(D - bias), at the level of what is held now."""
        return float(sigmoid(_gain(self._small, _level(self._gens)) - self.settings.gate_bias))

    @property
    def evidence(self) -> int:
        """Examples in the live generations."""
        return int(self._gens.examples.sum())

    @property
    def tau(self) -> Floats:
        """Prior variances now, (columns,)."""
        return self._priors.tau.copy()

    @property
    def counters(self) -> dict[str, int]:
        """Keys that made room for others, sweeps, examples that the base knew before they came."""
        evicted, merges, skipped = (int(self._state[i]) for i in (EVICTED, MERGES, SKIPPED))
        return {"evicted": evicted, "merges": merges, "skipped": skipped}

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """See `ErrorMemory.correct`."""
        rows = as_rows(keys, self.columns)
        out = as_probabilities(p, rows.n)
        with self._lock:
            if self._gens.epoch.any():
                correct_rows(self._cells, self._gens, self._priors.tau, self.gate, rows, out)
        return out

    def observe(
        self,
        keys: Keys,
        p: npt.ArrayLike,
        y: npt.ArrayLike,
        position: int | npt.ArrayLike,
        requests: npt.ArrayLike | None = None,
        times: float | npt.ArrayLike | None = None,
    ) -> Floats:
        """See `ErrorMemory.observe`."""
        if times is None and self.settings.half_life_s > 0.0:
            raise MemoryInputError("half_life_s is set: give `times`, the event time of each request")
        seen = as_observed(keys, p, y, position, requests, times, self.columns)
        with self._lock:
            observe_rows(
                self._cells,
                self._gens,
                self._priors,
                self._state,
                self._small,
                self._gating,
                seen.rows,
                seen,
            )
        return seen.p

    def advance(self, position: int) -> None:
        """Drop every generation that the base has learnt whole."""
        gens, state = self._gens, self._state
        with self._lock:
            if position <= state[WATERMARK]:
                return
            state[WATERMARK] = position
            table.drop_learnt(gens, position)
            used = gens.epoch != 0
            g = state[CURRENT]
            if not used.any():
                state[CURRENT] = -1
                state[SPAN] = self.settings.span
            elif (
                g >= 0
                and used[g]
                and gens.first[g] <= position
                and used.sum() <= self.settings.generations // 2
            ):
                # The base is within the current generation: what comes next goes into another one,
                # so that this one can be dropped as soon as the base has learnt the rest of it.
                state[CURRENT] = -1

    def set_priors(self, tau: npt.ArrayLike) -> None:
        """Take over the base's prior variances, (columns,); they go on being learnt from there.

        Raises:
            MemoryInputError: another shape, or a value that is no variance.
        """
        values = np.array(tau, dtype=np.float64)
        if values.shape != (self.columns,):
            raise MemoryInputError(f"tau has shape {values.shape}, this memory has {self.columns} columns")
        if not (np.isfinite(values) & (values > 0.0)).all():
            raise MemoryInputError("prior variances must be finite and above 0")
        with self._lock:
            self._priors.tau[:] = self._priors.tau0[:] = values.clip(TAU_MIN, TAU_MAX)
            self._priors.theta[:] = 0.0

    def save(self) -> bytes:
        """See `ErrorMemory.save`; as long as what is live."""
        cells, gens = self._cells, self._gens
        with self._lock:
            live = ((cells.stamps == gens.epoch) & (gens.epoch != 0)).any(axis=1) & (cells.tags != 0)
            slots = np.flatnonzero(live)
            arrays: dict[str, npt.NDArray[Any]] = {
                "slots": slots,
                "state": self._state,
                "small": self._small,
                **{f"cells.{name}": array[slots] for name, array in cells._asdict().items()},
                **{f"gens.{name}": array for name, array in gens._asdict().items()},
                **{f"priors.{name}": array for name, array in self._priors._asdict().items()},
            }
            return pack(self.settings, self.columns, arrays)

    def load(self, saved: bytes) -> None:
        """See `ErrorMemory.load`."""
        arrays = unpack(saved, self.settings, self.columns)
        slots = arrays["slots"]
        with self._lock:
            self._cells.tags[:] = 0
            for name, array in self._cells._asdict().items():
                array[slots] = arrays[f"cells.{name}"]
            self._gens = table.Generations(**{n: arrays[f"gens.{n}"] for n in table.Generations._fields})
            self._priors = Priors(**{n: arrays[f"priors.{n}"] for n in Priors._fields})
            self._state, self._small = arrays["state"], arrays["small"]
