"""Ingest over real logs and states: exactly once, in any cut, with restarts and several processes."""

import json
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.clock import ManualClock
from stream.errors import DeadLetterFloodError, LogAwayError
from stream.group.leavings import KEPT_S
from stream.group.membership import GroupSettings, Member
from stream.ingest.ingestor import Ingestor, producer_of
from stream.ingest.matcher import Matcher
from stream.ingest.pace import Pace
from stream.ingest.records import Seeking
from stream.ingest.share import PURGE_EVERY_S, Begin, ShareWork
from stream.ingest.two_logs import TwoLogs
from stream.ingest.waiting import Waiter, Waiters
from stream.ingest.ways import ways_of
from stream.join.joiner import Joiner
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, MATCHES, ROLES, Log, Outgoing
from stream.log.testing.memory import MemoryLog
from stream.records.decoding import Decoder
from stream.records.forgetting import forget_records
from stream.records.types import Action, DeadLetter, Forget, Impression
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.sources.formats import JsonFormat
from stream.sources.settings import IngestSettings, SourceSettings
from stream.state.repeats import Repeats
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

T = 1_700_000_000
SHOWN = msgspec.convert(
    {
        "topic": "shown", "kind": "impression", "request_id": "request", "time": {"field": "at", "unit": "s"},
        "candidates": "items", "context": {"user": "user"}, "features": {"item": "."}, "within_s": 60.0,
    },
    SourceSettings,
)  # fmt: skip
CLICKS = msgspec.convert(
    {
        "topic": "clicks", "kind": "action", "time": {"field": "at", "unit": "s"}, "match": {"item": "item"},
        "by": {"user": "user"}, "request_id": "request?", "within_s": 60.0, "wait_s": 30.0,
    },
    SourceSettings,
)  # fmt: skip
LINES = msgspec.structs.replace(SHOWN, candidates="", features={"item": "item"}, lines_wait_s=2.0)
SOURCES = {"shown": SHOWN, "clicks": CLICKS}


def shown(request: object, user: object, items: Sequence[object], at: float = T) -> dict[str, object]:
    return {"request": request, "user": user, "items": items, "at": at}


def click(user: object, item: object, at: float = T + 1, **more: object) -> dict[str, object]:
    return {"user": user, "item": item, "at": at, **more}


class World:
    """A log with topics of others and our own, and ingest on it, which a test restarts at will."""

    def __init__(self, folder: Path, settings: IngestSettings | None = None, partitions: int = 2) -> None:
        self.clock = ManualClock(start_s=T + 100.0)
        self.log: Log = MemoryLog(clock=self.clock)
        self.folder = folder
        self.disk = MemoryDisk()
        self.settings = settings or IngestSettings()
        for topic, count in (("shown", 2), ("clicks", 3), (EVENTS, partitions), (MATCHES, partitions)):
            self.log.create_topic(topic, count)
        self.log.create_topic(DEAD_LETTERS, 1)
        self.states: list[RoleState] = []

    def send(self, topic: str, *records: object, partition: int | None = None) -> None:
        rows = [
            Outgoing(str(i).encode(), r if isinstance(r, bytes) else json.dumps(r).encode(), partition)
            for i, r in enumerate(records)
        ]
        self.log.append(topic, rows)

    def runner(
        self, name: str, source: SourceSettings, folder: str = "", pace: Pace | None = None
    ) -> tuple[Runner, Ingestor]:
        state = RoleState(self.folder / f"{name}{folder}", "ingest", {}, disk=self.disk)
        self.states.append(state)
        ways = ways_of(SOURCES)
        ingestor = Ingestor(state, name, source, JsonFormat(), self.settings, ways, pace, self.clock)
        both = TwoLogs(self.log, self.log)
        runner = Runner(both, state, ingestor, Subscription(source.topic, name, commits_offsets=False), QUICK)
        return runner.open(), ingestor

    def matcher(
        self,
        folder: str = "matcher",
        begin: tuple[Begin, int] | None = None,
        pace: Pace | None = None,
    ) -> tuple[Runner, Matcher]:
        state = RoleState(self.folder / folder, "matcher", {}, disk=self.disk)
        self.states.append(state)
        matcher = Matcher(self.log, state, self.settings, 90.0, self.clock, pace)
        partitions = range(self.log.partitions(MATCHES))
        if begin is not None:
            for partition in partitions:
                matcher.begin_at(partition, *begin)
        runner = Runner(self.log, state, matcher, Subscription(MATCHES, "m", commits_offsets=False), QUICK)
        return runner.open(), matcher

    def close(self) -> None:
        while self.states:
            self.states.pop().close()

    def take(self, *names: str) -> None:
        """Ingest all that is there, by new processes."""
        for name in names or ("shown", "clicks", "matcher"):
            runner, _ = self.matcher() if name == "matcher" else self.runner(name, SOURCES[name])
            drain(runner)
        self.close()

    def events(self) -> list[Impression | Action]:
        """What a joiner takes, in order by partition."""
        decoder: Decoder[Impression | Action] = Decoder(Impression, Action)
        found = []
        for partition in range(self.log.partitions(EVENTS)):
            records = self.log.read(EVENTS, partition, 0, 100_000, 1 << 30)
            kept = [r for r in Repeats(10_000).leave_out(records) if r.key != b"forget"]
            found += [decoder.decode(r.value) for r in kept]
        return found

    def actions(self) -> list[tuple[str, int]]:
        return sorted((e.request_id, e.candidate) for e in self.events() if isinstance(e, Action))

    def letters(self) -> list[DeadLetter]:
        records = self.log.read(DEAD_LETTERS, 0, 0, 100_000, 1 << 30)
        return [msgspec.msgpack.decode(r.value, type=DeadLetter) for r in Repeats(10_000).leave_out(records)]


