"""The deep part: DCN-v2 as a residual on the fast logit.

Inputs of a row: the features' embeddings, the fast part's means of every weight column, scaled
counts, numbers, and the fast logit itself. Two full-rank cross layers stand beside an MLP; the
output layer starts at zero, so that the deep part first says nothing at all. (Deep & Cross Network
V2: Wang et al. 2021, arXiv 2008.13535.)

`forward` is plain numpy, for serving and for predicting; torch is needed to learn only, so that a
server starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]

CROSS_LAYERS = 2
HIDDEN = (64, 32)


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's weights for inputs of `width`; matrices are (out, in)."""
    found: dict[str, tuple[int, ...]] = {}
    for i in range(CROSS_LAYERS):
        found[f"cross{i}.w"] = (width, width)
        found[f"cross{i}.b"] = (width,)
    inside = width
    for i, outside in enumerate(HIDDEN):
        found[f"mlp{i}.w"] = (outside, inside)
        found[f"mlp{i}.b"] = (outside,)
        inside = outside
    found["out.w"] = (width + inside,)
    return found


def split(flat: Array, width: int) -> dict[str, Array]:
    """Views of the flat weight vector by name."""
    views = {}
    at = 0
    for name, shape in shapes(width).items():
        size = int(np.prod(shape))
        views[name] = flat[at : at + size].reshape(shape)
        at += size
    return views


def weight_count(width: int) -> int:
    """How many weights a network for inputs of `width` has."""
    return sum(int(np.prod(shape)) for shape in shapes(width).values())


def initial_weights(width: int, seed: int) -> Array:
    """The first weights: uniform in ±1/sqrt(in) as torch does for linear layers; the output at zero."""
    rng = np.random.default_rng(seed)
    parts = []
    for name, shape in shapes(width).items():
        if name == "out.w" or name.endswith(".b"):
            parts.append(np.zeros(shape, dtype=np.float32))
        else:
            bound = 1.0 / np.sqrt(shape[1])
            parts.append(rng.uniform(-bound, bound, shape).astype(np.float32))
    return np.concatenate([part.reshape(-1) for part in parts])


def forward(weights: dict[str, Array], x0: Array) -> Array:
    """The residual logit (n,) of inputs (n, width)."""
    x = x0
    for i in range(CROSS_LAYERS):
        x = x0 * (x @ weights[f"cross{i}.w"].T + weights[f"cross{i}.b"]) + x  # (n, width)
    h = x0
    for i in range(len(HIDDEN)):
        h = np.maximum(h @ weights[f"mlp{i}.w"].T + weights[f"mlp{i}.b"], 0.0)
    width = x0.shape[1]
    out = weights["out.w"]
    return x @ out[:width] + h @ out[width:]


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


class _Passed(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    x: list[torch.Tensor]  # the inputs, and what each cross layer made of them, (n, width) each
    c: list[torch.Tensor]  # by what each cross layer multiplied the inputs, (n, width) each
    h: list[torch.Tensor]  # the inputs, and the MLP's hidden layers


class DeepTrainer:
    """Learns the weights of one network in place: one Adam step per group.

    The gradients are written out: for matrices this small, autograd's bookkeeping costs as much as
    the arithmetic (a test holds the two against each other).

    Args:
        flat: (weight_count,) the weights, shared with whoever predicts from them.
        moments: (2, weight_count) Adam's two moments, shared likewise.
        steps: how many steps have been taken already.
        width: of the inputs.
        rate: Adam's step size.
        clip: the largest norm of the gradient.
    """

    def __init__(
        self, flat: Array, moments: Array, steps: int, width: int, rate: float, clip: float, threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._flat = torch.from_numpy(flat)
        self._grad = torch.zeros_like(self._flat)
        self._moments = moments
        self.steps = steps
        self._rate = rate
        self._clip = clip
        self._width = width
        self._weights = {name: torch.from_numpy(view) for name, view in split(flat, width).items()}
        self._grads = {
            name: torch.from_numpy(view) for name, view in split(self._grad.numpy(), width).items()
        }

    def _forward(self, x0: torch.Tensor) -> tuple[torch.Tensor, _Passed]:
        torch, w = self._torch, self._weights
        x, c, h = [x0], [], [x0]
        for i in range(CROSS_LAYERS):
            c.append(torch.addmm(w[f"cross{i}.b"], x[-1], w[f"cross{i}.w"].t()))
            x.append(torch.addcmul(x[-1], x0, c[-1]))
        for i in range(len(HIDDEN)):
            h.append(torch.addmm(w[f"mlp{i}.b"], h[-1], w[f"mlp{i}.w"].t()).relu_())
        out = w["out.w"]
        residual = torch.mv(x[-1], out[: self._width]).addmv_(h[-1], out[self._width :])
        return residual, _Passed(x, c, h)

    def _backward(self, error: torch.Tensor, passed: _Passed, wanted: int) -> torch.Tensor:
        """Write the gradients of all weights, given that of the residuals, (n,).

        Returns:
            The gradient by the first `wanted` inputs, (n, wanted).
        """
        torch, w, g = self._torch, self._weights, self._grads
        x, c, h = passed
        width = self._width
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

    def predict(self, inputs: Array) -> Array:
        """The residual logit (n,) by torch, for checking `forward`."""
        with self._torch.no_grad():
            return self._forward(self._torch.from_numpy(inputs))[0].numpy()

    def step(
        self, inputs: Array, embedding_width: int, offset: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
    ) -> tuple[Array, npt.NDArray[np.float64]] | None:
        """Predict a group and learn it.

        Args:
            inputs: (n, width), of which the first `embedding_width` are embeddings.
            offset: (n,) the logit that the residual is added to.
            y: (n,) labels.

        Returns:
            The gradient of the summed loss by the embeddings (n, embedding_width), and the logits
            (n,) as they stood before the step; or None if the loss or a gradient was not finite:
            then nothing was learnt.
        """
        torch = self._torch
        with torch.no_grad():
            residual, passed = self._forward(torch.from_numpy(inputs))
            z = residual.numpy() + offset
            error = 1.0 / (1.0 + np.exp(-z)) - y  # the gradient of the summed log loss by the logits
            by_inputs = self._backward(torch.from_numpy(error.astype(np.float32)), passed, embedding_width)
        norm = float(self._grad.norm())
        if not np.isfinite(norm):
            return None
        # Rows of embeddings learn from the sum, the network from the mean, as is usual for Adam.
        scale = 1.0 / len(y)
        if norm * scale > self._clip:
            scale = self._clip / norm
        self.steps += 1
        adam(self._flat.numpy(), self._grad.numpy(), self._moments, self.steps, scale, self._rate)
        return by_inputs.numpy(), z
