"""An update of an off-policy rule as one CUDA graph: recorded once, replayed from then on, so that a GPU never waits for Python.

Replaying does exactly what the recorded calls did, to the same memory: batches are copied into buffers that stay, and what an update
returns is copied out of them. Updates that differ in which kernels they run (with and without the policy) are recorded each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from policies.noise import Noise
from robopolicy.algos.rule import Transitions

Result = tuple[dict[str, torch.Tensor], torch.Tensor]
Learn = Callable[[Transitions, torch.Tensor, Noise, bool], Result]

#: Updates of a kind that run as they are before it is recorded: optimisers make their state, libraries choose kernels.
WARM_UP = 3


class CapturedUpdate:
    """Calls ``learn(batch, standard, noise, improve)`` as a graph.

    Args:
        learn: One update without waiting for the device and without drawing from ``noise``: what it needs of it is in ``standard``
            (B, numbers); returns metrics, scalars, and errors (B,).
    """

    def __init__(self, learn: Learn) -> None:
        self.learn = learn
        self.seen: dict[Any, int] = {}
        self.recorded: dict[Any, _Recorded] = {}

    def __call__(self, batch: Transitions, standard: torch.Tensor, noise: Noise, improve: bool) -> Result:
        """Do one update with ``standard`` (B, numbers); arguments and result as those of ``learn``."""
        kind = improve, standard.shape
        if kind in self.recorded:
            return self.recorded[kind].replay(batch, standard)
        self.seen[kind] = self.seen.get(kind, 0) + 1
        if self.seen[kind] > WARM_UP:
            self.recorded[kind] = _Recorded(self.learn, batch, standard, noise, improve)
            return self.recorded[kind].replay(batch, standard)
        return _beside(lambda: self.learn(batch, standard, noise, improve))


class _Recorded:
    """One graph, the buffers that it reads and those that it writes. Recording runs nothing."""

    def __init__(self, learn: Learn, batch: Transitions, standard: torch.Tensor, noise: Noise, improve: bool) -> None:
        self.batch = _buffers(batch)
        self.standard = standard.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.metrics, self.errors = learn(self.batch, self.standard, noise, improve)

    def replay(self, batch: Transitions, standard: torch.Tensor) -> Result:
        """Copy the inputs, (B, ...) each, into their buffers and run."""
        for name in (field.name for field in dataclasses.fields(Transitions)):
            here, there = getattr(self.batch, name), getattr(batch, name)
            named = ((here[key], there[key]) for key in here) if isinstance(here, dict) else [(here, there)]
            for buffer, value in named:
                buffer.copy_(value, non_blocking=True)
        self.standard.copy_(standard)
        self.graph.replay()
        return {name: value.clone() for name, value in self.metrics.items()}, self.errors.clone()


def _buffers(batch: Transitions) -> Transitions:
    own = {}
    for field in dataclasses.fields(Transitions):
        value = getattr(batch, field.name)
        own[field.name] = value.clone() if isinstance(value, torch.Tensor) else {name: tensor.clone() for name, tensor in value.items()}
    return Transitions(**own)


def _beside(call: Callable[[], Result]) -> Result:
    """Run ``call`` on a stream of its own, as recording needs of what came before it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = call()
    torch.cuda.current_stream().wait_stream(stream)
    return result
