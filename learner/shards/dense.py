"""Adding up what is in no table: priors, biases, counts, the spread of values, trust, and the network.

A bias is added as its natural parameters, of which a share is kept at each sighting
(`learner.shards.adding`). The labels of values are added as sums: how many, Σ y and Σ y². Their noise is a
moving average.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ground.kernels import bayes
from learner.fast.kernels import BIAS_KEEP, BIAS_VARIANCE
from learner.fast.spread import (
    EXPECTED_SUM,
    LABEL_SUM,
    LABELS,
    MEAN,
    NOISE,
    NOISE_MAX,
    NOISE_MIN,
    RATE_MIN,
    RATE_START,
    SCORED,
    SQUARES,
)
from learner.features.known.rings import CODES
from learner.features.known.windows import ROW_WORDS
from learner.model.model import Model
from learner.model.scales import CALIBRATION_KEEP
from learner.shards.adding import Floats, add_changes, decayed, mean
from learner.shards.known.merging import merge_windows
from learner.shards.messages import Unpacking

Network32 = npt.NDArray[np.float32]

STEPS_AT_ONCE = 32
"""With the sum of 8 times 32 steps a network diverged; that of 4 or 8 times 8 was better than the mean."""


class DenseState(NamedTuple):
    """What a shard has beside its rows and the network; arrays as in `FastPart`."""

    theta: Floats  # (T,)
    tau: Floats  # (T,)
    grad2: Floats  # (T,)
    bias: Floats  # (targets, 2)
    values: Floats  # (targets, COLUMNS)
    count_weights: npt.NDArray[np.float32]
    came: Floats  # (targets, CAME), see `learner.fast.late`
    trust: Floats  # (targets, 2), see `Trust`
    trust_record: Floats  # (targets, 3)
    totals: Network32  # (rates, ROW_WORDS), see `Filler`
    ages: Network32  # (histories, 2, CODES), see `Filler`

    @classmethod
    def of(cls, model: Model) -> Self:
        """The arrays of a model, not copies."""
        priors, dense = model.fast.priors, model.fast.dense
        return cls(
            priors.theta, priors.tau, priors.grad2, dense.bias, dense.values, dense.count_weights,
            dense.came, model.trust.served, model.trust.record, *_kept_of(model),
        )  # fmt: skip

    def copy(self) -> "DenseState":
        """A copy of the arrays."""
        return DenseState._make(array.copy() for array in self)

    def write(self, into: "DenseState") -> None:
        """Copy the numbers into the arrays of another."""
        into.theta[:], into.tau[:], into.grad2[:] = self.theta, self.tau, self.grad2
        into.bias[:], into.values[:], into.count_weights[:] = self.bias, self.values, self.count_weights
        into.came[:] = self.came
        into.trust[:], into.trust_record[:] = self.trust, self.trust_record
        into.totals[:], into.ages[:] = self.totals, self.ages

    def read(self, message: Unpacking) -> "DenseState":
        """The state of the same shapes that comes next in a message."""
        return DenseState._make(message.take(array.dtype.type, *array.shape) for array in self)


def add_dense(
    model: Model, old: DenseState, news: Sequence[DenseState], sightings: Sequence[npt.NDArray[np.int64]]
) -> None:
    """Put the state after a turn into a model.

    Args:
        model: its own state is overwritten.
        old: before the turn.
        news: of each shard.
        sightings: (targets,) of each shard: how many rows of each target it has learned.
    """
    learned = [(new, n) for new, n in zip(news, sightings, strict=True) if _differs(old, new)]
    mine, tau0 = DenseState.of(model), model.fast.priors.tau0
    if len(learned) < 2:
        (learned[0][0] if learned else old).write(mine)
        return
    states = [new for new, _ in learned]
    theta = add_changes(old.theta, [new.theta for new in states]).clip(bayes.THETA_MIN, bayes.THETA_MAX)
    tau = add_changes(old.tau, [new.tau for new in states])
    several = np.sum([new.theta != old.theta for new in states], axis=0) > 1
    tau[several] = (tau0 * np.exp(theta))[several].clip(bayes.TAU_MIN, bayes.TAU_MAX)
    DenseState(
        theta,
        tau,
        add_changes(old.grad2, [new.grad2 for new in states]),
        _bias(old.bias, [new.bias for new in states], [n for _, n in learned]),
        _values(old.values, [new.values for new in states]),
        add_changes(old.count_weights, [new.count_weights for new in states]),
        add_changes(old.came, [new.came for new in states]).clip(min=0.0),
        old.trust,
        old.trust_record,
        _totals(old.totals, [new.totals for new in states]),
        add_changes(old.ages, [new.ages for new in states]),
    ).write(mine)
    if any((new.trust_record != old.trust_record).any() for new in states):
        model.trust.add_up(old.trust_record, [new.trust_record for new in states])


def add_network(old: Network32, news: Sequence[Network32], steps: Sequence[int]) -> Network32:
    """The network after a turn, (3, w): weights and Adam's two moments.

    The moments are means by steps. The weights move by the sum of all changes, as far as that is no further
    than `STEPS_AT_ONCE` steps of one learner, and by their mean at least: a sum of long walks overshoots.

    Args:
        old: before the turn.
        news: of each shard.
        steps: that each has taken.
    """
    new = mean(old, news, steps)
    taken = [n for n in steps if n]
    if len(taken) > 1:
        share = min(max(STEPS_AT_ONCE * len(taken) / sum(taken), 1.0), len(taken))
        new[0] = old[0] + np.float32(share) * (new[0] - old[0])
    return new


def _kept_of(model: Model) -> tuple[Network32, Network32]:
    """What histories and rates keep beside their tables: the arrays themselves."""
    if model.filler is None:
        return np.zeros((0, ROW_WORDS), dtype=np.float32), np.zeros((0, 2, CODES), dtype=np.float32)
    return model.filler.totals, model.filler.ages


def _totals(old: Network32, news: Sequence[Network32]) -> Network32:
    """The windows of all keepers together, (rates, ROW_WORDS)."""
    added = old.copy()
    for rate in range(len(old)):
        added[rate] = merge_windows(old[rate].copy(), np.stack([new[rate] for new in news]))
    return added


def _differs(old: DenseState, new: DenseState) -> bool:
    pairs: Sequence[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]] = list(
        zip(old, new, strict=True)
    )
    return any((a != b).any() for a, b in pairs)


def _bias(old: Floats, news: Sequence[Floats], sightings: Sequence[npt.NDArray[np.int64]]) -> Floats:
    logs = np.stack(sightings) * np.log(BIAS_KEEP)  # (shards, targets)
    added = _forgetting(_natural(old), [_natural(new) for new in news], [log[:, None] for log in logs])
    mean, variance = added[:, 0] / added[:, 1], np.minimum(1.0 / added[:, 1], BIAS_VARIANCE)
    return _alone(old, news, np.stack([mean, variance], axis=1))


def _natural(bias: Floats) -> Floats:
    """(precision times mean, precision) of (mean, variance), (targets, 2)."""
    return np.stack([bias[:, 0] / bias[:, 1], 1.0 / bias[:, 1]], axis=1)


def _values(old: Floats, news: Sequence[Floats]) -> Floats:
    added = old.copy()
    sums = _sums(old) + sum(_sums(new) - _sums(old) for new in news)  # (targets, 3)
    n = sums[:, 0]
    some = n > 0.0
    added[:, LABELS] = n
    added[some, MEAN] = sums[some, 1] / n[some]
    added[some, SQUARES] = np.maximum(sums[some, 2] - sums[some, 1] ** 2 / n[some], 0.0)
    labels = [new[:, LABELS] - old[:, LABELS] for new in news]
    start = old[:, LABELS] + RATE_START
    moved = [np.minimum(np.log(start / (start + k)), k * np.log1p(-RATE_MIN)) for k in labels]
    averaged = _forgetting(old[:, NOISE], [new[:, NOISE] for new in news], moved)
    added[:, NOISE] = averaged.clip(NOISE_MIN, NOISE_MAX)
    added[:, SCORED] = old[:, SCORED] + sum(new[:, SCORED] - old[:, SCORED] for new in news)
    scored = [(new[:, SCORED] - old[:, SCORED]) * np.log(CALIBRATION_KEEP) for new in news]
    for column in (LABEL_SUM, EXPECTED_SUM):
        added[:, column] = _forgetting(old[:, column], [new[:, column] for new in news], scored)
    return _alone(old, news, added)


def _sums(values: Floats) -> Floats:
    """How many labels, Σ y and Σ y² of each target, (targets, 3)."""
    n, m = values[:, LABELS], values[:, MEAN]
    return np.stack([n, n * m, values[:, SQUARES] + n * m * m], axis=1)


def _forgetting(old: Floats, news: Sequence[Floats], logs: Sequence[Floats]) -> Floats:
    """What shards made of numbers of which a share, ln D_r = `logs`, was kept."""
    everywhere = [np.broadcast_to(log, old.shape) for log in logs]
    gain = sum(new - np.exp(log) * old for new, log in zip(news, everywhere, strict=True))
    lost = sum(-np.expm1(log) for log in everywhere)
    return decayed(old, np.asarray(gain), np.asarray(sum(everywhere)), np.asarray(lost))


def _alone(old: Floats, news: Sequence[Floats], added: Floats) -> Floats:
    """`added`, but a target (row) that one shard alone has changed as that shard made it."""
    changed = np.stack([(new != old).any(axis=1) for new in news])  # (shards, targets)
    for target in np.flatnonzero(changed.sum(axis=0) < 2):
        makers = np.flatnonzero(changed[:, target])
        added[target] = news[makers[0]][target] if len(makers) else old[target]
    return added
