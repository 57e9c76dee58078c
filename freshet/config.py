"""The config: one TOML file, checked strictly, whose sections are the settings of the packages.

    log = "sqlite:.freshet/log.db"      # relative paths start at the file's own folder
    state = ".freshet"

    [features.user]
    kind = "id"

An unknown key, a value of the wrong kind and a value out of range are each a `ConfigError` that names
the file, the key and what was expected.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import socket
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from error_memory import MemorySettings
from freshet.config_paths import (
    absolute_entities,
    absolute_files,
    absolute_log,
    absolute_source,
    drop_places,
)
from freshet.errors import ConfigError
from freshet.sections.known_data import KNOWN_DATA
from freshet.sections.models import ModelSettings, check_guard, check_models, check_read_alike, most_shards
from freshet.sections.overrides import copied, set_key
from freshet.sections.sharding import check_sharding, sharded
from freshet.sections.stream_and_metrics import MetricsSettings, StreamSettings
from freshet.sections.toml_file import read_table
from freshet.sections.values import TYPES, dotted, is_finite, kind_of
from ground import FreshetError
from ground.short_repr import ShortRepr
from learner.deep.own.source import is_own, own_source
from learner.features.spec import FeatureSpec, check_owners
from learner.settings import LearnerSettings
from serving.replica.ranking import ranking_of
from serving.settings import RankSettings, ServerSettings, check_nearest
from stream.files.columns import DataSettings
from stream.files.entities import EntityColumns
from stream.group.membership import SNAPSHOTS_KEPT, GroupSettings
from stream.join.settings import JoinSettings
from stream.orders.names import MAIN, own_name
from stream.records.targets import Target, Targets
from stream.sources.settings import IngestSettings, SourceSettings, check_sources

DEFAULT_FILE = "freshet.toml"


class Config(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole config; each section holds the settings of the part that it is named after."""

    log: str = "sqlite:.freshet/log.db"
    state: str = ".freshet"  # each role has a folder of its own in it
    stream: StreamSettings = StreamSettings()
    group: GroupSettings = GroupSettings()
    sources: dict[str, SourceSettings] = {}
    ingest: IngestSettings = IngestSettings()
    join: JoinSettings = JoinSettings()
    targets: dict[str, Target] = {}  # in order: the first is the primary one; empty: one target, click
    features: dict[str, FeatureSpec] = {}
    learner: LearnerSettings = LearnerSettings()
    memory: MemorySettings = MemorySettings()
    server: ServerSettings = ServerSettings()
    rank: RankSettings = RankSettings()
    metrics: MetricsSettings = MetricsSettings()
    data: DataSettings = DataSettings()
    models: dict[str, ModelSettings] = {}  # beside the one of this config; empty: there is one model
    model: str = ""  # whose learner this process is; "": of the config's own, see `--model`
    entities: dict[str, EntityColumns] = {}  # files of entities, by their feature

    def __post_init__(self) -> None:
        check_owners(self.features)
        check_models(self.models)
        if self.model and self.model not in (MAIN, *self.models):
            known = ", ".join((MAIN, *self.models))
            raise ValueError(
                f"model is {self.model!r}; there are {known}: add a section [models.{self.model}]"
            )
        if self.server.guard.enabled and not self.group.snapshots_kept > SNAPSHOTS_KEPT:
            raise ValueError(
                f"server.guard needs snapshots to go back to: set group.snapshots_kept to more than "
                f"{SNAPSHOTS_KEPT}, for example 60"
            )
        ranking_of(self.rank.by, self.known_targets(), self.features)
        check_nearest(self.server.nearest, self.features, len(self.models), self.learner.pairs_memory_rows)
        check_sources(self.sources)
        check_sharding(self.joining, self.features, self.known_targets(), self.stream)
        if any(self.known_targets().clips) and self.join.negative_rate < 1.0:
            raise ValueError("propensity_clip needs every candidate: it goes with join.negative_rate = 1")
        if self.sources and self.ingest.ahead_of_others_s > self.join.window_s / 2.0:
            raise ValueError(
                f"ingest.ahead_of_others_s = {self.ingest.ahead_of_others_s:g} is more than half of "
                f"join.window_s = {self.join.window_s:g}: after a pause, actions would come too late"
            )

    def known_targets(self) -> Targets:
        """The declared targets, or the only one, with every default filled in."""
        return Targets(self.targets, self.join.window_s)

    @property
    def joining(self) -> JoinSettings:
        """Section [join], with what says how examples are sharded filled in; nothing if they are not."""
        entity, learners = self.learner.group_by or self._first_id, most_shards(self.learner, self.models)
        return sharded(self.join, entity, self.stream.partitions, learners)

    def state_of(self, role: str) -> Path:
        """The folder of a role's state; with `group.name`, the folder of this member's state."""
        folder = own_name(role, self.model) if role == "learn" else role
        return Path(self.state) / (f"{folder}-{self.group.name}" if self.group.name else folder)

    @property
    def snapshots(self) -> Path:
        """The folder of the snapshots of a model's learners, which all of them see."""
        folder = Path(self.group.snapshots or Path(self.state) / "snapshots")
        return folder.with_name(own_name(folder.name, self.model))

    @property
    def member(self) -> str:
        """The name of this process in its group."""
        return self.group.name or socket.gethostname()

    @property
    def metrics_of_learner(self) -> MetricsSettings:
        """Where this process's learner answers `/metrics`."""
        if self.model in ("", MAIN):
            return self.metrics
        return msgspec.structs.replace(self.metrics, learn_port=self.models[self.model].metrics_port)

    @property
    def orders_to(self) -> str | None:
        """The name under which this process's learner takes orders; None: it takes none."""
        return (self.model or MAIN) if self.takes_orders else None

    @property
    def takes_orders(self) -> bool:
        """Whether its roles follow topic `models`."""
        return bool(self.models) or self.group.snapshots_kept > SNAPSHOTS_KEPT

    @property
    def shares(self) -> dict[str, float]:
        """The share of the entities that each model answers at first."""
        others = {name: model.share for name, model in self.models.items()}
        return {MAIN: max(1.0 - sum(others.values()), 0.0), **others}

    @property
    def route_by(self) -> str:
        """The feature whose value decides which model answers; "": the request's id."""
        return self.server.route_by or self.learner.group_by or self._first_id

    @property
    def _first_id(self) -> str:
        return next((name for name, spec in self.features.items() if spec.kind == "id"), "")

    def deciding(self) -> dict[str, Any]:
        """The sections that determine the trained model, as plain tables: no paths, addresses or limits.

        Raises:
            NetworkError: `learner.deep` names a module that cannot be found.
        """
        sections = {name: getattr(self, name) for name in ("join", "features", "learner", "memory", "data")}
        plain: dict[str, Any] = msgspec.to_builtins(sections)
        drop_places(plain)
        if self.learner.trust_margin == LearnerSettings().trust_margin:
            del plain["learner"]["trust_margin"]  # so that hashes of before it was there still match
        if is_own(self.learner.deep):
            plain["learner"]["deep_version"] = own_source(self.learner).version
        if self.targets:  # a list: their order counts, and a hash of tables leaves it out
            plain["targets"] = [{"name": n, **msgspec.to_builtins(t)} for n, t in self.targets.items()]
        return plain

    def digest(self) -> str:
        """A hash of the sections that determine the trained model."""
        encoded = msgspec.json.encode(self.deciding(), order="sorted")
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config file.

    Args:
        path: the TOML file.
        overrides: "section.key=value" each, the value written as in TOML (a bare word is a string).

    Raises:
        ConfigError: the file is missing or not TOML, or a key or value is wrong.
    """
    file = Path(path)
    table = read_table(file)
    return resolve(parse_config(table, str(file), overrides), file.resolve().parent)


def parse_config(table: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """Check a config given as plain tables; error messages name it by `source`.

    Raises:
        ConfigError: naming the key and what was expected.
    """
    whole = copied(table)
    for override in overrides:
        set_key(whole, override)
    config = _build(Config, whole, source, ())
    try:
        check_guard(config.server.guard, config.models, config.known_targets())
        check_read_alike({name: one.features for name, one in each_model(config, source).items()})
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    return of_model(config, config.model, source) if config.model else config


def each_model(config: Config, source: str = "the config") -> dict[str, Config]:
    """The config of each model, by name; `main` first.

    Raises:
        ConfigError: naming the model, the key and what was expected.
    """
    return {name: of_model(config, name, source) for name in (MAIN, *config.models)}


def all_features(config: Config) -> dict[str, FeatureSpec]:
    """The features that any of the models has: what events are decoded by."""
    found: dict[str, FeatureSpec] = {}
    for one in each_model(config).values():
        found = {**one.features, **found}
    return found


def of_model(config: Config, name: str, source: str = "the config") -> Config:
    """A config with the settings of one of its models.

    Raises:
        ConfigError: naming the model, the key and what was expected.
    """
    if not config.models:
        return config
    if name == MAIN:
        one = config
    else:
        whole = {**msgspec.to_builtins(config), "models": {}, "model": ""}
        for override in config.models[name].set:
            set_key(whole, override, f"{source}: models.{name}.set:")
        one = _build(Config, whole, f"{source}: models.{name}.set", ())
    if one.learner.self_correction:
        raise ConfigError(
            f"{source}: learner.self_correction of model {name} needs the predictions that were served, and "
            "with several models another one may have answered; set it to 0"
        )
    # what was served may be another model's prediction
    learner = msgspec.structs.replace(one.learner, score="own")
    return msgspec.structs.replace(one, models=config.models, model=name, learner=learner)


def resolve(config: Config, folder: Path) -> Config:
    """The same config with its paths made absolute, starting at `folder`."""
    server, group = config.server, config.group
    if server.tokens:
        server = msgspec.structs.replace(server, tokens=str(folder / server.tokens))
    if group.snapshots:
        group = msgspec.structs.replace(group, snapshots=str(folder / group.snapshots))
    learner = config.learner
    if is_own(learner.deep):
        learner = msgspec.structs.replace(learner, deep_path=str(folder / learner.deep_path))
    kafka = absolute_files(config.stream.log.kafka, folder)
    registry = absolute_files(config.ingest.registry, folder)
    return msgspec.structs.replace(
        config,
        log=absolute_log(config.log, folder),
        state=str(folder / config.state),
        stream=msgspec.structs.replace(
            config.stream, log=msgspec.structs.replace(config.stream.log, kafka=kafka)
        ),
        entities={name: absolute_entities(columns, folder) for name, columns in config.entities.items()},
        sources={name: absolute_source(source, folder) for name, source in config.sources.items()},
        ingest=msgspec.structs.replace(config.ingest, registry=registry),
        server=server,
        group=group,
        learner=learner,
    )


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """A config with some "section.key=value" changed.

    Raises:
        ConfigError: naming the key and what was expected.
    """
    if not overrides:
        return config
    whole = msgspec.to_builtins(config)
    for override in overrides:
        set_key(whole, override)
    return _build(Config, whole, "--set", ())


def default_config(data: str) -> Config:
    """The config for a known kind of data: movietweetings, movielens or simulator.

    Raises:
        ConfigError: the kind is unknown.
    """
    if data not in KNOWN_DATA:
        raise ConfigError(f"no config is built in for {data!r}; known: {', '.join(KNOWN_DATA)}")
    return parse_config(KNOWN_DATA[data], f"built-in config {data}")


S = TypeVar("S", bound=msgspec.Struct)


def _build(kind: type[S], table: Mapping[str, Any], source: str, path: tuple[str, ...]) -> S:
    """One settings value from one table, checked key by key so that a message can name the key."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    given: dict[str, Any] = {}
    for name, value in table.items():
        here = (*path, name)
        if name not in fields:
            raise ConfigError(f"{source}: key {dotted(here)} is unknown{_suggest(here, kind)}")
        given[name] = _value(fields[name].type, value, source, here)
    try:
        return kind(**given)
    except (ValueError, TypeError, FreshetError) as error:
        where = f"section [{dotted(path)}]" if path else "the config"
        raise ConfigError(f"{source}: {where}: {error}") from None


