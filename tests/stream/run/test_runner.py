"""The runner: real logs and states, and a real joiner process killed in the middle of its work."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from waiting import wait_until

from stream.errors import LogAwayError, LogError, StateError
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log, Outgoing, Record
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.log.testing import MemoryLog
from stream.records.decoding import Decoder
from stream.records.types import Action, Example, Impression, encode
from stream.run.contract import Handler, RunnerSettings, Subscription
from stream.run.runner import TAKE_RECORDS_MAX, Runner
from stream.state.journal import JournalStretch, read_journal
from stream.state.role_state import Commit, RoleState

EAGER = RunnerSettings(commit_every_s=0.0)


class Chain(Handler):
    """A handler whose state depends on every record and their order over all partitions."""

    def __init__(self, state: RoleState) -> None:
        saved = (state.get(b"chain") or b"0 0").split()
        self.value, self.count = int(saved[0]), int(saved[1])

    def handle(self, records: Sequence[Record], commit: Commit) -> None:
        for record in records:
            self.value = (self.value * 31 + hash((record.partition, int(record.value)))) % (1 << 61)
            self.count += 1
            commit.emit("out", Outgoing(b"", record.value, 0, "chain", self.count))

    def flush(self, commit: Commit) -> None:
        commit.put(b"chain", b"%d %d" % (self.value, self.count))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False))
    log.create_topic("in", 3)
    log.create_topic("out", 1)
    yield log
    log.close()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[RoleState]:
    with RoleState(tmp_path / "state", "chain", {}, sync=False) as state:
        yield state


def numbers(begin: int, end: int, partition: int | None = 0, producer: str = "") -> list[Outgoing]:
    return [
        Outgoing(b"%d" % i, b"%d" % i, partition, producer, i if producer else -1) for i in range(begin, end)
    ]


def sent(log: SqliteLog) -> list[int]:
    return [int(record.value) for record in log.read("out", 0, 0, 100_000)]


class Impatient(threading.Event):
    """Set once it has been looked at `looks` times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return super().is_set() or self.looks < 0


def test_loop_reports_after_each_turn_and_commits_at_its_end(log: SqliteLog, state: RoleState) -> None:
    log.append("in", numbers(0, 10))
    settings = RunnerSettings(commit_every_s=60.0, wait_s=0.0)
    runner = Runner(log, state, Chain(state), Subscription("in", "group"), settings).open()
    seen: list[int] = []
    runner.run(Impatient(40), lambda: seen.append(runner.progress.records))
    assert seen and seen[-1] == 10 and len(seen) >= 3
    assert sorted(sent(log)) == [*range(10)] and runner.progress.commits == 1


def test_records_are_handled_committed_and_sent(log: SqliteLog, state: RoleState) -> None:
    log.append("in", numbers(0, 10))
    runner = Runner(log, state, Chain(state), Subscription("in", "group"), EAGER).open()
    assert runner.step() == 10 and runner.step() == 0
    assert sent(log) == list(range(10))
    assert state.offset("in", 0) == 10 and state.unsent() == []
    assert log.committed("group", "in") == {0: 10, 1: 0, 2: 0}
    done = runner.progress
    assert (done.records, done.commits, done.sent, done.lag_records) == (10, 1, 10, 0)
    assert done.newest_ingest_ms > 0


def test_run_stops_after_committing_what_it_took(log: SqliteLog, state: RoleState) -> None:
    runner = Runner(
        log, state, Chain(state), Subscription("in", "g"), RunnerSettings(commit_every_s=1000.0)
    ).open()
    stop = threading.Event()
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    log.append("in", numbers(0, 50, None))
    wait_until(lambda: runner.progress.records >= 50)
    assert sent(log) == [], "not due for commit yet"
    stop.set()
    thread.join()
    assert sorted(sent(log)) == list(range(50)) and runner.progress.commits == 1


def test_commit_comes_in_time_though_records_keep_coming(log: SqliteLog, state: RoleState) -> None:
    runner = Runner(
        log, state, Chain(state), Subscription("in", "g"), RunnerSettings(commit_every_s=0.05)
    ).open()
    stop = threading.Event()
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    log.append("in", numbers(0, 1))
    assert len(log.read("out", 0, 0, wait_s=60.0)) == 1
    stop.set()
    thread.join()