QUICK = RunnerSettings(commit_every_s=0.0, read_max=7)


def drain(runner: Runner) -> None:
    while runner.step():
        pass
    runner.commit()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.close()


def test_clicks_of_users_become_actions_of_their_requests(world: World) -> None:
    world.send("shown", *(shown(f"r{i}", i % 5, [i, i + 1], T + i) for i in range(50)))
    world.send("clicks", *(click(i % 5, i + 1, T + i + 2) for i in range(50)))
    world.take()
    assert world.actions() == sorted((f"r{i}", 1) for i in range(50))
    assert not world.letters()
    # replayed from its beginning, by processes without a state: nothing twice
    before = world.events()
    for name in ("shown", "clicks"):
        drain(world.runner(name, SOURCES[name], "again")[0])
    drain(world.matcher("again")[0])
    assert world.events() == before and len(before) == 100


def test_action_waits_for_its_impression_and_prefers_the_newest(world: World) -> None:
    world.send("clicks", click(1, 7, T + 5), click(2, 7, T + 5))
    world.take()  # an action source before any impression
    assert world.actions() == []
    world.send(
        "shown",
        shown("old", 1, [7], T - 80),
        shown("a", 1, [3, 7], T),
        shown("b", 1, [7], T + 2),
        partition=0,
    )
    world.take()
    assert world.actions() == [("a", 1)]  # it waited for the first that fits; "old" is beyond the window
    world.send("clicks", click(1, 7, T + 6))
    world.take()
    assert world.actions() == [("a", 1), ("b", 0)]
    world.send("clicks", click(1, 7, T + 0.5), click(1, 3, T + 7))  # before "b"; and only in "a"
    world.take()
    assert world.actions() == [("a", 0), ("a", 1), ("a", 1), ("b", 0)]


def test_action_with_a_request_id_needs_no_window(world: World) -> None:
    world.send("shown", shown("r", 1, [3, 7], T))
    world.send("clicks", click(None, 7, T + 80, request="r"), click(None, 9, T + 1, request="r"))
    world.take()
    assert world.actions() == [("r", 1)]


def test_action_without_impression_becomes_a_dead_letter_that_says_what_was_looked_for(world: World) -> None:
    world.send("clicks", click("ann", 7, T))
    world.take()
    world.send("shown", shown("r", "bob", [7], T + 20), shown("s", "ann", [8], T + 29))
    world.take()
    assert not world.letters()
    for user in range(8):  # the clock moves in every partition
        world.send("shown", shown(f"u{user}", user, [1], T + 90))
    world.take()
    (letter,) = world.letters()
    assert "no impression of user = 'ann' has a candidate with item = 7" in letter.reason
    assert letter.topic == MATCHES and "source clicks" in letter.reason


