"""Learning the deep part: its networks' gradients, and one Adam step per group of rows.

The deep part is a residual on the fast logit; `learner.networks` has the networks, whose numpy side
serves and predicts. torch is needed here only, so a server starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from learner.networks import CROSS_LAYERS, DCN, HIDDEN, Array, Network

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


# The numpy error model: a branch for division by zero would keep the loop from being vectorized (10 times).
@njit(cache=True, nogil=True, error_model="numpy")
def adam(weights, gradient, moments, steps, scale, rate):  # type: ignore[no-untyped-def]
    """One step of Adam (Kingma & Ba 2015; betas .9 and .999) in one pass over the weights.

    Args:
        weights: (W,) float32, moved in place.
        gradient: (W,) float32.
        moments: (2, W) float32, moved in place.
        steps: the number of this step, from 1.
        scale: by which the gradient is multiplied first.
        rate: the step size.
    """
    by = np.float32(scale)
    step = np.float32(rate / (1.0 - 0.9**steps))
    correct = np.float32((1.0 - 0.999**steps) ** -0.5)
    m, v = moments[0], moments[1]
    for i in range(len(weights)):
        g = gradient[i] * by
        m[i] += np.float32(0.1) * (g - m[i])
        v[i] += np.float32(0.001) * (g * g - v[i])
        weights[i] -= step * m[i] / (np.sqrt(v[i]) * correct + np.float32(1e-8))


class Step(NamedTuple):
    """What learning one group gave."""

    by_inputs: Array  # (n, embedding_width), gradient of the summed loss by the embeddings
    z: Floats  # (n,), logits as they stood before the step


class DeepTrainer:
    """Learns the weights of one network in place: one Adam step per group. Gradients are autograd's.

    Args:
        network: what to learn.
        flat: (weight_count,) the weights, shared with whoever predicts from them.
        moments: (2, weight_count) Adam's two moments, shared likewise.
        steps: how many steps have been taken already.
        rate: Adam's step size.
        clip: the largest norm of the gradient.
        threads: of torch.
        correction: the share of ReLoop's self-correction loss, 0 to 1; see `by_logit`.
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
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._network = network
        self._flat = torch.from_numpy(flat)
        self._grad = torch.zeros_like(self._flat)
        self._moments = moments
        self.steps = steps
        self._rate = rate
        self._clip = clip
        self._correction = correction
        self._weights = {name: torch.from_numpy(view) for name, view in network.split(flat).items()}
        self._grads = {
            name: torch.from_numpy(view) for name, view in network.split(self._grad.numpy()).items()
        }

    def predict(self, inputs: Array) -> Array:
        """The residual logit (n,) by torch, for checking the network's numpy side."""
        torch = self._torch
        with torch.no_grad():
            residual: Array = self._network.forward(self._weights, torch.from_numpy(inputs), torch).numpy()
        return residual

    def step(
        self,
        inputs: Array,
        embedding_width: int,
        offset: Floats,
        y: Floats,
        reference: Floats | None = None,
    ) -> Step | None:
        """Predict a group and learn it.

        Args:
            inputs: (n, width), of which the first `embedding_width` are embeddings.
            offset: (n,) the logit that the residual is added to.
            y: (n,) labels.
            reference: (n,) logits that are to be bettered, for self-correction; None: the offsets.

        Returns:
            The gradient by the embeddings and the logits before the step; or None if the loss or a
            gradient was not finite: then nothing was learnt.
        """
        z, by_inputs = self._gradients(inputs, embedding_width, offset, y, reference)
        norm = float(self._grad.norm())
        if not np.isfinite(norm):
            return None
        # Rows of embeddings learn from the sum, the network from the mean, as is usual for Adam.
        scale = 1.0 / len(y)
        if norm * scale > self._clip:
            scale = self._clip / norm
        self.steps += 1
        adam(self._flat.numpy(), self._grad.numpy(), self._moments, self.steps, scale, self._rate)
        return Step(by_inputs.numpy(), z)

    def _gradients(
        self, inputs: Array, wanted: int, offset: Floats, y: Floats, reference: Floats | None
    ) -> tuple[Floats, torch.Tensor]:
        """Fill `_grad`; the logits (n,), and the gradient by the first `wanted` inputs (n, wanted)."""
        torch = self._torch
        x0 = torch.from_numpy(inputs).requires_grad_()
        for name, weight in self._weights.items():
            weight.requires_grad_().grad = self._grads[name].zero_()
        residual = self._network.forward(self._weights, x0, torch)
        z = residual.detach().numpy() + offset
        residual.backward(torch.from_numpy(self._by_logit(z, y, offset, reference)))
        for weight in self._weights.values():
            weight.requires_grad_(False)
        assert x0.grad is not None
        return z, x0.grad[:, :wanted]

    def _by_logit(self, z: Floats, y: Floats, offset: Floats, reference: Floats | None) -> Array:
        return by_logit(z, y, offset if reference is None else reference, self._correction)


