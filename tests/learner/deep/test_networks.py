"""What only some networks have: the DCN's kernels, equal widths, attention, self-correction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from learnable import ALONE, Attention, history_examples, history_schema, last_auc

from learner.deep.attention import SHARED, attend, unattend
from learner.deep.dcn_predict import prediction_of
from learner.deep.networks import InputLayout, make_network
from learner.deep.products import add_product
from learner.deep.trainer import by_logits
from learner.errors import FeatureError
from learner.features.encoder import Encoder, FeatureSpec, Request
from learner.lessons import Lessons
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.types import Example, Served

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    import torch


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import PyTorch when a test here runs: at the collection it would cost every process four seconds."""
    global torch
    import torch


LAYOUT = InputLayout((4, 4, 4), 17)


def weights_of(name: str) -> np.ndarray:
    """Random weights, the last layer's included."""
    rng = np.random.default_rng(1)
    return rng.normal(0, 0.3, make_network(name, LAYOUT).weight_count).astype(np.float32)


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


@pytest.mark.parametrize("name", ["deepfm", "dlrm"])
def test_network_of_products_refuses_embeddings_of_unequal_width(name: str) -> None:
    with pytest.raises(FeatureError, match="same dim"):
        make_network(name, InputLayout((4, 8), 20))


@pytest.mark.parametrize("second", [0, 5])
def test_attention_gradient_is_that_of_autograd(second: int) -> None:
    """Two rows, ids that come twice, one that has no table row, a row whose target is unknown, and one that
    attends to the ids of the row before it. Each id has a bias by the code of its age."""
    dim = 5
    rng = np.random.default_rng(5)
    vectors = rng.normal(0, 1, (6, second + dim)).astype(np.float32)
    row = np.array([0, 0, 0, 0, 0, 1, 2, 2, 3, 3])
    slot = np.array([1, 0, 2, -1, 2, 4, 3, 1, -1, 4])
    code = np.array([0, 3, 1, 1, 0, SHARED, 0, 2, 0, 1], dtype=np.float32)
    g = rng.normal(0, 1, (4, dim + 1)).astype(np.float32)
    biases = rng.normal(0, 1, 4).astype(np.float32)

    table, bias = torch.tensor(vectors, requires_grad=True), torch.tensor(biases, requires_grad=True)
    k, v = table[:, :dim], table[:, second : second + dim]
    h = torch.zeros(4, dim)
    past, ages = [0, 2, 2], [3, 1, 0]
    for r, (t, ids, of) in {0: (1, past, ages), 1: (4, past, ages), 2: (3, [1], [2])}.items():
        a = torch.softmax(k[ids] @ k[t] / dim**0.5 + bias[of], 0)
        h[r] = (a[:, None] * v[ids]).sum(0) * v[t]
    (h * torch.from_numpy(g[:, 1:])).sum().backward()
    assert table.grad is not None and bias.grad is not None

    out = np.zeros((4, dim + 1), dtype=np.float32)
    attend(row, slot, vectors, dim, second, 1, code, biases, out)
    assert out[:, 1:] == pytest.approx(h.detach().numpy(), rel=1e-4, abs=1e-5)
    by_code = np.zeros(4)
    by_entry = unattend(row, slot, vectors, dim, second, g, 1, code, biases, by_code)
    by_vector = np.zeros_like(vectors)
    np.add.at(by_vector, slot[slot >= 0], by_entry[slot >= 0])
    assert by_vector == pytest.approx(table.grad.numpy(), rel=1e-3, abs=1e-4)
    assert by_code == pytest.approx(bias.grad.numpy(), rel=1e-3, abs=1e-4)


@pytest.mark.slow
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
    assert by_logits(z, Lessons.plain(y), last, 0.3) == pytest.approx(t.grad.numpy(), rel=1e-4, abs=1e-6)


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
