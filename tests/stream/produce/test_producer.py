"""The producer over a real log: one that is there, one that is locked, one that answers in doubt."""

import contextlib
import random
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import patient
from waiting import wait_until

from stream import Action, Impression, JoinSettings, Producer, ProducerSettings
from stream.errors import BufferFullError, LogError, ProducerError, RecordError, UndeliveredError
from stream.join.joiner import Joiner
from stream.limits import RECORD_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing, Record, partition_of
from stream.log.open import open_log
from stream.log.settings import KafkaSettings, LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Event, Exposure
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

PARTITIONS = 2
QUICK = LogSettings(sync=False, busy_timeout_s=0.05)
decode = Decoder[Event](Impression, Action, Exposure).decode


class Doubtful(SqliteLog):
    """A log that fails now and then, as `fails` says: "before" it has appended, or "after", or not ("")."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, QUICK)
        self.fails: Callable[[], str] = lambda: ""
        self.appends = 0

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        if topic != EVENTS:
            return super().append(topic, records)
        how = self.fails()
        if how == "before":
            raise LogError("not now")
        places = super().append(topic, records)
        self.appends += 1
        if how == "after":
            raise LogError("no answer came")
        return places


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Doubtful]:
    log = Doubtful(tmp_path / "log.db")
    for topic in (EVENTS, EXAMPLES):
        log.create_topic(topic, PARTITIONS)
    log.create_topic(DEAD_LETTERS, 1)
    yield log
    log.close()


@pytest.fixture
def locked(log: Doubtful) -> Iterator[Callable[[bool], None]]:
    """Lock the log's file, as a backup or a stuck process would; no append gets through."""
    other = sqlite3.connect(log.path, isolation_level=None, check_same_thread=False)
    yield lambda on: other.execute("BEGIN IMMEDIATE" if on else "ROLLBACK") and None
    other.close()


def messages(log: SqliteLog) -> list[Record]:
    return [record for p in range(PARTITIONS) for record in log.read(EVENTS, p, 0, max_records=100_000)]


def arrived(log: SqliteLog) -> list[Event]:
    return [decode(event) for message in messages(log) for event in split_batch(message.value)]


def test_impressions_and_actions_arrive_in_their_partition_and_order(log: Doubtful) -> None:
    before = time.time()
    with Producer(log, name="web") as producer:
        ids = [
            producer.impression([{"item": i}, {"item": 2 * i}], context={"user": "ann"}) for i in range(50)
        ]
        producer.impression([{}], request_id="mine", time_s=1e9, labels=[1.0])
        for request_id in ids:
            producer.action(request_id, 1, name="buy")
        producer.flush()
        assert (producer.acknowledged, producer.waiting, producer.failed) == (101, 0, 0)
    found = arrived(log)
    assert len(set(ids)) == 50
    for request_id in ids:
        shown, done = (event for event in found if event.request_id == request_id)
        assert isinstance(shown, Impression) and shown.context == {"user": "ann"}
        assert isinstance(done, Action) and (done.candidate, done.label, done.name) == (1, 1.0, "buy")
        assert before <= shown.time <= done.time <= time.time()
    assert Impression("mine", 1e9, [{}], labels=[1.0]) in found


def test_events_are_appended_together(log: Doubtful) -> None:
    with Producer(log, settings=ProducerSettings(linger_s=3600.0, batch_max=100)) as producer:
        for i in range(1000):
            producer.action(f"r{i}", 0)
    assert len(arrived(log)) == 1000
    assert log.appends == 10
    assert len(messages(log)) == 10 * PARTITIONS


def test_events_travel_alone_where_asked(log: Doubtful) -> None:
    with Producer(log, settings=ProducerSettings(linger_s=3600.0, pack=False)) as producer:
        for i in range(100):
            producer.action(f"r{i}", 0)
    assert log.appends == 1
    assert len(messages(log)) == len(arrived(log)) == 100


def test_message_is_never_larger_than_a_record_may_be(log: Doubtful) -> None:
    settings = ProducerSettings(linger_s=3600.0, batch_max=1000, batch_bytes_max=64 << 20)
    with Producer(log, settings=settings) as producer:
        for i in range(60):
            producer.impression([{str(k): "x" * 1000 for k in range(100)}], request_id=f"r{i}")
    assert log.appends == 1
    assert [event.request_id for event in sorted(arrived(log), key=lambda e: int(e.request_id[1:]))] == [
        f"r{i}" for i in range(60)
    ]
    sizes = [len(message.value) for message in messages(log)]
    assert len(sizes) < 12 and max(sizes) <= RECORD_BYTES_MAX


