"""The end of a schedule: log, learners and servers against the ledger and plain replays."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import xxhash
from ledger import rising
from sim_clients import Answer
from sim_forgotten import ForgottenBooks
from sim_joined import JoinedBooks
from sim_learned import Journal, Learned, begins_of

from learner.errors import UpdateGapError
from learner.meta import KEY as META
from learner.meta import LearnerMeta
from learner.model.model import Model
from learner.role.learner import Learner
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.follower import Follower
from learner.updates.format import Update, decode_update
from learner.updates.snapshots import SnapshotReader, parts_of
from learner.updates.unsaid import unsaid_keys
from stream.errors import StateDamagedError
from stream.group.signs import Claim, read_sign
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import JournalStretch, read_journal
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

if TYPE_CHECKING:
    from sim_run import Run


EMPTY = msgspec.msgpack.encode(LearnerMeta(epoch=0))
"""Of a learner that has committed nothing."""


class Books:
    """Compares everything with everything, once a schedule has healed and all roles have stopped."""

    def __init__(self, run: "Run") -> None:
        self.happened: Counter[str] = Counter()
        self._run = run
        self._config = run.config
        self._archive = run.archive.log(EVENTS, EXAMPLES, UPDATES, DEAD_LETTERS, SNAPSHOTS)
        self._rng = random.Random(run.schedule.seed)
        self._learned = Learned(self._archive, run.config)
        self._blank = Model(run.config.features, run.config.learn, run.config.targets)
        self._epoch = 0  # of the first update that counts
        self._digest: dict[str, str] = {}  # of the first learner that was looked at

    def close(self) -> dict[str, int]:
        """What is off; each number must be 0."""
        run, config = self._run, self._config
        self._forget_aside()
        forgotten = ForgottenBooks(run)
        follower = Follower(self._blank)  # which an update replaces
        follower.start(run.log)
        while follower.poll(run.log) or (follower.behind and follower.poll(run.log)):
            pass
        joined = JoinedBooks(run, self._archive, self._rng)
        exact = joined.exact
        books = joined.close(exact) | self._answers() | self._numbers() | self._history(follower)
        fingerprint = Learner.fingerprint(config.features, config.learn, config.targets)
        self.happened += joined.happened
        compared = 0
        for process in run.roles:
            if not process.name.startswith("learn"):
                continue
            try:
                with RoleState(Path(process.name), "learner", fingerprint, disk=run.disk.connect()) as state:
                    meta = msgspec.msgpack.decode(state.get(META) or EMPTY, type=LearnerMeta)
                    if meta.seq != follower.seq:
                        ahead = meta.epoch == follower.model.epoch and meta.seq > follower.seq
                        books["ahead_of_the_updates"] = books.get("ahead_of_the_updates", 0) + int(ahead)
                        continue  # it stood by, and was stopped before it had followed to the end
                    learner = Learner(config.features, config.learn, state, config.targets)
                    journal = list(read_journal(state))
                    unsaid = [set(unsaid_keys(state, t).tolist()) for t in learner.model.table_names]
                    for name, off in self._learner(learner, journal, follower, exact, unsaid).items():
                        books[name] = books.get(name, 0) + off
                    compared += 1
            except StateDamagedError:
                if not run.troubles.hurt_ever:
                    raise
                self.happened["damage found by the books"] += 1
                compared = max(compared, 1)
        if not compared:
            return {"no_learner_is_where_the_updates_end": 1}
        books |= forgotten.close()
        self.happened += forgotten.happened
        return books

    # --- learners and followers ---

    def _learner(
        self, learner: Learner, journal: Journal, follower: Follower, exact: bool, unsaid: list[set[int]]
    ) -> dict[str, int]:
        run = self._run
        books = {"follower_rows_off": differences(follower.model, learner, unsaid)}
        for kept in run.replicas.values():
            off = differences(kept[0].model, learner, unsaid)
            books["server_rows_off"] = books.get("server_rows_off", 0) + off
        learner.finish()
        # the slots of rows that were evicted are freed in the steps that follow
        books["table_rows_over"] = sum(
            max(len(table) - table.spec.rows_max * 9 // 8, 0) for table in learner.model.tables
        )
        if self._digest:
            return {"learners_off": int(_digest(learner) != self._digest), **books}
        self._digest = _digest(learner)
        if self._misses_some(learner):
            self.happened["learner that began anew from a compacted log"] += 1
            return books | {"began_anew_without_damage": int(not run.troubles.hurt_ever)}
        if not run.schedule.small:
            books |= self._learned.sightings(journal, learner.model)
        if begins_of(journal):  # all states and snapshots were damaged, and it has begun anew
            self.happened["learner that began anew"] += 1
            books["began_anew_without_damage"] = int(not run.troubles.hurt_ever)
        elif exact and not run.wrong and not run.schedule.forgets:
            books |= run.ledger.totals(learner)
        again = self._replay(journal)
        return books | {name: int(again[name] != self._digest[name]) for name in again}

    def _replay(self, journal: Journal) -> dict[str, str]:
        """The digest of a learner that takes the same records in their order, cut into other commits."""
        config = self._config
        fingerprint = Learner.fingerprint(config.features, config.learn, config.targets)
        with RoleState(Path("again"), "learner", fingerprint, disk=MemoryDisk()) as state:
            commit = state.begin()
            for partition, offset in begins_of(journal).items():
                commit.set_offset(EXAMPLES, partition, offset)
            state.commit(commit)
            again = Learner(config.features, config.learn, state, config.targets)
            again.leads = False
            topic = Subscription(EXAMPLES, "again", commits_offsets=False)
            at_once = self._rng.choice((5, 40, 1_000))
            runner = Runner(self._archive, state, again, topic, config.runner).open()
            for first in range(0, len(journal), at_once):
                stretches = [t for taken in journal[first : first + at_once] for t in taken]
                runner.take_stretches(_joined(stretches))
            again.finish()
            return _digest(again)

    def _misses_some(self, learner: Learner) -> bool:
        """Whether it began anew, and the log may have dropped single examples by then."""
        return self._run.troubles.happened["examples compacted"] > 0 and learner.meta.epoch != self._epoch

    # --- what was published, and what was answered ---

    def _numbers(self) -> dict[str, int]:
        """Updates that a reader leaves out who drops repeats by their producers' numbers."""
        off = 0
        for topic in (UPDATES, SNAPSHOTS):
            sent = self._run.archive.sent(topic, 0)
            off += len({r.value for r in sent} - {r.value for r in rising(sent)})
        return {"updates_without_a_number": off, "older_models_loaded": self._older()}

    def _older(self) -> int:
        """How often a server has gone back, but to what a later leader made again that nobody could read."""
        back = [went for watch in self._run.watches for went in watch.back]
        terms: dict[tuple[int, int], set[int]] = defaultdict(set)  # by epoch and number
        for topic in (UPDATES, SNAPSHOTS) if back else ():
            for record in self._run.archive.sent(topic, 0):
                update = decode_update(record.value)
                terms[update.epoch, update.seq].add(update.term)
        return sum(max(terms[e, after]) <= min(terms[e, before]) for e, before, after in back)

    def _history(self, follower: Follower) -> dict[str, int]:
        """All updates that were ever sent, in order: none is missing, and they end where followers do."""
        chain, gaps = Chain(UpdatePosition()), 0
        for _, update in self._run.archive.updates():
            try:
                taken = chain.take(update)
                self._epoch = update.epoch if taken and not self._epoch else self._epoch
            except UpdateGapError:
                gaps += 1
                chain.jump(update.epoch, update.seq, update.term)
        elsewhere = (chain.epoch, chain.seq) != (follower.model.epoch, follower.seq)
        books = {"gaps_in_all_updates": gaps, "updates_end_elsewhere": int(elsewhere)}
        if chain.seq:
            signs = {record.offset: read_sign(record) for record in self._run.archive.records(ROLES, 0)}
            books["updates_of_nobody"] = int(not isinstance(signs.get(chain.made_in), Claim))
        return books

    def _answers(self) -> dict[str, int]:
        """Each answer against a model that takes the updates one by one."""
        if not self._run.answers:
            return {}
        asked: dict[str, list[Answer]] = defaultdict(list)
        between = 0
        for answer in self._run.answers:
            asked[answer.scored.version].append(answer)
            between += answer.scored.version not in (answer.before, answer.after)
        witness = _Witness(self._blank, asked)
        log = self._run.archive.log(UPDATES)
        log.create_topic(SNAPSHOTS, 1)
        witness.check()
        witness.start(log)
        while witness.poll(log):
            pass
        witness.look_again(self._archive)
        self.happened["answers"] += len(self._run.answers)
        return {
            "answers_off": witness.off,
            "answers_of_no_update": sum(map(len, asked.values())),
            "answers_not_between": between,
        }

    def _forget_aside(self) -> None:
        """What the manual tells people to remove themselves."""
        for process in self._run.roles:
            self._run.disk.remove(Path(process.name) / "db.aside")


