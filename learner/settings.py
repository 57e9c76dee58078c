"""The learner's settings: one flat struct, each odd default with its reason."""

import re
from difflib import get_close_matches
from typing import Literal

import msgspec

from embeddings.spec import EVICT_ROWS_MIN, ROWS_LIMIT, Evict
from ground.short_repr import ShortRepr
from stream.limits import ENTITY_BYTES_MAX, check_bounds, check_dead_letters

WINDOW_MAX = 1_000_000
"""The longest window: its metrics are computed anew, in about half a second, whenever they are asked for."""

DEEP = ("dcn", "deepfm", "dlrm", "logistic", "none")
"""The deep parts that are built in; see `learner.deep.networks`."""

ENTITIES_BYTES_MIN = 2 * ENTITY_BYTES_MAX
ENTITY_VERSIONS_MAX = 64

SHARDS_MAX = 256
"""At most so many shards: each then owns four buckets of keys or more."""

TURN_REQUESTS_MAX = 1 << 20
"""Requests of one turn, at all shards together."""

VARIANCE_MAX = 1e6
"""Of a prior: on the logit scale, anything over a hundred is no prior any more."""

_BOUNDS = (
    ("deep_rate", 0.0, 10.0), ("deep_clip", 1e-9, 1e9), ("count_tau", 1e-300, VARIANCE_MAX),
    ("pairs_max", 0, 65_536), ("embedding_rate", 0.0, 1e6), ("embedding_accumulator", 0.0, 1e12),
    ("pairs_ttl_s", 0.0, 1e10), ("seed", 0, (1 << 63) - 1), ("threads", 1, 1024),
    ("publish_every_s", 0.0, 3600.0), ("publish_rows_max", 1, 1 << 40), ("update_bytes_max", 1, 1 << 29),
    ("snapshot_ratio", 0.0, 1e9), ("snapshot_bytes_min", 0, 1 << 50), ("entities_bytes_max", 0, 1 << 50),
)  # fmt: skip
"""What a setting may be at least and at most, where nothing more is to be said of it."""

