"""The guard: a model that has become worse than a constant goes back by itself, and learns no more.

It compares the log loss of what was served with that of the best constant for the same candidates, the share
of positives among them, over the last seconds of event time. No harm is done by a model that is as good as a
constant, so one that is worse by a margin learned something wrong: labels that are inverted, joined wrongly,
or of robots. The guard then orders a rollback to the newest snapshot from before these seconds, with `hold`.

With `against` it also compares with another model of the log, one that is held for this, on the candidates
that both predicted; a model that is worse than either by the margin goes back. A held model alone would not
do: where labels are inverted it is the worst of all, and a model that learns them looks better than it.

It is armed only once the model has been better than the constant, and not worse than `against` by the margin,
so a model that is new, or that people let go on after a rollback, has time to learn.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ground.clock import SYSTEM_CLOCK, Clock
from ground.kernels.logistic import logits, sigmoids
from ground.threads import HelperThread
from learner.metrics import losses
from serving.models.looking import keep_looking
from serving.replica.example_reader import Seen
from serving.replica.status import GuardStatus
from serving.settings import GuardSettings
from stream.log.base import EXAMPLES, Log
from stream.orders.orders import Rollback, give_order

LOOK_EVERY_S = 0.1
P_MIN = 1e-9

logger = logging.getLogger("freshet.serving")

Floats = npt.NDArray[np.float64]


class Compared(NamedTuple):
    """A model's log loss beside another one, on the same candidates; nats a candidate."""

    logloss: float
    bar: float
    of: str  # whose log loss the bar is

    @property
    def excess(self) -> float:
        """How much worse the model is."""
        return self.logloss - self.bar


class ModelTrouble(NamedTuple):
    """A model that is worse than a constant, or than the model that it is compared with."""

    worst: Compared
    before_ms: int  # when the log took the first of these examples


class _Second(msgspec.Struct):
    """The candidates of one second of event time."""

    second: int
    weight: float = 0.0
    positives: float = 0.0
    loss: float = 0.0
    candidates: int = 0
    first_ms: int = 0
    both: int = 0  # candidates that `against` predicted too: their weight, and the losses of both
    both_weight: float = 0.0
    both_loss: float = 0.0
    both_bar: float = 0.0


