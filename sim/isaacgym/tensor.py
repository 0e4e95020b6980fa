"""The descriptor that stands between these worlds' arrays and a caller's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.spec import InputError


class Tensor:
    """A view of memory: ``gymtorch.wrap_tensor`` makes a torch tensor of it that shares the memory.

    Attributes:
        array: The memory, as a numpy array of any shape.
    """

    def __init__(self, array: np.ndarray, owner: Any = None) -> None:
        self.array = array
        self._owner = owner  # keeps the memory of a caller's tensor alive

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of an element."""
        return self.array.dtype

    @property
    def device(self) -> str:
        """Always ``cpu``."""
        return "cpu"

    @property
    def own_data(self) -> bool:
        """Whether the memory belongs to the simulation."""
        return self._owner is None

    @property
    def data_address(self) -> int:
        """Address of the first element."""
        return int(self.array.ctypes.data)

    data_ptr = data_address


def values(call: str, tensor: Tensor, width: int, count: int) -> np.ndarray:
    """Return the numbers that were handed to ``call`` as (count, width), not copied.

    Raises:
        InputError: if it is no descriptor, or holds another number of values.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{call}: expected a gymapi.Tensor, found {type(tensor).__name__}: pass gymtorch.unwrap_tensor(tensor)")
    if tensor.array.size != width * count:
        raise InputError(f"{call}: expected {count} x {width} values, found a tensor of shape {tuple(tensor.shape)}")
    return tensor.array.reshape(count, width)


def indices(call: str, tensor: Tensor, count: int, most: int) -> np.ndarray:
    """Return the first ``count`` indices that were handed to ``call``, each once, ascending (K,).

    Raises:
        InputError: if they are no integers or outside [0, most).
    """
    if not isinstance(tensor, Tensor) or not np.issubdtype(tensor.dtype, np.integer):
        raise InputError(f"{call}: actor indices must be an unwrapped tensor of torch.int32")
    flat = tensor.array.reshape(-1)
    if count > flat.size:
        raise InputError(f"{call}: {count} indices announced, {flat.size} given")
    chosen = np.unique(flat[:count].astype(int))
    if chosen.size and (chosen[0] < 0 or chosen[-1] >= most):
        raise InputError(f"{call}: actor index {chosen[0] if chosen[0] < 0 else chosen[-1]} is outside 0 .. {most - 1}")
    return chosen
