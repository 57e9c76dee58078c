"""Dead letters: complete, never lost, and sent again just once."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from patience import patient

from stream.errors import DeadLetterError, LogError
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log, Outgoing
from stream.log.open import open_log
from stream.log.settings import LogSettings
from stream.records.decoding import Decoder
from stream.records.types import DeadLetter, Impression, encode, encode_json
from stream.run.contract import Subscription
from stream.run.dead_letters import DeadLetters, LetterFilter
from stream.run.runner import Runner
from stream.state.role_state import RoleState


class Failing:
    """A log that refuses an append ("before") or loses its answer ("after") where `fails` says so."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.fails: Callable[[str], str] = lambda topic: ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        how = self.fails(topic)
        if how == "before":
            raise LogError("refused")
        places = self._log.append(topic, records)
        if how == "after":
            raise LogError("no answer came")
        return places


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.process)])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Failing]:
    if request.param == "sqlite":
        opened = open_log(f"sqlite:{tmp_path / 'log.db'}", LogSettings(sync=False))
    else:
        broker, prefix = (request.getfixturevalue(name) for name in ("kafka_broker", "kafka_prefix"))
        opened = open_log(f"kafka://{broker}/{prefix}", patient())
    for topic, partitions in ((EVENTS, 2), (EXAMPLES, 2), (DEAD_LETTERS, 1)):
        opened.create_topic(topic, partitions)
    yield Failing(opened)
    opened.close()


