"""The filter by cases: what passes, what is stopped and why, and that the independent check agrees with all of it."""

from __future__ import annotations

import daqp
import numpy as np
import pytest
import ruckig
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.control import JointInterpolator
from policies.motion import MotionLimits, Reference
from policies.spec import InputError
from real.safety.brake import Brake
from real.safety.check import check_command
from real.safety.filter import Filtered, SafetyFilter
from tests.real.judge import violations
from tests.real.safety.motions import POLICIES, RATE_HZ, START, TICK_S, barriers, limits


def made(*, near: bool = False, solve: object = None, motion: MotionLimits | None = None, at: np.ndarray = START) -> SafetyFilter:
    safety = SafetyFilter(motion or limits(), RATE_HZ, barriers() if near else None, solve=solve)
    safety.start(at)
    return safety


def to_rest(safety: SafetyFilter, most: int = 300) -> list[Filtered]:
    """Step without a target until the robot stands."""
    out = []
    while len(out) < most and (safety.reference.velocity.any() or safety.reference.acceleration.any()):
        out.append(safety.step(None, safety.reference.position))
    return out


def test_a_planned_motion_within_the_limits_passes_unchanged() -> None:
    motion, safety = limits(), made(near=True)
    planner = JointInterpolator(motion, RATE_HZ, 5)
    rng, state = np.random.default_rng(0), planner.start(START[None])
    for tick in range(1500):
        if tick % 100 == 0:
            goal = START + rng.uniform(-0.25, 0.25, 7) * np.array([1, 0.2, 1, 0.2, 1, 1, 1])
        command, state = planner.step(state, goal[None], tick % 5)
        result = safety.step(Reference(state.position[0], state.velocity[0], state.acceleration[0]), safety.reference.position)
        assert result.causes == () and not result.braking, (tick, result.causes)
        np.testing.assert_allclose(result.command, command[0], atol=1e-6)


def test_a_time_optimal_motion_at_all_limits_passes_unchanged() -> None:
    motion, safety, rng, at = limits(), made(), np.random.default_rng(1), START
    given, path = ruckig.InputParameter(7), ruckig.Trajectory(7)
    given.max_velocity, given.max_acceleration, given.max_jerk = (list(x) for x in (motion.velocity, motion.acceleration, motion.jerk))
    for _ in range(8):
        goal = rng.uniform(motion.low + 0.01, motion.high - 0.01)
        given.current_position, given.target_position = list(at), list(goal)
        assert ruckig.Ruckig(7).calculate(given, path) in (ruckig.Result.Working, ruckig.Result.Finished)
        for tick in range(1, int(path.duration / TICK_S) + 3):
            state = Reference(*(np.array(x) for x in path.at_time(min(tick * TICK_S, path.duration))))
            if tick * TICK_S >= path.duration:
                state = Reference.at_rest(goal)
            result = safety.step(state, safety.reference.position)
            assert result.causes == (), (tick, result.causes)
            np.testing.assert_allclose(result.command, state.position, atol=1e-6)
        at = goal


def test_a_smooth_stream_of_positions_passes_unchanged() -> None:
    safety = made(near=True)
    for tick in range(1500):
        t = tick * TICK_S
        begin = min(t, 1.0)
        swing = 0.2 * begin**4 * (35 - 84 * begin + 70 * begin**2 - 20 * begin**3)
        target = START + swing * np.sin(2.0 * t * np.linspace(0.5, 1, 7)) * np.array([1, 0.2, 1, 0.2, 1, 1, 1])
        result = safety.step(target, safety.reference.position)
        assert result.causes == ()
        np.testing.assert_allclose(result.command, target, atol=1e-6)


def test_a_far_target_is_reached_without_overshoot() -> None:
    motion, safety = limits(), made()
    goal = START + np.array([1.5, -0.8, 0.1, 0.9, 1e-3, 0.4, -2])
    commands = np.array([safety.step(goal, safety.reference.position).command for _ in range(400)])
    np.testing.assert_allclose(commands[-1], goal, atol=1e-6)
    beyond = (commands - goal) * np.sign(goal - START)
    assert beyond.max() < 2e-4
    given, path = ruckig.InputParameter(7), ruckig.Trajectory(7)
    given.max_velocity, given.max_acceleration, given.max_jerk = (list(x) for x in (motion.velocity, motion.acceleration, motion.jerk))
    given.current_position, given.target_position = list(START), list(goal)
    ruckig.Ruckig(7).calculate(given, path)
    there = int(np.flatnonzero((np.abs(commands - goal) > 1e-3).any(axis=1))[-1]) * TICK_S
    assert there <= path.duration * 1.1  # nearly the shortest time


