"""What an operator configures in a world."""

import random

import msgspec
from ledger import WINDOW_S
from ledger_targets import TARGETS
from sim_schedule import Schedule

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings
from stream.group.membership import GroupSettings
from stream.join.settings import JoinSettings
from stream.records.targets import UNDECLARED, Targets
from stream.run.contract import RunnerSettings

FEATURES = {
    "user": FeatureSpec(dim=2),
    "item": FeatureSpec(dim=2),
    "once": FeatureSpec(dim=2, pairs=False),
}
SMALL = {
    "user": FeatureSpec(dim=2, rows_max=64),
    "item": FeatureSpec(dim=2, ttl_s=2.0, rows_max=80, evict="none", admit_after=2),
    "once": FeatureSpec(dim=2, pairs=False, ttl_s=1.0, rows_max=64, evict="none"),
}
"""Tables that are full, and rows that expire."""
EVICTS = {"once": FeatureSpec(dim=2, pairs=False, rows_max=64, ttl_s=20.0)}
"""In place of that of the small tables: rows that are gone keep their slots until a sweep meets them."""
KNOWN = {
    "past": FeatureSpec(kind="history", by="user", of="once", length=4, dim=2, ttl_s=20.0),
    "rate": FeatureSpec(kind="rate", of=["user", "item"], window_s=60.0, measure="count"),
    "lately": FeatureSpec(kind="rate", of="item", window_s=60.0, rows_max=64, evict="least_recent"),
}
"""What the model itself keeps of people and items; some of it expires, some is evicted."""
SAID = {
    "brand": FeatureSpec(of="item", dim=2, pairs=False),
    "town": FeatureSpec(of="user", dim=2, pairs=False),
}
"""What entity events say of items and people."""

EXPIRE_SLOTS = 4  # that a flush checks: so a sweep takes many flushes, as that of a large table does

AHEAD_S = 2_000.0  # that an event may be ahead of the others, where the log notes no times


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator configures. Rolling out another one changes nothing of what is learned."""

    features: dict[str, FeatureSpec] = msgspec.field(default_factory=lambda: dict(FEATURES))
    targets: Targets = UNDECLARED
    runner: RunnerSettings = RunnerSettings(read_max=20, commit_every_s=0.3, wait_s=0.5)
    join: JoinSettings = JoinSettings(
        window_s=WINDOW_S, late="learn", pending_max_memory=40, dead_letter_window=400
    )
    learn: LearnerSettings = LearnerSettings(
        deep="none", publish_every_s=0.5, snapshot_bytes_min=20_000, dead_letter_share_max=1.0, window=200
    )
    group: GroupSettings = GroupSettings(beat_s=1.0, timeout_s=6.0, snapshot_every_s=10.0)
    memory: MemorySettings = MemorySettings(capacity=64)

    def changed(self, rng: random.Random) -> "Config":
        """The next one that is rolled out."""
        replace = msgspec.structs.replace
        return replace(
            self,
            runner=replace(
                self.runner,
                read_max=rng.choice((3, 20, 500)),
                commit_every_s=rng.choice((0.05, 0.3, 1.0)),
                commit_records_max=rng.choice((5, 20_000)),
            ),
            join=replace(self.join, pending_max_memory=rng.choice((1, 40, 1_000))),
            learn=replace(
                self.learn,
                update_bytes_max=rng.choice((1_024, 4_096, 4 << 20)),
                snapshot_bytes_min=rng.choice((2_000, 20_000)),
                publish_rows_max=rng.choice((20, 50_000)),
            ),
            group=replace(
                self.group, timeout_s=rng.choice((3.0, 6.0)), snapshot_every_s=rng.choice((5.0, 10.0))
            ),
            memory=replace(self.memory, capacity=rng.choice((64, 256))),
        )

    def with_snapshots(self) -> "Config":
        """The same, with a snapshot on the log behind each update."""
        learn = msgspec.structs.replace(self.learn, snapshot_bytes_min=1, snapshot_ratio=1e-6)
        return msgspec.structs.replace(self, learn=learn)


def config_of(schedule: Schedule) -> Config:
    """With which all roles of a world begin."""
    replace = msgspec.structs.replace
    features = dict(SMALL if schedule.small else FEATURES)
    features |= EVICTS if schedule.evicts else {}
    features |= (KNOWN if schedule.known else {}) | (SAID if schedule.entities else {})
    config = Config(features=features, targets=TARGETS if schedule.targets else UNDECLARED)
    if not schedule.log_times:
        config = replace(config, join=replace(config.join, max_ahead_s=AHEAD_S))
    if schedule.sharded:
        config = replace(config, join=replace(config.join, shard_by="user"))
    if schedule.cut:
        cut = replace(config.learn, update_bytes_max=1_024, snapshot_bytes_min=2_000, snapshot_ratio=1.0)
        config = replace(config, learn=cut)
    return config