@pytest.mark.parametrize("away", [False, True])
def test_time_passes_in_quiet_partitions(world: World, away: bool) -> None:
    """But not while what an action waits for may be in a source that cannot be read."""
    world.send("clicks", click("ann", 7, T + 99))
    world.take("clicks")
    pace = Pace(10.0, world.clock)
    pace.set_away("shown", away)
    runner, matcher = world.matcher(pace=pace)
    for _ in range(20):
        drain(runner)
        world.clock.advance(16.0)
        matcher.between(runner)
    drain(runner)
    assert matcher.waiting == away and len(world.letters()) == (not away)


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_forgotten_is_looked_for_in_vain(world: World, restart: bool) -> None:
    """Through the joiner: a person, an item, and a person whose action waits."""
    world.send("shown", shown("a", "ann", [1, 2]), shown("b", "bob", [2, 3]), shown("c", "cat", [3, 4]))
    world.send("clicks", click("dan", 9))
    world.take("shown", "clicks")
    runner, matcher = world.matcher()
    drain(runner)
    if restart:
        world.close()
        runner, matcher = world.matcher()
    entity: dict[str, list[int | str]] = {"user": ["ann", "dan"], "item": [3]}
    world.log.append(EVENTS, forget_records(Forget("f", T, entity), 2))
    with RoleState(world.folder / "join", "joiner", {}, disk=world.disk) as joined:
        joiner = Joiner(joined, partitions=2, forget_to=[MATCHES])
        world.log.create_topic(EXAMPLES, 2)
        drain(Runner(world.log, joined, joiner, Subscription(EVENTS, "join"), QUICK).open())
    drain(runner)
    state = world.states[-1]
    held = b"".join(name + value for name, value in state.scan(b"match/"))
    assert b"ann" not in held and b"dan" not in held and b"bob" in held
    assert matcher.counts.forgotten == 1 and not matcher.waiting
    world.close()
    world.send("clicks", click("ann", 2), click("bob", 2), click("bob", 3), click("cat", 4))
    world.send("shown", shown("d", "dan", [9], T - 5))
    world.take()
    assert world.actions() == [("b", 0), ("c", 1)]


def test_what_another_matcher_has_is_soon_in_no_file_of_this_one(tmp_path: Path) -> None:
    """Requests to forget are for that other one; so is what lies before the place where this begins anew."""
    world = World(tmp_path, partitions=1)
    world.log.create_topic(ROLES, 1)
    folder, stop = tmp_path / "matcher", threading.Event()
    by_hand = GroupSettings(beat_s=60.0, timeout_s=180.0)  # beats when the test says so
    world.send("shown", shown("a", "ann", [1, 2]))
    world.send("clicks", click("dan", 9))
    world.take("shown", "clicks")
    runner, matcher = world.matcher()
    state = world.states[-1]
    member = Member(world.log, MATCHES, "b", by_hand, world.clock)
    work = ShareWork(world.log, state, matcher, runner, member, MATCHES, clock=world.clock)
    member.join()
    work.turn(stop)
    work.turn(stop)
    assert runner.partitions == {0} and world.disk.holds(folder, b"ann") and world.disk.holds(folder, b"dan")
    Member(world.log, MATCHES, "a", by_hand, world.clock).join()  # the first by name gets the only partition
    member.look()
    work.turn(stop)
    assert runner.partitions == set() and world.disk.holds(folder, b"ann"), "it may come back soon"
    world.clock.advance(KEPT_S)
    work.turn(stop)
    state.finish_purging()
    assert not world.disk.holds(folder, b"ann") and not world.disk.holds(folder, b"dan")
    assert not matcher.keeps(0)
    world.close()

    runner, matcher = world.matcher()
    drain(runner)
    assert world.disk.holds(folder, b"ann")
    end = world.log.ends(MATCHES)[0][1]
    matcher.begin_at(0, Begin(end), end)
    world.close()
    assert not world.disk.holds(folder, b"ann") and not world.disk.holds(folder, b"dan")


