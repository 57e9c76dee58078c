"""What an answer may hold up and take, with a real model; and what a replica does while its log fails."""

import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import pytest

from error_memory import MemorySettings
from ground.clock import ManualClock
from ground.retry import Backoff
from learner.errors import FeatureError
from learner.features.columns import ENTRIES_MAX
from learner.features.encoder import Encoder, FeatureSpec, Request
from learner.model.model import Model
from learner.settings import LearnerSettings
from serving.replica.answering import DRAWN_MAX, LiveModel, draws_for
from serving.replica.explaining import UNKNOWN_CHARACTERS_MAX, UNKNOWN_VALUES_MAX
from serving.replica.observer import Observer
from serving.replica.replica import AWAY_PAUSES
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.types import Example, Forget, encode

FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4),
    "tags": FeatureSpec(kind="ids", dim=4),
    "seen": FeatureSpec(kind="ids", dim=4),
}


@pytest.fixture
def live() -> LiveModel:
    return LiveModel(Model(FEATURES, LearnerSettings(deep="none"), rows="float32"), MemorySettings())


class TimedLock:
    """A lock that knows how much of its thread's processor time it was held for."""

    def __init__(self) -> None:
        self.held_s = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._began_s = time.thread_time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held_s += time.thread_time() - self._began_s
        self._lock.release()


@pytest.mark.parametrize("how", ["explore", "explain"])
def test_lock_is_held_for_a_small_part_of_what_drawing_and_explaining_take(live: LiveModel, how: str) -> None:
    n = 2_000 if how == "explore" else 100
    request = Request(1e9, {"user": 1}, [{"item": i, "tags": [i % 5]} for i in range(n)])
    answer = (lambda: live.explore(request, 1, 127)) if how == "explore" else (lambda: live.explain(request))
    answer()  # compiles
    live.lock = lock = TimedLock()  # type: ignore[assignment]

    def held_share() -> float:
        lock.held_s, began_s = 0.0, time.thread_time()
        answer()
        return lock.held_s / (time.thread_time() - began_s)

    # the least of three, since Python's collector may run while the lock is held
    assert 0.0 < min(held_share() for _ in range(3)) < 0.5


def test_memory_of_a_model_that_is_held_is_empty(live: LiveModel) -> None:
    keys = np.arange(1, 9, dtype=np.uint64).reshape(4, 2)
    live.memory.observe(keys, np.full(4, 0.5), np.ones(4), 0)
    live.hold(False)
    assert live.memory.evidence == 4
    live.hold(True)
    assert live.memory.evidence == 0 and live.held
    live.memory.observe(keys, np.full(4, 0.5), np.ones(4), 1)
    live.hold(True)
    assert live.memory.evidence == 4, "it is held already"


def test_draws_of_one_order_are_bounded(live: LiveModel) -> None:
    assert (draws_for(50, 127), draws_for(2_000, 127)) == (127, 127)
    assert draws_for(2_000, 10_000) * 2_000 <= DRAWN_MAX < draws_for(100, 10_000) * 100 * 1.1
    request = Request(1e9, {"user": 1}, [{"item": i} for i in range(2_000)])
    tracemalloc.start()
    try:
        scored = live.explore(request, 1, 10_000)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20  # 10,000 draws would take 480 MB
    finally:
        tracemalloc.stop()
    assert scored.propensity is not None
    assert min(scored.propensity) == pytest.approx(1.0 / (draws_for(2_000, 10_000) + 1))


@pytest.mark.slow
def test_ids_of_a_long_list_are_not_repeated_with_each_candidate_explained(live: LiveModel) -> None:
    tags: list[int | str] = [f"{i:04d}" + "x" * 1_000 for i in range(1_000)]
    taken = live.explain(Request(1e9, {"tags": tags}, [{"item": i} for i in range(100)]))
    assert len(msgspec.json.encode(taken.candidates, enc_hook=float)) < 200_000
    (unknown,) = [unknown for unknown in taken.candidates[0].unknown if unknown.feature == "tags"]
    assert (len(unknown.values), unknown.more) == (UNKNOWN_VALUES_MAX, 1_000 - UNKNOWN_VALUES_MAX)
    assert all(len(str(value)) == UNKNOWN_CHARACTERS_MAX + 1 for value in unknown.values)
    (unknown,) = [unknown for unknown in taken.candidates[7].unknown if unknown.feature == "item"]
    assert (unknown.values, unknown.more) == ([7], 0)


@pytest.mark.slow
def test_lists_whose_pairs_would_fill_the_memory_are_refused_at_once() -> None:
    encoder = Encoder(FEATURES)
    wide = list(range(1_024))
    request = Request(1e9, {"tags": wide, "seen": wide}, [{"item": i} for i in range(2_000)])
    tracemalloc.start()
    try:
        with pytest.raises(FeatureError, match=f"over the limit of {ENTRIES_MAX:,} for one request"):
            encoder.encode([request])
        assert tracemalloc.get_traced_memory()[1] < 100 << 20  # its pairs would take 16 GB
    finally:
        tracemalloc.stop()
    assert not encoder.fits(request)
    few = Request(1e9, {"tags": wide[:40], "seen": wide[:40]}, [{"item": i} for i in range(2_000)])
    assert encoder.encode([few]).rows.n == 2_000
    with pytest.raises(FeatureError):  # the limit is of each request, whatever it is encoded with
        encoder.encode([few, request])
    assert encoder.encode([few, few, few]).rows.n == 6_000


def test_pauses_while_the_log_is_away_stay_short() -> None:
    clock = ManualClock()
    backoff = Backoff(AWAY_PAUSES, clock)
    pauses = [backoff.next_s() for _ in range(50)]
    assert all(pause is not None and pause <= 5.0 for pause in pauses)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False))
    log.create_topic(EXAMPLES, 1)
    yield log
    log.close()


def examples(first: int, n: int) -> list[Outgoing]:
    return [
        Outgoing(b"k", encode(Example(f"r{i}", 1e9 + i, 1e9 + i, [{"item": i}], [1.0], {"user": 1})), 0)
        for i in range(first, first + n)
    ]


@pytest.mark.parametrize("ahead", [1, 5, 15, 16])
def test_examples_around_a_request_to_forget_in_one_chunk_are_all_observed(
    live: LiveModel, log: SqliteLog, ahead: int
) -> None:
    forget = Outgoing(b"", encode(Forget("f", 1e9, {"user": [99]})), 0)
    sent: Sequence[Outgoing] = [*examples(0, ahead), forget, *examples(ahead, 3)]
    log.append(EXAMPLES, sent)
    observer = Observer(live, ServerSettings())
    observer.begin(1, {})
    while observer.observe(log)[0]:
        pass
    assert observer.observed == ahead + 3 and observer.bad == 0
    base, corrected = observer.quality()[0]
    assert base.overall["examples"] == corrected.overall["examples"] == ahead + 3
    assert live.memory.evidence == ahead + 3
