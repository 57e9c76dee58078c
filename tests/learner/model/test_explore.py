"""Thompson sampling: draws have the stated mean and variance, share what candidates share, repeat by seed."""

from typing import Any

import numpy as np
import pytest

from learner.features.encoder import FeatureSpec, Request
from learner.model.explore import beliefs_of, draw, sample_slate, seeds_of, thompson
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.types import Example

SCHEMA = {"user": FeatureSpec(), "item": FeatureSpec(), "tags": FeatureSpec(kind="ids")}
REQUEST = Request(
    2e9, {"user": 1}, [{"item": 0, "tags": [1, 2]}, {"item": 1, "tags": [3]}, {"item": 999, "tags": [4]}]
)


def learnt(deep: str, schema: dict[str, FeatureSpec] = SCHEMA, **settings: Any) -> Learner:
    """A learner of 600 examples, trusted although their labels are noise."""
    rng = np.random.default_rng(0)
    learner = Learner(schema, LearnerSettings(deep=deep, trust_margin=0.0, **settings))  # type: ignore[arg-type]
    learner.learn(
        [
            Example(str(i), 1e9 + i, 1e9 + i, [{"item": i % 7, "tags": [i % 3]}], [float(rng.random() < 0.3)],
                    {"user": i % 5})
            for i in range(600)
        ]
    )  # fmt: skip
    return learner


@pytest.mark.slow
def test_draws_have_the_mean_and_the_variance_that_the_fast_part_states() -> None:
    """A schema and speeds of which every weight lasts: then the draws' variance is all of the stated one."""
    schema = {name: FeatureSpec(counts=False, pairs=False) for name in ("user", "item")}
    learner = learnt("none", schema, speeds=(1.0,), speed_tau=(0.3,))
    model = learner.model
    before = learner.digest()
    outputs = model.fast.run(model.gather(model.encoder.encode([REQUEST]), insert=False).inputs)
    outputs.variance[:] -= model.fast.dense.bias[0, 1]  # which all candidates share: it is not drawn
    draws = np.stack([thompson(model, [REQUEST], seed) for seed in range(4000)])
    sd = np.sqrt(outputs.variance)
    assert draws.mean(axis=0) == pytest.approx(outputs.logit, abs=float(5 * sd.max() / np.sqrt(4000)))
    assert draws.var(axis=0) == pytest.approx(outputs.variance, rel=0.12)
    assert learner.digest() == before


def test_candidates_that_are_the_same_get_the_same_draw() -> None:
    model = learnt("none").model
    twins = Request(2e9, {"user": 77}, [{"item": 5}, {"item": 5}, {"item": 6}])
    for seed in range(20):
        a, b, c = thompson(model, [twins], seed)
        assert a == b != c
    assert np.array_equal(thompson(model, [twins], 3), thompson(model, [twins], 3))
    assert not np.array_equal(thompson(model, [twins], 3), thompson(model, [twins], 4))


def test_propensities_are_those_of_many_draws_within_their_stated_error() -> None:
    model = learnt("none").model
    request = Request(2e9, {"user": 1}, [{"item": i, "tags": [i % 3]} for i in (0, 1, 2, 3, 900, 901)])
    batch = model.encoder.encode([request])
    beliefs = beliefs_of(model, batch, model.predict(batch))
    shift = np.linspace(0.0, 0.2, 6)
    many = draw(beliefs, seeds_of(12345, 20_000)) + shift
    place = np.argsort(np.argsort(-many, axis=1, kind="stable"), axis=1)
    M = 199
    off, inverse, truths = [], [], []
    for seed in range(60):
        slate = sample_slate(beliefs, shift, seed, M)
        assert slate == sample_slate(beliefs, shift, seed, M)
        first = np.argsort(-(thompson(model, [request], seed) + shift), kind="stable")
        assert slate.order == first.tolist()
        for at, candidate in enumerate(slate.order):
            P = float((place[:, candidate] == at).mean())
            q = slate.propensity[candidate]
            assert 0.0 < q <= 1.0
            off.append((q - P - (1.0 - P) / (M + 1)) / np.sqrt(P * (1.0 - P) / M))
            truths.append(P)
            inverse.append(1.0 / q * P)
    assert abs(np.mean(off)) < 0.3 and 0.8 < np.std(off) < 1.2  # the stated bias and error
    assert np.mean(inverse) == pytest.approx(np.mean(1.0 - (1.0 - np.array(truths)) ** (M + 1)), abs=0.03)


def test_deep_residual_is_added_to_the_draw() -> None:
    model = learnt("dcn").model
    alone = learnt("none").model
    residual = thompson(model, [REQUEST], 1) - thompson(alone, [REQUEST], 1)
    assert np.abs(residual).max() > 1e-3
    assert thompson(model, [REQUEST], 2) - thompson(alone, [REQUEST], 2) == pytest.approx(residual)


def test_weights_that_forget_pairs_and_counts_are_not_drawn() -> None:
    forgetful = learnt("none", speeds=(0.99, 0.9), speed_tau=(0.3, 0.1)).model
    outputs = forgetful.fast.run(forgetful.gather(forgetful.encoder.encode([REQUEST]), insert=False).inputs)
    assert np.array_equal(thompson(forgetful, [REQUEST], 5), outputs.logit)
