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
from stream.ingest.ingestor import Ingestor, producer_of, ways_of
from stream.ingest.matcher import Matcher
from stream.ingest.pace import Pace
from stream.ingest.share import Begin
from stream.ingest.two_logs import TwoLogs
from stream.log.base import DEAD_LETTERS, EVENTS, MATCHES, Log, Outgoing
from stream.log.testing.memory import MemoryLog
from stream.records.decoding import Decoder
from stream.records.types import Action, DeadLetter, Impression
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
        self, folder: str = "matcher", begin: tuple[Begin, int] | None = None
    ) -> tuple[Runner, Matcher]:
        state = RoleState(self.folder / folder, "matcher", {}, disk=self.disk)
        self.states.append(state)
        matcher = Matcher(self.log, state, self.settings, 90.0, self.clock)
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
            found += [decoder.decode(r.value) for r in Repeats(10_000).leave_out(records)]
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


def test_time_passes_in_quiet_partitions(world: World) -> None:
    world.send("clicks", click("ann", 7, T + 99))
    world.take("clicks")
    runner, matcher = world.matcher()
    for _ in range(20):
        drain(runner)
        world.clock.advance(16.0)
        matcher.between(runner)
    drain(runner)
    assert matcher.waiting == 0 and len(world.letters()) == 1


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


def test_waiting_actions_are_limited(tmp_path: Path) -> None:
    world = World(tmp_path, IngestSettings(waiting_max=3), partitions=1)
    world.send("clicks", *(click(i, 7, T) for i in range(10)), partition=0)
    drain(world.runner("clicks", CLICKS)[0])
    runner, matcher = world.matcher()
    drain(runner)
    assert (matcher.waiting, matcher.counts.early, len(world.letters())) == (3, 7, 7)
    world.close()


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
                runner, matcher = world.matcher(f"matcher{generation}")
                for _ in range(random_.randrange(1, 9)):
                    if not runner.step():
                        break
                runner.commit()
                if random_.random() < 0.3:  # another process takes over, by the notes of the one before
                    begins = {
                        p: (matcher.begins_at(p, runner.position(p)), runner.position(p)) for p in range(2)
                    }
                    world.close()
                    generation += 1
                    state = RoleState(world.folder / f"matcher{generation}", "matcher", {}, disk=world.disk)
                    fresh = Matcher(world.log, state, world.settings, 90.0, world.clock)
                    for p, (begin, sends_from) in begins.items():
                        fresh.begin_at(p, begin, sends_from)
                    state.close()
                world.close()
        drain(world.matcher(f"matcher{generation}")[0])
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


def test_source_that_is_ahead_waits_for_one_with_a_backlog(world: World) -> None:
    pace = Pace(10.0, world.clock)
    world.clock.advance(10_000.0)
    for minute in range(10):
        world.send("shown", shown(f"r{minute}", 1, [1], T + 60 * minute), partition=0)
        world.send("clicks", click(1, 1, T + 60 * minute + 1), partition=0)
    world.clock.advance(10_000.0)
    impressions, shows = world.runner("shown", SHOWN, pace=pace)
    actions, clicks = world.runner("clicks", CLICKS, pace=pace)
    for ingestor in (shows, clicks):
        ingestor.acquired(0)
    behind = 0
    for _ in range(100):
        for runner, ingestor in ((actions, clicks), (impressions, shows)):
            runner.step()
            ingestor.between(runner)
        behind = max(behind, abs(clicks.counts.records - shows.counts.records))
    assert clicks.counts.records == shows.counts.records == 10
    assert behind <= 2  # else the clicks, which were read first, would all be ahead
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
