"""A table's settings, and the layout of a row that follows from them.

    row = | vector (dim) | optimizer state | extra | last seen (uint32 bits) | count (uint32 bits) |

All columns are 32 bits wide and a row is contiguous: using an id fetches one row. A table has no columns
for what it does not use.
"""

from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings.errors import TableSpecError

ROWS_LIMIT = (1 << 32) - 2
"""Slots are kept in 32 bits, one value of which means empty."""

ADMIT_LIMIT = 255
"""Sightings are counted in 8 bits."""

Optimizer = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"]
"""How vectors learn; `optimizers.py` says what each computes."""

Init = Literal["zeros", "uniform", "normal"]
"""How a new vector starts; `initializers.py` draws it."""

Evict = Literal["none", "least_recent", "least_frequent"]
"""Which rows are evicted when there are too many; `eviction.py` says how."""

EVICT_ROWS_MIN = 64
"""The smallest budget that is kept by eviction, which works in 64ths of it."""


BATCH_MAX = 1 << 20
"""Sightings in one batch, where rows may leave a table: what a batch frees is not used again within it."""

SLOTS_SPARE = BATCH_MAX + BATCH_MAX // 8
"""Slots beyond the budget for the new rows of one batch. Address space only."""


class Rules(NamedTuple):
    """What kernels must know of a spec: all numbers, so that they are compiled once for all tables."""

    ttl_s: int
    tick_s: int
    admit_after: int
    admit_share: float
    admit_age_s: int
    seen_shift: int  # rows are counted by last seen in cells of 2^seen_shift seconds
    crowded: int  # more rows in memory than this: sweep for those that have expired
    age_column: int  # of the stamp; where uses are counted they follow it
    classes: int  # of uses; 0 where nothing is evicted
    rows_max: int
    dim: int
    init: int
    init_scale: float
    seed: int


class TableSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one table holds and how it learns.

    Attributes:
        name: for messages and metrics.
        dim: width of the vector; 0 for a table of extras alone.
        optimizer: how vectors learn, see `optimizers.py`; "none" for a table that only serves.
        learning_rate: step size of the optimizer.
        initial_accumulator: where the sum of squared gradients starts, of both Adagrads and of FTRL.
        beta1, beta2: share that Adam keeps of its two means at each step.
        ftrl_beta, l1, l2: FTRL's; an l1 above 0 leaves weights of little worth at exactly 0.
        init: how a new vector starts: "zeros", "uniform" in ±init_scale, "normal" of deviation init_scale.
        init_scale: see init.
        seed: with the key it decides a new vector, so a row is reproducible wherever it is made.
        extra: float32 columns for the caller, starting at zero.
        ttl_s: a row last seen more than this long before a sighting is gone, in event time; 0 is never.
        tick_s: expiry sees time rounded down to multiples of this; 0 or 1 is each second.
        admit_after: the sighting that makes a row: 1 is the first, 3 the third.
        admit_share: probability with which a sighting makes a row; goes with an admit_after of 1.
        admit_age_s: sightings further apart than this start counting anew; 0 is never.
        admission_capacity: ids whose sightings are counted; beyond it the longest unseen is forgotten.
        capacity_initial: rows for which the index has room at first; it grows bucket by bucket.
        rows_max: limit of rows; beyond it new ids are refused and counted, unless others are evicted.
        evict: which rows make room before rows_max is reached: none, the least recently or the least
            frequently used.
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
        """Refuse what cannot work, naming the setting."""
        ranges: dict[str, tuple[float, float]] = {
            "dim": (0, 4096),
            "learning_rate": (1e-12 if self.optimizer == "ftrl" else 0.0, 1e6),
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
            "rows_max": (EVICT_ROWS_MIN if self.evict != "none" else 1, ROWS_LIMIT // 2),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise TableSpecError(f"table {self.name!r}: {name} must be from {low} to {high}, not {value}")
        choices = {
            "optimizer": (*get_args(Optimizer), "none"),
            "init": get_args(Init),
            "evict": get_args(Evict),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise TableSpecError(
                    f"table {self.name!r}: {name} must be one of {', '.join(known)}, "
                    f"not {getattr(self, name)!r}"
                )
        if self.admit_share < 1.0 and self.admit_after > 1:
            raise TableSpecError(
                f"table {self.name!r}: admit_share and admit_after are two ways to admit; choose one"
            )
        if self.dim + self.extra == 0:
            raise TableSpecError(f"table {self.name!r}: dim and extra are both 0; a row would hold nothing")

    @property
    def state_width(self) -> int:
        """Columns of optimizer state."""
        return {
            "adagrad": self.dim,
            "rowwise_adagrad": min(self.dim, 1),
            "adam": 2 * self.dim + min(self.dim, 1),
            "ftrl": 2 * self.dim,
        }.get(self.optimizer, 0)

    @property
    def age_column(self) -> int:
        """The first of the columns that eviction needs: the stamp, and uses where they are counted."""
        return self.dim + self.state_width

    @property
    def extra_column(self) -> int:
        """The first of the caller's columns."""
        return self.age_column + {"none": 0, "least_recent": 1, "least_frequent": 2}[self.evict]

    @property
    def seen_column(self) -> int:
        """The column of last seen; the count follows it."""
        return self.extra_column + self.extra

    @property
    def width(self) -> int:
        """All columns of a row."""
        return self.seen_column + 2

    def template(self) -> npt.NDArray[np.float32]:
        """What a new row starts from, (width,), before its vector is drawn."""
        row = np.zeros(self.width, dtype=np.float32)
        if self.optimizer in ("adagrad", "rowwise_adagrad"):
            row[self.dim : self.age_column] = self.initial_accumulator
        elif self.optimizer == "ftrl":
            row[2 * self.dim : self.age_column] = self.initial_accumulator
        return row

    @property
    def serving_slices(self) -> tuple[slice, ...]:
        """The columns that serving needs: everything but the state of optimizer and eviction."""
        if self.extra_column == self.dim:
            return (slice(0, self.width),)
        return (slice(0, self.dim), slice(self.extra_column, self.width))

    def serving(self) -> "TableSpec":
        """The same table without optimizer, admission and eviction: its rows are this one's `serving_slices`.

        It has room for the rows that are evicted but not taken out yet, too.
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
        """Slots that rows may take: more than rows_max where rows leave, for those on their way out.

        Of the quarter above rows_max, an eighth is for rows that were evicted, the other for those that
        expired during two rounds of the sweep (`lifetimes.py`).
        """
        if not self.rows_leave:
            return self.rows_max
        return min(self.rows_max + self.rows_max // 4 + SLOTS_SPARE, ROWS_LIMIT)

    @property
    def rows_leave(self) -> bool:
        """Whether a sighting may end other rows: by expiry or by eviction."""
        return self.ttl_s > 0 or self.evict != "none"
