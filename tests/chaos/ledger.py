"""The ledger: a stream whose ids say what every counter must be once it has been learnt.

Each request decides, when it is made, which of its candidates are shown, by whose word, and which are clicked
in time, which late and which not at all; what it must add to the tables follows from that alone, whatever
happens to the roles on the way. `Ledger.balance` compares that with what the log and a learner hold.
"""

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from learner.features.encoder import Encoder
from stream.log.base import DEAD_LETTERS, EXAMPLES, Log, Outgoing, Record, partition_of
from stream.log.reading import read_range
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Action, DeadLetter, Example, Exposure, Features, Forget, Impression, encode

WINDOW_S = 15.0
EVERY_S = 0.05  # of event time between requests: about 300 wait for their window to close
BEGIN_S = 1_700_000_000.0
DELAY_S = 0.3 * WINDOW_S  # the longest: what is on time stays on time, what is late stays late
COPY_S = 0.3 * WINDOW_S
USERS, ITEMS = 97, 211
PRODUCER = "ledger"


class Arrival(NamedTuple):
    """One event: it arrives at `at` (event time), perhaps again later."""

    at: float
    number: int
    key: bytes
    value: bytes
    copies: tuple[tuple[float, bool], ...] = ()  # (when, by the same producer under the same number)


class Told(NamedTuple):
    """An example as far as it matters: which candidates, with which labels."""

    request_id: str
    target: str
    late: bool
    before: tuple[float, ...]  # the labels that it corrects
    labels: tuple[tuple[str, float], ...]  # (the candidate's own id, label)


