"""The closed-form stop: against ruckig, by finite differences, and from states that are already outside their limits."""

from __future__ import annotations

import numpy as np
import ruckig
from hypothesis import given
from hypothesis import strategies as st

from policies.motion import MotionLimits, Reference
from real.safety.brake import Brake

states = st.tuples(st.floats(-4, 4), st.floats(-1, 1), st.floats(0.1, 50), st.floats(0.5, 2000))


def by_ruckig(v: float, a: float, limit: float, jerk: float) -> tuple[float, float, float, float]:
    """Return duration, displacement and both excursions of ruckig's stop (velocity interface, target velocity zero)."""
    given, path = ruckig.InputParameter(1), ruckig.Trajectory(1)
    given.control_interface = ruckig.ControlInterface.Velocity
    given.current_position, given.current_velocity, given.current_acceleration = [0.0], [v], [a]
    given.target_velocity, given.target_acceleration = [0.0], [0.0]
    given.max_velocity, given.max_acceleration, given.max_jerk = [100.0], [limit], [jerk]
    assert ruckig.Ruckig(1).calculate(given, path) in (ruckig.Result.Working, ruckig.Result.Finished)
    extrema = path.position_extrema[0]
    return path.duration, path.at_time(path.duration)[0][0], extrema.min, extrema.max


def test_stops_are_those_of_ruckig() -> None:
    rng, count = np.random.default_rng(0), 3000
    limit, jerk = 10 ** rng.uniform(-1, 1.3, count), 10 ** rng.uniform(-0.5, 3, count)
    v = rng.normal(size=count) * rng.choice([0.01, 1, 3], count)
    a = limit * rng.uniform(-1, 1, count)
    a[::7], v[::11], a[::13] = 0, 0, limit[::13]
    brake = Brake(v, a, limit, jerk)
    ours = np.stack([brake.duration, brake.displacement, brake.low, brake.high])
    theirs = np.array([by_ruckig(*row) for row in np.stack([v, a, limit, jerk], 1).tolist()]).T
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-6)


@given(states, st.integers(0, 100))
def test_samples_obey_the_limits_by_finite_differences(state: tuple[float, float, float, float], seed: int) -> None:
    v, share, limit, jerk = state
    a = share * limit
    brake = Brake(np.array([v]), np.array([a]), np.array([limit]), np.array([jerk]))
    tick = float(brake.duration[0]) / 97 + 1e-4
    t = np.random.default_rng(seed).uniform(0, tick) + tick * np.arange(102)
    q, velocity, acceleration = brake.sample(t[:, None])
    assert np.abs(velocity).max() <= max(abs(v), abs(v + a * abs(a) / (2 * jerk))) + 1e-9  # never faster than unavoidable
    assert np.abs(acceleration).max() <= limit + 1e-9
    assert np.abs(np.diff(acceleration, axis=0)).max() <= jerk * tick * (1 + 1e-9) + 1e-9
    assert np.abs(np.diff(q, 2, axis=0)).max() <= limit * tick**2 * (1 + 1e-9) + 1e-12
    assert np.abs(np.diff(q, 3, axis=0)).max() <= jerk * tick**3 * (1 + 1e-9) + 1e-12
    assert q.min() >= brake.low[0] - 1e-9 and q.max() <= brake.high[0] + 1e-9
    assert np.abs(np.diff(q, axis=0)).sum() <= brake.travel[0] + 1e-9
    np.testing.assert_array_equal(velocity[-1], 0)
    np.testing.assert_array_equal(acceleration[-1], 0)
    np.testing.assert_allclose(q[-1], brake.displacement, atol=1e-12)


@given(st.lists(states, min_size=5, max_size=5), st.floats(0, 1.2))
def test_the_stop_from_any_state_on_its_path_is_the_rest_of_the_path(rows: list[tuple[float, float, float, float]], share: float) -> None:
    v, a, limit, jerk = np.array(rows).T
    brake = Brake(v, a * limit, limit, jerk)
    t = share * brake.duration
    q, velocity, acceleration = brake.sample(t)
    rest = Brake(velocity, acceleration, limit, jerk)
    scale = 1 + brake.travel
    np.testing.assert_allclose((q + rest.displacement) / scale, brake.displacement / scale, atol=1e-9)
    assert (np.abs(rest.duration - np.maximum(brake.duration - t, 0)) <= 2e-6 * (1 + brake.duration)).all()
    assert (q + rest.high <= brake.high + 1e-9 * scale).all() and (q + rest.low >= brake.low - 1e-9 * scale).all()


@given(st.floats(-4, 4), st.floats(1.01, 5), st.booleans(), st.floats(0.1, 50), st.floats(0.5, 2000))
def test_an_acceleration_beyond_its_limit_is_brought_back_at_full_jerk(v: float, excess: float, up: bool, limit: float, jerk: float) -> None:
    a = (1 if up else -1) * excess * limit
    brake = Brake(np.array([v]), np.array([a]), np.array([limit]), np.array([jerk]))
    t = np.linspace(0, float(brake.duration[0]), 400)
    q, velocity, acceleration = (row[:, 0] for row in brake.sample(t[:, None]))
    assert (np.abs(acceleration) <= np.maximum(limit, abs(a) - jerk * t) + 1e-9 * abs(a)).all()
    assert np.abs(velocity).max() <= max(abs(v), abs(v + a * abs(a) / (2 * jerk))) * (1 + 1e-9) + 1e-9
    np.testing.assert_allclose(q[-1], brake.displacement, atol=1e-9 * (1 + brake.travel[0]))
    assert q.min() >= brake.low[0] - 1e-9 * (1 + brake.travel[0]) and q.max() <= brake.high[0] + 1e-9 * (1 + brake.travel[0])


def test_a_stop_by_hand() -> None:
    brake = Brake(np.array([2.0, -2.0, 0.0]), np.zeros(3), np.full(3, 4.0), np.full(3, 8.0))
    np.testing.assert_allclose(brake.duration, [1.0, 1.0, 0.0])  # sqrt(J v) = 4 = A: two ramps of half a second
    np.testing.assert_allclose(brake.displacement, [1.0, -1.0, 0.0])  # half the speed on average
    np.testing.assert_allclose(brake.travel, [1.0, 1.0, 0.0])
    turning = Brake(np.array([1.0]), np.array([-4.0]), np.array([4.0]), np.array([4.0]))  # 1 - 4*4/8 = -1: it will turn round
    assert turning.high[0] > 0 > turning.displacement[0]
    np.testing.assert_allclose(turning.travel, turning.high * 2 - turning.displacement)


def test_a_stop_from_a_reference_uses_the_limits_asked_for() -> None:
    limits = MotionLimits(("a",), np.array([-1.0]), np.array([1.0]), np.ones(1), np.ones(1), np.ones(1), np.full(1, 4.0), np.full(1, 8.0))
    start = Reference(np.array([0.5]), np.array([1.0]), np.zeros(1))
    assert Brake.of(start, limits).duration[0] < Brake.of(start, limits, stop=False).duration[0]
    end = Brake.of(start, limits).reference(100.0)
    assert end.velocity[0] == 0 == end.acceleration[0]
    np.testing.assert_allclose(end.position, start.position + Brake.of(start, limits).displacement)
