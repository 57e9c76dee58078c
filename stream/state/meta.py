"""The metadata of a state, and the check that it fits the role that opens it."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from stream.errors import StateError

FORMAT_VERSION = 2
SHOWN_CHARACTERS = 160  # of a fingerprint's entry in an error message


class StateMeta(msgspec.Struct):
    """The version of a state's format, whose it is, and what it depends on: name -> canonical text."""

    format: int
    role: str
    fingerprint: dict[str, str]

    def check(self, path: Path, role: str, fingerprint: Mapping[str, str] | None) -> None:
        """Compare with the role that opens the state and its configuration; None: any configuration.

        Raises:
            StateError: it is of another format, role or configuration; says what to do.
        """
        if self.format != FORMAT_VERSION:
            raise StateError(
                f"state {path} has format {self.format}; this Freshet reads format {FORMAT_VERSION}: "
                "use the Freshet that wrote it, or another state folder"
            )
        if self.role != role:
            raise StateError(
                f"state {path} belongs to a {self.role}, not to a {role}; configure another folder"
            )
        if fingerprint is None:
            return
        for name in sorted(self.fingerprint.keys() | fingerprint.keys()):
            old, new = self.fingerprint.get(name), fingerprint.get(name)
            if old == new:
                continue
            if role == "learner" and name == "targets" and _continues(old, new):
                self.fingerprint[name] = new or ""
            else:
                raise StateError(
                    f"state {path} was made with {name} = {_around(old, new)}, but now {name} = "
                    f"{_around(new, old)}; put {name} back, {_keep(name, old)}or {_begin_anew(role)}"
                )


def _continues(old: str | None, new: str | None) -> bool:
    """Whether further targets come after those of the state: they begin anew, and nothing else changes.

    A state that names none has one target, an event.
    """
    if new is None:
        return False
    kept, wanted = msgspec.json.decode(old or "[]"), msgspec.json.decode(new)
    if old is None:
        return bool(wanted[0][1] == "event")
    return bool(wanted[: len(kept)] == kept)


def _keep(name: str, old: str | None) -> str:
    """How a role keeps its state with a network whose code has changed, for an error message."""
    version = re.search(r", version (\S+), weights", old or "")
    if name != "network" or version is None:
        return ""
    return (
        f"or, if the new code gives the same weights the same meaning, set learner.deep_version = "
        f"{version[1]!r} and keep their shapes, "
    )


def _begin_anew(role: str) -> str:
    """How a role begins anew with what is configured now, for an error message."""
    if role == "learner":
        return (
            "begin anew with the new settings: start the learner once with `freshet learn --anew` (or "
            "`freshet up --anew`), which learns from the examples in the log and keeps the old state aside"
        )
    if role == "joiner":
        return (
            "move its folder away: a joiner that begins anew reads the events that the log still has, "
            "and sends nothing twice"
        )
    return "configure another state folder to begin anew"


def _around(text: str | None, other: str | None) -> str:
    """The part of a long text around where it first differs from another."""
    if text is None:
        return "(nothing)"
    if len(text) <= SHOWN_CHARACTERS:
        return text
    same = next((i for i, (a, b) in enumerate(zip(text, other or "", strict=False)) if a != b), 0)
    begin = max(same - SHOWN_CHARACTERS // 2, 0)
    return f"…{text[begin : begin + SHOWN_CHARACTERS]}…"
