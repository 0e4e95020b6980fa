"""The drive's own check: each kind of bad command is refused by name, and its stop is that of the brake."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.motion import MotionLimits, Reference
from real.safety.brake import Brake
from real.safety.check import _at, _extremes, _stop, check_command
from tests.real.safety.motions import START, TICK_S, barriers, limits


def after(state: Reference, jerk: np.ndarray, t: float = TICK_S) -> Reference:
    """Return ``state`` after a tick of constant jerk (n,)."""
    q, v, a = state.position, state.velocity, state.acceleration
    return Reference(q + v * t + a * t**2 / 2 + jerk * t**3 / 6, v + a * t + jerk * t**2 / 2, a + jerk * t)


def moving(joint: int, velocity: float = 0.0, acceleration: float = 0.0, at: np.ndarray = START) -> Reference:
    state = Reference.at_rest(at)
    state.velocity[joint], state.acceleration[joint] = velocity, acceleration
    return state


def test_a_tick_within_the_limits_is_accepted() -> None:
    for jerk in (0.0, 150.0, -150.0):
        assert check_command(moving(3, 0.5, 1.0), after(moving(3, 0.5, 1.0), np.full(7, jerk)), limits(), TICK_S) == ""
    assert check_command(Reference.at_rest(START), Reference.at_rest(START), limits(), TICK_S, barriers()) == ""


@pytest.mark.parametrize(
    ("cause", "before", "jerk"),
    [
        ("jerk 151 above 150 of 'joint3'", moving(2), 151.0),
        ("acceleration 8.01 above 8 of 'joint3'", moving(2, 0.0, 7.0), 101.0),
        ("velocity 2.0", moving(2, 1.99, 1.5), 0.0),
        ("jerk", moving(2), np.inf),
    ],
)
def test_each_limit_is_named(cause: str, before: Reference, jerk: float) -> None:
    with np.errstate(invalid="ignore"):
        told = check_command(before, after(before, np.where(np.arange(7) == 2, jerk, 0.0)), limits(), TICK_S)
    assert told.startswith("not finite" if np.isinf(jerk) else cause), told


def test_positions_velocities_and_accelerations_that_do_not_belong_together_are_refused() -> None:
    state = Reference.at_rest(START)
    for field in ("position", "velocity", "acceleration"):
        wrong = after(state, np.zeros(7))
        getattr(wrong, field)[4] += {"position": 1e-3, "velocity": 0.1, "acceleration": 2.0}[field]
        assert "'joint5'" in check_command(state, wrong, limits(), TICK_S), field
    short = Reference.at_rest(START[:6])
    assert check_command(state, short, limits(), TICK_S).startswith("shape")


def test_a_motion_that_can_no_longer_stop_in_time_is_refused() -> None:
    at = START.copy()
    at[0] = limits().high[0] - 0.05
    slow, fast = moving(0, 0.2, at=at), moving(0, 1.5, at=at)
    assert check_command(slow, after(slow, np.zeros(7)), limits(), TICK_S) == ""
    assert check_command(fast, after(fast, np.zeros(7)), limits(), TICK_S).startswith("position: it would stop at")
    # but the emergency stop itself is accepted even where it is too late
    stop = Brake.of(fast, limits())
    assert check_command(fast, stop.reference(TICK_S), limits(), TICK_S) == ""


def test_a_motion_into_a_barrier_is_refused() -> None:
    at, what = START.copy(), barriers()
    at[1] += 0.62
    assert what.distances(at).min() > 0
    state = moving(1, 1.0, at=at)
    assert check_command(state, after(state, np.zeros(7)), limits(), TICK_S) == ""
    assert check_command(state, after(state, np.zeros(7)), limits(), TICK_S, what).startswith("barrier 'plane0:tool'")


def test_the_emergency_stop_is_accepted_from_anywhere() -> None:
    rng, motion = np.random.default_rng(0), limits()
    for _ in range(30):
        q = rng.uniform(motion.low + 0.5, motion.high - 0.5)
        state = Reference(q, rng.uniform(-1, 1, 7) * motion.velocity, rng.uniform(-1, 1, 7) * motion.stop_acceleration)
        stop = Brake.of(state, motion)
        for tick in range(60):
            before, now = stop.reference(tick * TICK_S), stop.reference((tick + 1) * TICK_S)
            assert check_command(before, now, motion, TICK_S) == ""
        doubled = Reference(2 * stop.reference(TICK_S).position - q, *(now.velocity, now.acceleration))
        assert check_command(state, doubled, motion, TICK_S) != ""


def test_what_an_emergency_stop_leaves_is_for_that_stop_alone() -> None:
    motion = limits()
    state = Brake.of(moving(2, 0.8), motion).reference(6 * TICK_S)
    assert abs(state.acceleration[2]) > motion.acceleration[2] and abs(state.velocity[2]) < motion.velocity[2]
    assert check_command(state, after(state, np.zeros(7)), motion, TICK_S).startswith("acceleration")
    motion = MotionLimits(("a",), -2, 2, 1, 20, 50, stop_acceleration=20, stop_jerk=400)  # type: ignore[arg-type]
    state = Brake.of(Reference(np.zeros(1), np.array([0.9]), np.zeros(1)), motion).reference(0.05)
    assert check_command(state, after(state, np.array([45.0])), motion, TICK_S).startswith("velocity")  # it would swing to -2.8
    assert check_command(state, Brake.of(state, motion).reference(TICK_S), motion, TICK_S) == ""


@given(st.floats(-3, 3), st.floats(-1, 1), st.floats(0.2, 40), st.floats(1, 1500))
def test_its_stop_is_that_of_the_brake(v: float, share: float, acceleration: float, jerk: float) -> None:
    a = share * acceleration
    brake = Brake(np.array([v]), np.array([a]), np.array([acceleration]), np.array([jerk]))
    phases = _stop(v, a, acceleration, jerk)
    low, high = _extremes((0.0, v, a), phases)
    scale = 1 + float(brake.travel[0])
    assert abs(low - brake.low[0]) <= 1e-9 * scale and abs(high - brake.high[0]) <= 1e-9 * scale
    for share in (0.1, 0.5, 0.9):
        t = share * float(brake.duration[0])
        q, velocity, now = _at((0.0, v, a), phases, t)
        expected = brake.sample(t)
        assert abs(q - expected[0][0]) <= 1e-9 * scale
        assert abs(velocity - expected[1][0]) <= 1e-7 * (1 + abs(v)) and abs(now - expected[2][0]) <= 1e-5 * acceleration
