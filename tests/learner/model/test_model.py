"""Features, the fast part against its formulas, the deep part against torch."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from ground.keys import hash_string
from learner.deep.dcn_train import DCNTrainer
from learner.deep.networks import DCN, InputLayout
from learner.errors import FeatureError
from learner.features.encoder import Encoder, FeatureSpec, Request
from learner.lessons import Lessons
from learner.metrics import auc
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.types import Example, Features

ID = FeatureSpec()


def test_encoder_keeps_all_64_bits_and_hashes_strings() -> None:
    encoder = Encoder({"a": ID})
    candidates = [{"a": v} for v in (0, -1, 2**63 - 1, -(2**63), "ann")]
    keys = encoder.encode([Request(0.0, {}, candidates)]).rows.key.tolist()  # type: ignore[arg-type]
    assert keys == [0, 2**64 - 1, 2**63 - 1, 2**63, hash_string("ann")]


def test_encoder_pairs_every_two_features_and_candidate_wins_over_context() -> None:
    encoder = Encoder({"u": ID, "i": ID, "tags": FeatureSpec(kind="ids")})
    assert encoder.column_names() == ["u", "i", "tags", "u*i", "u*tags", "i*tags"]
    batch = encoder.encode([Request(0.0, {"u": 1, "i": 9}, [{"i": 2, "tags": [5, 6, 5]}])])
    assert batch.rows.column.tolist() == [0, 1, 2, 2, 3, 4, 4, 5, 5]
    assert batch.rows.key[1] == 2
    assert batch.rows.x[2] == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("id", 1.5), ("id", [1]), ("ids", 3), ("ids", "x"), ("number", "1"), ("number", [1]), ("hour", 1.5)],
)
def test_value_of_another_kind_is_refused_by_name(kind: str, value: object) -> None:
    encoder = Encoder({"feature": FeatureSpec(kind=kind)})  # type: ignore[arg-type]
    with pytest.raises(FeatureError, match=rf"feature feature \(kind {kind}\)"):
        encoder.encode([Request(0.0, {}, [{"feature": value}])])  # type: ignore[dict-item]


def test_hour_comes_from_the_time_unless_it_is_given() -> None:
    encoder = Encoder({"hour": FeatureSpec(kind="hour")})
    batch = encoder.encode([Request(7 * 3600.0 + 1, {}, [{}, {"hour": 3}])])
    assert batch.rows.key.tolist() == [7, 3]


def test_fast_part_follows_the_formulas() -> None:
    """One feature, one speed, no counts, no pairs: the recursion written out in plain Python."""
    settings = LearnerSettings(deep="none", speeds=(0.99,), speed_tau=(0.3,))
    learner = Learner({"a": FeatureSpec(counts=False)}, settings)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, 300).tolist()
    labels = [float(rng.random() < 0.2 + 0.15 * i) for i in ids]
    expected = []
    b, L = [0.0] * 5, [0.0] * 5
    tau, theta, grad2, w0, P0 = 0.3, 0.0, 0.1, 0.0, 4.0
    for i, y in zip(ids, labels, strict=True):
        P = 1 / (1 / tau + L[i])
        mu = b[i] * P
        s2 = P0 + P
        p = 1 / (1 + math.exp(-(w0 + mu) / math.sqrt(1 + 0.3927 * s2)))
        expected.append(p)
        h, e = p * (1 - p), y - p
        d = 1 / (1 + h * s2)
        mu2, P2 = mu + P * e * d, P - P * P * h * d
        L[i], b[i] = 0.99 * (1 / P2 - 1 / tau), 0.99 * mu2 / P2
        g = e * mu * P / tau
        grad2 += g * g
        theta = min(max(theta + 0.3 * g / math.sqrt(grad2), -5), 3)
        tau = min(max(0.3 * math.exp(theta), 1e-4), 20)
        w0, P0 = w0 + P0 * e * d, min((P0 - P0 * P0 * h * d) / 0.9999, 4.0)
    done = learner.learn(
        [
            Example(str(n), 1e9 + n, 1e9 + n, [{"a": i}], [y])
            for n, (i, y) in enumerate(zip(ids, labels, strict=True))
        ]
    )
    done += learner.finish()
    # Weights rest in float32 between events.
    assert np.concatenate([g.p for g in done]) == pytest.approx(expected, abs=2e-5)


def examples_of(candidates: list[dict[str, int]], labels: npt.NDArray[np.bool_]) -> list[Example]:
    return [
        Example(str(n), 1e9 + n, 1e9 + n, [candidate], [float(y)])  # type: ignore[list-item]
        for n, (candidate, y) in enumerate(zip(candidates, labels, strict=True))
    ]


def test_pairs_follow_a_taste_that_turns() -> None:
    """Who likes what turns over after 3,000 sightings; only a pair's faster weight can follow at once."""
    rng = np.random.default_rng(5)
    user, kind = rng.integers(0, 2, (2, 3_600))
    liked = (user == kind) ^ (np.arange(3_600) >= 3_000)
    labels = rng.random(3_600) < np.where(liked, 0.8, 0.2)
    examples = examples_of(
        [{"user": u, "kind": k} for u, k in zip(user.tolist(), kind.tolist(), strict=True)], labels
    )
    features = {"user": FeatureSpec(), "kind": FeatureSpec()}
    losses = []
    for speeds, tau in (((1.0, 0.98), (0.02, 0.015)), ((1.0,), (0.02,))):
        learner = Learner(features, LearnerSettings(deep="none", pair_speeds=speeds, pair_tau=tau))
        p = np.concatenate([g.p for g in learner.learn(examples) + learner.finish()])[-300:]
        losses.append(float(-np.log(np.where(labels[-300:], p, 1.0 - p)).mean()))
    assert losses[0] < np.log(2.0) < losses[1]


