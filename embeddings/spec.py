"""A table's settings, and the layout of a row that follows from them.

    row = | vector (dim) | optimizer state | extra | last seen (uint32 bits) | count (uint32 bits) |

All columns are 32 bits wide and a row is contiguous: whoever uses an id fetches one row. What a
table does not use it does not pay for.
"""

from typing import Literal, get_args

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
        admit_age_s: sightings further apart than this start counting anew; 0 is never.
        admission_capacity: ids whose sightings are counted; beyond it the longest unseen is forgotten.
        capacity_initial: rows for which the index has room at first; it grows bucket by bucket.
        rows_max: limit of rows; beyond it new ids are refused and counted.
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
    admit_age_s: int = 0
    admission_capacity: int = 1 << 20
    capacity_initial: int = 1024
    rows_max: int = 1 << 24

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
            "admit_age_s": (0, (1 << 32) - 1),
            "admission_capacity": (8, 1 << 32),
            "capacity_initial": (1, ROWS_LIMIT),
            "rows_max": (1, ROWS_LIMIT),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise TableSpecError(f"table {self.name!r}: {name} must be from {low} to {high}, not {value}")
        choices = {"optimizer": (*get_args(Optimizer), "none"), "init": get_args(Init)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise TableSpecError(
                    f"table {self.name!r}: {name} must be one of {', '.join(known)}, "
                    f"not {getattr(self, name)!r}"
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
    def extra_column(self) -> int:
        """The first of the caller's columns."""
        return self.dim + self.state_width

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
            row[self.dim : self.extra_column] = self.initial_accumulator
        elif self.optimizer == "ftrl":
            row[2 * self.dim : self.extra_column] = self.initial_accumulator
        return row

    @property
    def serving_slices(self) -> tuple[slice, ...]:
        """The columns that serving needs: everything but the optimizer's state."""
        if self.state_width == 0:
            return (slice(0, self.width),)
        return (slice(0, self.dim), slice(self.extra_column, self.width))

    def serving(self) -> "TableSpec":
        """The same table without optimizer state and admission: its rows are this one's `serving_slices`."""
        return msgspec.structs.replace(self, optimizer="none", admit_after=1)
