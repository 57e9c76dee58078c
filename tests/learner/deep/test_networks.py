"""The networks by name: numpy against torch, gradients, and what each learns that the fast part cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch

from learner.deep.attention import attend, unattend
from learner.deep.autograd import AutogradTrainer
from learner.deep.dcn_predict import prediction_of
from learner.deep.networks import DCN, NETWORKS, InputLayout, make_network
from learner.deep.products import add_product
from learner.deep.trainer import DeepTrainer, by_logits
from learner.errors import FeatureError
from learner.features.encoder import Encoder, FeatureSpec, Request
from learner.metrics import auc
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.train.trainer import trainer_of
from stream.log.base import DEAD_LETTERS, EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.open import open_log
from stream.records.types import Example, Served, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

LAYOUT = InputLayout((4, 4, 4), 17)
ALONE = FeatureSpec(pairs=False, dim=8)
Attention = Literal["decoupled", "shared"]


def weights_of(name: str) -> np.ndarray:
    """Random weights, the last layer's included."""
    rng = np.random.default_rng(1)
    return rng.normal(0, 0.3, make_network(name, LAYOUT).weight_count).astype(np.float32)


def make_trainer(name: str, flat: np.ndarray) -> DeepTrainer:
    """A trainer whose clip never bites."""
    moments = np.zeros((2, len(flat)), dtype=np.float32)
    network = make_network(name, LAYOUT)
    return trainer_of(network)(network, flat, moments, 0, rate=1e-3, clip=1e9, threads=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_in_numpy_equals_torch(name: str) -> None:
    network, flat = make_network(name, LAYOUT), weights_of(name)
    inputs = np.random.default_rng(2).normal(0, 1, (50, LAYOUT.width)).astype(np.float32)
    trainer = AutogradTrainer(network, flat, np.zeros((2, len(flat)), np.float32), 0, 1e-3, 1e9, 1)
    expected = trainer.predict(inputs)
    assert network.forward(network.split(flat), inputs) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    z = np.ones(50)
    prediction_of(network, network.split(flat))(inputs, z)
    assert z - 1.0 == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 61, 130])
def test_quick_prediction_is_that_of_the_network_whatever_rows_share(rows: int) -> None:
    """What all rows share is multiplied once and what is zero not at all; and no row depends on others."""
    rng = np.random.default_rng(rows)
    network, w = make_network("dcn", LAYOUT), make_network("dcn", LAYOUT).split(weights_of("dcn"))
    inputs = rng.normal(0, 1, (rows, LAYOUT.width)).astype(np.float32)
    inputs[:, 3:9] = inputs[0, 3:9]
    inputs[:, 7] = 0.0
    inputs[1:2, 12] = np.inf
    predict = prediction_of(network, w)
    z = np.zeros(rows)
    predict(inputs, z)
    inputs[1:2, 12] = 1.0
    again = np.zeros(rows)
    predict(inputs, again)
    assert again == pytest.approx(network.forward(w, inputs), rel=1e-4, abs=1e-5)
    others = np.arange(rows) != 1
    assert np.array_equal(z[others], again[others])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_log_loss_and_reach_every_weight(name: str) -> None:
    """Against autograd over the forward pass."""
    network, flat = make_network(name, LAYOUT), weights_of(name)
    rng = np.random.default_rng(4)
    n, wanted = 60, sum(LAYOUT.embeddings)
    inputs = rng.normal(0, 1, (n, LAYOUT.width)).astype(np.float32)
    offset, y = rng.normal(0, 1, n), (rng.random(n) < 0.5).astype(np.float64)

    x0 = torch.tensor(inputs, requires_grad=True)
    w = {k: torch.tensor(v, requires_grad=True) for k, v in network.split(flat).items()}
    z = network.forward(w, x0, torch) + torch.from_numpy(offset)
    torch.nn.functional.binary_cross_entropy_with_logits(z, torch.from_numpy(y), reduction="sum").backward()
    assert x0.grad is not None
    expected = np.concatenate([v.grad.numpy().ravel() for v in w.values() if v.grad is not None])
    assert all((v.grad != 0).any() for v in w.values())

    moved = flat.copy()
    trainer = make_trainer(name, moved)
    moments = trainer.moments
    step = trainer.step(inputs.copy(), wanted, offset, y)
    assert step is not None
    assert step.by_inputs == pytest.approx(x0.grad[:, :wanted].numpy(), rel=1e-3, abs=1e-4)
    assert step.z == pytest.approx(z.detach().numpy(), rel=1e-4, abs=1e-4)
    # Adam's first moment after one step is a tenth of the mean gradient.
    assert moments[0] * 10 * n == pytest.approx(expected, rel=1e-3, abs=2e-3)
    assert (moved != flat).any()


