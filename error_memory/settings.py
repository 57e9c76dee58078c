"""The settings of every kind of error memory, in one flat, checked value."""

from typing import Literal

import msgspec

from error_memory.errors import MemorySettingsError
from ground.short_repr import ShortRepr

Kind = Literal["residual", "sketch", "neighbours", "none"]


class MemorySettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of an error memory. Each block of settings applies to the kind that its comment names."""

    kind: Kind = "residual"
    seed: int = 0
    """Seed of the random projections of `sketch` and `neighbours`; `residual` uses no random numbers."""

    # residual: Bayesian residuals per (column, key), dropped by stream position
    capacity: int = 1 << 17
    """Keys held, rounded up to a power of two; at 8 generations a key takes 144 bytes."""
    generations: int = 8
    """Granularity of dropping evidence: in parts of about 1/8 to 1/4 of the examples held."""
    span: int = 64
    """Examples in the first generations; doubles whenever all are in use. Small, so that a live base
    that is a few requests behind is corrected by those requests only."""
    tau0: tuple[float, ...] = (0.3, 0.1)
    """Prior variances by column until `set_priors` gives the base's; the last one is repeated."""
    keep: tuple[float, ...] = (1.0,)
    """Share of a key's evidence kept at each sighting, by column; the last one is repeated."""
    half_life_s: float = 0.0
    """Evidence loses half its weight in this much event time; 0: never."""
    gate_decay: float = 0.9995
    """Memory of the gate: about 2000 examples, or half of the examples held if that is more."""
    gate_bias: float = 2.0
    """The gate is σ(D - bias), D the recent gain in log loss: without a record, 0.12 of a correction."""
    gate_toll: float = 0.001
    """Least useful gain of a correction, as a share of the base's log loss."""

    # sketch: ReLoop2 as published
    arrays: int = 70
    """K, tables of buckets."""
    bits: int = 12
    """L, bits of a bucket's address: the similarity softmax has temperature 1/L."""
    gamma: float = 1.0
    """γ, weight of (ȳ - p) against (ȳ - p̄). The paper uses 1 throughout."""
    lam: float = 0.5
    """λ, share of the error that is added. The paper uses 0.4 to 0.9. Also used by `neighbours`."""

    # neighbours: a ring of the newest examples, read exactly
    newest: int = 4096
    """Examples held."""
    nearest: int = 64
    """Examples read for one correction."""
    temperature: float = 0.1
    """Temperature of the softmax over their cosine similarities."""

    def __post_init__(self) -> None:
        _within("capacity", self.capacity, 8, 1 << 30)
        _within("generations", self.generations, 2, 64)
        _within("span", self.span, 1, 1 << 40)
        _within("half_life_s", self.half_life_s, 0.0, 1e12)
        _within("gate_decay", self.gate_decay, 0.0, 1.0)
        _within("gate_bias", self.gate_bias, -20.0, 20.0)
        _within("gate_toll", self.gate_toll, 0.0, 1.0)
        _within("arrays", self.arrays, 1, 1024)
        _within("bits", self.bits, 1, 20)
        _within("gamma", self.gamma, 0.0, 1.0)
        _within("lam", self.lam, 0.0, 1.0)
        _within("newest", self.newest, 1, 1 << 20)
        _within("nearest", self.nearest, 1, self.newest)
        _within("temperature", self.temperature, 1e-3, 1e3)
        for name, values, least, most in (("tau0", self.tau0, 1e-4, 20.0), ("keep", self.keep, 1e-3, 1.0)):
            if not values:
                raise MemorySettingsError(f"{name} is empty: give at least one value, the last is repeated")
            for value in values:
                _within(name, value, least, most)


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise MemorySettingsError(f"{name} is {value}: it must be from {least} to {most}")


def by_column(values: tuple[float, ...], columns: int) -> list[float]:
    """One value for each of `columns` columns: those given, then the last of them repeated."""
    return [values[min(c, len(values) - 1)] for c in range(columns)]