class Ledger:
    """Makes the stream and keeps the books.

    Args:
        seed: of everything in the stream.
        begin_s: event time of the first request.
        every_s: event time between two requests; None: that of the kind of ledger.
    """

    targets = UNDECLARED
    every_s = EVERY_S

    def __init__(self, seed: int, begin_s: float = BEGIN_S, every_s: float | None = None) -> None:
        self.begin_s = begin_s
        if every_s is not None:
            self.every_s = every_s
        self._rng = random.Random(seed)
        self.requests = 0  # so far
        self._jumped_s = 0.0
        self._arrivals = 0
        self._coming: list[Arrival] = []
        self._copies: deque[tuple[float, Outgoing]] = deque()
        self._seq = 0
        self.examples: list[Example] = []  # that must be learnt, in no order
        self.misfits: set[str] = set()  # requests that a learner cannot use
        self.buried: list[bytes] = []  # records of no use to the joiner
        self.sent = Counter[str]()

    # --- the stream ---

    def prelude(self) -> list[Outgoing]:
        """The records that must have been learned before the first request is made."""
        return []

    def take(self, requests: int) -> list[Outgoing]:
        """The records that arrive while `requests` more requests are made, in their order."""
        for _ in range(requests):
            self._make()
        return list(self._arrived(self._now_s()))

    def jump(self, seconds: float) -> None:
        """The stream stands still for some event time; what was on its way comes after that, with its time.

        What is learned of it then depends on which records share a partition: the ledger does not know.
        """
        self._jumped_s += seconds
        self._coming = [
            arrival._replace(
                at=arrival.at + seconds, copies=tuple((at + seconds, same) for at, same in arrival.copies)
            )
            for arrival in self._coming
        ]
        self._copies = deque((at + seconds, record) for at, record in self._copies)

    def _now_s(self) -> float:
        """Event time of the next request."""
        return self.begin_s + self._jumped_s + self.requests * self.every_s

    def flood(self, records: int) -> list[Outgoing]:
        """Records of which none is of use, so many that a joiner must refuse to go on."""
        values = [f"flood {self._seq} {i}".encode() for i in range(records)]
        self.buried += values
        self.sent["bad"] += records
        return [self._numbered(value[-3:], value) for value in values]

    def close(self, partitions: int) -> list[Outgoing]:
        """What is still on its way, and for each partition a last request that closes all windows."""
        now = self._now_s()
        last = list(self._arrived(now + 10 * WINDOW_S))
        for partition in range(partitions):
            name = next(
                f"end-{i}" for i in range(10**6) if partition_of(b"end-%d" % i, partitions) == partition
            )
            end = Impression(
                request_id=name, time=now + 20 * WINDOW_S, candidates=[{"once": f"{name}:0"}], labels=[1.0]
            )
            self._expect(end, {0: 1.0})
            last.append(self._numbered(name.encode(), encode(end)))
        return last

    def _make(self) -> None:
        rng = self._rng
        number, time = self.requests, self._now_s()
        self.requests += 1
        name = f"r{number}"
        kind = rng.random()
        if kind < 0.01:
            self._come(time, b"bad", f"no event {number}".encode(), copied=False)
            self.buried.append(f"no event {number}".encode())
            self.sent["bad"] += 1
            return
        if kind < 0.02:
            orphan = encode(Action(request_id=f"orphan-{number}", time=time, candidate=0))
            self._come(time, b"orphan-%d" % number, orphan, copied=False)
            self.buried.append(orphan)
            self.sent["orphans"] += 1
            return
        candidates: list[Features] = [
            {"item": rng.randrange(ITEMS), "once": f"{name}:{i}"} for i in range(rng.randrange(1, 5))
        ]
        user: int | float = rng.randrange(USERS)
        if kind < 0.025:
            user = 0.5  # no id: the joiner lets it pass, the learner cannot use it
            self.misfits.add(name)
        shown, examined, exposures = self._show(name, time, len(candidates))
        impression = Impression(
            request_id=name, time=time, context={"user": user}, candidates=candidates, shown=shown
        )
        for exposure in exposures:
            self._come(exposure.time, name.encode(), encode(exposure))
            self.sent["exposures"] += 1
            shown = exposure.shown or shown
        key = name.encode()
        self._come(time, key, encode(impression))
        self.sent["impressions"] += 1
        self._happen(impression, shown, examined)

    def _happen(self, impression: Impression, shown: list[int] | None, examined: int | None) -> None:
        """Let something happen with the candidates.

        Args:
            shown, examined: the last word on what was shown.
        """
        rng, name, time, candidates = self._rng, impression.request_id, impression.time, impression.candidates
        labels: dict[int, float] = {}
        late: list[int] = []
        for i in range(len(candidates)):
            fate = rng.random()
            if fate < 0.2:
                labels[i] = 1.0
                self._act(name, time + rng.uniform(0.0, 0.5) * WINDOW_S, i)
            elif fate < 0.23:  # clicked, and taken back
                first = time + rng.uniform(0.0, 0.2) * WINDOW_S
                self._act(name, first, i)
                self._act(name, first + 0.2 * WINDOW_S, i, 0.0)
            elif fate < 0.26 and name not in self.misfits:
                self._act(name, time + rng.uniform(1.5, 2.0) * WINDOW_S, i)
                late.append(i)
                self.sent["late"] += 1
        order = list(range(len(candidates))) if shown is None else shown
        if examined is not None:
            order = order[: max([examined, *(place + 1 for place, i in enumerate(order) if i in labels)])]
        seen = sorted({*order, *labels})  # a click always counts
        for i in late:  # what was shown has been learned as a negative, which is corrected
            self._expect(impression, {i: 1.0}, late=True, before=[0.0] if i in seen else None)
        self._expect(impression, {i: labels.get(i, 0.0) for i in seen})

    def _show(self, name: str, time: float, n: int) -> tuple[list[int] | None, int | None, list[Exposure]]:
        """What the impression says was shown, how much was examined of the last word, and the exposures."""
        rng = self._rng
        shown = rng.sample(range(n), rng.randrange(1, n + 1)) if rng.random() < 0.4 else None
        if rng.random() < 0.7:
            return shown, None, []
        exposures = [Exposure(name, time + 0.1 * WINDOW_S, rng.sample(range(n), rng.randrange(1, n + 1)))]
        examined = rng.randrange(1, n + 1) if rng.random() < 0.5 else None
        if examined is not None or rng.random() < 0.3:
            last = rng.sample(range(n), rng.randrange(1, n + 1))
            exposures.append(Exposure(name, time + 0.3 * WINDOW_S, last, examined))
        return shown, examined, exposures

    def _act(self, name: str, time: float, candidate: int, label: float = 1.0) -> None:
        action = Action(request_id=name, time=time, candidate=candidate, label=label)
        self._come(time, name.encode(), encode(action))
        self.sent["actions"] += 1

    def _expect(
        self,
        impression: Impression,
        labels: Mapping[int, float],
        late: bool = False,
        before: list[float] | None = None,
        target: str = "",
    ) -> None:
        self.examples.append(
            Example(
                request_id=impression.request_id,
                time=impression.time,
                decided=impression.time,
                context=impression.context,
                candidates=[impression.candidates[i] for i in labels],
                labels=list(labels.values()),
                late=late,
                before=before,
                target=target,
            )
        )

    def _come(self, time: float, key: bytes, value: bytes, copied: bool = True) -> None:
        rng = self._rng
        at = time + (rng.uniform(0.0, DELAY_S) if rng.random() < 0.05 else 0.0)
        copies = []
        if rng.random() < 0.05:
            copies.append((at + rng.uniform(0.0, COPY_S), True))
        if copied and rng.random() < 0.05:
            copies.append((at + rng.uniform(0.0, COPY_S), False))
        self._coming.append(Arrival(at, self._arrivals, key, value, tuple(copies)))
        self._arrivals += 1

    def _arrived(self, until: float) -> Iterator[Outgoing]:
        """What has arrived before `until`, copies among it."""
        self._coming.sort()
        count = next((i for i, arrival in enumerate(self._coming) if arrival.at >= until), len(self._coming))
        arrived, self._coming = self._coming[:count], self._coming[count:]
        for arrival in arrived:
            yield from self._due_copies(arrival.at)
            record = self._numbered(arrival.key, arrival.value)
            yield record
            for at, same in arrival.copies:
                again = record if same else Outgoing(arrival.key, arrival.value)
                self._copies.append((at, again))
                self.sent["copies"] += 1
        yield from self._due_copies(until)

    def _due_copies(self, now: float) -> Iterator[Outgoing]:
        due = sorted((copy for copy in self._copies if copy[0] <= now), key=lambda copy: copy[0])
        if due:
            self._copies = deque(copy for copy in self._copies if copy[0] > now)
        yield from (record for _, record in due)

    def _numbered(self, key: bytes, value: bytes) -> Outgoing:
        """A record under the next number; each partition sees them rise."""
        self._seq += 1
        return Outgoing(key, value, producer=PRODUCER, seq=self._seq)

    # --- the books ---

    def balance(self, log: Log, learner: Any) -> dict[str, Any]:
        """Compare with the log and a learner, or its shards, that have consumed all of it; 0 is balanced."""
        expected = Counter(tell(example) for example in self.examples)
        found = Counter(tell(example) for example in examples_in(log, self.targets))
        letters = Counter(letters_in(log, self.targets))
        buried = Counter(self.buried) + Counter(
            e.request_id.encode() for e in self.examples if e.request_id in self.misfits
        )
        learnt = [example for example in self.examples if example.request_id not in self.misfits]
        learner.finish()
        return {
            **difference("examples", expected, found),
            **difference("letters", buried, letters),
            **self._compare_tables(learner.model, learnt),
            **self.totals(learner),
        }

    def totals(self, learner: Any) -> dict[str, int]:
        """What a learner that has consumed all of it has counted."""
        learnt = [example for example in self.examples if example.request_id not in self.misfits]
        off = {
            "requests_off": learner.meta.requests - len(learnt),
            "rows_off": learner.meta.examples - sum(len(example.labels) for example in learnt),
        }
        for name, metrics in learner.saved_metrics.by_name.items():
            labels = [
                label
                for example in learnt
                if not example.late and self.targets[example.target] is self.targets[name]
                for label in example.labels
            ]
            of = "" if name == self.targets.primary else f"{name}_"
            off[f"{of}scored_off"] = metrics.examples - len(labels)
            off[f"{of}positives_off"] = metrics.summary()["positives"] - sum(label > 0.0 for label in labels)
        return off

    def completed(self, examples: list[Example]) -> list[Example]:
        """Examples as they are learned: with what is known of their entities."""
        return examples

    def sightings(self, encoder: Encoder, learnt: list[Example]) -> dict[int, Counter[int]]:
        """How often each id was seen, by the number of its table; a correction is no sighting."""
        rows = encoder.encode([example for example in learnt if example.before is None]).rows
        found = {}
        for t in range(len(encoder.names)):
            keys, times = np.unique(rows.key[rows.column == t], return_counts=True)
            found[t] = Counter(dict(zip(keys.tolist(), times.tolist(), strict=True)))
        return found

    def _compare_tables(self, model: Any, learnt: list[Example]) -> dict[str, int]:
        """How often each id was seen, over all tables of features."""
        lost = double = 0
        for t, expected in self.sightings(model.encoder, learnt).items():
            found = counts_in(model.tables[t])
            lost += (expected - found).total()
            double += (found - expected).total()
        return {"sightings_lost": lost, "sightings_double": double}