class _Witness(Follower):
    """Takes the updates one by one, and gives at each the answers that were given there."""

    def __init__(self, model: Model, asked: dict[str, list[Answer]]) -> None:
        super().__init__(model)
        self._asked = asked
        self._wrong: dict[str, list[Answer]] = defaultdict(list)  # by version
        self._terms: dict[str, int] = {}  # in which each version was made that counts

    @property
    def off(self) -> int:
        """How many answers are wrong."""
        return sum(map(len, self._wrong.values()))

    def check(self) -> None:
        """Give the answers of this update."""
        version = self.model.version
        for answer in self._asked.pop(version, ()):
            batch = self.model.encoder.encode([answer.request])
            right = self.model.predict(batch).p.tolist() == answer.scored.base
            if not answer.corrected:
                right &= answer.scored.corrected == answer.scored.base
            right &= all(0.0 <= p <= 1.0 for p in answer.scored.corrected)
            if not right:
                self._wrong[version].append(answer)

    def look_again(self, log: Log) -> None:
        """Give what was wrong as of snapshots whose update nobody could read, so that a later leader made it
        again."""
        for snapshot in SnapshotReader().read(log):
            head = snapshot.head
            version = f"{head.epoch}-{head.seq}"
            if version in self._wrong and head.term < self._terms[version]:
                self._asked[version] = self._wrong.pop(version)
                self._begin(parts_of(snapshot, log), head)

    def _note(self, last: Update) -> None:
        super()._note(last)
        self._terms.setdefault(self.model.version, last.term)
        self.check()


