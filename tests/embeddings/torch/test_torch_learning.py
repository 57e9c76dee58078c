"""When rows learn: modes, backward passes, event time, saving, processes, and compiled models."""

from __future__ import annotations

import gc
import io
import pickle
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embeddings import SnapshotError, SnapshotFolder, TableError, TableInputError, TableSpec

pytestmark = pytest.mark.slow  # importing PyTorch takes seconds

if TYPE_CHECKING:
    import torch
    import torch_parts
    from torch.utils.data import DataLoader

    from embeddings.torch import EmbeddingBag, EmbeddingTable, string_ids


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import PyTorch when a test here runs: at the collection it would cost every process four seconds."""
    global torch, torch_parts, DataLoader, EmbeddingBag, EmbeddingTable, string_ids
    import torch
    import torch_parts
    from torch.utils.data import DataLoader

    from embeddings.torch import EmbeddingBag, EmbeddingTable, string_ids


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(**settings: Any) -> EmbeddingTable:
    given = {"name": "t", "dim": 3, "init": "normal", "optimizer": "sgd", "learning_rate": 1.0, **settings}
    return EmbeddingTable(TableSpec(**given))


def vector(table: EmbeddingTable, id_: int) -> torch.Tensor:
    with torch.no_grad():
        return table([id_])[0]


def test_only_training_with_gradients_makes_rows() -> None:
    table = make()
    known = table([1])
    known.sum().backward()
    before = table.table.digest(0)
    table.eval()
    assert table([1, 2])[1].eq(0).all(), "an id without a row has zeros"
    table.train()
    with torch.no_grad():
        assert table([3])[0].eq(0).all()
    with torch.inference_mode():
        assert table([4])[0].eq(0).all()
    assert table.table.digest(0) == before and len(table.table) == 1
    assert table([2])[0].ne(0).any() and len(table.table) == 2


def test_eval_with_a_backward_pass_trains_nothing_of_the_table() -> None:
    table = make()
    table([1])
    before = table.table.digest(0)
    head = torch.nn.Linear(3, 1)
    head(table.eval()([1])).sum().backward()
    assert head.weight.grad is not None and table.table.digest(0) == before


def test_rows_that_were_not_touched_are_not_written() -> None:
    table = make(optimizer="adam")
    table(list(range(1000))).sum().backward()
    table.table.drain_delta()
    table([5, 6, 5]).sum().backward()
    assert sorted(table.table.drain_delta().touched.tolist()) == [5, 6]


def test_gradients_of_one_backward_pass_are_one_step() -> None:
    apart, together = make(optimizer="adagrad", init="zeros"), make(optimizer="adagrad", init="zeros")
    (apart([1, 2]).sum() + 3 * apart([2]).sum()).backward()
    together(torch.tensor([1, 2, 2, 2, 2])).sum().backward()
    assert torch.equal(vector(apart, 2), vector(together, 2))


def test_second_backward_pass_through_a_graph_needs_retain_graph_and_is_a_second_step() -> None:
    table = make(init="zeros")
    out = table([1])
    out.sum().backward()
    with pytest.raises(RuntimeError, match="a second time"):
        out.sum().backward()
    assert vector(table, 1).eq(-1).all()
    out = table([1])
    out.sum().backward(retain_graph=True)
    out.sum().backward()
    assert vector(table, 1).eq(-3).all()


def test_two_losses_of_one_forward_pass_are_a_step_each() -> None:
    table = make(init="zeros")
    a, b = table([1]), table([1])
    a.sum().backward()
    b.sum().backward()
    assert vector(table, 1).eq(-2).all()


def test_gradients_that_are_asked_for_apart_train_nothing() -> None:
    table, head = make(), torch.nn.Linear(3, 1)
    out = head(table([1])).sum()
    before = table.table.digest(0)
    torch.autograd.grad(out, list(head.parameters()))
    assert table.table.digest(0) == before


def test_held_gradients_wait_for_step() -> None:
    held, plain = make(optimizer="adagrad", init="zeros"), make(optimizer="adagrad", init="zeros")
    held.hold()
    for ids in ([1, 2], [2], [2]):
        held(ids).sum().backward()
    assert vector(held, 2).eq(0).all()
    held.step()
    plain([1, 2, 2, 2]).sum().backward()
    assert torch.equal(vector(held, 2), vector(plain, 2))
    held([1]).sum().backward()
    held.zero_grad()
    held.step()
    assert torch.equal(vector(held, 1), vector(plain, 1))
    held.hold(False)
    held([1]).sum().backward()
    assert not torch.equal(vector(held, 1), vector(plain, 1))


def test_gradient_does_not_go_to_an_id_that_took_over_the_slot() -> None:
    table = make(init="zeros", ttl_s=10)
    old = table([1], 100)
    new = table([2], 200)  # 1 has expired: its slot is free, and 2 takes it
    assert table.table.stats.rows == 1
    old.sum().backward()
    assert vector(table, 2).eq(0).all()
    new.sum().backward()
    assert vector(table, 2).eq(-1).all()


def test_failed_backward_pass_leaves_no_gradient_behind() -> None:
    table = make(init="zeros")
    weight = torch.ones(1, requires_grad=True)
    # the table's gradient arrives first, then the failure
    out = (torch_parts.Failing.apply(weight * 1.0) * 1.0).sum() + table([1]).sum()
    with pytest.raises(ZeroDivisionError):
        out.backward()
    table([1]).sum().backward()
    assert vector(table, 1).eq(-1).all()


def test_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    table = make(init="zeros")
    (table([1]) * float("nan")).sum().backward()
    (table([1]) * float("inf")).sum().backward()
    assert table.skipped == 2 and vector(table, 1).eq(0).all()


def test_event_time_may_be_left_out_once_it_is_known() -> None:
    table = make(ttl_s=10)
    with pytest.raises(TableInputError, match="its first batch needs event times"):
        table([1])
    table([1, 2], [100, 105]).sum().backward()
    assert table.eval()([1]).ne(0).any()
    assert table([1], 115).eq(0).all(), "expired by then"
    assert table([[1], [2]], [105, 115]).ne(0).all()  # one time for each of the first dimension
    table.train()
    table([3], 120)
    table([4])  # at 120 too
    assert table.eval()([2]).eq(0).all() and table([4]).ne(0).any()
    assert make().train()([1]).ne(0).any()  # a table whose rows do not expire needs no times


def test_memory_of_expired_rows_is_given_back() -> None:
    table = make(ttl_s=10)
    for step in range(200):
        table(torch.arange(100) + 100 * step, step).sum().backward()
    assert len(table.table) <= 1_300  # the rows of 11 seconds, and what the next passes will sweep


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_state_dict_restores_the_table_bit_for_bit(optimizer: str) -> None:
    def model() -> torch.nn.Module:
        return torch.nn.ModuleDict(
            {
                "user": make(optimizer=optimizer, ttl_s=1000, admit_after=2),
                "tags": EmbeddingBag({"a": TableSpec(dim=2), "b": TableSpec(dim=4, evict="least_recent")}),
            }
        )

    def learn(model: Any, first: int, last: int) -> None:
        for step in range(first, last):
            ids = torch.arange(40) * (step + 1) % 97
            out = model["user"](ids, step).sum() + model["tags"]({"a": ids, "b": ids}, step).sum()
            out.backward()

    def digests(model: Any) -> list[int]:
        return [t.digest(50) for part in (model["user"], model["tags"]) for t in part.tables.values()]

    once, again = model(), model()
    learn(once, 1, 10)
    stored = io.BytesIO()
    torch.save(once.state_dict(), stored)
    stored.seek(0)
    again.load_state_dict(torch.load(stored, weights_only=True))
    assert digests(again) == digests(once)
    learn(once, 10, 20)
    learn(again, 10, 20)
    assert digests(again) == digests(once)


def test_state_dict_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    table = make()
    table([1]).sum().backward()
    before = table.table.digest(0)
    state = make(optimizer="adam").state_dict()
    with pytest.raises(SnapshotError, match="saved with optimizer = adam, but now optimizer = sgd"):
        table.load_state_dict(state)
    damaged = table.state_dict()
    damaged["_extra_state"]["t"][50] ^= 255
    for bad, message in (
        (damaged, "damaged|cannot be read"),
        ({"_extra_state": {"t": torch.zeros(3)}}, "expected the tensor of bytes"),
        ({"_extra_state": {"other": torch.zeros(3)}}, "state_dict has tables other; this module has t"),
        ({"_extra_state": None}, "a NoneType"),
    ):
        with pytest.raises(SnapshotError, match=message):
            table.load_state_dict(bad)
    assert table.table.digest(0) == before


def test_snapshot_folder_saves_what_changed(tmp_path: Any) -> None:
    table = make()
    with SnapshotFolder(tmp_path / "s") as folder:
        for step in range(3):
            table([step, 7]).sum().backward()
            folder.save(*table.tables.values())
    with SnapshotFolder(tmp_path / "s", read_only=True) as folder:
        restored = EmbeddingTable(folder.restore("t"))
    assert restored.table.digest(0) == table.table.digest(0)


def test_pickling_says_what_to_do() -> None:
    with pytest.raises(TableError, match=r"prepare ids only .*string_ids.*state_dict"):
        pickle.dumps(make())


@pytest.mark.process
@pytest.mark.parametrize("how", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_dataloader_workers_prepare_ids(how: str) -> None:
    table = make()
    loader = DataLoader(
        torch_parts.Texts(), batch_size=4, num_workers=1, collate_fn=string_ids, multiprocessing_context=how
    )
    for ids in loader:
        table(ids).sum().backward()
    assert len(table.table) == 3
    assert torch.equal(table.eval()(["u0", "u1"]), table(string_ids(["u0", "u1"])))


@pytest.mark.process
def test_module_in_a_forked_worker_is_refused() -> None:
    loader = DataLoader(torch_parts.Calls(make()), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(TableError, match="another process than it was made in"):
        list(loader)


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler itself looks there
@pytest.mark.parametrize(  # what makes code of a graph is imported in seconds, and is not ours
    "backend", ["eager", *(pytest.param(name, marks=pytest.mark.long) for name in ("aot_eager", "inductor"))]
)
def test_compiled_model_learns_as_the_plain_one(backend: str) -> None:
    torch.manual_seed(0)
    plain = torch_parts.Scorer(make(init_scale=0.3))
    compiled_from = torch_parts.Scorer(make(init_scale=0.3))
    compiled_from.head.load_state_dict(plain.head.state_dict())
    compiled = torch.compile(compiled_from, backend=backend)
    for step in range(3):
        ids = torch.arange(6 + step) * 3 % 5
        expected, out = plain(ids), compiled(ids)
        torch.testing.assert_close(out, expected)
        expected.sum().backward()
        out.sum().backward()
    torch.testing.assert_close(vector(compiled_from.items, 3), vector(plain.items, 3))
    with torch.no_grad():
        torch.testing.assert_close(compiled(torch.tensor([1, 99])), plain(torch.tensor([1, 99])))


def test_table_goes_with_its_modules() -> None:
    table = make()
    table([1]).sum().backward()
    table.load_state_dict(table.state_dict())
    alive = weakref.ref(table.table)
    del table
    gc.collect()
    assert alive() is None


def test_dim_0_is_refused() -> None:
    with pytest.raises(TableError, match="has dim 0"):
        EmbeddingTable(TableSpec(dim=0, extra=2))


def test_ids_may_change_between_forward_and_backward() -> None:
    table = make(init="zeros", ttl_s=10)
    ids = torch.tensor([1])
    out = table(ids, 100)
    ids[0] = 9
    table([2], 105)
    out.sum().backward()
    assert vector(table, 1).eq(-1).all()
    assert np.all(np.sort(table.table.items()[0]) == [1, 2])
