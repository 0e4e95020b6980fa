"""The interpolator: limits by finite differences whatever the targets, exact arrival without overshoot, every row on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.control import JointInterpolator, MotionState
from policies.motion import MotionLimits
from policies.spec import InputError

RATE = 100.0
TICK = 1 / RATE


def limits(n: int = 3, acceleration: float = 8.0, jerk: float = 300.0, velocity: float = 2.0) -> MotionLimits:
    return MotionLimits(tuple(f"joint{i}" for i in range(n)), -2.5, 2.5, velocity, acceleration, jerk)  # type: ignore[arg-type]


def play(interpolator: JointInterpolator, state: MotionState, targets: np.ndarray, velocity: bool = False) -> tuple[np.ndarray, MotionState]:
    """Return the commands (1 + T * substeps, N, n) of targets (T, N, n), beginning with where the state is."""
    step = interpolator.step_velocity if velocity else interpolator.step
    out = [state.position]
    for target in targets:
        for substep in range(interpolator.substeps):
            command, state = step(state, target, substep)
            out.append(command)
    return np.stack(out), state


def check_limits(commands: np.ndarray, of: MotionLimits, tolerance: float = 1e-9) -> None:
    """Judge positions (T, N, n) by their differences alone; before the first they stood still."""
    assert (commands >= of.low - tolerance).all() and (commands <= of.high + tolerance).all()
    at_rest = np.concatenate([np.repeat(commands[:1], 3, axis=0), commands])
    for order, bound in ((1, of.velocity), (2, of.acceleration), (3, of.jerk)):
        assert (np.abs(np.diff(at_rest, order, axis=0)) / TICK**order <= bound * (1 + 1e-6)).all(), order


def targets_of(kind: str, steps: int, rows: int, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "anywhere":
        return rng.uniform(-4, 4, (steps, rows, n))
    if kind == "bang":
        return np.where(rng.random((steps, rows, n)) < 0.5, -9.0, 9.0)
    if kind == "rare":
        return np.repeat(rng.uniform(-3, 3, (-(-steps // 12), rows, n)), 12, axis=0)[:steps]
    walk = rng.uniform(-0.15, 0.15, (steps, rows, n)).cumsum(0)
    return walk if kind == "walk" else 2.5 * np.sin(walk * 3)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["anywhere", "bang", "rare", "walk", "sine"]),
    jerk=st.floats(60, 5000),
    acceleration=st.floats(2, 30),
    substeps=st.integers(1, 10),
)
def test_limits_hold_whatever_the_targets(seed: int, kind: str, jerk: float, acceleration: float, substeps: int) -> None:
    of = limits(3, acceleration, jerk)
    interpolator = JointInterpolator(of, RATE, substeps)
    rng = np.random.default_rng(seed)
    start = np.clip(rng.uniform(-3, 3, (4, 3)), -2.5, 2.5)
    commands, _ = play(interpolator, interpolator.start(start), targets_of(kind, 300 // substeps, 4, 3, rng))
    check_limits(commands, of)


def test_a_clamp_in_its_place_breaks_every_limit() -> None:
    of = limits()
    targets = np.repeat(targets_of("anywhere", 60, 1, 3, np.random.default_rng(0)), 5, axis=0)
    with pytest.raises(AssertionError):
        check_limits(np.clip(targets, of.low, of.high), of)


@settings(max_examples=40, deadline=None)
@given(
    start=st.floats(-2.5, 2.5),
    target=st.floats(-2.5, 2.5),
    jerk=st.floats(60, 5000),
    acceleration=st.floats(2, 30),
    substeps=st.integers(1, 10),
)
def test_a_constant_target_is_reached_exactly_and_not_passed(start: float, target: float, jerk: float, acceleration: float, substeps: int) -> None:
    of = limits(1, acceleration, jerk)
    interpolator = JointInterpolator(of, RATE, substeps)
    begun = interpolator.start(np.full((1, 1), start))
    commands, state = play(interpolator, begun, np.full((1200 // substeps, 1, 1), target))
    assert np.abs(commands[-1] - target).max() < 1e-9 and np.abs(state.velocity).max() < 1e-7
    assert ((commands - target) * np.sign(target - start) < 1e-8).all()
    check_limits(commands, of)


@pytest.mark.parametrize(("distance", "slower"), [(0.1, 1.3), (0.3, 1.1), (1.0, 1.05), (4.0, 1.03)])
@pytest.mark.parametrize("jerk", [150.0, 300.0, 1000.0])
def test_the_way_is_nearly_the_shortest_in_time(distance: float, slower: float, jerk: float) -> None:
    """Beside ruckig's time-optimal motion, until 99 % of the way."""
    from ruckig import InputParameter, Ruckig, Trajectory

    of = limits(1, jerk=jerk)
    interpolator, start = JointInterpolator(of, RATE, 5), -0.5 * distance
    commands, _ = play(interpolator, interpolator.start(np.full((1, 1), start)), np.full((60, 1, 1), start + distance))
    wanted, shortest = InputParameter(1), Trajectory(1)
    wanted.current_position, wanted.target_position = [start], [start + distance]
    wanted.max_velocity, wanted.max_acceleration, wanted.max_jerk = [of.velocity[0]], [of.acceleration[0]], [of.jerk[0]]
    Ruckig(1).calculate(wanted, shortest)
    times = np.linspace(0, shortest.duration, 2000)
    best = max(t for t in times if start + distance - shortest.at_time(float(t))[0][0] > 0.01 * distance)
    ticks = int((start + distance - commands[:, 0, 0] > 0.01 * distance).sum())
    assert best - TICK <= ticks * TICK <= slower * best + TICK


