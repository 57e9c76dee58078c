"""Paths of a config, which start at its own folder, and other places in it."""

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stream.files.entities import EntityColumns
from stream.sources.settings import SourceSettings

S = TypeVar("S", bound=msgspec.Struct)


def absolute_log(url: str, folder: Path) -> str:
    """The URL of a log whose file starts at `folder`.

    >>> absolute_log("sqlite:log.db", Path("/srv")), absolute_log("kafka://a", Path("/srv"))
    ('sqlite:/srv/log.db', 'kafka://a')
    """
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url)
    if scheme is None:
        return str(folder / url)
    if scheme[0].lower() == "sqlite:":
        path = url[len("sqlite:") :]
        return f"sqlite:{folder / (path[2:] if path.startswith('//') else path)}"
    return url


def absolute_files(settings: S, folder: Path) -> S:
    """Settings whose files, keys that end in `_file`, start at `folder`."""
    files = {name: getattr(settings, name) for name in settings.__struct_fields__ if name.endswith("_file")}
    return msgspec.structs.replace(
        settings, **{name: str(folder / file) for name, file in files.items() if file}
    )


def absolute_source(source: SourceSettings, folder: Path) -> SourceSettings:
    """A source whose schema and log start at `folder`."""
    return msgspec.structs.replace(
        source,
        schema=str(folder / source.schema) if source.schema else "",
        log=absolute_log(source.log, folder) if source.log else "",
    )


def absolute_entities(columns: EntityColumns, folder: Path) -> EntityColumns:
    """The columns of a file of entities that starts at `folder`."""
    return msgspec.structs.replace(columns, file=str(folder / columns.file) if columns.file else "")


def drop_places(plain: dict[str, Any]) -> None:
    """Drop from the plain tables of a config what says where code, rows and examples are, nothing else."""
    del plain["join"]["shard_by"], plain["join"]["partitions"]
    learner = plain["learner"]
    del learner["deep_path"], learner["deep_version"]
    learner.pop("pairs_memory_rows", None)
    del learner["shards"]
    for feature in plain["features"].values():
        feature.pop("memory_rows", None)