def test_each_cause_is_named() -> None:
    safety = made()
    assert safety.step(START + 3, START).causes == ("motion",)
    safety = made()
    for bad in (np.full(7, np.nan), np.zeros(6), np.array(["x"] * 7), np.full(7, np.inf)):
        result = safety.step(bad, START)
        assert result.causes == ("target",) and result.braking
    assert safety.step(START, np.full(7, np.nan)).causes == ("measured",)
    assert safety.step(START, np.zeros(3)).causes == ("measured",)
    assert safety.step(START, START + 0.2).causes == ("tracking",)
    assert safety.step(START, START, scale=float("nan")).causes == ("scale",)
    assert safety.step(None, START).causes == ("no target",)
    assert safety.step(START, START).causes == ()
    assert safety.interventions["target"] == 4 and safety.interventions["measured"] == 2
    assert safety.step(START + 1, START).before is not None


def test_a_fault_in_full_motion_stops_within_the_emergency_limits() -> None:
    motion, safety = limits(), made()
    log, flags = [], []
    for tick in range(200):
        target = START + 2 if tick < 60 else np.full(7, np.nan)
        result = safety.step(target, safety.reference.position)
        log.append(result.command)
        flags.append(result.braking)
    assert flags[59:62] == [False, True, True]
    np.testing.assert_array_equal(log[-1], log[-30])
    assert violations(np.array(log), TICK_S, motion, start=START, stopping=np.array(flags)) == []
    stopped = next(k for k in range(60, 200) if (np.array(log[k]) == log[-1]).all())
    assert (stopped - 60) * TICK_S < 2.0 / 12 + 12 / 400 + 0.05  # V / A + A / J of an emergency stop


def test_a_solver_that_says_optimal_with_nan_leads_to_the_brake() -> None:
    calls = []

    def liar(h: np.ndarray, f: np.ndarray, *rest: np.ndarray) -> tuple[np.ndarray, float, int, dict[str, float]]:
        calls.append(1)
        return np.full(len(f), np.nan), 0.0, 1, {}

    safety, down = made(near=True, solve=liar), START + np.array([0, 1.5, 0, 0, 0, 0, 0])
    honest = made(near=True)
    causes, log, flags = set(), [], []
    for _ in range(200):
        result = safety.step(down, safety.reference.position)
        honest.step(down, honest.reference.position)
        causes |= set(result.causes)
        log.append(result.command)
        flags.append(result.braking)
    assert calls and "solver" in causes
    assert honest.interventions["solver"] == 0
    assert violations(np.array(log), TICK_S, limits(), start=START, stopping=np.array(flags)) == []
    assert barriers().path(np.array(log)).min() >= 0


@pytest.mark.parametrize("fault", ["status", "outside", "row", "shape"])
def test_other_lies_of_a_solver_lead_to_the_brake(fault: str) -> None:
    def liar(*arguments: np.ndarray) -> tuple[np.ndarray, float, int, object]:
        x, cost, status, info = daqp.solve(*arguments)
        if fault == "status":
            return x, cost, -1, info
        if fault == "outside":
            return x + 10, cost, status, info
        return (np.zeros_like(x) if fault == "row" else x[:-1]), cost, 1, info

    safety = made(near=True, solve=liar)
    for _ in range(120):
        safety.step(START + np.array([0, 1.5, 0, 0, 0, 0, 0]), safety.reference.position)
    assert safety.interventions["solver"] > 0


def test_speed_is_scaled_down_without_a_shock() -> None:
    motion, safety, log = limits(), made(), []
    for tick in range(300):
        log.append(safety.step(START + np.array([-9, 0, 0, 0, 0, 0, 9.0]), safety.reference.position, scale=1.0 if tick < 80 else 0.1).command)
    assert violations(np.array(log), TICK_S, motion, start=START, stopping=np.zeros(300, bool)) == []
    speed = np.abs(np.diff(np.array(log), axis=0)).max(axis=1) / TICK_S
    assert speed[70] > 1.99 and (speed[180:] <= 0.2 + 1e-9).all() and speed[180] > 0.19
    halted = made()
    for tick in range(200):
        result = halted.step(START + 9, halted.reference.position, scale=0.5 if tick < 60 else 0.0)
    assert result.braking and result.causes == ("scale",) and not halted.reference.velocity.any()


