"""Members of a group over a log in memory, with a clock that the test drives."""

import math
import time

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.clock import ManualClock
from stream.errors import GroupError, LogAwayError
from stream.group.membership import GroupSettings, Leader, Member
from stream.group.signs import Beat, Claim, Note, read_sign
from stream.log.base import ROLES, Log, Outgoing, Record
from stream.log.testing import Faults, FaultyLog, MemoryLog

SLOW = GroupSettings(beat_s=1.0, timeout_s=3600.0)


@pytest.fixture
def log() -> Log:
    log = MemoryLog()
    log.create_topic(ROLES, 1)
    return log


def member(log: Log, name: str, seed: int = 0) -> Member:
    made = Member(log, "join", name, SLOW, ManualClock(seed))
    made.join()
    return made


def say(log: Log, value: bytes) -> None:
    log.append(ROLES, [Outgoing(b"join", value, 0)])


def test_member_that_leaves_is_gone_at_once_and_not_after_the_timeout(log: Log) -> None:
    a, b = member(log, "a", 1), member(log, "b", 2)
    a.look()
    assert a.names == ["a", "b"]
    b.leave()
    a.look()
    assert a.names == ["a"]


def test_who_was_gone_for_others_is_gone_for_a_new_member_at_once(log: Log) -> None:
    brief = GroupSettings(beat_s=1.0, timeout_s=6.0)

    def joined(name: str, seed: int) -> Member:
        made = Member(log, "join", name, brief, ManualClock(seed))
        made.join()
        return made

    dead, alive = joined("dead", 1), joined("alive", 2)
    for _ in range(4):
        alive.beat()
    assert joined("early", 3).names == ["alive", "dead", "early"], "five beats came after its last one"
    alive.beat()
    late = joined("late", 4)
    assert late.names == ["alive", "early", "late"]
    dead.beat()
    late.look()
    assert late.names == ["alive", "dead", "early", "late"], "it was only slow"
    for _ in range(10):
        alive.beat()
    late.look()
    assert "dead" in late.names, "a member that is there goes by its own beats"


def test_beats_come_as_often_as_configured(log: Log) -> None:
    clock = ManualClock()
    one = Member(log, "join", "a", SLOW, clock)
    one.join()
    for _ in range(100):
        clock.advance(0.1)
        one.turn()
        one.pulse()
    beats = log.ends(ROLES)[0][1]
    assert 10 <= beats <= 11


def test_member_whose_loop_stands_still_beats_no_more(log: Log) -> None:
    clock = ManualClock()
    one = Member(log, "join", "a", SLOW, clock)
    one.join()
    for _ in range(200):
        clock.advance(1.0)
        one.pulse()
    assert log.ends(ROLES)[0][1] < 70


