"""How a producer gathers events, and what it does when they cannot be sent."""

from typing import Literal

import msgspec

from ground.short_repr import ShortRepr


class ProducerSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How events are gathered, and what happens when they cannot be sent."""

    acks: Literal["flush", "each"] = "flush"
    """When a call returns: "flush", at once, and `flush` waits for the log; "each", once the log has it."""

    batch_max: int = 1000  # events appended at once
    batch_bytes_max: int = 1 << 20
    pack: bool = True  # events of one partition travel as one message; False: each in its own
    linger_s: float = 0.01  # how long the first event of a batch may wait for others
    buffer_max: int = 20_000  # events that wait for the log, those being appended included
    buffer_bytes_max: int = 64 << 20
    when_full: Literal["wait", "raise", "drop"] = "wait"
    """A call that finds the buffer full: waits `full_wait_s` for room and then raises; raises at once; or
    leaves its event out and counts it in `dropped`."""

    full_wait_s: float = 10.0
    give_up_s: float = 120.0  # for how long a batch is tried again before its events are given up

    def __post_init__(self) -> None:
        for name in ("batch_max", "batch_bytes_max", "buffer_max", "buffer_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("linger_s", "full_wait_s", "give_up_s"):
            if not 0.0 <= getattr(self, name) <= 86_400.0:
                raise ValueError(f"{name} must be 0 to 86400 seconds")


PRODUCER_DEFAULTS = ProducerSettings()
