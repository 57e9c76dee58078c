"""What a seed stands for: who is there, how they are configured, and what goes wrong how often."""

import random

import msgspec
from ledger import WINDOW_S

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings
from stream.group.membership import GroupSettings
from stream.join.settings import JoinSettings
from stream.log.testing import Faults
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


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator configures. Rolling out another one changes nothing of what is learned."""

    features: dict[str, FeatureSpec] = msgspec.field(default_factory=lambda: dict(FEATURES))
    runner: RunnerSettings = RunnerSettings(read_max=20, commit_every_s=0.3, wait_s=0.5)
    join: JoinSettings = JoinSettings(
        window_s=WINDOW_S, late="learn", pending_max_memory=40, dead_letter_window=400
    )
    learn: LearnerSettings = LearnerSettings(
        deep="none", publish_every_s=0.5, snapshot_bytes_min=20_000, dead_letter_share_max=1.0
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
                update_bytes_max=rng.choice((4_096, 4 << 20)),
                snapshot_bytes_min=rng.choice((5_000, 20_000)),
                publish_rows_max=rng.choice((20, 50_000)),
            ),
            group=replace(
                self.group, timeout_s=rng.choice((3.0, 6.0)), snapshot_every_s=rng.choice((5.0, 10.0))
            ),
            memory=replace(self.memory, capacity=rng.choice((64, 256))),
        )


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How likely what is, per use of disk or log."""

    kill_at_disk: float = 0.0
    kill_at_log: float = 0.0
    full: float = 0.0  # of a write: the disk has no room, for a while
    full_s_max: float = 3.0
    gaps: float = 0.0  # of an append: behind it are offsets without records
    network: Faults = Faults()


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed stands for; printed with a seed that fails, and made smaller by `shrink`."""

    seed: int
    partitions: int
    joiners: int
    learners: int
    servers: int
    requests: int
    rates: Rates
    live: bool = False  # events are about as old as the log's clock says, so ticks close windows
    log_times: bool = True  # False: the log does not note when it took a record
    small: bool = False  # tables that are full, with rows that expire
    wrong_clocks: int = 0  # producers whose clocks are
    kills: int = 0  # of any process, at a moment drawn
    pauses: int = 0  # as by SIGSTOP
    skews: int = 0  # wall clocks that jump
    drifts: int = 0  # clocks that run too fast or too slowly from now on
    outages: int = 0  # nobody reaches the log, for seconds to hours
    lost_states: int = 0  # a process that comes back without its folder
    lost_writes: int = 0  # whose disk had not kept what it said it had
    reordered: int = 0  # whose disk has the last writes, and not those before
    misdirected: int = 0  # whose last write is in another one's files
    flips: int = 0  # a bit flips in one entry of a database
    damages: int = 0  # a whole database goes bad
    backups: int = 0  # a copy of a folder, from which an operator restores it when it is damaged
    rollouts: int = 0  # another config, one role after the other
    forgets: int = 0  # requests to forget
    trims: int = 0  # the log drops what it need not keep any more
    defects: int = 0  # an exception that nobody expects, in whatever thread of a process


PLANNED = (
    "kills", "pauses", "skews", "drifts", "outages", "lost_states", "lost_writes", "reordered", "misdirected",
    "flips", "damages", "backups", "rollouts", "forgets", "trims", "defects", "wrong_clocks",
)  # fmt: skip
"""What happens a number of times."""


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed: most kinds of trouble are absent from each."""
    rng = random.Random(seed)

    def some(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    def few(most: int, share: float = 0.35) -> int:
        return rng.randint(1, most) if rng.random() < share else 0

    network = Faults(
        append_lost=some(0.05), append_in_doubt=some(0.05), append_late=some(0.05), repeat=some(0.1),
        away=some(0.01), short_read=some(0.5), uneven=some(0.5), delay=some(0.05), delay_s_max=0.5,
    )  # fmt: skip
    rates = Rates(
        kill_at_disk=some(0.005), kill_at_log=some(0.01), full=some(0.01), gaps=some(0.1), network=network
    )
    return Schedule(
        seed=seed,
        partitions=rng.randint(1, 3),
        joiners=rng.randint(1, 2),
        learners=rng.randint(1, 2),
        servers=rng.randint(0, 1),
        requests=rng.randint(20, 120),
        rates=rates,
        live=rng.random() < 0.25,
        log_times=rng.random() < 0.8,
        small=rng.random() < 0.25,
        wrong_clocks=few(1, 0.25),
        kills=few(6, 0.5),
        pauses=few(4, 0.5),
        skews=few(3),
        drifts=few(2),
        outages=few(2, 0.25),
        lost_states=few(2, 0.4),
        lost_writes=few(2, 0.4),
        reordered=few(1, 0.2),
        misdirected=few(1, 0.2),
        flips=few(2, 0.3),
        damages=few(1, 0.2),
        backups=few(2, 0.3),
        rollouts=few(1, 0.25),
        forgets=few(4, 0.4),
        trims=few(3, 0.3),
        defects=few(1, 0.2),
    )
