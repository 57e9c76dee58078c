"""Progressive metrics: every prediction is scored before its label is learned.

`summarize` computes exact metrics of arrays. `Metrics` follows a stream in bounded memory: cumulative metrics
come from a histogram of 8,192 bins on the logit scale, recent ones are exact over a window.
"""

from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from ground.kernels.logistic import logits
from learner.ranking import TOP, rank_requests

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.uint64]

ECE_BINS = 20
BLOCK = 1024
"""Recent examples that are saved together."""
_BINS = 8192
_LOGIT_MAX = 16.0
_P_MIN = 1e-12
ROWS = 4
"""Numbers that are kept of a recent example: prediction, label, user, weight."""


class Summary(TypedDict):
    """Metrics of a set of predictions; None if undefined, for example without positives.

    Of a value, `positives` are labels above 0, and what is of events alone is None.
    """

    examples: int
    positives: int
    auc: float | None  # area under the ROC curve, ties count half
    gauc: float | None  # AUC within each user, weighted by the user's examples; see `gauc` for its bias
    request_auc: NotRequired[float | None]  # AUC within each request, weighted by its candidates
    ndcg: NotRequired[float | None]  # mean over requests with labels of both kinds, see `learner.ranking`
    mrr: NotRequired[float | None]  # mean reciprocal rank over the same
    recall: NotRequired[float | None]  # mean recall over the same
    logloss: float | None  # nats
    normalized_entropy: float | None  # log loss / entropy of the mean rate (He et al. 2014)
    calibration: float | None  # sum of predictions / sum of labels
    ece: float | None  # expected calibration error, 20 bins of equal width
    brier: float | None
    mean: NotRequired[float | None]  # of a value: mean label
    mae: NotRequired[float | None]  # of a value: mean absolute error
    rmse: NotRequired[float | None]  # of a value: root of the mean squared error
    loglik: NotRequired[float | None]  # of a value: mean log density of a label, nats; in replays