def test_what_a_source_has_sent_leaves_its_files_within_an_hour(world: World) -> None:
    world.log.create_topic(ROLES, 1)
    runner, ingestor = world.runner("shown", SHOWN)
    state, stop = world.states[-1], threading.Event()
    member = Member(world.log, "shown", "a", GroupSettings(), world.clock)
    work = ShareWork(world.log, state, ingestor, runner, member, "shown", clock=world.clock)
    member.join()
    work.turn(stop)
    state.finish_purging()
    world.send("shown", shown("a", "ann", [1, 2]))
    work.turn(stop)
    state.finish_purging()
    assert len(world.events()) == 1 and world.disk.holds(world.folder / "shown", b"ann")
    world.clock.advance(PURGE_EVERY_S)
    for _ in range(2):
        work.turn(stop)
        state.finish_purging()
    assert not world.disk.holds(world.folder / "shown", b"ann")
    purges = state.purges
    world.clock.advance(PURGE_EVERY_S)
    work.turn(stop)
    state.finish_purging()
    assert state.purges == purges, "nothing was sent since"


def test_source_that_begins_anew_takes_numbered_records_again(world: World) -> None:
    value = json.dumps(shown("a", "ann", [1, 2])).encode()
    world.log.append("shown", [Outgoing(b"a", value, 0, "theirs", 7)])
    runner, _ = world.runner("shown", SHOWN)
    drain(runner)
    world.close()
    state = RoleState(world.folder / "shown", "ingest", {}, disk=world.disk)
    Ingestor(state, "shown", SHOWN, JsonFormat(), world.settings, ways_of(SOURCES)).begin_at(0, Begin(0), 0)
    state.close()
    runner, _ = world.runner("shown", SHOWN)
    drain(runner)
    assert runner.progress.records == 1 and not runner.progress.duplicates


def test_settling_prefers_a_newer_impression_that_comes_later(world: World) -> None:
    sources = {**SOURCES, "clicks": msgspec.structs.replace(CLICKS, settle_s=5.0)}
    world.send("shown", shown("a", 1, [7], T))
    world.send("clicks", click(1, 7, T + 4))
    drain(world.runner("shown", SHOWN)[0])
    drain(world.runner("clicks", sources["clicks"])[0])
    runner, _ = world.matcher()
    drain(runner)
    assert world.actions() == []
    world.close()
    world.send("shown", shown("b", 1, [7], T + 3), shown("c", 1, [1], T + 20), partition=0)
    world.take()
    assert world.actions() == [("b", 0)]


def test_waiting_actions_stay_where_older_states_have_them() -> None:
    with RoleState("matcher", "matcher", {}, disk=MemoryDisk()) as state:
        waiters = Waiters(state, 3)
        seeking = Seeking("", T, {"item": 7}, 1.0, "", 60.0, 30.0, 0.0, "clicks", 1, 9)
        waiters.add(Waiter(258, b"key", seeking))
        commit = state.begin()
        waiters.flush(commit)
        state.commit(commit)
        assert [key for key, _ in state.scan()] == [b"match/waiting/" + b"\0\0\0\3" + b"\0\0\0\0\0\0\1\2"]
        assert Waiters(state, 3).of_key(b"key") == [Waiter(258, b"key", seeking)]
        assert len(Waiters(state, 2)) == 0


def test_waiting_actions_are_limited(tmp_path: Path) -> None:
    world = World(tmp_path, IngestSettings(waiting_max=3), partitions=1)
    world.send("clicks", *(click(i, 7, T) for i in range(10)), partition=0)
    drain(world.runner("clicks", CLICKS)[0])
    runner, matcher = world.matcher()
    drain(runner)
    assert (matcher.waiting, matcher.counts.early, len(world.letters())) == (3, 7, 7)
    world.close()


