"""What holds for every network of the deep part, predicting and training. A new one is found by itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from learnable import ALONE, history_examples, history_schema, last_auc, xor_examples

from learner.deep import networks
from learner.deep.dcn_predict import prediction_of
from learner.deep.networks import NETWORKS, InputLayout, Network, make_network
from learner.deep.trainer import DeepTrainer
from learner.features.encoder import Request
from learner.lessons import Lessons
from learner.model.model import Model
from learner.role.learner import Learner
from learner.settings import DEEP, LearnerSettings
from learner.train.trainer import Trainer, trainer_of
from learner.updates.follower import Follower
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.open import open_log
from stream.log.testing import MemoryLog
from stream.records.types import encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow  # importing PyTorch takes seconds

if TYPE_CHECKING:
    import torch
    from float64_step import reference, unit, within

    from learner.deep.autograd import AutogradTrainer


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import PyTorch when a test here runs: at the collection it would cost every process four seconds."""
    global torch, reference, unit, within, AutogradTrainer
    import torch
    from float64_step import reference, unit, within

    from learner.deep.autograd import AutogradTrainer


LAYOUT = InputLayout((4, 4, 4), 17)
LAYOUTS = (LAYOUT, InputLayout((2,), 6), InputLayout((16,) * 8, 197))
WANTED = sum(LAYOUT.embeddings)
LINEAR = ("logistic",)
"""Networks that add nothing to a sum over ids."""

EVERY = pytest.mark.parametrize("name", NETWORKS)
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS, ids=["usual", "narrow", "wide"])


def weights_of(network: Network, scale: float = 0.3) -> np.ndarray:
    """Random weights, the last layer's included."""
    return np.random.default_rng(1).normal(0, scale, network.weight_count).astype(np.float32)


def inputs_of(rows: int, layout: InputLayout = LAYOUT, seed: int = 2, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (rows, layout.width)).astype(np.float32)


