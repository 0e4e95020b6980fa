"""The overlap of a new plan with the last one: which of its steps are committed already, and how far the last plan reaches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policies.base import Execution, State
from policies.realtime.method import ExecutionMethod


@dataclass(frozen=True)
class Overlap:
    """Steps are counted from the present one; s have passed since the last plan was asked for, H are predicted.

    Attributes:
        committed: (B,) int64, d: steps that the last plan still plays whatever the new one says; at most ``length``.
        length: (B,) int64, H - s: steps that the last plan has something to say about; 0 where there is no plan. Below 0
            when even steps before the present one are beyond it.
        out_of_range: (B,) bool, where d <= s <= H - d does not hold. Above H - d, the steps that no plan has are not
            committed (d is cut). Below d, the last plan is asked to go on before it has begun; that is right as long as
            the state holds what is really played, see :meth:`remember`.
        horizon: Tp.
        now: Row of a chunk that is the present step, To - 1.
    """

    committed: torch.Tensor
    length: torch.Tensor
    out_of_range: torch.Tensor
    horizon: int
    now: int

    @classmethod
    def of(cls, method: ExecutionMethod, state: State, execution: Execution) -> Overlap:
        """Return the overlap of the plan in ``state`` with one asked for under ``execution``; d is the larger of delay and frozen."""
        planned = state["planned"]
        numbers = [torch.as_tensor(v, device=planned.device).to(torch.int64).expand(len(planned)) for v in (execution.delay, execution.frozen)]
        delay, passed, now = torch.maximum(*numbers).clamp_min(0), method.elapsed(execution, len(planned)), method.n_obs_steps - 1
        reach = method.horizon - now  # H
        length = torch.where(planned, reach - passed, -now)
        out_of_range = planned & ((delay > passed) | (passed > reach - delay))
        return cls(torch.minimum(delay, length.clamp_min(0)), length, out_of_range, method.horizon, now)

    def steps(self) -> torch.Tensor:
        """Return (Tp,) int64: rows of a chunk as steps from the present one; negative ones have passed."""
        return torch.arange(self.horizon, device=self.length.device) - self.now

    def known(self) -> torch.Tensor:
        """Return (B, Tp) bool: rows that the last plan has."""
        return self.steps() < self.length[:, None]

    def settled(self) -> torch.Tensor:
        """Return (B, Tp) bool: rows that are known and have passed or are committed."""
        return self.known() & (self.steps() < self.committed[:, None])

    def error(self, chunk: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Return (B,) the largest difference of ``chunk`` to ``last`` (B, Tp, De) over the committed steps, normalised; 0 without any."""
        committed = (self.settled() & (self.steps() >= 0))[..., None]
        return torch.where(committed, (chunk - last).abs(), 0.0).amax((1, 2))

    def remember(self, state: State, last: torch.Tensor) -> State:
        """Return ``state`` with the settled rows of its plan taken from ``last`` (B, Tp, Da), robot units: what is really played."""
        return state | {"plan": torch.where(self.settled()[..., None], last, state["plan"])}
