"""Whoever looks at all groups sees how long ago each member was heard; no beat is newer than now."""

import pytest

from ground.clock import ManualClock
from stream.group import observer
from stream.group.membership import Member
from stream.group.observer import FORGET_S, Roll
from stream.group.signs import Beat, MemberStatus, send_beat
from stream.log.base import ROLES
from stream.log.testing import MemoryLog


def test_ages_of_members() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)
    log.create_topic(ROLES, 1)
    send_beat(log, Beat("serve", "old", "x", 0))
    clock.advance(30.0)
    send_beat(log, Beat("serve", "new", "x", 0))
    roll = Roll(log, clock)
    roll.look()
    assert {member.name: clock.now_s() - member.at_s for member in roll.members} == {"new": 0.0, "old": 30.0}

    behind = ManualClock(start_s=clock.now_s() - 500.0)
    ahead = Roll(log, behind)
    ahead.look()
    assert {behind.now_s() - member.at_s for member in ahead.members} == {0.0}, "the log's clock is ahead"

    send_beat(log, Beat("serve", "live", "x", 0))
    clock.advance(5.0)
    roll.look()
    assert next(clock.now_s() - one.at_s for one in roll.members if one.name == "live") == 0.0
    clock.advance(FORGET_S - 35.0)
    roll.look()
    assert [member.name for member in roll.members] == ["live", "new", "old"]
    clock.advance(0.5)
    roll.look()
    assert [member.name for member in roll.members] == ["live", "new"]


def test_only_so_many_records_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "LOOK_BACK", 2)
    clock = ManualClock()
    log = MemoryLog(clock=clock)
    log.create_topic(ROLES, 1)
    for name in "abcd":
        send_beat(log, Beat("serve", name, "x", 0))
    roll = Roll(log, clock)
    roll.look()
    assert [member.name for member in roll.members] == ["c", "d"]


def test_member_is_seen_with_the_status_that_it_reports() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)
    log.create_topic(ROLES, 1)
    member, roll = Member(log, "serve", "a", clock=clock), Roll(log, clock)
    member.join()
    for status in (MemberStatus(numbers={"order": 1.0}), MemberStatus(numbers={"order": 2.0})):
        member.report(status)
        member.beat()
        roll.look()
        assert [one.status for one in roll.members] == [status]
