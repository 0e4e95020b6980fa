"""Methods of execution: how plans that overlap in time follow one another. A method wraps a chunk policy and is a policy itself.

What a method needs of the past (the last plan) is explicit state, one row per stream, reset with the episode. Plans are
carried in robot units and encoded anew against each observation, so deltas and chunk-relative actions stay right.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch

from policies.base import Array, Execution, Plan, State, select_rows
from policies.chunk import ChunkPolicy
from policies.config import Config
from policies.learnt import Batch
from policies.noise import Noise


class ExecutionMethod(torch.nn.Module, abc.ABC):
    """A policy made of a chunk policy and a way to use it.

    The state holds ``plan`` (B, Tp, Da) float32 in robot units, the last plan from its oldest row on, and ``planned``
    (B,) bool, whether there is one.

    Args:
        config: An instance of ``Config``.
        policy: The chunk policy.

    Attributes:
        Config: The config model of this method; a class attribute.
        n_action_steps: Ta of this method; the policy's own unless a method executes fewer.
    """

    Config: ClassVar[type[Config]]

    def __init__(self, config: Config, policy: ChunkPolicy) -> None:
        super().__init__()
        self.config, self.policy = config, policy
        self.spec, self.n_obs_steps, self.horizon = policy.spec, policy.n_obs_steps, policy.horizon
        self.n_action_steps = policy.n_action_steps

    @classmethod
    def candidates(cls, config: Config, policy: ChunkPolicy) -> list[Config]:
        """Return the configs among which ``robopolicy tune`` chooses by success on selection seeds, given what is set in ``config``."""
        return [config]

    @classmethod
    def remark(cls, policy: ChunkPolicy) -> str:
        """Return what a reader of the candidates for ``policy`` should know, one line; empty for nothing."""
        return ""

    @abc.abstractmethod
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan for B streams from observations (B, To, *shape), robot units; see ``policies.base.Policy.act``."""

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` new streams: no plan yet."""
        device = self._device()
        plan = torch.zeros(batch, self.horizon, self.spec.action.dim, device=device)
        return {"plan": plan, "planned": torch.zeros(batch, dtype=torch.bool, device=device)}

    def reset(self, state: State, mask: Any) -> State:
        """Return ``state`` with the rows of ``mask`` (B,) bool begun anew."""
        return select_rows(state, mask, self.initial_state(len(mask)))

    def continued(self, obs: Batch, state: State, execution: Execution) -> torch.Tensor:
        """Return the last plan as it stands now: (B, Tp, De) normalised, shifted by the steps since, its last row repeated."""
        rows = torch.arange(self.horizon, device=state["plan"].device)
        rows = (rows + self.elapsed(execution, len(state["plan"]))[:, None]).clamp_max(self.horizon - 1)
        plan = state["plan"].gather(1, rows[..., None].expand(-1, -1, state["plan"].shape[-1]))
        return self.policy.encode(plan, obs)

    def elapsed(self, execution: Execution, batch: int) -> torch.Tensor:
        """Return (B,) int64, control steps since the last plan was asked for; Ta where the execution does not say."""
        steps: Array = self.n_action_steps if execution.elapsed is None else execution.elapsed
        return torch.as_tensor(steps, device=self._device()).to(torch.int64).expand(batch)

    def _device(self) -> torch.device:
        return next(self.policy.parameters()).device

    def finish(self, chunk: torch.Tensor, obs: Batch, info: dict[str, torch.Tensor]) -> tuple[Plan, State]:
        """Return the plan of a normalised ``chunk`` (B, Tp, De), Ta rows from the present step on, and the state that remembers it."""
        actions, now = self.policy.decode(chunk, obs), self.n_obs_steps - 1
        state = {"plan": actions, "planned": torch.ones(len(actions), dtype=torch.bool, device=actions.device)}
        return Plan(actions[:, now : now + self.n_action_steps], info), state
