"""What one step costs at a limit is about what it costs far below it."""

import asyncio
import time
from collections.abc import Callable
from functools import cache
from unittest import mock

import numpy as np
import pytest
from costs import DEARER_MAX, dearer

from error_memory import MemorySettings
from freshet.config import parse_config
from freshet.errors import ConfigError
from ground.clock import ManualClock
from learner.features.spec import FeatureSpec
from learner.model.model import Model
from learner.settings import LearnerSettings
from serving.app.writer import EventWriter
from serving.nearest.catalogue import ItemCatalogue
from serving.nearest.index import PUT_ITEMS
from serving.nearest.settings import NearestSettings
from serving.replica import observer as observer_module
from serving.replica.answering import LiveModel
from serving.replica.observer import BACKLOG_EVERY_S, Observer
from serving.replica.positions import Positions
from serving.settings import ServerSettings
from stream.log.base import EVENTS, EXAMPLES, Outgoing, Record
from stream.log.testing import MemoryLog
from stream.records.types import Action, Example, Features, encode
from stream.run.contract import RunnerSettings
from stream.state.repeats import Repeats


def marks_cost(marks_max: int) -> float:
    """Of an example whose base has not moved for so many marks, with an update for every 16."""
    positions = Positions(marks_max)
    for i in range(marks_max):
        positions.add(i % 4, i // 4)
    steps = 20_000
    began = time.thread_time()
    for i in range(marks_max, marks_max + steps):
        positions.add(i % 4, i // 4)
        if i % 16 == 0:
            positions.learnt({0: 0})
    return (time.thread_time() - began) / steps


def producers_cost(producers_max: int) -> float:
    """Of a record of a producer that has to make room for itself, as a handler takes it that may cut."""
    repeats = Repeats(producers_max)
    steps = 20_000
    records = [
        Record("t", 0, i, b"", b"", f"p{i % (producers_max + 1)}", i) for i in range(producers_max + steps)
    ]
    repeats.leave_out(records[:producers_max])
    began = time.thread_time()
    for record in records[producers_max:]:
        repeats.begin()
        repeats.leave_out([record])
    return (time.thread_time() - began) / steps


def queue_cost(queue_max: int) -> float:
    """Of a request whose record is queued behind so many others, until it is answered."""
    log = MemoryLog()
    log.create_topic(EVENTS, 2)
    records = [Outgoing(b"r%d" % i, encode(Action(f"r{i}", 1e9, 0))) for i in range(queue_max)]

    async def write() -> float:
        writer = EventWriter(log, queue_max=queue_max, wait_s=60.0)
        writer.start()
        began = time.process_time()
        await asyncio.gather(*(writer.append([record]) for record in records))
        took = time.process_time() - began
        await asyncio.to_thread(writer.stop)
        return took

    return asyncio.run(write()) / queue_max


FEW = 8  # examples of a round, so that what a round costs besides shows


@mock.patch.object(observer_module, "READ_RECORDS", FEW)
def backlog_cost(backlog_max: int) -> float:
    """Of an example that an error memory reads so far behind that each look at the backlog skips some."""
    log = MemoryLog()
    log.create_topic(EXAMPLES, 1)
    seen = Example("r", 1e9, 1e9, [{"item": 1}, {"item": 2}], [1.0, 0.0], {"user": 1})
    value, end, steps = encode(seen), 0, 20

    def append(count: int) -> None:
        nonlocal end
        log.append(EXAMPLES, [Outgoing(b"r", value, 0, "joiner-0", end + i) for i in range(count)])
        end += count

    live = LiveModel(
        Model({"user": FeatureSpec(), "item": FeatureSpec()}, LearnerSettings()), MemorySettings()
    )
    clock = ManualClock()
    observer = Observer(live, ServerSettings(backlog_max=backlog_max), clock)
    observer.begin(1, {})
    append(FEW + backlog_max)
    observer.observe(log)  # compiles
    took_s = 0.0
    for _ in range(steps):
        append(FEW + 10)
        clock.advance(2 * BACKLOG_EVERY_S)
        began = time.thread_time()
        observer.observe(log)
        took_s += time.thread_time() - began
    assert observer.skipped == FEW + 10 * steps
    assert observer.observed == FEW * (steps + 1)
    return took_s / steps


@cache
def full_catalogue(items_max: int) -> ItemCatalogue:
    """A catalogue in which each place has an item."""
    catalogue = ItemCatalogue({"item": FeatureSpec()}, "item", items_max)
    show(catalogue, 0, items_max)
    return catalogue


def show(catalogue: ItemCatalogue, first: int, end: int) -> None:
    """Note new items, with a row each in the model."""
    there = np.ones(catalogue.items_max, dtype=bool)
    for i in range(first, end, 50):
        items: list[Features] = [{"item": j} for j in range(i, min(i + 50, end))]
        catalogue.take(Example(f"r{i}", 1e9 + i, 1e9 + i, items, [0.0] * len(items)), lambda: there)


def given_cost(items_max: int) -> float:
    """Of an item that is given to the index, when all of them are."""
    catalogue = full_catalogue(items_max)
    catalogue.all_changed()
    began = time.thread_time()
    while len(catalogue.changed(PUT_ITEMS)):
        pass
    return (time.thread_time() - began) / items_max


def items_cost(items_max: int) -> float:
    """Of a new item in a full catalogue, for which others go."""
    catalogue, steps = full_catalogue(items_max), items_max // 4
    first = items_max + catalogue.evicted
    before = catalogue.evicted
    began = time.thread_time()
    show(catalogue, first, first + steps)
    assert catalogue.evicted - before > 0.7 * steps and len(catalogue) > 0.9 * items_max
    return (time.thread_time() - began) / steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "limit"),
    [
        (backlog_cost, ServerSettings().backlog_max),
        (marks_cost, ServerSettings().marks_max),
        (producers_cost, RunnerSettings().producers_max),
        (queue_cost, ServerSettings().log_queue_max),
        (given_cost, NearestSettings().items_max),
        (items_cost, NearestSettings().items_max),
    ],
    ids=["backlog_max", "marks_max", "producers_max", "log_queue_max", "items_max given", "items_max"],
)
def test_step_at_a_limit_costs_about_what_one_below_it_does(cost: Callable[[int], float], limit: int) -> None:
    assert dearer(cost, limit) < DEARER_MAX


@pytest.mark.parametrize("name", ["learner", "server"])
def test_window_beyond_what_can_be_summed_up_in_a_moment_is_refused(name: str) -> None:
    table = {"features": {"item": {"kind": "id"}}}
    assert parse_config({**table, name: {"window": 1_000_000}}, "test")
    with pytest.raises(ConfigError, match="window must be"):
        parse_config({**table, name: {"window": 1_000_001}}, "test")
