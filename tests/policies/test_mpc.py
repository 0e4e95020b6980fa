"""MPC: derivatives by differences, a plan that only gets cheaper, and what an advisor is worth at equal iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.base import Execution, Plan, Policy, State
from policies.mpc import MpcOptions, MpcPolicy
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim.suites.arm import motion_limits
from tests.policies.advised_reach import GOAL, OBSTACLE, OPTIONS, SPEC, STATE, Remembered, advisor, arm, mpc, observation, problems


def test_gradient_and_curvature_against_differences() -> None:
    """Of a plan that goes through the obstacle, so that every term is at work; the curvature by the gradient of quadratic terms alone."""
    states, goals = problems(3, 1)
    policy, rng = mpc(0), np.random.default_rng(0)
    q, v, goal = states[0, :7], 0.2 * rng.standard_normal(7), goals[0]
    other = problems(4, 1)[0][0, :7]
    plan = q + np.linspace(0.1, 1, policy.horizon)[:, None] * (other - q) + 0.02 * rng.standard_normal((policy.horizon, 7))
    arm().forward(plan[policy.horizon // 2])
    gradient, curvature = policy._model(q, v, goal, plan)
    step, numeric = 1e-6, np.zeros(plan.size)
    for k in range(plan.size):
        change = np.zeros(plan.size)
        change[k] = step
        change = change.reshape(plan.shape)
        numeric[k] = (policy.cost(q, v, goal, plan + change) - policy.cost(q, v, goal, plan - change)) / (4 * step)  # of half the cost
    np.testing.assert_allclose(gradient, numeric, atol=1e-4 * np.abs(numeric).max())
    assert np.linalg.eigvalsh(curvature).min() > 0
    np.testing.assert_allclose(curvature, curvature.T, atol=1e-9 * np.abs(curvature).max())


def test_the_obstacle_is_at_work_in_that_family() -> None:
    """Straight plans go through it: the cost of the way without obstacle rises when there is one."""
    states, goals = problems(5, 6)
    free = mpc(8, obstacle=None, n_action_steps=OPTIONS.horizon)
    plan = free.act(observation(states, goals), free.initial_state(6), np.arange(6))[0].actions
    inside = []
    for row in range(6):
        for joints in plan[row]:
            arm().forward(joints.astype(np.float64))
            inside.append(mpc(0)._inside(mpc(0)._points()).max())
    assert max(inside) > 3.0  # cm


def test_more_iterations_never_make_a_plan_dearer() -> None:
    states, goals = problems(6, 5)
    costs = []
    for iterations in (0, 1, 2, 4, 8):
        policy = mpc(iterations)
        costs.append(policy.act(observation(states, goals), policy.initial_state(5), np.arange(5))[0].info["cost"])
    assert (np.diff(costs, axis=0) <= 1e-9).all() and (costs[-1] < 0.8 * costs[0]).all()


def test_advice_is_worth_iterations() -> None:
    """On the same problems, at equal iterations: much cheaper, and dearer in hardly any (other local minima)."""
    count = 20
    states, goals = problems(5, count)
    obs, learnt = observation(states, goals), advisor()
    cost = {}
    for iterations in (0, 1, 2, 4):
        for name, advised in (("alone", None), ("advised", learnt)):
            policy = mpc(iterations, advised)
            plan, _ = policy.act(obs, policy.initial_state(count), np.arange(count))
            cost[name, iterations] = plan.info["cost"]
            assert (plan.info["network_calls"] == (advised is not None)).all()
    for iterations in (0, 1, 2, 4):
        alone, with_advice = cost["alone", iterations], cost["advised", iterations]
        assert (with_advice > 1.01 * alone).sum() <= 1
        assert with_advice.mean() < 0.6 * alone.mean()
    assert (cost["advised", 0] <= cost["alone", 0]).all()  # before any iteration it begins at the cheapest of what it knows
    assert cost["advised", 1].mean() < cost["alone", 4].mean()


def test_advice_that_is_not_finite_costs_nothing() -> None:
    class Broken(Remembered):
        def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
            plan, state = super().act(obs, state, noise, execution)
            plan.actions[:, 3] = np.nan
            return plan, state

    states, goals = problems(7, 2)
    obs, broken = observation(states, goals), Broken(states, goals, np.zeros((2, 10, 7)))
    alone, advised = (mpc(2, a).act(obs, mpc(2, a).initial_state(2), np.arange(2))[0] for a in (None, broken))
    assert (alone.actions == advised.actions).all() and not advised.info["advised"].any()


def test_it_is_a_policy_whose_rows_are_their_own() -> None:
    states, goals = problems(8, 3)
    policy = mpc(2, advisor())
    assert isinstance(policy, Policy)
    state = policy.initial_state(3)
    _, state = policy.act(observation(states, goals), state, np.arange(3))
    plan, state = policy.act(observation(states, goals), state, np.arange(3))
    state = policy.reset(state, np.array([False, True, False]))
    assert state["planned"].tolist() == [True, False, True] and state["advisor.calls"].tolist() == [2, 0, 2]
    again, _ = policy.act(observation(states, goals), state, np.arange(3))
    alone, _ = policy.act(observation(states[1:2], goals[1:2]), policy.initial_state(1), np.arange(1))
    assert (again.actions[1] == alone.actions[0]).all()
    assert plan.actions.dtype == np.float32 and plan.actions.shape == (3, OPTIONS.n_action_steps, 7)


def test_plans_keep_ranges_and_speeds() -> None:
    states, goals = problems(9, 4)
    goals[:2] = [[3.0, 0, 0], [0, 0, -2.0]]  # out of reach
    policy, limits = mpc(4, n_action_steps=OPTIONS.horizon), motion_limits()
    plan = policy.act(observation(states, goals), policy.initial_state(4), np.arange(4))[0].actions.astype(np.float64)
    steps = np.diff(np.concatenate([states[:, None, :7], plan], axis=1), axis=1) * 20
    assert (np.abs(steps) <= limits.velocity + 1e-4).all()
    assert (plan >= limits.low - 1e-6).all() and (plan <= limits.high + 1e-6).all()


def test_what_does_not_fit_is_one_line() -> None:
    limits = motion_limits()
    with pytest.raises(InputError, match="the task takes no goals at all"):
        MpcPolicy(SPEC.subset([STATE]), arm(), limits)
    flat = Spec(SPEC.observation, ActionSpec({"xy": Field((2,), kind="position")}, 20.0))
    with pytest.raises(InputError, match="MPC: expected 7 joint actions"):
        MpcPolicy(flat, arm(), limits)
    with pytest.raises(InputError, match="20 action steps of a horizon of 10"):
        mpc(1, n_action_steps=20)
    with pytest.raises(InputError, match="no site or body"):
        MpcPolicy(SPEC, arm(), limits, None, replace(MpcOptions(), frame="hnd"))
    other = Remembered(*problems(1, 1), np.zeros((1, 10, 7)))
    other.spec = Spec(ObservationSpec({**SPEC.observation.fields, "observation.depth": Field((1,))}, 20.0), SPEC.action)
    with pytest.raises(InputError, match=r"'observation.depth': the advisor expects"):
        mpc(1, other)
    assert GOAL in mpc(0).spec.observation.fields and OBSTACLE[3] > 0