class Guard:
    """Watches the predictions of one model. `add` and the rest may be called from two threads.

    Args:
        settings: when it acts.
        model: the model's name, as impressions have it.
    """

    def __init__(self, settings: GuardSettings, model: str) -> None:
        self._settings = settings
        self._model = model
        self._lock = threading.Lock()
        self._seconds: deque[_Second] = deque()
        self._began: int | None = None  # the first second that was seen
        self._excess: float | None = None
        self._armed = False
        self._trouble: ModelTrouble | None = None
        self.rollbacks = 0  # ordered

    def add(self, seen: Sequence[Seen], own: Floats, y: Floats, weight: Floats, shift: Floats) -> None:
        """Add examples of the first target in the order of the log.

        Args:
            own: (n,), what this server predicts of their candidates, for those of which nothing was served.
            y, weight, shift: (n,), of `learner.lessons.Lessons`.
        """
        first = 0
        for one in seen:
            end = first + len(one.example.labels)
            mine = slice(first, end)
            first = end
            p = self._served(one, shift[mine])
            bar = self._said(one, self._settings.against, shift[mine])
            self._put(
                int(one.example.time),
                one.record.ingest_ms,
                weight[mine],
                y[mine],
                losses(own[mine] if p is None else p, y[mine]),
                None if bar is None else losses(bar, y[mine]),
            )

    def _served(self, one: Seen, shift: Floats) -> Floats | None:
        served = one.example.served
        if served is None or served.models:
            return self._said(one, self._model, shift)
        return _shifted(served.corrected, shift)

    def _said(self, one: Seen, model: str, shift: Floats) -> Floats | None:
        served = one.example.served
        said = None if served is None else served.models.get(model)
        return None if said is None else _shifted(said.corrected, shift)

    def _put(
        self, second: int, ingest_ms: int, weight: Floats, y: Floats, loss: Floats, bar: Floats | None
    ) -> None:
        with self._lock:
            seconds = self._seconds
            newest = seconds[-1].second if seconds else second
            if not seconds or second > newest:
                if seconds:
                    self._judge(newest)
                while seconds and seconds[0].second <= second - self._settings.for_s:
                    seconds.popleft()
                seconds.append(_Second(second, first_ms=ingest_ms))
                if self._began is None:
                    self._began = second
            into = seconds[-1]  # of several partitions one may be a little behind: count it as now
            into.weight += float(weight.sum())
            into.positives += float(weight @ y)
            into.loss += float(weight @ loss)
            into.candidates += len(y)
            if bar is not None:
                into.both += len(y)
                into.both_weight += float(weight.sum())
                into.both_loss += float(weight @ loss)
                into.both_bar += float(weight @ bar)

    def _judge(self, now: int) -> None:
        assert self._began is not None
        weight = sum(one.weight for one in self._seconds)
        candidates = sum(one.candidates for one in self._seconds)
        if (
            weight <= 0.0
            or candidates < self._settings.examples_min
            or now - self._began < self._settings.for_s
        ):
            return
        rate = min(max(sum(one.positives for one in self._seconds) / weight, P_MIN), 1.0 - P_MIN)
        constant = -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)
        beside = Compared(sum(one.loss for one in self._seconds) / weight, constant, "the best constant")
        worst = max(beside, self._beside_other() or beside, key=lambda one: one.excess)
        self._excess = worst.excess
        if beside.excess < 0.0 and worst.excess <= self._settings.margin:
            self._armed = True
        elif self._armed and worst.excess > self._settings.margin:
            self._armed = False
            self._trouble = ModelTrouble(worst, self._seconds[0].first_ms)

    def _beside_other(self) -> Compared | None:
        """Beside `against`; None: it predicted too few of the candidates, or none."""
        weight = sum(one.both_weight for one in self._seconds)
        if weight <= 0.0 or sum(one.both for one in self._seconds) < self._settings.examples_min:
            return None
        loss = sum(one.both_loss for one in self._seconds) / weight
        bar = sum(one.both_bar for one in self._seconds) / weight
        return Compared(loss, bar, f"model {self._settings.against}")

    def trouble(self) -> ModelTrouble | None:
        """What it has found and nobody has acted on yet."""
        with self._lock:
            return self._trouble

    def acted(self) -> None:
        """A rollback was ordered."""
        with self._lock:
            self._trouble = None
            self.rollbacks += 1

    def status(self) -> GuardStatus:
        """Its state."""
        with self._lock:
            return GuardStatus(self._armed, self._excess, self.rollbacks)


def _shifted(p: Sequence[float], shift: Floats) -> Floats:
    """What was said, as of the candidates that are left where negatives are thinned."""
    said = np.array(p)
    return sigmoids(logits(said, P_MIN) + shift) if shift.any() else said


class GuardWatch:
    """Orders a rollback when a guard finds trouble. `thread` does so, once it is started.

    Args:
        log: with topic `models`.
        guards: by the model's name.
        on_failure: called in the thread with the exception that ends it.
    """

    def __init__(
        self,
        log: Log,
        guards: Mapping[str, Guard],
        on_failure: Callable[[BaseException], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._log = log
        self._guards = dict(guards)
        self._clock = clock
        self.thread = HelperThread("guard", self._run, on_failure, clock=clock)

    def look(self) -> None:
        """Order what is to be ordered now.

        Raises:
            LogError: the log fails; call again.
        """
        for model, guard in self._guards.items():
            trouble = guard.trouble()
            if trouble is None:
                continue
            worst = trouble.worst
            why = f"guard: log loss {worst.logloss:.4f}, of {worst.of} {worst.bar:.4f}, over the last seconds"
            skip_to = {p: end for p, (_, end) in enumerate(self._log.ends(EXAMPLES))}
            order = Rollback(
                model, "", self._clock.unix_s(), trouble.before_ms - 1, skip_to, hold=True, why=why
            )
            offset = give_order(self._log, order)
            guard.acted()
            logger.error("model %s goes back by order %d: %s", model, offset, why)

    def _run(self, stop: threading.Event) -> None:
        keep_looking(self.look, LOOK_EVERY_S, stop, self._clock, "the guard cannot order a rollback")
