"""Weights and corrections: what a row is learned from, and what it leaves behind."""

import numpy as np
import numpy.typing as npt
import pytest

from error_memory import MemorySettings, make_memory
from ground.rows import rows_from_keys
from learner.deep.trainer import by_logits
from learner.features.encoder import Batch, FeatureSpec
from learner.features.labelled import Labelled
from learner.lessons import Lessons
from learner.metrics import Metrics, losses, summarize
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from learner.train.waiting import PendingRows
from stream.records.types import Example

pytestmark = pytest.mark.slow

FAST = LearnerSettings(deep="none")
Row = tuple[float, float, float]
"""Label, weight, and the label learned before or NaN."""


def labelled_rows(model: Model, rows: list[Row]) -> Labelled:
    """Requests of one candidate each, all alike."""
    one = model.encoder.encode([Example("r", 1e9, 1e9, [{"a": 1}], [0.0])]).rows
    n = len(rows)
    y, weight, before = np.array(rows).T
    batch = Batch(
        np.arange(n + 1),
        np.full(n, 1e9),
        one._replace(
            start=np.arange(n + 1) * len(one.key),
            column=np.tile(one.column, n),
            key=np.tile(one.key, n),
            x=np.tile(one.x, n),
        ),
        np.zeros((n, 0), dtype=np.float32),
    )
    weight, before = np.ascontiguousarray(weight), np.ascontiguousarray(before)
    lessons = Lessons.plain(np.ascontiguousarray(y))._replace(weight=weight, before=before)
    return Labelled(batch, lessons, np.full(n, np.nan), np.zeros(n, dtype=np.bool_))


def delayed(p: float, late: float, n: int, wait: int = 200, seed: int = 0) -> list[Row]:
    """Labels of rate p, of whose positives a share comes `wait` examples late, as corrections."""
    rng = np.random.default_rng(seed)
    positive, held = rng.random(n) < p, rng.random(n) < late
    rows: list[Row] = []
    for i in range(n + wait):
        if i >= wait and positive[i - wait] and held[i - wait]:
            rows.append((1.0, 1.0, 0.0))
        if i < n:
            rows.append((float(positive[i] and not held[i]), 1.0, np.nan))
    return rows


@pytest.mark.parametrize(("p", "late"), [(0.03, 0.5), (0.1, 0.5), (0.3, 0.5), (0.3, 1.0)])
def test_late_positives_leave_no_bias(p: float, late: float) -> None:
    alone = LearnerSettings(deep="none", trust_margin=0.0)  # no part of the whole stream's rate
    trainer = Trainer(Model({"a": FeatureSpec(counts=False)}, alone, learning=True))
    done = trainer.learn_labelled(labelled_rows(trainer.model, delayed(p, late, 60_000))) + trainer.finish()
    predicted = np.concatenate([group.p[group.measured] for group in done])
    truth = np.random.default_rng(0).random(60_000) < p
    assert predicted[20_000:].mean() / truth[20_000:].mean() == pytest.approx(1.0, abs=0.01)


def in_bursts(p: float, late: float, n: int, every: int) -> tuple[list[Row], npt.NDArray[np.bool_]]:
    """As `delayed`, with the late labels held back and sent every so many examples; and the labels."""
    rng = np.random.default_rng(0)
    positive, held = rng.random(n) < p, rng.random(n) < late
    rows: list[Row] = []
    waiting = 0
    for i in range(n):
        rows.append((float(positive[i] and not held[i]), 1.0, np.nan))
        waiting += int(positive[i] and held[i])
        if (i + 1) % every == 0:
            rows += [(1.0, 1.0, 0.0)] * waiting
            waiting = 0
    return rows, positive


@pytest.mark.parametrize("deep", ["none", "dcn"])
@pytest.mark.parametrize(
    ("p", "late", "every"), [(0.1, 0.5, 500), (0.3, 1.0, 50), (0.3, 1.0, 500), (0.3, 0.8, 1_500)]
)
def test_corrections_that_come_all_at_once_leave_neither_bias_nor_swings(
    p: float, late: float, every: int, deep: str
) -> None:
    alone = LearnerSettings(deep=deep, trust_margin=0.0)  # type: ignore[arg-type]
    trainer = Trainer(Model({"a": FeatureSpec(counts=False)}, alone, learning=True))
    rows, positive = in_bursts(p, late, 15_000, every)
    done = trainer.learn_labelled(labelled_rows(trainer.model, rows)) + trainer.finish()
    predicted = np.concatenate([group.p[group.measured] for group in done])[6_000:]
    y = positive[6_000:].astype(np.float64)
    assert predicted.mean() / y.mean() == pytest.approx(1.0, abs=0.05)
    constant = losses(np.full(len(y), y.mean()), y).mean()
    assert losses(predicted, y).mean() < 1.2 * constant


