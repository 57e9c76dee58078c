"""Who is there and how they do, as topic `roles` has it: for those who watch, and for nobody's decisions.

A member of a group tells with each beat how it does (`stream.group.membership.Told`). Whoever reads the
topic so
knows all roles of a Freshet, wherever they run, with nothing but the log between them.
"""

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from stream.group.membership import Claim, Told, read_sign
from stream.log.base import ROLES, Log, Record

LOOK_BACK = 500
"""Records of the topic that a newcomer reads: minutes of beats of a few members."""
MEMBERS_MAX = 200
"""Members that are remembered; of more the one that was heard longest ago is forgotten."""
FORGET_S = 900.0
"""A member that says nothing for so long is forgotten."""


class Heard(msgspec.Struct):
    """A member, and what it told last."""

    group: str
    name: str
    life: str
    leads: bool
    told: Told
    at_s: float  # when it was heard last, monotonic seconds of the one who listens


class Roll:
    """Reads topic `roles` from a little before its end on. Call `look` now and then, from one thread."""

    def __init__(self, log: Log, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._log = log
        self._position = -1
        self._heard: dict[tuple[str, str], Heard] = {}

    @property
    def members(self) -> list[Heard]:
        """By group and name."""
        return [heard for _, heard in sorted(self._heard.items())]

    def look(self) -> None:
        """Read what is new.

        Raises:
            LogError: the log fails.
        """
        first, end = self._log.ends(ROLES)[0]
        begins = self._position < 0
        if begins:
            self._position = max(first, end - LOOK_BACK)
        self._position = max(self._position, first)
        while self._position < end:
            records = self._log.read(ROLES, 0, self._position)
            if not records:
                break
            for record in records:
                # what is read at once was just sent; what was there before is as old as the log says
                age_s = (
                    max(self._clock.unix_s() - record.ingest_ms / 1e3, 0.0)
                    if begins and record.ingest_ms
                    else 0.0
                )
                self._take(record, self._clock.now_s() - age_s)
            self._position = records[-1].offset + 1
        self._forget(self._clock.now_s())

    def _take(self, record: Record, at_s: float) -> None:
        said = read_sign(record)
        if said is None or isinstance(said, Claim):
            return
        place = said.group, said.name
        known = self._heard.get(place)
        if said.leaving:
            if known is not None and known.life == said.life:
                del self._heard[place]
            return
        told = said.told or (known.told if known is not None and known.life == said.life else Told())
        self._heard[place] = Heard(said.group, said.name, said.life, said.leading >= 0, told, at_s)

    def _forget(self, now_s: float) -> None:
        for place in [p for p, heard in self._heard.items() if now_s - heard.at_s > FORGET_S]:
            del self._heard[place]
        while len(self._heard) > MEMBERS_MAX:
            del self._heard[min(self._heard, key=lambda place: self._heard[place].at_s)]
