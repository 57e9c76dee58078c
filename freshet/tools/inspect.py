"""`freshet inspect`: print the contents of a role's state, in dates and counts."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from freshet.files import Json
from freshet.roles.states import read_state
from freshet.roles.voice import short

_NAMES = {
    "format": "format of the state",
    "commits": "commits",
    "unsent_or_just_sent": "records to send",
    "next_offsets": "read up to, by topic/partition (offset)",
    "entries": "entries in the database",
    "rows_with_those_at_rest": "rows of tables with memory_rows, in memory and at rest",
    "joined": "joined so far",
    "learnt": "learned so far",
    "made_for": "made for these settings",
}
_TIMES = ("time", "clock", "since")
_SHOWN_MAX = 100  # characters of one value


def inspect_state(folder: Path, as_json: bool = False) -> None:
    """Print the contents of a state.

    Raises:
        StateError: the folder has no state, or it cannot be read.
    """
    found = read_state(folder)
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    print("\n".join(describe(found)))


def describe(found: Json) -> Iterator[str]:
    """The result of `read_state`, as lines for people."""
    for name, value in found.items():
        title = _NAMES.get(name, name.replace("_", " "))
        if isinstance(value, dict):
            yield f"{title}:"
            for key, entry in value.items():
                yield f"  {key.replace('_', ' '):<26}{_as_text(key, entry)}"
        else:
            yield f"{title:<28}{_size(value) if name == 'bytes' else _as_text(name, value)}"


def _as_text(name: str, value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and name.endswith(_TIMES) and value > 0:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        return ", ".join(map(short, value))
    text = short(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(text):,} characters; --json)"


def _size(count: object) -> str:
    size = float(str(count))
    for unit in ("bytes", "kB", "MB"):
        if size < 1000.0:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000.0
    return f"{size:,.1f} GB"
