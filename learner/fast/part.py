"""The fast part: a Bayesian linear model that learns event by event, in order.

Weight columns (index t into the priors) come in this order: each feature at every speed, the count columns,
each pair at every speed of pairs. The weights of features and pairs are in table rows. A batch's distinct
rows are copied together before they are used here. The weights of count columns are an array of this class.

The deep part overfits to noise if it has many features. So it learns little from features in which the fast
part has found no signal: it scales the embedding of feature j by g_j. τ/τ0 is the remaining share of the
prior variance of a weight column; the maximum is over the slowest weights of the feature and of its pairs:

    g_j = min(1, sqrt(max_c τ_c / τ0_c))
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.kernels import bayes
from learner.fast.kernels import BIAS_VARIANCE, learn_requests, predict_rows, write_scales
from learner.fast.late import CAME
from learner.fast.spread import COLUMNS, IS_VALUE, NOISE
from learner.features.encoder import Encoder
from learner.lessons import Lessons
from learner.settings import LearnerSettings

FURTHER_PAIR_SPEEDS = 1
"""Speeds of a pair's weight for a target beyond the first: most rows are pairs, and a second speed for each
target would cost a quarter of their bytes again."""

COUNT_BUCKETS = 64
"""⌊2·log₂(1 + n)⌋ of a 32-bit count is at most 63."""


class FastInputs(NamedTuple):
    """A batch's rows with their weights gathered. R requests, n rows, E entries, D distinct weights rows."""

    requests: npt.NDArray[np.int64]  # (R + 1,)
    start: npt.NDArray[np.int64]  # (n + 1,)
    column: npt.NDArray[np.int32]  # (E,)
    x: npt.NDArray[np.float32]  # (E,)
    place: npt.NDArray[np.int64]  # (E,), into the D weights rows; -1: no row, prior only
    # (b, L) per target and speed, then zeros; moved by learning
    weights: npt.NDArray[np.float32]  # (D, weights_width)
    counts: npt.NDArray[np.uint32]  # (D,), sightings before; moved in place by learning


class FastOutputs(NamedTuple):
    """The predictions of n rows, each made before anything of the row's request was learned."""

    logit: npt.NDArray[np.float64]  # (n,), f
    variance: npt.NDArray[np.float64]  # (n,), s² of f
    means: npt.NDArray[np.float32]  # (n, T), Σ x μ of each weight column
    buckets: npt.NDArray[np.int32]  # (n, C), count bucket of each counted feature, -1 if it is absent
    # Posterior deviation over prior deviation of each entry's slowest weight, after the row was learned (if
    # it was): sqrt(P / τ) = 1 / sqrt(1 + τ L).
    left: npt.NDArray[np.float32]  # (E,), of entries
    counts_left: npt.NDArray[np.float32]  # (n, C), of count columns
    embedding_scale: npt.NDArray[np.float32]  # (n, F), g: the scale of each embedding in the deep part
    # (centre, unit, noise) of a value's units, see `learner.fast.spread`; of an event (0, 1, 0).
    spread: npt.NDArray[np.float64]  # (n, 3); (n, 0) where no target is a value
    credit: npt.NDArray[np.float64]  # (n,) of rows that are learned, see `learner.fast.late`; else (0,)


class WeightColumns(NamedTuple):
    """Which of T weights an entry has: of each feature one a speed, one a count, of each pair one a speed.

    Each of N targets has T weight columns of its own, one target after the other; those of a further target's
    pairs beyond the slowest are not used.
    """

    first_tau: npt.NDArray[np.int32]  # (columns,), a target's first weight column of each feature and pair
    column_speeds: npt.NDArray[np.int32]  # (N * columns,), how many each target has; 0 for sequences
    weight_at: npt.NDArray[np.int32]  # (N * columns,), where they begin in a row's weights
    count_of: npt.NDArray[np.int32]  # (columns,), its number among those counted, -1 if it is not
    counts_at: int  # the weight column of the first count
    width: int  # T


class DenseWeights(NamedTuple):
    """The weights that are in no table."""

    count_weights: npt.NDArray[np.float32]  # (N, C, COUNT_BUCKETS, 2), (b, L)
    bias: npt.NDArray[np.float64]  # (N, 2), mean, variance
    values: npt.NDArray[np.float64]  # (N, COLUMNS), see `learner.fast.spread`
    came: npt.NDArray[np.float64]  # (N, CAME), see `learner.fast.late`


class ScaleColumns(NamedTuple):
    """The weight columns scale_by[scale_at[j] : scale_at[j + 1]] scale feature j's embedding."""

    scale_at: npt.NDArray[np.int64]  # (F + 1,)
    scale_by: npt.NDArray[np.int64]


class Scratch(NamedTuple):
    """The m weights of one row, while a kernel works on it."""

    w: npt.NDArray[np.float64]  # (m, 2), (b, L)
    column: npt.NDArray[np.int32]  # (m,), weight columns
    x: npt.NDArray[np.float64]  # (m,)
    mean: npt.NDArray[np.float64]  # (m,), posterior
    variance: npt.NDArray[np.float64]  # (m,), posterior


