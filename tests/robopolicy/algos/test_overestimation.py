"""Over-estimation against values that are known: constant rewards, ends, truncations, and what soft critics add."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from policies.noise import Noise
from policies.normalize import limits_normalizer
from policies.spec import InputError
from robopolicy.algos.overestimation import overestimation
from robopolicy.algos.rule import Tensors
from sim.env import Observation, StepResult
from tests.robopolicy.algos.off_policy_toys import STATE, rule
from tests.robopolicy.algos.point_mass import SPEC, PointMass

GAMMA = 0.9


class Constant(PointMass):
    """Pays ``reward`` every step; terminates after ``end`` steps, in odd worlds twice as late, if there is an end. The state is the count."""

    def __init__(self, num_worlds: int, steps: int, end: int | None = None, spread: float = 0.0) -> None:
        super().__init__(num_worlds, steps)
        self.end, self.spread = end, spread

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin with a reward that the seeds (N,) choose."""
        super().reset(seeds)
        self.pay = (1.0 + self.spread * np.random.default_rng(int(seeds[0])).standard_normal(self.num_worlds)).astype(np.float32)
        return self._seen()

    def step(self, action: np.ndarray) -> StepResult:
        """Ignore ``action`` (N, 1)."""
        self.count += 1
        none = np.zeros(self.num_worlds, bool)
        over = none if self.end is None else self.count >= self.end * (1 + np.arange(self.num_worlds) % 2)
        return StepResult(self._seen(), self._seen(), self.pay, over, none | (self.count >= self.max_episode_steps), {"success": none})

    def _seen(self) -> Observation:
        left = np.full(self.num_worlds, np.inf) if self.end is None else self.end * (1 + np.arange(self.num_worlds) % 2) - self.count
        return {STATE: np.stack([left, np.zeros(self.num_worlds)], 1).astype(np.float32)}


class Knows:
    """Says the true value of a reward of 1 a step for the steps that are left (the state), times ``factor``."""

    def __init__(self, factor: float = 1.0, bonus: float = 0.0) -> None:
        self.factor, self.bonus = factor, bonus
        self.policy = torch.nn.Linear(1, 1)
        self.policy.normalizer = limits_normalizer(SPEC)

    def draw(self, obs: Tensors, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, 1) and (B,)."""
        rows = len(obs[STATE])
        return torch.zeros(rows, 1), torch.full((rows,), self.bonus)

    def value(self, obs: Tensors, action: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return (B,)."""
        left = obs[STATE][:, 0]
        later = (1.0 - GAMMA ** (left - 1.0)) / (1.0 - GAMMA)  # steps after this one, where the bonus counts too
        return self.factor * (1.0 + GAMMA * later * (1.0 + self.bonus))


@pytest.mark.parametrize("bonus", [0.0, 0.5])
@pytest.mark.parametrize(("env", "slack"), [(Constant(4, 100, end=5), 1e-5), (Constant(4, 200), 0.1)])
def test_the_truth_is_not_over_estimated(env: Constant, slack: float, bonus: float) -> None:
    """After a truncation at most 1 % of the value is missing: 0.1 of 10."""
    mean, error = overestimation(Knows(bonus=bonus), env, 8, GAMMA)
    assert -1e-5 < mean < slack * (1 + bonus)
    assert error < 1e-5


def test_a_factor_comes_out() -> None:
    """Values of 5, 4, ... 1 steps left, and of 10, ..., 1 in every second world: 1.5 times as much is half of their mean too much."""
    values = [(1 - GAMMA**n) / (1 - GAMMA) for n in [*range(1, 6), *range(1, 11)]]
    mean, error = overestimation(Knows(1.5), Constant(4, 100, end=5), 6, GAMMA)
    assert mean == pytest.approx(0.5 * np.mean(values), abs=1e-5)
    assert error > 0.0  # long and short episodes differ


def test_steps_near_a_truncation_do_not_count() -> None:
    """With them all, a critic that is right would look as if it over-estimated by much."""
    env = Constant(2, 60)
    assert overestimation(Knows(), env, 4, GAMMA)[0] < 0.1
    assert overestimation(Knows(), env, 4, GAMMA, tail=1.0)[0] > 1.0


def test_the_error_is_that_of_independent_episodes() -> None:
    """Rewards differ between episodes alone: the error is their deviation over the root of their number, however long they are."""
    errors = [overestimation(Knows(), Constant(40, 200, spread=0.1), 40, GAMMA, seed=seed) for seed in range(3)]
    for mean, error in errors:
        assert error == pytest.approx(1.0 / 40**0.5, rel=0.35) and abs(mean) < 4 * error + 0.1


def test_too_short_an_episode_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"with gamma 0.9 expected episodes of more than 44 steps, or that terminate, found 20 steps"):
        overestimation(Knows(), Constant(2, 20), 4, GAMMA)
    with pytest.raises(InputError, match="expected 2 episodes or more"):
        overestimation(Knows(), Constant(2, 20), 1, GAMMA)


@pytest.mark.parametrize("name", ["sac", "td3", "dsact", "rlpd", "off_policy_mdpo"])
def test_every_rule_can_be_measured(name: str) -> None:
    """Untrained critics say about nothing where an untrained policy has losses to come."""
    made: Any = rule(name, SPEC)
    env = PointMass(16, 60)
    mean, error = overestimation(made, env, 32, GAMMA)
    assert np.isfinite(mean) and mean > error > 0.0
    assert (mean, error) == overestimation(made, env, 32, GAMMA)