def by_logit(z: Floats, y: Floats, reference: Floats, correction: float) -> Array:
    """The gradient of the summed loss by the logits, (n,).

    With p = σ(z), the prediction q = σ(reference) that is to be bettered, and α = `correction`, the loss is

        (1 - α) logloss(p, y) + α [y max(q - p, 0) + (1 - y) max(p - q, 0)]

    whose second part is ReLoop's self-correction loss (Cai et al. 2022, arXiv 2204.11165): it asks for
    nothing where a prediction is already better than the one before it.
    """
    p = 1.0 / (1.0 + np.exp(-z))
    gradient = p - y
    if correction:
        worse = np.where(y > 0.5, z < reference, z > reference)
        gradient = (1.0 - correction) * gradient + correction * worse * np.where(y > 0.5, -1.0, 1.0) * p * (
            1.0 - p
        )
    return gradient.astype(np.float32)


class _Passed(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    x: list[torch.Tensor]  # the inputs, and what each cross layer made of them, (n, width) each
    c: list[torch.Tensor]  # by what each cross layer multiplied the inputs, (n, width) each
    h: list[torch.Tensor]  # the inputs, and the MLP's hidden layers


class DCNTrainer(DeepTrainer):
    """The same for `DCN`, with its gradients written out.

    For matrices this small, autograd's bookkeeping costs as much as the arithmetic (a test holds the
    two against each other).
    """

    def _gradients(
        self, inputs: Array, wanted: int, offset: Floats, y: Floats, reference: Floats | None
    ) -> tuple[Floats, torch.Tensor]:
        torch = self._torch
        with torch.no_grad():
            residual, passed = self._forward(torch.from_numpy(inputs))
            z = residual.numpy() + offset
            return z, self._backward(
                torch.from_numpy(self._by_logit(z, y, offset, reference)), passed, wanted
            )

    def _forward(self, x0: torch.Tensor) -> tuple[torch.Tensor, _Passed]:
        torch, w = self._torch, self._weights
        width = self._network.layout.width
        x, c, h = [x0], [], [x0]
        for i in range(CROSS_LAYERS):
            c.append(torch.addmm(w[f"cross{i}.b"], x[-1], w[f"cross{i}.w"].t()))
            x.append(torch.addcmul(x[-1], x0, c[-1]))
        for i in range(len(HIDDEN)):
            h.append(torch.addmm(w[f"mlp{i}.b"], h[-1], w[f"mlp{i}.w"].t()).relu_())
        out = w["out.w"]
        residual = torch.mv(x[-1], out[:width]).addmv_(h[-1], out[width:])
        return residual, _Passed(x, c, h)

    def _backward(self, error: torch.Tensor, passed: _Passed, wanted: int) -> torch.Tensor:
        """Write the gradients of all weights, given that of the residuals, (n,).

        Returns:
            The gradient by the first `wanted` inputs, (n, wanted).
        """
        torch, w, g = self._torch, self._weights, self._grads
        x, c, h = passed
        width = self._network.layout.width
        x0 = x[0]
        out, by_out = w["out.w"], g["out.w"]
        torch.mv(x[-1].t(), error, out=by_out[:width])
        torch.mv(h[-1].t(), error, out=by_out[width:])

        by_h = torch.outer(error, out[width:])
        for i in reversed(range(len(HIDDEN))):
            by_h.mul_(h[i + 1] > 0)
            torch.mm(by_h.t(), h[i], out=g[f"mlp{i}.w"])
            torch.sum(by_h, 0, out=g[f"mlp{i}.b"])
            by_h = torch.mm(by_h, w[f"mlp{i}.w"] if i else w["mlp0.w"][:, :wanted])

        by_x0 = by_h
        by_x = torch.outer(error, out[:width])
        for i in reversed(range(CROSS_LAYERS)):
            by_x0.addcmul_(by_x[:, :wanted], c[i][:, :wanted])
            by_c = by_x * x0
            torch.mm(by_c.t(), x[i], out=g[f"cross{i}.w"])
            torch.sum(by_c, 0, out=g[f"cross{i}.b"])
            by_x = torch.addmm(by_x, by_c, w[f"cross{i}.w"])
        return by_x0.add_(by_x[:, :wanted])


def trainer_of(network: Network) -> type[DeepTrainer]:
    """The class that learns this network: with gradients by hand where they are written, else by autograd."""
    return DCNTrainer if isinstance(network, DCN) else DeepTrainer
