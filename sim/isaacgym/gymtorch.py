"""``isaacgym.gymtorch``: torch tensors over the worlds' memory, and descriptors of torch tensors."""

from __future__ import annotations

import torch

from policies.spec import InputError
from sim.isaacgym.tensor import Tensor


def wrap_tensor(gym_tensor: Tensor) -> torch.Tensor:
    """Return a torch tensor of the same shape over the descriptor's memory: what a refresh writes appears in it."""
    return torch.from_numpy(gym_tensor.array)


def unwrap_tensor(torch_tensor: torch.Tensor) -> Tensor:
    """Return a descriptor of a tensor (*shape) for the calls that set something.

    Raises:
        InputError: if it is not on the CPU or not contiguous.
    """
    if torch_tensor.device.type != "cpu":
        raise InputError(f"unwrap_tensor: these worlds are on the CPU, the tensor is on {torch_tensor.device}: make it on 'cpu'")
    if not torch_tensor.is_contiguous():
        raise InputError(f"unwrap_tensor: the tensor of shape {tuple(torch_tensor.shape)} is not contiguous: call .contiguous() on it")
    return Tensor(torch_tensor.detach().numpy(), torch_tensor)
