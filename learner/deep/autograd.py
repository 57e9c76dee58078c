"""Trains the networks that have no kernel of their own, with gradients from torch's autograd.

Only this file needs torch, so a server and a learner of the default network start without it.
"""

from __future__ import annotations

import threading
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ground.threads import HelperThread
from learner.deep.networks import Array
from learner.deep.placing import Placing, parts_of, step_apart
from learner.deep.trainer import DeepTrainer, Floats, Step, by_logits, take_step
from learner.errors import TorchMissingError
from learner.lessons import Lessons

if TYPE_CHECKING:
    import torch


WITHOUT_TORCH = ("none", "dcn")
"""Deep parts that do not need torch."""


def have_torch() -> bool:
    """Whether torch is installed; it is not imported."""
    try:
        return find_spec("torch") is not None
    except (ImportError, ValueError):  # a broken installation
        return False


def import_beside(deep: str) -> None:
    """Start importing torch in a thread, if this deep part needs it and it is installed.

    An import that fails does so again, in the caller's thread, when a trainer is made.
    """

    def work(_: threading.Event) -> None:
        import_module("torch")

    if deep not in WITHOUT_TORCH and have_torch():
        HelperThread("import torch", work, daemon=False).start()


def need_torch(deep: str, device: str = "cpu") -> None:
    """Check that the installed packages can train this deep part, and that there is the device.

    Raises:
        TorchMissingError: it needs torch, which is not installed.
        DeviceError: there is no such device.
    """
    if device != "cpu" and have_torch():
        Placing(device)
    elif device != "cpu":
        raise TorchMissingError(
            f"learner.device = {device!r} needs PyTorch, which is not installed: pip install 'freshet[torch]'"
        )
    if deep not in WITHOUT_TORCH and not have_torch():
        raise TorchMissingError(
            f"learner.deep = {deep!r} is trained by PyTorch, which is not installed: pip install "
            "'freshet[torch]'; the default, learner.deep = 'dcn', does not need it"
        )


def backward(logits: torch.Tensor, gradient: torch.Tensor) -> None:
    """`logits.backward(gradient)`, both (n,), to the bit.

    Given a gradient, torch imports sympy first, to compare shapes: 35 MB.
    """
    logits.dot(gradient).backward()


class AutogradTrainer(DeepTrainer):
    """Trains the weights of any network.

    Args:
        arguments, named: of `DeepTrainer`.
        device: where torch computes, see `learner.deep.placing`.

    Raises:
        TorchMissingError: torch is not installed.
        DeviceError: there is no such device.
    """

    def __init__(self, *arguments: Any, device: str = "cpu", **named: Any) -> None:
        try:
            import torch
        except ImportError as error:
            raise TorchMissingError(
                f"this network is trained by PyTorch, which cannot be imported ({error}): pip install "
                "'freshet[torch]'; learner.deep = 'dcn' does not need it"
            ) from None

        super().__init__(*arguments, **named)
        torch.set_num_threads(self.threads)
        self._torch = torch
        self.place = place = Placing(device)
        self._flat, self._grad = place.put(self.flat), place.put(np.zeros_like(self.flat))
        shapes = self.network.shapes()
        self._weights, self._grads = parts_of(self._flat, shapes), parts_of(self._grad, shapes)

    def predict(self, inputs: Array) -> Array:
        """The residual logit (n,) by torch, for checking the network's numpy side."""
        torch = self._torch
        with torch.no_grad():
            return self.place.take(self.network.forward(self._weights, self.place.put(inputs), torch))

    def step(
        self,
        inputs: Array,
        embedding_width: int,
        offset: Floats,
        lessons: Lessons,
        reference: Floats | None = None,
    ) -> Step | None:
        """See `DeepTrainer.step`."""
        if self.place.apart:
            self._flat.copy_(self._torch.from_numpy(self.flat))
        z, by_inputs = self._gradients(inputs, offset, lessons, offset if reference is None else reference)
        if not self._take_step(len(offset)):
            return None
        self.steps += 1
        return Step(self.place.take(by_inputs)[:, :embedding_width], z)

    def _take_step(self, rows: int) -> bool:
        """See `take_step`; on a GPU what it made is copied back."""
        steps, how = self.steps + 1, (rows, self.rate, self.clip)
        if not self.place.apart:
            return bool(take_step(self.flat, self._grad.numpy(), self.moments, steps, *how))
        moments = self.place.put(self.moments)
        if not step_apart(self._flat, self._grad, moments, steps, *how):
            return False
        self.flat[:], self.moments[:] = self.place.take(self._flat), self.place.take(moments)
        return True

    def _gradients(
        self, inputs: Array, offset: Floats, lessons: Lessons, reference: Floats
    ) -> tuple[Floats, torch.Tensor]:
        """Fill `_grad`; the logits (n,), and the gradient by the inputs (n, width)."""
        torch = self._torch
        place = self.place
        x0 = place.put(inputs).requires_grad_()
        for name, weight in self._weights.items():
            weight.requires_grad_().grad = self._grads[name].zero_()
        target = place.put(lessons.target.astype(np.int64))
        residual = self.network.forward_each(self._weights, x0, target, torch)
        z = place.take(residual) + offset
        backward(residual, place.put(by_logits(z, lessons, reference, self.correction)))
        for weight in self._weights.values():
            weight.requires_grad_(False)
        assert x0.grad is not None
        return z, x0.grad