def test_a_moving_target_is_followed_one_policy_step_behind() -> None:
    """A ramp reaches its target at the end of each policy step; the command comes 3 / d - 2 = S ticks after that."""
    of = limits(1, acceleration=50.0, jerk=5000.0)
    for substeps in (4, 5, 8):
        interpolator = JointInterpolator(of, RATE, substeps)
        targets = 0.2 * TICK * substeps * np.arange(1, 61)[:, None, None]
        commands, state = play(interpolator, interpolator.start(np.zeros((1, 1))), targets)
        np.testing.assert_allclose(state.velocity, 0.2, rtol=1e-9)
        np.testing.assert_allclose((targets[-1] - commands[-1]) / (0.2 * TICK), substeps, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 17), velocity=st.booleans())
def test_every_row_gets_the_same_bits_whatever_the_batch(seed: int, rows: int, velocity: bool) -> None:
    interpolator, rng = JointInterpolator(limits(7), RATE, 5), np.random.default_rng(seed)
    start, targets = rng.uniform(-2, 2, (rows, 7)), targets_of("anywhere", 20, rows, 7, rng)
    together, _ = play(interpolator, interpolator.start(start), targets, velocity)
    for row in range(rows):
        alone, _ = play(interpolator, interpolator.start(start[row : row + 1]), targets[:, row : row + 1], velocity)
        assert (alone[:, 0] == together[:, row]).all()


def test_a_motion_taken_over_goes_on_smoothly() -> None:
    """State is all there is: a start from position, velocity and acceleration continues as the run that it was taken from."""
    interpolator = JointInterpolator(limits(), RATE, 5)
    targets = targets_of("anywhere", 8, 2, 3, np.random.default_rng(3))
    first, state = play(interpolator, interpolator.start(np.zeros((2, 3))), targets)
    again = interpolator.start(state.position, state.velocity, state.acceleration)
    second, _ = play(interpolator, again, targets_of("bang", 20, 2, 3, np.random.default_rng(4)))
    check_limits(np.concatenate([first, second[1:]]), interpolator.limits)  # type: ignore[arg-type]


