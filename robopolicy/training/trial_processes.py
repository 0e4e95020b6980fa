"""Several processes that learn by trial together: each has its share of the worlds, what they found is added up.

Every process knows the whole plan (which worlds there are, which samples make a minibatch) as a function of seed and step and
does its part of it; sums over all parts are what one process alone would have had. So results do not depend on the number of
processes but for rounding. The processes are started by ``robopolicy train --processes``, ``torchrun`` or ``accelerate launch``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import distributed

from policies.spec import InputError


@dataclass(frozen=True)
class Moments:
    """Statistics of B rows, over all processes.

    Attributes:
        count: B.
        mean: (*shape) float64.
        variance: (*shape) float64, of the population.
    """

    count: float
    mean: torch.Tensor
    variance: torch.Tensor


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that train one policy; without arguments, it is alone.

    Attributes:
        rank: From 0; the first writes what is written.
        count: How many there are.
        device: Where this one computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def worlds(self, total: int) -> range:
        """Return the indices, among all ``total`` worlds, of those of this process. Raises InputError if there are fewer than processes."""
        if total < self.count:
            raise InputError(f"training.worlds={total} cannot be shared by {self.count} processes: choose at least {self.count}")
        return range(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def sum_(self, *tensors: torch.Tensor) -> None:
        """Replace each of ``tensors`` by its sum over all processes; the same shapes and order everywhere."""
        if self.count > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter], also: Sequence[torch.Tensor] = ()) -> None:
        """Sum the gradients of ``parameters``, and float32 tensors ``also`` of any shape (...,), over all processes in place, in one message.

        A parameter that has no gradient here gets one where there are several processes: another's minibatch may have reached it.
        """
        if self.count == 1:
            return
        held = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            held.append(parameter.grad)
        held += also
        message = torch.cat([tensor.detach().reshape(-1) for tensor in held])
        distributed.all_reduce(message)
        for tensor, part in zip(held, message.split([tensor.numel() for tensor in held]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def moments(self, rows: torch.Tensor) -> Moments:
        """Return the statistics over the rows (B, *shape) of all processes; B may differ from one to another."""
        exact = rows.detach().to(torch.float64)
        count = exact.new_tensor([float(len(rows))])
        total, squares = exact.sum(0), exact.square().sum(0)
        self.sum_(count, total, squares)
        mean = total / count.reshape(())
        return Moments(float(count), mean, (squares / count.reshape(()) - mean.square()).clamp_min(0.0))

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process."""
        asked = torch.tensor([float(flag)], device=self.device)
        self.sum_(asked)
        return bool(asked.item() > 0)

    def wait(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            self.any(False)  # an all-reduce: a barrier that works the same with every back end


@contextlib.contextmanager
def processes(device: str | torch.device = "cpu") -> Iterator[Processes]:
    """Find the others, if a launcher started several (environment variables of torch.distributed), and part at the end.

    Args:
        device: Where to compute; ``cuda`` becomes this process's own GPU, and the messages go from GPU to GPU.

    Raises:
        InputError: if there are fewer GPUs than processes on this machine, or the others cannot be found.
    """
    count, rank, local = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")))
    own = torch.device(device)
    if count == 1:
        yield Processes(device=own)
        return
    if own.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local + 1} on this machine has no GPU: there are {torch.cuda.device_count()}; use fewer processes")
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    # imported later (an optimiser does), it keeps the group for its own defaults: gloo's threads would then outlive the group, and
    # one that frees a tensor while the interpreter ends aborts the process
    importlib.import_module("torch._dynamo")
    try:
        distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", rank=rank, world_size=count)
    except (ValueError, distributed.DistError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"WORLD_SIZE is {count}, but the other processes are not found ({reason}): start them with --processes {count}") from error
    try:
        yield Processes(rank, count, own)
    finally:
        distributed.destroy_process_group()


__all__ = ["Moments", "Processes", "processes"]
