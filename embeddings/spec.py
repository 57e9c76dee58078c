"""A table's settings, and the layout of its rows.

    row = | vector (dim) | optimizer state | extra | last seen (uint32 bits) | count (uint32 bits) |

All columns are 32 bits wide and a row is contiguous, so using an id reads one block of memory. A table
has no columns for features that it does not use.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings.errors import TableSpecError
from ground.short_repr import ShortRepr

ROWS_LIMIT = (1 << 32) - 2
"""A slot has 32 bits, and one value means empty."""

ADMIT_LIMIT = 255
"""Sightings are counted in 8 bits."""

Optimizer = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
"""The update rule of the vectors; `optimizers.py` gives the formulas."""

Init = Literal["zeros", "uniform", "normal"]
"""The initial value of a new vector; `initializers.py` computes it."""

Evict = Literal["none", "least_recent", "least_frequent"]
"""Which rows are evicted when there are too many; see `eviction.py`."""

EVICT_ROWS_MIN = 64
"""The smallest rows_max with eviction, which works in 64ths of rows_max."""


BATCH_MAX = 1 << 20
"""Maximum batch if rows can expire or be evicted: slots freed by a batch are not reused within it."""

SLOTS_SPARE = BATCH_MAX + BATCH_MAX // 8
"""Slots above rows_max for the new rows of one batch. They cost address space, not memory."""


class Rules(NamedTuple):
    """The settings that kernels need, as numbers, so that kernels are compiled once for all tables."""

    ttl_s: int
    tick_s: int
    admit_after: int
    admit_share: float
    admit_age_s: int
    seen_shift: int  # rows are counted by last seen in cells of 2^seen_shift seconds
    crowded: int  # with more rows in memory than this, new rows trigger a sweep for expired rows
    age_column: int  # column of the stamp; the column of uses follows it, if there is one
    classes: int  # classes of uses; 0 without eviction
    rows_max: int
    dim: int
    init: int
    init_scale: float
    seed: int


_RANGES: dict[str, tuple[float, float]] = {
    "dim": (0, 4096),
    "learning_rate": (0.0, 1e6),
    "initial_accumulator": (0.0, 1e12),
    "beta1": (0.0, 0.999_999),
    "beta2": (0.0, 0.999_999),
    "ftrl_beta": (0.0, 1e6),
    "l1": (0.0, 1e6),
    "l2": (0.0, 1e6),
    "init_scale": (0.0, 1e6),
    "seed": (0, (1 << 63) - 1),
    "extra": (0, 4096),
    "ttl_s": (0, (1 << 32) - 1),
    "tick_s": (0, (1 << 31) - 1),
    "admit_after": (1, ADMIT_LIMIT),
    "admit_share": (1e-6, 1.0),
    "admit_age_s": (0, (1 << 32) - 1),
    "admission_capacity": (8, 1 << 32),
    "capacity_initial": (1, ROWS_LIMIT),
    "rows_max": (1, ROWS_LIMIT // 2),
}

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": (*get_args(Optimizer), "none"),
    "init": get_args(Init),
    "evict": get_args(Evict),
}

_AGE_COLUMNS: dict[Evict, int] = {"none": 0, "least_recent": 1, "least_frequent": 2}
"""Columns that eviction needs: stamp, then uses."""


class TableSpec(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one table.

    Attributes:
        name: name in messages and metrics.
        dim: width of the vector; 0 for a table that has only extra columns.
        optimizer: update rule of the vectors, see `optimizers.py`; "none" for a table that only serves.
        learning_rate: step size of the optimizer.
        initial_accumulator: initial sum of squared gradients, for both Adagrads and FTRL.
        beta1, beta2: decay rates of the two moving averages of Adam.
        ftrl_beta, l1, l2: parameters of FTRL; an l1 above 0 keeps unimportant weights at exactly 0.
        init: initial vector: "zeros", "uniform" in ±init_scale, or "normal" with deviation init_scale.
        init_scale: see init.
        seed: key and seed determine a new vector, so every machine makes the same row.
        extra: number of float32 columns for the caller; they start at zero.
        ttl_s: a row expires this many seconds (event time) after it was last seen; 0: never.
        tick_s: expiry rounds the time down to multiples of this; 0 or 1: whole seconds.
        admit_after: an id gets its row at this sighting: 1 the first, 3 the third.
        admit_share: probability that a sighting makes a row; needs admit_after = 1.
        admit_age_s: after a gap longer than this the count starts again from 1; 0: never.
        admission_capacity: ids whose sightings are counted; beyond it the least recently seen is dropped.
        capacity_initial: initial capacity of the index in rows; it grows bucket by bucket.
        rows_max: maximum number of rows; without eviction, further new ids are refused and counted.
        evict: which rows are removed before rows_max is reached: none, the least recently used or the
            least frequently used.
    """

    name: str = "table"
    dim: int = 16
    optimizer: Optimizer | Literal["none"] = "adagrad"
    learning_rate: float = 0.1
    initial_accumulator: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    ftrl_beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    init: Init = "zeros"
    init_scale: float = 0.01
    seed: int = 0
    extra: int = 0
    ttl_s: int = 0
    tick_s: int = 0
    admit_after: int = 1
    admit_share: float = 1.0
    admit_age_s: int = 0
    admission_capacity: int = 1 << 20
    capacity_initial: int = 1024
    rows_max: int = 1 << 24
    evict: Evict = "none"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; the message names the setting."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if name == "learning_rate" and self.optimizer == "ftrl":
                low = 1e-12
            elif name == "rows_max" and self.evict != "none":
                low = EVICT_ROWS_MIN
            if not low <= value <= high:
                raise TableSpecError(f"table {self.name!r}: {name} must be from {low} to {high}, not {value}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise TableSpecError(
                    f"table {self.name!r}: {name} must be one of {', '.join(known)}, "
                    f"not {getattr(self, name)!r}"
                )
        if self.admit_share < 1.0 and self.admit_after > 1:
            raise TableSpecError(
                f"table {self.name!r}: admit_share and admit_after cannot be combined; choose one"
            )
        if self.dim + self.extra == 0:
            raise TableSpecError(f"table {self.name!r}: dim and extra are both 0; a row would be empty")

    @property
    def state_width(self) -> int:
        """Columns of optimizer state."""
        optimizer, dim = self.optimizer, self.dim
        if optimizer == "adagrad":
            return dim
        if optimizer == "rowwise_adagrad":
            return min(dim, 1)
        if optimizer == "adam":
            return 2 * dim + min(dim, 1)
        return 2 * dim if optimizer == "ftrl" else 0

    @property
    def age_column(self) -> int:
        """The first of the columns that eviction needs."""
        return self.dim + self.state_width

    @property
    def extra_column(self) -> int:
        """The first of the caller's columns."""
        return self.age_column + _AGE_COLUMNS[self.evict]

    @property
    def seen_column(self) -> int:
        """The column of last seen; the count follows it."""
        return self.extra_column + self.extra

    @property
    def width(self) -> int:
        """Number of columns of a row."""
        return self.seen_column + 2

    def template(self) -> npt.NDArray[np.float32]:
        """The initial columns of a new row, (width,), except for its vector."""
        row = np.zeros(self.width, dtype=np.float32)
        if self.optimizer in ("adagrad", "rowwise_adagrad"):
            row[self.dim : self.age_column] = self.initial_accumulator
        elif self.optimizer == "ftrl":
            row[2 * self.dim : self.age_column] = self.initial_accumulator
        return row

    @property
    def serving_slices(self) -> tuple[slice, ...]:
        """The columns that serving needs: all except optimizer state and eviction's columns."""
        if self.extra_column == self.dim:
            return (slice(0, self.width),)
        return (slice(0, self.dim), slice(self.extra_column, self.width))

    def serving(self) -> TableSpec:
        """The same table without optimizer, admission and eviction: its rows are this one's `serving_slices`.

        It also has room for rows that are evicted but not yet removed.
        """
        return msgspec.structs.replace(
            self,
            optimizer="none",
            admit_after=1,
            admit_share=1.0,
            evict="none",
            rows_max=min(self.slots_max, ROWS_LIMIT // 2),
        )

    @property
    def slots_max(self) -> int:
        """Number of slots. If rows can leave, it is above rows_max: removed rows keep their slot for a while.

        Of the extra quarter, one eighth is for evicted rows, the other for rows that expire during two
        rounds of the sweep (`lifetimes.py`).
        """
        if not self.rows_leave:
            return self.rows_max
        return min(self.rows_max + self.rows_max // 4 + SLOTS_SPARE, ROWS_LIMIT)

    @property
    def rows_leave(self) -> bool:
        """Whether rows can expire or be evicted."""
        return self.ttl_s > 0 or self.evict != "none"
