"""Trains a module of the user's: one Adam step per group, by autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from learner.deep.autograd import AutogradTrainer, backward
from learner.deep.networks import Array, Network
from learner.deep.own.network import OwnNetwork
from learner.deep.trainer import Floats, Step, by_logits
from learner.errors import NetworkError
from learner.lessons import Lessons

if TYPE_CHECKING:
    import torch


class OwnTrainer(AutogradTrainer):
    """Trains the weights of an `OwnNetwork`.

    A group for which the module raises, or gives a wrong shape or a value that is not finite, is left out:
    the weights stay as they were, and the fast part has learned the group anyway.
    """

    def __init__(
        self,
        network: Network,
        flat: Array,
        moments: Array,
        steps: int,
        rate: float,
        clip: float,
        threads: int,
        correction: float = 0.0,
        device: str = "cpu",
    ) -> None:
        super().__init__(network, flat, moments, steps, rate, clip, threads, correction, device=device)
        assert isinstance(network, OwnNetwork)
        self._own = network
        self._module = network.bound(self._flat)
        self._buffers = network.buffers_at
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                parameter.grad = self._grads[name]

    def step(
        self,
        inputs: Array,
        embedding_width: int,
        offset: Floats,
        lessons: Lessons,
        reference: Floats | None = None,
    ) -> Step | None:
        """See `DeepTrainer.step`."""
        before = [self.flat[part].copy() for part in self._buffers]
        try:
            done = super().step(inputs, embedding_width, offset, lessons, reference)
            if done is None:
                raise NetworkError("a gradient is not finite")
            return done
        except Exception as error:  # whatever the module's own code raises
            for part, values in zip(self._buffers, before, strict=True):
                self.flat[part] = values
            self._own.troubles.note("a group is left out, which the fast part alone has learned", error)
            return None

    def _gradients(
        self, inputs: Array, offset: Floats, lessons: Lessons, reference: Floats
    ) -> tuple[Floats, torch.Tensor]:
        """Fill `_grad`; the logits (n,), and the gradient by the inputs (n, width)."""
        torch, own, module, place = self._torch, self._own, self._module, self.place
        x0, target = place.put(inputs).requires_grad_(), place.put(lessons.target.astype(np.int64))
        self._grad.zero_()
        if own.varies:  # what is scored must be what a server would answer, without dropout
            with torch.no_grad():
                honest = own.residual(module.eval(), x0, target)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.steps)
                residual = own.residual(module.train(), x0, target)
        else:
            residual = own.residual(module.train(), x0, target)
            honest = residual.detach()
        if not torch.isfinite(honest).all():
            raise NetworkError("a logit is not finite")
        z = place.take(honest) + offset
        toward = z if not own.varies else place.take(residual) + offset
        backward(residual, place.put(by_logits(toward, lessons, reference, self.correction)))
        by_inputs = torch.zeros_like(x0) if x0.grad is None else x0.grad
        if not torch.isfinite(by_inputs).all():
            raise NetworkError("a gradient by the inputs is not finite")
        return z, by_inputs