def test_outside_a_limit_only_the_way_back_is_open() -> None:
    motion, at = limits(), START.copy()
    at[0] = motion.high[0] + 0.3
    safety, log = made(at=at), []
    for tick in range(300):
        log.append(safety.step(at + (5 if tick < 50 else -1), safety.reference.position).command)
    first = np.array(log)[:, 0]
    assert first[:50].max() <= at[0] + 1e-8
    back = int(np.flatnonzero(first < motion.high[0])[0])
    assert (np.diff(first[:back]) <= 1e-12).all()
    assert violations(np.array(log), TICK_S, motion, start=at) == []


def test_inside_a_barrier_only_the_way_out_is_open() -> None:
    what, at = barriers(), START.copy()
    at[1] += 0.8  # the tool is in the table
    inside = what.distances(at).min()
    assert inside < -0.02
    down, up = (np.array([0, s, 0, 0, 0, 0, 0.0]) for s in (0.5, -1))
    safety = made(near=True, at=at)
    for _ in range(100):
        safety.step(at + down, safety.reference.position)
    assert what.distances(safety.reference.position).min() >= inside - 1e-3
    deepest = []
    for _ in range(400):
        before = safety.reference
        result = safety.step(at + up, before.position)
        deepest.append(what.distances(result.command).min())
        assert check_command(before, result.reference, limits(), TICK_S, what) == ""
    assert deepest[-1] > 0 and (np.diff(deepest[: int(np.argmax(np.array(deepest) > 0))]) >= -1e-3).all()


def test_what_the_drive_has_played_instead_is_taken_over() -> None:
    safety, motion = made(), limits()
    for _ in range(40):
        before = safety.reference
        safety.step(START + 2, before.position)
    played = Brake.of(before, motion).reference(TICK_S)
    after = safety.step(START + 2, before.position, reference=played).reference
    assert check_command(played, after, motion, TICK_S) == ""
    assert "reference" in safety.step(START + 2, after.position, reference=Reference.at_rest(np.full(7, np.nan))).causes


@pytest.mark.parametrize("blind", [2, 5, 8, 11])
def test_an_emergency_stop_is_not_left_for_motion_that_would_swing_beyond_the_velocity_limit(blind: int) -> None:
    motion = MotionLimits(("a",), -2, 2, 1, 20, 50, stop_acceleration=20, stop_jerk=400)  # type: ignore[arg-type]
    safety = made(motion=motion, at=np.zeros(1))
    for tick in range(500):
        before = safety.reference
        result = safety.step(np.array([1.8]), np.array([np.nan]) if 60 <= tick < 60 + blind else before.position)
        assert abs(result.reference.velocity[0]) <= 1 + 1e-6, (tick, result.causes)
        assert check_command(before, result.reference, motion, TICK_S) == "", (tick, result.causes)
    assert abs(safety.reference.position[0] - 1.8) < 1e-3


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("near", [False, True])
def test_the_independent_check_agrees_with_every_command(policy: str, near: bool) -> None:
    motion, what = limits(), barriers() if near else None
    safety, targets = made(near=near), POLICIES[policy](np.random.default_rng(5), motion)
    for tick in range(500):
        before = safety.reference
        result = safety.step(next(targets), before.position, scale=0.3 if 200 < tick < 260 else 1.0)
        assert check_command(before, result.reference, motion, TICK_S, what) == "", (tick, result.causes)


numbers = st.floats(-4, 4)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 60), st.lists(numbers, min_size=7, max_size=7)), min_size=1, max_size=4), st.booleans())
def test_from_wherever_a_command_leads_the_stop_keeps_every_limit_and_barrier(legs: list[tuple[int, list[float]]], near: bool) -> None:
    motion, what, safety = limits(), barriers() if near else None, made(near=near)
    for ticks, target in legs:
        for tick in range(ticks):
            result = safety.step(np.array(target), safety.reference.position)
            if tick % 7:
                continue
            stop = Brake.of(result.reference, motion)
            q = stop.sample(np.linspace(0, stop.duration.max(), 60)[:, None])[0] + result.command
            assert (q >= motion.low - 1e-7).all() and (q <= motion.high + 1e-7).all()
            assert what is None or what.path(q).min() >= -1e-9
    assert all("brake" not in r.causes for r in to_rest(safety))


def test_what_cannot_be_used_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match="rate above 0"):
        SafetyFilter(limits(), 0.0)
    with pytest.raises(InputError, match="7 finite joint positions"):
        made(at=np.full(7, np.nan))
    with pytest.raises(RuntimeError, match=r"start\(\) was not called"):
        SafetyFilter(limits(), 100.0).step(START, START)
