"""Temporal ensembling: weights by hand, index alignment, what an average does to modes, rows that never share numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Execution
from policies.noise import Noise, row_keys
from policies.realtime.ensemble import Ensemble, EnsembleConfig, averaged, remembered
from policies.realtime.rti import Rti, RtiConfig
from policies.spec import ActionSpec, Field, InputError, Spec
from tests.oracles.mixture import two_modes
from tests.oracles.policy import oracle_policy
from tests.policies.toy import STATE, build, observation, random_batch

BATCH = random_batch(STATE, 8)
KEYS = row_keys(0, np.arange(8))


def test_weights_by_hand() -> None:
    state = {"plans": torch.zeros(1, 3, 3, 1), "ages": torch.full((1, 3), -1)}
    for plan in ([10.0, 20.0, 30.0], [1.0, 2.0, 3.0], [7.0, 8.0, 9.0]):
        state = remembered(state, torch.tensor(plan)[None, :, None], torch.tensor([1]))
    mean, counts = averaged(state, 3, 0.5)
    w = [1.0, math.exp(-0.5), math.exp(-1.0)]  # the oldest plan weighs most
    now = (w[0] * 30 + w[1] * 2 + w[2] * 7) / sum(w)
    following = (w[0] * 3 + w[1] * 8) / (w[0] + w[1])  # the first plan does not reach it: the second is the oldest
    assert mean.flatten().tolist() == pytest.approx([now, following, 9.0], rel=1e-6) and counts.tolist() == [[3, 2, 1]]
    state = remembered(state, torch.tensor([[[5.0], [6.0], [4.0]]]), torch.tensor([1]))
    assert averaged(state, 1, 0.5)[0].item() == pytest.approx((w[0] * 3 + w[1] * 8 + w[2] * 5) / sum(w), rel=1e-6)  # the first plan is forgotten


def test_the_mean_of_rotations_is_a_rotation_of_every_arm() -> None:
    fields = {
        "a": Field((3,), kind="rotation_axis_angle"),
        "x": Field((1,), kind="position"),
        "b": Field((4,), kind="rotation_quaternion"),
    }
    spec = Spec(STATE.observation, ActionSpec(fields))
    batch = {**random_batch(STATE, 2), "action": torch.randn(2, 16, 8)}
    ensemble = Ensemble(EnsembleConfig(m=0.0), build("regression", spec, batch))
    half = math.sqrt(0.5)
    state = ensemble.initial_state(1)
    for turn in (3.1, -3.1):  # 0.083 rad apart, and a quarter turn with both signs
        plan = torch.tensor([turn, 0, 0, turn, *(math.copysign(half, turn) * torch.tensor([1.0, 0, 0, 1]))]).expand(1, ensemble.reach, 8)
        state = remembered(state, plan, torch.tensor([1]))
    mean = averaged(state, 1, 0.0, ensemble.rotations)[0].flatten()
    assert mean[:3].norm().item() == pytest.approx(math.pi, abs=1e-3) and mean[3].item() == pytest.approx(0.0, abs=1e-6)
    assert mean[4:].tolist() == pytest.approx([half, 0, 0, half], abs=1e-6)


class Reference:
    """The definition, for one stream: a list of (plan, step it was made at)."""

    def __init__(self, reach: int, m: float) -> None:
        self.reach, self.m, self.plans, self.step = reach, m, [], 0

    def act(self, plan: np.ndarray, elapsed: int) -> float:
        self.step += elapsed if self.plans else 0
        self.plans.append((plan, self.step))
        said = [p[self.step - made] for p, made in self.plans if self.step - made < self.reach]
        weights = np.exp(-self.m * np.arange(len(said)))
        return float((weights * said).sum() / weights.sum())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12), st.integers(1, 5), st.sampled_from([0.0, 0.01, 1.0]))
def test_any_sequence_of_steps_and_resets_is_the_definition(calls: list[tuple[int, bool]], reach: int, m: float) -> None:
    generator = np.random.default_rng(0)
    empty = {"plans": torch.zeros(1, reach, reach, 1, dtype=torch.float64), "ages": torch.full((1, reach), -1)}
    state, reference = empty, Reference(reach, m)
    for elapsed, reset in calls:
        if reset:
            state, reference = empty, Reference(reach, m)
        plan = generator.normal(size=reach)
        state = remembered(state, torch.from_numpy(plan)[None, :, None], torch.tensor([elapsed]))
        assert averaged(state, 1, m)[0].item() == pytest.approx(reference.act(plan, elapsed), rel=1e-9, abs=1e-9)


class Ramp(torch.nn.Module):
    """A network whose chunk goes on from the last observed position at 0.3 a step, whatever the noise."""

    def __init__(self, horizon: int, now: int) -> None:
        super().__init__()
        self.steps = torch.nn.Parameter(0.3 * (torch.arange(horizon) - now), requires_grad=False)

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return condition[:, -1, :1, None].expand(-1, x.shape[1], x.shape[2]) + self.steps[:, None]


@pytest.mark.parametrize("taken", [1, 3])
def test_a_target_of_constant_velocity_is_followed_without_lag(taken: int) -> None:
    identity = {"state_normalization": "identity", "action_normalization": "identity"}
    policy = build("regression", STATE, BATCH, observations=["observation.state"], **identity).eval()
    policy.network = Ramp(16, 1)
    method = Ensemble(EnsembleConfig(n_action_steps=taken), policy)
    state = method.initial_state(2)
    for t in range(0, 40, taken):
        position = torch.tensor([0.3 * (t - 1), 0.3 * t])[None, :, None].expand(2, 2, 3)
        plan, state = method.act({"observation.state": position.contiguous()}, state, Noise(row_keys(t, np.arange(2))))
        expected = 0.3 * (t + torch.arange(taken))
        assert torch.allclose(plan.actions, expected[None, :, None].expand(2, -1, 4), atol=1e-5)
        assert plan.info["plans"].tolist() == [min(t // taken + 1, math.ceil(15 / taken))] * 2


def test_the_average_of_two_modes_is_in_neither_and_iteration_stays_in_one() -> None:
    policy = oracle_policy("flow", two_modes(8), horizon=8, steps=10)
    obs, n = {"observation.state": torch.zeros(400, 1, 1)}, 400

    def last(method) -> torch.Tensor:
        state = method.initial_state(n)
        for call in range(8):
            plan, state = method.act(obs, state, Noise(row_keys(call, np.arange(n))))
        return plan.actions[:, 0, 0]

    mean, followed = last(Ensemble(EnsembleConfig(), policy)), last(Rti(RtiConfig(level=10), policy))
    assert (mean.abs() < 0.6).float().mean() > 0.8  # all but the rows whose eight plans agree by chance
    assert (followed.abs() > 0.8).float().mean() > 0.98 and 0.4 < (followed > 0).float().mean() < 0.6


@pytest.mark.parametrize("name", ["diffusion", "regression"])
def test_a_row_gets_what_it_would_get_alone(name: str) -> None:
    policy = build(name, STATE, BATCH).eval()
    method = Ensemble(EnsembleConfig(), policy)
    mask = torch.arange(8) % 2 == 0

    def run(rows: slice, resets: list[torch.Tensor]) -> torch.Tensor:
        keys = KEYS[rows]
        state = method.initial_state(len(keys))
        for call, reset in enumerate(resets):
            obs = {k: v[rows] for k, v in observation(random_batch(STATE, 8, seed=call)).items()}
            plan, state = method.act(obs, method.reset(state, reset[rows]), Noise(keys + call))
        return plan.actions

    none, every = torch.zeros(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool)
    whole = slice(0, 8)
    running, fresh, both = (run(whole, [none, none, r, none]) for r in (none, every, mask))
    assert torch.equal(both, torch.where(mask[:, None, None], fresh, running)) and not torch.equal(running, fresh)
    assert (run(slice(3, 4), [none, none, mask, none]) - both[3:4]).abs().max() < 1e-5


def test_the_state_that_went_in_is_not_changed() -> None:
    method = Ensemble(EnsembleConfig(n_action_steps=2), build("regression", STATE, BATCH).eval())
    _, state = method.act(observation(BATCH), method.initial_state(8), Noise(KEYS))
    before = {name: value.clone() for name, value in state.items()}
    method.act(observation(BATCH), state, Noise(KEYS), Execution(elapsed=torch.arange(8)))
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_more_actions_than_a_plan_has_are_refused() -> None:
    with pytest.raises(InputError, match="n_action_steps 16: expected at most 15"):
        Ensemble(EnsembleConfig(n_action_steps=16), build("flow", STATE, BATCH))
