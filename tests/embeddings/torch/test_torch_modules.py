"""The modules beside torch's own embeddings: the same vectors, the same steps, and rows for any id."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import Table, TableFeature, TableInputError, TableSpec

pytestmark = pytest.mark.slow  # importing PyTorch takes seconds

if TYPE_CHECKING:
    import torch

    from embeddings.torch import EmbeddingBag, EmbeddingTable, Jagged, Padded, string_ids


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import PyTorch when a test here runs: at the collection it would cost every process four seconds."""
    global torch, EmbeddingBag, EmbeddingTable, Jagged, Padded, string_ids
    import torch

    from embeddings.torch import EmbeddingBag, EmbeddingTable, Jagged, Padded, string_ids


DIM = 5  # no multiple of what kernels take at once


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec(**settings: Any) -> TableSpec:
    return TableSpec(**{"name": "t", "dim": DIM, "init": "normal", "init_scale": 0.3, **settings})


def filled(module: EmbeddingTable | EmbeddingBag, ids: list[int], name: str = "t") -> torch.Tensor:
    """Give ids their rows; returns the vectors."""
    table = module.tables[name]
    return torch.from_numpy(table.vectors(table.upsert(np.array(ids, dtype=np.uint64), 0)))


def optimizer_of(name: str, parameters: Any) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.1)
    return torch.optim.Adagrad(parameters, lr=0.1, initial_accumulator_value=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_table_learns_as_an_embedding_of_torch(optimizer: str) -> None:
    ours = EmbeddingTable(spec(optimizer=optimizer))
    theirs = torch.nn.Embedding.from_pretrained(filled(ours, list(range(40))), freeze=False)
    step = optimizer_of(optimizer, theirs.parameters())
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        ids = torch.randint(0, 40, (6, 7), generator=generator)
        factor = torch.randn(6, 7, DIM, generator=generator)
        mine, other = ours(ids), theirs(ids)
        torch.testing.assert_close(mine, other)
        (mine * factor).tanh().sum().backward()
        step.zero_grad()
        (other * factor).tanh().sum().backward()
        step.step()
    torch.testing.assert_close(ours.eval()(torch.arange(40)), theirs.weight.data)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_bag_learns_as_a_bag_of_torch(pooling: str, weighted: bool) -> None:
    if pooling == "mean" and weighted:
        pytest.skip("torch has no weighted mean, and so neither have we")
    ours = EmbeddingBag(spec(optimizer="sgd"), pooling=pooling)
    theirs = torch.nn.EmbeddingBag.from_pretrained(
        filled(ours, list(range(30))), freeze=False, mode=pooling, include_last_offset=True
    )
    step = torch.optim.SGD(theirs.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        sizes = torch.randint(0, 4, (8,), generator=generator)  # empty bags too
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        ids = torch.randint(0, 30, (int(offsets[-1]),), generator=generator)
        weights = [torch.rand(len(ids)).requires_grad_() for _ in range(2)] if weighted else [None, None]
        if weights[0] is not None:
            weights[1].data = weights[0].data.clone()
        mine = ours(Jagged(ids, offsets, weights[0]))
        other = theirs(ids, offsets, per_sample_weights=weights[1])
        torch.testing.assert_close(mine, other)
        factor = torch.randn(8, DIM, generator=generator)
        (mine * factor).tanh().sum().backward()
        step.zero_grad()
        (other * factor).tanh().sum().backward()
        step.step()
        if weights[0] is not None:
            torch.testing.assert_close(weights[0].grad, weights[1].grad)
    torch.testing.assert_close(ours.eval()(torch.arange(30)), theirs.weight.data)


rows_of_ids = st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4), min_size=1, max_size=6)


