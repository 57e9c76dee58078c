"""One training step of a network in float64, and how far float32 may lie from it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from learner.deep.networks import InputLayout, Network


def within(found: np.ndarray, expected: np.ndarray, error: np.ndarray) -> None:
    """Whether numbers are the expected ones, each within its own error; where that is 0, exactly."""
    off = np.abs(found - expected)
    assert np.isfinite(off).all() and (off <= error).all(), (
        f"{float((off / np.maximum(error, 1e-30)).max()):.3g} times what rounding explains from the reference"
    )


def unit(layout: InputLayout, rows: int) -> float:
    """How far float32 may lie from the truth, as a share of the sum of absolute values.

    A float32 sum of n terms lies within about sqrt(n) u of that sum, u = 2^-24 (Higham & Mary 2019); here
    four times that.
    """
    return float(4.0 * 2.0**-24 * np.sqrt(3.0 * layout.width + rows))


class Reference(NamedTuple):
    """A step in float64, and how far float32 may lie from it."""

    z: np.ndarray
    z_error: np.ndarray
    by_inputs: np.ndarray
    by_inputs_error: np.ndarray
    gradient: np.ndarray
    gradient_error: np.ndarray


def reference(
    network: Network,
    flat: np.ndarray,
    inputs: np.ndarray,
    offset: np.ndarray,
    y: np.ndarray,
    last: np.ndarray,
    correction: float,
) -> Reference:
    """One step by autograd in float64.

    The sums of absolute values are those of the same network with all weights and inputs positive, forward
    and backward.
    """
    rounding = unit(network.layout, len(inputs))

    def passed(absolute: bool, by_z: Callable[[torch.Tensor], torch.Tensor]) -> list[np.ndarray]:
        """Logits without offsets, and with the loss's gradient by them: that by inputs, and by weights."""
        values = [flat.astype(np.float64), inputs.astype(np.float64)]
        w, x = (torch.tensor(np.abs(one) if absolute else one, requires_grad=True) for one in values)
        split = network.split(w)  # type: ignore[arg-type]  # tensors are cut as arrays are
        z = network.forward(split, x, torch)
        z.backward(by_z(z.detach()))
        assert x.grad is not None and w.grad is not None
        return [z.detach().numpy(), x.grad.numpy(), w.grad.numpy()]

    def by_logit(residual: torch.Tensor) -> torch.Tensor:
        z = (residual + torch.from_numpy(offset)).requires_grad_()
        p, q, clicked = torch.sigmoid(z), torch.sigmoid(torch.from_numpy(last)), torch.from_numpy(y)
        loss = (1.0 - correction) * torch.nn.functional.binary_cross_entropy_with_logits(
            z, clicked, reduction="sum"
        )
        loss = loss + correction * (clicked * (q - p).clip(0) + (1 - clicked) * (p - q).clip(0)).sum()
        loss.backward()
        assert z.grad is not None
        errors.append(z.grad.abs())
        return z.grad

    errors: list[torch.Tensor] = []
    residual, by_inputs, gradient = passed(False, by_logit)
    # an error of z changes the gradient by it by at most half as much; float32 rounds that once more
    sums, by_inputs_sums, gradient_sums = passed(True, lambda z: errors[0] * rounding + z * rounding)
    return Reference(residual + offset, sums * rounding, by_inputs, by_inputs_sums, gradient, gradient_sums)
