"""Temporal ensembling (ACT; Zhao et al. 2023): plan at every control step and play the weighted mean of all plans for it.

a_t = sum_i w_i a_t^(i) / sum_i w_i with w_i = exp(-m i), i = 0 for the OLDEST plan that reaches t. Smooth where plans
agree; where they belong to different modes the mean belongs to none, which a method that follows one plan avoids.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch

from policies.base import Execution, Plan, State
from policies.chunk import ChunkPolicy
from policies.config import Config
from policies.learnt import Batch
from policies.noise import Noise
from policies.realtime.method import ExecutionMethod
from policies.rotations import SIZES
from policies.rotations import mean as rotation_mean
from policies.spec import InputError


class EnsembleConfig(Config):
    """What temporal ensembling can be told. Published: m = 0.01, a plan at every step."""

    m: float = pydantic.Field(default=0.01, ge=0.0)  # how fast weights fall from the oldest plan to the newest; 0: the plain mean
    n_action_steps: pydantic.PositiveInt = 1  # Ta, actions executed between two plans


class Ensemble(ExecutionMethod):
    """Temporal ensembling of a chunk policy.

    The state is a ring of the last plans, ``plans`` (B, R, Tp', Da) in robot units, each from the step on that it was made
    at (Tp' = Tp - To + 1 steps), and ``ages`` (B, R) int64, the control steps since; -1 where there is none. R = Tp' plans
    are all that can reach a step when there is one at every step. Means are taken in robot units, element by element but for
    rotations, whose mean is a rotation (:func:`policies.rotations.mean`).
    ``plan.info["plans"]`` is how many plans the first action is the mean of.

    Args:
        config: See :class:`EnsembleConfig`.
        policy: The chunk policy.

    Raises:
        InputError: if more actions are to be executed than a plan has.
    """

    Config = EnsembleConfig
    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig, policy: ChunkPolicy) -> None:
        super().__init__(config, policy)
        self.reach = policy.horizon - policy.n_obs_steps + 1  # Tp'
        self.n_action_steps = config.n_action_steps
        action = policy.spec.action
        self.rotations = [(action.slices[name], field.kind) for name, field in action.fields.items() if field.kind in SIZES]
        if config.n_action_steps > self.reach:
            raise InputError(f"method ensemble: n_action_steps {config.n_action_steps}: expected at most {self.reach}, what a plan has from the present on")

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` new streams: a ring without plans."""
        device = self._device()
        plans = torch.zeros(batch, self.reach, self.reach, self.spec.action.dim, device=device)
        return {"plans": plans, "ages": torch.full((batch, self.reach), -1, dtype=torch.int64, device=device)}

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``; ``execution.elapsed`` says by how much the plans have aged."""
        self.spec.observation.validate(obs, (len(noise.keys), self.n_obs_steps))
        chunk, calls = self.policy.generate(self.policy.condition(obs, noise), noise)
        newest = self.policy.decode(chunk, obs)[:, self.n_obs_steps - 1 :]
        state = remembered(state, newest, self.elapsed(execution, len(newest)))
        actions, counts = averaged(state, self.n_action_steps, self.config.m, self.rotations)
        return Plan(actions, {"network_calls": chunk.new_full((len(chunk),), calls), "plans": counts[:, 0].to(chunk.dtype)}), state


def remembered(state: State, newest: torch.Tensor, elapsed: torch.Tensor) -> State:
    """Return the ring with plans ``newest`` (B, Tp', Da) in the place of the oldest, the others ``elapsed`` (B,) steps older."""
    reach = newest.shape[1]
    ages = torch.where(state["ages"] < 0, -1, state["ages"] + elapsed[:, None])
    ages = torch.where(ages < reach, ages, -1)  # it has nothing to say any more
    empty_first = torch.where(ages < 0, reach, ages)
    taken = torch.nn.functional.one_hot(empty_first.argmax(1), ages.shape[1]).bool()
    plans = torch.where(taken[..., None, None], newest[:, None], state["plans"])
    return {"plans": plans, "ages": torch.where(taken, 0, ages)}


def averaged(state: State, count: int, m: float, rotations: Sequence[tuple[slice, str]] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted means (B, count, Da) for the next ``count`` steps and of how many plans each is (B, count) int64.

    ``rotations``: where in an action a rotation lies, and its representation.
    """
    plans, ages = state["plans"], state["ages"]
    steps = ages[..., None] + torch.arange(count, device=ages.device)  # row of each plan for each coming step (B, R, count)
    reaches = (ages[..., None] >= 0) & (steps < plans.shape[2])
    older = reaches[:, None] & (ages[:, None, :, None] > ages[:, :, None, None])  # [b, r, q, t]: plan q is older than r
    weight = torch.exp(-m * older.sum(2).to(plans.dtype)) * reaches
    index = steps.clamp(0, plans.shape[2] - 1)[..., None].expand(*steps.shape, plans.shape[3])
    said = plans.gather(2, index)
    mean = (weight[..., None] * said).sum(1) / weight.sum(1)[..., None]
    for where, kind in rotations:
        mean[..., where] = rotation_mean(said[..., where].transpose(1, 2), weight.transpose(1, 2), kind)
    return mean, reaches.sum(1)
