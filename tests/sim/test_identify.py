"""Identification: what was planted is found again, jointly, from noisy sensors; what cannot be found is said."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
import pytest

from policies.spec import InputError
from sim import registry
from sim.identify import Estimate, Fit, Settings, identify, require_task
from sim.identify_parameters import parameter
from sim.identify_rollout import Rollout, Trajectory
from sim.registry import Options
from sim.suites.classic.cartpole import Cartpole
from tests.sim.randomized import Everything

Mj: Any = mujoco
PLANTED = {"mass:pole": 0.15, "frictionloss:slider": 0.6, "damping:slider": 0.8, "delay": 0.03}
NOISE = np.array([0.002, 0.002, 0.01, 0.02])  # m, rad, m/s, rad/s
QUICK = Settings(window_s=0.5, starts=1, longest_delay_s=0.1)
DT = 0.02


def multisine(generator: np.random.Generator, steps: int) -> np.ndarray:
    """Return a push (T,) with eight frequencies between 0.3 and 8 Hz."""
    phases, frequencies = generator.uniform(0, 2 * np.pi, 8), np.geomspace(0.3, 8, 8)
    return 0.125 * np.sin(2 * np.pi * frequencies * DT * np.arange(steps)[:, None] + phases).sum(axis=1)


def recorded(seed: int, planted: dict[str, float], episodes: int = 2, steps: int = 300, noise: np.ndarray = NOISE) -> list[Trajectory]:
    """Return episodes of the planted cart and pole, balanced by the expert and shaken by a multisine, with noisy readings."""
    randomize: dict[str, Any] = {"model": {key: {"set": value} for key, value in planted.items() if key != "delay"}}
    randomize |= {"actions": {"delay": planted["delay"]}} if planted.get("delay") else {}
    env = registry.make("classic/cartpole", episodes, randomize=randomize, max_episode_steps=steps)
    generator = np.random.default_rng(seed)
    shake = np.stack([multisine(generator, steps) for _ in range(episodes)], axis=1)[..., None]
    obs, actions, seen = env.reset(np.arange(episodes) + 100 * seed), [], []
    length, open_ = np.full(episodes, steps), np.ones(episodes, bool)
    for t in range(steps):
        action = np.clip(env.expert_action() + shake[t], -1, 1).astype(np.float32)
        seen.append(obs["observation.state"].astype(float))
        actions.append(action.copy())
        result = env.step(action)
        obs = result.obs
        length[open_ & result.terminated] = t + 1
        open_ &= ~result.terminated
        if not open_.any():
            break
    env.close()
    readings = np.array(seen) + generator.normal(size=(len(seen), episodes, 4)) * noise
    sent = np.array(actions, float)
    return [Trajectory(sent[:n, e], {"observation.state": readings[:n, e]}, f"episode {e}") for e, n in enumerate(length)]


@pytest.fixture(scope="module")
def cartpole() -> Cartpole:
    env = registry.make("classic/cartpole", 512)
    assert isinstance(env, Cartpole)
    return env


def relative(fit: Fit, planted: dict[str, float]) -> dict[str, float]:
    return {one.key: one.value / planted[one.key] - 1 for one in fit.estimates}


def check_recovery(env: Cartpole, seed: int, factors: tuple[float, ...]) -> None:
    starts = [f"{key}={value * factor}" for (key, value), factor in zip(PLANTED.items(), factors, strict=True)]
    fit = identify(env, recorded(seed, PLANTED), starts, QUICK)
    assert max(abs(off) for off in relative(fit, PLANTED).values()) < 0.05, relative(fit, PLANTED)
    for one in fit.estimates:
        assert abs(one.value - PLANTED[one.key]) < 5 * one.standard_error and one.standard_error < 0.05 * one.value
    np.testing.assert_allclose(fit.noise, NOISE, rtol=0.35)
    assert (fit.after < 0.7 * fit.before).all() and (fit.held_after < 0.9 * fit.held_before).all()  # noise is left over
    assert fit.converged and not fit.warnings
    assert (env.engine.expand("body_mass") == env.model.body_mass).all()  # the worlds are as they were


@pytest.mark.parametrize(("seed", "factors"), [(1, (1.5, 0.5, 1.5, 0.5)), (2, (0.5, 1.5, 0.5, 1.5))])
def test_mass_friction_damping_and_delay_are_found_jointly_from_half_off(cartpole: Cartpole, seed: int, factors: tuple[float, ...]) -> None:
    check_recovery(cartpole, seed, factors)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 11))
def test_the_same_over_more_seeds(cartpole: Cartpole, seed: int) -> None:
    check_recovery(cartpole, seed, tuple(np.random.default_rng(seed).choice([0.5, 1.5], 4)))


def test_a_delay_that_the_physics_really_has(cartpole: Cartpole) -> None:
    """Recorded by a loop of our own in which commands arrive 0.03 s late to the tick, on a model compiled with other numbers."""
    text = Cartpole.xml_path().read_text().replace('mass="0.1"', 'mass="0.15"').replace('damping="0.05"', 'damping="0.6"')
    model, generator, steps, late = Mj.MjModel.from_xml_string(text), np.random.default_rng(4), 400, 3
    data, sent, seen = Mj.MjData(model), [], []
    shake = multisine(generator, steps)
    for t in range(steps):
        state = np.concatenate([data.qpos, data.qvel])
        seen.append(state + generator.normal(size=4) * NOISE)
        sent.append(np.clip(state @ np.array([2.0, 30.0, 3.5, 5.0]) / 10 + shake[t], -1, 1))
        for tick in range(2):
            arrived = (2 * t + tick - late) // 2
            data.ctrl[0] = sent[arrived] if arrived >= 0 else 0.0
            Mj.mj_step(model, data)
    trajectory = Trajectory(np.array(sent)[:, None], {"observation.state": np.array(seen)}, "loop")
    fit = identify(cartpole, [trajectory], ["mass:pole=0.1", "damping:slider=0.3", "delay=0.015"], QUICK)
    assert max(abs(off) for off in relative(fit, {"mass:pole": 0.15, "damping:slider": 0.6, "delay": 0.03}).values()) < 0.05, fit.estimates


def test_latency_of_the_readings_is_found(cartpole: Cartpole) -> None:
    late = 0.025
    whole = recorded(5, {"damping:slider": 0.5}, noise=0.1 * NOISE)[0]
    state, time = whole.observation["observation.state"], DT * np.arange(len(whole.actions))
    read = np.stack([np.interp(time - late, time, column) for column in state.T], axis=1)
    fit = identify(cartpole, [Trajectory(whole.actions[5:], {"observation.state": read[5:]}, "late")], ["latency=0.01", "damping:slider=0.8"], QUICK)
    assert max(abs(off) for off in relative(fit, {"latency": late, "damping:slider": 0.5}).values()) < 0.05
    assert fit.section()["sensors"] == {"observation.state": {"latency": fit.estimates[0].value}}


def test_what_cannot_be_told_apart_is_said(cartpole: Cartpole) -> None:
    """Force, masses, friction and damping are known up to a common factor alone."""
    planted = {"damping:slider": 0.5, "frictionloss:slider": 0.3}
    fits = ["mass:*", "gear:push", "damping:slider=0.4", "frictionloss:slider=0.2"]
    fit = identify(cartpole, recorded(6, planted, episodes=1, steps=250), fits, QUICK)
    assert any("cannot be told apart" in line or "not identifiable" in line for line in fit.warnings)
    still = Trajectory(np.zeros((100, 1)), {"observation.state": np.zeros((100, 4)) + 1e-3 * np.random.default_rng(0).normal(size=(100, 4))}, "still")
    fit = identify(cartpole, [still], ["damping:slider=0.3"], QUICK)
    assert any("damping:slider is not identifiable" in line for line in fit.warnings)


def test_a_pattern_is_one_factor_and_a_servo_has_gains() -> None:
    """An arm beside a free crate: whose orientation is not observed, and does not matter."""
    model = {"damping:[se]*": {"scale": 1.6}, "kp:shoulder": {"set": 9.0}}
    source = Everything("test/everything", Options(1, randomize={"model": model}))
    generator, obs, sent, seen = np.random.default_rng(0), source.reset(np.array([3])), [], []
    for _ in range(120):
        seen.append({name: values[0].astype(float) for name, values in obs.items()})
        sent.append(np.repeat(generator.uniform(-1, 1, 3), 1) if len(sent) % 5 == 0 else sent[-1])
        obs = source.step(sent[-1][None].astype(np.float32)).obs
    trajectory = Trajectory(np.array(sent), {name: np.stack([one[name] for one in seen]) for name in obs}, "arm")
    task = Everything("test/everything", Options(256))
    fit = identify(task, [trajectory], ["damping:[se]*", "kp:shoulder"], QUICK)
    assert [round(one.value, 2) for one in fit.estimates] == [1.6, 9.0] and fit.estimates[0].is_factor
    assert fit.section() == {"model": {"damping:[se]*": {"scale": fit.estimates[0].value}, "kp:shoulder": {"set": fit.estimates[1].value}}}
    assert fit.elements[:2] == ("shoulder", "elbow")


def test_a_start_given_for_a_pattern_is_a_value_and_no_factor_of_the_models() -> None:
    """The model has dampings of 0.05 and 0.0005: what was searched is one value for both, and a recipe must set that."""
    model = registry.make("classic/cartpole", 1).model  # type: ignore[attr-defined]
    one = parameter("damping:*=0.3", model, 0.2, DT)
    assert not one.is_factor and one.unit != "x" and one.value(0.5) == pytest.approx(0.3 * math.exp(0.5))
    assert one.deviation(0.5, 0.1) == pytest.approx(0.03 * math.exp(0.5))
    estimate = Estimate(one.key, one.unit, one.value(0.0), one.value(0.5), 0.0, one.is_factor)
    none = np.zeros(0)
    fit = Fit("classic/cartpole", [estimate], (), *[none] * 6, 1.0, 1, 1, 1, True, *[none] * 5, ())
    varied = registry.make("classic/cartpole", 1, randomize=fit.section())
    varied.reset(np.array([0]))
    np.testing.assert_allclose(varied.engine.expand("dof_damping"), one.values(np.array([0.5]))[..., 0])  # type: ignore[attr-defined]


def test_probing_finds_joints_behind_slopes_and_offsets() -> None:
    class Scaled(Everything):
        def observe(self, out: dict[str, np.ndarray]) -> None:
            super().observe(out)
            out["observation.state"][:] = 3.0 * out["observation.state"] - 0.5
            out["observation.environment_state"][:, 2] = np.hypot(self.qpos[:, 0], self.qpos[:, 7])

    rollout = Rollout(Scaled("test/everything", Options(2)), [])
    observed = rollout.probe()
    assert observed.coordinate.tolist() == [7, 8, 9 + 6, 9 + 7, 0, 1]
    np.testing.assert_allclose(observed.slope, [3, 3, 3, 3, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(observed.offset, [-0.5] * 4 + [0] * 2, atol=1e-6)
    assert len(rollout.probe(["observation.environment_state"]).names) == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mass:poel", "no body 'poel'; did you mean 'pole'?"),
        ("mas:pole", "did you mean 'mass'?"),
        ("frictionloss:slider", "the model has 0 there, so say where to begin, e.g. --fit frictionloss:slider=0.1"),
        ("mass:pole=-1", "expected a start above 0"),
        ("mass:pole=heavy", "expected a number behind the sign"),
        ("mass:pole=nan", "expected a finite number"),
        ("delay=0.5", "expected seconds from 0 to 0.2"),
        ("light_direction:#0", "is not one number"),
    ],
)
def test_what_cannot_be_fitted_is_refused(cartpole: Cartpole, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parameter(text, cartpole.model, 0.2, DT)
    assert words in str(caught.value)


def test_parameters_report_in_their_own_units(cartpole: Cartpole) -> None:
    mass = parameter("mass:pole=0.2", cartpole.model, 0.2, DT)
    assert math.isclose(mass.value(math.log(1.5)), 0.3) and math.isclose(mass.deviation(0.0, 0.1), 0.02)
    gravity = parameter("gravity.z", cartpole.model, 0.2, DT)
    assert math.isclose(gravity.value(0.5), -9.81 + 0.5 * 9.81) and not gravity.log


def test_trajectories_that_are_too_short_or_tasks_of_another_kind(cartpole: Cartpole) -> None:
    with pytest.raises(InputError, match="no trajectory has a window of 25 steps"):
        identify(cartpole, recorded(1, {"damping:slider": 0.5}, 1, 20), ["mass:pole"], QUICK)
    with pytest.raises(InputError, match="nothing to fit"):
        identify(cartpole, recorded(1, {"damping:slider": 0.5}, 1, 20), [], QUICK)
    with pytest.raises(InputError, match="cannot be identified"):
        require_task(registry.make("two-route"))
