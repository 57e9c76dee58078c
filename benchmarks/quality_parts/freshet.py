"""Freshet in the quality benchmark: one learner, and around it served bases of every age, each with its
own error memory.

The learner is the live one (`learner.Trainer`), the memory the replica's. A base of some age answers from
the model as it stood when it had learnt no more than that age allows; blocks of BLOCK requests are served
by one state, as by a replica that takes updates now and then.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from error_memory import ErrorMemory, MemorySettings, make_memory
from ground.rows import Rows
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Learnt, Trainer
from quality_parts.streams import Arrays, Policy, Stream
from stream.records.types import Example

BLOCK = 16
DRAIN_REQUESTS = 20_000

Floats = npt.NDArray[np.float64]


class Served(NamedTuple):
    """What one base of some age and its memory answered, n candidates of R requests."""

    base: Floats  # (n,)
    corrected: Floats  # (n,), before the memory had seen the request
    learnt: npt.NDArray[np.int64]  # (R,), how many requests the base had learnt


class _Seat:
    """A served base of one policy: what it answers, and its memory."""

    def __init__(self, arrays: Arrays, memory: ErrorMemory) -> None:
        n = len(arrays.y)
        self.memory = memory
        self.served = Served(np.full(n, 0.5), np.full(n, 0.5), np.zeros(len(arrays.time), dtype=np.int64))
        self.observed = 0  # requests that the memory has seen
        self.state = -1  # requests that the base has learned, as the memory knows


def play(
    stream: Stream,
    arrays: Arrays,
    policies: Sequence[Policy],
    learner: LearnerSettings,
    memory: MemorySettings,
) -> dict[str, Served]:
    """One pass over a stream; what each policy's base answered, and "live", by name."""
    trainer = Trainer(Model(stream.features, learner, learning=True))
    return _Play(stream, arrays, trainer, memory).run(policies)


