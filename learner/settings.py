"""The learner's settings: one flat struct, each odd default with its reason."""

from typing import Literal

import msgspec

from embeddings.spec import EVICT_ROWS_MIN, ROWS_LIMIT, Evict


class LearnerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model learns. The defaults are one configuration for all streams."""

    deep: Literal["dcn", "deepfm", "dlrm", "logistic", "none"] = "dcn"  # see learner.networks
    group: int = 32  # rows the deep part learns together: 16 is a little better, from 128 on it loses
    deep_rate: float = 1e-3  # Adam
    deep_clip: float = 10.0  # largest norm of the dense gradient
    self_correction: float = 0.0  # share of ReLoop's self-correction in the deep part's loss, 0 to 1
    speeds: tuple[float, ...] = (1.0, 0.99, 0.9)  # share of evidence kept at each sighting, one per speed
    # Where the prior variances start. A fifth to a third of what long streams settle at for all but the slow
    # speed: young streams gain the most (AUC +.007 over the first 6,000 examples of ten), old ones a little.
    speed_tau: tuple[float, ...] = (0.3, 0.03, 0.03)  # of each speed
    count_tau: float = 0.01
    # Tastes change, and those of many sightings most: .998 to .95 gain where they do, 0.98 the most.
    pair_speeds: tuple[float, ...] = (1.0, 0.98)  # the same of pairs
    pair_tau: tuple[float, ...] = (0.02, 0.015)
    pairs_max: int = 64  # columns of feature pairs; the first declared come first
    pairs_rows_max: int = 1 << 24  # rows of all pairs together
    pairs_evict: Evict | None = None  # what makes room there; as a feature's `evict`
    pairs_ttl_s: float = (
        0.0  # a pair unseen for longer is gone; 0: the longest ttl_s, if all features have one
    )
    pairs_admit_after: int = 1  # sightings that make a pair's row; more cost quality, see docs/learning.md
    embedding_rate: float = 0.1  # Adagrad, accumulator from `embedding_accumulator`
    embedding_accumulator: float = 1e-4
    group_by: str = ""  # the feature whose values are the users of per-user AUC; "": the first id
    window: int = 10_000  # examples in the recent metrics
    score: Literal["served", "own"] = "served"  # which prediction is measured where both are known
    seed: int = 0
    threads: int = 1  # of torch, for networks other than dcn; more do not help
    publish_every_s: float = 0.4  # how long learnt rows may wait before they are committed and published
    publish_rows_max: int = 50_000  # touched, and they wait no longer: a server applies an update whole
    update_rows: Literal["float32", "float16", "int8"] = "float32"  # how learnt rows travel to servers
    update_bytes_max: int = 4 << 20  # a larger update travels in several parts
    snapshot_ratio: float = 2.0  # updates outgrow the last snapshot by this before a new one is made
    snapshot_bytes_min: int = 32 << 20  # of updates before the first snapshot
    dead_letter_share_max: float = 0.5  # the role stops when more than this share of examples is of no use
    dead_letter_window: int = 1000  # examples over which that share is taken

    def __post_init__(self) -> None:
        for speeds, tau in (("speeds", "speed_tau"), ("pair_speeds", "pair_tau")):
            kept = getattr(self, speeds)
            if len(kept) != len(getattr(self, tau)) or not 1 <= len(kept) <= 4:
                raise ValueError(f"{speeds} and {tau} need the same length, 1 to 4")
            if not all(0.0 < keep <= 1.0 for keep in kept):
                raise ValueError(f"{speeds} must lie in (0, 1]")
        if not 0.0 <= self.dead_letter_share_max <= 1.0 or self.dead_letter_window < 1:
            raise ValueError("dead_letter_share_max must be from 0 to 1, and dead_letter_window 1 or more")
        if not 0.0 <= self.self_correction <= 1.0:
            raise ValueError("self_correction must lie in [0, 1]")
        least = EVICT_ROWS_MIN if self.pairs_evict not in (None, "none") else 1
        if not least <= self.pairs_rows_max <= ROWS_LIMIT // 2:
            raise ValueError(
                f"pairs_rows_max must be 1 to {ROWS_LIMIT // 2}, with pairs_evict at least {EVICT_ROWS_MIN}"
            )
        if self.pairs_ttl_s < 0 or not 1 <= self.pairs_admit_after <= 255:
            raise ValueError("pairs_ttl_s must not be negative and pairs_admit_after must be 1 to 255")
        if self.publish_rows_max < 1:
            raise ValueError("publish_rows_max must be 1 or more")
        if not 1 <= self.group <= 1024:
            raise ValueError("group must be 1 to 1024")
