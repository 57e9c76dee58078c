"""The identity of a model: states, updates and snapshots carry it, and readers compare it."""

from collections.abc import Mapping

import msgspec
import xxhash

from learner.deep.choice import network_of
from learner.deep.own.source import is_own, own_source
from learner.fast.part import FastPart
from learner.features.encoder import Encoder, FeatureSpec
from learner.model.layout import input_layout
from learner.settings import LearnerSettings
from stream.records.targets import UNDECLARED, Targets

LAYOUT = ("deep", "speeds", "pair_speeds", "pairs_max", "seed")
"""Settings that decide the meaning of a row or a dense weight."""

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
"""Settings that decide which weights the same examples give."""

LATER = ("entities_bytes_max", "entity_versions", "device")
"""Settings that decide this too: by which attributes are still known, and by the order of sums on a GPU.
States from before there were these settings are as those with the defaults."""

HANDLING = (
    "trust_margin",  # predictions change by it, and no weight
    "deep_path",  # the code that is found there has an entry of its own, see `network_text`
    "deep_version",
    "pairs_memory_rows",  # where rows are, not what they say
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
    "shards",  # their states have a fingerprint of their own
)
"""Settings that change neither: what is made of the weights, metrics, publishing, limits on bad records."""


def fingerprint(
    features: Mapping[str, FeatureSpec], settings: LearnerSettings, targets: Targets = UNDECLARED
) -> dict[str, str]:
    """The configuration that a saved learner's state depends on: name -> canonical text.

    One target that is an event, whatever its name, is as none declared.
    """
    # as before eviction was the default, so that states from that time still match
    specs = [
        (name, msgspec.structs.replace(spec, evict=spec.evict or "none", memory_rows=msgspec.UNSET))
        for name, spec in features.items()
    ]
    network = network_text(features, settings, targets)
    found = {
        # the order counts too: it is the order of the model's columns
        "features": _text(specs),
        "learner": _text({name: getattr(settings, name) for name in LAYOUT}),
        **({"network": network} if network else {}),
    }
    if len(targets) > 1 or targets[""].kind == "value":
        found["targets"] = _text([(name, t.kind, t.of, t.scale) for name, t in targets.items()])
    clips = {name: t.propensity_clip for name, t in targets.items() if t.propensity_clip}
    return found | ({"targets.propensity_clip": _text(clips)} if clips else {})


def network_text(
    features: Mapping[str, FeatureSpec], settings: LearnerSettings, targets: Targets = UNDECLARED
) -> str:
    """The user's network by name, version of its code, and weights' names and shapes; "": it is built in.

    Raises:
        NetworkError: it cannot be used.
    """
    if not is_own(settings.deep):
        return ""
    encoder = Encoder(features, settings.pairs_max)
    layout = input_layout(encoder, FastPart(encoder, settings, ["event"]))
    network = network_of(settings, layout, targets.names)
    assert network is not None
    weights = xxhash.xxh3_64_hexdigest(_text(list(network.shapes().items())).encode())
    return f"{settings.deep}, version {own_source(settings).version}, weights {weights}"


def identity(
    features: Mapping[str, FeatureSpec], settings: LearnerSettings, targets: Targets = UNDECLARED
) -> str:
    """The fingerprint as 32 hex digits: weights of another identity have another meaning."""
    return xxhash.xxh3_128_hexdigest(_text(fingerprint(features, settings, targets)).encode())


def learning_identity(settings: LearnerSettings, makes_room: bool) -> str:
    """32 hex digits of the way a model learns: if it differs, the same examples give other weights.

    Args:
        makes_room: see `Model`.
    """
    kept = {name: getattr(settings, name) for name in LEARNING}
    default = LearnerSettings()
    kept |= {n: getattr(settings, n) for n in LATER if getattr(settings, n) != getattr(default, n)}
    return xxhash.xxh3_128_hexdigest(_text([kept, makes_room]).encode())


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