@pytest.mark.slow
@given(st.integers(0, 1 << 32))
@settings(max_examples=many(12), deadline=None)
def test_any_cut_restart_and_takeover_gives_the_same_events(seed: int) -> None:
    """Records come in pieces, processes end at any commit and others go on: always what one gives at once."""
    random_ = random.Random(seed)
    pieces: list[tuple[str, list[dict[str, object]]]] = []
    at, request = float(T), 0
    for _ in range(random_.randrange(3, 25)):
        at += random_.choice([0.5, 3.0, 40.0])
        impressions = []
        for _ in range(random_.randrange(4)):
            request += 1
            items = [random_.randrange(6) for _ in range(3)]
            impressions.append(shown(f"r{request}", random_.randrange(3), items, at))
        clicks = [
            click(random_.randrange(3), random_.randrange(6), at + random_.choice([-1.0, 0.0, 2.0]))
            for _ in range(random_.randrange(4))
        ]
        pieces += random_.sample([("shown", impressions), ("clicks", clicks)], 2)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        generation = 0
        for topic, records in pieces:
            world.clock.advance(5.0)
            world.send(topic, *records)
            world.take(topic)
            if random_.random() < 0.7:
                runner, matcher = world.matcher(f"matcher{generation % 2}")
                for _ in range(random_.randrange(1, 9)):
                    if not runner.step():
                        break
                runner.commit()
                if random_.random() < 0.3:  # one of two takes over, by the notes of the one before
                    begins = {
                        p: (matcher.begins_at(p, runner.position(p)), runner.position(p)) for p in range(2)
                    }
                    world.close()
                    generation += 1
                    state = RoleState(
                        world.folder / f"matcher{generation % 2}", "matcher", {}, disk=world.disk
                    )
                    fresh = Matcher(world.log, state, world.settings, 90.0, world.clock)
                    for p, (begin, sends_from) in begins.items():
                        fresh.begin_at(p, begin, sends_from)
                    state.close()
                world.close()
        drain(world.matcher(f"matcher{generation % 2}")[0])
        found, letters = world.events(), world.letters()
        world.close()
        drain(world.matcher("at once")[0])  # the same names and numbers: none of them is taken
        world.close()
        assert world.events() == found and len(world.letters()) == len(letters)
        acted = sum(isinstance(e, Action) for e in found)
        sent = sum(len(records) for topic, records in pieces if topic == "clicks")
        assert len([e for e in found if isinstance(e, Impression)]) == request
        runner, matcher = world.matcher("counting")
        drain(runner)
        assert acted + len(letters) + matcher.waiting == sent  # each click is one of these, once
        world.close()


ORDERS = msgspec.structs.replace(
    CLICKS, each="lines", match={"item": "lines.sku"}, value="lines.price", anonymous="ignore"
)


def test_every_line_of_an_order_is_an_action_with_a_number_of_its_own(world: World) -> None:
    world.send("shown", *(shown(f"r{i}", i, [1, 2, 3], T + i) for i in range(9)))
    lines = [{"sku": 3, "price": 9.5}, {"sku": 1, "price": 0.5}]
    orders = [{"user": i, "at": T + i + 1, "lines": lines} for i in range(9)]
    bad = {**orders[0], "lines": [*lines, {"sku": 2, "price": "dear"}]}
    world.send("clicks", *orders, bad, {**orders[0], "lines": []}, {**orders[0], "user": None})
    world.take("shown")
    runner, ingestor = world.runner("clicks", ORDERS)
    drain(runner)
    counts = ingestor.counts
    assert (counts.records, counts.actions, counts.skipped, counts.dead_letters) == (12, 18, 3, 1)
    drain(world.runner("clicks", ORDERS, "again")[0])  # the same numbers
    drain(world.matcher()[0])
    found = sorted((e.request_id, e.candidate, e.value) for e in world.events() if isinstance(e, Action))
    assert found == sorted((f"r{i}", *line) for i in range(9) for line in ((0, 0.5), (2, 9.5)))
    (letter,) = world.letters()
    assert "lines.2: lines.price is text 'dear'" in letter.reason