def counts_in(table: Any) -> Counter[int]:
    """How often a table has seen each of its ids, on disk or not."""
    found = Counter[int]()
    for keys, rows in table.pages():
        counts = rows.view(np.uint32)[:, table.spec.seen_column + 1]
        found.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
    return found


def fresh_records(log: Log, topic: str, begins: Mapping[int, int] | None = None) -> Iterator[Record]:
    """A topic's records as every reader takes them: of each producer's numbers those that rise.

    Args:
        begins: where the reader has begun, by partition: what was sent before and again behind it is new.
    """
    for partition, (first, end) in enumerate(log.ends(topic)):
        first = max(first, (begins or {}).get(partition, 0))
        yield from rising(read_range(log, topic, partition, first, end))


def rising(records: Iterable[Record]) -> Iterator[Record]:
    """Of each producer's numbers those that rise, among the records of a partition."""
    seen: dict[str, int] = {}
    for record in records:
        if record.seq < 0 or record.seq > seen.get(record.producer, -1):
            seen[record.producer] = record.seq
            yield record


def examples_in(log: Log, targets: Targets = UNDECLARED) -> Iterator[Example]:
    """The examples, without the requests to forget and what is said of entities, which are among them."""
    decode = Decoder[Example | Forget | EntityEvent](Example, Forget, EntityEvent, targets=targets).decode
    found = (decode(record.value) for record in fresh_records(log, EXAMPLES))
    return (example for example in found if isinstance(example, Example))


def letters_in(log: Log, targets: Targets = UNDECLARED) -> Iterator[bytes]:
    """What was buried: the original bytes of the joiner's letters, the request id of the learner's."""
    decode = Decoder(DeadLetter, bytes_max=1 << 30).decode
    decode_example = Decoder(Example, targets=targets).decode
    for record in fresh_records(log, DEAD_LETTERS):
        letter: DeadLetter = decode(record.value)
        if letter.stage == "learner":
            yield decode_example(letter.original).request_id.encode()
        else:
            yield letter.original


def tell(example: Example) -> Told:
    """An example as far as it matters."""
    names = [str(candidate["once"]) for candidate in example.candidates]
    labels = tuple(zip(names, example.labels, strict=True))
    return Told(example.request_id, example.target, example.late, tuple(example.before or ()), labels)


def difference(name: str, expected: Counter[Any], found: Counter[Any]) -> dict[str, int]:
    """How many were lost, and how many are there that were not expected."""
    return {f"{name}_lost": (expected - found).total(), f"{name}_double": (found - expected).total()}