@pytest.mark.parametrize(
    ("rows", "layout", "correction"),
    [
        (
            32,
            InputLayout((16,) * 8, 197),
            0.0,
        ),  # longer than one block of a product
        (35, InputLayout((16, 16), 48), 0.3),  # rows that are no whole vector, and self-correction
        (3, InputLayout((2,), 6), 0.0),
        (300, InputLayout((8, 8, 8), 400), 0.0),
    ],
)
def test_kernel_of_dcn_steps_as_a_float64_reference_does(
    rows: int, layout: InputLayout, correction: float
) -> None:
    network = DCN(layout)
    rng = np.random.default_rng(5)
    flat = rng.normal(0, 0.1, network.weight_count).astype(np.float32)
    moments = np.zeros((2, len(flat)), dtype=np.float32)
    clip, wanted = 2.0, sum(layout.embeddings)
    trainer = trainer_of(network)(network, flat, moments, 0, 1e-3, clip, 1, correction)
    for size in (1.0, 3.0):  # the second group's gradient is so large that it is clipped
        inputs = rng.normal(0, size, (rows, layout.width)).astype(np.float32)
        offset, y, last = rng.normal(0, 1, rows), (rng.random(rows) < 0.5).astype(np.float64), np.zeros(rows)
        wanted_of = dcn_reference(network, flat, inputs, offset, y, last, correction)
        before = moments[0].astype(np.float64)
        step = trainer.step(inputs.copy(), wanted, offset, y, last)
        assert step is not None
        within(step.z, wanted_of.z, wanted_of.z_error)
        within(step.by_inputs, wanted_of.by_inputs[:, :wanted], wanted_of.by_inputs_error[:, :wanted])
        norm = np.sqrt((wanted_of.gradient**2).sum()) / rows
        scale = 0.1 / rows * min(1.0, clip / norm)
        expected = 0.9 * before + scale * wanted_of.gradient
        error = scale * wanted_of.gradient_error + 1e-6 * np.abs(expected) + 1e-6 * np.abs(before)
        norm_error = np.sqrt((wanted_of.gradient_error**2).sum()) / rows / norm
        within(moments[0], expected, error + norm_error * np.abs(expected) * (norm > clip))
    assert trainer.steps == 2


def within(found: np.ndarray, expected: np.ndarray, error: np.ndarray) -> None:
    """Whether numbers are the expected ones, each within its own error."""
    worst = float((np.abs(found - expected) / error).max())
    assert worst <= 1.0, f"{worst:.3g} times as far from the reference as rounding explains"


class Reference(NamedTuple):
    """A step in float64, and how far float32 may lie from it."""

    z: np.ndarray
    z_error: np.ndarray
    by_inputs: np.ndarray
    by_inputs_error: np.ndarray
    gradient: np.ndarray
    gradient_error: np.ndarray


def dcn_reference(
    network: DCN,
    flat: np.ndarray,
    inputs: np.ndarray,
    offset: np.ndarray,
    y: np.ndarray,
    last: np.ndarray,
    correction: float,
) -> Reference:
    """One step by autograd in float64.

    A float32 sum of n terms lies within about sqrt(n) u of the sum of their absolute values, u = 2^-24
    (Higham & Mary 2019); here four times that. The sums of absolute values are those of the same network with
    all weights and inputs positive, forward and backward.
    """
    unit = 4.0 * 2.0**-24 * np.sqrt(3.0 * network.layout.width + len(inputs))

    def passed(absolute: bool, by_z: Callable[[torch.Tensor], torch.Tensor]) -> list[np.ndarray]:
        """Logits without offsets, and with the loss's gradient by them: that by inputs, and by weights."""
        values = [flat.astype(np.float64), inputs.astype(np.float64)]
        w, x = (torch.tensor(np.abs(one) if absolute else one, requires_grad=True) for one in values)
        split = network.split(w)  # type: ignore[arg-type]  # tensors are cut as arrays are
        z = network.forward(split, x, torch)
        z.backward(by_z(z.detach()))
        assert x.grad is not None and w.grad is not None
        return [z.detach().numpy(), x.grad.numpy(), w.grad.numpy()]

    def by_logit(residual: torch.Tensor) -> torch.Tensor:
        z = (residual + torch.from_numpy(offset)).requires_grad_()
        p, q, clicked = torch.sigmoid(z), torch.sigmoid(torch.from_numpy(last)), torch.from_numpy(y)
        loss = (1.0 - correction) * torch.nn.functional.binary_cross_entropy_with_logits(
            z, clicked, reduction="sum"
        )
        loss = loss + correction * (clicked * (q - p).clip(0) + (1 - clicked) * (p - q).clip(0)).sum()
        loss.backward()
        assert z.grad is not None
        errors.append(z.grad.abs())
        return z.grad

    errors: list[torch.Tensor] = []
    residual, by_inputs, gradient = passed(False, by_logit)
    # an error of z changes the gradient by it by at most half as much; float32 rounds that once more
    sums, by_inputs_sums, gradient_sums = passed(True, lambda z: errors[0] * unit + z * unit)
    return Reference(residual + offset, sums * unit, by_inputs, by_inputs_sums, gradient, gradient_sums)


