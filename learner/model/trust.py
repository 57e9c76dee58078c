"""How far the model is trusted: a one-sided gate between its predictions and the running rate.

Where there is nothing to learn a model still moves, and each move costs log loss; a constant then predicts
better. So the log losses of both are compared along the stream. The record of a target is

    D ← clip(D + ℓ(z) - ℓ(c), -BANKED, margin + BEYOND)        c = logit of the rate so far

in nats, z being the model's logit, made before the label was known. The model is trusted wholly until it has
lost the margin, and then less:

    share = 1 - (D - margin), from SHARE_MIN to 1        z' = c + share (z - c)

If the model is right, the likelihood ratio of the constant to it has mean 1, so D passes the margin with a
probability of at most exp(-margin), and later, from the bank of a model that wins, hardly ever. Learning goes
by z and so does the record, which therefore opens the gate again. All candidates of a request have one c and
one share: their order is the model's, whatever the share.

Of a value the running rate is its mean, 0 in the target's units, and ℓ is half the squared error in these
units, of labels within `LABEL_MAX` of the mean.
"""

from collections.abc import Sequence
from math import exp, isnan, log, log1p

import numpy as np
import numpy.typing as npt
from numba import njit

from learner.errors import OtherModelError
from learner.lessons import Lessons

Floats = npt.NDArray[np.float64]

BANKED = 20.0
"""Nats that a model which wins may lose later, beside the margin. A model that wins no more is trusted for
as long as it lives on them."""
BEYOND = 6.0
"""Nats that a model has to win back at most. With 3, chance opens the gate now and then."""
SHARE_MIN = 0.1
"""Costs a hundredth of what the model loses, and keeps its order of candidates."""
LABEL_MAX = 3.0

SHARE, RATE = 0, 1
"""Columns of what is served: the model's share, and c."""
WEIGHT, LABELS, LOST = 0, 1, 2
"""Columns of a record: candidates and labels by weight, and D."""


class Trust:
    """Of each target how far the model is trusted.

    Args:
        is_value: (targets,).
        margin: nats that the model may lose; 0: it is always trusted.
    """

    def __init__(self, is_value: npt.NDArray[np.bool_], margin: float) -> None:
        self._margin = margin
        self._is_value = is_value
        self._served = np.tile([1.0, 0.0], (len(is_value), 1))
        self._record = np.zeros((len(is_value), 3))

    @property
    def shares(self) -> Floats:
        """The model's share in the predictions of each target, (targets,): 1 is the model alone."""
        return self._served[:, SHARE]

    @property
    def served(self) -> Floats:
        """(share, logit of the running rate) of each target, (targets, 2); the array itself."""
        return self._served

    @property
    def record(self) -> Floats:
        """What the shares follow from, (targets, 3); the array itself."""
        return self._record

    @property
    def closed(self) -> bool:
        """Whether any target's predictions are not the model's alone."""
        return bool((self.shares < 1.0).any())

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All that is saved, by name; the arrays themselves."""
        return {"trust": self._served, "trust_record": self._record}

    @property
    def published(self) -> dict[str, npt.NDArray[np.generic]]:
        """What predictions need of it: nothing while the model is trusted wholly."""
        return {"trust": self._served} if self.closed else {}

    def follow(self, data: bytes | None) -> None:
        """Serve what a learner has published; None: the model alone.

        Raises:
            OtherModelError: it has another number of targets.
        """
        if data is None:
            self._served[:] = 1.0, 0.0
        elif len(data) != self._served.nbytes:
            raise OtherModelError("the learner's model has other targets than this one")
        else:
            self._served[:] = np.frombuffer(data).reshape(self._served.shape)

    def parts(self, target: int) -> tuple[float, float]:
        """(share, logit of the running rate) of a target."""
        share, rate = self._served[target].tolist()
        return share, rate

    def blend(self, z: Floats, target: int) -> Floats:
        """The logits z of any shape of one target, drawn towards its running rate."""
        return blend(z, *self.parts(target))

    def unblend(self, z: Floats, target: int) -> Floats:
        """The inverse of `blend`."""
        share, rate = self.parts(target)
        return z if share == 1.0 else rate + (z - rate) / share

    def add_up(self, before: Floats, records: Sequence[Floats]) -> None:
        """Go on from what several learners have noted, each from the same record.

        Args:
            before: (targets, 3), the record that they began with.
            records: the record of each.
        """
        self._record[:] = before + sum(record - before for record in records)
        weight, labels, lost = self._record.T
        np.clip(lost, -BANKED, self._margin + BEYOND, out=lost)
        rate = np.log(labels + 0.5) - np.log(np.maximum(weight - labels, 0.0) + 0.5)
        self._served[:, SHARE] = (1.0 - (lost - self._margin)).clip(SHARE_MIN, 1.0)
        self._served[:, RATE] = np.where(self._is_value, 0.0, rate)

    def judge(self, requests: npt.NDArray[np.int64], lessons: Lessons, said: Floats, z: Floats) -> Floats:
        """Draw the logits of requests towards the running rates, request by request, and learn how far.

        Args:
            requests: (R + 1,), rows requests[r] to requests[r + 1] are one request, of one target.
            lessons: of the n rows.
            said: (n,), the model's logits of the stream as it is (thinned), by which it is judged.
            z: (n,), the same as they are reported: as if each had been shown first.
        """
        if not self._margin:
            return z
        found = z.copy()
        _judge(requests, lessons, self._is_value, self._margin, said, self._served, self._record, found)
        return found


def blend(z: Floats, share: float, rate: float) -> Floats:
    """Logits z of any shape, drawn towards the running rate's."""
    return z if share == 1.0 else rate + share * (z - rate)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _softplus(z):
    return max(z, 0.0) + log1p(exp(-abs(z)))


