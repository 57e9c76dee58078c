"""The logs for tests: what `FaultyLog` may do and what it may not, and a simulated clock for `MemoryLog`."""

import threading
from pathlib import Path

import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.clock import ManualClock
from stream.errors import LogAwayError, LogError
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing, Record
from stream.log.settings import LogSettings
from stream.log.testing import Faults, FaultyLog, MemoryLog
from stream.records.types import Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

TROUBLE = Faults(
    append_lost=0.1, append_in_doubt=0.15, append_late=0.1, repeat=0.1, away=0.03, away_calls_max=5,
    short_read=0.3, delay=0.1, delay_s_max=0.0,
)  # fmt: skip


def patiently_append(log: FaultyLog, topic: str, records: list[Outgoing]) -> None:
    for _ in range(1000):
        try:
            log.append(topic, records)
            return
        except LogAwayError:
            continue
    raise AssertionError("the log never took it")


def everything(log: MemoryLog, topic: str) -> list[list[Record]]:
    return [log.read(topic, p, 0, 10**6, 1 << 40) for p in range(log.partitions(topic))]


def run(seed: int, faults: Faults) -> tuple[list[list[Record]], list[tuple[int, bool]]]:
    """What is in a log after thirty appends that each are sent until they are taken; and the acknowledged."""
    memory = MemoryLog(clock=ManualClock())
    memory.create_topic("t", 2)
    log = FaultyLog(memory, seed, faults)
    tried = []
    for i in range(30):
        records = [Outgoing(b"", b"%d" % i, p, f"p{p}", i * 5 + j) for j in range(5) for p in (0, 1)]
        while True:
            try:
                log.append("t", records)
                tried.append((i, True))
                break
            except LogAwayError:
                tried.append((i, False))
    log.settle()
    return everything(memory, "t"), tried


@settings(max_examples=many(24), deadline=None)
@given(st.integers(0, 2**32))
def test_numbered_records_sent_until_taken_are_each_there_once_for_a_reader_that_drops_repeats(
    seed: int,
) -> None:
    found, tried = run(seed, TROUBLE)
    assert sum(taken for _, taken in tried) == 30
    for records in found:
        newest, taken = -1, []
        for record in records:
            if record.seq > newest:
                taken.append(record.seq)
                newest = record.seq
        assert taken == list(range(150)), "a record came before one that was sent earlier"


def test_same_seed_brings_the_same_faults() -> None:
    assert run(7, TROUBLE) == run(7, TROUBLE)
    assert run(7, TROUBLE) != run(8, TROUBLE)


@pytest.mark.parametrize("name", ["append_lost", "append_in_doubt", "append_late", "repeat", "away"])
def test_each_fault_happens_and_is_counted(name: str) -> None:
    memory = MemoryLog()
    memory.create_topic("t", 1)
    log = FaultyLog(memory, 3, Faults(**{name: 0.5}))
    sent = [Outgoing(b"", b"%d" % i, 0, "p", i) for i in range(3)]
    for _ in range(20):
        try:
            log.append("t", sent)
        except LogAwayError:
            continue
    assert log.happened[name] > 0
    log.settle()
    log.append("t", sent)


def test_late_records_come_behind_others_at_last() -> None:
    memory = MemoryLog()
    memory.create_topic("t", 1)
    log = FaultyLog(memory, 1, Faults(append_late=1.0, late_calls_max=50))
    with pytest.raises(LogAwayError, match="append_late"):
        log.append("t", [Outgoing(b"", b"%d" % i) for i in range(100)])
    assert memory.ends("t") == [(0, 0)]
    memory.append("t", [Outgoing(b"", b"other")])
    log.settle()
    found = [record.value for record in memory.read("t", 0, 0)]
    assert found[0] == b"other" and found[1:] == [b"%d" % i for i in range(len(found) - 1)]
    assert 1 < len(found) <= 101


def test_rate_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="away is 2; expected 0 to 1"):
        Faults(away=2)


def test_joiner_over_a_faulty_log_loses_and_doubles_nothing(tmp_path: Path) -> None:
    memory = MemoryLog()
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        memory.create_topic(topic, 1)
    log = FaultyLog(memory, 11, TROUBLE)
    for i in range(200):
        event = Impression(f"r{i}", 1_700_000_000.0 + i, [{"item": i}], labels=[float(i % 2)])
        patiently_append(log, EVENTS, [Outgoing(b"k", encode(event), None, "p", i)])
    limits = RunnerSettings(read_max=7, commit_records_max=20, wait_s=0.01)
    with RoleState(tmp_path / "state", "joiner", {}, sync=False) as state:
        runner: Runner | None = None
        stop = threading.Event()
        while runner is None or len(log.happened) < 6 or runner.position(0) < memory.ends(EVENTS)[0][1]:
            try:
                runner = (
                    runner
                    or Runner(
                        log, state, Joiner(state, JoinSettings()), Subscription(EVENTS, "join"), limits
                    ).open()
                )
                runner.turn(stop)
            except LogAwayError:
                continue
        log.settle()
        runner.turn(stop)
        runner.end()
    (records,) = everything(memory, EXAMPLES)
    taken, newest = [], -1
    for record in records:
        if record.seq > newest:
            taken.append(record.key)
            newest = record.seq
    assert taken == [b"r%d" % i for i in range(200)]
    assert len(log.happened) > 5