@given(rows=rows_of_ids)
@settings(max_examples=40, deadline=None)
def test_every_form_of_the_same_ids_gives_the_same_vectors(rows: list[list[int]]) -> None:
    bag = EmbeddingBag(spec(), padding_idx=77)
    rows = [[i for i in row if i != 77] for row in rows]
    flat = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows]).tolist()])
    expected = bag(Jagged(flat, offsets))
    longest = max(map(len, rows))
    padded = torch.full((len(rows), longest + 1), 77, dtype=torch.int64)
    for r, row in enumerate(rows):
        padded[r, : len(row)] = torch.tensor(row, dtype=torch.int64)
    nested = torch.nested.nested_tensor_from_jagged(flat, offsets)
    forms = [padded, Padded(padded, padded != 77), Padded(padded.view(torch.uint64), padded != 77), nested]
    if longest:
        forms.append(rows)
    for form in forms:
        assert torch.equal(bag(form), expected)


def test_text_and_its_prepared_ids_are_the_same_rows() -> None:
    texts = ["tea", "coffee", "tea"]
    table = EmbeddingTable(spec())
    assert torch.equal(table(texts), table(string_ids(texts)))
    assert torch.equal(table([["tea"], ["coffee"]]), table(np.array([["tea"], ["coffee"]])))
    assert len(table.table) == 2
    bag = EmbeddingBag(spec())
    assert torch.equal(bag([["tea", "milk"], []]), bag(Jagged(["tea", "milk"], [0, 2, 2])))


def test_many_features_stand_side_by_side_each_with_its_own_table() -> None:
    user, tags = spec(name="user", dim=3), TableFeature(spec(name="tags"), pooling="mean")
    bag = EmbeddingBag({"user": user, "tags": tags})
    out = bag({"user": [1, 2], "tags": [["a", "b"], []]}, times=[10, 11])
    assert out.shape == (2, bag.width) == (2, 8)
    parts = bag.split(out)
    alone = EmbeddingTable(bag.tables["tags"]).eval()
    torch.testing.assert_close(parts["tags"][0], alone(["a", "b"]).mean(0))
    assert not parts["tags"][1].any()
    before = bag.tables["user"].digest(0)
    bag({"tags": [["a"], ["c"]]}, times=[10, 11]).sum().backward()
    assert bag.tables["user"].digest(0) == before, "a feature that is left out learns nothing"
    assert (bag({"tags": [["a"], ["c"]]})[:, :3] == 0).all()


def test_padding_and_mask_have_zeros_and_no_row() -> None:
    table = EmbeddingTable(spec(), padding_idx=-1)
    ids = torch.tensor([[3, -1], [4, 5]])
    out = table(ids, mask=torch.tensor([[True, True], [True, False]]))
    assert out[0, 1].eq(0).all() and out[1, 1].eq(0).all() and out[0, 0].ne(0).any()
    out.sum().backward()
    assert sorted(table.table.items()[0].tolist()) == [3, 4]
    assert len(EmbeddingTable(spec())(torch.tensor([-1]))) == 1  # without padding_idx an id like all others


def test_ids_of_any_shape() -> None:
    table = EmbeddingTable(spec())
    assert table(torch.tensor(7)).shape == (DIM,)
    assert table(7).shape == (DIM,)
    assert table(torch.zeros(2, 3, 4, dtype=torch.int32)).shape == (2, 3, 4, DIM)
    assert table(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4, DIM)
    assert table([]).shape == (0, DIM)
    nested = torch.nested.nested_tensor_from_jagged(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))
    out = table(nested)
    assert out.is_nested and torch.equal(out.values(), table([1, 2, 3]))
    out.values().sum().backward()
    assert torch.equal(table(Jagged(["x", "y"], [0, 2])), table(["x", "y"]))


