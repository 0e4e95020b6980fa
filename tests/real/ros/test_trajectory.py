import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.motion import MotionLimits, Reference
from real.ros import api
from real.ros.commands import Shift, StampGrid, TrajectoryBytes, longest_stop_s, stopping_path, twist_message
from real.safety.brake import Brake
from tests.real.ros.controller import quintic

LIMITS = MotionLimits(("a", "b", "c"), -3.0, 3.0, [1.0, 2.0, 0.5], [4.0, 8.0, 2.0], [60.0, 150.0, 20.0], [6.0, 12.0, 2.0], [90.0, 400.0, 20.0], None)
TICK = 0.01
share = st.floats(-1, 1, allow_nan=False)


@st.composite
def motions(draw):
    """One tick of constant jerk that ends inside the limits of normal motion."""
    after_a = np.array([draw(share) for _ in range(3)]) * LIMITS.acceleration
    room = LIMITS.velocity - after_a**2 / (2 * LIMITS.jerk)
    after_v = np.array([draw(share) for _ in range(3)]) * np.maximum(room, 0)
    jerk = np.array([draw(share) for _ in range(3)]) * LIMITS.jerk
    q = np.array([draw(share) for _ in range(3)])
    before_a = after_a - jerk * TICK
    before_v = after_v - before_a * TICK - jerk * TICK**2 / 2
    before = Reference(q, before_v, before_a)
    return before, Reference(q + before_v * TICK + before_a * TICK**2 / 2 + jerk * TICK**3 / 6, after_v, after_a)


@settings(max_examples=150, deadline=None)
@given(motions(), st.booleans())
def test_every_path_ends_at_rest_within_the_deadline_and_inside_the_limits(motion, known):
    before, after = motion
    path = stopping_path(before if known else None, after, LIMITS, TICK)
    assert (np.diff(path.times_ns) > 0).all() and path.times_ns[0] == (0 if known else 10_000_000)
    assert not path.velocity[-2:].any() and not path.acceleration[-2:].any() and np.array_equal(path.position[-1], path.position[-2])
    assert path.times_ns[-2] * 1e-9 <= TICK + longest_stop_s(LIMITS) + 1e-3
    assert (np.abs(path.acceleration[known:]) <= np.maximum(LIMITS.stop_acceleration, np.abs(after.acceleration)) + 1e-9).all()
    brake = Brake.of(after, LIMITS)
    assert np.allclose(path.position[-1], after.position + brake.displacement, atol=1e-9)
    assert (path.position >= after.position + brake.low - 1e-9)[known + 1 :].all() and (path.position <= after.position + brake.high + 1e-9)[known + 1 :].all()


@settings(max_examples=60, deadline=None)
@given(motions(), st.integers(0, 400))
def test_what_a_controller_makes_of_the_points_is_the_brake_itself(motion, milliseconds):
    """Quintics through points with position, velocity and acceleration are the pieces of constant jerk between them."""
    before, after = motion
    path = stopping_path(before, after, LIMITS, TICK)
    t = milliseconds * 1e-3
    states = [(path.position[i], path.velocity[i], path.acceleration[i]) for i in range(len(path.times_ns))]
    times = path.times_ns * 1e-9
    i = int(np.searchsorted(times, t, side="right"))
    found = (states[-1][0], 0 * states[-1][0]) if i == len(times) else quintic(states[i - 1], states[i], times[i] - times[i - 1], t - times[i - 1])[:2]
    if t >= TICK:
        expected = Brake.of(after, LIMITS).reference(t - TICK)
        assert np.allclose(found[0], expected.position, atol=1e-7) and np.allclose(found[1], expected.velocity, atol=1e-4)
    else:
        jerk = (after.acceleration - before.acceleration) / TICK
        assert np.allclose(found[0], before.position + before.velocity * t + before.acceleration * t**2 / 2 + jerk * t**3 / 6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    motions(), st.lists(st.text("abcdefgh_12", min_size=1, max_size=9), min_size=3, max_size=3, unique=True), st.integers(0, 2**60), st.sampled_from([1.0, 2.0])
)
def test_the_bytes_are_those_of_the_serialiser(motion, names, stamp, speed):
    path = stopping_path(*motion, LIMITS, TICK)
    written = TrajectoryBytes(names).encode(path, stamp, speed)
    message = api.deserialize(written, api.message("trajectory_msgs/msg/JointTrajectory"))
    assert api.serialize(message) == written
    assert list(message.joint_names) == names and message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
    for i, point in enumerate(message.points):
        assert point.time_from_start.sec * 10**9 + point.time_from_start.nanosec == round(path.times_ns[i] * speed)
        assert np.array_equal(point.positions, path.position[i]) and np.array_equal(point.velocities, path.velocity[i] / speed)
        assert np.array_equal(point.accelerations, path.acceleration[i] / speed**2) and len(point.effort) == 0