def test_every_event_of_a_batch_is_taken_once_and_found_by_its_actions(world: World) -> None:
    batches = msgspec.structs.replace(SHOWN, envelope="cloudevents")
    rows = [shown(f"r{i}", i, [i, i + 1], T + i) for i in range(8)]
    events = [{"specversion": "1.0", "id": str(i), "data": row} for i, row in enumerate(rows)]
    gone = {"specversion": "1.0", "id": "gone"}
    world.send("shown", [*events[:3], gone], [], events[3:7], events[7], partition=0)
    for folder in ("", "again"):
        runner, ingestor = world.runner("shown", batches, folder)
        drain(runner)
        counts = ingestor.counts
        assert (counts.impressions, counts.deletions, counts.skipped) == (8, 1, 1)
    world.send("clicks", *(click(i, i + 1, T + i + 1) for i in range(8)))
    world.take("clicks", "matcher")
    assert world.actions() == [(f"r{i}", 1) for i in range(8)] and not world.letters()
    assert len(world.events()) == 16


def test_lines_of_a_request_become_its_impression(world: World) -> None:
    runner, ingestor = world.runner("shown", LINES)

    def lines(request: str, *items: int) -> list[dict[str, object]]:
        return [{"request": request, "user": 1, "item": item, "at": T} for item in items]

    world.send("shown", *lines("a", 1, 2), *lines("b", 3), *lines("c", 4, 5), partition=0)
    drain(runner)
    assert [(e.request_id, len(e.candidates)) for e in world.events() if isinstance(e, Impression)] == [
        ("a", 2), ("b", 1)
    ]  # fmt: skip
    world.close()
    runner, ingestor = world.runner("shown", LINES)  # the open request outlives a restart
    assert ingestor.begins_at(0, 5).offset == 3  # its lines have to be read again by another process
    world.send("shown", *lines("c", 6), partition=0)
    drain(runner)
    assert ingestor.begins_at(0, 6).offset == 3
    ingestor.between(runner)
    world.clock.advance(2.5)
    ingestor.between(runner)
    found = {e.request_id: e for e in world.events() if isinstance(e, Impression)}
    assert [c["item"] for c in found["c"].candidates] == [4, 5, 6]
    world.send("shown", *lines("c", 7), *lines("d", 8), partition=0)
    drain(runner)
    (letter,) = world.letters()
    assert "came after the request was complete" in letter.reason
    again, _ = world.runner("shown", LINES, "again")
    drain(again)  # without the pause all lines of "c" are together; the same number, so it is not taken
    assert len([e for e in world.events() if e.request_id == "c"]) == 1


def test_bad_records_become_dead_letters_and_too_many_stop_the_role(tmp_path: Path) -> None:
    world = World(tmp_path, IngestSettings(dead_letter_window=10, dead_letter_share_max=0.5))
    good = [shown(f"r{i}", 1, [1]) for i in range(20)]
    world.send("shown", *good, b"{", b"", {"at": "soon"}, partition=0)
    world.take("shown")
    reasons = [letter.reason for letter in world.letters()]
    assert len(reasons) == 2 and "source shown: the record is not JSON" in reasons[0]
    assert {letter.topic for letter in world.letters()} == {"shown"}
    world.send("shown", *([b"{"] * 10), partition=0)
    runner, _ = world.runner("shown", SHOWN)
    with pytest.raises(DeadLetterFloodError, match=r"freshet ingest --set ingest\.dead_letter_share_max=1"):
        drain(runner)
    world.close()


def test_deletions_are_ignored_or_dead_letters(world: World) -> None:
    world.send("shown", b"", shown("r", 1, [1]), b"", partition=0)
    runner, ingestor = world.runner("shown", SHOWN)
    drain(runner)
    assert ingestor.counts.deletions == 2 and not world.letters()
    strict = msgspec.structs.replace(SHOWN, deletions="dead_letter")
    drain(world.runner("other", strict)[0])
    assert [letter.original for letter in world.letters()] == [b"", b""]


def test_time_far_ahead_is_refused(world: World) -> None:
    world.send("shown", shown("r", 1, [1], T + 100 + 301), shown("s", 1, [1], T + 100 + 200), partition=0)
    world.take("shown")
    assert [e.request_id for e in world.events()] == ["s"]
    assert "ingest.max_ahead_s = 300" in world.letters()[0].reason


