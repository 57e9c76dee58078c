"""The deep part: DCN-v2 as a residual on the fast logit.

Inputs of a row: the features' embeddings, the fast part's means of every weight column, scaled
counts, numbers, and the fast logit itself. Two full-rank cross layers stand beside an MLP; the
output layer starts at zero, so that the deep part first says nothing at all. (Deep & Cross Network
V2: Wang et al. 2021, arXiv 2008.13535.)

`forward` is plain numpy, for serving and for predicting; torch is needed to learn only, so that a
server starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


@njit(cache=True, nogil=True)
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


class DeepTrainer:
    """Learns the weights of one network in place: one Adam step per group.

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
        self._weights: dict[str, torch.Tensor] = {}
        at = 0
        for name, shape in shapes(width).items():
            size = int(np.prod(shape))
            leaf = self._flat[at : at + size].view(shape).detach().requires_grad_()
            leaf.grad = self._grad[at : at + size].view(shape)
            self._weights[name] = leaf
            at += size

    def _forward(self, x0: torch.Tensor) -> torch.Tensor:
        w = self._weights
        torch = self._torch
        linear = torch.nn.functional.linear
        x = x0
        for i in range(CROSS_LAYERS):
            x = torch.addcmul(x, x0, linear(x, w[f"cross{i}.w"], w[f"cross{i}.b"]))
        h = x0
        for i in range(len(HIDDEN)):
            h = torch.relu(linear(h, w[f"mlp{i}.w"], w[f"mlp{i}.b"]))
        return torch.cat([x, h], dim=1) @ w["out.w"]

    def predict(self, inputs: Array) -> Array:
        """The residual logit (n,) by torch, for checking `forward`."""
        with self._torch.no_grad():
            return self._forward(self._torch.from_numpy(inputs)).numpy()

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
        x0 = torch.from_numpy(inputs).requires_grad_()
        self._grad.zero_()
        residual = self._forward(x0)
        z = residual.detach().numpy() + offset
        # The gradient of the summed log loss by the logits, written down to spare autograd the work.
        error = 1.0 / (1.0 + np.exp(-z)) - y
        residual.backward(torch.from_numpy(error.astype(np.float32)))  # type: ignore[no-untyped-call]
        assert x0.grad is not None
        norm = float(self._grad.norm())
        if not np.isfinite(norm):
            return None
        # Rows of embeddings learn from the sum, the network from the mean, as is usual for Adam.
        scale = 1.0 / len(y)
        if norm * scale > self._clip:
            scale = self._clip / norm
        self.steps += 1
        adam(self._flat.numpy(), self._grad.numpy(), self._moments, self.steps, scale, self._rate)
        return x0.grad[:, :embedding_width].numpy(), z
