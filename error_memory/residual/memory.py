"""The residual memory: Bayesian residuals per entity on the base's logit, dropped by stream position.

The model is that of `ground.kernels.bayes`, on offset z = logit(p): f = Σ x μ over a row's entries, each
weight's evidence being the sum of its live generations (`error_memory.residual.cells`, `.generations`; the
step is in `error_memory.residual.kernels`). A gate (`error_memory.residual.gate`) weighs the correction by
its recent gain, so that a memory that does not help has no effect.

An entry's x may be scaled by sqrt(P / τ), with P the base's posterior variance of the key. The memory then
continues where the base stopped. That is right for a base that still changes and too much for one that has
converged, so one factor exp(θ) on all prior variances is learned, by the gradient that each column's own is
learned by (`ground.kernels.bayes`), summed over a
request's entries, for each power of two of examples held:

    g = Σ e x μ P/τ      G ← G + g²  (from 30)      θ ← clip(θ + 0.3 g/√G, -4, 0)      τ_c exp(θ)
"""

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from error_memory.errors import MemoryInputError
from error_memory.protocol import (
    Explained,
    Floats,
    Keys,
    as_entries,
    as_observed,
    as_probabilities,
    as_rows,
    shown,
)
from error_memory.residual import cells as table
from error_memory.residual import gate as gates
from error_memory.residual import generations
from error_memory.residual.kernels import (
    CURRENT,
    EVICTED,
    MERGES,
    NEXT_EPOCH,
    SKIPPED,
    SPAN,
    WATERMARK,
    correct_rows,
    explain_rows,
    observe_rows,
)
from error_memory.residual.levels import CLOCK, EXAMPLES, SMALL, gain
from error_memory.saved import pack, unpack
from error_memory.settings import MemorySettings, by_column
from ground.kernels.bayes import TAU_MAX, TAU_MIN, Priors, make_priors
from ground.kernels.logistic import sigmoid

_NOTHING_LEARNT = np.iinfo(np.int64).min


