"""All limits of records and of pending requests in one table, with the relations between them.

The relations at the end are checked when this module is imported, so that raising one limit without the
limits that depend on it fails at once.
"""

SCHEMA_VERSION = 1

# One record.
RECORD_BYTES_MAX = 1 << 20
BATCH_EVENTS_MAX = 10_000
CANDIDATES_MAX = 2_000
FEATURES_MAX = 256
VALUES_MAX = 1_024  # of one list feature
TEXT_MAX = 1_024  # characters of one string id
VECTOR_MAX = 4_096  # numbers of one feature of kind vector
LONG_TEXT_MAX = 128 << 10  # characters of one feature of kind text
REQUEST_ID_MAX = 128  # characters
ENTITY_BYTES_MAX = 3 * RECORD_BYTES_MAX // 4  # of an entity event, and of all that is kept of one entity
FORGET_IDS_MAX = 100  # per feature and request: a learner searches the pair rows of each id
FORGET_IDS_IN_RECORD_MAX = 2 * FORGET_IDS_MAX  # a sequence's own ids, and those of the feature that it holds
TARGETS_MAX = 16
MODELS_MAX = 8  # on one log: an impression holds what each of them predicted
TARGET_NAME_MAX = 64  # characters, of a target's name and of an action's
TARGET_WINDOW_S_MAX = 30 * 86_400.0
VALUE_MAX = 1e15  # of a target that is a value: its square, and a sum of squares, are still exact enough
WEIGHT_MAX = 1e6
REFUSE_S_MAX = 10 * 366 * 86_400.0
TIME_MIN_S = 0.0  # 1970: an earlier time means a broken clock or a wrong unit
TIME_MAX_S = 4_102_444_800.0  # 2100: a later time is usually in milliseconds
SPLICED_BYTES_MAX = (
    RECORD_BYTES_MAX // 16
)  # of an event whose features are copied into its example as they are

# Outputs of one record: an output's sequence number is the record's offset and the output's index.
SEQ_BITS = 63
OUTPUT_BITS = 23
OFFSET_END = 1 << (SEQ_BITS - OUTPUT_BITS)  # of a partition; a trillion records
OUTPUTS_MAX = 1 << OUTPUT_BITS

# Pending requests and actions in one partition of a joiner.
WAITING_MAX = 256  # actions for one impression
PENDING_BYTES_MAX_MEMORY = 256 << 20  # of events in the requests that are kept in memory between commits
PENDING_MAX = 8_000_000  # undecided requests: the most that `pending_max` may be

# What one record causes in one commit of a joiner: beyond this, the rest is done in further commits.
AT_ONCE_MAX = 50_000  # timers
AT_ONCE_BYTES_MAX = 16 << 20  # of outputs

DEAD_LETTER_WINDOW_MAX = 100_000  # records over which a role takes the share of bad ones


def further_actions_max(pending_max: int) -> int:
    """How many actions may wait in a partition besides the first of each request.

    When the clock advances, each undecided request becomes an example, or a dead letter for each of its
    actions: all of them are outputs of one record. Each event of that record may add one more.
    """
    return OUTPUTS_MAX - BATCH_EVENTS_MAX - pending_max


def check_bounds(settings: object, *bounds: tuple[str, float, float]) -> None:
    """Raises ValueError if a setting, by its name, is below the first number or above the second."""
    for name, least, most in bounds:
        if not least <= (value := getattr(settings, name)) <= most:
            raise ValueError(f"{name} is {value}; expected {least:,} to {most:,}")


def check_dead_letters(share_max: float, window: int) -> None:
    """Raises ValueError if these are no limits of dead letters; a state keeps a byte for each record."""
    if not 0.0 <= share_max <= 1.0 or not 1 <= window <= DEAD_LETTER_WINDOW_MAX:
        raise ValueError(
            "dead_letter_share_max must be from 0 to 1, and dead_letter_window from 1 to "
            f"{DEAD_LETTER_WINDOW_MAX:,}"
        )


def check_relations() -> None:
    """Raises ValueError, naming them, if limits do not fit together."""
    relations = {
        "every output has an index": further_actions_max(PENDING_MAX) >= WAITING_MAX,
        "a batch of one event fits into a record": BATCH_EVENTS_MAX >= 1 and RECORD_BYTES_MAX > 5,
        "an example of a copied event fits into a record": 16 * SPLICED_BYTES_MAX <= RECORD_BYTES_MAX,
        "labels of all candidates fit beside a copied event": 9 * CANDIDATES_MAX + 64 <= SPLICED_BYTES_MAX,
        "an id fits into a record": 4 * max(TEXT_MAX, REQUEST_ID_MAX) <= RECORD_BYTES_MAX // 64,
        "a vector and a long text fit into a record": 9 * VECTOR_MAX + 4 * LONG_TEXT_MAX <= RECORD_BYTES_MAX,
        "a vector and a long text of one entity are kept": 9 * VECTOR_MAX + 4 * LONG_TEXT_MAX
        <= ENTITY_BYTES_MAX,
        "an entity fits into a record": ENTITY_BYTES_MAX + 8 * TEXT_MAX <= RECORD_BYTES_MAX,
        "ids to forget fit into a record": FORGET_IDS_IN_RECORD_MAX * 4 * TEXT_MAX <= RECORD_BYTES_MAX,
        "what is done at once fits into an outbox": AT_ONCE_BYTES_MAX + RECORD_BYTES_MAX < 1 << 31,
        "times are in order": TIME_MIN_S < TIME_MAX_S,
        "ids to refuse are refused for a time that there is": 0.0 < REFUSE_S_MAX < TIME_MAX_S,
    }
    broken = [what for what, holds in relations.items() if not holds]
    if broken:
        raise ValueError(f"limits of the stream do not fit together: {'; '.join(broken)}")


check_relations()