def test_waiting_rows_keep_what_the_network_is_told_of_late_positives() -> None:
    trainer = Trainer(Model({"a": FeatureSpec(counts=False)}, LearnerSettings(), learning=True))
    rows, _ = in_bursts(0.3, 1.0, 2_015, 100)
    trainer.learn_labelled(labelled_rows(trainer.model, rows))
    waiting = trainer.pending
    assert waiting.credit.any()
    again = PendingRows.decode(waiting.encode(), waiting)
    assert all(
        (a == b).all()
        for a, b in zip(again.lessons_of_network[:3], waiting.lessons_of_network[:3], strict=True)
    )
    told = waiting.lessons_of_network.y
    assert ((told > 0.0) & (told < 1.0)).any() and (waiting.y[~np.isnan(waiting.before)] == 1.0).all()


def test_memory_of_a_frozen_base_takes_corrections_without_bias() -> None:
    memory = make_memory(MemorySettings(capacity=64), 1)
    memory.set_priors([0.3])
    rows = delayed(0.2, 0.5, 4_000, 100)
    y, weight, before = (np.ascontiguousarray(column) for column in np.array(rows).T)
    n = len(rows)
    keys = rows_from_keys(np.zeros((n, 1), dtype=np.uint64))
    base = np.full(n, 0.05)
    corrected = memory.observe(keys, base, y, np.arange(n), np.arange(n + 1), np.zeros(n), weight, before)
    assert corrected[-1_500:].mean() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("kind", ["residual", "sketch", "neighbours", "none"])
def test_memory_corrects_rows_without_weight_and_does_not_learn_them(kind: str) -> None:
    memory = make_memory(MemorySettings(kind=kind, capacity=64), 2)  # type: ignore[arg-type]
    keys, base = rows_from_keys(np.arange(8, dtype=np.uint64).reshape(4, 2)), np.full(4, 0.3)
    memory.observe(keys, base, np.ones(4), 0, weight=np.zeros(4))
    assert memory.evidence == 0
    assert memory.correct(keys, base).tolist() == base.tolist()


def stream(n: int, seed: int = 1) -> list[Example]:
    """Requests of one to three candidates: some without weight, some corrected later."""
    rng = np.random.default_rng(seed)
    examples: list[Example] = []
    for i in range(n):
        size = int(rng.integers(1, 4))
        candidates = [{"item": int(v)} for v in rng.zipf(1.3, size) % 97]
        labels = (rng.random(size) < 0.3).astype(float).tolist()
        weight = rng.choice([0.0, 0.5, 1.0, 3.0], size).tolist() if rng.random() < 0.4 else None
        context = {"user": int(rng.integers(0, 60))}
        at = 1e9 + 10.0 * i
        examples.append(Example(str(i), at, at, candidates, labels, context, weight=weight))
        if i % 7 == 3:
            old = examples[int(rng.integers(0, len(examples)))]
            ones = [1.0] * len(old.labels)
            flipped = [1.0 - y for y in old.labels]
            examples.append(
                Example(old.request_id, at, at, old.candidates, flipped, old.context, late=True, weight=ones,
                        before=old.labels)
            )  # fmt: skip
    return examples