class ResidualMemory:
    """The default `ErrorMemory`.

    Reading or learning a row of m entries costs O(m), independent of the number of observed examples. Memory
    is fixed: 16 + 16 G bytes per key, for `capacity` keys.
    """

    def __init__(self, settings: MemorySettings, columns: int) -> None:
        self.settings = settings
        self.columns = columns
        self._lock = Lock()
        self._cells = table.make_cells(settings.capacity, settings.generations)
        self._gens = generations.make_generations(settings.generations)
        self._keep = np.array(by_column(settings.keep, columns))
        self._priors = make_priors(by_column(settings.tau0, columns), self._keep)
        self._state = np.zeros(7, dtype=np.int64)
        self._state[[CURRENT, NEXT_EPOCH, SPAN, WATERMARK]] = -1, 1, settings.span, _NOTHING_LEARNT
        self._small = np.full(SMALL, np.nan)
        self._small[[CLOCK, EXAMPLES]] = -np.inf, 0.0
        self._gating = (settings.gate_decay, settings.gate_bias, settings.gate_toll, settings.half_life_s)

    def __repr__(self) -> str:
        return shown(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the table and of the small arrays beside it."""
        cells = self._cells
        arrays = (cells.tags, cells.worth, cells.values, *self._gens, *self._priors, self._small)
        return sum(array.nbytes for array in arrays)

    @property
    def gate(self) -> float:
        """g = σ(D - bias), at the level of what is held now."""
        return float(sigmoid(gain(self._small, gates.level_of(self._gens)) - self.settings.gate_bias))

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
        """Counters: evicted keys, merges of generations, and examples that the base had already learned."""
        evicted, merges, skipped = (int(self._state[i]) for i in (EVICTED, MERGES, SKIPPED))
        return {"evicted": evicted, "merges": merges, "skipped": skipped}

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """See `ErrorMemory.correct`."""
        rows = as_rows(keys, self.columns)
        out = as_probabilities(p, rows.n)
        with self._lock:
            correct_rows(self._cells, self._gens, self._priors.tau, self._small, self._gating, rows, out)
        return out

    def explain(self, keys: Keys, p: npt.ArrayLike) -> Explained:
        """See `ErrorMemory.explain`."""
        rows = as_rows(keys, self.columns)
        out = as_probabilities(p, rows.n)
        z = np.empty(rows.n)
        part, evidence = np.empty(len(rows.key)), np.empty(len(rows.key))
        with self._lock:
            gate = explain_rows(
                self._cells, self._gens, self._priors.tau, self._small, self._gating, rows, out, z, part,
                evidence,
            )  # fmt: skip
        return Explained(out, z, float(gate), part, evidence)

    def observe(
        self,
        keys: Keys,
        p: npt.ArrayLike,
        y: npt.ArrayLike,
        position: int | npt.ArrayLike,
        requests: npt.ArrayLike | None = None,
        times: float | npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
        before: npt.ArrayLike | None = None,
    ) -> Floats:
        """See `ErrorMemory.observe`."""
        if times is None and self.settings.half_life_s > 0.0:
            raise MemoryInputError("half_life_s is set: give `times`, the event time of each request")
        seen = as_observed(keys, p, y, position, requests, times, self.columns, weight, before)
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

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """See `ErrorMemory.forget`."""
        column, key = as_entries(columns, keys)
        with self._lock:
            table.erase(self._cells, column, key)

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """See `ErrorMemory.candidates`: a tag can be inverted to its key, but does not hold the column."""
        with self._lock:
            tags = self._cells.tags[: table.WAYS * self._cells.size[0]]
            tags = tags[tags != 0]
        return table.keys_of(tags, column)

    def advance(self, position: int) -> None:
        """Drop every generation that the base has learned completely."""
        gens, state = self._gens, self._state
        with self._lock:
            if position <= state[WATERMARK]:
                return
            state[WATERMARK] = position
            generations.drop_learnt(gens, position)
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
                # The base is within the current generation: the next examples go into a new one, so that
                # this one can be dropped as soon as the base has learned the rest of it.
                state[CURRENT] = -1

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """See `ErrorMemory.set_priors`; the memory continues to learn the variances from these, and a key
        keeps the product of `keep` and the setting of that name.

        Raises:
            MemoryInputError: another shape, or a value that is not a valid variance or share.
        """
        values = np.array(tau, dtype=np.float64)
        kept = np.ones(self.columns) if keep is None else np.array(keep, dtype=np.float64)
        for name, array in (("tau", values), ("keep", kept)):
            if array.shape != (self.columns,):
                raise MemoryInputError(
                    f"{name} has shape {array.shape}, this memory has {self.columns} columns"
                )
        if not (np.isfinite(values) & (values > 0.0)).all():
            raise MemoryInputError("prior variances must be finite and above 0")
        if not ((kept > 0.0) & (kept <= 1.0)).all():
            raise MemoryInputError("shares of evidence to keep must be above 0 and at most 1")
        with self._lock:
            self._priors.tau[:] = self._priors.tau0[:] = values.clip(TAU_MIN, TAU_MAX)
            self._priors.theta[:] = 0.0
            self._priors.keep[:] = self._keep * kept

    def save(self) -> bytes:
        """See `ErrorMemory.save`; its length depends on the live rows only."""
        cells, gens = self._cells, self._gens
        with self._lock:
            slots = table.live_rows(cells, gens)
            arrays: dict[str, npt.NDArray[Any]] = {
                "slots": slots,
                "state": self._state,
                "small": self._small,
                **{f"cells.{name}": array for name, array in table.part(cells, slots).items()},
                **{f"gens.{name}": array for name, array in gens._asdict().items()},
                **{f"priors.{name}": array for name, array in self._priors._asdict().items()},
            }
            return pack(self.settings, self.columns, arrays)

    def load(self, saved: bytes) -> None:
        """See `ErrorMemory.load`."""
        arrays = unpack(saved, self.settings, self.columns)
        saved_cells = {n[6:]: array for n, array in arrays.items() if n.startswith("cells.")}
        with self._lock:
            table.replace(self._cells, arrays["slots"], saved_cells)
            self._gens = generations.Generations(
                **{n: arrays[f"gens.{n}"] for n in generations.Generations._fields}
            )
            self._priors = Priors(**{n: arrays[f"priors.{n}"] for n in Priors._fields})
            self._state, self._small = arrays["state"], arrays["small"]