@pytest.mark.parametrize(("rows", "columns", "count"), [(1, 1, 1), (8, 32, 5), (13, 51, 193), (9, 16, 500)])
def test_product_is_the_product_and_writes_nothing_else(rows: int, columns: int, count: int) -> None:
    """Of every other row of B, turned A."""
    rng = np.random.default_rng(6)
    wide = columns + 15
    a = rng.normal(0, 1, (rows, count)).astype(np.float32)
    b = rng.normal(0, 1, (2 * count, wide)).astype(np.float32)
    which = np.arange(0, 2 * count, 2)
    c = rng.normal(0, 1, (rows + 2, wide)).astype(np.float32)
    expected = c.copy()
    product = a.astype(np.float64) @ b[which, :columns]
    for add in (True, False):
        expected[1 : rows + 1, :columns] = product + (expected[1 : rows + 1, :columns] if add else 0)
        flat, left = c.reshape(-1), np.ascontiguousarray(a.T).reshape(-1)
        add_product(
            flat, wide, wide, left, 0, 1, rows, b.reshape(-1), 0, wide, which, rows, columns, count, add
        )
        assert c == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert (c[[0, -1]] == expected[[0, -1]]).all() and (c[:, columns:] == expected[:, columns:]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_network_says_nothing_at_first(name: str) -> None:
    network = make_network(name, LAYOUT)
    inputs = np.random.default_rng(2).normal(0, 1, (5, LAYOUT.width)).astype(np.float32)
    assert not network.forward(network.split(network.initial_weights(0)), inputs).any()


@pytest.mark.parametrize("name", ["deepfm", "dlrm"])
def test_network_of_products_refuses_embeddings_of_unequal_width(name: str) -> None:
    with pytest.raises(FeatureError, match="same dim"):
        make_network(name, InputLayout((4, 8), 20))


@pytest.mark.parametrize("second", [0, 5])
def test_attention_gradient_is_that_of_autograd(second: int) -> None:
    """Two rows, ids that come twice, one that has no table row, and a row whose target is unknown."""
    dim = 5
    rng = np.random.default_rng(5)
    vectors = rng.normal(0, 1, (6, second + dim)).astype(np.float32)
    row = np.array([0, 0, 0, 0, 0, 2, 2, 3, 3])
    slot = np.array([1, 0, 2, -1, 2, 3, 1, -1, 4])
    g = rng.normal(0, 1, (4, dim + 1)).astype(np.float32)

    table = torch.tensor(vectors, requires_grad=True)
    k, v = table[:, :dim], table[:, second : second + dim]
    h = torch.zeros(4, dim)
    for r, (t, past) in {0: (1, [0, 2, 2]), 2: (3, [1])}.items():
        a = torch.softmax(k[past] @ k[t] / dim**0.5, 0)
        h[r] = (a[:, None] * v[past]).sum(0) * v[t]
    (h * torch.from_numpy(g[:, 1:])).sum().backward()
    assert table.grad is not None

    out = np.zeros((4, dim + 1), dtype=np.float32)
    attend(row, slot, vectors, dim, second, 1, out)
    assert out[:, 1:] == pytest.approx(h.detach().numpy(), rel=1e-4, abs=1e-5)
    by_entry = unattend(row, slot, vectors, dim, second, g, 1)
    by_vector = np.zeros_like(vectors)
    np.add.at(by_vector, slot[slot >= 0], by_entry[slot >= 0])
    assert by_vector == pytest.approx(table.grad.numpy(), rel=1e-3, abs=1e-4)


def xor_examples(n: int) -> list[Example]:
    """Clicks where exactly one of two ids is odd, nine times in ten: no sum over ids can tell."""
    rng = np.random.default_rng(3)
    a, b, noise = rng.integers(0, 30, n), rng.integers(0, 30, n), rng.random(n) < 0.1
    return [
        Example(
            str(i),
            1e9 + i,
            1e9 + i,
            [{"b": int(b[i])}],
            [float((a[i] + b[i]) % 2 != noise[i])],
            {"a": int(a[i])},
        )
        for i in range(n)
    ]


def last_auc(learner: Learner, examples: list[Example]) -> float:
    """AUC over the last fifth of progressive predictions."""
    done = learner.learn(examples) + learner.finish()
    p, y = np.concatenate([g.p for g in done]), np.concatenate([g.y for g in done])
    last = len(p) // 5
    value = auc(p[-last:], y[-last:])
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("none", 0.4, 0.6), ("logistic", 0.4, 0.6), ("dcn", 0.8, 1), ("deepfm", 0.8, 1), ("dlrm", 0.8, 1)],
)
def test_network_learns_what_no_sum_over_ids_can_say(name: str, low: float, high: float) -> None:
    learner = Learner({"a": ALONE, "b": ALONE}, LearnerSettings(deep=name))  # type: ignore[arg-type]
    assert low < last_auc(learner, xor_examples(15_000)) < high