def test_memory_log_takes_a_simulated_clock() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"x")])
    clock.advance(3.0)
    log.append("t", [Outgoing(b"", b"x")])
    first, second = log.read("t", 0, 0)
    assert second.ingest_ms - first.ingest_ms == 3_000
    began_s = clock.now_s()
    assert log.read("t", 0, 2, wait_s=5.0) == []
    assert clock.now_s() - began_s == pytest.approx(5.0)


def test_memory_log_drops_what_is_too_old_and_nothing_else() -> None:
    clock = ManualClock()
    log = MemoryLog(LogSettings(retain_s={"*": 10.0}, retain_bytes={}), clock=clock)
    log.create_topic("t", 1)
    for _ in range(4):
        log.append("t", [Outgoing(b"", b"x")])
        clock.advance(4.0)
    log.enforce_retention()
    assert log.ends("t") == [(2, 4)], "those of 16 and 12 s ago are gone, those of 8 and 4 s are not"


def test_one_offset_is_left_out_where_no_number_is_said() -> None:
    log = MemoryLog()
    log.create_topic("t", 1)
    log.skip("t", 0)
    assert log.append("t", [Outgoing(b"", b"a")]) == [(0, 1)]


def test_offsets_left_out_have_no_record_and_no_reader_waits_for_them() -> None:
    log = MemoryLog()
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"a")])
    log.skip("t", 0, 2)
    assert log.ends("t") == [(0, 3)], "nobody has looked yet"
    assert log.read("t", 0, 1) == [] and log.ends("t") == [(0, 1)]
    log.append("t", [Outgoing(b"", b"b"), Outgoing(b"", b"c")])
    assert [(r.offset, r.value) for r in log.read("t", 0, 1)] == [(3, b"b"), (4, b"c")]
    log.drop("t", 0, [0, 3])
    assert [r.offset for r in log.read("t", 0, 0)] == [4] and log.ends("t") == [(0, 5)]
    log.trim("t", 0, 4)
    assert [r.offset for r in log.read("t", 0, 0)] == [4] and log.ends("t") == [(4, 5)]
    log.trim("t", 0, 9)
    assert log.read("t", 0, 0) == [] and log.ends("t") == [(5, 5)]
    for call in (lambda: log.drop("t", 1, [0]), lambda: log.skip("t", 1, 1), lambda: log.trim("t", 1, 1)):
        with pytest.raises(LogError, match="partition"):
            call()


def test_read_counts_bytes_from_its_own_begin_behind_what_is_gone() -> None:
    log = MemoryLog()
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"x" * size) for size in (50, 10, 10, 40, 10, 10)])
    log.trim("t", 0, 1)
    log.drop("t", 0, [3])
    log.append("t", [Outgoing(b"", b"x" * 10)])
    assert [r.offset for r in log.read("t", 0, 0, max_bytes=30)] == [1, 2, 4]
    assert [r.offset for r in log.read("t", 0, 4, max_bytes=29)] == [4, 5]
    assert [r.offset for r in log.read("t", 0, 6, max_bytes=1)] == [6], "one record at least"


def test_log_without_times_gives_those_of_the_producers() -> None:
    clock = ManualClock(start_s=50.0)
    log = MemoryLog(clock=clock, notes_times=False)
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", b"a")])
    (record,) = log.connect().read("t", 0, 0)
    assert (record.ingest_ms, record.created_ms) == (0, 50_000)


def test_uneven_read_leaves_partitions_out_but_never_all() -> None:
    memory = MemoryLog()
    memory.create_topic("t", 3)
    memory.append("t", [Outgoing(b"", b"%d" % p, p) for p in range(3)])
    log = FaultyLog(memory, 1, Faults(uneven=1.0))
    seen = [tuple(log.read_any("t", dict.fromkeys(range(3), 0))) for _ in range(50)]
    assert {len(found) for found in seen} == {1, 2} and len(set(seen)) > 3
    assert log.read("t", 1, 0), "a read of one partition is complete"
