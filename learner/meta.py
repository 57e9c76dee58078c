"""A learner's counters and position, as saved in its state."""

import msgspec

KEY = b"learner/meta"  # in a learner's state, as all that follow
ARRAY = b"array/"  # + name
POSITION = b"learner/place"  # in topic `updates`
BAD_SHARE = b"learner/bad_share"
PENDING = b"learner/pending"


class LearnerMeta(msgspec.Struct):
    """A learner's state beside its weights."""

    epoch: int
    makes_room: bool = False  # see `Model`; older states have no such default
    seq: int = 0  # of the last update
    watermark: dict[int, int] = {}
    examples: int = 0  # rows learned, late ones included
    requests: int = 0
    event_time: float = 0.0
    ingest_ms: int = 0
    tick: int = -1
    clock: float = 0.0  # see Trainer.clock
    record_seq: int = 0  # of the next record on topics updates and snapshots
    snapshot_bytes: int = 0  # of the last snapshot; 0: none yet
    update_bytes: int = 0  # since the last snapshot
    quarantined: int = 0
    term: int = 0  # in which the last update was made
    of_history: int = 0  # examples of the log skipped, since they were learned from files
    forgets: int = 0  # requests to forget, counted once per partition
    refused: int = 0  # candidates skipped because they hold a forgotten id
    refusals_clock: float = 0.0  # see Refusals.clock
    purging: bool = False  # forgotten ids may still be in the state's entries
    order: int = -1  # offset in topic `models` of the last order obeyed
    announce: bool = False  # the first update after a rollback is still to be sent
    held: bool = False  # examples are passed over, and nothing is learned, until an order to go on
    passed_over: int = 0  # candidates of these examples, and of those skipped by a rollback
