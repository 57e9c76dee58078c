"""What a learner counts and where it stands, as its state keeps it."""

import msgspec

KEY = b"learner/meta"  # in a learner's state


class Meta(msgspec.Struct):
    """What a learner knows beside its weights."""

    epoch: int
    makes_room: bool = False  # see `Model`; states of before there was such a default go on without
    seq: int = 0  # of the last update
    watermark: dict[int, int] = {}
    examples: int = 0  # rows learnt, late ones included
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
    of_history: int = 0  # examples of the log left out, since history in files has taught them
    forgets: int = 0  # requests to forget that were met, one a partition
    refused: int = 0  # candidates left out because they name what is to stay forgotten
    refusals_clock: float = 0.0  # see Refusals.clock
    purging: bool = False  # what was forgotten may still be in the state's entries