def test_every_64_bit_id_has_a_row_of_its_own() -> None:
    table = EmbeddingTable(spec())
    ids = [0, -1, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 2]
    out = table(ids)
    assert len(table.table) == 5  # -2^63 and 2^63 are the same 64 bits
    assert torch.equal(out[3], out[4])
    assert torch.equal(table(torch.tensor([(1 << 64) - 2], dtype=torch.uint64))[0], out[5])
    assert torch.equal(table(torch.tensor([-2]))[0], out[5])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_output_has_the_dtype_of_the_module(name: str) -> None:
    dtype = getattr(torch, name)
    made, moved = EmbeddingTable(spec(), dtype=dtype), EmbeddingTable(spec()).to(dtype)
    for table in (made, moved):
        out = table([1, 2])
        assert out.dtype == dtype
        before = table.table.vectors(table.table.find(np.array([1], dtype=np.uint64)))
        out.sum().backward()
        after = table.table.vectors(table.table.find(np.array([1], dtype=np.uint64)))
        assert (after < before).all()  # rows are float32 and have learned
    model = torch.nn.Sequential(EmbeddingTable(spec()), torch.nn.Linear(DIM, 1)).to(torch.bfloat16)
    model([1, 2]).sum().backward()
    assert model(["a"]).dtype == torch.bfloat16


def test_copy_of_a_module_learns_apart() -> None:
    model = torch.nn.Sequential(EmbeddingTable(spec()), torch.nn.Linear(DIM, 1))
    model([1, 2, 3]).sum().backward()
    twin = copy.deepcopy(model)
    assert twin[0].table.digest(0) == model[0].table.digest(0)
    before = model[0].table.digest(0)
    twin([1, 9]).sum().backward()
    assert model[0].table.digest(0) == before != twin[0].table.digest(0)


@pytest.mark.parametrize(
    ("ids", "plain"),
    [
        (lambda: torch.arange(10)[::2], [0, 2, 4, 6, 8]),
        (lambda: torch.tensor([7]).expand(3), [7, 7, 7]),
        (np.arange(4)[::-1], [3, 2, 1, 0]),
        (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (np.array([1, 258], dtype=">i8"), [1, 258]),
        (lambda: torch.tensor([-1, -(1 << 63)]), [-1, -(1 << 63)]),
        (np.int64(5), 5),
        (lambda: torch.tensor(5), 5),
        (np.str_("tea"), "tea"),
        (lambda: torch.zeros(0, dtype=torch.int64), []),
    ],
)  # fmt: skip
def test_ids_in_any_memory_layout_are_the_same_ids(ids: Any, plain: Any) -> None:
    table = EmbeddingTable(spec())
    ids = ids() if callable(ids) else ids
    assert torch.equal(table(ids), table(plain))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (lambda: torch.tensor([1.0, float("nan")]), "a tensor of torch.float32"),
        (lambda: torch.tensor([True]), "a tensor of torch.bool"),
        (np.array([1.5]), "an array of float64"),
        ([1, 2.5], "a list with 2.5"),
        ([1, None], "a list with None"),
        ([1, True], "a list with True"),
        (["a", None], "a list with None"),
        (np.array(["a", None], dtype=object), "None among text"),
        ([1 << 64], "beyond 64 bits"),
        ({1, 2}, "a set"),
        (None, "a NoneType"),
        ([b"x"], "a list with b'x'"),
        (["\ud800"], "no Unicode text"),
        (np.array([1, 2], dtype=object), "1 among text"),
        (np.array([1j]), "an array of complex128"),
        (np.ma.array([1, 2], mask=[True, False]), "a masked array"),
        (lambda: torch.tensor([1.0], requires_grad=True), "a tensor of torch.float32"),
        (lambda: torch.tensor([1j]), "a tensor of torch.complex64"),
        (lambda: torch.zeros(3, dtype=torch.int64, device="meta"), "a tensor that has no data"),
        (lambda: torch.tensor([0, 2]).to_sparse(), "a tensor of torch.sparse_coo"),
        (lambda: torch.zeros(0), "a tensor of torch.float32"),
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused(ids: Any, message: str) -> None:
    table, bag = EmbeddingTable(spec()), EmbeddingBag(spec())
    ids = ids() if callable(ids) else ids
    for module in (table, bag):
        with pytest.raises(TableInputError, match=f"ids must be whole numbers.*{message}"):
            module(ids)
        assert len(module.tables["t"]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b({"user": [1], "x": [1]}), "among user, tags; got user, x"),
        (lambda b: b({}), "got none"),
        (lambda b: b([1]), "got a list"),
        (lambda b: b({"user": [1, 2], "tags": [1]}), "user 2, tags 1"),
        (lambda b: b({"user": torch.tensor(3)}), "ids must be \\(n,\\) or \\(n, L\\)"),
        (lambda b: b({"user": Jagged([1, 2], [0, 1])}), "offsets must be"),
        (lambda b: b({"user": Jagged([1, 2], [0, 2, 1, 2])}), "never decreasing"),
        (lambda b: b({"user": Jagged([1, 2], [0.0, 2.0])}), "offsets must be"),
        (lambda b: b({"user": Padded([[1, 2]], [[True]])}), "mask must be bool of shape"),
        (lambda b: b({"user": Padded([[1, 2]], [[1, 0]])}), "mask must be bool"),
        (lambda b: b({"user": Jagged([1, 2], [0, 2], torch.ones(3))}), "weights must be a tensor of floats"),
        (lambda b: b({"tags": Jagged([1, 2], [0, 2], torch.ones(2))}), "weights go with pooling by sum"),
        (lambda b: b({"user": [1]}, times=[1, 2]), "times must be one number or have the shape"),
        (lambda b: b({"user": [1]}, times=["x"]), "times must be numbers"),
        (lambda b: b({"user": [1]}, times=float("nan")), "times must be from 0"),
        (lambda b: b({"user": [1]}, times=-1), "times must be from 0"),
        (lambda b: b({"user": [1]}, times=1.7e12), "not milliseconds"),
    ],
)  # fmt: skip
def test_bag_refuses_what_does_not_fit_together(call: Any, message: str) -> None:
    bag = EmbeddingBag({"user": spec(), "tags": TableFeature(spec(), pooling="mean")})
    with pytest.raises(TableInputError, match=message):
        call(bag)
    assert not any(len(table) for table in bag.tables.values())


