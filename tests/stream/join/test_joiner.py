"""The joiner, over a real log file and a real state folder."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st
from joining import RestartableJoiner

from stream.errors import DeadLetterFloodError
from stream.join.joiner import Joiner, JoinSettings
from stream.join.outputs import output_seq
from stream.limits import RECORD_BYTES_MAX, SPLICED_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing, Record
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.decoding import Decoder
from stream.records.types import Action, DeadLetter, Example, Impression, Served, encode, encode_json
from stream.state.role_state import RoleState

T = 1_700_000_000.0


def shown(name: str, at: float, n: int = 2, **more: object) -> Impression:
    return Impression(
        request_id=name,
        time=T + at,
        candidates=[{"item": i} for i in range(n)],
        context={"user": name},
        **more,  # type: ignore[arg-type]
    )


def click(name: str, at: float, candidate: int = 0, label: float = 1.0) -> Action:
    return Action(request_id=name, time=T + at, candidate=candidate, label=label)


class World(RestartableJoiner):
    """A joiner on an embedded log."""

    def __init__(self, folder: Path, partitions: int = 1, **options: object) -> None:
        log = SqliteLog(folder / "log.db", LogSettings(sync=False))
        super().__init__(log, folder / "state", JoinSettings(**options), partitions)  # type: ignore[arg-type]

    def send(self, *records: Impression | Action | bytes, partition: int | None = None) -> None:
        """Append records, all at once, and let the joiner take them."""
        rows = [
            Outgoing(
                key=b"" if isinstance(record, bytes) else record.request_id.encode(),
                value=record if isinstance(record, bytes) else encode_json(record),
                partition=partition,
            )
            for record in records
        ]
        self.log.append(EVENTS, rows)
        self.take_all()

    def examples(self) -> list[Example]:
        decode = Decoder(Example).decode
        return [
            decode(r.value)
            for p in range(self.log.partitions(EXAMPLES))
            for r in self.log.read(EXAMPLES, p, 0)
        ]

    def letters(self) -> list[DeadLetter]:
        records = self.log.read(DEAD_LETTERS, 0, 0, max_bytes=1 << 30)
        return [msgspec.msgpack.decode(r.value, type=DeadLetter) for r in records]

    def close(self) -> None:
        self.state.close()
        self.log.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**options: object) -> World:
        made.append(World(tmp_path, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def labels(examples: Sequence[Example]) -> list[tuple[str, list[float]]]:
    return [(example.request_id, example.labels) for example in examples]


def test_request_is_decided_when_its_window_closes_in_event_time(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    w.send(shown("a", 0, served=None), click("a", 30, candidate=1), shown("b", 59.9))
    assert w.examples() == []
    w.send(shown("c", 60))
    (example,) = w.examples()
    assert example.labels == [0.0, 1.0]
    assert (example.time, example.decided, example.log_odds, example.late) == (T, T + 60, 0.0, False)
    assert example.candidates == [{"item": 0}, {"item": 1}] and example.context == {"user": "a"}
    assert w.joiner.undecided == 2


def test_requests_due_together_are_decided_in_order_of_deadline_then_id(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    w.send(shown("z", 1), shown("b", 2), shown("a", 2), shown("c", 0), shown("end", 500))
    assert [e.request_id for e in w.examples()] == ["c", "z", "a", "b"]


def test_first_action_decides_at_once_and_the_window_decides_the_rest(world: Callable[..., World]) -> None:
    w = world(window_s=60.0, decide="first_action")
    w.send(shown("a", 0), shown("b", 1), click("a", 2, candidate=1))
    assert labels(w.examples()) == [("a", [0.0, 1.0])]
    assert w.examples()[0].decided == T + 2
    w.send(shown("c", 200))
    assert labels(w.examples()) == [("a", [0.0, 1.0]), ("b", [0.0, 0.0])]


def test_labelled_impression_becomes_an_example_at_once(world: Callable[..., World]) -> None:
    w = world()
    w.send(shown("a", 0, labels=[1.0, 0.0]), shown("a", 0, labels=[1.0, 0.0]))
    assert labels(w.examples()) == [("a", [1.0, 0.0])]
    assert w.joiner.counts.duplicate_impressions == 1


def test_duplicates_are_counted_and_dropped_before_and_after_the_decision(
    world: Callable[..., World],
) -> None:
    w = world(window_s=60.0)
    w.send(shown("a", 0), shown("a", 0), click("a", 5), click("a", 5), shown("b", 61))
    w.restart()
    w.send(shown("a", 0), click("a", 5), shown("end", 300))
    assert labels(w.examples()) == [("a", [1.0, 0.0]), ("b", [0.0, 0.0])]
    counts = w.joiner.counts
    assert (counts.duplicate_impressions, counts.duplicate_actions, counts.actions) == (2, 2, 1)
    assert counts.dead_letters == 0


def test_label_zero_takes_a_click_back_whatever_the_order_of_arrival(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    w.send(shown("a", 0), click("a", 5), click("a", 6, label=0.0), click("a", 5))
    w.send(shown("b", 0), click("b", 6, label=0.0), click("b", 5))
    w.send(shown("c", 0), click("c", 5), click("c", 5, label=0.0))  # of one moment the last one counts
    w.send(shown("d", 0), click("d", 5, label=0.0), click("d", 5), shown("end", 100))
    assert dict(labels(w.examples())) == {"a": [0.0, 0.0], "b": [0.0, 0.0], "c": [0.0, 0.0], "d": [1.0, 0.0]}


def test_action_before_its_impression_waits_for_it(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    w.send(click("a", 1), click("a", 1))
    w.restart()
    w.send(shown("a", 0), shown("end", 100))
    assert labels(w.examples()) == [("a", [1.0, 0.0])]
    assert w.joiner.counts.duplicate_actions == 1


def test_action_without_impression_becomes_a_dead_letter_after_one_window(
    world: Callable[..., World],
) -> None:
    w = world(window_s=60.0)
    w.send(click("ghost", 0), shown("x", 59))
    assert w.letters() == []
    w.restart()
    w.send(shown("y", 61))
    (letter,) = w.letters()
    assert "action without impression" in letter.reason and "ghost" in letter.reason
    assert (letter.stage, letter.topic, letter.partition, letter.offset) == ("joiner", EVENTS, 0, 0)
    assert letter.original == encode_json(click("ghost", 0))
    assert w.joiner.counts.orphans == 1


@pytest.mark.parametrize("late", ["drop", "learn"])
def test_late_action_is_counted_and_dropped_or_learnt(world: Callable[..., World], late: str) -> None:
    w = world(window_s=60.0, late=late)
    w.send(shown("a", 0), shown("b", 70))
    w.restart()
    w.send(click("a", 50, candidate=1), click("a", 50, candidate=1))
    assert w.joiner.counts.late == 1 and w.joiner.counts.duplicate_actions == 1
    found = w.examples()
    assert labels(found[:1]) == [("a", [0.0, 0.0])]
    if late == "drop":
        assert len(found) == 1
    else:
        assert found[1].late and found[1].labels == [1.0] and found[1].candidates == [{"item": 1}]
        assert found[1].context == {"user": "a"} and found[1].before == [0.0]
        w.send(click("a", 60, candidate=1, label=0.0))  # took it back
        w.send(click("b", 71, candidate=0, label=0.0))
        assert [(e.labels, e.before) for e in w.examples()[2:]] == [([0.0], [1.0])]


def test_negatives_are_thinned_and_the_log_odds_say_so(world: Callable[..., World]) -> None:
    w = world(window_s=1.0, negative_rate=0.25, seed=3)
    n = 400
    w.send(
        *[shown(f"r{i}", i, n=4) for i in range(n)],
        *[click(f"r{n - 1}", n - 0.5, candidate=2)],
        shown("end", n + 99),
    )
    found = w.examples()
    counts = w.joiner.counts
    assert all(example.log_odds == math.log(0.25) for example in found)
    assert sum(len(example.labels) for example in found) + counts.subsampled == 4 * n
    assert 0.2 < counts.negatives / (4 * n) < 0.3
    assert counts.positives == 1 and found[-1].request_id == f"r{n - 1}" and 1.0 in found[-1].labels
    assert counts.emptied + len(found) == n and counts.emptied > 0
    assert all(example.labels for example in found)


def test_thinning_keeps_what_was_served_beside_its_candidates(world: Callable[..., World]) -> None:
    w = world(window_s=1.0, negative_rate=0.5)
    scores = [i / 10 for i in range(10)]
    served = Served(base=scores, corrected=scores)
    place, propensity = [9 - i for i in range(10)], [(i + 1) / 10 for i in range(10)]
    w.send(shown("a", 0, n=10, served=served, place=place, propensity=propensity))
    w.send(shown("end", 100))
    (example,) = w.examples()
    assert 0 < len(example.labels) < 10 and example.served is not None
    items = [features["item"] for features in example.candidates]
    assert example.served.base == [item / 10 for item in items]  # type: ignore[operator]
    assert example.place == [9 - item for item in items]  # type: ignore[operator]
    assert example.propensity == [(item + 1) / 10 for item in items]  # type: ignore[operator]


BAD: list[tuple[bytes, str]] = [
    (b'{"type":"impression","request_id":', "neither JSON nor MessagePack"),
    (b'{"type":"action","request_id":"r","time":1e9}', "candidate"),
    (b'{"type":"action","request_id":"r","time":"now","candidate":0}', "time"),
    (b'{"type":"action","request_id":"r","time":NaN,"candidate":0}', "neither JSON nor MessagePack"),
    (b'{"type":"action","request_id":"r","time":1e999,"candidate":0}', ""),
    (encode(Action(request_id="r", time=math.nan, candidate=0)), "time is nan"),
    (encode(Action(request_id="r", time=math.inf, candidate=0)), "time is inf"),
    (encode(Impression(request_id="r", time=T, candidates=[{"x": math.nan}])), "candidates[0].x is nan"),
    (b'{"type":"action","request_id":"r","time":1e9,"candidate":0,"v":99}', "schema version 99 is unknown"),
    (b'{"type":"wish","request_id":"r","time":1e9}', "wish"),
    (b'{"type":"action","request_id":"r","time":-5,"candidate":0}', "1970"),
    (b'{"type":"action","request_id":"r","time":1700000000000,"candidate":0}', "milliseconds"),
    (b'{"type":"action","request_id":"\\ud800","time":1700000000,"candidate":0}', ""),
    (b'{"type":"impression","request_id":"' + b"x" * 10_000_000 + b'"}', "more than the 1,048,576 allowed"),
    (b"", "empty"),
    (b"\xff\xfe\x00garbage", "neither JSON nor MessagePack"),
    (b"[" * 100_000, ""),
]


@pytest.mark.parametrize(("original", "reason"), BAD, ids=range(len(BAD)))
def test_bad_record_goes_to_the_dead_letters_whole_and_the_stream_goes_on(
    world: Callable[..., World], original: bytes, reason: str
) -> None:
    w = world(window_s=60.0)
    w.send(shown("a", 0), original, click("a", 1), shown("end", 100))
    (letter,) = w.letters()
    assert letter.original == original and reason in letter.reason and letter.offset == 1
    assert labels(w.examples()) == [("a", [1.0, 0.0])]
    assert w.joiner.counts.dead_letters == 1


def test_time_a_year_ahead_is_refused_and_closes_nobody_elses_window(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    now = time.time() - T
    year_s = 365 * 86400
    w.send(shown("a", now), shown("b", now + year_s), click("a", now + year_s), click("a", now))
    assert w.examples() == [] and len(w.letters()) == 2
    assert all("ahead" in letter.reason for letter in w.letters())
    w.send(shown("end", now + 61))  # is taken, but not before its time
    assert w.examples() == [] and len(w.letters()) == 2 and w.joiner.counts.ahead == 1


def test_event_ahead_of_the_log_neither_ends_others_waits_nor_its_own(world: Callable[..., World]) -> None:
    w = world(window_s=0.5, clock_ahead_s=0.0, max_ahead_s=1e6)
    now = time.time() - T
    w.send(shown("a", now - 0.1), shown("fast", now + 1e5))
    assert w.examples() == [] and w.joiner.undecided == 2
    assert w.joiner.counts.ahead == 1 and w.joiner.ahead.by_producer == {"(no name)": 1}
    time.sleep(0.6)
    w.send(click("x", now + 2e5))  # counts as of now, when both have waited long enough
    assert [example.request_id for example in w.examples()] == ["a", "fast"]


def test_action_out_of_range_is_a_dead_letter_also_when_it_came_first(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    w.send(
        click("b", 0, candidate=7), shown("a", 0), click("a", 1, candidate=2), shown("b", 1), shown("end", 99)
    )
    assert [letter.offset for letter in w.letters()] == [2, 0]
    assert "candidate 2 of a request of 2 candidates" in w.letters()[0].reason
    assert labels(w.examples()) == [("a", [0.0, 0.0]), ("b", [0.0, 0.0])]


def test_flood_of_bad_records_stops_the_joiner(world: Callable[..., World]) -> None:
    w = world(dead_letter_window=20, dead_letter_share_max=0.5)
    w.send(*[b"bad"] * 10, *[shown(f"r{i}", i) for i in range(10)])
    w.restart()
    with pytest.raises(DeadLetterFloodError, match="11 of the last 20 records"):
        w.send(*[shown(f"s{i}", i) for i in range(10)], *[b"bad"] * 11)
    buried = len(w.letters())
    w.restart()  # where it stopped, it stops again: nothing more was taken
    with pytest.raises(DeadLetterFloodError, match=r"--set join\.dead_letter_share_max=1"):
        w.runner.step()
    assert len(w.letters()) == buried
    w.settings = JoinSettings(dead_letter_window=20, dead_letter_share_max=0.9)
    w.restart()
    w.send(shown("t", 11))
    assert len(w.letters()) == 21  # none lost, none twice


def test_more_pending_than_allowed_decides_the_oldest_early(world: Callable[..., World]) -> None:
    w = world(window_s=60.0, pending_max=3)
    w.send(*[shown(f"r{i}", i) for i in range(5)])
    assert [e.request_id for e in w.examples()] == ["r0", "r1"]
    assert w.joiner.counts.early == 2 and w.joiner.undecided == 3


def test_pending_beyond_memory_waits_on_disk(world: Callable[..., World]) -> None:
    w = world(window_s=1000.0, pending_max_memory=10)
    n = 500
    for begin in range(0, n, 100):
        w.send(*[shown(f"r{i}", i) for i in range(begin, begin + 100)])
    w.send(*[click(f"r{i}", 600, candidate=1) for i in range(n)])
    w.send(shown("end", 5000))
    assert labels(w.examples()) == [(f"r{i}", [0.0, 1.0]) for i in range(n)]


def test_what_is_decided_is_forgotten_in_time(world: Callable[..., World]) -> None:
    w = world(window_s=1.0)
    w.send(*[shown(f"r{i}", i) for i in range(200)], shown("end", 1000), shown("last", 2000))
    assert len(list(w.state.scan(b"join/pending/"))) == 2
    assert len(list(w.state.scan(b"join/close/"))) + len(list(w.state.scan(b"join/forget/"))) == 2


def test_partitions_have_clocks_of_their_own(world: Callable[..., World]) -> None:
    w = world(partitions=2, window_s=60.0)
    w.send(shown("a", 0), partition=0)
    w.send(shown("b", 500), partition=1)
    assert w.examples() == []
    w.send(shown("c", 60), partition=0)
    assert [e.request_id for e in w.examples()] == ["a"]
    (record,) = w.log.read(EXAMPLES, 0, 0)
    assert (record.partition, record.producer, record.seq, record.key) == (
        0,
        "joiner-0",
        output_seq(1, 0),
        b"a",
    )


EVENT = st.one_of(
    st.builds(shown, st.sampled_from("abcdefgh"), st.integers(0, 60), st.integers(1, 3)),
    st.builds(
        click, st.sampled_from("abcdefgh"), st.integers(0, 60), st.integers(0, 2), st.sampled_from([0.0, 1.0])
    ),
)


@pytest.mark.slow
@settings(max_examples=many(10), deadline=None)
@given(
    events=st.lists(EVENT, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    decide=st.sampled_from(["window", "first_action"]),
    pending_max=st.sampled_from([2, 1000]),
)
def test_output_does_not_depend_on_batches_commits_or_restarts(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[Impression | Action],
    cuts: list[int],
    decide: str,
    pending_max: int,
) -> None:
    outputs = []
    for pieces in ([events], [events[a:b] for a, b in _ranges(cuts, len(events))]):
        options = {"window_s": 10.0, "decide": decide, "late": "learn", "pending_max": pending_max}
        w = World(tmp_path_factory.mktemp("w"), pending_max_memory=1, **options)
        for piece in pieces:
            w.send(*piece)
            w.restart()
        w.send(shown("end", 1000))
        outputs.append(
            (
                [(r.value, r.seq) for r in w.log.read(EXAMPLES, 0, 0)],
                [(r.value, r.seq) for r in w.log.read(DEAD_LETTERS, 0, 0)],
                w.joiner.counts,
            )
        )
        w.close()
    assert outputs[0] == outputs[1]


def _ranges(cuts: list[int], n: int) -> list[tuple[int, int]]:
    marks = sorted({0, n, *(min(cut, n) for cut in cuts)})
    return list(pairwise(marks))


def test_records_are_json_or_messagepack_as_the_producer_likes(world: Callable[..., World]) -> None:
    w = world(window_s=60.0)
    w.send(json.dumps({"type": "impression", "request_id": "a", "time": T, "candidates": [{}]}).encode())
    w.send(encode(click("a", 1)), encode(shown("end", 99)))
    assert labels(w.examples()) == [("a", [1.0])]


def test_ingest_time_zero_means_unknown_and_refuses_nothing(tmp_path: Path) -> None:
    with RoleState(tmp_path, "joiner", {}, sync=False) as state:
        joiner = Joiner(state)
        commit = state.begin()
        joiner.handle([Record(EVENTS, 0, 0, b"", encode(shown("a", 1e9)))], commit)
        assert joiner.counts.impressions == 1 and joiner.clock(0) == T + 1e9


def test_remembered_requests_are_forgotten_early_at_the_limit_the_longest_decided_first(
    world: Callable[..., World],
) -> None:
    w = world(window_s=1000.0, pending_max=3)
    for i in range(6):
        w.send(shown(f"r{i}", i, labels=[1.0, 0.0]))
    assert len(w.examples()) == 6 and w.joiner.counts.forgotten_early == 3
    for i in (3, 4, 5):
        w.send(shown(f"r{i}", i, labels=[1.0, 0.0]))
    assert w.joiner.counts.duplicate_impressions == 3 and len(w.examples()) == 6, "these are remembered"
    w.send(shown("r0", 0, labels=[1.0, 0.0]))
    assert w.joiner.counts.duplicate_impressions == 3 and len(w.examples()) == 7, "this one is not"


def test_impression_whose_example_would_be_too_large_is_a_dead_letter(world: Callable[..., World]) -> None:
    w = world(window_s=10.0)
    room = (RECORD_BYTES_MAX - SPLICED_BYTES_MAX) // 1100
    large = Impression("large", T, [{"word": "x" * 1000, "id": i} for i in range(room)])
    over = Impression("over", T, [{"word": "x" * 1000, "id": i} for i in range(1010)])
    assert len(encode(over)) <= RECORD_BYTES_MAX < len(encode(over)) + SPLICED_BYTES_MAX
    w.send(encode(large), encode(over), encode(shown("end", 100)))
    assert [example.request_id for example in w.examples()] == ["large"]
    (letter,) = w.letters()
    assert "example would have" in letter.reason and letter.original == encode(over)
