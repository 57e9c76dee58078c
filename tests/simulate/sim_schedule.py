"""What a seed stands for: who is there, what is used, and what goes wrong how often."""

import random

import msgspec

from stream.log.testing import Faults


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How likely what is, per use of disk or log."""

    kill_at_disk: float = 0.0
    kill_at_log: float = 0.0
    full: float = 0.0  # of a write: the disk has no room, for a while
    full_s_max: float = 3.0
    merge_fails: float = 0.0  # of a merge: the disk has no room for what it writes
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
    every_s: float = 0.05  # of event time between two requests: the longer, the sooner windows close
    live: bool = False  # events are about as old as the log's clock says, so ticks close windows
    log_times: bool = True  # False: the log does not note when it took a record
    small: bool = False  # tables that are full, with rows that expire
    evicts: bool = False  # one of the small tables evicts ids that are never seen again
    known: bool = False  # with histories and rates
    targets: bool = False  # three of them
    entities: bool = False  # events that say what is true of items and people
    sharded: bool = False  # all examples of a person are in one partition
    cut: bool = False  # updates of several parts, and many snapshots on the log
    wrong_clocks: int = 0  # producers whose clocks are
    jumps: int = 0  # the stream stands still for some windows; what was on its way comes after them
    kills: int = 0  # of any process, at a moment drawn
    stops: int = 0  # as by SIGTERM
    pauses: int = 0  # as by SIGSTOP
    skews: int = 0  # wall clocks that jump
    drifts: int = 0  # clocks that run too fast or too slowly from now on
    outages: int = 0  # nobody reaches the log, for seconds to hours
    topic_outages: int = 0  # nobody can append to one topic, for seconds
    depositions: int = 0  # a leader that pauses just before it sends an update, until another one leads
    lost_states: int = 0  # a process that comes back without its folder
    lost_writes: int = 0  # whose disk had not kept what it said it had
    reordered: int = 0  # whose disk has the last writes, and not those before
    misdirected: int = 0  # whose last write is in another one's files
    flips: int = 0  # a bit flips in one entry of a database
    damages: int = 0  # a whole database goes bad
    bad_snapshots: int = 0  # the newest snapshot does, and a learner needs one
    bad_records: int = 0  # a bit flips in an update, or in a snapshot on the log
    backups: int = 0  # a copy of a folder, from which an operator restores it when it is damaged
    rollouts: int = 0  # another config, one role after the other
    forgets: int = 0  # requests to forget
    trims: int = 0  # the log drops what it need not keep any more
    early_trims: int = 0  # and what a joiner still needs; its operator brings it back
    defects: int = 0  # an exception that nobody expects, in whatever thread of a process
    cut_claims: int = 0  # a learner claims to lead, and no answer comes to what it reads next


PLANNED = (
    "kills", "stops", "pauses", "skews", "drifts", "outages", "topic_outages", "depositions", "lost_states",
    "lost_writes", "reordered", "misdirected", "flips", "damages", "bad_snapshots", "bad_records", "backups",
    "rollouts", "forgets", "trims", "early_trims", "defects", "cut_claims", "wrong_clocks", "jumps",
)  # fmt: skip
"""What happens a number of times."""

STATE_LOST = (
    "lost_states", "lost_writes", "reordered", "misdirected", "flips", "damages", "bad_snapshots", "backups",
)  # fmt: skip
"""Of this a state has not all that was sent from it."""

USED = "servers", "live", "small", "evicts", "known", "targets", "entities", "sharded", "cut"
"""What a world may have or not."""


def lacking(schedule: Schedule, name: str) -> Schedule:
    """The same schedule without what a field stands for."""
    nothing = type(getattr(schedule, name))()  # of its type, so that it can be read again
    return msgspec.structs.replace(schedule, **{name: nothing})


BITS_FLIP_ON_THE_LOG = 0.3
"""In how many schedules no disk fails, and the log does instead."""


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed: most kinds of trouble are absent from each."""
    rng = random.Random(seed)

    def some(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    def few(most: int, share: float = 0.35) -> int:
        return rng.randint(1, most) if rng.random() < share else 0

    network = Faults(
        append_lost=some(0.05), append_in_doubt=some(0.1), append_late=some(0.05), repeat=some(0.1),
        away=some(0.01), short_read=some(0.5), uneven=some(0.5), delay=some(0.05), delay_s_max=0.5,
    )  # fmt: skip
    rates = Rates(
        kill_at_disk=some(0.005), kill_at_log=some(0.01), full=some(0.01), merge_fails=some(1.0),
        gaps=some(0.3), network=network,
    )  # fmt: skip
    live = rng.random() < 0.3
    drawn = Schedule(
        seed=seed,
        partitions=rng.randint(1, 3),
        joiners=rng.randint(1, 2),
        learners=rng.randint(1, 2),
        servers=rng.randint(0, 1),
        requests=rng.randint(20, 120),
        rates=rates,
        every_s=0.1 if live else rng.choice((0.05, 0.3, 0.6, 0.6)),
        live=live,
        log_times=rng.random() < 0.75,
        small=rng.random() < 0.2,
        known=rng.random() < 0.2,
        targets=rng.random() < 0.2,
        entities=rng.random() < 0.25,
        sharded=rng.random() < 0.2,
        cut=rng.random() < 0.5,
        wrong_clocks=few(1, 0.3),
        jumps=0 if live else few(1, 0.25),
        kills=few(6, 0.4),
        stops=few(3, 0.4),
        pauses=few(4, 0.4),
        skews=few(3, 0.3),
        drifts=few(2, 0.3),
        outages=few(2, 0.2),
        topic_outages=few(3, 0.3),
        depositions=few(2, 0.5),
        lost_states=few(2, 0.35),
        lost_writes=few(2, 0.3),
        reordered=few(1, 0.15),
        misdirected=few(1, 0.15),
        flips=few(2, 0.25),
        damages=few(1, 0.15),
        bad_snapshots=few(1, 0.2),
        bad_records=few(2, 0.5),
        backups=few(2, 0.3),
        rollouts=few(1, 0.25),
        forgets=few(4, 0.4),
        trims=few(3, 0.3),
        early_trims=few(1, 0.25),
        defects=few(2, 0.3),
        cut_claims=few(2, 0.4),
    )
    log_fails = rng.random() < BITS_FLIP_ON_THE_LOG
    drawn = msgspec.structs.replace(drawn, evicts=drawn.small and rng.random() < 0.6)
    if log_fails:
        whole = dict.fromkeys(STATE_LOST, 0)
        return msgspec.structs.replace(drawn, bad_records=max(drawn.bad_records, 1), **whole)
    if any(getattr(drawn, name) for name in STATE_LOST):  # who has lost its state needs whole updates
        return msgspec.structs.replace(drawn, bad_records=0)
    return drawn
