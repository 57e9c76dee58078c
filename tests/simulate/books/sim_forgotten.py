"""What was to be forgotten: is it anywhere?"""

from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sim_roles import SHARED

from ground.keys import key_of
from stream.log.base import EVENTS, Record

if TYPE_CHECKING:
    from sim_run import Run


class ForgottenBooks:
    """Looks at all folders as they are when it is made: before the books open a state, which may purge it."""

    def __init__(self, run: "Run") -> None:
        self.happened: Counter[str] = Counter()
        self._run = run
        self._pieces: dict[str, set[bytes]] = {}  # of each folder
        if run.forgets.asked:
            for name in (*(process.name for process in run.roles), str(SHARED)):
                if name not in run.troubles.restored:  # from a copy of an operator's
                    self._pieces[name] = set(run.disk.pieces(Path(name)))
        self._all_pieces = list(set().union(*self._pieces.values()))  # much is in several of them
        self._everything = b"".join(self._all_pieces)

    def close(self) -> dict[str, int]:
        """In how many folders an id lies that nothing has named since it was forgotten."""
        run = self._run
        if not run.forgets.asked:
            return {}
        last = {p: run.archive.records(EVENTS, p) for p in range(run.schedule.partitions)}
        found = 0
        for asked in run.forgets.asked:
            name = msgspec.msgpack.encode(asked.forget_id)
            for feature, ids in asked.entity.items():
                for value in ids:
                    if self._named_since(last, name, value):
                        continue
                    self.happened["ids forgotten for good"] += 1
                    found += self._folders_with(feature, value)
        return {"forgotten_and_there": found}

    def _named_since(self, last: dict[int, list[Record]], name: bytes, value: int | str) -> bool:
        """Whether an event names an id behind the last request to forget it, or it was not taken."""
        text = msgspec.msgpack.encode(value)
        if isinstance(value, int):
            return True  # a small integer is in many bytes
        for records in last.values():
            behind = takewhile(lambda record: name not in record.value, reversed(records))
            if any(text in record.value for record in behind):
                return True
            if not any(name in record.value for record in records):
                return True
        return False

    def _folders_with(self, feature: str, value: int | str) -> int:
        text, key = msgspec.msgpack.encode(value), key_of(value).to_bytes(8, "little")
        if text not in self._everything and key not in self._everything:
            return 0  # so it nearly always is, and one search costs less than thousands
        holding = {piece for piece in self._all_pieces if text in piece or key in piece}
        found = [name for name, pieces in self._pieces.items() if not pieces.isdisjoint(holding)]
        self.happened.update(f"{name} holds {feature} {value!r}" for name in found)
        return len(found)