def test_deep_part_hears_little_of_what_is_of_no_use() -> None:
    rng = np.random.default_rng(6)
    a, noise = rng.integers(0, 4, 4_000), rng.integers(0, 50, 4_000)
    examples = examples_of(
        [{"a": i, "noise": j} for i, j in zip(a.tolist(), noise.tolist(), strict=True)],
        rng.random(4_000) < 0.1 + 0.25 * a,
    )
    learner = Learner({"a": FeatureSpec(), "noise": FeatureSpec(pairs=False)}, LearnerSettings())
    model = learner.model
    learner.learn(examples)
    learner.finish()
    batch = model.encoder.encode(examples[-8:])
    predicted = model.predict(batch)
    assert (predicted.outputs.embedding_scale[:, 0] > 0.95).all()
    assert (predicted.outputs.embedding_scale[:, 1] < 0.6).all()
    model.readers = None  # table by table, as where sequences attend
    assert model.predict(batch).z == pytest.approx(predicted.z, abs=1e-6)
    model.fast.priors.tau[:] = model.fast.priors.tau0  # at full scale again
    assert abs(model.predict(batch).z - predicted.z).max() > 0.01


def test_deep_part_quarantines_a_group_whose_loss_is_not_finite() -> None:
    width = 5
    network = DCN(InputLayout((2,), width))
    flat = network.initial_weights(0)
    before = flat.copy()
    moments = np.zeros((2, len(flat)), dtype=np.float32)
    trainer = DCNTrainer(network, flat, moments, 0, rate=1e-3, clip=1.0, threads=1)
    inputs = np.full((4, width), np.nan, dtype=np.float32)
    assert trainer.step(inputs, 2, np.zeros(4), Lessons.plain(np.ones(4))) is None
    assert np.array_equal(flat, before) and not moments.any()


def test_thinned_negatives_leave_the_served_probability_unbiased() -> None:
    """Negatives kept at rate 0.1, with ln 0.1 in the example: the model says the true rate."""
    rng = np.random.default_rng(2)
    learner = Learner({"a": FeatureSpec()}, LearnerSettings(deep="none"))
    rates = [0.02, 0.1]
    examples = []
    for n in range(30_000):
        i = int(rng.integers(0, 2))
        y = float(rng.random() < rates[i])
        if y or rng.random() < 0.1:
            examples.append(Example(str(n), 1e9 + n, 1e9 + n, [{"a": i}], [y], log_odds=math.log(0.1)))
    learner.learn(examples)
    p = learner.model.score_requests([Request(2e9, {}, [{"a": 0}, {"a": 1}])]).p
    assert p == pytest.approx(rates, rel=0.25)


