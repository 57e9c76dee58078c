"""Reads the tensors of a torch checkpoint as arrays of numpy."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from learner.errors import NetworkError, TorchMissingError

INSIDE = ("state_dict", "model_state_dict", "model")
"""Names under which training loops save a state_dict beside other things."""


def read_checkpoint(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The tensors of a state_dict by name, floats as float32; a tensor alone has the name "". Runs no code.

    Raises:
        TorchMissingError: torch is not installed.
        NetworkError: the file cannot be read, or holds something else.
    """
    try:
        import torch
    except ImportError as error:
        raise TorchMissingError(
            f"{file}: PyTorch is needed to read it, and cannot be imported ({error}): pip install "
            "'freshet[torch]'"
        ) from None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever its unpickler raises
        reason = str(error).partition("\n")[0][:200]
        raise NetworkError(f"{file}: cannot be read as a checkpoint of weights: {reason}") from None
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if isinstance(found, torch.Tensor):
        found = {"": found}
    if not isinstance(found, Mapping):
        raise NetworkError(f"{file}: holds a {type(found).__name__}; expected a state_dict")
    return {
        str(name): value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        for name, value in found.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
