"""Which of two models is better: on the same requests, and by what people did with their own answers.

*Paired*: both have predicted every request before its labels were known, so their log losses are compared on
the same candidates, whichever model answered. *Own traffic*: clicks a request among the people whom each
answers, whom a hash has chosen at random. Requests of one person resemble each other, so variances are those
of sums over groups of people (cluster-robust: Liang & Zeger 1986), into which another hash puts them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ground.kernels.logistic import logits, sigmoids
from learner.metrics import losses
from serving.models.confidence import TUNED_FOR, AnytimeInterval, anytime
from serving.replica.status import DuelStatus
from stream.errors import RecordError
from stream.log.base import EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.targets import UNKNOWN
from stream.records.types import Example, Forget

GROUPS = 2_048
"""Of people, for variances; it bounds the memory."""
REQUESTS_MIN = 200
"""Fewer say nothing: the intervals hold for large numbers."""
CLICKS_MIN = 20
P_MIN = 1e-9
RECORDS_MAX = 1_000
"""Of a partition, taken at a time."""

Floats = npt.NDArray[np.float64]


class Paired(NamedTuple):
    """The predictions of both models for one example, (n,) each, as odds of its labels."""

    y: Floats
    first: Floats
    other: Floats
    weight: Floats


def paired_of(example: Example, first: str, other: str) -> Paired | None:
    """What two models predicted of an example of the first target; None: they did not both, or it is none."""
    served = example.served
    if served is None or example.target or example.before is not None:
        return None
    if first not in served.models or other not in served.models:
        return None
    p, q = (np.array(served.models[name].corrected) for name in (first, other))
    if example.log_odds:  # negatives were thinned: the odds of the labels are higher than those served
        p, q = (sigmoids(logits(one, P_MIN) - example.log_odds) for one in (p, q))
    y = np.array(example.labels)
    weight = np.ones(len(y)) if example.weight is None else np.array(example.weight)
    return Paired(y, p, q, weight)


class Duel:
    """Two models compared, from examples one by one, in memory of a fixed size.

    Args:
        by: the feature of the context by which people are told apart; a request without it is one.
        tuned_for: see `serving.models.confidence`.
    """

    def __init__(self, first: str, other: str, by: str, tuned_for: int = TUNED_FOR) -> None:
        self.first, self.other = first, other
        self._by = by
        self._tuned_for = tuned_for
        self.requests = 0
        self.thinned = (
            False  # negatives were left out, and with them whole requests: clicks cannot be compared
        )
        self._clicks = [0.0, 0.0]
        self._paired = np.zeros((GROUPS, 3))  # weights, losses of the first, losses of the other
        self._own = np.zeros((GROUPS, 2, 2))  # of the first and of the other: requests, clicks

    def add(self, example: Example, with_own: bool = True) -> Paired | None:
        """Add one example; returns what both predicted of it, if they did.

        Args:
            with_own: it was answered while each model had the share that it has now.
        """
        found = paired_of(example, self.first, self.other)
        served = example.served
        if found is None or served is None:
            return None
        who = example.context.get(self._by)
        group = xxhash.xxh3_64_intdigest(str(example.request_id if who is None else who).encode(), 7) % GROUPS
        both = [float(found.weight @ losses(p, found.y)) for p in (found.first, found.other)]
        self._paired[group] += (float(found.weight.sum()), *both)
        self.requests += 1
        self.thinned |= bool(example.log_odds)
        if with_own and served.by in (self.first, self.other):
            arm = int(served.by == self.other)
            clicks = float(found.y.sum())
            self._own[group, arm] += (1.0, clicks)
            self._clicks[arm] += clicks
        return found

    def status(self) -> DuelStatus:
        """The comparison now."""
        return DuelStatus(
            self.first, self.other, self.requests, self._logloss(), _plain(self._logloss_difference()),
            self.answered, self._click_rates(), _plain(self._clicks_difference()),
        )  # fmt: skip

    @property
    def answered(self) -> tuple[int, int]:
        """Requests that each has answered."""
        first, other = self._own[:, :, 0].sum(0).astype(int).tolist()
        return first, other

    def _logloss(self) -> tuple[float, float] | None:
        weight, first, other = self._paired.sum(0).tolist()
        return (first / weight, other / weight) if weight > 0.0 else None

    def _logloss_difference(self) -> AnytimeInterval | None:
        weight, first, other = self._paired.sum(0)
        if self.requests < REQUESTS_MIN or weight <= 0.0:
            return None
        value = float((other - first) / weight)
        rest = self._paired[:, 2] - self._paired[:, 1] - value * self._paired[:, 0]
        return anytime(value, float(rest @ rest) / float(weight) ** 2, self.requests, self._tuned_for)

    def _click_rates(self) -> tuple[float, float] | None:
        asked = self._own[:, :, 0].sum(0)
        if not asked.all() or self.thinned:
            return None
        first, other = (np.array(self._clicks) / asked).tolist()
        return first, other

    def _clicks_difference(self) -> AnytimeInterval | None:
        rates, answered = self._click_rates(), self.answered
        if rates is None or min(answered) < REQUESTS_MIN or min(self._clicks) < CLICKS_MIN:
            return None
        asked, clicks = self._own[:, :, 0], self._own[:, :, 1]
        rest = (clicks - np.array(rates) * asked) / np.array(answered)
        parts = rest[:, 1] - rest[:, 0]
        variance = float(parts @ parts)
        return anytime(rates[1] - rates[0], variance, sum(answered), self._tuned_for)


def _plain(interval: AnytimeInterval | None) -> tuple[float, float, float] | None:
    return None if interval is None else (interval.value, interval.low, interval.high)


def better(status: DuelStatus) -> str:
    """ "better" or "worse", of the other model, "mixed", or "undecided".

    Log loss decides, as for `freshet compare`; mixed: people clicked less on the better one's answers.
    """
    found = status.logloss_difference
    if found is None or found[1] <= 0.0 <= found[2]:
        return "undecided"
    clicks = status.clicks_difference
    if clicks is not None and (clicks[2] < 0.0 if found[2] < 0.0 else clicks[1] > 0.0):
        return "mixed"
    return "better" if found[2] < 0.0 else "worse"


class DuelWatch:
    """Duels of one model with others, from the examples that come into a log from now on.

    Args:
        log: with topic `examples`.
        by: as of `Duel`.
    """

    def __init__(self, log: Log, by: str) -> None:
        self._log = log
        self._by = by
        self._next: list[int] | None = None
        self._read = Decoder[Example | Forget](Example, Forget, targets=UNKNOWN).decode
        self._duels: list[Duel] = []

    def begin(self, first: str, others: Sequence[str]) -> None:
        """Compare these models, from here on."""
        self._duels = [Duel(first, other, self._by) for other in others]

    def look(self) -> None:
        """Add what has come, up to a limit.

        Raises:
            LogError: the log fails.
        """
        if self._next is None:
            self._next = [end for _, end in self._log.ends(EXAMPLES)]
        for partition, offset in enumerate(self._next):
            records = self._log.read(EXAMPLES, partition, offset, RECORDS_MAX)
            for record in records:
                self._next[partition] = record.offset + 1
                try:
                    example = self._read(record.value)
                except RecordError:
                    continue  # the replicas count it
                if isinstance(example, Example):
                    for duel in self._duels:
                        duel.add(example)

    def statuses(self) -> dict[str, DuelStatus]:
        """By the other model's name; may be called from any thread."""
        return {duel.other: duel.status() for duel in self._duels}
