"""Which model weights are of: what states, updates and snapshots carry, and their readers compare."""

from collections.abc import Mapping

import msgspec
import xxhash

from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings

LAYOUT = ("deep", "speeds", "pair_speeds", "pairs_max", "seed")
"""Settings that say what a row and a dense weight mean: with another value they mean something else."""

LEARNING = (
    "group",
    "deep_rate",
    "deep_clip",
    "self_correction",
    "speed_tau",
    "count_tau",
    "pair_tau",
    "pairs_rows_max",
    "pairs_evict",
    "pairs_ttl_s",
    "pairs_admit_after",
    "embedding_rate",
    "embedding_accumulator",
)
"""Settings that say what is learnt of an example: with another value the same ones give other weights."""

HANDLING = (
    "group_by",
    "window",
    "score",
    "threads",
    "publish_every_s",
    "publish_rows_max",
    "update_rows",
    "update_bytes_max",
    "snapshot_ratio",
    "snapshot_bytes_min",
    "dead_letter_share_max",
    "dead_letter_window",
)
"""Settings that change neither: what is measured, how weights travel, what is borne."""


def fingerprint(features: Mapping[str, FeatureSpec], settings: LearnerSettings) -> dict[str, str]:
    """What a saved learner's state depends on: name -> canonical text."""
    # as it was before tables made room by default, so that a state of then is still known
    specs = [
        (name, msgspec.structs.replace(spec, evict=spec.evict or "none")) for name, spec in features.items()
    ]
    return {
        # their order too: it is that of the model's columns
        "features": _text(specs),
        "learner": _text({name: getattr(settings, name) for name in LAYOUT}),
    }


def identity(features: Mapping[str, FeatureSpec], settings: LearnerSettings) -> str:
    """The fingerprint as 32 hex digits: weights of another identity mean something else."""
    return xxhash.xxh3_128_hexdigest(_text(fingerprint(features, settings)).encode())


def learning_identity(settings: LearnerSettings, makes_room: bool) -> str:
    """32 hex digits of how a model learns: with another, the same examples do not give the same weights.

    Args:
        makes_room: see `Model`.
    """
    kept = {name: getattr(settings, name) for name in LEARNING}
    return xxhash.xxh3_128_hexdigest(_text([kept, makes_room]).encode())


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