def test_the_bytes_with_one_and_seven_joints():
    for n in (1, 2, 7):
        limits = MotionLimits(tuple(f"joint{i}" for i in range(n)), -3.0, 3.0, 2.0, 8.0, 150.0)
        path = stopping_path(None, Reference(np.zeros(n), np.linspace(0.1, 1, n), np.zeros(n)), limits, TICK)
        written = TrajectoryBytes(limits.names).encode(path, 7)
        assert api.serialize(api.deserialize(written, api.message("trajectory_msgs/msg/JointTrajectory"))) == written


@given(st.lists(st.integers(-4_500_000, 4_500_000), min_size=3, max_size=60))
def test_the_grid_keeps_its_steps_whatever_the_jitter(jitter):
    grid, steps = StampGrid(0.01, 0.02), []
    for k, late in enumerate(jitter):
        due, continues = grid.next(10**12 + k * 10_000_000 + late, 3_000_000)
        steps.append(due)
        assert continues == (k > 0)
    assert (np.diff(steps) == 10_000_000).all() and steps[0] % 10_000_000 == 3_000_000, "laid on the controller's own steps"


def test_the_grid_is_laid_anew_after_a_gap_and_follows_a_drift():
    grid = StampGrid(0.01, 0.02)
    first, _ = grid.next(10**12, 0)
    due, continues = grid.next(10**12 + 100_000_000, 0)
    assert not continues and due - first == 100_000_000 and grid.anchored == 2
    for k in range(1, 20_000):  # the controller's clock is 300 ppm faster
        _, continues = grid.next(10**12 + 100_000_000 + k * 10_003_000, 0)
        assert continues


def test_twist():
    message = twist_message(("linear.x", "angular.z"), np.array([0.25, -1.5]), 3_000_000_004, "base")
    assert (message.twist.linear.x, message.twist.angular.z, message.twist.linear.y) == (0.25, -1.5, 0.0)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (3, 4, "base")
    assert twist_message(("linear.y",), np.array([2.0])).linear.y == 2.0


@given(st.lists(st.floats(-0.3, 0.3, allow_nan=False), min_size=3, max_size=3))
def test_a_shift_goes_from_its_distance_to_nothing_with_a_tenth_of_the_limits(distance):
    shift, at = Shift(np.array(distance), LIMITS), Reference.at_rest(np.zeros(3))
    states = [shift.applied(at)]
    while not shift.over:
        states.append(shift.advance(0.001).applied(at))
        assert len(states) < 20_000
    assert np.allclose(states[0].position, distance) and not states[-1].position.any()
    q, v, a = (np.array([getattr(state, part) for state in states]) for part in ("position", "velocity", "acceleration"))
    assert (np.abs(v) <= 0.1001 * LIMITS.velocity + 1e-9).all() and (np.abs(a) <= 0.1001 * LIMITS.acceleration + 1e-9).all()
    if len(states) > 3:
        assert (np.abs(np.diff(a, axis=0)[:-1]) <= 0.1001 * LIMITS.jerk * 0.001 + 1e-9).all()
        assert np.abs(np.diff(q, axis=0) / 0.001 - (v[1:] + v[:-1]) / 2)[:-1].max() < 1e-3