def test_commit_comes_early_when_the_handler_is_full(log: SqliteLog, state: RoleState) -> None:
    """After each piece that is handed over, in one read too: a commit holds a bounded change."""

    class Bounded(Chain):
        def full(self) -> bool:
            committed = int((state.get(b"chain") or b"0 0").split()[1])
            return self.count - committed >= 2 * TAKE_RECORDS_MAX

    handler = Bounded(state)
    settings = RunnerSettings(commit_every_s=1000.0)
    runner = Runner(log, state, handler, Subscription("in", "g"), settings).open()
    log.append("in", numbers(0, 5 * TAKE_RECORDS_MAX))
    assert runner.step() == 5 * TAKE_RECORDS_MAX
    assert runner.progress.commits == 2 and len(sent(log)) == 4 * TAKE_RECORDS_MAX


def test_repeated_sequence_numbers_are_dropped_also_after_a_restart(log: SqliteLog, state: RoleState) -> None:
    log.append(
        "in", [*numbers(0, 5, 0, "p"), *numbers(2, 7, 0, "p"), *numbers(0, 2, 1, "p"), *numbers(0, 2, 0, "q")]
    )
    runner = Runner(log, state, Chain(state), Subscription("in", "g"), EAGER).open()
    runner.step()
    assert runner.progress.duplicates == 3 and sorted(sent(log)) == sorted([*range(7), 0, 1, 0, 1])
    log.append("in", [*numbers(5, 9, 0, "p"), *numbers(0, 3, 0)])
    runner = Runner(log, state, Chain(state), Subscription("in", "g"), EAGER).open()
    runner.step()
    assert runner.progress.duplicates == 2 and sent(log)[-5:] == [7, 8, 0, 1, 2]


def test_only_so_many_producers_are_remembered_and_the_stalest_goes(log: SqliteLog, state: RoleState) -> None:
    settings = RunnerSettings(commit_every_s=0.0, producers_max=2)
    log.append("in", [Outgoing(b"", b"1", 0, name, 5) for name in ("a", "b", "a2", "b")])
    Runner(log, state, Chain(state), Subscription("in", "g"), settings).open().step()
    log.append("in", [Outgoing(b"", b"2", 0, name, 5) for name in ("b", "a2", "a")])
    runner = Runner(log, state, Chain(state), Subscription("in", "g"), settings).open()
    runner.step()
    assert runner.progress.duplicates == 2, "a is forgotten, a2 and b are not"


def test_unsent_outputs_are_sent_first_and_unchanged(log: SqliteLog, state: RoleState) -> None:
    commit = state.begin()
    commit.emit("out", Outgoing(b"k", b"41", 0, "chain", 3))
    commit.emit("out", Outgoing(b"k", b"42", 0, "chain", 4))
    state.commit(commit)
    Runner(log, state, Chain(state), Subscription("in", "g")).open()
    assert [(r.value, r.producer, r.seq) for r in log.read("out", 0, 0)] == [
        (b"41", "chain", 3),
        (b"42", "chain", 4),
    ]
    assert state.unsent() == []


def test_following_the_journal_arrives_at_the_same_state(
    log: SqliteLog, state: RoleState, tmp_path: Path
) -> None:
    runner = Runner(
        log, state, Chain(state), Subscription("in", "g"), RunnerSettings(commit_every_s=0.0, read_max=7)
    ).open()
    chance = random.Random(1)
    for i in range(0, 300, 10):
        log.append("in", [Outgoing(b"", b"%d" % j, chance.randrange(3)) for j in range(i, i + 10)])
        runner.step()
    while runner.step():
        pass
    journal = list(read_journal(state))
    assert sum(t.end - t.start for taken in journal for t in taken) == 300
    first_outputs = sent(log)
    with RoleState(tmp_path / "again", "chain", {}, sync=False) as again:
        Runner(log, again, Chain(again), Subscription("in", "g2"), RunnerSettings(read_max=3)).open().follow(
            journal
        )
        assert again.get(b"chain") == state.get(b"chain")
        assert list(read_journal(again)) == journal
        assert sent(log)[300:] == first_outputs
        with pytest.raises(LogError, match="the journal goes on at"):
            Runner(log, again, Chain(again), Subscription("in", "g2")).open().follow(journal)