def test_shuffled_labels_give_no_auc_on_slates() -> None:
    """If a candidate were learnt before its neighbours are predicted, this would be far above one half."""
    rng = np.random.default_rng(3)
    examples = []
    for n in range(3000):
        labels = np.zeros(5)
        labels[rng.integers(0, 5)] = rng.random() < 0.5
        slate = [{"item": int(i)} for i in rng.integers(0, 50, 5)]
        context = {"user": n // 3, "session": n}
        examples.append(Example(str(n), 1e9 + n, 1e9 + n, slate, labels.tolist(), context))  # type: ignore[arg-type]
    features = {"user": ID, "session": ID, "item": ID}
    learner = Learner(features, LearnerSettings())
    done = learner.learn(examples) + learner.finish()
    p, y = np.concatenate([g.p for g in done]), np.concatenate([g.y for g in done])
    assert auc(p, y) == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_deep_part_learning_beside_the_fast_part_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    examples = [
        Example(
            str(n),
            1e9 + 40 * n,
            1e9 + 40 * n,
            [{"item": int(i), "tags": [int(i) % 7, int(i) % 5]} for i in rng.integers(0, 300, 1 + n % 3)],
            (rng.random(1 + n % 3) < 0.4).astype(float).tolist(),
            {"user": int(rng.integers(0, 100))},
        )
        for n in range(1000)
    ]
    features = {
        "user": FeatureSpec(ttl_s=7200),
        "item": FeatureSpec(dim=8),
        "tags": FeatureSpec(kind="ids", dim=8),
    }
    found = []
    for beside, chunk in ((False, 1000), (False, 150), (True, 150), (True, 77)):
        learner = Learner(features, LearnerSettings(), beside=beside)
        learner.meta.epoch = 1
        done = [g for i in range(0, 1000, chunk) for g in learner.learn(examples[i : i + chunk])]
        done += learner.settle()
        found.append((learner.digest(), np.concatenate([g.z for g in done]).tobytes()))
    assert found[0] == found[1] == found[2] == found[3]


def test_rows_read_in_one_call_score_as_those_read_table_by_table() -> None:
    """The quick way of `score` beside the way of learning, on rows that expire and lists of ids."""
    schema = {
        "user": FeatureSpec(dim=3, ttl_s=40.0),
        "tags": FeatureSpec(kind="ids", dim=5),
        "item": FeatureSpec(dim=4),
    }
    learner = Learner(schema, LearnerSettings(group=16))
    rng = np.random.default_rng(3)
    for i in range(120):
        items = rng.integers(0, 30, 3).tolist()
        candidates: list[Features] = [{"item": j, "tags": [j % 4, f"t{j % 5}"]} for j in items]
        labels = rng.integers(2, size=3).astype(float).tolist()
        learner.learn([Example(str(i), 1e9 + i, 1e9 + i, candidates, labels, {"user": int(rng.integers(8))})])
    learner.settle()
    model = learner.model
    asked = [
        Request(1e9 + at, {"user": u}, [{"item": j, "tags": [j % 4, 9]} for j in (1, 1, 5, 99)])
        for at, u in ((119, 1), (125, 2), (155, 3), (300, 1))
    ]
    batch = model.encoder.encode(asked)
    assert model.readers is not None
    quick = model.score(batch)
    model.readers = None
    slow = model.score(batch)
    for mine, theirs in zip(quick[:3], slow[:3], strict=True):
        assert np.array_equal(mine, theirs)
    assert all(np.array_equal(a, b) for a, b in zip(quick.rows, slow.rows, strict=True))
    assert quick.unknown == slow.unknown > 0