def test_flush_and_acks_do_not_wait_for_linger(log: Doubtful) -> None:
    linger_s = 3600.0  # longer than a test may take
    with Producer(log, settings=ProducerSettings(linger_s=linger_s)) as producer:
        producer.action("r", 0)
        producer.flush()
    with Producer(log, settings=ProducerSettings(linger_s=linger_s, acks="each")) as producer:
        producer.action("r", 1)
        assert producer.acknowledged == 1


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda p: p.impression([]), "candidates has 0 entries"),
        (lambda p: p.impression([{}], time_s=1.7e12), "milliseconds"),
        (lambda p: p.impression([{}], labels=[1.0, 0.0]), "labels has 2 entries for 1"),
        (lambda p: p.action("", 0), "request_id must have"),
        (lambda p: p.action("r", -1), "candidate is -1"),
        (lambda p: p.impression([{str(i): "x" * 1024 for i in range(128)}] * 10), "more than the 1,048,576"),
    ],
)
def test_event_of_no_use_is_refused_at_the_call(
    log: Doubtful, call: Callable[[Producer], object], reason: str
) -> None:
    with Producer(log) as producer, pytest.raises(RecordError, match=reason):
        call(producer)
    assert arrived(log) == []


def test_log_that_is_away_is_waited_for(log: Doubtful, locked: Callable[[bool], None]) -> None:
    locked(True)
    with Producer(log) as producer:
        for i in range(100):
            producer.action(f"r{i}", 0)

        def refused() -> bool:  # the first attempt may not have ended
            with pytest.raises(UndeliveredError, match="has not confirmed 100 events") as told:
                producer.flush(timeout_s=0.5)
            return bool(re.search("and it refuses: .*lock", str(told.value)))

        wait_until(refused)
        locked(False)
        producer.flush()
        assert producer.acknowledged == 100
    assert len(arrived(log)) == 100


@pytest.mark.parametrize("when_full", ["wait", "raise", "drop"])
def test_full_buffer_does_what_is_configured(
    log: Doubtful, locked: Callable[[bool], None], when_full: Any
) -> None:
    # where nothing is waited for, a wait would last longer than a test may
    full_wait_s = 0.3 if when_full == "wait" else 3600.0
    settings = ProducerSettings(buffer_max=10, when_full=when_full, full_wait_s=full_wait_s)
    with Producer(log, settings=settings) as producer:
        locked(True)
        for i in range(10):
            producer.action(f"r{i}", 0)
        began = time.monotonic()
        if when_full == "drop":
            producer.action("one too many", 0)
            assert producer.dropped == 1
        else:
            with pytest.raises(BufferFullError, match=r"10 events .* this one was not taken"):
                producer.action("one too many", 0)
            assert when_full == "raise" or time.monotonic() - began >= full_wait_s
        locked(False)
        producer.flush()
        producer.action("again", 0)
    assert {event.request_id for event in arrived(log)} == {f"r{i}" for i in range(10)} | {"again"}


def test_call_that_waits_for_room_goes_on_when_there_is_some(
    log: Doubtful, locked: Callable[[bool], None]
) -> None:
    with Producer(log, settings=ProducerSettings(buffer_bytes_max=200)) as producer:
        locked(True)
        opener = threading.Timer(0.3, locked, [False])
        opener.start()
        producer.action("a" * 100, 0)
        for i in range(20):
            producer.action(f"{i}" + "b" * 100, 0)
        opener.join()
    assert len(arrived(log)) == 21


def test_events_given_up_are_handed_back_and_told(log: Doubtful) -> None:
    log.fails = lambda: "before"
    handed: list[Event] = []
    settings = ProducerSettings(give_up_s=0.2)
    with Producer(log, settings=settings, on_failed=lambda events, _: handed.extend(events)) as producer:
        producer.action("lost", 0)
        with pytest.raises(UndeliveredError, match=r"1 events were given up so far.*not now"):
            producer.flush()
        assert [event.request_id for event in handed] == ["lost"]
        log.fails = lambda: ""
        producer.action("kept", 0)
        producer.flush()  # told once
        assert (producer.acknowledged, producer.failed) == (1, 1)
    assert [event.request_id for event in arrived(log)] == ["kept"]


def test_close_gives_up_after_its_time_and_says_so(log: Doubtful) -> None:
    log.fails = lambda: "before"
    producer = Producer(log, settings=ProducerSettings(batch_max=10, give_up_s=3600.0))
    for i in range(25):
        producer.action(f"r{i}", 0)
    with pytest.raises(UndeliveredError, match="25 events were given up"):
        producer.close(timeout_s=0.2)
    with pytest.raises(ProducerError, match="closed"):
        producer.action("r", 0)
    producer.close()