def _value(kind: Any, value: Any, source: str, path: tuple[str, ...]) -> Any:
    struct = _struct(kind)
    if struct is not None:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{source}: key {dotted(path)} is {kind_of(value)}; expected a table, [{dotted(path)}]"
            )
        return _build(struct, value, source, path)
    entry = _struct(typing.get_args(kind)[1]) if typing.get_origin(kind) is dict else None
    if entry is not None:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{source}: key {dotted(path)} is {kind_of(value)}; expected tables, [{dotted(path)}.NAME]"
            )
        return {name: _value(entry, part, source, (*path, name)) for name, part in value.items()}
    if not is_finite(value):
        raise ConfigError(f"{source}: key {dotted(path)}: expected a finite number, an integer of 64 bits")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{source}: key {dotted(path)}: expected text without the character U+0000")
    try:
        return msgspec.convert(value, kind)
    except OverflowError:
        raise ConfigError(f"{source}: key {dotted(path)}: the number is too large") from None
    except msgspec.ValidationError as error:
        detail = re.sub(r" - at `\$(.*)`$", lambda m: f" at {m[1].lstrip('.')}", str(error))
        detail = re.sub(r"`(\w+)`", lambda m: TYPES.get(m[1], m[1]), detail)
        detail = detail.replace("Expected", "expected", 1)
        if typing.get_origin(kind) is typing.Literal:
            detail = f"{value!r} is none of {', '.join(map(str, typing.get_args(kind)))}"
        raise ConfigError(f"{source}: key {dotted(path)}: {detail}") from None


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """The settings class of a field's type, also of `Class | None`; None if the type has no such class."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        kind = kinds[0] if len(kinds) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _suggest(path: tuple[str, ...], kind: type[msgspec.Struct]) -> str:
    """A guess for an unknown key: a similar key of this section, or the same key of another section."""
    *section, name = path
    near = difflib.get_close_matches(name, [f.name for f in msgspec.structs.fields(kind)], 1, 0.6)
    if near:
        return f"; did you mean {dotted((*section, near[0]))}?"
    everywhere = list(_all_keys(Config, ()))
    leaves = [key[-1] for key in everywhere]
    for leaf in [name] * (name in leaves) or difflib.get_close_matches(name, leaves, 1, 0.8):
        return f"; did you mean {dotted(everywhere[leaves.index(leaf)])}?"
    names = ", ".join(f.name for f in msgspec.structs.fields(kind))
    return f"; known in {f'[{dotted(tuple(section))}]' if section else 'the config'}: {names}"


def _all_keys(kind: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        yield here
        struct = _struct(field.type)
        entry = _struct(typing.get_args(field.type)[1]) if typing.get_origin(field.type) is dict else None
        if struct is not None:
            yield from _all_keys(struct, here)
        elif entry is not None:
            yield from _all_keys(entry, (*here, "NAME"))
