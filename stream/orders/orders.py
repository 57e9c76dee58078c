"""Orders: what a person, or a guard, says of the models of a log. All who follow the topic agree on them.

Topic `models` has one partition, so orders have one sequence. Each takes effect at its offset.
"""

import logging
from typing import Annotated

import msgspec

from ground import UNDECODABLE
from stream.limits import MODELS_MAX
from stream.log.base import PARTITIONS_MAX, SEQ_MAX, Log, Outgoing

MODELS = "models"
"""The topic. It is made only if the config has something to order."""
ORDER_VERSION = 1
TEXT_MAX = 500
"""Characters of a reason."""

_log = logging.getLogger("freshet.orders")

Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]  # excludes NaN
Partition = Annotated[int, msgspec.Meta(ge=0, le=PARTITIONS_MAX - 1)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)]


class Traffic(msgspec.Struct, frozen=True, tag="traffic", omit_defaults=True):
    """Which share of the entities each model answers from here on; models that are not named answer none."""

    shares: Annotated[dict[str, Share], msgspec.Meta(min_length=1, max_length=MODELS_MAX)]
    time: float  # Unix seconds, for people
    why: Text = ""
    v: int = ORDER_VERSION

    def __post_init__(self) -> None:
        if not any(self.shares.values()):
            raise ValueError("all shares are 0: no model would answer anybody")


class Rollback(msgspec.Struct, frozen=True, tag="rollback", omit_defaults=True):
    """The learner of a model goes back to a snapshot, and its servers with it."""

    model: str
    snapshot: str  # its name; "": the newest whose examples all came into the log before `before_ms`
    time: float  # Unix seconds, for people
    before_ms: int = 0
    skip_to: dict[Partition, Offset] = {}  # from where to go on in `examples`; {}: learn all again
    hold: bool = False  # pass examples over, and learn nothing, until `Resume`
    why: Text = ""
    v: int = ORDER_VERSION


class Resume(msgspec.Struct, frozen=True, tag="resume", omit_defaults=True):
    """The learner of a model that passes examples over learns again, from the next example on."""

    model: str
    time: float  # Unix seconds, for people
    why: Text = ""
    v: int = ORDER_VERSION


Order = Traffic | Rollback | Resume


class Placed(msgspec.Struct, frozen=True):
    """An order and its place."""

    offset: int
    order: Order


_decode = msgspec.msgpack.Decoder[Order](Order).decode


class OrderReader:
    """Reads topic `models` from its beginning on."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next = 0

    def read(self) -> list[Placed]:
        """The orders since the last call, in order. What this Freshet does not know is logged and skipped.

        Raises:
            LogError: the log fails.
        """
        found: list[Placed] = []
        ((first, end),) = self._log.ends(MODELS)
        self._next = max(self._next, first)
        while self._next < end:
            records = self._log.read(MODELS, 0, self._next)
            if not records:
                self._next = end  # the rest are offsets without records
            for record in records:
                self._next = record.offset + 1
                try:
                    order = _decode(record.value)
                except UNDECODABLE as error:
                    _log.warning("record %d of topic models is no order: %s", record.offset, error)
                    continue
                if order.v != ORDER_VERSION:
                    _log.warning("record %d of topic models has version %d", record.offset, order.v)
                    continue
                found.append(Placed(record.offset, order))
        return found


def give_order(log: Log, order: Order) -> int:
    """Append an order; returns its offset.

    Raises:
        LogError: the log fails.
    """
    ((_, offset),) = log.append(MODELS, [Outgoing(b"order", msgspec.msgpack.encode(order), 0)])
    return offset


class PlacedTraffic(msgspec.Struct, frozen=True):
    """An order of shares and its place."""

    offset: int
    order: Traffic


def newest_traffic(log: Log) -> PlacedTraffic | None:
    """The shares that count now; None: nobody has ordered any, those of the config count.

    Raises:
        LogError: the log fails.
    """
    newest = None
    for placed in OrderReader(log).read():
        if isinstance(placed.order, Traffic):
            newest = PlacedTraffic(placed.offset, placed.order)
    return newest
