"""Error memories of numbers: a residual is shown to a memory of probabilities as a label between 0 and 1.

With the base's mean z, a label y and the weight w, all in units in which labels have a deviation of about 1,
the memory is shown, beside the probability ½,

    y' = ½ + (y - z) / 4κ within 0 to 1      w' = 4κ² w      and corrects      z' = z + 4κ (p' - ½)

By its logit f the log loss of y' is, to second order, w (y - z - κf)² / 2: with w = 1 / noise the step is
that of a linear model with normal noise, κ being the unit of f. The mean of residuals is met exactly, since
p' is the mean of the labels y'; of a label further than 2κ from its prediction, 2κ count. So ageing, the gate
and the limits are those of the memory of probabilities.
"""

from math import log

import msgspec
import numpy as np
import numpy.typing as npt

from error_memory.errors import MemoryInputError
from error_memory.protocol import ErrorMemory, Explained, Floats, Keys, as_rows, one_each
from error_memory.settings import MemorySettings, by_column

KAPPA = 4.0
"""A residual counts up to 8 deviations of the labels; what is further would move a key by its own."""
TOLL = 1.0 / (8.0 * KAPPA**2 * log(2.0))
"""The gate's toll is a share of the base's log loss, w' ln 2 here; of a number it is that share of w / 2, the
loss of an error of one unit."""


def settings_of_value(settings: MemorySettings) -> MemorySettings:
    """The settings of the memory of probabilities that a `ValueMemory` wraps."""
    return msgspec.structs.replace(settings, gate_toll=settings.gate_toll * TOLL)


class ValueMemory:
    """An `ErrorMemory` whose `p` are means and whose labels are numbers of any size, both in one unit.

    `weight` is a row's precision: its weight over the variance of labels around predictions.

    >>> from error_memory import MemorySettings, keys_of, make_memory
    >>> memory = make_memory(MemorySettings(), columns=1, value=True)
    >>> for position in range(500):
    ...     _ = memory.observe(keys_of(["tea"]), [0.2], [0.7], position)
    >>> bool(abs(memory.correct(keys_of(["tea"]), [0.2])[0] - 0.7) < 0.02)
    True

    Args:
        memory: of probabilities, made with `settings_of_value`.
        settings: say where the prior variances start, in squared units.
    """

    def __init__(self, memory: ErrorMemory, settings: MemorySettings) -> None:
        self._memory = memory
        self.set_priors(by_column(settings.tau0, memory.columns))

    def __repr__(self) -> str:
        return f"<ValueMemory around {self._memory!r}>"

    @property
    def columns(self) -> int:
        """How many columns its rows may have."""
        return self._memory.columns

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self._memory.nbytes

    @property
    def gate(self) -> float:
        """The share of its correction that is applied."""
        return self._memory.gate

    @property
    def evidence(self) -> int:
        """How many observed examples it holds."""
        return self._memory.evidence

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """Corrected means (n,); see `ErrorMemory.correct`."""
        rows = as_rows(keys, self.columns)
        mean = _numbers("p", p, rows.n)
        return mean + _moved(self._memory.correct(rows, np.full(rows.n, 0.5)))

    def explain(self, keys: Keys, p: npt.ArrayLike) -> Explained:
        """See `ErrorMemory.explain`: `p` = `z` + `gate` · F, all in the means' unit."""
        rows = as_rows(keys, self.columns)
        mean = _numbers("p", p, rows.n)
        found = self._memory.explain(rows, np.full(rows.n, 0.5))
        shift = _moved(found.p)
        row = np.repeat(np.arange(rows.n), np.diff(rows.start))
        total = found.gate * np.bincount(row, np.nan_to_num(found.part), rows.n)  # logits
        stretch = np.divide(shift, total, out=np.full(rows.n, KAPPA), where=total != 0.0)
        return Explained(mean + shift, mean, found.gate, found.part * stretch[row], found.evidence / KAPPA**2)

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
        """Corrected means (n,) from before their request was learned; see `ErrorMemory.observe`."""
        rows = as_rows(keys, self.columns)
        mean, label = _numbers("p", p, rows.n), _numbers("y", y, rows.n)
        precision = 4.0 * KAPPA**2 * np.asarray(1.0 if weight is None else weight, dtype=np.float64)
        earlier = None if before is None else _shown(one_each("before", before, rows.n) - mean)
        corrected = self._memory.observe(
            rows, np.full(rows.n, 0.5), _shown(label - mean), position, requests, times, precision, earlier
        )
        return mean + _moved(corrected)

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """See `ErrorMemory.forget`."""
        self._memory.forget(columns, keys)

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """See `ErrorMemory.candidates`."""
        return self._memory.candidates(column)

    def advance(self, position: int) -> None:
        """See `ErrorMemory.advance`."""
        self._memory.advance(position)

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """See `ErrorMemory.set_priors`; variances in squared units."""
        self._memory.set_priors(np.asarray(tau, dtype=np.float64) / KAPPA**2, keep)

    def save(self) -> bytes:
        """See `ErrorMemory.save`."""
        return self._memory.save()

    def load(self, saved: bytes) -> None:
        """See `ErrorMemory.load`."""
        self._memory.load(saved)


def _shown(residual: Floats) -> Floats:
    """Residuals as labels; NaN stays."""
    return (0.5 + residual / (4.0 * KAPPA)).clip(0.0, 1.0)


def _moved(p: Floats) -> Floats:
    """Corrections of ½ as residuals."""
    return 4.0 * KAPPA * (p - 0.5)


def _numbers(name: str, values: npt.ArrayLike, n: int) -> Floats:
    """The same as `one_each`, of finite numbers.

    Raises:
        MemoryInputError: another length, or one is not finite.
    """
    array = one_each(name, values, n)
    if not np.isfinite(array).all():
        raise MemoryInputError(f"{name} must be finite numbers, not {array.min()} to {array.max()}")
    return array