class _Play:
    def __init__(self, stream: Stream, arrays: Arrays, trainer: Trainer, memory: MemorySettings) -> None:
        self.stream = stream
        self.arrays = arrays
        self.trainer = trainer
        self.settings = memory
        self.learnt = 0  # requests given to the trainer
        self.drained = 0
        self.live = self._seat()
        self.live_rows = 0  # candidates scored live, of a stream that does not wait

    def run(self, policies: Sequence[Policy]) -> dict[str, Served]:
        R = len(self.arrays.time)
        if self.stream.waits:
            policies = [
                Policy("live", lambda now, shown, decided: int(np.searchsorted(decided, now, "right"))),
                *policies,
            ]
        seats = {policy.name: self._seat() for policy in policies}
        # Which blocks each state of the learner serves: a block is served by the state at its begin.
        blocks: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        for first in range(0, R, BLOCK):
            last = min(first + BLOCK, R)
            now, most = float(self.arrays.time[first]), int(self.arrays.visible[first])
            for policy in policies:
                learnt = min(policy.learnt(now, first, self.arrays.decided), most)
                if policy.name == "frozen" and first < R // 2:
                    continue
                blocks[learnt].append((policy.name, first, last))
                seats[policy.name].served.learnt[first:last] = learnt
        for state in sorted(blocks):
            self._learn_to(state)
            for name, first, last in blocks[state]:
                seat = seats[name]
                if name == "frozen" and seat.state < 0 and not self.stream.waits:
                    # Until here it was live, and so was its memory; what the gate has learnt stays.
                    seat.memory.load(self.live.memory.save())
                    self._copy_first_half(seat)
                self._serve(seat, state, first, last)
        self._learn_to(R)
        for done in self.trainer.finish():
            self._score_live(done)
        return {
            **({} if self.stream.waits else {"live": self.live.served}),
            **{n: s.served for n, s in seats.items()},
        }

    def _seat(self) -> _Seat:
        return _Seat(self.arrays, make_memory(self.settings, self.trainer.model.memory_columns))

    def _copy_first_half(self, seat: _Seat) -> None:
        done = self.live_rows
        seat.served.base[:done] = self.live.served.base[:done]
        seat.served.corrected[:done] = self.live.served.corrected[:done]
        seat.observed = len(self.arrays.time) // 2

    def _learn_to(self, state: int) -> None:
        while self.learnt < state:
            last = min(state, self.learnt + 512)
            examples = [e for e in self.stream.learnt[self.learnt : last] if e.candidates]
            self.learnt = last
            for done in self.trainer.learn(examples):
                self._score_live(done)
        if self.learnt - self.drained >= DRAIN_REQUESTS:
            self.drained = self.learnt
            for table in self.trainer.model.tables:
                table.drain_delta()

    def _score_live(self, done: Learnt) -> None:
        """Base and corrected of requests just learnt, as `freshet replay` has them."""
        if self.stream.waits:
            return
        seat, first = self.live, self.live.observed
        seat.observed += len(done.requests) - 1
        rows = slice(self.live_rows, self.live_rows + len(done.y))
        self.live_rows = rows.stop
        positions = np.arange(first, seat.observed)
        times = done.time[done.requests[:-1]]
        seat.memory.set_priors(*self.trainer.model.memory_priors())
        seat.memory.advance(seat.observed - 1)  # what was predicted had learnt all that came before
        seat.served.base[rows] = done.p
        seat.served.corrected[rows] = seat.memory.observe(
            done.rows, done.p, done.y, positions, done.requests, times
        )
        seat.served.learnt[first : seat.observed] = positions

    def _serve(self, seat: _Seat, state: int, first: int, last: int) -> None:
        """Serve one block from the learner's state now; the memory has seen what was decided before."""
        arrays, model = self.arrays, self.trainer.model
        if seat.state != state:
            seat.state = state
            seat.memory.set_priors(*model.memory_priors())
            seat.memory.advance(state - 1)
        begin, end = arrays.requests[[first, last]]
        if not self.stream.waits:
            base, corrected = self._observe(seat, first, last)
            seat.served.base[begin:end], seat.served.corrected[begin:end] = base, corrected
            seat.observed = last
            return
        visible = int(arrays.visible[first])
        if visible > seat.observed:
            self._observe(seat, seat.observed, visible)
            seat.observed = visible
        p, rows = _score(model, self.stream.shown[first:last])[:2]
        seat.served.base[begin:end] = p
        seat.served.corrected[begin:end] = seat.memory.correct(rows, p)

    def _observe(self, seat: _Seat, first: int, last: int) -> tuple[Floats, Floats]:
        examples = self.stream.learnt[first:last]
        positions = [first + i for i, e in enumerate(examples) if e.candidates]
        examples = [e for e in examples if e.candidates]
        if not examples:
            return np.zeros(0), np.zeros(0)
        p, rows, requests = _score(self.trainer.model, examples)
        y = np.array([label for e in examples for label in e.labels])
        times = np.array([e.time for e in examples])
        return p, seat.memory.observe(rows, p, y, np.array(positions), requests, times)


def _score(model: Model, examples: Sequence[Example]) -> tuple[Floats, Rows, npt.NDArray[np.int64]]:
    """(p of the labels as they come, the memory's rows, request offsets)."""
    batch = model.encoder.encode(examples)
    scores = model.score(batch)
    thinned = np.repeat([e.log_odds for e in examples], np.diff(batch.requests))
    return 1.0 / (1.0 + np.exp(-(scores.z - thinned))), scores.rows, batch.requests


def encode_rows(stream: Stream, model: Model) -> Rows:
    """The rows of all that was shown, features and pairs, for memories that measure similarity."""
    parts = [model.encoder.encode(stream.shown[i : i + 2000]).rows for i in range(0, len(stream.shown), 2000)]
    starts = np.concatenate([[0], *(np.diff(part.start) for part in parts)])
    return Rows(
        np.cumsum(starts),
        np.concatenate([part.column for part in parts]),
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.x for part in parts]),
    )