def test_error_of_the_body_is_the_one_that_is_raised(log: Doubtful) -> None:
    log.fails = lambda: "before"
    with (
        pytest.raises(KeyError, match="mine"),
        Producer(log, settings=ProducerSettings(give_up_s=0.0)) as producer,
    ):
        producer.action("r", 0)
        raise KeyError("mine")


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_the_log_answers_each_event_counts_once(
    tmp_path: Path, log: Doubtful, seed: int, pack: bool
) -> None:
    chance = random.Random(seed)
    log.fails = lambda: chance.choice(["", "", "before", "after"])
    settings = ProducerSettings(batch_max=7, linger_s=0.0, pack=pack)
    with Producer(log, settings=settings) as producer:
        for i in range(100):
            producer.impression([{"item": 1}, {"item": 2}], request_id=f"r{i}", time_s=1e9 + i)
            producer.action(f"r{i}", 1, time_s=1e9 + i)
            if chance.random() < 0.1:
                producer.flush()
    assert len(arrived(log)) > 200, "nothing was sent twice: the test shows nothing"
    with RoleState(tmp_path / "state", "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings(decide="first_action"))
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
        assert (joiner.counts.examples, joiner.counts.positives) == (100, 100)
        # sent twice is recognised by number, before anything looks at what is in it
        assert joiner.counts.duplicate_impressions == joiner.counts.duplicate_actions == 0
        assert runner.progress.duplicates == len(messages(log)) - len({m.seq for m in messages(log)})


def test_threads_share_a_producer(log: Doubtful) -> None:
    with Producer(log, settings=ProducerSettings(buffer_max=50, batch_max=20)) as producer:

        def work(name: str) -> None:
            for i in range(200):
                producer.action("one request", i, name=name)

        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [event for event in arrived(log) if isinstance(event, Action)]
    for n in range(4):
        assert [event.candidate for event in found if event.name == f"t{n}"] == list(range(200))


def test_topic_must_be_there_unless_its_partitions_are_said(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'new.db'}"
    with pytest.raises(LogError, match="no topic 'events'"):
        Producer(url)
    with Producer(url, partitions=3) as producer:
        producer.action("r", 0)
    with pytest.raises(LogError, match="has 3 partitions, not 4"):
        Producer(url, partitions=4)
    with contextlib.closing(SqliteLog(tmp_path / "new.db")) as log:
        assert sum(end for _, end in log.ends(EVENTS)) == 1


def test_two_producers_of_one_name_are_told_apart(log: Doubtful) -> None:
    with Producer(log, name="web") as one, Producer(log, name="web") as two:
        assert one.name != two.name
        assert one.name.startswith("web-")


@pytest.mark.process
def test_producer_from_before_a_fork_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from stream import Producer\n"
        "producer = Producer(sys.argv[1], partitions=1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        producer.action('r', 0)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "producer.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, f"sqlite:{tmp_path / 'log.db'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("ProducerError this producer was made before the process forked")


@pytest.mark.process
def test_events_arrive_in_kafka_too_as_few_messages(kafka_broker: str, kafka_prefix: str) -> None:
    url = f"kafka://{kafka_broker}/{kafka_prefix}"
    with (
        contextlib.closing(open_log(url, patient())) as opened,
        Producer(opened, partitions=3, settings=ProducerSettings(linger_s=3600.0)) as producer,
    ):
        for i in range(500):
            producer.action(f"r{i}", i)
    with contextlib.closing(open_log(url)) as log:
        found = [log.read(EVENTS, p, 0) for p in range(3)]
        assert [len(records) for records in found] == [1, 1, 1]
        for partition, (message,) in enumerate(found):
            events = [decode(event) for event in split_batch(message.value)]
            assert {partition_of(event.request_id.encode(), 3) for event in events} == {partition}
            assert [event.candidate for event in events] == sorted(event.candidate for event in events)


def test_kafka_that_does_not_answer_is_a_clear_error() -> None:
    with socket.socket() as listener:  # bound, and listens to nobody
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        settings = LogSettings(kafka=KafkaSettings(away_after_s=0.5))
        with pytest.raises(LogError, match=str(port)):
            Producer(open_log(f"kafka://127.0.0.1:{port}", settings))


def test_producer_sends_what_was_shown(log: Doubtful) -> None:
    with Producer(log) as producer:
        asked = producer.impression([{"item": 1}, {"item": 2}], time_s=1e9, shown=[1])
        producer.exposure(asked, [1, 0], examined=1, time_s=1e9)
        producer.exposure(asked, np.array([0]), time_s=1e9)  # type: ignore[arg-type]
        for wrong in ({"shown": [0, 0]}, {"shown": [-1]}, {"examined": -1}, {}):
            with pytest.raises(RecordError):
                producer.exposure(asked, **wrong)  # type: ignore[arg-type]
        with pytest.raises(RecordError, match="holds candidate 2; expected 0 to 1"):
            producer.impression([{}, {}], shown=[2])
    impression, *exposures = arrived(log)
    assert isinstance(impression, Impression) and impression.shown == [1]
    assert exposures == [Exposure(asked, 1e9, [1, 0], 1), Exposure(asked, 1e9, [0])]
