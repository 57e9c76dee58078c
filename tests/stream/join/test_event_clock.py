"""The clock of a partition whose log does not say when it took a record: it has only other events."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.join.event_clock import CONFIRM_EVENTS, START_EVENTS, PartitionProgress
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import EVENTS, EXAMPLES, Record
from stream.records.decoding import Decoder
from stream.records.types import Action, Example, Impression, encode
from stream.state.role_state import RoleState

T = 1_700_000_000.0
DAY_S = 86_400.0


def run(progress: PartitionProgress, *times: float, step_s: float = 300.0) -> float:
    """Move a clock as a joiner does; returns where it is."""
    for time in times:
        latest = progress.latest(time, step_s)
        progress.clock = max(progress.clock, min(time, latest))
    return progress.clock


def begun(at: float = T) -> PartitionProgress:
    return PartitionProgress(clock=at, begun=True)


def test_clock_follows_events_in_order() -> None:
    progress = PartitionProgress()
    for i in range(1000):
        assert run(progress, T + i) == T + i
    assert progress.steady


def test_clock_that_trusts_the_log_needs_no_comparison() -> None:
    progress = PartitionProgress(clock=T, first=[T], ahead=3)
    assert not progress.steady
    progress.trust_log()
    assert progress.steady and progress.begun


@pytest.mark.parametrize("place", [0, 1, 2, 50, 99, 100, 101, 500])
def test_one_event_ahead_moves_no_clock_wherever_it_stands(place: int) -> None:
    times = [T + i for i in range(600)]
    times.insert(place, T + 30 * DAY_S)
    assert run(PartitionProgress(), *times) == T + 599


@pytest.mark.slow
@given(seed=st.integers(0, 10_000), share=st.floats(0.0, 0.3))
def test_share_of_events_ahead_moves_no_clock(seed: int, share: float) -> None:
    draw = random.Random(seed)
    times = [T + i + (draw.random() < share) * draw.uniform(0.1, 900.0) * DAY_S for i in range(2000)]
    assert run(PartitionProgress(), *times) <= T + 2000 + 300.0


def test_clock_goes_on_after_a_pause_of_the_stream() -> None:
    progress = begun()
    later = T + DAY_S
    assert run(progress, *(later + i for i in range(CONFIRM_EVENTS - 1))) == T
    assert run(progress, later + CONFIRM_EVENTS) == later
    assert run(progress, later + CONFIRM_EVENTS + 1) == later + CONFIRM_EVENTS + 1
    assert progress.steady


def test_clock_goes_on_after_a_pause_although_some_events_are_older() -> None:
    draw = random.Random(1)
    times = [T + DAY_S + i if draw.random() < 0.8 else T - 50.0 for i in range(400)]
    assert run(begun(), *times) >= T + DAY_S


def test_wrong_events_that_are_seen_now_and_then_never_add_up() -> None:
    progress = begun()
    for i in range(50 * CONFIRM_EVENTS):
        run(progress, T + i, T + 40 * DAY_S)
    assert progress.clock == T + 50 * CONFIRM_EVENTS - 1


def test_start_is_short_and_its_memory_bounded() -> None:
    progress = PartitionProgress()
    run(progress, *(T + i for i in range(START_EVENTS - 1)))
    assert len(progress.first) == START_EVENTS - 1 and not progress.steady
    run(progress, T + START_EVENTS)
    assert progress.first == [] and progress.begun


def join(state: RoleState, events: list[Impression | Action], ingest_ms: int = 0) -> list[Example]:
    joiner = Joiner(state, JoinSettings(window_s=60.0))
    decode = Decoder(Example).decode
    commit = state.begin()
    records = [
        Record(EVENTS, 0, i, b"", encode(event), ingest_ms=ingest_ms, created_ms=int(event.time * 1e3))
        for i, event in enumerate(events)
    ]
    joiner.handle(records, commit)
    joiner.flush(commit)
    state.commit(commit)
    return [
        decode(record.value)
        for block in state.unsent()
        if block.topic == EXAMPLES
        for record in block.records
    ]


@pytest.mark.parametrize("place", [0, 1, 700])
def test_one_event_dated_a_month_ahead_takes_no_request_its_click(tmp_path: Path, place: int) -> None:
    events: list[Impression | Action] = []
    for i in range(600):
        at = T + i
        events += [Impression(f"r{i}", at, [{"item": 1}]), Action(f"r{i}", at + 0.5, 0)]
    events.append(Impression("end", T + 700.0, [{"item": 1}]))
    events.insert(place, Impression("ahead", T + 30 * DAY_S, [{"item": 2}]))
    with RoleState(tmp_path, "joiner", {}, sync=False) as state:
        examples = join(state, events)
    clicked = [example.request_id for example in examples if example.labels == [1.0]]
    assert len(clicked) == 600
    assert "ahead" not in {example.request_id for example in examples}, "it waits until others get there"


def test_requests_behind_a_pause_keep_their_whole_window(tmp_path: Path) -> None:
    events: list[Impression | Action] = [Impression(f"a{i}", T + i, [{}]) for i in range(200)]
    for i in range(300):
        events.append(Impression(f"b{i}", T + DAY_S + i / 10.0, [{}]))
        if i >= 250:
            events.append(Action(f"b{i - 250}", T + DAY_S + i / 10.0, 0))
    events.append(Impression("end", T + DAY_S + 200.0, [{}]))
    with RoleState(tmp_path, "joiner", {}, sync=False) as state:
        examples = join(state, events)
    clicked = {example.request_id for example in examples if example.labels == [1.0]}
    assert clicked == {f"b{i}" for i in range(50)}
    assert len(examples) == 500
