"""Where a network is trained: on the processor, or on a GPU, whose tensors are copies.

The arrays of the model stay the truth, wherever a network is trained: a step on a GPU takes the weights and
moments from them and writes them back. So predictions, commits and shards know nothing of a GPU.
"""

from __future__ import annotations

import os
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learner.deep.networks import Shapes
from learner.errors import DeviceError

if TYPE_CHECKING:
    import torch

BETAS = 0.9, 0.999
EPSILON = 1e-8


class Placing:
    """A device of torch: "cpu", where tensors share the memory of arrays, or "cuda".

    Raises:
        DeviceError: torch does not find it.
    """

    def __init__(self, device: str) -> None:
        self.apart = device != "cpu"
        self._torch = import_module("torch")
        self.device: torch.device = self._torch.device(gpu_of(os.environ) if self.apart else device)

    def put(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        """A tensor of an array: a view of it, or a copy on the device."""
        tensor: torch.Tensor = self._torch.from_numpy(array)
        return tensor.to(self.device)

    def take(self, tensor: torch.Tensor) -> npt.NDArray[np.float32]:
        """The array of a tensor: a view of it, or a copy."""
        found: npt.NDArray[np.float32] = tensor.detach().cpu().numpy()
        return found


def gpu_of(environment: os._Environ[str] | dict[str, str]) -> str:
    """The GPU of this process: of a shard that of its number on its machine (LOCAL_RANK), else the first.

    Raises:
        DeviceError: torch finds none, or none of that number.
    """
    torch = import_module("torch")
    found, number = torch.cuda.device_count(), int(environment.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available() or not found:
        raise DeviceError(
            f"learner.device = 'cuda', and PyTorch {torch.__version__} finds no GPU here: install a build of "
            "PyTorch with CUDA and NVIDIA's driver, let the process see a GPU (CUDA_VISIBLE_DEVICES), or set "
            "learner.device = 'cpu'"
        )
    if number >= found:
        raise DeviceError(
            f"learner.device = 'cuda', and this machine has {found} GPUs: none for its shard number {number} "
            "(LOCAL_RANK, from 0 on); start fewer shards here, or set learner.device = 'cpu'"
        )
    return f"cuda:{number}"


def parts_of(flat: torch.Tensor, shapes: Shapes) -> dict[str, torch.Tensor]:
    """Views of the flat weight vector (W,) by name: `Network.split` of a tensor."""
    parts, at = {}, 0
    for name, shape in shapes.items():
        size = prod(shape)
        parts[name] = flat[at : at + size].reshape(shape)
        at += size
    return parts


def step_apart(
    weights: torch.Tensor,
    gradient: torch.Tensor,
    moments: torch.Tensor,
    steps: int,
    rows: int,
    rate: float,
    clip: float,
) -> bool:
    """`learner.deep.trainer.take_step` on the tensors' device; arguments and the result as there.

    The sums are in another order, so bits differ.
    """
    norm = float(gradient.double().norm())
    if not np.isfinite(norm):
        return False
    scale = clip / norm if norm > clip * rows else 1.0 / rows
    g = gradient * scale
    first, second = moments[0], moments[1]
    first.lerp_(g, 1.0 - BETAS[0])
    second.lerp_(g * g, 1.0 - BETAS[1])
    correct = (1.0 - BETAS[1] ** steps) ** -0.5
    weights.addcdiv_(first, second.sqrt() * correct + EPSILON, value=-rate / (1.0 - BETAS[0] ** steps))
    return True
