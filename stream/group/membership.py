"""Group membership: which processes share one role's work, and which of them leads.

Each member writes a *beat* to the one-partition topic `roles` about once a second. A member that wants to
lead writes a *claim* there. All members read the topic in the same order, so all reach the same view; clocks
of different machines are never compared:

- A member is gone when it announces that it leaves, or when enough beats of the observer have come back from
  the log since the member's last beat. While the log is away no beats come back, so no member times out. Of
  what was before its own first beat, a new member finds who was gone by the beats of those who were there.
- A claim's *term* is its offset in the topic. The newest claim holds. Terms only rise, also after a trim
  or a restart.

The view decides only which member *should* do what. Exactly-once does not depend on it:
several joiners that read one partition at once send the same records under the same numbers
(`stream.join.assignment`), and a learner whose term is over is recognised in its own outputs
(`learner.updates.chain`).
"""

import logging
import re
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from ground.short_repr import ShortRepr
from ground.threads import HelperThread
from stream.errors import GroupError, LogError
from stream.group.signs import NAME_MAX, Beat, Claim, MemberStatus, Note, read_sign, send_beat
from stream.log.base import ROLES, Log, Outgoing, Record

_log = logging.getLogger("freshet.group")

LOOK_EVERY_S = 0.2
SNAPSHOTS_KEPT = 2
SNAPSHOTS_KEPT_MAX = 10_000
STALL_S_MAX = 60.0
"""A member whose main loop stalls for so long stops beating, although its thread runs."""
LOOK_BACK = 10_000
"""Records that a new member reads from the topic: beats repeat everything that matters."""
REPLACED_MAX = 1000
"""Processes remembered whose name another process has taken since."""
PEERS_MAX = 1000
"""Members that are known at a time; a new one beyond that is ignored until another has gone."""


class GroupSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How members of a group detect that another is gone."""

    name: str = ""  # of this process in its group; empty: the machine's name
    beat_s: float = 1.0  # between two beats
    timeout_s: float = 6.0  # of silence, after which a member counts as gone
    snapshots: str = ""  # a folder that all learners see; empty: `snapshots` in the state folder
    snapshot_every_s: float = 60.0  # between two snapshots of the one that leads
    snapshots_kept: int = SNAPSHOTS_KEPT  # the newest ones; more of them allow `freshet rollback`

    def __post_init__(self) -> None:
        if len(self.name) > NAME_MAX or not re.fullmatch(r"[\w.-]*", self.name):
            raise ValueError(f"name is {self.name!r}; expected letters, digits, dots and dashes")
        if not 0.05 <= self.beat_s <= 60.0:
            raise ValueError(f"beat_s is {self.beat_s}; expected 0.05 to 60")
        if not 2.0 * self.beat_s <= self.timeout_s <= 3600.0:
            raise ValueError(f"timeout_s is {self.timeout_s}; expected two beats (2 beat_s) to 3600")
        if not SNAPSHOTS_KEPT <= self.snapshots_kept <= SNAPSHOTS_KEPT_MAX:
            raise ValueError(f"snapshots_kept is {self.snapshots_kept}; expected 2 to {SNAPSHOTS_KEPT_MAX}")
        if not 0.1 <= self.snapshot_every_s <= 86400.0:
            raise ValueError(f"snapshot_every_s is {self.snapshot_every_s}; expected 0.1 to 86400")


GROUP_DEFAULTS = GroupSettings()


class Leader(NamedTuple):
    """The newest claim."""

    term: int
    name: str
    incarnation: str


class _Peer(msgspec.Struct):
    incarnation: str
    way: str = ""
    able: bool = False
    waits: bool = False
    unanswered: dict[str, int] = {}  # since its last beat those of an observer, by incarnation


class Member:
    """One process's membership in a group. A context manager: inside, a thread beats and reads.

    Args:
        group: what the group does: "join", "learn".
        name: unique in the group; a new process replaces the previous one of the same name.
        way: how it does its work. Members of different ways do not work beside each other: those that come
            later have no share until the others are gone.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        name: str,
        settings: GroupSettings = GROUP_DEFAULTS,
        clock: Clock = SYSTEM_CLOCK,
        way: str = "",
    ) -> None:
        if not 0 < len(name) <= NAME_MAX:
            raise GroupError(f"member name {name!r}: it must have 1 to {NAME_MAX} characters")
        self.group = group
        self.name = name
        self.incarnation = clock.token()[:12]
        self.settings = settings
        self._way = way
        self._works = self._waits = False  # see `held_up_by`
        self._log = log
        self._clock = clock
        self._unanswered_max = max(2, round(settings.timeout_s / settings.beat_s))
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self._replaced: dict[str, None] = {}  # incarnations, the latest last
        self._notes: dict[int, Note] = {}
        self._leader: Leader | None = None
        self._mine: list[Note] = []
        self._status: MemberStatus | None = None
        self._number = 0
        self._able = False
        self._leading = -1
        self._turned_s = self._clock.now_s()
        self._position = 0
        self._beat_at_s = float("-inf")
        self._away = False  # the log does not answer
        self._thread = HelperThread(f"group {group}", self._run, clock=clock)

    # --- what the role asks ---

    def turn(self) -> None:
        """Report that the role's main loop is running; the loop calls it.

        Raises:
            GroupError: another process has taken this one's name.
            BaseException: the error that ended the heartbeat thread.
        """
        self._thread.check()
        self._turned_s = self._clock.now_s()
        with self._lock:
            if self.incarnation in self._replaced:
                raise GroupError(
                    f"another process has joined group {self.group!r} as {self.name!r}; this one stops. "
                    "Give each its own --name"
                )

    @property
    def names(self) -> list[str]:
        """The live members, sorted; empty until this one has read its own first beat."""
        with self._lock:
            return sorted(self._peers) if self.name in self._peers else []

    def held_up_by(self) -> list[str]:
        """The live members because of which this one must not work: they work in another way, or are to.

        The first of all goes first. Once this member works, it goes on: later ones of other ways wait for it.
        """
        with self._lock:
            if self._works or self.name not in self._peers:
                return []
            found, earlier = [], True
            for name, peer in self._peers.items():  # in the order of their first beats
                if peer.incarnation == self.incarnation:
                    earlier = False
                elif peer.way != self._way and (earlier or not peer.waits):
                    found.append(name)
            self._works, self._waits = not found, bool(found)
            return sorted(found)

    def share(self, parts: int) -> set[int]:
        """This member's share of so many parts: round robin, in the order of names."""
        held_up = self.held_up_by()
        with self._lock:
            names = sorted(
                name
                for name, peer in self._peers.items()
                if peer.incarnation == self.incarnation or (peer.way == self._way and not peer.waits)
            )
        if self.name not in names or held_up:
            return set()
        return set(range(names.index(self.name), parts, len(names)))

    def note(self, partition: int) -> Note | None:
        """The newest note of a partition, from any member."""
        with self._lock:
            return self._notes.get(partition)

    def publish(self, notes: Sequence[Note]) -> None:
        """Set the notes that the next beats carry."""
        with self._lock:
            self._mine = list(notes)

    def report(self, status: MemberStatus) -> None:
        """Set the status that the next beats carry."""
        self._status = status

    @property
    def leader(self) -> Leader | None:
        """The newest claim; None: there is no claim."""
        with self._lock:
            return self._leader

    def leads(self, term: int) -> bool:
        """Whether no claim newer than `term` has been read."""
        leader = self.leader
        return leader is None or leader.term <= term

    def vacant(self) -> bool:
        """Whether this member should claim: there is no leader, and it is the first by name that could."""
        with self._lock:
            if self.name not in self._peers:
                return False
            leader = self._leader
            if leader is not None:
                if leader.name == self.name:
                    # our own predecessor; or a claim of ours of whose append no answer came
                    return leader.incarnation != self.incarnation or self._leading != leader.term
                peer = self._peers.get(leader.name)
                if peer is not None and peer.incarnation == leader.incarnation:
                    return False
            able = sorted(name for name, peer in self._peers.items() if peer.able)
            return able[:1] == [self.name]

    def able(self, able: bool) -> None:
        """Set whether this member could lead."""
        self._able = able

    def claim(self) -> int:
        """Claim to lead; returns the term."""
        value = msgspec.msgpack.encode(Claim(self.group, self.name, self.incarnation))
        ((_, term),) = self._log.append(ROLES, [Outgoing(self.group.encode(), value, 0)])
        self.look()  # if this fails, the caller has no term, and claims again
        self._leading = term
        return term

    def resign(self) -> None:
        """Stop leading."""
        self._leading = -1

    # --- its thread ---

    def __enter__(self) -> Self:
        self.join()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop()
        self.leave()

    def join(self) -> None:
        """Send the first beat, and read who else is there. Without the thread, call `pulse` from here on.

        Raises:
            LogError: the log fails.
        """
        first, end = self._log.ends(ROLES)[0]
        self._position = max(first, end - LOOK_BACK)
        self.beat()
        self._beat_at_s = self._clock.now_s() + self.settings.beat_s
        self.look()

    def leave(self) -> None:
        """Announce that this member leaves, if the log is reachable."""
        try:
            self.beat(leaving=True)
        except LogError as away:
            _log.warning("could not say that member %s leaves: %s", self.name, away)

    def pulse(self) -> None:
        """Send a beat if one is due, and read new records. Does nothing while the log is away."""
        now = self._clock.now_s()
        try:
            if now >= self._beat_at_s and now - self._turned_s < STALL_S_MAX:
                self._beat_at_s = now + self.settings.beat_s
                self.beat()
                if self._away:  # a successful read is not enough: a full log can still be read
                    _log.info("member %s reaches its group again", self.name)
                self._away = False
            self.look()
        except LogError as error:
            if not self._away:
                _log.warning("member %s cannot reach its group: %s", self.name, error)
            self._away = True

    def _run(self, stop: threading.Event) -> None:
        while not self._clock.wait(stop, min(LOOK_EVERY_S, self.settings.beat_s)):
            self.pulse()

    def beat(self, leaving: bool = False) -> None:
        """Send a beat now.

        Raises:
            LogError: the log fails.
        """
        with self._lock:
            number, self._number = self._number, self._number + 1
            notes = self._mine
        beat = Beat(
            group=self.group,
            name=self.name,
            incarnation=self.incarnation,
            number=number,
            able=self._able,
            leading=self._leading,
            notes=notes,
            leaving=leaving,
            way=self._way,
            waits=self._waits,
            status=self._status,
        )
        send_beat(self._log, beat)

    def look(self) -> None:
        """Read what there is to read.

        Raises:
            LogError: the log fails.
        """
        with self._reading:
            end = self._log.ends(ROLES)[0][1]
            while self._position < end:
                records = self._log.read(ROLES, 0, self._position)
                if not records:
                    self._position = end  # there are offsets without records
                    return
                with self._lock:
                    for record in records:
                        self._take(record)
                self._position = records[-1].offset + 1

    def _take(self, record: Record) -> None:
        said = read_sign(record)
        if said is not None and said.group == self.group:
            if isinstance(said, Claim):
                self._lead(Leader(record.offset, said.name, said.incarnation))
            else:
                self._hear(said, record.offset)

    def _lead(self, leader: Leader) -> None:
        if self._leader is None or leader.term > self._leader.term:
            self._leader = leader

    def _hear(self, beat: Beat, offset: int) -> None:
        for note in beat.notes:
            known = self._notes.get(note.partition)
            if known is None or note.position >= known.position:
                self._notes[note.partition] = note
        if 0 <= beat.leading < offset:  # a term is the offset of a claim, which comes before its beats
            self._lead(Leader(beat.leading, beat.name, beat.incarnation))
        peer = self._peers.get(beat.name)
        if beat.leaving:
            if peer is not None and peer.incarnation == beat.incarnation:
                del self._peers[beat.name]
            return
        if beat.incarnation in self._replaced:
            return
        if peer is None or peer.incarnation != beat.incarnation:
            if peer is None and len(self._peers) >= PEERS_MAX and beat.incarnation != self.incarnation:
                return
            if peer is not None:
                self._replaced[peer.incarnation] = None
                if len(self._replaced) > REPLACED_MAX:
                    del self._replaced[next(iter(self._replaced))]
                del self._peers[beat.name]  # the new process comes last
            peer = self._peers[beat.name] = _Peer(beat.incarnation, beat.way)
        peer.able, peer.waits = beat.able, beat.waits
        peer.unanswered.clear()
        own = beat.incarnation == self.incarnation
        if own or self.name not in self._peers or self._peers[self.name].incarnation != self.incarnation:
            self._count_silence(beat.incarnation, own)

    def _count_silence(self, observer: str, own: bool) -> None:
        """A beat of an observer: this member, or before its own first beat whoever was there then."""
        for name, peer in list(self._peers.items()):
            if peer.incarnation != observer:
                count = peer.unanswered[observer] = peer.unanswered.get(observer, 0) + 1
                if count >= self._unanswered_max:
                    if own:
                        _log.warning("member %s of group %s is gone", name, self.group)
                    del self._peers[name]
