"""`learner.device`: a network is trained where it says, whatever it is, and the processor's bits stay.

Where there is no GPU, a device that copies stands for one: all that a network is handed has to lie there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from test_every_network import LAYOUT, WANTED, group, inputs_of, weights_of
from test_own_network import FEATURES, GOOD, folder, settings_of
from turns import FEATURES as SHARED
from turns import SETTINGS, chunks_of, examples_of, learn, predicted

from learner.deep.networks import NETWORKS, Network, make_network
from learner.deep.own.network import OwnNetwork
from learner.deep.trainer import DeepTrainer, by_logits, take_step
from learner.errors import DeviceError, NetworkError
from learner.lessons import Lessons
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.shards.owners import Owners
from learner.shards.processes import Processes
from learner.shards.together import ShardedLearner, Together
from learner.train.trainer import trainer_of

if TYPE_CHECKING:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from learner.deep import autograd, placing

pytestmark = pytest.mark.slow  # importing PyTorch takes seconds

__all__ = ["folder"]
WITH_BUFFERS = GOOD.replace(
    "        nn.init.zeros_(self.out.weight)",
    "        self.register_buffer('seen', torch.zeros(1))\n"
    "        self.register_buffer('scales', torch.full((32,), 0.5), persistent=False)\n"
    "        nn.init.zeros_(self.out.weight)",
).replace(
    "        return self.out(torch.relu(self.inside(torch.cat(list(inputs.values()), 1)))).squeeze(1)",
    "        if self.training:\n"
    "            self.seen += 1.0\n"
    "        h = torch.dropout(self.inside(torch.cat(list(inputs.values()), 1)), 0.1, self.training)\n"
    "        return self.out(torch.relu(h) * self.scales).squeeze(1)",
)
ELSEWHERE = GOOD.replace(".squeeze(1)", ".squeeze(1) + torch.ones(len(inputs['logit']), device='meta')")


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import PyTorch when a test here runs, as in `test_every_network`."""
    global torch, TorchDispatchMode, autograd, placing
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    from learner.deep import autograd, placing


def trainer_for(network: Network, device: str = "cpu", seed: int = 1) -> DeepTrainer:
    flat, moments = weights_of(network, 0.1), np.zeros((2, network.weight_count), dtype=np.float32)
    if isinstance(network, OwnNetwork):
        flat = network.initial_weights(seed)
    more = {"device": device} if device != "cpu" else {}
    return trainer_of(network, device)(network, flat, moments, 0, 1e-3, 1.0, 1, 0.0, **more)


def train(trainer: DeepTrainer, width: int = LAYOUT.width, steps: int = 6) -> list[np.ndarray]:
    """What some steps give: their gradients and logits, and then weights and moments."""
    found = []
    for seed in range(steps):
        _, offset, y = group(seed=seed)
        inputs = np.random.default_rng(seed).normal(0.0, 1.0, (32, width)).astype(np.float32)
        step = trainer.step(inputs, WANTED, offset, Lessons.plain(y))
        assert step is not None
        found += [step.by_inputs.copy(), step.z]
    return [*found, trainer.flat.copy(), trainer.moments.copy()]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "dcn"])
def test_on_the_processor_bits_are_those_of_torch_on_the_models_own_arrays(name: str) -> None:
    network = make_network(name, LAYOUT)
    found = train(trainer_for(network))
    flat, moments = weights_of(network, 0.1), np.zeros((2, network.weight_count), dtype=np.float32)
    expected = []
    for seed in range(6):
        _, offset, y = group(seed=seed)
        x0 = torch.from_numpy(np.random.default_rng(seed).normal(0.0, 1.0, (32, 17)).astype(np.float32))
        grad = np.zeros_like(flat)
        weights = {key: torch.from_numpy(view).requires_grad_() for key, view in network.split(flat).items()}
        for key, view in network.split(grad).items():
            weights[key].grad = torch.from_numpy(view)
        residual = network.forward_each(
            weights, x0.requires_grad_(), torch.zeros(32, dtype=torch.int64), torch
        )
        z = residual.detach().numpy() + offset
        residual.backward(torch.from_numpy(by_logits(z, Lessons.plain(y), offset, 0.0)))
        assert take_step(flat, grad, moments, seed + 1, 32, 1e-3, 1.0) and x0.grad is not None
        expected += [x0.grad[:, :WANTED].numpy(), z]
    expected += [flat, moments]
    assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]


