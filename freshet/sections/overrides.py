"""Settings that are written as "section.key=value"."""

import tomllib
from collections.abc import Mapping
from typing import Any

from freshet.errors import ConfigError


def set_key(table: dict[str, Any], override: str, where: str = "--set") -> None:
    """Put one "section.key=value" into plain tables; messages name it by `where`."""
    if not override.isascii() and any("\ud800" <= c <= "\udfff" for c in override):
        raise ConfigError(f"{where} {override!r}: expected text in UTF-8")
    key, sign, text = override.partition("=")
    path = key.strip().split(".")
    if not sign or not all(path):
        raise ConfigError(f"{where} {override}: expected section.key=value, for example learner.deep=none")
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        found = {"value": text.strip()}
    # text with a line break could set more keys than the one named: take it as one string
    value = found["value"] if len(found) == 1 else text.strip()
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{where} {override}: {name} is a value, not a section")
    table[path[-1]] = value


def toml_text(text: str) -> str:
    r"""A string as TOML, for an override: every character that could end the string is escaped.

    >>> print(toml_text('a"b'))
    "a\"b"
    """
    special = {'"': '\\"', "\\": "\\\\"}
    escaped = (special.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text)
    return f'"{"".join(escaped)}"'


def copied(value: Any) -> Any:
    """Plain tables, copied: their lists are not."""
    return {k: copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value
