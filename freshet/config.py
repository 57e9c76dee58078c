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
import math
import re
import socket
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from error_memory import MemorySettings
from freshet.config_paths import absolute_files, absolute_log, absolute_source
from freshet.errors import ConfigError
from ground import FreshetError
from ground.short_repr import ShortRepr
from learner.deep.own.source import is_own, own_source
from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings
from serving.replica.ranking import ranking_of
from serving.settings import RankSettings, ServerSettings
from stream.files.sources import DataSettings
from stream.group.membership import GroupSettings
from stream.join.settings import JoinSettings
from stream.log.base import PARTITIONS_MAX
from stream.log.settings import LogSettings
from stream.records.targets import Target, Targets
from stream.run.contract import RunnerSettings
from stream.sources.settings import IngestSettings, SourceSettings, check_sources

DEFAULT_FILE = "freshet.toml"


class StreamSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [stream]: how the log is laid out and read."""

    partitions: int = 1  # of topics events and examples; fixed once they exist
    log: LogSettings = LogSettings()
    runner: RunnerSettings = RunnerSettings()

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= PARTITIONS_MAX:
            raise ValueError(f"partitions must be 1 to {PARTITIONS_MAX}")


class MetricsSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [metrics]: where roles answer `/metrics`; the server has it on its own port."""

    host: str = "127.0.0.1"  # there is no authentication: put any other address behind a firewall
    join_port: int = 0  # 0: none
    learn_port: int = 0
    ingest_port: int = 0

    def __post_init__(self) -> None:
        for name in ("join_port", "learn_port", "ingest_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise ValueError(f"{name} must be 0 to 65535")


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

    def __post_init__(self) -> None:
        ranking_of(self.rank.by, self.known_targets(), self.features)
        check_sources(self.sources)
        if self.sources and self.ingest.ahead_of_others_s > self.join.window_s / 2.0:
            raise ValueError(
                f"ingest.ahead_of_others_s = {self.ingest.ahead_of_others_s:g} is more than half of "
                f"join.window_s = {self.join.window_s:g}: after a pause, actions would come too late"
            )

    def known_targets(self) -> Targets:
        """The declared targets, or the only one, with every default filled in."""
        return Targets(self.targets, self.join.window_s)

    def state_of(self, role: str) -> Path:
        """The folder of a role's state; with `group.name`, the folder of this member's state."""
        return Path(self.state) / (f"{role}-{self.group.name}" if self.group.name else role)

    @property
    def snapshots(self) -> Path:
        """The folder of the learners' snapshots, which all of them see."""
        return Path(self.group.snapshots or Path(self.state) / "snapshots")

    @property
    def member(self) -> str:
        """The name of this process in its group."""
        return self.group.name or socket.gethostname()

    def deciding(self) -> dict[str, Any]:
        """The sections that determine the trained model, as plain tables: no paths, addresses or limits.

        Raises:
            NetworkError: `learner.deep` names a module that cannot be found.
        """
        sections = {name: getattr(self, name) for name in ("join", "features", "learner", "memory", "data")}
        plain: dict[str, Any] = msgspec.to_builtins(sections)
        del plain["learner"]["deep_path"], plain["learner"]["deep_version"]
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
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{file}: there is no such config file; name one with --config, or write one from a data "
            "file: `freshet init --data FILE`"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not a path
        raise ConfigError(f"{file}: the config cannot be read: {error}") from None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError
        raise ConfigError(f"{file}: this is not TOML: {error}") from None
    return resolve(parse_config(table, str(file), overrides), file.resolve().parent)


def parse_config(table: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """Check a config given as plain tables; error messages name it by `source`.

    Raises:
        ConfigError: naming the key and what was expected.
    """
    whole = _copy(table)
    for override in overrides:
        _set(whole, override)
    return _build(Config, whole, source, ())


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
    return parse_config(msgspec.to_builtins(config), "--set", overrides)


_MOVIES: dict[str, Any] = {
    "features": {
        "user": {"kind": "id"},
        "movie": {"kind": "id"},
        "genres": {"kind": "ids"},
        "hour": {"kind": "hour"},
    },
    "learner": {"group_by": "user"},
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "movietweetings": {**_MOVIES, "data": {"format": "movietweetings"}},
    "movielens": {**_MOVIES, "data": {"format": "movielens"}},
    "simulator": {
        "features": {
            "user": {"kind": "id"},
            "item": {"kind": "id"},
            "segment": {"kind": "id"},
            "category": {"kind": "id"},
            "age": {"kind": "id"},
            "device": {"kind": "id"},
            "hour": {"kind": "hour"},
        },
        "learner": {"group_by": "user"},
    },
}


def default_config(data: str) -> Config:
    """The config for a known kind of data: movietweetings, movielens or simulator.

    Raises:
        ConfigError: the kind is unknown.
    """
    if data not in _DEFAULTS:
        raise ConfigError(f"no config is built in for {data!r}; known: {', '.join(_DEFAULTS)}")
    return parse_config(_DEFAULTS[data], f"built-in config {data}")


S = TypeVar("S", bound=msgspec.Struct)

_TYPES = {
    "float": "a number", "int": "an integer", "str": "text", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "nothing",
}  # fmt: skip
"""The names of types in messages of msgspec, in words."""


def _build(kind: type[S], table: Mapping[str, Any], source: str, path: tuple[str, ...]) -> S:
    """One settings value from one table, checked key by key so that a message can name the key."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    given: dict[str, Any] = {}
    for name, value in table.items():
        here = (*path, name)
        if name not in fields:
            raise ConfigError(f"{source}: key {_dotted(here)} is unknown{_suggest(here, kind)}")
        given[name] = _value(fields[name].type, value, source, here)
    try:
        return kind(**given)
    except (ValueError, TypeError, FreshetError) as error:
        where = f"section [{_dotted(path)}]" if path else "the config"
        raise ConfigError(f"{source}: {where}: {error}") from None


def _value(kind: Any, value: Any, source: str, path: tuple[str, ...]) -> Any:
    struct = _struct(kind)
    if struct is not None:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{source}: key {_dotted(path)} is {_kind(value)}; expected a table, [{_dotted(path)}]"
            )
        return _build(struct, value, source, path)
    entry = _struct(typing.get_args(kind)[1]) if typing.get_origin(kind) is dict else None
    if entry is not None:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{source}: key {_dotted(path)} is {_kind(value)}; expected tables, [{_dotted(path)}.NAME]"
            )
        return {name: _value(entry, part, source, (*path, name)) for name, part in value.items()}
    if any(not math.isfinite(number) for number in _floats(value)):
        raise ConfigError(f"{source}: key {_dotted(path)}: expected a finite number")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{source}: key {_dotted(path)}: expected text without the character U+0000")
    try:
        return msgspec.convert(value, kind)
    except OverflowError:
        raise ConfigError(f"{source}: key {_dotted(path)}: the number is too large") from None
    except msgspec.ValidationError as error:
        detail = re.sub(r" - at `\$(.*)`$", lambda m: f" at {m[1].lstrip('.')}", str(error))
        detail = re.sub(r"`(\w+)`", lambda m: _TYPES.get(m[1], m[1]), detail)
        detail = detail.replace("Expected", "expected", 1)
        if typing.get_origin(kind) is typing.Literal:
            detail = f"{value!r} is none of {', '.join(map(str, typing.get_args(kind)))}"
        raise ConfigError(f"{source}: key {_dotted(path)}: {detail}") from None


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
        return f"; did you mean {_dotted((*section, near[0]))}?"
    everywhere = list(_all_keys(Config, ()))
    leaves = [key[-1] for key in everywhere]
    for leaf in [name] * (name in leaves) or difflib.get_close_matches(name, leaves, 1, 0.8):
        return f"; did you mean {_dotted(everywhere[leaves.index(leaf)])}?"
    names = ", ".join(f.name for f in msgspec.structs.fields(kind))
    return f"; known in {f'[{_dotted(tuple(section))}]' if section else 'the config'}: {names}"


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


def _set(table: dict[str, Any], override: str) -> None:
    """Put one "section.key=value" into plain tables."""
    key, sign, text = override.partition("=")
    path = key.strip().split(".")
    if not sign or not all(path):
        raise ConfigError(f"--set {override}: expected section.key=value, for example learner.deep=none")
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        found = {"value": text.strip()}
    # text with a line break could set more keys than the one named: take it as one string
    value = found["value"] if len(found) == 1 else text.strip()
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {name} is a value, not a section")
    table[path[-1]] = value


def toml_text(text: str) -> str:
    r"""A string as TOML, for an override: every character that could end the string is escaped.

    >>> print(toml_text('a"b'))
    "a\"b"
    """
    special = {'"': '\\"', "\\": "\\\\"}
    escaped = (special.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text)
    return f'"{"".join(escaped)}"'


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floats(item)
    elif isinstance(value, Mapping):
        yield from _floats(list(value.values()))


def _dotted(path: Sequence[str]) -> str:
    return ".".join(path)


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")
