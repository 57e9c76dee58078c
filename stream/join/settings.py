"""How impressions and actions become examples: what can be set, and what is counted."""

from typing import Literal

import msgspec

from ground.short_repr import ShortRepr
from stream.limits import PENDING_MAX, check_dead_letters
from stream.log.base import PARTITIONS_MAX


class JoinSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How impressions and actions become examples."""

    decide: Literal["window", "first_action"] = "window"
    window_s: float = 60.0  # of event time, from the impression
    late: Literal["drop", "learn"] = "drop"  # an action after the decision: "learn" corrects what was learned
    negative_rate: float = 1.0  # share of candidates without a click that are kept
    max_ahead_s: float = 300.0  # event time ahead of the log's clock beyond which a record is refused
    clock_ahead_s: float = 1.0  # event time ahead of it counts as no further ahead than this
    pending_max_memory: int = 50_000  # entries per partition kept in memory; the rest is on disk
    pending_max: int = 5_000_000  # undecided requests per partition, and as many remembered ones
    waiting_bytes_max: int = 4 << 30  # per partition, of requests that wait for a further target only
    dead_letter_share_max: float = 0.5
    dead_letter_window: int = 1000  # records per partition over which that share is taken
    seed: int = 0  # of the choice of negatives
    shard_by: str = ""  # the feature by whose value examples are spread; empty: they stay with their events
    partitions: int = 0  # of topic examples, if they are sharded; 0: as events; fixed once they exist

    def __post_init__(self) -> None:
        if not 0.0 < self.window_s <= 30 * 86400.0:
            raise ValueError(f"window_s is {self.window_s}; expected over 0, up to 30 days")
        if not 0.0 < self.negative_rate <= 1.0:
            raise ValueError(f"negative_rate is {self.negative_rate}; expected over 0, up to 1")
        if not (self.max_ahead_s >= 0.0 and self.clock_ahead_s >= 0.0):
            raise ValueError("max_ahead_s and clock_ahead_s must be 0 or more")
        if self.pending_max_memory < 1 or not 1 <= self.pending_max <= PENDING_MAX:
            raise ValueError(f"pending_max_memory must be 1 or more, and pending_max 1 to {PENDING_MAX:,}")
        if self.waiting_bytes_max < 1:
            raise ValueError(f"waiting_bytes_max is {self.waiting_bytes_max}; expected 1 or more")
        check_dead_letters(self.dead_letter_share_max, self.dead_letter_window)
        if not 0 <= self.partitions <= PARTITIONS_MAX:
            raise ValueError(f"partitions must be 1 to {PARTITIONS_MAX}, or 0 for as many as events have")


COUNTS_KEY = b"join/counts"
"""Key of the counts in a joiner's state."""


class JoinCounts(msgspec.Struct):
    """Counts of a joiner since its state was created, over all partitions."""

    impressions: int = 0  # accepted
    actions: int = 0  # accepted before their request was decided
    examples: int = 0
    positives: int = 0  # labels of 1 in them
    negatives: int = 0  # labels of 0 in them
    duplicate_impressions: int = 0
    duplicate_actions: int = 0  # repeated, or older than another action with the candidate
    late: int = 0  # actions after the decision, learned or dropped as configured
    orphans: int = 0  # actions and exposures whose impression never came; dead letters too
    subsampled: int = 0  # candidates without a click that were not kept
    emptied: int = 0  # requests without a kept candidate
    early: int = 0  # decided before their time because pending_max was reached
    forgotten_early: int = 0  # decided requests forgotten before their time because pending_max was reached
    dead_letters: int = 0
    forgets: int = 0  # requests to forget, one per partition
    forgotten: int = 0  # waiting or remembered requests from which ids were removed
    ahead: int = 0  # events further ahead of the log's clock than clock_ahead_s
    exposures: int = 0  # accepted before their request was decided
    duplicate_exposures: int = 0  # the same again, or overtaken by a newer one
    late_exposures: int = 0  # after the decision: what was learnt stays
    exposed: int = 0  # requests decided of which somebody had said what was shown
    unshown: int = 0  # candidates left out because they were not shown
    shown_by_click: int = 0  # clicked candidates that were said not to be shown; learnt all the same
    corrections: int = 0  # labels that were learned before and have changed since
    implied: int = 0  # labels that no action said, but one of a further target implies
    long_unsaid: int = 0  # requests of over 10 candidates of which nobody had said what was shown
    entities: int = 0  # entity events, passed on
    without_entity: int = 0  # examples sharded by their request's id, since it does not name the entity
