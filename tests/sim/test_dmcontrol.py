"""dm_control's suite: its own environments beside ours number by number, names, success as it is told, its benchmarking set."""

from __future__ import annotations

import numpy as np
import pytest

from sim import registry
from sim.suites import dmcontrol
from tests.require import require

COMPARED = ("cartpole-swingup", "cheetah-run", "finger-turn-hard", "quadruped-walk", "swimmer-swimmer6", "manipulator-bring-ball", "humanoid-stand")


@pytest.fixture(autouse=True)
def installed() -> None:
    require("dmcontrol")


def own(name: str, seed: int):
    domain, task, _, _ = dmcontrol.tasks()[name]
    return dmcontrol.load_suite().load(domain, task, task_kwargs={"random": seed})


@pytest.mark.parametrize("name", COMPARED)
def test_episodes_are_those_of_the_suite(name: str) -> None:
    ours, theirs = registry.make(f"dmcontrol/{name}", 2), own(name, 9)
    ours.reset(np.array([5, 6]))
    ours.step(ours.spec.action.clip(np.ones((2, ours.spec.action.dim), np.float32)))
    obs, step = ours.reset(np.array([8, 9])), theirs.reset()
    bounds = theirs.action_spec()
    for action in np.random.default_rng(1).uniform(-1, 1, (10, ours.spec.action.dim)).astype(np.float32):
        found = {label: obs[field][1, i] for field in obs for i, label in enumerate(ours.spec.observation.fields[field].names)}
        expected = {}
        for key, value in step.observation.items():
            numbers = np.ravel(value)
            expected |= {(f"{key}.{i}" if np.ndim(value) else key): np.float32(number) for i, number in enumerate(numbers)}
        assert found == expected
        result = ours.step(np.stack([-action, action]))
        wide = bounds.minimum + (action.astype(np.float64) + 1.0) / 2.0 * (bounds.maximum - bounds.minimum)
        step = theirs.step(np.clip(wide, bounds.minimum, bounds.maximum))
        obs = result.obs
        assert result.reward[1] == pytest.approx(step.reward, abs=1e-6) and not step.last()
    ours.close()


def test_the_tables_are_those_of_the_suite() -> None:
    suite = dmcontrol.load_suite()
    tasks = dmcontrol.tasks()
    assert {(domain, task) for domain, task, _, benchmarking in tasks.values() if benchmarking} == set(suite.BENCHMARKING)
    assert {(domain, task) for domain, task, _, _ in tasks.values()} <= set(suite.ALL_TASKS)
    assert len(registry.names(dmcontrol.BENCHMARKING)) == len(suite.BENCHMARKING) == 28


@pytest.mark.parametrize("name", ["acrobot-swingup", "pendulum-swingup", "walker-run", "swimmer-swimmer6", "fish-swim", "humanoid-run"])
def test_rates_and_time_limits_are_those_of_the_suite(name: str) -> None:
    env = own(name, 0)
    assert 1.0 / env.control_timestep() == pytest.approx(registry.entry(f"dmcontrol/{name}").rate_hz)
    assert round(env._step_limit) == dmcontrol.MAX_EPISODE_STEPS


def test_success_is_told_at_the_time_limit_from_the_return() -> None:
    """A pole that begins upright earns far more than half; a random one at the bottom nothing. Nobody succeeds earlier."""
    for name, solved in (("cartpole-balance", True), ("cartpole-swingup", False)):
        env = registry.make(f"dmcontrol/{name}", max_episode_steps=40)
        env.reset(np.array([1]))
        total = 0.0
        for step in range(40):
            result = env.step(np.zeros((1, 1), np.float32))
            total += float(result.reward[0])
            assert 0.0 <= result.reward[0] <= 1.0 and result.info["score"][0] == pytest.approx(total / 40, abs=1e-5)
            assert result.info["success"][0] == (step == 39 and solved) and result.truncated[0] == (step == 39) and not result.terminated[0]
        env.close()


def test_a_seed_beyond_32_bits_is_a_seed_of_its_own() -> None:
    env = registry.make("dmcontrol/reacher-easy", 3)
    obs = env.reset(np.array([7, 7 + 2**32, 7 + 2**40]))
    states = [tuple(row) for row in obs["observation.state"]]
    assert len(set(states)) == 3
    env.close()
