"""Files of entities, read as the config says."""

from collections.abc import Iterator
from pathlib import Path

from freshet.config import Config, all_features
from freshet.errors import ConfigError
from ground import FreshetError
from learner.entities.store import EntityStore
from learner.features.columns import declared_by
from learner.features.spec import FeatureSpec
from stream.errors import SourceError
from stream.files.columns import Kind
from stream.files.entities import EntitySchema, read_entities
from stream.files.requests import OnBad
from stream.records.entities.record import EntityEvent
from stream.records.id_types import owners_of

_KINDS: dict[str, Kind] = {"ids": "list", "number": "number", "text": "text", "age": "time"}


def entities_of(config: Config, file: str | None) -> list[EntityEvent]:
    """The events of the config's files of entities and of one more, in the order of their times.

    Raises:
        FreshetError: a file cannot be read, or an event does not fit the schema.
    """
    named = [(Path(columns.file), feature) for feature, columns in config.entities.items() if columns.file]
    if file is not None:
        named.append((Path(file), ""))
    events = [event for path, feature in named for event in read_checked(config, path, feature)]
    return sorted(events, key=lambda event: event.time)


def read_checked(
    config: Config, path: Path, feature: str = "", on_bad: OnBad | None = None
) -> Iterator[EntityEvent]:
    """The events of a file of entities that fit the schema, in its order.

    Args:
        feature: whose entities they are; "": the file's columns say it.
        on_bad: called with the error of each that is left out; None: the first one is raised.

    Raises:
        ConfigError: [entities] names a feature that has no attributes.
        FreshetError: the file cannot be read, or an event does not fit the schema.
    """
    features = all_features(config)
    owners = owners_of(features)
    for name in config.entities:
        if name not in owners:
            raise ConfigError(
                f"[entities.{name}]: no feature is declared with of = {name!r}, so its entities have no "
                f"attributes; features with attributes: {', '.join(owners) or 'none'}"
            )
    kinds = {name: kind for name, spec in features.items() if (kind := _kind(spec))}
    schema = EntitySchema(declared_by(features), kinds, config.entities)
    store = EntityStore(features, config.learner)
    for event in read_entities(path, schema, on_bad, feature):
        try:
            store.check(event)
        except FreshetError as error:
            wrong = SourceError(f"{path}: {error}")
            if on_bad is None:
                raise wrong from None
            on_bad(wrong)
            continue
        yield event


def _kind(spec: FeatureSpec) -> Kind | None:
    if spec.kind == "id":
        return spec.id_type or "id"
    return _KINDS.get(spec.kind)
