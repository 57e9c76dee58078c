"""A torch module of the user's as a network of the deep part.

The module's parameters, and its float32 buffers, are views of the model's one flat vector of dense weights.
So they are trained, committed, published and hashed like those of every other network.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from learner.deep.networks import Array, InputLayout, Network, Shapes, Tensors
from learner.deep.own.source import own_class, own_source
from learner.deep.placing import parts_of
from learner.errors import NetworkError, TorchMissingError
from learner.settings import LearnerSettings
from stream.records.targets import PRIMARY

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("freshet.network")

PROBE_ROWS = 5

Forward: TypeAlias = Callable[[dict[str, "torch.Tensor"]], object]
"""A module, or a function in its place: named inputs to logits."""
Which: TypeAlias = "int | npt.NDArray[np.int64] | torch.Tensor"
"""The number of the target of all rows, or of each (n,)."""


class Troubles:
    """Counts what went wrong in a module while it was used, and logs the 1st, 10th, 100th time and so on."""

    def __init__(self, name: str) -> None:
        self.count = 0
        self.last = ""
        self._name = name

    def note(self, what: str, error: Exception) -> None:
        """Count one; `what` says what goes on without the module."""
        self.count += 1
        self.last = str(error) if isinstance(error, NetworkError) else f"{type(error).__name__}: {error}"
        if str(self.count).rstrip("0") == "1":
            _log.warning("learner.deep = %r: %s (%d so far): %s", self._name, what, self.count, self.last)


class OwnNetwork(Network):
    """The class that `learner.deep` names, checked with made-up inputs.

    A constructor with a parameter `targets` is given their names. Where it has one, or there are several
    targets, the module gives (n, targets) logits; otherwise (n,).

    Raises:
        NetworkError: it cannot be imported or made, or its answers have another shape, type or device.
        TorchMissingError: torch is not installed.
    """

    def __init__(
        self, settings: LearnerSettings, layout: InputLayout, targets: Sequence[str] = (PRIMARY,)
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise TorchMissingError(
                f"learner.deep = {settings.deep!r} is a torch module, and PyTorch cannot be imported "
                f"({error}): pip install 'freshet[torch]'"
            ) from None
        super().__init__(layout, len(targets))
        self.name = settings.deep
        self.version = own_source(settings).version
        self.troubles = Troubles(settings.deep)
        self._class = own_class(settings)
        self._names = tuple(targets)
        self._asks = _takes_targets(self._class)
        self._torch = torch
        self._seed = settings.seed
        self._serving: tuple[int, torch.nn.Module] | None = None
        torch.set_num_threads(settings.threads)
        first = self._make(settings.seed)
        self._shapes: Shapes = {name: tuple(part.shape) for name, part in self._parts(first).items()}
        self._check_repeats(first)
        self.varies = self._check_answers()

    def shapes(self) -> Shapes:
        """Of the module's parameters and buffers, by their names in its `state_dict`."""
        return dict(self._shapes)

    def initial_weights(self, seed: int) -> Array:
        """What the module's constructor gives when torch's generator begins at the seed."""
        return self._flat(self._make(seed))

    def forward(self, w: Tensors, x0: object, xp: object = np, target: int = 0) -> object:
        """The residual logit (n,) of inputs (n, width), of numpy or torch, by a module of these weights."""
        return self.forward_each(w, x0, target, xp)

    def forward_each(self, w: Tensors, x0: object, target: Which, xp: object = np) -> object:
        """`forward`, of each row for its own target (n,), or of all for one."""
        torch = self._torch
        if isinstance(x0, torch.Tensor):
            module = self._make(self._seed)
            return self.residual(
                lambda named: torch.func.functional_call(module, dict(w), (named,)), x0, target
            )
        assert isinstance(x0, np.ndarray)
        z = np.zeros(len(x0))
        self.add_residual(w, x0, z, target)
        return z.astype(np.float32)

    def add_residual(self, w: Tensors, x0: Array, z: npt.NDArray[np.float64], target: Which = 0) -> None:
        """Add to logits z (n,) the residuals of inputs (n, width): nothing where the module fails."""
        torch = self._torch
        try:
            module = self._module_of(w)
            with torch.inference_mode():
                residual = self.residual(module, torch.from_numpy(x0), target).numpy()
        except Exception as error:  # whatever the module's own code raises
            self.troubles.note("the fast part answers alone", error)
            return
        finite = np.isfinite(residual)
        if not finite.all():
            count = len(residual) - np.count_nonzero(finite)
            self.troubles.note(
                "the fast part answers these rows alone", NetworkError(f"{count} logits are not finite")
            )
            residual = np.where(finite, residual, np.float32(0.0))
        z += residual

    def residual(self, module: Forward, x0: torch.Tensor, target: Which = 0) -> torch.Tensor:
        """The module's logits (n,) of one target, or of each row's own, as float32; x0 is (n, width).

        Raises:
            NetworkError: they are no such tensor.
        """
        found = self.logits(module, x0)
        if found.dim() == 1:
            return found
        rows, of = self._torch.arange(len(x0)), self._torch.as_tensor(target)
        return found[rows.to(found.device), of.to(found.device)]

    def logits(self, module: Forward, x0: torch.Tensor) -> torch.Tensor:
        """The module's logits, (n,) or (n, targets), as float32, checked; x0 is (n, width).

        Raises:
            NetworkError: they are no such tensor.
        """
        torch = self._torch
        found = module(self.named(x0))
        n = len(x0)
        expected = (n, self.targets) if self._wide else (n,)
        if not isinstance(found, torch.Tensor):
            raise self._wrong(f"forward gave {_kind(found)}; expected a tensor of logits, shape {expected}")
        if tuple(found.shape) != expected:
            raise self._wrong(
                f"forward gave a tensor of shape {tuple(found.shape)} for {n} rows; expected {expected}, one "
                f"logit for each{self._shape_hint(tuple(found.shape), n)}"
            )
        if not found.is_floating_point():
            raise self._wrong(f"forward gave {found.dtype}; expected floating-point logits")
        if found.device != x0.device:
            raise self._wrong(f"forward gave a tensor on {found.device}; expected one on {x0.device}")
        return found.float()

    def named(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs (n, width) cut into named views, each (n, its width)."""
        parts = x0.split([width for _, width in self.layout.names], 1)
        return {name: part for (name, _), part in zip(self.layout.names, parts, strict=True)}

    def bound(self, flat: torch.Tensor) -> torch.nn.Module:
        """A new module on a device, whose parameters and buffers are views of the flat weight vector there.

        Raises:
            NetworkError: it cannot be used on this device, which is not the processor.
        """
        module = self._bind(parts_of(flat, self._shapes), flat.device)
        if flat.device.type != "cpu":
            try:
                with self._torch.no_grad():
                    self.logits(module, flat.new_zeros((PROBE_ROWS, self.layout.width)))
            except Exception as error:  # whatever the module's own code raises
                raise self._wrong(
                    f"on {flat.device} forward raised {type(error).__name__}: {error}; make tensors on the "
                    "device of its inputs"
                ) from error
        return module

    @property
    def buffers_at(self) -> list[slice]:
        """Where the module's buffers are in the flat weight vector; its own code changes them."""
        parameters = dict(self._make(self._seed).named_parameters())
        found, at = [], 0
        for name, shape in self._shapes.items():
            size = int(np.prod(shape))
            if name not in parameters:
                found.append(slice(at, at + size))
            at += size
        return found

    def _bind(self, views: Mapping[str, torch.Tensor], device: torch.device) -> torch.nn.Module:
        module = self._make(self._seed).to(device)  # what is in no weights, too
        for name, part in self._parts(module, device.type).items():
            part.data = views[name]
        return module.eval()

    def _module_of(self, w: Tensors) -> torch.nn.Module:
        """A module that predicts with these weights, which are always views of the same vector."""
        first = next(iter(w.values()), None)
        where = 0 if first is None else first.__array_interface__["data"][0]
        if self._serving is None or self._serving[0] != where:
            views = {name: self._torch.from_numpy(view) for name, view in w.items()}
            self._serving = where, self._bind(views, self._torch.device("cpu"))
        return self._serving[1]

    def _make(self, seed: int) -> torch.nn.Module:
        torch = self._torch
        widths = dict(self.layout.names)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = self._class(widths, targets=self._names) if self._asks else self._class(widths)
        except Exception as error:  # whatever the module's own code raises
            given = "widths, targets" if self._asks else "widths"
            raise self._wrong(
                f"{self._class.__name__}({given}) raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, torch.nn.Module):
            raise self._wrong(f"{self._class.__name__} is no torch.nn.Module, but {_kind(module)}")
        return module

    def _parts(self, module: torch.nn.Module, device: str = "cpu") -> dict[str, torch.Tensor]:
        """The module's parameters, each once, and the buffers that its state_dict has.

        Raises:
            NetworkError: one of them is not on the device, or not of float32.
        """
        parameters = dict(module.named_parameters())
        saved = module.state_dict(keep_vars=True).keys()
        buffers = {name: part for name, part in module.named_buffers() if name in saved}
        for name, part in (parameters | buffers).items():
            kind = "parameter" if name in parameters else "buffer"
            if self._torch.nn.parameter.is_lazy(part):
                raise self._wrong(
                    f"{kind} {name} has no shape yet: give its layer its size (`widths` has it)"
                )
            if part.device.type != device:
                raise self._wrong(
                    f"{kind} {name} is on {part.device}; expected {device}: Freshet says where it is trained"
                )
            if part.dtype != self._torch.float32 or part.layout != self._torch.strided:
                hint = ", or register it with persistent=False if it is a constant" * (kind == "buffer")
                raise self._wrong(
                    f"{kind} {name} is {part.dtype}, {part.layout}; expected dense float32{hint}"
                )
        return parameters | buffers

    def _flat(self, module: torch.nn.Module) -> Array:
        parts = self._parts(module)
        shapes = {name: tuple(part.shape) for name, part in parts.items()}
        if shapes != self._shapes:
            difference = _difference(self._shapes, shapes)
            raise self._wrong(
                f"{self._class.__name__} has other weights each time it is made ({difference}): let shapes "
                "depend on the constructor's argument alone"
            )
        flat = [part.detach().numpy().ravel() for part in parts.values()]
        return np.concatenate(flat).astype(np.float32) if flat else np.zeros(0, dtype=np.float32)

    def _check_repeats(self, first: torch.nn.Module) -> None:
        if self._flat(first).tobytes() != self.initial_weights(self._seed).tobytes():
            raise self._wrong(
                f"{self._class.__name__} begins with other weights each time it is made: draw them from "
                "torch's generator, which Freshet seeds, so that a replay repeats itself"
            )

    def _check_answers(self) -> bool:
        """Try the module on made-up inputs and weights; returns whether train() and eval() differ."""
        torch, rng = self._torch, np.random.default_rng(0)
        flat = self.initial_weights(self._seed)
        first = self.bound(torch.from_numpy(flat.copy()))
        disturbed = self.bound(torch.from_numpy(flat + rng.normal(0.0, 0.1, len(flat)).astype(np.float32)))
        x0 = torch.from_numpy(rng.normal(0.0, 0.5, (PROBE_ROWS, self.layout.width)).astype(np.float32))
        try:
            with torch.random.fork_rng(devices=[]):
                for rows in (1, PROBE_ROWS):
                    inputs = x0[:rows].clone().requires_grad_()
                    for module in (first.eval(), first.train()):
                        residual = self.logits(module, inputs)
                    if not torch.isfinite(residual).all():
                        raise self._wrong("forward gave a logit that is not finite, for made-up inputs")
                    if residual.requires_grad:
                        residual.sum().backward()
                    else:
                        raise self._wrong(
                            "its logits depend on no input and no parameter by which torch could train it"
                        )
                with torch.no_grad():
                    weights = self._flat(disturbed.eval())
                    together = self.logits(disturbed, x0)
                    again = self.logits(disturbed, x0)
                    if self._flat(disturbed).tobytes() != weights.tobytes():
                        raise self._wrong(
                            "forward changes its own weights in eval(): predicting changes nothing"
                        )
                    alone = torch.cat([self.logits(disturbed, x0[r : r + 1]) for r in range(PROBE_ROWS)])
                    trained = self.logits(disturbed.train(), x0)
        except NetworkError:
            raise
        except Exception as error:  # whatever the module's own code raises
            raise self._wrong(
                f"forward raised {type(error).__name__}: {error}; {self._expected()}"
            ) from error
        if not torch.equal(together, again):
            raise self._wrong("forward gives other logits each time, for the same inputs in eval()")
        if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise self._wrong(
                "a row's logit depends on the other rows of its batch: normalise within a row, since a "
                "server scores rows in other batches than the learner"
            )
        return not torch.equal(together, trained)

    @property
    def _wide(self) -> bool:
        """Whether there is a column of logits for each target."""
        return self._asks or self.targets > 1

    def _shape_hint(self, shape: tuple[int, ...], n: int) -> str:
        """What follows "one logit for each": what of, and what to do about this other shape."""
        if not self._wide:
            return "; end it with .squeeze(1)" if shape == (n, 1) else ""
        hint = f" and each of the targets {', '.join(self._names)}, in this order"
        if not self._asks and shape in ((n,), (n, 1)):
            hint += "; a constructor with a parameter `targets` is given their names"
        return hint

    def _expected(self) -> str:
        shapes = ", ".join(f"{name} (n, {width})" for name, width in self.layout.names)
        return f"its inputs are {shapes}"

    def _wrong(self, why: str) -> NetworkError:
        return NetworkError(f"learner.deep = {self.name!r}: {why}")


def _takes_targets(of: Callable[..., object]) -> bool:
    """Whether a class's constructor has a parameter `targets`."""
    try:
        return "targets" in inspect.signature(of).parameters
    except (TypeError, ValueError):  # it has no signature that can be read
        return False


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _difference(old: Shapes, new: Shapes) -> str:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            return f"{name} has shape {old.get(name)}, then {new.get(name)}"
    return "in another order"