def test_bag_refuses_no_features_and_unknown_pooling() -> None:
    with pytest.raises(TableInputError, match="at least one feature"):
        EmbeddingBag({})
    with pytest.raises(TableInputError, match="sum or mean, not 'max'"):
        EmbeddingBag(spec(), pooling="max")


@pytest.mark.long
@pytest.mark.parametrize("ttl_s", [0, 3600])
def test_ten_million_ids_in_one_call(ttl_s: int) -> None:
    table = EmbeddingTable(spec(dim=1, optimizer="sgd", learning_rate=1.0, init="zeros", ttl_s=ttl_s))
    ids = torch.arange(10_000_000) % 1000
    out = table(ids, 5)
    assert out.shape == (10_000_000, 1)
    out.sum().backward()
    assert len(table.table) == 1000
    assert table.eval()(torch.arange(1000)).eq(-10_000).all()


def test_call_with_more_ids_than_a_batch_of_the_table_takes() -> None:
    table = EmbeddingTable(spec(dim=1, optimizer="sgd", learning_rate=1.0, init="zeros", ttl_s=3600))
    ids = torch.arange(1_100_000) % 1000
    table(ids, 5).sum().backward()
    assert table.eval()(torch.arange(1000)).eq(-1100).all()


def test_modules_over_one_table_share_rows_and_step_once() -> None:
    table = Table(spec(optimizer="adagrad", init="zeros"))
    item, history = EmbeddingTable(table), EmbeddingBag({"history": table})
    (item([1]).sum() + 2 * history({"history": [[1, 1]]}).sum()).backward()
    other = EmbeddingTable(spec(optimizer="adagrad", init="zeros"))
    (5 * other([1]).sum()).backward()
    assert torch.equal(item.eval()([1]), other.eval()([1]))  # one step by the sum of 1 + 2 * 2