def test_a_state_faster_than_the_limits_is_braked_at_the_jerk_limit() -> None:
    of = limits(1)
    interpolator = JointInterpolator(of, RATE, 5)
    state = interpolator.start(np.zeros((1, 1)), np.full((1, 1), 3.0), np.full((1, 1), 12.0))
    speeds = []
    for k in range(200):
        before = state.acceleration
        _, state = interpolator.step(state, np.full((1, 1), 2.4), k % 5)
        assert abs(state.acceleration - before).max() <= of.jerk[0] * TICK * (1 + 1e-9)
        speeds.append(float(state.velocity[0, 0]))
    assert max(speeds) < 3.6 and abs(speeds[-1]) < 1e-3 and abs(state.position[0, 0] - 2.4) < 1e-3


def test_without_limits_commands_go_straight_to_the_target() -> None:
    interpolator = JointInterpolator(None, RATE, 4)
    commands, _ = play(interpolator, interpolator.start(np.zeros((1, 2))), np.array([[[1.0, -2.0]], [[1.0, -2.0]]]))
    np.testing.assert_allclose(commands[:5, 0, 0], [0, 0.25, 0.5, 0.75, 1.0])
    assert (commands[4:] == [1.0, -2.0]).all()
    target = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    single = JointInterpolator(None, 20.0, 1)
    command, _ = single.step(single.start(np.zeros((3, 4))), target, 0)
    assert (command.astype(np.float32) == target).all()


def test_velocity_targets_are_reached_and_zero_holds() -> None:
    of = limits(2)
    interpolator = JointInterpolator(of, RATE, 5)
    state = interpolator.start(np.zeros((1, 2)))
    go, state = play(interpolator, state, np.full((10, 1, 2), [0.5, -1.0]), velocity=True)
    np.testing.assert_allclose(state.velocity, [[0.5, -1.0]], atol=1e-6)
    hold, state = play(interpolator, state, np.zeros((20, 1, 2)), velocity=True)
    assert (hold[-1] == hold[-20]).all() or np.abs(hold[-1] - hold[-20]).max() < 1e-9
    check_limits(np.concatenate([go, hold[1:]]), of)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), jerk=st.floats(60, 5000))
def test_velocity_targets_never_leave_the_range(seed: int, jerk: float) -> None:
    of = limits(3, jerk=jerk)
    interpolator, rng = JointInterpolator(of, RATE, 5), np.random.default_rng(seed)
    targets = np.repeat(rng.uniform(-4, 4, (12, 4, 3)), 8, axis=0)
    commands, _ = play(interpolator, interpolator.start(rng.uniform(-2.4, 2.4, (4, 3))), targets, velocity=True)
    check_limits(commands, of)


def test_velocity_without_limits_is_integrated() -> None:
    interpolator = JointInterpolator(None, RATE, 2)
    commands, _ = play(interpolator, interpolator.start(np.ones((1, 1))), np.full((5, 1, 1), 0.3), velocity=True)
    np.testing.assert_allclose(commands[:, 0, 0], 1 + 0.3 * TICK * np.arange(11))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_followed_is_refused(bad: float) -> None:
    for interpolator in (JointInterpolator(limits(), RATE, 5), JointInterpolator(None, RATE, 5)):
        state = interpolator.start(np.zeros((1, 3)))
        target = np.zeros((1, 3))
        target[0, 1] = bad
        for step in (interpolator.step, interpolator.step_velocity):
            with pytest.raises(ValueError, match="expected finite"):
                step(state, target, 0)
            with pytest.raises(ValueError, match=r"expected shape \(1, 3\)"):
                step(state, np.zeros(3), 0)
            with pytest.raises(ValueError, match="substep: expected 0 to 4, found 5"):
                step(state, np.zeros((1, 3)), 5)


def test_bad_rates_are_one_line() -> None:
    for rate, substeps in ((0.0, 5), (-1.0, 5), (100.0, 0)):
        with pytest.raises(InputError, match="interpolator: expected a rate above 0 and at least 1 substep"):
            JointInterpolator(None, rate, substeps)


def test_shapes_are_checked_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\), found \(3,\)"):
        JointInterpolator(limits(), RATE, 5).start(np.zeros(3))
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\), found \(1, 4\)"):
        JointInterpolator(limits(), RATE, 5).start(np.zeros((1, 4)))
