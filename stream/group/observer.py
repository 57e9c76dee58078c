"""The members of all groups and their status, from topic `roles`: for display, never for decisions.

Each beat carries the status of its member (`stream.group.signs.MemberStatus`). So a reader of the topic
knows all roles of a Freshet installation, on all machines, through the log alone.
"""

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from stream.group.signs import Claim, MemberStatus, read_sign
from stream.log.base import ROLES, Log, Record

LOOK_BACK = 500
"""Records of the topic that a newcomer reads: minutes of beats of a few members."""
MEMBERS_MAX = 200
"""Members that are remembered; beyond that, the one with the oldest beat is evicted."""
FORGET_S = 900.0
"""A member without a beat for so long is evicted."""


class ObservedMember(msgspec.Struct):
    """A member and its last status."""

    group: str
    name: str
    incarnation: str
    leads: bool
    status: MemberStatus
    at_s: float  # time of its last beat, in monotonic seconds of the reader


class Roll:
    """Reads topic `roles` from a little before its end on. Call `look` now and then, from one thread."""

    def __init__(self, log: Log, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._log = log
        self._position = -1
        self._members: dict[tuple[str, str], ObservedMember] = {}

    @property
    def members(self) -> list[ObservedMember]:
        """By group and name."""
        return [member for _, member in sorted(self._members.items())]

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
                # records read live were just sent; the age of older ones is the log's
                age_s = (
                    max(self._clock.unix_s() - record.ingest_ms / 1e3, 0.0)
                    if begins and record.ingest_ms
                    else 0.0
                )
                self._take(record, self._clock.now_s() - age_s)
            self._position = records[-1].offset + 1
        self._forget(self._clock.now_s())

    def _take(self, record: Record, at_s: float) -> None:
        sign = read_sign(record)
        if sign is None or isinstance(sign, Claim):
            return
        key = sign.group, sign.name
        known = self._members.get(key)
        if sign.leaving:
            if known is not None and known.incarnation == sign.incarnation:
                del self._members[key]
            return
        status = sign.status or (
            known.status if known is not None and known.incarnation == sign.incarnation else MemberStatus()
        )
        self._members[key] = ObservedMember(
            sign.group, sign.name, sign.incarnation, sign.leading >= 0, status, at_s
        )

    def _forget(self, now_s: float) -> None:
        for key in [p for p, member in self._members.items() if now_s - member.at_s > FORGET_S]:
            del self._members[key]
        while len(self._members) > MEMBERS_MAX:
            del self._members[min(self._members, key=lambda key: self._members[key].at_s)]
