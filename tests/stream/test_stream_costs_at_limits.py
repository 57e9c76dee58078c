"""What one step of a role costs at a limit of its state is about what it costs far below it."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from costs import DEARER_MAX, dearer

from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import EVENTS, Record
from stream.records.types import Impression, encode
from stream.state.journal import Journal, JournalStretch
from stream.state.role_state import RoleState

T = 1_700_000_000.0


def journal_cost(commits_max: int) -> float:
    """Of a commit whose note makes the oldest one go, and of a start after each hundred."""
    with tempfile.TemporaryDirectory() as folder, RoleState(Path(folder), "joiner", {}, sync=False) as state:
        journal = Journal(state, commits_max)
        commit = state.begin()
        for i in range(commits_max):
            journal.note([JournalStretch(0, i, i + 1)], commit)
        state.commit(commit)
        steps = 200
        began = time.thread_time()
        for i in range(steps):
            if i % 100 == 0:
                journal = Journal(state, commits_max)
            commit = state.begin()
            journal.note([JournalStretch(0, commits_max + i, commits_max + i + 1)], commit)
            state.commit(commit)
        return (time.thread_time() - began) / steps


def pending_cost(pending_max: int) -> float:
    """Of an impression for which the oldest waiting request has to be decided early, commits included."""
    settings = JoinSettings(window_s=1e5, pending_max=pending_max, pending_max_memory=pending_max // 10)
    with tempfile.TemporaryDirectory() as folder, RoleState(Path(folder), "joiner", {}, sync=False) as state:
        joiner = Joiner(state, settings)

        def take(first: int, end: int) -> None:
            for start in range(first, end, 50):
                commit = state.begin()
                records = [
                    Record(EVENTS, 0, i, b"", encode(Impression(f"r{i}", T + i / 1e3, [{"item": i}])))
                    for i in range(start, min(start + 50, end))
                ]
                joiner.handle(records, commit)
                joiner.flush(commit)
                state.commit(commit)

        take(0, pending_max)
        assert joiner.counts.early == 0
        steps = 200
        began = time.thread_time()
        take(pending_max, pending_max + steps)
        took_s = time.thread_time() - began
        assert joiner.counts.early == steps
        return took_s / steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "limit"),
    [(journal_cost, 20_000), (pending_cost, 4_000)],
    ids=["journal_max", "pending_max"],
)
def test_step_at_a_limit_of_the_state_costs_about_what_one_below_it_does(
    cost: Callable[[int], float], limit: int
) -> None:
    assert dearer(cost, limit) < DEARER_MAX