SPECS = {
    "plain": {"user": FeatureSpec(), "item": FeatureSpec()},
    "admitted": {"user": FeatureSpec(admit_after=3), "item": FeatureSpec(admit_after=2, ttl_s=2_000)},
    "evicted": {"user": FeatureSpec(rows_max=64, evict="least_recent"), "item": FeatureSpec(rows_max=64)},
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("deep", ["none", "dcn"])
def test_any_cut_of_a_stream_with_weights_and_corrections_gives_the_same_state(spec: str, deep: str) -> None:
    examples = stream(400)
    digests = set()
    for size in (1, 7, 1_000):
        learner = Learner(SPECS[spec], LearnerSettings(deep=deep))  # type: ignore[arg-type]
        for first in range(0, len(examples), size):
            learner.learn(examples[first : first + size])
        digests.add(learner.digest())
    assert len(digests) == 1


@pytest.mark.slow
def test_candidates_without_weight_leave_no_trace() -> None:
    examples = stream(300)
    with_them, without = Learner(SPECS["admitted"], FAST), Learner(SPECS["admitted"], FAST)
    with_them.learn(examples)
    for example in examples:
        weight = example.weight or [1.0] * len(example.labels)
        kept = [i for i, w in enumerate(weight) if w > 0.0]
        if kept:
            left = Example(
                example.request_id, example.time, example.decided, [example.candidates[i] for i in kept],
                [example.labels[i] for i in kept], example.context, late=example.late,
                weight=[weight[i] for i in kept],
                before=None if example.before is None else [example.before[i] for i in kept],
            )  # fmt: skip
            without.learn([left])
    with_them.finish()
    without.finish()
    for one, other in zip(with_them.model.tables, without.model.tables, strict=True):
        assert one.digest(2_000_000_000) == other.digest(2_000_000_000) and len(one) == len(other)
    arrays = without.model.arrays()
    assert all((array == arrays[name]).all() for name, array in with_them.model.arrays().items())
    scored, expected = with_them.metrics.summary(), without.metrics.summary()
    assert scored["examples"] == expected["examples"]
    assert scored["logloss"] == pytest.approx(expected["logloss"])


def test_correction_is_no_sighting() -> None:
    learner = Learner({"item": FeatureSpec(admit_after=2)}, FAST)
    example = Example("r", 1e9, 1e9, [{"item": 5}], [0.0])
    corrected = Example("r", 1e9, 1e9, [{"item": 5}], [1.0], late=True, before=[0.0])
    learner.learn([example, corrected, corrected])
    assert len(learner.model.tables[0]) == 0
    learner.learn([example, corrected])
    table = learner.model.tables[0]
    assert table.counts(table.find(np.array([5], dtype=np.uint64))).tolist() == [1]
    learner.finish()
    assert learner.metrics.examples == 2


def test_deep_part_takes_the_difference_of_two_losses_times_the_weight() -> None:
    z, y = np.array([0.7, 0.7, -2.0]), np.array([1.0, 1.0, 0.0])
    weight, before = np.array([2.0, 3.0, 0.0]), np.array([np.nan, 0.0, np.nan])
    p = 1.0 / (1.0 + np.exp(-z))
    lessons = Lessons.plain(y)._replace(weight=weight, before=before)
    found = by_logits(z, lessons, z, 0.3)
    assert found == pytest.approx([0.7 * 2.0 * (p[0] - 1.0), -3.0, 0.0], rel=1e-6)


def test_weight_counts_an_example_so_often_in_every_metric() -> None:
    rng = np.random.default_rng(4)
    p, y = rng.random(500).round(2), (rng.random(500) < 0.4).astype(np.float64)
    group, often = rng.integers(0, 9, 500).astype(np.uint64), rng.integers(1, 4, 500)
    found = summarize(p, y, group, weight=often.astype(np.float64))
    repeated = summarize(p.repeat(often), y.repeat(often), group.repeat(often))
    for name in ("auc", "gauc", "logloss", "normalized_entropy", "calibration", "ece", "brier"):
        assert found[name] == pytest.approx(repeated[name]), name  # type: ignore[literal-required]
    assert (found["examples"], found["positives"]) == (500, int(y.sum()))
    metrics = Metrics(100)
    metrics.add(p, y, group, often.astype(np.float64))
    assert metrics.recent() == summarize(p[400:], y[400:], group[400:], weight=often[400:].astype(np.float64))
    assert metrics.summary()["logloss"] == pytest.approx(repeated["logloss"])
    again = Metrics(100)
    again.load(metrics.state())
    assert again.summary() == metrics.summary() and again.recent() == metrics.recent()


def test_metrics_of_a_state_from_before_there_were_weights_go_on() -> None:
    rng = np.random.default_rng(5)
    p, y = rng.random(300), (rng.random(300) < 0.4).astype(np.float64)
    metrics = Metrics(128)
    metrics.add(p, y, np.zeros(300, dtype=np.uint64))
    old = metrics.state()
    del old["c"]
    old["r"] = np.frombuffer(old["r"]).reshape(4, -1)[:3].tobytes()
    again = Metrics(128)
    again.load(old)
    assert again.summary() == metrics.summary() and again.recent() == metrics.recent()