class SlowLog(MemoryLog):
    """Needs some reads to bring what it holds, as a broker does that has much to do."""

    slow_reads = 0

    def read_any(self, *arguments: Any, **named: Any) -> dict[int, list[Record]]:
        if self.slow_reads:
            self.slow_reads -= 1
            return {}
        return super().read_any(*arguments, **named)


def test_following_a_journal_waits_for_a_slow_log_and_refuses_a_shorter_one(tmp_path: Path) -> None:
    """Whether the log has lost a record is told by its ends, not by how long a read takes."""
    log = SlowLog()
    log.create_topic("in", 1)
    log.create_topic("out", 1)
    log.append("in", [Outgoing(b"", b"%d" % i, 0) for i in range(4)])
    with RoleState(tmp_path / "state", "chain", {}, sync=False) as state:
        chain = Chain(state)
        runner = Runner(log, state, chain, Subscription("in", "g")).open()
        log.slow_reads = 1
        stretches = [JournalStretch(0, 0, 4)]
        with pytest.raises(LogAwayError, match="does not bring offset 0 of topic 'in'"):
            runner.take_stretches(stretches)
        runner.take_stretches(stretches)
        assert chain.count == 4
        log.slow_reads = 1
        with pytest.raises(LogError, match="does not hold offset 4") as ended:
            runner.take_stretches([JournalStretch(0, 4, 6)])
        assert not isinstance(ended.value, LogAwayError)


def test_journal_keeps_its_last_commits_and_is_refused_without_its_beginning(
    log: SqliteLog, state: RoleState
) -> None:
    log.append("in", numbers(0, 10))
    Runner(
        log, state, Chain(state), Subscription("in", "g"), RunnerSettings(commit_every_s=0.0, read_max=1)
    ).open().step()
    for i in range(10, 16):
        log.append("in", numbers(i, i + 1))
        limited = RunnerSettings(commit_every_s=0.0, read_max=1, journal_max=3)
        Runner(log, state, Chain(state), Subscription("in", "g"), limited).open().step()
    assert len(list(state.scan(b"journal/"))) == 3
    with pytest.raises(StateError, match=r"its journal begins at commit 4; .*journal_max"):
        list(read_journal(state))


def test_dropped_records_stop_the_role_or_are_skipped_and_counted(log: SqliteLog, state: RoleState) -> None:
    log.append("in", numbers(0, 10))
    Runner(log, state, Chain(state), Subscription("in", "g"), EAGER).open().step()
    log.append("in", numbers(10, 20))
    log.trim("in", 0, 15)
    with pytest.raises(LogError, match="dropped offsets 10 to 14"):
        Runner(log, state, Chain(state), Subscription("in", "g")).open()
    runner = Runner(
        log, state, Chain(state), Subscription("in", "g"), RunnerSettings(commit_every_s=0.0, on_gap="skip")
    ).open()
    runner.step()
    assert runner.progress.skipped == 5 and sent(log)[-5:] == list(range(15, 20))


def test_state_of_another_log_is_refused(state: RoleState, log: SqliteLog, tmp_path: Path) -> None:
    log.append("in", numbers(0, 10))
    Runner(log, state, Chain(state), Subscription("in", "g"), EAGER).open().step()
    other = SqliteLog(tmp_path / "other.db", LogSettings(sync=False))
    other.create_topic("in", 3)
    with pytest.raises(LogError, match="not the log that state"):
        Runner(other, state, Chain(state), Subscription("in", "g")).open()
    other.close()


def test_failing_handler_leaves_the_last_commit(log: SqliteLog, state: RoleState) -> None:
    log.append("in", [*numbers(0, 5), Outgoing(b"", b"boom", 0)])
    with pytest.raises(ValueError, match="boom"):
        Runner(log, state, Chain(state), Subscription("in", "g"), EAGER).open().step()
    assert state.offset("in", 0) is None and state.get(b"chain") is None and sent(log) == []