def test_each_time_that_the_group_is_away_is_told_once(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    faulty, clock = FaultyLog(log, seed=0, faults=Faults()), ManualClock()
    one = Member(faulty, "join", "a", SLOW, clock)
    one.join()

    def pulses(away: bool) -> list[str]:
        caplog.clear()
        faulty.faults = Faults(append_lost=float(away))
        with caplog.at_level("INFO"):
            for _ in range(3):
                clock.advance(1.0)
                one.turn()
                one.pulse()
        return [record.message.partition(":")[0] for record in caplog.records]

    for _ in range(2):
        assert pulses(away=True) == ["member a cannot reach its group"]
        assert pulses(away=False) == ["member a reaches its group again"]


def test_claim_of_which_no_answer_came_does_not_leave_the_group_without_a_leader(log: Log) -> None:
    faulty = FaultyLog(log, seed=0, faults=Faults())
    one = Member(faulty, "learn", "a", SLOW, ManualClock())
    one.join()
    one.able(True)
    one.beat()
    one.look()
    assert one.vacant()
    for _ in range(20):
        faulty.faults = Faults(append_in_doubt=1.0)
        with pytest.raises(LogAwayError):
            one.claim()
        faulty.faults = Faults()
        one.look()
        assert one.vacant(), "whether the claim is in the log or not, it leads in no term"
        if one.leader is not None:
            break
    assert one.leader is not None and one.leader.incarnation == one.incarnation, "the claim is in the log"
    term = one.claim()
    assert one.leads(term) and not one.vacant()
    one.resign()
    assert one.vacant(), "it may lead again"


def test_claim_that_is_taken_and_not_read_back_is_made_again(
    monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    one = Member(log, "learn", "a", SLOW, ManualClock())
    one.join()
    one.able(True)
    one.beat()

    def fail(*_: object) -> None:
        raise LogAwayError("away")

    monkeypatch.setattr(log, "ends", fail)
    with pytest.raises(LogAwayError):
        one.claim()
    monkeypatch.undo()
    one.look()
    assert one.leader is not None and one.vacant(), "the claim is there, and nobody leads in its term"
    term = one.claim()
    one.look()
    assert one.leads(term) and not one.vacant()


def test_look_goes_on_behind_offsets_without_records(log: Log) -> None:
    assert isinstance(log, MemoryLog)
    one = member(log, "a")
    log.skip(ROLES, 0, 3)
    one.look()
    other = member(log, "b", 2)
    one.look()
    other.look()
    assert one.names == other.names == ["a", "b"]


def test_thread_that_dies_ends_its_role(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    with Member(log, "join", "a", GroupSettings(beat_s=0.05, timeout_s=1.0)) as one:

        def fail(*_: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(log, "ends", fail)
        with pytest.raises(ZeroDivisionError, match="a defect"):
            for _ in range(24_000):
                one.turn()
                time.sleep(0.01)
        monkeypatch.undo()


def test_second_process_under_a_name_ends_the_first(log: Log) -> None:
    first = member(log, "a", 1)
    member(log, "a", 2)
    first.look()
    with pytest.raises(GroupError, match="own --name"):
        first.turn()


@pytest.mark.parametrize(
    "bad",
    [
        Beat(group="join", name="x" * 101, incarnation="l", number=0),
        Beat(group="join", name="", incarnation="l", number=0),
        Beat(group="join", name="x", incarnation="l" * 65, number=0),
        Beat(group="join", name="x", incarnation="l", number=-1),
        Beat(group="join", name="x", incarnation="l", number=1 << 63),
        Beat(group="join", name="x", incarnation="l", number=0, leading=1 << 63),
        Beat(group="join", name="x", incarnation="l", number=0, notes=[Note(-1, 0, 0, 0.0)]),
        Beat(group="join", name="x", incarnation="l", number=0, notes=[Note(1 << 40, 0, 0, 0.0)]),
        Beat(group="join", name="x", incarnation="l", number=0, notes=[Note(0, 1 << 63, 0, 0.0)]),
        Beat(group="join", name="x", incarnation="l", number=0, notes=[Note(0, 0, -1, 0.0)]),
        Beat(group="join", name="x", incarnation="l", number=0, notes=[Note(0, 0, 0, math.nan)]),
        Beat(group="join", name="x", incarnation="l", number=0, notes=[Note(0, 0, 0, math.inf)]),
        Claim("join", "x" * 101, "l"),
    ],
)
def test_sign_beyond_its_bounds_is_none(log: Log, bad: Beat | Claim) -> None:
    one = member(log, "a")
    say(log, msgspec.msgpack.encode(bad))
    one.look()
    assert one.names == ["a"] and one.leader is None


@pytest.mark.parametrize(
    "value",
    [
        msgspec.msgpack.encode({"type": "beat", "group": "join", "name": "ann", "life": "l", "number": 0})
        .replace(b"ann", b"a\xff\xfe"),
        b"\x81" + msgspec.msgpack.encode("other") + b"\x91" * 100_000 + b"\xc0",
    ],
    ids=["no UTF-8", "nested deeply"],
)  # fmt: skip
def test_sign_of_bytes_that_are_no_text_or_nested_deeply_ends_no_member(log: Log, value: bytes) -> None:
    one = member(log, "a")
    say(log, value)
    one.look()
    assert one.names == ["a"]
    assert member(log, "b", 1).names == ["a", "b"], "nor one that begins behind it"


def test_beat_cannot_claim_a_term_that_is_still_to_come(log: Log) -> None:
    one = member(log, "a")
    say(log, msgspec.msgpack.encode(Beat("join", "x", "l", 0, leading=1 << 40)))
    one.look()
    assert one.leader is None
    term = one.claim()
    assert one.leader == Leader(term, "a", one.incarnation)


def test_members_known_at_a_time_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.group.membership.PEERS_MAX", 5)
    one = member(log, "z")
    for number in range(50):
        say(log, msgspec.msgpack.encode(Beat("join", f"n{number:02}", "l", 0)))
    one.look()
    assert len(one.names) == 5 and "z" in one.names


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=many(120), deadline=None)
@given(
    st.binary(max_size=200)
    | _plain.map(msgspec.msgpack.encode)
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["beat", "claim"]), "group": st.just("join")},
        optional=dict.fromkeys(
            ("name", "life", "number", "able", "leading", "notes", "leaving", "told"), _plain
        ),
    ).map(msgspec.msgpack.encode)
)
def test_no_record_of_the_topic_ends_a_member(value: bytes) -> None:
    read_sign(Record(ROLES, 0, 0, b"", value))
    log = MemoryLog()
    log.create_topic(ROLES, 1)
    one = member(log, "a")
    say(log, value)
    one.look()
    one.turn()
    one.note(0)
    assert "a" in one.names