def auc(p: Floats, y: Floats, weight: Floats | None = None) -> float | None:
    """Exact area under the ROC curve of predictions p (n,) for labels y (n,) in {0, 1}; ties count half.

    Args:
        weight: (n,), how often each example counts; None: once.
    """
    if weight is None:
        weight = np.ones(len(y))
    positives = float((weight * y).sum())
    negatives = float(weight.sum()) - positives
    if positives <= 0 or negatives <= 0:
        return None
    order = np.argsort(p, kind="stable")
    ranked = p[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    tie = np.cumsum(first) - 1
    y, weight = y[order], weight[order]
    pos = np.bincount(tie, weights=weight * y)
    neg = np.bincount(tie, weights=weight * (1.0 - y))
    below = np.cumsum(neg) - neg
    return float((pos * (below + 0.5 * neg)).sum() / (positives * negatives))


def gauc(p: Floats, y: Floats, group: Groups, weight: Floats | None = None) -> float | None:
    """AUC within each group, averaged by examples; groups of one class are skipped (Zhu et al. 2017).

    `weight` (n,) says how often each example counts.

    It is biased if the groups are users, the predictions are progressive and the model learns users: when
    a positive is predicted, the model has seen one positive fewer than for the same user's negatives. 400
    users that differ in their click rate alone give .29 to a perfect learner and .50 to a constant. Within
    requests (`group` is the request) there is no such bias, since a request is predicted whole before any
    of it is learned.
    """
    value, total = gauc_sums(p, y, group, weight)
    return float(value / total) if total else None


def gauc_sums(p: Floats, y: Floats, group: Groups, weight: Floats | None = None) -> tuple[float, float]:
    """The numerator and denominator of `gauc`, which add up over sets of whole groups."""
    if len(p) == 0:
        return 0.0, 0.0
    order = np.lexsort((p, group))
    weight = np.ones(len(p)) if weight is None else weight[order]
    p, y, group = p[order], y[order], group[order]
    new_group = np.r_[True, group[1:] != group[:-1]]
    new_tie = new_group | np.r_[True, p[1:] != p[:-1]]
    tie_group = (np.cumsum(new_group) - 1)[new_tie]
    tie = np.cumsum(new_tie) - 1
    pos = np.bincount(tie, weights=weight * y)
    neg = np.bincount(tie, weights=weight * (1.0 - y))
    group_pos = np.bincount(tie_group, weights=pos)
    group_neg = np.bincount(tie_group, weights=neg)
    below = np.cumsum(neg) - neg
    group_below = np.r_[0.0, np.cumsum(group_neg)[:-1]]
    pairs = np.bincount(tie_group, weights=pos * (below - group_below[tie_group] + 0.5 * neg))
    mixed = (group_pos > 0) & (group_neg > 0)
    value = pairs[mixed] / (group_pos[mixed] * group_neg[mixed])
    share = group_pos[mixed] + group_neg[mixed]
    return float((value * share).sum()), float(share.sum())


def summarize(
    p: Floats,
    y: Floats,
    group: Groups,
    request: Groups | None = None,
    top: int = TOP,
    weight: Floats | None = None,
    value: bool = False,
) -> Summary:
    """All metrics, exact, of predictions p (n,), labels y (n,) and users group (n,).

    Args:
        weight: (n,), above 0, a factor on each example in all sums; None: 1. The metrics of order within
            requests count every candidate once.
        value: the labels are numbers; without the metrics of events.
        request: (n,), the request of each prediction, for the metrics within requests; None: leave them out.
        top: the places that `ndcg` and `recall` count.
    """
    n = len(p)
    w = np.ones(n) if weight is None else weight
    if value:
        return _value_summary(n, int((y > 0.0).sum()), _sums_of(p, y, w, value))
    if n == 0:
        found = _summary(0, 0, None, None, np.zeros(5), np.zeros((ECE_BINS, 3)))
    else:
        found = _summary(
            n, int(y.sum()), auc(p, y, w), gauc(p, y, group, w), _sums_of(p, y, w), _reliability(p, y, w)
        )
    if request is not None:
        found["request_auc"] = gauc(p, y, request, w)
        ranks = rank_requests(p, y, request, top)
        any_ranked = len(ranks.request) > 0
        found["ndcg"] = float(ranks.ndcg.mean()) if any_ranked else None
        found["mrr"] = float(ranks.reciprocal_rank.mean()) if any_ranked else None
        found["recall"] = float(ranks.recall.mean()) if any_ranked else None
    return found


class Cumulative:
    """Metrics of all predictions so far, in memory that does not depend on how many there are.

    Args:
        value: the labels are numbers.
    """

    def __init__(self, value: bool = False) -> None:
        self._value = value
        self._histogram = np.zeros((2, _BINS))  # negatives, positives by logit
        self._counts = np.zeros(2)  # examples, positives
        self._sums = np.zeros(5)  # weights, positives, log loss, predictions, squared error, each by weight
        self._bins = np.zeros((ECE_BINS, 3))

    @property
    def examples(self) -> int:
        """How many predictions have been added."""
        return int(self._counts[0])

    @property
    def arrays(self) -> dict[str, Floats]:
        """All that is kept, by the names under which it is saved."""
        return {"h": self._histogram, "s": self._sums, "c": self._counts, "b": self._bins}

    def add(self, p: Floats, y: Floats, w: Floats) -> None:
        """Add predictions p (n,), labels y (n,) and weights w (n,)."""
        self._counts += (len(p), (y > 0.0).sum())
        self._sums += _sums_of(p, y, w, self._value)
        if self._value:
            return
        logit = logits(p, _P_MIN)
        place = (
            (np.clip(logit, -_LOGIT_MAX, _LOGIT_MAX) + _LOGIT_MAX) * ((_BINS - 1) / (2 * _LOGIT_MAX))
        ).astype(np.int64)
        self._histogram[1] += np.bincount(place, weights=w * y, minlength=_BINS)
        self._histogram[0] += np.bincount(place, weights=w * (1.0 - y), minlength=_BINS)
        self._bins += _reliability(p, y, w)

    def absorb(self, other: "Cumulative") -> None:
        """Add the predictions of another."""
        for name, array in self.arrays.items():
            array += other.arrays[name]

    def summary(self, per_user: float | None) -> Summary:
        """All metrics, with the AUC from the histogram; `per_user` is the AUC within users."""
        examples, positive = self._counts.astype(int).tolist()
        if self._value:
            return _value_summary(examples, positive, self._sums)
        negatives, positives = self._histogram
        pairs = negatives.sum() * positives.sum()
        below = np.cumsum(negatives) - negatives
        area = float((positives * (below + 0.5 * negatives)).sum() / pairs) if pairs else None
        return _summary(examples, positive, area, per_user, self._sums, self._bins)


class Metrics:
    """Metrics along a stream: cumulative, and exact over the last `window` examples.

    Memory is bounded by the window. The cumulative per-user AUC is the mean over full windows. `value`: the
    labels are numbers.
    """

    def __init__(self, window: int = 10_000, value: bool = False) -> None:
        self._window = window
        self._value = value
        self._total = Cumulative(value)
        self._gauc = np.zeros(2)  # sum over full windows, number of windows
        self._recent = np.zeros((ROWS, window))  # p, y, group as bits, weight; a ring
        self._at = 0  # where the next prediction goes in the ring
        self._held = 0  # predictions in the ring
        self._changed: set[int] = set()  # blocks of the ring

    def add(self, p: Floats, y: Floats, group: Groups, weight: Floats | None = None) -> None:
        """Add predictions p (n,), labels y (n,), users group (n,) and weights (n,), in order."""
        w = np.ones(len(p)) if weight is None else weight
        for first in range(0, len(p), self._window):
            part = slice(first, first + self._window)
            self._add(p[part], y[part], group[part], w[part])

    def absorb(self, other: "Metrics") -> None:
        """Add the predictions of another, which are none of the recent ones here."""
        self._total.absorb(other._total)
        self._gauc += other._gauc

    @property
    def window(self) -> int:
        """How many examples the recent metrics are of."""
        return self._window

    @property
    def examples(self) -> int:
        """How many predictions have been scored."""
        return self._total.examples

    def summary(self) -> Summary:
        """Metrics since the beginning."""
        windows = self._gauc[1]
        return self._total.summary(float(self._gauc[0] / windows) if windows else self.recent()["gauc"])

    def recent(self) -> Summary:
        """Exact metrics over the last `window` examples."""
        p, y, group, weight = self._recent[:, : self._held]
        return summarize(p, y, group.view(np.uint64), weight=weight, value=self._value)

    def forget(self, group: Groups) -> None:
        """Assign the recent examples of some users (k,) to user 0."""
        users = self._recent[2].view(np.uint64)
        theirs = np.flatnonzero(np.isin(users, group))
        users[theirs] = 0
        self._changed.update((theirs // BLOCK).tolist())

    def state(self) -> dict[str, bytes]:
        """The state to save, for `load`."""
        return {**self.head(), "r": self._recent.tobytes()}

    def head(self) -> dict[str, bytes]:
        """The state without the recent examples, whose size does not depend on the window."""
        ring = np.array([self._at, self._held], dtype=np.float64)
        arrays = {**self._total.arrays, "g": self._gauc}
        return {name: array.tobytes() for name, array in {**arrays, "n": ring}.items()}

    def mark_all(self) -> None:
        """Let the next `take_changed` return every block that holds predictions."""
        self._changed.update(range(-(-self._held // BLOCK)))

    def take_changed(self) -> list[tuple[int, bytes]]:
        """The blocks of recent examples that have changed since the last call: numbers and bytes."""
        changed, self._changed = sorted(self._changed), set()
        return [(i, self._recent[:, i * BLOCK : (i + 1) * BLOCK].tobytes()) for i in changed]

    def load(self, state: dict[str, bytes]) -> None:
        """Continue from a `state`. If its window is longer, the newest examples are kept.

        All blocks of recent examples count as changed.
        """
        self._changed = set(range(-(-self._window // BLOCK)))
        rows = ROWS
        if "c" not in state:  # from a Freshet without weights
            state = {**state, "c": state["s"][:16]}
            rows = ROWS - 1
        for name, array in (*self._total.arrays.items(), ("g", self._gauc)):
            array[:] = np.frombuffer(state[name]).reshape(array.shape)
        recent = np.frombuffer(state["r"]).reshape(rows, -1)
        if rows < ROWS:
            recent = np.concatenate([recent, np.ones((1, recent.shape[1]))])
        window = recent.shape[1]
        if "n" in state:
            at, held = np.frombuffer(state["n"]).astype(int).tolist()
        else:  # from a Freshet that did not save these
            at, held = self.examples % window, min(self.examples, window)
        if window != self._window:
            held = min(held, self._window)
            recent = np.roll(recent, -at, axis=1)[:, window - held :]  # the oldest first
            at = held % self._window
        self._recent[:, : recent.shape[1]] = recent
        self._at, self._held = at, held

    def _add(self, p: Floats, y: Floats, group: Groups, w: Floats) -> None:
        self._total.add(p, y, w)
        rows = np.stack([p, y, group.view(np.float64), w])
        last = self._at + len(p) - 1
        self._changed.update(range(self._at // BLOCK, min(last, self._window - 1) // BLOCK + 1))
        if last >= self._window:
            self._changed.update(range((last - self._window) // BLOCK + 1))
        room = self._window - self._at
        self._recent[:, self._at : self._at + len(p)] = rows[:, :room]
        self._at += len(p)
        self._held = min(self._held + len(p), self._window)
        if self._at >= self._window:
            scored, label, user, weight = self._recent
            within = None if self._value else gauc(scored, label, user.view(np.uint64), weight)
            if within is not None:
                self._gauc += (within, 1.0)
            self._at -= self._window
            self._recent[:, : self._at] = rows[:, room:]


def losses(p: Floats, y: Floats) -> Floats:
    """Each candidate's log loss in nats, (n,), for predictions p (n,) and labels y (n,)."""
    clipped = np.clip(p, _P_MIN, 1.0 - _P_MIN)
    return np.where(y > 0.5, -np.log(clipped), -np.log1p(-clipped))


def _sums_of(p: Floats, y: Floats, w: Floats, value: bool = False) -> Floats:
    """Sums of weights, labels, log losses (of values absolute errors), predictions and squared errors, (5,),
    each by weight."""
    loss = np.abs(p - y) if value else losses(p, y)
    return np.array([w.sum(), (w * y).sum(), (w * loss).sum(), (w * p).sum(), (w * (p - y) ** 2).sum()])


def _value_summary(examples: int, positives: int, sums: Floats) -> Summary:
    n, labels, absolute, predicted, squared = sums.tolist()
    return Summary(
        examples=examples,
        positives=positives,
        auc=None,
        gauc=None,
        logloss=None,
        normalized_entropy=None,
        calibration=predicted / labels if labels else None,
        ece=None,
        brier=None,
        mean=labels / n if n else None,
        mae=absolute / n if n else None,
        rmse=float(np.sqrt(squared / n)) if n else None,
    )


def _reliability(p: Floats, y: Floats, w: Floats) -> Floats:
    place = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    columns = [np.bincount(place, weights=x, minlength=ECE_BINS) for x in (w, w * p, w * y)]
    return np.stack(columns, axis=1)  # (bins, 3): weights, predictions, labels


def _summary(
    examples: int, positives: int, area: float | None, per_user: float | None, sums: Floats,
    bins: npt.NDArray[Any],
) -> Summary:  # fmt: skip
    n, labels, loss, predicted, squared = sums.tolist()
    rate = labels / n if n else 0.0
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else 0.0
    return Summary(
        examples=examples,
        positives=positives,
        auc=area,
        gauc=per_user,
        logloss=float(loss / n) if n else None,
        normalized_entropy=float(loss / n / entropy) if entropy else None,
        calibration=float(predicted / labels) if labels else None,
        ece=float(np.abs(bins[:, 1] - bins[:, 2]).sum() / n) if n else None,
        brier=float(squared / n) if n else None,
    )