class FastPart:
    """State of the fast part beside the tables: priors, bias, count columns.

    Args:
        encoder: its schema says which columns there are.
        settings: speeds and where the prior variances start.
        kinds: of the targets, in their order.
    """

    def __init__(self, encoder: Encoder, settings: LearnerSettings, kinds: Sequence[str]) -> None:
        self.targets = len(kinds)
        self.any_value = "value" in kinds
        speeds, pair_speeds = len(settings.speeds), len(settings.pair_speeds)
        fields, pairs = len(encoder.names), len(encoder.pairs)
        counted = [i for i, spec in enumerate(encoder.specs) if spec.counted]
        # Sequences and what Freshet keeps have no weights here: they are no columns of the fast part.
        linear = [i for i in range(fields) if i not in encoder.sequences and i not in encoder.states]
        counts_at = len(linear) * speeds
        first_tau = np.zeros(encoder.columns, dtype=np.int32)
        first_tau[linear] = np.arange(len(linear)) * speeds
        first_tau[fields:] = counts_at + len(counted) + np.arange(pairs) * pair_speeds
        column_speeds = np.zeros((self.targets, encoder.columns), dtype=np.int32)
        column_speeds[:, linear] = speeds
        column_speeds[0, fields:] = pair_speeds
        column_speeds[1:, fields:] = FURTHER_PAIR_SPEEDS
        weight_at = 2 * (np.cumsum(column_speeds, axis=0, dtype=np.int32) - column_speeds)
        count_of = np.full(encoder.columns, -1, dtype=np.int32)
        count_of[counted] = np.arange(len(counted))
        decide = [[c for c in (i, *encoder.pair_columns(i)) if column_speeds[0, c]] for i in range(fields)]
        self.scale_columns = ScaleColumns(
            np.cumsum([0, *(len(columns) for columns in decide)]),
            np.array([first_tau[c] for columns in decide for c in columns], dtype=np.int64),
        )
        # The weight that each column of an error memory goes on learning: the slowest of a feature or pair,
        # those of counts, then the next faster one of each feature and pair, where there is one.
        faster = first_tau + (column_speeds[0] > 1)
        self.remembered = np.concatenate([first_tau, counts_at + np.arange(len(counted)), faster])
        self.speeds = max(speeds, pair_speeds)  # of an entry, at most
        self.counted = len(counted)
        tau = (
            list(settings.speed_tau) * len(linear)
            + [settings.count_tau] * len(counted)
            + list(settings.pair_tau) * pairs
        )
        keep = list(settings.speeds) * len(linear) + [1.0] * len(counted) + list(settings.pair_speeds) * pairs
        self.priors = bayes.make_priors(tau * self.targets, keep * self.targets)
        self.columns = WeightColumns(
            first_tau, column_speeds.ravel(), weight_at.ravel(), count_of, counts_at, len(tau)
        )
        values = np.zeros((self.targets, COLUMNS))
        values[:, NOISE] = 1.0
        values[:, IS_VALUE] = [kind == "value" for kind in kinds]
        self.dense = DenseWeights(
            np.zeros((self.targets, max(self.counted, 1), COUNT_BUCKETS, 2), dtype=np.float32),
            np.tile([0.0, BIAS_VARIANCE], (self.targets, 1)),
            values,
            np.zeros((self.targets, CAME)),
        )

    @property
    def width(self) -> int:
        """How many weight columns (T) a target has."""
        return self.columns.width

    @property
    def weights_width(self) -> int:
        """The width of the longest row's weights."""
        return int(2 * self.columns.column_speeds.reshape(self.targets, -1).sum(axis=0).max())

    def speeds_of(self, target: int) -> npt.NDArray[np.int32]:
        """How many weights each column has for one target, (columns,)."""
        return self.columns.column_speeds.reshape(self.targets, -1)[target]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything this part must save; the arrays themselves, not copies."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "tau": self.priors.tau,
            "theta": self.priors.theta,
            "grad2": self.priors.grad2,
            "bias": self.dense.bias,
            "count_weights": self.dense.count_weights,
        }
        return found | ({"values": self.dense.values} if self.any_value else {})

    def memory_priors(self, target: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(prior variance, share of evidence kept at each sighting) of an error memory's columns."""
        mine = target * self.width + self.remembered
        return self.priors.tau[mine], self.priors.keep[mine]

    def run(
        self,
        inputs: FastInputs,
        lessons: Lessons | None = None,
        target: int = 0,
    ) -> FastOutputs:
        """Predict each request whole and, if lessons are given, then learn it, request by request.

        Args:
            inputs: the batch; its weights and counts are moved in place by learning.
            lessons: of its n rows; None predicts only and changes nothing.
            target: the number of the target to predict; lessons have their own.
        """
        n = len(inputs.start) - 1
        outputs = FastOutputs(
            logit=np.empty(n),
            variance=np.empty(n),
            means=np.zeros((n, self.width), dtype=np.float32),
            buckets=np.full((n, self.counted), -1, dtype=np.int32),
            left=np.ones(len(inputs.column), dtype=np.float32),
            counts_left=np.ones((n, self.counted), dtype=np.float32),
            embedding_scale=np.empty((n, len(self.scale_columns.scale_at) - 1), dtype=np.float32),
            spread=np.empty((n, 3 if self.any_value else 0)),
            credit=np.zeros(n if lessons is not None else 0),
        )
        if n == 0:
            return outputs
        weights_max = int(np.diff(inputs.start).max()) * self.speeds + self.counted  # of one row
        scratch = Scratch(
            np.empty((weights_max, 2)), np.empty(weights_max, dtype=np.int32), *np.empty((3, weights_max))
        )
        if lessons is None:
            predict_rows(inputs, target, self.columns, self.dense, self.priors.tau, outputs, scratch)
            tau_at = target * self.width
            write_scales(
                self.priors.tau, self.priors.tau0, tau_at, *self.scale_columns, outputs.embedding_scale
            )
            return outputs
        learn_requests(
            inputs, lessons, self.columns, self.dense, self.priors, self.scale_columns, outputs, scratch
        )
        return outputs