JOIN = """
import sys, threading, time
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import EVENTS
from stream.run.runner import Runner
from stream.run.contract import RunnerSettings, Subscription
from stream.log.sqlite.log import SqliteLog
from stream.state.role_state import RoleState
log = SqliteLog(sys.argv[1])
with RoleState(sys.argv[2], "joiner", {}) as state:
    joiner = Joiner(state, JoinSettings(window_s=20.0, pending_max_memory=20))
    settings = RunnerSettings(commit_every_s=0.002, read_max=8)
    stop = threading.Event()
    end = [e for _, e in log.ends(EVENTS)]
    def report():
        print(runner.progress.commits, flush=True)
        time.sleep(0.001)
        if all(state.offset(EVENTS, p) == e for p, e in enumerate(end)):
            stop.set()
    runner = Runner(log, state, joiner, Subscription(EVENTS, "joiner"), settings).open()
    if any(state.offset(EVENTS, p) != e for p, e in enumerate(end)):
        runner.run(stop, report)
print("done", flush=True)
"""


@pytest.mark.process
def test_kill_9_of_a_joiner_loses_no_example_and_doubles_none(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False))
    for topic in (EVENTS, EXAMPLES):
        log.create_topic(topic, 2)
    log.create_topic(DEAD_LETTERS, 1)
    n, t0 = 4000, 1_700_000_000.0
    chance = random.Random(7)
    events: list[Impression | Action] = []
    clicked: dict[str, int] = {}
    for i in range(n):
        name = f"r{i}"
        events.append(Impression(request_id=name, time=t0 + i, candidates=[{"item": j} for j in range(3)]))
        if i % 4 == 0:
            clicked[name] = chance.randrange(3)
            events.append(
                Action(request_id=name, time=t0 + i + chance.random() * 15, candidate=clicked[name])
            )
    events.sort(key=lambda event: event.time)
    log.append(EVENTS, [Outgoing(event.request_id.encode(), encode(event)) for event in events])
    for partition in range(2):  # closes all windows
        last = Impression(request_id=f"end{partition}", time=t0 + n + 100, candidates=[{}])
        log.append(EVENTS, [Outgoing(b"", encode(last), partition)])
    command = [sys.executable, "-c", JOIN, str(tmp_path / "log.db"), str(tmp_path / "state")]
    kills = 0
    for _ in range(60):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            limit = chance.randrange(1, 10) if kills < 6 else 10**9
            for lines, line in enumerate(child.stdout, 1):
                if line == "done\n":
                    break
                if lines == limit:
                    time.sleep(chance.random() * 0.01)  # somewhere between two commits
                    os.kill(child.pid, signal.SIGKILL)
                    break
            child.stdout.read()
            kills += child.wait() == -signal.SIGKILL
        if line == "done\n":
            break
    assert kills >= 4 and line == "done\n"
    decode = Decoder(Example).decode
    for partition in range(2):
        # a reader sees what a runner lets through: each sequence number once
        seqs: list[int] = []
        for record in log.read(EXAMPLES, partition, 0, 100_000):
            assert record.producer == f"joiner-{partition}"
            if not seqs or record.seq > seqs[-1]:
                seqs.append(record.seq)
                example = decode(record.value)
                expected = [float(clicked.get(example.request_id) == i) for i in range(3)]
                assert example.labels == expected
                clicked.pop(example.request_id, None)
                n -= 1
        assert len(seqs) > 1000
    assert n == 0 and clicked == {}
    assert log.ends(DEAD_LETTERS) == [(0, 0)]
    log.close()


def test_commit_comes_early_when_so_many_bytes_were_taken(log: SqliteLog, state: RoleState) -> None:
    settings = RunnerSettings(commit_every_s=1000.0, commit_bytes_max=8_000)
    runner = Runner(log, state, Chain(state), Subscription("in", "g"), settings).open()
    for i in range(7):
        log.append("in", [Outgoing(b"", b"%04000d" % i, 0)])
        runner.step()
    assert runner.progress.commits == 3 and runner.uncommitted == 1


def test_making_a_runner_does_not_talk_to_the_log(state: RoleState) -> None:
    class Away:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was called")

    Runner(cast(Log, Away()), state, Chain(state), Subscription("in", "g"))


def test_runner_rests_while_something_is_uncommitted(log: SqliteLog, state: RoleState) -> None:
    """It waits in the log's read until the commit is due, and does not ask again and again."""
    runner = Runner(
        log, state, Chain(state), Subscription("in", "g"), RunnerSettings(commit_every_s=0.5)
    ).open()
    log.append("in", numbers(0, 3))
    turns, stop = 0, threading.Event()
    while not runner.progress.commits:
        runner.turn(stop)
        turns += 1
    assert turns < 40
