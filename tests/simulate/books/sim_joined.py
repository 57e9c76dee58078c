"""The books of the joiners: examples and dead letters against the ledger, or against a plain joiner."""

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from ledger import difference, examples_in, fresh_records, letters_in, tell
from sim_clients import WRONG

from stream.join.event_clock import START_EVENTS
from stream.join.joiner import Joiner
from stream.join.outputs import offset_of, sender_of
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Forget
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import JournalStretch
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

if TYPE_CHECKING:
    from sim_run import Run

NO_EVENTS = b"bad", b"forget"
"""Keys of records that move no clock."""

TELLER = "teller"
"""Who sends events that move no clock."""

FAR_S = 200_000.0
"""An event so far from the others moves no clock: it is refused, or there is nobody to confirm it."""

COPIES_WINDOWS = 2.0
"""How much later a copy without a number may be a new event: its request is no longer remembered."""


class _Timed(msgspec.Struct):
    """What all events have."""

    time: float


class JoinedBooks:
    """Compares what joiners have sent.

    Args:
        archive: all records that the log ever had.
        rng: decides how much is compared.
    """

    def __init__(self, run: "Run", archive: Log, rng: random.Random) -> None:
        self._run = run
        self._config = run.config
        self._archive = archive
        self._rng = rng
        self.happened: Counter[str] = Counter()

    @property
    def exact(self) -> bool:
        """Whether the ledger foretells each example: only its own events move the clocks, in their order."""
        run = self._run
        far = all(abs(wrong.off_s) > FAR_S for wrong in run.wrong)
        plain = not run.schedule.live and not run.schedule.jumps
        known = run.schedule.log_times or self._outnumbered()
        return far and plain and known and self._copies_in_time()

    def _copies_in_time(self) -> bool:
        """Whether each copy without a number came while its request was remembered: an append may be late."""
        if not self._run.schedule.rates.network.append_late:
            return True
        late_s = COPIES_WINDOWS * self._config.join.window_s
        decode = msgspec.msgpack.Decoder(_Timed).decode
        clocks: dict[int, float] = defaultdict(float)
        for record in fresh_records(self._archive, EVENTS):
            ledgers = record.key not in NO_EVENTS and record.producer not in (TELLER, "wrong")
            time_s = decode(record.value).time if ledgers else 0.0
            if ledgers and not record.producer and time_s < clocks[record.partition] - late_s:
                return False
            clocks[record.partition] = max(clocks[record.partition], time_s)
        return True

    def _outnumbered(self) -> bool:
        """Whether events of wrong clocks were the fewer all along: else a log without times believes them."""
        counts: dict[int, Counter[bool]] = defaultdict(Counter)
        for record in fresh_records(self._archive, EVENTS):
            seen = counts[record.partition]
            moves = record.key not in NO_EVENTS and record.producer != TELLER
            if seen.total() < START_EVENTS and moves:
                seen[record.key.startswith(WRONG.encode())] += 1
                if seen[True] > seen[False] > 0:
                    return False
        return all(seen[True] < seen[False] for seen in counts.values())

    def close(self, exact: bool) -> dict[str, int]:
        """What is off. `exact`: whether the ledger foretells each example."""
        run, ledger = self._run, self._run.ledger
        books = {}
        if exact:
            named = {e.request_id for e in ledger.examples if self._names_forgotten(e)}
            expected = Counter(tell(e) for e in ledger.examples if e.request_id not in named)
            found = Counter(
                tell(e)
                for e in examples_in(self._archive, ledger.targets)
                if e.request_id not in named and not e.request_id.startswith(WRONG)
            )
            books |= difference("examples", expected, found)
        if exact and not run.wrong and not run.schedule.forgets and not run.schedule.small:
            buried = Counter(ledger.buried) + Counter(
                e.request_id.encode() for e in ledger.examples if e.request_id in ledger.misfits
            )
            books |= difference("letters", buried, Counter(letters_in(self._archive, ledger.targets)))
        if not exact or run.schedule.forgets or self._rng.random() < 0.2:
            books |= self._plain_joiner()
        if run.schedule.log_times:
            books |= self._too_early()
        return books | (self._in_two_partitions() if run.schedule.sharded else {})

    def _names_forgotten(self, example: Example) -> bool:
        names = self._run.forgets.names
        return names(example.context) or any(names(candidate) for candidate in example.candidates)

    def _plain_joiner(self) -> dict[str, int]:
        """The examples against those of one joiner that takes the same events, each partition in turn."""
        run = self._run
        log = run.archive.log(EVENTS)
        partitions = run.schedule.partitions
        log.create_topic(EXAMPLES, partitions)
        log.create_topic(DEAD_LETTERS, 1)
        ends = run.log.committed("join", EVENTS)
        with RoleState(Path("plain"), "joiner", {}, disk=MemoryDisk()) as state:
            joiner = Joiner(state, self._config.join, targets=self._config.targets, partitions=partitions)
            runner = Runner(log, state, joiner, Subscription(EVENTS, "plain", commits_offsets=False)).open()
            runner.follow([JournalStretch(p, 0, end)] for p, end in sorted(ends.items()) if end)
        off = 0
        for topic in (EXAMPLES, DEAD_LETTERS):
            expected, found = _sent(log, topic), _sent(self._archive, topic)
            more = found - expected
            if topic == DEAD_LETTERS:
                more -= self._refused_again(more)
            off += sum(((expected - found) + more).values())
        return {"plain_joiner_off": off}

    def _refused_again(self, letters: Counter[tuple[int, str, int, bytes]]) -> Counter[Any]:
        """Those of the letters that are of a repeat, after a joiner had taken over that has not read back to
        its first copy: repeats are known by their number only as far, and what was refused has no request."""
        fresh = {(record.partition, record.offset) for record in fresh_records(self._archive, EVENTS)}
        again = {
            letter: count
            for letter, count in letters.items()
            if (sender := sender_of(letter[1].removesuffix("-dead")))
            and (sender.partition, offset_of(letter[2])) not in fresh
        }
        self.happened["repeats refused again"] += len(again)
        return Counter(again)

    def _too_early(self) -> dict[str, int]:
        """Requests decided before the log's own clock was at the end of their window.

        A wrong clock may be ahead; a plain joiner would believe it just so.
        """
        events = {(r.partition, r.offset): r.ingest_ms / 1e3 for r in fresh_records(self._archive, EVENTS)}
        ahead_s = self._config.join.clock_ahead_s
        early = 0
        decode = self._decoder().decode
        for record in fresh_records(self._archive, EXAMPLES):
            sender = sender_of(record.producer)
            found = decode(record.value)
            if sender is None or not isinstance(found, Example) or found.late or found.target:
                continue
            if found.request_id.startswith((WRONG, "end-")):
                continue  # a wrong clock's count as of another time, and the last ones bring their labels
            caused_s = events.get((sender.partition, offset_of(record.seq)))
            early += caused_s is not None and found.decided > caused_s + ahead_s + 0.001
        return {"decided_too_early": early}

    def _in_two_partitions(self) -> dict[str, int]:
        """People whose examples lie in several partitions."""
        places: dict[str, set[int]] = defaultdict(set)
        decode = self._decoder().decode
        for record in fresh_records(self._archive, EXAMPLES):
            found = decode(record.value)
            user = found.context.get("user") if isinstance(found, Example) else None
            if isinstance(user, int):
                places[str(user)].add(record.partition)
        return {"in_two_partitions": sum(len(held) > 1 for held in places.values())}

    def _decoder(self) -> Decoder[Any]:
        return Decoder(Example, Forget, EntityEvent, targets=self._config.targets)


def _sent(log: Log, topic: str) -> Counter[tuple[int, str, int, bytes]]:
    """What joiners have sent to a topic, each record once."""
    return Counter(
        (record.partition, record.producer, record.seq, record.value)
        for record in fresh_records(log, topic)
        if record.producer.startswith("joiner")
    )