def _joined(stretches: list[JournalStretch]) -> list[JournalStretch]:
    """The same records in the same order, and what lies behind one another in a partition at once."""
    joined: list[JournalStretch] = []
    for stretch in stretches:
        if joined and (joined[-1].partition, joined[-1].end) == (stretch.partition, stretch.start):
            stretch = JournalStretch(stretch.partition, joined.pop().start, stretch.end)
        joined.append(stretch)
    return joined


def _digest(learner: Learner) -> dict[str, str]:
    """A hash of everything that later results depend on, and one of the metrics: how many, and the newest."""
    hasher = xxhash.xxh3_128()
    for name, metrics in sorted(learner.saved_metrics.by_name.items()):
        summary = metrics.summary()
        hasher.update(f"{name} {metrics.examples} {summary['positives']} ".encode())
        hasher.update(metrics.state()["r"])
    return {"replay_off": learner.digest(), "replayed_metrics_off": hasher.hexdigest()}


def differences(mine: Model, learner: Learner, unsaid: Sequence[set[int]]) -> int:
    """Rows and arrays in which a copy that serves differs from a learner.

    Args:
        unsaid: by table, the keys whose rows a standby has freed before its leader: a copy has
            these, and otherwise the rows that the learner has, even if they have expired or were evicted.
    """
    theirs, wrong = learner.model, 0
    for copy, table, early in zip(mine.tables, theirs.tables, unsaid, strict=True):
        keys, _ = table.items(int(learner.trainer.clock))
        expected, _ = table.export_serving(keys)
        found, there = copy.export(keys)
        same = found.view(np.uint32) == expected.view(np.uint32)  # a history's words may read as NaN
        wrong += int((~(same.all(axis=1) & there)).sum())
        swept_later, _ = table.items()  # rows that have expired or been evicted, and are still there
        there_too = set(swept_later.tolist())
        wrong += len(set(copy.items()[0].tolist()) ^ (there_too | early)) + len(early & there_too)
    wrong += mine.entities.digest() != theirs.entities.digest()
    for name, array in theirs.arrays().items():
        wrong += int(np.sum(mine.arrays()[name] != array))
    return wrong