@pytest.mark.parametrize("turn_s", [0.0, 5.0])
def test_source_that_is_ahead_waits_for_one_with_a_backlog(world: World, turn_s: float) -> None:
    """However long a turn takes, as on a busy machine."""
    pace = Pace(10.0, world.clock, ["shown", "clicks"])
    world.clock.advance(10_000.0)
    for minute in range(10):
        world.send("shown", shown(f"r{minute}", 1, [1], T + 60 * minute), partition=0)
        world.send("clicks", click(1, 1, T + 60 * minute + 1), partition=0)
    world.clock.advance(10_000.0)
    impressions, shows = world.runner("shown", SHOWN, pace=pace)
    actions, clicks = world.runner("clicks", CLICKS, pace=pace)
    for runner, ingestor in ((actions, clicks), (impressions, shows)):
        assert clicks.counts.records == 0, "one whose partitions are not known holds the others"
        for _ in range(3):
            ingestor.turns()
            runner.step()
        ingestor.acquired(0)
    behind = 0
    for _ in range(100):
        for runner, ingestor in ((actions, clicks), (impressions, shows)):
            ingestor.turns()
            runner.step()
            ingestor.between(runner)
            world.clock.advance(turn_s)
        behind = max(behind, abs(clicks.counts.records - shows.counts.records))
    assert clicks.counts.records == shows.counts.records == 10
    assert behind <= 2  # else the clicks, which were read first, would all be ahead
    world.clock.advance(2.0)
    for partition in shows.quiet():
        shows.at_end(partition)
    assert pace.limit_s("clicks", 0) < float("inf"), "one that does not turn may have a backlog"
    shows.turns()
    assert pace.limit_s("clicks", 0) == float("inf")
    clicks.set_away(True)  # one that cannot be read holds the others
    world.send("shown", shown("late", 1, [1], T + 4_000), partition=0)
    for _ in range(3):
        impressions.step()
    assert shows.counts.records == 10 and shows.counts.impressions == 10


def test_sources_wait_for_what_is_to_be_matched(world: World) -> None:
    pace = Pace(10.0, world.clock)
    world.send("shown", *(shown(f"r{i}", 1, [1], T + i) for i in range(90)), partition=0)
    impressions, shows = world.runner("shown", SHOWN, pace=pace)
    state = RoleState(world.folder / "paced", "matcher", {}, disk=world.disk)
    world.states.append(state)
    matcher = Matcher(world.log, state, world.settings, 90.0, world.clock, pace)
    runner = Runner(
        world.log, state, matcher, Subscription(MATCHES, "m", commits_offsets=False), QUICK
    ).open()
    impressions.step()  # before anything was matched there is no clock to wait for
    drain(runner)
    for _ in range(60):
        for _ in range(3):
            impressions.step()
            shows.between(impressions)
        ahead = shows.counts.records - 1 - (pace.limit_s("shown", 0) - 10.0 - T)
        assert ahead <= 10.0, "sources ran ahead of the matcher"
        runner.step()
        matcher.between(runner)
    assert shows.counts.records == 90 and matcher.counts.showings == 180  # by user and by request


class Away(JsonFormat):
    """A format whose schema cannot be had for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True

    def decode(self, value: bytes) -> object:
        if self.away and b"r3" in value:
            raise LogAwayError("registry http://r:8081 does not answer")
        return super().decode(value)


def test_schema_that_cannot_be_had_now_is_waited_for(world: World) -> None:
    world.send("shown", *(shown(f"r{i}", 1, [1]) for i in range(6)), partition=0)
    state = RoleState(world.folder / "away", "ingest", {}, disk=world.disk)
    world.states.append(state)
    decoder = Away()
    ingestor = Ingestor(state, "shown", SHOWN, decoder, world.settings, (), None, world.clock)
    both = TwoLogs(world.log, world.log)
    runner = Runner(both, state, ingestor, Subscription("shown", "g", commits_offsets=False), QUICK).open()
    for _ in range(2):
        runner.turn(threading.Event())
        with pytest.raises(LogAwayError, match="registry"):
            ingestor.between(runner)
    assert len(world.events()) == 3  # those before it
    decoder.away = False
    drain(runner)
    ingestor.between(runner)
    assert len(world.events()) == 6 and not world.letters()


def test_names_of_producers_differ_by_source_and_partition() -> None:
    names = {producer_of(source, partition) for source in ("a", "a-1") for partition in (0, 10)}
    assert len(names) == 4