def join(log: Failing, folder: Path, **options: float) -> tuple[Joiner, Runner]:
    """Let a joiner, on the state in `folder`, take all there is; it is closed again."""
    with RoleState(folder, "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings(**options))  # type: ignore[arg-type]
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
        return joiner, runner


def labelled(name: str, time: float = 4e9) -> Impression:
    return Impression(name, time, [{"item": 1}], labels=[1.0])


def append(log: Failing, *values: bytes, partition: int = 1) -> None:
    log.append(EVENTS, [Outgoing(b"key", value, partition) for value in values])


def test_letter_carries_all_there_is_to_know(log: Failing, tmp_path: Path) -> None:
    original = bytes(range(256))
    append(log, encode(labelled("a", 1e9)), original)
    join(log, tmp_path / "state")
    (record,) = log.read(DEAD_LETTERS, 0, 0)
    letter = Decoder(DeadLetter).decode(record.value)
    assert letter.original == original and letter.key == b"key"
    assert (letter.stage, letter.topic, letter.partition, letter.offset) == ("joiner", EVENTS, 1, 1)
    assert "neither JSON nor MessagePack" in letter.reason


@pytest.mark.parametrize("how", ["before", "after"])
def test_input_offset_moves_only_when_letters_are_acknowledged(
    log: Failing, tmp_path: Path, how: str
) -> None:
    append(log, b"bad")
    log.fails = lambda topic: how if topic == DEAD_LETTERS else ""
    for _ in range(2):
        with pytest.raises(LogError):
            join(log, tmp_path / "state")
        assert log.committed("join", EVENTS) == {}
    log.fails = lambda topic: ""
    join(log, tmp_path / "state")
    assert log.committed("join", EVENTS)[1] == 1
    assert len({(r.producer, r.seq) for r in log.read(DEAD_LETTERS, 0, 0)}) == 1


def test_letters_are_found_by_stage_reason_and_time(log: Failing, tmp_path: Path) -> None:
    append(log, b"bad", encode_json(labelled("a")), b"", partition=0)
    join(log, tmp_path / "state")
    log.append(DEAD_LETTERS, [Outgoing(b"", encode(DeadLetter("odd", "learner", EXAMPLES, 0, 9, b"?")))])
    log.append(DEAD_LETTERS, [Outgoing(b"", b"something else")])
    letters = DeadLetters(log)
    everything = letters.newest(LetterFilter(), 10)
    assert [found.offset for found in everything.letters] == [0, 1, 2, 3]
    assert everything.by_stage == {"joiner": 3, "learner": 1}
    assert [found.offset for found in letters.newest(LetterFilter(), 2).letters] == [2, 3]
    assert (
        letters.select(LetterFilter(stage="learner")) == letters.select(LetterFilter(topic=EXAMPLES)) == [3]
    )
    assert letters.select(LetterFilter(reason="MAX_AHEAD_S")) == [1]
    at = everything.letters[1].buried_ms
    assert letters.select(LetterFilter(end_ms=at)) == [
        found.offset for found in everything.letters if found.buried_ms < at
    ]
    assert 1 in letters.select(LetterFilter(begin_ms=at, end_ms=at + 1))
    assert letters.get(1).letter.reason == everything.letters[1].letter.reason
    for offset in (-1, 4, 5):
        with pytest.raises(DeadLetterError, match=f"no dead letter at offset {offset}"):
            letters.get(offset)


def test_letter_sent_again_is_taken_and_a_second_time_is_left_alone(log: Failing, tmp_path: Path) -> None:
    append(log, encode(labelled("a")), encode(labelled("b")))
    joiner, _ = join(log, tmp_path / "state", max_ahead_s=1.0)
    assert joiner.counts.examples == 0
    letters = DeadLetters(log)
    done = letters.retry([0])
    assert (done.sent, done.before) == ({EVENTS: 1}, [])
    assert log.read(EVENTS, 1, 2)[0].key == b"key"
    done = letters.retry([0, 1])
    assert (done.sent, done.before) == ({EVENTS: 1}, [0])
    joiner, runner = join(log, tmp_path / "state", max_ahead_s=1e12)
    assert (joiner.counts.examples, runner.progress.records) == (2, 2)
    assert [found.sent_again for found in letters.newest(LetterFilter(), 9).letters] == [1, 1]
    done = letters.retry([0], again=True)
    assert (done.sent, done.before) == ({EVENTS: 1}, [])
    assert letters.get(0).sent_again == 2
    joiner, runner = join(log, tmp_path / "state", max_ahead_s=1e12)
    assert (joiner.counts.duplicate_impressions, runner.progress.records) == (1, 1)


def test_nothing_is_sent_when_one_of_the_letters_is_not_there(log: Failing, tmp_path: Path) -> None:
    append(log, b"bad")
    join(log, tmp_path / "state")
    with pytest.raises(DeadLetterError, match="offset 7"):
        DeadLetters(log).retry([0, 7])
    assert log.ends(EVENTS) == [(0, 0), (0, 1)] and log.ends(DEAD_LETTERS) == [(0, 1)]


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_retry_that_breaks_off_is_finished_and_each_letter_arrives_once(
    log: Failing, tmp_path: Path, step: int, how: str
) -> None:
    """Its appends are: the note, the originals, the note that they are sent."""
    append(log, *[encode(labelled(f"r{i}")) for i in range(5)])
    join(log, tmp_path / "state", max_ahead_s=1.0)
    steps = iter(range(99))
    log.fails = lambda topic: how if next(steps) == step else ""
    with pytest.raises(LogError):
        DeadLetters(log).retry([0, 1, 2])
    log.fails = lambda topic: ""
    done = DeadLetters(log).retry([2, 3])
    assert done.finished == (0 if (step, how) in ((0, "before"), (2, "after")) else 1)
    joiner, _ = join(log, tmp_path / "state", max_ahead_s=1e12)
    expected = {"r2", "r3"} if (step, how) == (0, "before") else {"r0", "r1", "r2", "r3"}
    examples = [r.key.decode() for r in log.read(EXAMPLES, 1, 0)]
    assert sorted(examples) == sorted(expected)
    assert joiner.counts.duplicate_impressions == 0


def test_two_people_at_once_send_each_letter_once(log: Failing, tmp_path: Path) -> None:
    append(log, *[encode(labelled(f"r{i}")) for i in range(250)])
    join(log, tmp_path / "state", max_ahead_s=1.0)
    errors: list[Exception] = []

    def retry() -> None:
        try:
            DeadLetters(log).retry(range(250))
        except Exception as error:
            errors.append(error)

    people = [threading.Thread(target=retry) for _ in range(3)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert not errors
    joiner, _ = join(log, tmp_path / "state", max_ahead_s=1e12)
    assert joiner.counts.examples == 250
    assert joiner.counts.duplicate_impressions == 0
