"""The end of a schedule: log, learners and servers against the ledger and plain replays."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from ledger import difference, examples_in, fresh_records, letters_in, tell
from sim_clients import WRONG, Answer
from sim_roles import SHARED

from ground.keys import key_of
from learner.errors import FeatureError
from learner.model.model import Model
from learner.role.learner import Learner
from learner.updates.follower import Follower
from learner.updates.format import Update
from stream.errors import StateDamagedError
from stream.join.event_clock import START_EVENTS
from stream.join.joiner import Joiner
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, SNAPSHOTS, UPDATES, Log
from stream.records.decoding import Decoder
from stream.records.refusals import Refusals
from stream.records.types import Example, Forget
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import JournalStretch, read_journal
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

if TYPE_CHECKING:
    from sim_run import Run

NO_EVENTS = b"bad", b"forget"
"""Keys of records that move no clock."""

FAR_S = 200_000.0
"""An event so far from the others moves no clock: it is refused, or there is nobody to confirm it."""


class Books:
    """Compares everything with everything, once a schedule has healed and all roles have stopped."""

    def __init__(self, run: "Run") -> None:
        self.happened: Counter[str] = Counter()
        self._run = run
        self._config = run.config
        self._archive = run.archive.log(EVENTS, EXAMPLES, UPDATES, DEAD_LETTERS, SNAPSHOTS)
        self._rng = random.Random(run.schedule.seed)
        self._pieces: dict[str, set[bytes]] = {}  # of each folder
        self._all_pieces: set[bytes] = set()  # much is in several of them

    def close(self) -> dict[str, int]:
        """What is off; each number must be 0."""
        run, config = self._run, self._config
        follower = Follower(Model(config.features, config.learn))
        follower.start(run.log)
        while follower.poll(run.log):
            pass
        self._forget_aside()
        books = self._examples() | self._answers()
        fingerprint = Learner.fingerprint(config.features, config.learn)
        compared = 0
        for process in run.roles:
            if not process.name.startswith("learn"):
                continue
            try:
                with RoleState(Path(process.name), "learner", fingerprint, disk=run.disk.connect()) as state:
                    learner = Learner(config.features, config.learn, state)
                    if learner.meta.seq != follower.seq:
                        continue  # it stood by, and was stopped before it had followed to the end
                    journal = list(read_journal(state))
                    books |= self._learner(learner, journal, follower, first=compared == 0)
                    compared += 1
            except StateDamagedError:
                if not run.troubles.hurt_ever:
                    raise
                self.happened["damage found by the books"] += 1
                compared = max(compared, 1)
        if not compared:
            return {"no_learner_is_where_the_updates_end": 1}
        return books | self._forgotten()

    # --- joiners ---

    @property
    def _exact(self) -> bool:
        """Whether the ledger foretells each example: only events of its own move the clocks."""
        run = self._run
        far = all(abs(wrong.off_s) > FAR_S for wrong in run.wrong)
        return far and not run.schedule.live and (run.schedule.log_times or self._outnumbered())

    def _outnumbered(self) -> bool:
        """Whether events of wrong clocks were the fewer all along: else a log without times believes them."""
        counts: dict[int, Counter[bool]] = defaultdict(Counter)
        for record in fresh_records(self._archive, EVENTS):
            seen = counts[record.partition]
            if seen.total() < START_EVENTS and record.key not in NO_EVENTS:
                seen[record.key.startswith(WRONG.encode())] += 1
                if seen[True] > seen[False] > 0:
                    return False
        return all(seen[True] < seen[False] for seen in counts.values())

    def _examples(self) -> dict[str, int]:
        """The examples and dead letters against the ledger, or a joiner to whom nothing happens."""
        run, ledger = self._run, self._run.ledger
        books = {}
        if self._exact:
            named = {e.request_id for e in ledger.examples if self._names_forgotten(e)}
            expected = Counter(tell(e) for e in ledger.examples if e.request_id not in named)
            found = Counter(
                tell(e)
                for e in examples_in(self._archive)
                if e.request_id not in named and not e.request_id.startswith(WRONG)
            )
            books |= difference("examples", expected, found)
        if self._exact and not run.wrong and not run.schedule.forgets and not run.schedule.small:
            buried = Counter(ledger.buried) + Counter(name.encode() for name in ledger.misfits)
            books |= difference("letters", buried, Counter(letters_in(self._archive)))
        if not self._exact or run.schedule.forgets or self._rng.random() < 0.2:
            books |= self._plain_joiner()
        return books

    def _plain_joiner(self) -> dict[str, int]:
        """The examples against those of one joiner that takes the same events, each partition in turn."""
        run = self._run
        log = run.archive.log(EVENTS)
        partitions = run.schedule.partitions
        log.create_topic(EXAMPLES, partitions)
        log.create_topic(DEAD_LETTERS, 1)
        ends = run.log.committed("join", EVENTS)
        with RoleState(Path("plain"), "joiner", {}, disk=MemoryDisk()) as state:
            joiner = Joiner(state, self._config.join)
            runner = Runner(log, state, joiner, Subscription(EVENTS, "plain", commits_offsets=False)).open()
            runner.follow([JournalStretch(p, 0, end)] for p, end in sorted(ends.items()) if end)
        off = 0
        for topic in (EXAMPLES, DEAD_LETTERS):
            expected, found = _sent(log, topic), _sent(self._archive, topic)
            off += sum(((expected - found) + (found - expected)).values())
        return {"plain_joiner_off": off}

    def _names_forgotten(self, example: Example) -> bool:
        names = self._run.forgets.names
        return names(example.context) or any(names(candidate) for candidate in example.candidates)

    # --- learners and followers ---

    def _learner(
        self, learner: Learner, journal: list[list[JournalStretch]], follower: Follower, first: bool
    ) -> dict[str, int]:
        run = self._run
        books = {"follower_rows_off": differences(follower.model, learner)}
        for kept in run.replicas.values():
            off = differences(kept[0].model, learner)
            books["server_rows_off"] = books.get("server_rows_off", 0) + off
        learner.finish()
        # the slots of rows that were evicted are freed in the steps that follow
        books["table_rows_over"] = sum(
            max(len(table) - table.spec.rows_max * 9 // 8, 0) for table in learner.model.tables
        )
        if not first:
            return {"learners_off": int(learner.digest() != self._digest), **books}
        self._digest = learner.digest()
        if not run.schedule.small:
            books |= self._sightings(learner, journal)
        if self._begins(journal):  # all states and snapshots were damaged, and it has begun anew
            self.happened["learner that began anew"] += 1
            books["began_anew_without_damage"] = int(not run.troubles.hurt_ever)
        elif self._exact and not run.wrong and not run.schedule.forgets:
            books |= run.ledger.totals(learner)
        return books | {"replay_off": int(self._replay(journal) != self._digest)}

    def _replay(self, journal: list[list[JournalStretch]]) -> str:
        """The digest of a learner that takes the same records in their order, cut into other commits."""
        config = self._config
        fingerprint = Learner.fingerprint(config.features, config.learn)
        with RoleState(Path("again"), "learner", fingerprint, disk=MemoryDisk()) as state:
            commit = state.begin()
            for partition, offset in self._begins(journal).items():
                commit.set_offset(EXAMPLES, partition, offset)
            state.commit(commit)
            again = Learner(config.features, config.learn, state)
            again.leads = False
            topic = Subscription(EXAMPLES, "again", commits_offsets=False)
            runner = Runner(self._archive, state, again, topic, config.runner).open()
            at_once = self._rng.choice((5, 40, 1_000))
            for first in range(0, len(journal), at_once):
                runner.take_stretches([t for taken in journal[first : first + at_once] for t in taken])
            again.finish()
            return again.digest()

    def _begins(self, journal: list[list[JournalStretch]]) -> dict[int, int]:
        """Where a journal begins behind the front of a partition, which the log had dropped."""
        begins: dict[int, int] = {}
        for taken in (t for commit in journal for t in commit):
            begins.setdefault(taken.partition, taken.start)
        return {partition: offset for partition, offset in begins.items() if offset}

    def _sightings(self, learner: Learner, journal: list[list[JournalStretch]]) -> dict[str, int]:
        """How often each id was seen since it was forgotten, against what the tables say."""
        encoder = learner.model.encoder
        names = encoder.names
        expected: list[Counter[int]] = [Counter() for _ in names]
        for found in self._learned(journal):
            if isinstance(found, Forget):
                for name, ids in found.entity.items():
                    for value in ids:
                        expected[names.index(name)].pop(key_of(value), None)
                continue
            if found.before is not None:
                continue  # a correction: it was seen when it was learned first
            try:
                rows = encoder.encode([found]).rows
            except FeatureError:
                continue  # a dead letter
            for column, key in zip(rows.column.tolist(), rows.key.tolist(), strict=True):
                if column < len(names):
                    expected[column][key] += 1
        lost = double = 0
        for counts, table in zip(expected, learner.model.tables, strict=False):
            held, slots = table.items()
            there = Counter(dict(zip(held.tolist(), table.counts(slots).tolist(), strict=True)))
            lost += (counts - there).total()
            double += (there - counts).total()
        return {"sightings_lost": lost, "sightings_double": double}

    def _learned(self, journal: list[list[JournalStretch]]) -> Iterator[Example | Forget]:
        """What a learner has taken, in its order."""
        decode = Decoder(Example, Forget).decode
        fresh = {(r.partition, r.offset): r.value for r in fresh_records(self._archive, EXAMPLES)}
        refusals = Refusals()
        for taken in (t for commit in journal for t in commit):
            for offset in range(taken.start, taken.end):
                value = fresh.get((taken.partition, offset))
                if value is None:
                    continue
                found: Example | Forget = decode(value)
                if isinstance(found, Forget):
                    refusals.add(found)
                    yield found
                elif (admitted := refusals.admit(found)) is not None:
                    yield admitted

    # --- what was answered ---

    def _answers(self) -> dict[str, int]:
        """Each answer against a model that takes the updates one by one."""
        if not self._run.answers:
            return {}
        asked: dict[str, list[Answer]] = defaultdict(list)
        between = 0
        for answer in self._run.answers:
            asked[answer.scored.version].append(answer)
            between += answer.scored.version not in (answer.before, answer.after)
        witness = _Witness(Model(self._config.features, self._config.learn), asked)
        log = self._run.archive.log(UPDATES)
        log.create_topic(SNAPSHOTS, 1)
        witness.check()
        witness.start(log)
        while witness.poll(log):
            pass
        self.happened["answers"] += len(self._run.answers)
        return {
            "answers_off": witness.off,
            "answers_of_no_update": sum(map(len, asked.values())),
            "answers_not_between": between,
        }

    # --- what was forgotten ---

    def _forget_aside(self) -> None:
        """What the manual tells people to remove themselves."""
        for process in self._run.roles:
            self._run.disk.remove(Path(process.name) / "db.aside")

    def _forgotten(self) -> dict[str, int]:
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

    def _named_since(self, last: dict[int, list[Any]], name: bytes, value: int | str) -> bool:
        """Whether an event names an id behind the last request to forget it, or it was not taken."""
        text = msgspec.msgpack.encode(value)
        if isinstance(value, int):
            return True  # a small integer is in many bytes
        for records in last.values():
            places = [i for i, record in enumerate(records) if name in record.value]
            if not places or any(text in r.value and name not in r.value for r in records[places[-1] :]):
                return True
        return False

    def _folders_with(self, feature: str, value: int | str) -> int:
        run = self._run
        text, key = msgspec.msgpack.encode(value), key_of(value).to_bytes(8, "little")
        if not self._pieces:
            for name in (*(process.name for process in run.roles), str(SHARED)):
                if name not in run.troubles.restored:  # from a copy of an operator's
                    self._pieces[name] = set(run.disk.pieces(Path(name)))
            self._all_pieces = set().union(*self._pieces.values())
        holding = {piece for piece in self._all_pieces if text in piece or key in piece}
        found = [name for name, pieces in self._pieces.items() if not pieces.isdisjoint(holding)]
        self.happened += Counter(f"{name} holds {feature} {value!r}" for name in found)
        return len(found)


class _Witness(Follower):
    """Takes the updates one by one, and gives at each the answers that were given there."""

    def __init__(self, model: Model, asked: dict[str, list[Answer]]) -> None:
        super().__init__(model)
        self.off = 0
        self._asked = asked

    def check(self) -> None:
        """Give the answers of this update."""
        for answer in self._asked.pop(self.model.version, ()):
            batch = self.model.encoder.encode([answer.request])
            right = self.model.predict(batch).p.tolist() == answer.scored.base
            if not answer.corrected:
                right &= answer.scored.corrected == answer.scored.base
            right &= all(0.0 <= p <= 1.0 for p in answer.scored.corrected)
            self.off += not right

    def _note(self, last: Update) -> None:
        super()._note(last)
        self.check()


def _sent(log: Log, topic: str) -> Counter[tuple[int, str, int, bytes]]:
    """What joiners have sent to a topic, each record once."""
    return Counter(
        (record.partition, record.producer, record.seq, record.value)
        for record in fresh_records(log, topic)
        if record.producer.startswith("joiner")
    )


def differences(mine: Model, learner: Learner) -> int:
    """Rows and arrays in which a copy that serves differs from the learner that it follows."""
    theirs, wrong = learner.model, 0
    for copy, table in zip(mine.tables, theirs.tables, strict=True):
        keys, _ = table.items(int(learner.trainer.clock))
        expected, _ = table.export_serving(keys)
        found, there = copy.export(keys)
        wrong += int((~((found == expected).all(axis=1) & there)).sum())
        swept_later, _ = table.items()  # rows that have expired or been evicted, and are still there
        wrong += len(set(copy.items()[0].tolist()) - set(swept_later.tolist()))
    for name, array in theirs.arrays().items():
        wrong += int(np.sum(mine.arrays()[name] != array))
    return wrong