@njit(cache=True, nogil=True, error_model="numpy")
def _judge(requests, lessons, is_value, margin, said, served, record, z):
    labels, shift, weights, before, target_of, _ = lessons
    for q in range(len(requests) - 1):
        first, last = requests[q], requests[q + 1]
        if first == last:
            continue
        t = target_of[first]
        share, rate = served[t, SHARE], served[t, RATE]
        if share < 1.0:
            for r in range(first, last):
                c = rate + shift[r]
                z[r] = c + share * (z[r] - c)
        lost = record[t, LOST]
        rate = (
            0.0
            if is_value[t]
            else log(record[t, LABELS] + 0.5) - log(max(record[t, WEIGHT] - record[t, LABELS], 0.0) + 0.5)
        )
        for r in range(first, last):
            if not weights[r] > 0.0:
                continue
            was = before[r]
            if is_value[t]:
                y = min(max(labels[r], -LABEL_MAX), LABEL_MAX)
                if isnan(was):
                    lost += weights[r] * 0.5 * said[r] * (said[r] - 2.0 * y)
                else:
                    was = min(max(was, -LABEL_MAX), LABEL_MAX)
                    lost -= weights[r] * (y - was) * said[r]
                continue
            kept = exp(shift[r])  # negatives that one stands for
            c = rate + shift[r]
            change = labels[r] if isnan(was) else labels[r] - was
            lost -= weights[r] * change * (said[r] - c)
            if isnan(was):
                lost += weights[r] * (_softplus(said[r]) - _softplus(c))
                record[t, WEIGHT] += weights[r] * (change + (1.0 - change) * kept)
            else:
                record[t, WEIGHT] += weights[r] * change * (1.0 - kept)
            record[t, LABELS] = max(record[t, LABELS] + weights[r] * change, 0.0)
        lost = min(max(lost, -BANKED), margin + BEYOND)
        record[t, LOST] = lost
        served[t, SHARE] = min(max(1.0 - (lost - margin), SHARE_MIN), 1.0)
        served[t, RATE] = (
            0.0
            if is_value[t]
            else log(record[t, LABELS] + 0.5) - log(max(record[t, WEIGHT] - record[t, LABELS], 0.0) + 0.5)
        )
