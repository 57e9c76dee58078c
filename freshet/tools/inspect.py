"""`freshet inspect`: print what a role's state holds."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from freshet.roles.states import read_state
from freshet.roles.voice import short


def inspect_state(folder: Path, as_json: bool = False) -> None:
    """Print what a state holds.

    Raises:
        StateError: there is none in the folder, or it cannot be read.
    """
    found = read_state(folder)
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{name.replace('_', ' ')}:")
            for key, entry in value.items():
                print(f"  {key.replace('_', ' '):<24}{_told(key, entry)}")
        else:
            print(f"{name.replace('_', ' '):<26}{_told(name, value)}")


def _told(name: str, value: object) -> str:
    if isinstance(value, float) and name.endswith("time") and value > 0:
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    return short(value)
