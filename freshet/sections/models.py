"""Section [models.NAME]: models beside the one of the config itself, on the same log."""

import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from freshet.errors import ConfigError
from freshet.sections.overrides import set_key
from ground.short_repr import ShortRepr
from learner.features.spec import FeatureSpec
from learner.settings import LearnerSettings
from serving.settings import GuardSettings
from stream.limits import MODELS_MAX
from stream.orders.names import BY_SHARES, MAIN
from stream.records.targets import Targets

SECTIONS = ("features", "learner", "memory")
"""In which a model may differ from the config's own."""
SHARE_ERROR = 1e-9
"""Shares are sums of decimal fractions, which binary ones only approximate."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_READ = ("kind", "type", "of", "coordinates")
"""Settings of a feature that say how its values are read from events, for all models."""


class ModelSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model beside the config's own: what it does otherwise, and whom it answers."""

    share: float = 0.0  # of the entities, until `freshet share` says otherwise; 0: it answers nobody
    set: tuple[str, ...] = ()  # "section.key=value" each, in features, learner or memory
    metrics_port: int = 0  # of its learner, in place of metrics.learn_port; 0: none

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share:g}; expected 0 to 1")
        if not 0 <= self.metrics_port <= 65_535:
            raise ValueError("metrics_port must be 0 to 65535")
        for override in self.set:
            section = override.partition(".")[0].strip()
            if section not in SECTIONS:
                raise ValueError(
                    f"set has {override!r}: a model may differ in {', '.join(SECTIONS)}; everything else is "
                    "of the log or of the server, which all models share"
                )

    @property
    def shards(self) -> int | None:
        """The number of processes that learn it, if it differs in that."""
        table: dict[str, object] = {}
        for override in self.set:
            with suppress(ConfigError):  # who makes the model's config says what is wrong
                set_key(table, override)
        found: object = table
        for name in ("learner", "shards", "count"):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, int) else None


def check_models(models: Mapping[str, ModelSettings]) -> None:
    """Check names and shares.

    Raises:
        ValueError: says which, and what was expected.
    """
    for name in models:
        if name == MAIN:
            raise ValueError(
                f"models.{name}: that is the name of the model of [features] and [learner] themselves; its "
                "share is what the others leave"
            )
        if name == BY_SHARES:
            raise ValueError(
                f"models.{name}: clients of the Open Inference Protocol call whichever model answers by its "
                f"share {name!r}; choose another name"
            )
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"models.{name}: a name has 1 to 32 of a-z, 0-9, - and _, and begins with a letter or digit"
            )
    if len(models) >= MODELS_MAX:
        raise ValueError(f"{len(models)} sections [models.NAME]; expected at most {MODELS_MAX - 1}")
    taken = sum(model.share for model in models.values())
    if taken > 1.0 + SHARE_ERROR:
        shares = ", ".join(f"{name} {model.share:g}" for name, model in models.items())
        raise ValueError(
            f"the shares of [models.NAME] add up to {taken:g}, more than 1: {shares}; {MAIN} has what they "
            "leave"
        )


def most_shards(own: LearnerSettings, models: Mapping[str, ModelSettings]) -> int:
    """The largest number of shards of any model: all of them learn the same examples.

    Args:
        own: the settings of the config itself.
    """
    return max([own.shards.count, *(model.shards or 1 for model in models.values())])


def check_guard(guard: GuardSettings, models: Mapping[str, ModelSettings], targets: Targets) -> None:
    """Check that the guard has log losses to compare, and `against` is one that can be held beside `main`.

    Raises:
        ValueError: there is no such section, or the first target is a value.
    """
    if guard.against and guard.against not in models:
        raise ValueError(f"server.guard.against: there is no section [models.{guard.against}]")
    if guard.enabled and targets[""].kind == "value":
        raise ValueError(
            f"server.guard compares log losses, which the first target, {targets.primary}, has not, as it is "
            "a value: set server.guard.enabled = false, or declare a target of kind event first"
        )


def check_read_alike(schemas: Mapping[str, Mapping[str, FeatureSpec]]) -> None:
    """Check that models read a feature of one name in one way: events are decoded once, for all of them.

    Raises:
        ValueError: two do not.
    """
    seen: dict[str, tuple[str, FeatureSpec]] = {}
    for model, features in schemas.items():
        for name, spec in features.items():
            other, known = seen.setdefault(name, (model, spec))
            for key in _READ:
                if getattr(spec, key, None) != getattr(known, key, None):
                    raise ValueError(
                        f"models.{model}.set: features.{name}.{key} is {getattr(spec, key)!r}, and "
                        f"{getattr(known, key)!r} in model {other}: events are read once, for all models; "
                        "give the feature another name"
                    )
