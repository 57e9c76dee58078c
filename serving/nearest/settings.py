"""The settings of the index of items, section [server.nearest]."""

from collections.abc import Mapping

import msgspec

from ground.short_repr import ShortRepr
from learner.features.spec import FeatureSpec

SCORED_MAX = 4_096
ITEMS_MAX = 2_000_000


class NearestSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [server.nearest]: which items POST /v1/nearest finds, and how many it scores for that."""

    of: str = ""  # the feature of kind id whose ids are the items; "": the server has no index
    # Candidates that the whole model scores for one request. 256 find .99 and more of the best 50 among
    # 100,000 (benchmarks/nearest.py); each takes about 10 µs.
    score: int = 256
    items_max: int = 200_000  # items in the index; above it, those that were shown longest ago go
    refresh_s: float = 60.0  # weights that no update names move too, with the priors: read again so often

    def __post_init__(self) -> None:
        if not 32 <= self.score <= SCORED_MAX:
            raise ValueError(f"score must be 32 to {SCORED_MAX}")
        if not 1 <= self.items_max <= ITEMS_MAX:
            raise ValueError(f"items_max must be 1 to {ITEMS_MAX}")
        if not 1.0 <= self.refresh_s <= 86_400.0:
            raise ValueError("refresh_s must be 1 to 86400 seconds")


def check_nearest(
    settings: NearestSettings,
    features: Mapping[str, FeatureSpec],
    further_models: int = 0,
    pairs_memory_rows: int | msgspec.UnsetType = msgspec.UNSET,
) -> None:
    """Check that the feature of the items is declared and holds one id, and that there is one model.

    Raises:
        ValueError: it is not; the message names those that are.
    """
    if not settings.of:
        return
    if further_models:
        raise ValueError("an index of items ([server.nearest]) goes with one model, and not with [models]")
    resting = [name for name, one in features.items() if one.memory_rows is not msgspec.UNSET]
    pairs_rest = pairs_memory_rows is not msgspec.UNSET
    if resting or pairs_rest:
        keys = [f"memory_rows of {', '.join(resting)}"] if resting else []
        keys += ["learner.pairs_memory_rows"] if pairs_rest else []
        raise ValueError(
            f"an index of items ([server.nearest]) reads all rows: leave out {' and '.join(keys)}"
        )
    spec = features.get(settings.of)
    if spec is None or spec.kind != "id":
        why = "is not declared" if spec is None else f"is of kind {spec.kind}, not id"
        ids = ", ".join(name for name, one in features.items() if one.kind == "id") or "none is declared"
        raise ValueError(f"server.nearest.of = {settings.of!r} {why}; features of kind id: {ids}")