_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class ShardSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In how many processes one model is learned."""

    count: int = 1  # 1: one process, without turns
    turn: int = 1024  # requests that all shards together learn, at most, before they add up

    def __post_init__(self) -> None:
        if not 1 <= self.count <= SHARDS_MAX:
            raise ValueError(f"count must be 1 to {SHARDS_MAX}")
        if not self.count <= self.turn <= TURN_REQUESTS_MAX:
            raise ValueError(f"turn must be from count, {self.count}, to {TURN_REQUESTS_MAX:,} requests")


class LearnerSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model learns. The defaults are one configuration for all streams."""

    deep: str = "dcn"  # see DEEP; or MODULE:CLASS, a network of your own
    deep_path: str = ""  # the folder in which MODULE is searched first; "": that of the config
    deep_version: str = ""  # stands for the hash of MODULE's code in the model's identity; "": the hash
    group: int = 32  # rows per training step of the deep part: 16 is a little better, 128 worse
    deep_rate: float = 1e-3  # Adam
    deep_clip: float = 10.0  # largest norm of the dense gradient
    self_correction: float = 0.0  # share of ReLoop's self-correction in the deep part's loss, 0 to 1
    speeds: tuple[float, ...] = (1.0, 0.99, 0.9)  # share of evidence kept at each sighting, one per speed
    # Initial prior variances: a fifth to a third of the values that long streams reach, except for the slow
    # speed. Young streams gain most (AUC +.007 over the first 6,000 examples of ten), old ones a little.
    speed_tau: tuple[float, ...] = (0.3, 0.03, 0.03)  # of each speed
    count_tau: float = 0.01
    # Tastes change. A second speed of .998 to .95 helps where they do; .98 helps most.
    pair_speeds: tuple[float, ...] = (1.0, 0.98)  # the same for pairs
    pair_tau: tuple[float, ...] = (0.02, 0.015)
    pairs_max: int = 64  # columns of feature pairs; pairs of the features declared first are kept
    pairs_rows_max: int = 1 << 24  # rows of all pairs together
    # of them in memory, the others rest on disk; not set: all. Like a feature's `memory_rows`
    pairs_memory_rows: int | msgspec.UnsetType = msgspec.UNSET
    pairs_evict: Evict | None = None  # how a full table of pairs evicts; like a feature's `evict`
    pairs_ttl_s: float = 0.0  # pairs unseen for longer expire; 0: the longest ttl_s, if all features have one
    pairs_admit_after: int = 1  # sightings before a pair gets a row; docs/learning.md says what 2 and 3 cost
    entities_bytes_max: int = 256 << 20  # of the attributes of all entities; beyond, the longest unseen go
    entity_versions: int = 8  # values of an attribute that are kept, so that late requests find theirs
    embedding_rate: float = 0.1  # Adagrad, accumulator from `embedding_accumulator`
    embedding_accumulator: float = 1e-4
    trust_margin: float = 5.0  # nats that the model may lose to the running rate; 0: any number
    group_by: str = ""  # the feature whose values are the users of per-user AUC; "": the first id
    window: int = 10_000  # examples in the recent metrics
    score: Literal["served", "own"] = "served"  # which prediction is scored if both are known
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"  # where the network is trained; tables are in the main memory
    threads: int = 1  # of torch, for networks other than dcn; more do not help
    publish_every_s: float = 0.4  # commit and publish at least this often
    publish_rows_max: int = 50_000  # publish earlier at so many touched rows
    update_rows: Literal["float32", "float16", "int8"] = "float32"  # how rows are sent to servers
    update_bytes_max: int = 4 << 20  # a larger update is sent in several parts
    snapshot_ratio: float = 2.0  # bytes of updates over bytes of the last snapshot at which a new one is made
    snapshot_bytes_min: int = 32 << 20  # of updates before the first snapshot
    dead_letter_share_max: float = 0.5  # the role stops if a larger share of examples is unusable
    dead_letter_window: int = 1000  # examples over which that share is taken
    shards: ShardSettings = ShardSettings()

    def __post_init__(self) -> None:
        _check_deep(self.deep)
        if self.device != "cpu" and self.deep == "none":
            raise ValueError(f"device = {self.device!r} is where a network is trained, and deep is 'none'")
        if not _is_word(self.deep_version):
            raise ValueError("deep_version must be one word of at most 64 characters")
        for speeds, tau in (("speeds", "speed_tau"), ("pair_speeds", "pair_tau")):
            kept = getattr(self, speeds)
            if len(kept) != len(getattr(self, tau)) or not 1 <= len(kept) <= 4:
                raise ValueError(f"{speeds} and {tau} need the same length, 1 to 4")
            if not all(0.0 < keep <= 1.0 for keep in kept):
                raise ValueError(f"{speeds} must lie in (0, 1]")
            if not all(0.0 < variance <= VARIANCE_MAX for variance in getattr(self, tau)):
                raise ValueError(f"{tau} must be over 0 and at most {VARIANCE_MAX:g}")
        check_bounds(self, *_BOUNDS)
        check_dead_letters(self.dead_letter_share_max, self.dead_letter_window)
        if not 0.0 <= self.self_correction <= 1.0:
            raise ValueError("self_correction must lie in [0, 1]")
        least = EVICT_ROWS_MIN if self.pairs_evict not in (None, "none") else 1
        if not least <= self.pairs_rows_max <= ROWS_LIMIT // 2:
            raise ValueError(
                f"pairs_rows_max must be 1 to {ROWS_LIMIT // 2}, with pairs_evict at least {EVICT_ROWS_MIN}"
            )
        pairs = self.pairs_memory_rows
        if pairs is not msgspec.UNSET and not 1 <= pairs <= self.pairs_rows_max:
            raise ValueError(
                f"pairs_memory_rows must be 1 to pairs_rows_max = {self.pairs_rows_max}; without it all rows "
                "are in memory"
            )
        if not 1 <= self.pairs_admit_after <= 255:
            raise ValueError("pairs_admit_after must be 1 to 255")
        if not 0.0 <= self.trust_margin <= 1e6:
            raise ValueError("trust_margin must be from 0 (never trust less) to 1,000,000")
        if (
            self.entities_bytes_max < ENTITIES_BYTES_MIN
            or not 1 <= self.entity_versions <= ENTITY_VERSIONS_MAX
        ):
            raise ValueError(
                f"entities_bytes_max must be {ENTITIES_BYTES_MIN:,} or more, and entity_versions 1 to "
                f"{ENTITY_VERSIONS_MAX}"
            )
        if not 1 <= self.window <= WINDOW_MAX:
            raise ValueError(f"window must be 1 to {WINDOW_MAX:,}")
        if not 1 <= self.group <= 1024:
            raise ValueError("group must be 1 to 1024")


def _is_word(text: str) -> bool:
    return len(text) <= 64 and text.isprintable() and not any(c.isspace() for c in text)


def _check_deep(deep: str) -> None:
    file, _, name = deep.rpartition(":")
    if "/" in deep or "\\" in deep or (file or deep).endswith(".py"):
        stem = re.split(r"[/\\]", (file or name).removesuffix(".py"))[-1].partition(".py")[0]
        raise ValueError(
            f"deep = {deep!r} is a path of a file: write the module's name and the class, "
            f'"{stem}:{name if file else "CLASS"}", and name the module\'s folder in deep_path'
        )
    if deep in DEEP or _CLASS.fullmatch(deep):
        return
    near = get_close_matches(deep, DEEP, 1)
    raise ValueError(
        f"deep = {deep!r} is none of {', '.join(DEEP)}, and no MODULE:CLASS, a network of your own"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )
