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


def need_torch(deep: str) -> None:
    """Check that the installed packages can train this deep part.

    Raises:
        TorchMissingError: it needs torch, which is not installed.
    """
    if deep not in WITHOUT_TORCH and not have_torch():
        raise TorchMissingError(
            f"learner.deep = {deep!r} is trained by PyTorch, which is not installed: pip install "
            "'freshet[torch]'; the default, learner.deep = 'dcn', does not need it"
        )


class AutogradTrainer(DeepTrainer):
    """Trains the weights of any network.

    Raises:
        TorchMissingError: torch is not installed.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
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
        self._grad = torch.zeros(len(self.flat))
        split = self.network.split
        self._weights = {name: torch.from_numpy(view) for name, view in split(self.flat).items()}
        self._grads = {name: torch.from_numpy(view) for name, view in split(self._grad.numpy()).items()}

    def predict(self, inputs: Array) -> Array:
        """The residual logit (n,) by torch, for checking the network's numpy side."""
        torch = self._torch
        with torch.no_grad():
            residual: Array = self.network.forward(self._weights, torch.from_numpy(inputs), torch).numpy()
        return residual

    def step(
        self,
        inputs: Array,
        embedding_width: int,
        offset: Floats,
        lessons: Lessons,
        reference: Floats | None = None,
    ) -> Step | None:
        """See `DeepTrainer.step`."""
        z, by_inputs = self._gradients(inputs, offset, lessons, offset if reference is None else reference)
        gradient = self._grad.numpy()
        if not take_step(
            self.flat, gradient, self.moments, self.steps + 1, len(offset), self.rate, self.clip
        ):
            return None
        self.steps += 1
        return Step(by_inputs[:, :embedding_width].numpy(), z)

    def _gradients(
        self, inputs: Array, offset: Floats, lessons: Lessons, reference: Floats
    ) -> tuple[Floats, torch.Tensor]:
        """Fill `_grad`; the logits (n,), and the gradient by the inputs (n, width)."""
        torch = self._torch
        x0 = torch.from_numpy(inputs).requires_grad_()
        for name, weight in self._weights.items():
            weight.requires_grad_().grad = self._grads[name].zero_()
        target = torch.from_numpy(lessons.target.astype(np.int64))
        residual = self.network.forward_each(self._weights, x0, target, torch)
        z = residual.detach().numpy() + offset
        gradient = by_logits(z, lessons, reference, self.correction)
        residual.backward(torch.from_numpy(gradient))
        for weight in self._weights.values():
            weight.requires_grad_(False)
        assert x0.grad is not None
        return z, x0.grad