def history_examples(n: int) -> list[Example]:
    """Clicks where the item's kind (of 5) is that of something seen before, nine times in ten."""
    rng = np.random.default_rng(6)
    found = []
    for i in range(n):
        past = rng.integers(0, 40, rng.integers(1, 4)).tolist()
        item = int(rng.integers(0, 40))
        likes = any(p % 5 == item % 5 for p in past)
        y = float(likes != (rng.random() < 0.1))
        found.append(Example(str(i), 1e9 + i, 1e9 + i, [{"item": item}], [y], {"past": past}))
    return found


def history_schema(attention: Attention) -> dict[str, FeatureSpec]:
    """An item and a sequence of items."""
    past = FeatureSpec(kind="sequence", of="item", attention=attention, dim=8)
    return {"item": ALONE, "past": past}


@pytest.mark.parametrize("attention", ["decoupled", "shared"])
def test_sequence_is_learnt_by_attention_and_not_by_the_fast_part(attention: Attention) -> None:
    examples = history_examples(12_000)
    schema = history_schema(attention)
    assert last_auc(Learner(schema, LearnerSettings(deep="none")), examples) < 0.6
    assert last_auc(Learner(schema, LearnerSettings()), examples) > 0.8


def test_sequence_keeps_its_newest_ids_behind_the_target() -> None:
    schema = {"item": FeatureSpec(), "past": FeatureSpec(kind="sequence", of="item", length=2)}
    encoder = Encoder(schema)
    batch = encoder.encode([Request(0.0, {"past": [5, 6, 6]}, [{"item": 9}, {}, {"item": 6, "past": []}])])
    assert batch.rows.column.tolist() == [0, 1, 1, 1, 0]
    assert batch.rows.key.tolist() == [9, 9, 6, 6, 6]
    assert encoder.column_names() == ["item", "past"]


def test_sequence_of_something_that_is_no_id_is_refused() -> None:
    with pytest.raises(ValueError, match="of"):
        FeatureSpec(kind="sequence")
    with pytest.raises(FeatureError, match="past"):
        Encoder({"past": FeatureSpec(kind="sequence", of="item")})


def test_error_memory_does_not_see_sequences() -> None:
    learner = Learner(history_schema("decoupled"), LearnerSettings())
    done = learner.learn(history_examples(100)) + learner.finish()
    assert all(not (group.rows.column == 1).any() for group in done)
    assert all(group.rows.n == len(group.y) for group in done)


@pytest.mark.parametrize("name", NETWORKS)
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


def test_self_correction_is_the_gradient_of_its_loss() -> None:
    rng = np.random.default_rng(7)
    z, last = rng.normal(0, 1, 40), rng.normal(0, 1, 40)
    y = (rng.random(40) < 0.5).astype(np.float64)
    t = torch.tensor(z, requires_grad=True)
    p, q, label = torch.sigmoid(t), torch.sigmoid(torch.tensor(last)), torch.tensor(y)
    relu = torch.relu
    loss = 0.7 * torch.nn.functional.binary_cross_entropy(p, label, reduction="none")
    loss += 0.3 * (label * relu(q - p) + (1 - label) * relu(p - q))
    loss.sum().backward()
    assert t.grad is not None
    assert by_logits(z, y, last, 0.3) == pytest.approx(t.grad.numpy(), rel=1e-4, abs=1e-6)


def test_self_correction_betters_what_was_served_and_the_fast_part_where_nothing_was() -> None:
    """All of the loss from it; what was served far worse than the model says asks for nothing."""

    def moved(served: float | None) -> float:
        learner = Learner({"a": ALONE}, LearnerSettings(self_correction=1.0))
        shown = None if served is None else Served(base=[served], corrected=[served], model="1-1")
        learner.learn(
            [Example(str(i), 1e9 + i, 1e9 + i, [{"a": i % 3}], [1.0], served=shown) for i in range(64)]
        )
        return float(np.abs(learner.trainer.moments[0]).max())

    assert moved(0.001) == 0.0
    assert moved(0.999) > 0.0