@pytest.mark.parametrize("name", ["deepfm", "of the user's"])
def test_a_step_does_not_have_torch_import_sympy(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", None)
    own = Model(FEATURES, settings_of(folder)).network
    network = make_network(name, LAYOUT) if name in NETWORKS else own
    train(trainer_for(network), network.layout.width, 1)  # it imports, or fails


class Elsewhere:
    """Stands for a GPU: tensors are copies, and no operation takes some of there and some of here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: dict[
            int, Any
        ] = {}  # by where their bytes lie; kept, so that nothing else comes to lie there
        self.operations = 0
        mark = self.mark

        class Copies(placing.Placing):
            def __init__(self, device: str) -> None:
                super().__init__("cpu")
                self.apart = device != "cpu"

            def put(self, array: Any) -> torch.Tensor:
                return mark(super().put(array).clone()) if self.apart else super().put(array)

            def take(self, tensor: torch.Tensor) -> Any:
                return super().take(tensor).copy()

        outside = self

        class Refuse(TorchDispatchMode):
            def __torch_dispatch__(self, of: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = of(*args, **(kwargs or {}))
                given = [one for one in leaves((args, kwargs)) if outside.counts(one)]
                there = [outside.is_there(one) for one in given]
                assert all(there) or not any(there) or "copy_" in str(of), f"{of} of tensors of two devices"
                if any(there) or (not given and "device" in (kwargs or {})):
                    outside.operations += 1
                    for one in leaves(result):
                        if isinstance(one, torch.Tensor):
                            mark(one)
                return result

        monkeypatch.setattr(autograd, "Placing", Copies)
        self.watching = Refuse

    def mark(self, tensor: torch.Tensor) -> torch.Tensor:
        self.there[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_there(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.there

    @staticmethod
    def counts(value: object) -> bool:
        """A number alone may lie anywhere, and so may indices."""
        return isinstance(value, torch.Tensor) and value.dim() > 0 and value.is_floating_point()


def leaves(value: object) -> Iterator[object]:
    """What is in lists, tuples and dicts, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from leaves(one)
    else:
        yield value


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    yield Elsewhere(monkeypatch)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_a_network_is_handed_lies_on_the_device_and_it_learns_the_same(
    name: str, elsewhere: Elsewhere
) -> None:
    network = make_network(name, LAYOUT)
    trainer = trainer_for(network, "cuda")
    with elsewhere.watching():
        found = train(trainer)
    assert elsewhere.operations > 50
    expected = train(autograd.AutogradTrainer(*_arguments(network)))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def _arguments(network: Network) -> tuple[Any, ...]:
    flat, moments = weights_of(network, 0.1), np.zeros((2, network.weight_count), dtype=np.float32)
    return network, flat, moments, 0, 1e-3, 1.0, 1, 0.0


def test_all_that_a_module_of_the_users_is_handed_lies_there_too(
    folder: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(folder, WITH_BUFFERS)
    network = Model(FEATURES, settings).network
    assert isinstance(network, OwnNetwork)
    width = network.layout.width
    expected = train(trainer_for(network), width)
    to = torch.nn.Module.to

    def moved(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        for part in [*module.parameters(), *module.buffers()]:
            elsewhere.mark(part)
        return to(module, device)

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    trainer = trainer_for(network, "cuda")
    with elsewhere.watching():
        found = train(trainer, width)
    assert elsewhere.operations > 50
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    seen = trainer.flat[network.buffers_at[0]]
    assert seen.tolist() == [6.0], "buffers come back with the weights"


def test_a_step_apart_that_is_not_finite_changes_nothing(elsewhere: Elsewhere) -> None:
    trainer = trainer_for(make_network("logistic", LAYOUT), "cuda")
    train(trainer)
    before = trainer.flat.tobytes(), trainer.moments.tobytes(), trainer.steps
    inputs = inputs_of(8)
    inputs[2] = np.inf
    assert trainer.step(inputs, WANTED, np.zeros(8), Lessons.plain(np.ones(8))) is None
    assert (trainer.flat.tobytes(), trainer.moments.tobytes(), trainer.steps) == before
    trainer.flat[:] = weights_of(trainer.network, 0.1)  # as a rollback or the mean of shards does
    trainer.moments[:], trainer.steps = 0.0, 0
    assert train(trainer)[-2] == pytest.approx(train(trainer_for(trainer.network))[-2], rel=1e-3, abs=1e-5)


def test_a_module_that_computes_elsewhere_is_refused_with_a_sentence(folder: Path) -> None:
    with pytest.raises(NetworkError, match=r"forward (gave a tensor on meta; expected one on cpu|raised)"):
        Model(FEATURES, settings_of(folder, ELSEWHERE))


def test_a_gpu_that_is_not_there_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(DeviceError, match=r"finds no GPU here: .* or set learner.device = 'cpu'"):
        autograd.need_torch("dcn", "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert placing.gpu_of({}) == "cuda:0" and placing.gpu_of({"LOCAL_RANK": "1"}) == "cuda:1"
    with pytest.raises(DeviceError, match="has 2 GPUs: none for its shard number 2"):
        placing.gpu_of({"LOCAL_RANK": "2"})
    with pytest.raises(ValueError, match="deep is 'none'"):
        LearnerSettings(device="cuda", deep="none")


def set_apart(shard: Any) -> None:
    """Exchange the network by itself, from the processor."""
    shard.network.apart = True


@pytest.mark.process
def test_shards_whose_network_is_exchanged_by_itself_have_the_same_bits() -> None:
    chunks = chunks_of(examples_of(200), 100)
    found = []
    for crew, apart in (
        (Together(Owners(2), SHARED, SETTINGS), False),
        (Together(Owners(2), SHARED, SETTINGS), True),
        (Processes(Owners(2), SHARED, SETTINGS), True),
    ):
        learner = ShardedLearner(crew, 64)
        try:
            if apart:
                crew.ask(set_apart)
            found.append(
                (predicted(learn(learner, chunks)).tobytes(), learner.digest(), learner.table_rows())
            )
        finally:
            learner.close()
    assert found[0] == found[1] == found[2]


def on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("NO GPU")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_learns_what_the_processor_learns(name: str) -> None:
    on_a_gpu()
    network = make_network(name, LAYOUT)
    trainer = trainer_for(network, "cuda")
    assert isinstance(trainer, autograd.AutogradTrainer) and trainer.place.device.type == "cuda"
    for one, other in zip(train(trainer), train(autograd.AutogradTrainer(*_arguments(network))), strict=True):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-4)


def test_a_gpu_learns_with_a_module_of_the_users_and_refuses_one_that_stays_behind(folder: Path) -> None:
    on_a_gpu()
    network = Model(FEATURES, settings_of(folder, GOOD)).network
    behind = GOOD.replace(".squeeze(1)", ".squeeze(1) + torch.zeros(len(inputs['logit']))")
    stays = Model(FEATURES, settings_of(folder, behind)).network
    assert isinstance(network, OwnNetwork) and isinstance(stays, OwnNetwork)
    width = network.layout.width
    for one, other in zip(
        train(trainer_for(network, "cuda"), width), train(trainer_for(network), width), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-4)
    with pytest.raises(NetworkError, match="make tensors on the device of its inputs"):
        trainer_for(stays, "cuda")


@pytest.mark.process
def test_shards_on_gpus_add_up_by_nccl() -> None:
    on_a_gpu()
    if torch.cuda.device_count() < 2:
        pytest.skip("NO SECOND GPU: nccl wants one for each shard")
    settings = LearnerSettings(group=16, device="cuda")
    learner = ShardedLearner(Processes(Owners(2), SHARED, settings), 64)
    try:
        assert np.isfinite(predicted(learn(learner, chunks_of(examples_of(200), 100)))).all()
    finally:
        learner.close()