def group(rows: int = 32, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, offsets and labels of a group to learn: clicks where two inputs have the same sign."""
    rng = np.random.default_rng(seed)
    inputs = inputs_of(rows, seed=seed)
    y = (inputs[:, 0] * inputs[:, 4] > 0).astype(np.float64)
    return inputs, rng.normal(0, 0.5, rows), y


def make_trainer(name: str, layout: InputLayout = LAYOUT, clip: float = 1e9, **more: float) -> DeepTrainer:
    network = make_network(name, layout)
    flat, moments = weights_of(network, 0.1), np.zeros((2, network.weight_count), dtype=np.float32)
    return trainer_of(network)(network, flat, moments, 0, rate=1e-3, clip=clip, **{"threads": 1, **more})


def state_of(trainer: DeepTrainer) -> tuple[bytes, bytes, int]:
    return trainer.flat.tobytes(), trainer.moments.tobytes(), trainer.steps


def test_names_are_those_of_the_setting_and_no_network_is_left_out() -> None:
    written = [
        found for found in vars(networks).values()
        if isinstance(found, type) and issubclass(found, Network) and found is not Network
    ]  # fmt: skip
    assert set(written) == set(NETWORKS.values())
    assert {*NETWORKS, "none"} == set(DEEP)


# Weights


@EVERY
@EVERY_LAYOUT
def test_weights_by_name_are_views_that_cover_the_vector_once(name: str, layout: InputLayout) -> None:
    network = make_network(name, layout)
    flat = np.arange(network.weight_count, dtype=np.float32)
    views = network.split(flat)
    assert {key: view.shape for key, view in views.items()} == network.shapes()
    assert np.array_equal(np.concatenate([view.ravel() for view in views.values()]), flat)
    for view in views.values():
        view[...] = -1.0
    assert (flat == -1.0).all()


@EVERY
@EVERY_LAYOUT
def test_first_weights_follow_from_the_seed_and_say_nothing(name: str, layout: InputLayout) -> None:
    network = make_network(name, layout)
    first = network.initial_weights(0)
    assert first.dtype == np.float32 and first.shape == (network.weight_count,)
    assert np.array_equal(first, network.initial_weights(0))
    hidden = {key: view for key, view in network.split(first).items() if view.ndim == 2}
    assert bool(hidden) == (not np.array_equal(first, network.initial_weights(1)))
    for view in hidden.values():
        assert 0.0 < np.abs(view).max() <= 1.0 / np.sqrt(view.shape[1])
    assert not network.forward(network.split(first), inputs_of(5, layout)).any()


# Prediction


@EVERY
@EVERY_LAYOUT
def test_prediction_is_that_of_float64_in_numpy_in_torch_and_fast(name: str, layout: InputLayout) -> None:
    network = make_network(name, layout)
    flat, inputs = weights_of(network), inputs_of(50, layout)
    wide = flat.astype(np.float64), inputs.astype(np.float64)
    expected = network.forward(network.split(wide[0]), wide[1])  # type: ignore[arg-type]
    sums = network.forward(network.split(np.abs(wide[0])), np.abs(wide[1]))  # type: ignore[arg-type]
    error = sums * unit(layout, 1)
    within(network.forward(network.split(flat), inputs), expected, error)
    trainer = AutogradTrainer(network, flat, np.zeros((2, len(flat)), np.float32), 0, 1e-3, 1e9, 1)
    within(trainer.predict(inputs), expected, error)
    z = np.full(50, 2.0)
    prediction_of(network, network.split(flat))(inputs, z)
    within(z, 2.0 + expected, error)  # it is added to what is there


@EVERY
def test_prediction_changes_neither_weights_nor_inputs(name: str) -> None:
    network = make_network(name, LAYOUT)
    flat, inputs = weights_of(network), inputs_of(20)
    before = flat.copy(), inputs.copy()
    prediction_of(network, network.split(flat))(inputs, np.zeros(20))
    assert np.array_equal(flat, before[0]) and np.array_equal(inputs, before[1])


@EVERY
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_row_that_is_not_finite_harms_no_other_row(name: str, wrong: float) -> None:
    network = make_network(name, LAYOUT)
    predict = prediction_of(network, network.split(weights_of(network)))
    inputs = inputs_of(70)
    clean, z = np.zeros(70), np.zeros(70)
    predict(inputs, clean)
    inputs[3] = wrong
    with np.errstate(invalid="ignore"):  # numpy says that infinities cancel
        predict(inputs, z)
    others = np.arange(70) != 3
    assert np.array_equal(z[others], clean[others])
    assert not np.isfinite(z[3])


@EVERY
def test_rows_alone_and_together_are_predicted_alike_and_none_is_fine(name: str) -> None:
    network = make_network(name, LAYOUT)
    predict = prediction_of(network, network.split(weights_of(network)))
    inputs = inputs_of(130)
    together = np.zeros(130)
    predict(inputs, together)
    alone = np.zeros(130)
    for row in range(130):
        predict(inputs[row : row + 1], alone[row : row + 1])
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-5)
    predict(inputs[:0], np.zeros(0))


@EVERY
def test_threads_that_predict_at_once_get_what_one_gets_alone(name: str) -> None:
    network = make_network(name, LAYOUT)
    predict = prediction_of(network, network.split(weights_of(network)))
    parts = [inputs_of(40, seed=seed) for seed in range(4)]

    def ask(part: np.ndarray) -> np.ndarray:
        z = np.zeros(40)
        predict(part, z)
        return z

    expected = [ask(part) for part in parts]
    wrong: list[int] = []

    def many_times(which: int) -> None:
        wrong.extend(which for _ in range(200) if not np.array_equal(ask(parts[which]), expected[which]))

    threads = [threading.Thread(target=many_times, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Training


@EVERY
@pytest.mark.parametrize(
    ("rows", "layout", "correction"),
    [
        (32, LAYOUTS[2], 0.0),  # longer than one block of a product
        (35, InputLayout((16, 16), 48), 0.3),  # rows that are no whole vector, and self-correction
        (3, LAYOUTS[1], 0.0),
        (300, InputLayout((8, 8, 8), 400), 0.0),
    ],
    ids=["wide", "corrected", "few", "many"],
)
def test_step_is_that_of_a_float64_reference(
    name: str, rows: int, layout: InputLayout, correction: float
) -> None:
    clip, wanted = 2.0, sum(layout.embeddings)
    trainer = make_trainer(name, layout, clip, correction=correction)
    rng = np.random.default_rng(5)
    for size in (1.0, 3.0):  # the second group's gradient is so large that it is clipped
        inputs = rng.normal(0, size, (rows, layout.width)).astype(np.float32)
        offset, y, last = rng.normal(0, 1, rows), (rng.random(rows) < 0.5).astype(np.float64), np.zeros(rows)
        wanted_of = reference(trainer.network, trainer.flat, inputs, offset, y, last, correction)
        before, weights = trainer.moments[0].astype(np.float64), trainer.flat.copy()
        step = trainer.step(inputs.copy(), wanted, offset, Lessons.plain(y), last)
        assert step is not None
        within(step.z, wanted_of.z, wanted_of.z_error)
        within(step.by_inputs, wanted_of.by_inputs[:, :wanted], wanted_of.by_inputs_error[:, :wanted])
        norm = np.sqrt((wanted_of.gradient**2).sum()) / rows
        scale = 0.1 / rows * min(1.0, clip / norm)
        expected = 0.9 * before + scale * wanted_of.gradient
        error = scale * wanted_of.gradient_error + 1e-6 * np.abs(expected) + 1e-6 * np.abs(before)
        norm_error = np.sqrt((wanted_of.gradient_error**2).sum()) / rows / norm
        # Adam's first moment is a tenth of the mean gradient, and nine tenths of what it was
        within(trainer.moments[0], expected, error + norm_error * np.abs(expected) * (norm > clip))
        assert np.abs(trainer.flat - weights).max() < 1e-2
    assert trainer.steps == 2


@EVERY
def test_gradient_reaches_every_weight_and_every_embedding(name: str) -> None:
    trainer = make_trainer(name)
    before = trainer.flat.copy()
    inputs, offset, y = group(300)
    step = trainer.step(inputs, WANTED, offset, Lessons.plain(y))
    assert step is not None and step.by_inputs.shape == (300, WANTED) and step.z.shape == (300,)
    assert (step.by_inputs != 0.0).any(axis=0).all()
    moved = trainer.network.split((trainer.flat != before).astype(np.float32))
    assert all(view.any() for view in moved.values())


@EVERY
def test_training_lowers_the_loss(name: str) -> None:
    trainer = make_trainer(name)
    losses = []
    for step in range(300):
        inputs, _, y = group(seed=step)
        if name in LINEAR:
            y = (inputs[:, 0] > 0).astype(np.float64)
        found = trainer.step(inputs, WANTED, np.zeros(len(y)), Lessons.plain(y))
        assert found is not None
        losses.append(float(np.mean(np.logaddexp(0.0, found.z) - y * found.z)))
    assert np.mean(losses[-30:]) < np.mean(losses[:30]) - 0.02


@EVERY
@pytest.mark.parametrize(
    ("what", "wrong"), [("inputs", np.nan), ("inputs", np.inf), ("offset", np.nan)], ids=str
)
def test_group_that_is_not_finite_is_left_out_and_leaves_no_trace(name: str, what: str, wrong: float) -> None:
    trainer, clean = make_trainer(name), make_trainer(name)
    for step in range(10):
        inputs, offset, y = group(seed=step)
        for one in (trainer, clean):
            assert one.step(inputs.copy(), WANTED, offset, Lessons.plain(y)) is not None
        if step == 4:
            before = state_of(trainer)
            (inputs if what == "inputs" else offset)[7] = wrong
            assert trainer.step(inputs, WANTED, offset, Lessons.plain(y)) is None
            assert state_of(trainer) == before
    assert state_of(trainer) == state_of(clean)


@EVERY
def test_same_groups_give_the_same_bits_on_any_number_of_threads_and_after_a_restart(name: str) -> None:
    whole = make_trainer(name)
    others = [make_trainer(name, threads=threads) for threads in (1, 4)]
    try:
        for step in range(20):
            if step == 11:  # as a learner goes on from its state
                old = others[0]
                others[0] = type(old)(
                    old.network, old.flat.copy(), old.moments.copy(), old.steps, old.rate, old.clip, 1
                )
            for trainer in (whole, *others):
                inputs, offset, y = group(seed=step)
                assert trainer.step(inputs, WANTED, offset, Lessons.plain(y)) is not None
    finally:
        torch.set_num_threads(1)
    assert [state_of(other) for other in others] == [state_of(whole)] * 2


# In a model


@EVERY
def test_model_learns_what_no_sum_over_ids_can_say(name: str) -> None:
    learner = Learner({"a": ALONE, "b": ALONE}, LearnerSettings(deep=name))  # type: ignore[arg-type]
    low, high = (0.4, 0.6) if name in LINEAR else (0.8, 1.0)
    assert low < last_auc(learner, xor_examples(15_000)) < high


@EVERY
def test_deep_part_beside_the_fast_part_learns_the_same_bits(name: str) -> None:
    examples = history_examples(300)
    digests = []
    for beside in (False, True):
        settings = LearnerSettings(deep=name)  # type: ignore[arg-type]
        trainer = Trainer(Model(history_schema("decoupled"), settings, learning=True), beside=beside)
        for first in range(0, 300, 60):
            trainer.learn(examples[first : first + 60])
        trainer.finish()
        digests.append((trainer.model.deep_weights.tobytes(), trainer.moments.tobytes()))
        trainer.close()
    assert digests[0] == digests[1]


@EVERY
def test_model_resumed_from_its_state_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    schema = history_schema("decoupled")
    settings = LearnerSettings(deep=name)  # type: ignore[arg-type]
    examples = history_examples(300)
    whole = Learner(schema, settings)
    whole.learn(examples)
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)
    for part in (examples[:155], examples[155:]):
        log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e)) for e in part])
        print_of = Learner.fingerprint(schema, settings)
        with RoleState(tmp_path / "learner", "learner", print_of, sync=False) as state:
            learner = Learner(schema, settings, state)
            runner = Runner(
                log, state, learner, Subscription(EXAMPLES, "learn"), RunnerSettings(commit_every_s=0.0)
            ).open()
            while runner.step():
                pass
            runner.commit()
    log.close()
    assert learner.digest() == whole.digest()


@EVERY
def test_followers_copy_of_a_model_predicts_what_the_learner_does(name: str, tmp_path: Path) -> None:
    schema, settings = history_schema("decoupled"), LearnerSettings(deep=name)  # type: ignore[arg-type]
    examples = history_examples(200)
    log = MemoryLog()
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS):
        log.create_topic(topic, 1)
    log.append(EXAMPLES, [Outgoing(b"", encode(e)) for e in examples])
    with RoleState(tmp_path, "learner", Learner.fingerprint(schema, settings), sync=False) as state:
        learner = Learner(schema, settings, state)
        learner.publish_to(log)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), RunnerSettings()).open()
        while runner.step():
            pass
        runner.commit()
        follower = Follower(Model(schema, settings))
        while follower.poll(log):
            pass
        asked = [Request(e.time, e.context, e.candidates) for e in examples[-20:]]
        theirs, ours = (
            model.score(model.encoder.encode(asked)).z for model in (follower.model, learner.model)
        )
    assert np.array_equal(theirs, ours) and len(set(ours.tolist())) > 10
