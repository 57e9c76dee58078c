"""What stands at which position of the arrays that kernels share: one name for each, defined here alone.

`state[State.HIGH]`, `ages[Ages.HELD]`: an enumeration has the name of the array that it indexes. Numba
compiles the members into the code as constants.
"""

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """`Store.state`: counters of this process. They are not saved: a restart assigns slots anew."""

    BASE = 0
    """Index: buckets at the last doubling."""
    SPLIT = 1
    """Index: buckets that were split since then. There are BASE + SPLIT buckets."""
    LIVE = 2
    """Rows in use."""
    HIGH = 3
    """Slots ever used. The arena is used below this slot."""
    FREE_HEAD = 4
    """The free slots are free[FREE_HEAD:FREE_TAIL], positions modulo the length of `free`."""
    FREE_TAIL = 5
    TOUCHED = 6
    """Slots in `touched`."""
    SWEEP = 7
    """The slot at which the next expiry sweep starts."""
    INSERTED = 8
    REFUSED = 9
    """Sightings of ids that are not admitted yet."""
    FULL = 10
    """Sightings refused because the table is full."""
    EXPIRED = 11
    DELETED = 12
    CHANGED_LINES = 13
    """Lines in `changed`."""
    SALT = 14
    """Index: drawn at random, so that nobody can prepare ids that all fall into one bucket."""
    MOVED = 15
    """Index: odd while entries move between buckets."""
    HAND = 16
    """Slots from here to HAND_END still have to be checked for evicted rows."""
    HAND_END = 17
    STRIDE = 18
    """How many of them are checked for each new row."""
    RESTING = 19
    """Rows that are on disk and not in memory (`embeddings/rest`)."""
    LIMITS = 20
    """Limits of eviction noted since they were last taken (`eviction.note_limit`)."""


STATE_SIZE: Final = 24


class Ages(IntEnum):
    """`Store.ages`: the table's clock. With eviction it is saved, so the numbers must not change."""

    GENERATION = 0
    """The current generation. The first is 1."""
    LEFT = 1
    """Sightings until the current generation ends."""
    FLOOR = 2
    """The oldest generation (without eviction: cell of last seen) that is counted on its own."""
    HELD = 3
    """Rows that exist. With eviction, some rows whose TTL is over are still included."""
    LIMIT_GENERATION = 4
    """The generation that began with the limit. Rows of this generation and later ones stay."""
    LIMIT_CLASS = 5
    LIMIT_STAMP = 6
    NEWEST = 7
    """Latest time of a sighting, Unix seconds."""
    EVICTED = 8
    """Rows evicted so far."""
    MADE = 9
    """Rows made since the limit was set."""
    SEEN_FROM = 10
    """Earliest last seen of the rows that were saved without eviction (`adoption.py`)."""
    SEEN_TO = 11
    """Latest of those, plus 1. 0: the table has always had eviction."""


AGES_SIZE: Final = 16


class Path(IntEnum):
    """Columns of `Store.path`: the search for an empty lane of the index, breadth first."""

    BUCKET = 0
    PARENT = 1
    """The node from which this bucket was reached; -1 for the first two."""
    LANE = 2
    """The lane of the parent's entry that would move here."""


class Reader(IntEnum):
    """Columns of `Readers` (`views/fetching.py`): address and length of each array, then how a row lies."""

    BUCKETS = 0
    BUCKETS_LENGTH = 1
    ROWS = 2
    ROWS_LENGTH = 3
    AGES = 4
    AGES_LENGTH = 5
    STATE = 6
    STATE_LENGTH = 7
    ROW_WIDTH = 8
    """Columns of a row in memory, including its key."""
    KEY_COLUMN = 9
    DIM = 10
    EXTRA_COLUMN = 11
    EXTRA = 12
    COUNT_COLUMN = 13
    TTL = 14
    TICK = 15
    CLASSES = 16
    AGE_COLUMN = 17
