"""Controllers of the twin over ROS 2: splines against closed forms and scipy, start times, what is refused, silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BPoly

from policies.spec import ActionSpec, Field
from robopolicy.twin.ros_control import CommandRefused, Controllers, Forward, Trajectory, Waypoints, waypoints

MS = 1_000_000
S = 1000 * MS
JOINTS = ("a", "b")


def controllers(at=(0.0, 0.0), silence_s: float = 0.25) -> Controllers:
    made = Controllers(JOINTS, silence_s)
    made.begin(np.array(at), 100 * S)
    return made


def message(*points, names=JOINTS) -> Waypoints:
    """Return waypoints of (ms, positions, velocities, accelerations)."""
    filled = [(p[0] * MS, *p[1:], *([[]] * (4 - len(p)))) for p in points]
    return waypoints(JOINTS, names, filled)


def test_positions_are_joined_by_lines_from_where_it_stands() -> None:
    made = controllers()
    made.follow(message((100, [1.0, -1.0]), (300, [1.0, 1.0])), 0, 100 * S)
    for ms, expected in ((0, [0, 0]), (25, [0.25, -0.25]), (100, [1, -1]), (200, [1, 0]), (300, [1, 1]), (5000, [1, 1])):
        command, active = made.sample(100 * S + ms * MS)
        np.testing.assert_allclose(command, expected, atol=1e-12)
        assert active == (ms <= 300)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.sampled_from([3, 5]), st.integers(5, 2000), st.floats(0, 1))
def test_splines_are_the_hermite_polynomials(numbers: list[float], degree: int, span_ms: int, share: float) -> None:
    """Against scipy's Bernstein polynomials from derivatives, at any time between two points."""
    ends = np.array(numbers).reshape(2, 3)[:, : 2 if degree == 3 else 3]
    rest = [[0.0]] * 2
    made = [
        (0, [ends[0, 0]], [ends[0, 1]], [ends[0, 2]] if degree == 5 else []),
        (span_ms * MS, [ends[1, 0]], [ends[1, 1]], [ends[1, 2]] if degree == 5 else []),
    ]
    made.append((span_ms * MS + S, *rest, [0.0] if degree == 5 else []))
    trajectory = Trajectory(waypoints(["a"], ["a"], made), 0, _at_rest(), 0)
    oracle = BPoly.from_derivatives([0, 1e-3 * span_ms], ends)
    at = int(share * (span_ms * MS - 1))
    state = trajectory.sample(at)
    scale = 1 + 1e3 / span_ms
    assert state.position[0] == pytest.approx(float(oracle(1e-9 * at)), abs=1e-9 * scale)
    assert state.velocity[0] == pytest.approx(float(oracle.derivative()(1e-9 * at)), abs=1e-7 * scale**2)
    assert state.acceleration[0] == pytest.approx(float(oracle.derivative(2)(1e-9 * at)), abs=1e-5 * scale**3)


def _at_rest():
    made = Controllers(["a"], 1.0)
    made.begin(np.zeros(1), 0)
    return made._desired


def test_a_stamp_says_when_it_starts_and_past_points_are_only_passed() -> None:
    made = controllers()
    made.sample(101 * S)
    made.follow(message((0, [0.0, 0.0]), (2000, [2.0, 2.0])), 100 * S, 101 * S)
    assert made.sample(101 * S)[0] == pytest.approx([1, 1])
    made.follow(message((500, [5.0, 5.0])), 102 * S, 101 * S)  # a start to come: until its first point from what was desired
    assert made.sample(101 * S)[0] == pytest.approx([1, 1])
    assert made.sample(101 * S + 750 * MS)[0] == pytest.approx([3, 3])
    assert made.sample(103 * S)[0] == pytest.approx([5, 5])


def test_what_lies_wholly_in_the_past_or_before_the_episode_is_refused() -> None:
    made = controllers()
    with pytest.raises(CommandRefused, match="in the past") as error:
        made.follow(message((100, [1.0, 1.0])), 100 * S, 101 * S)
    assert error.value.code == "past"
    with pytest.raises(CommandRefused) as error:
        made.follow(message((100, [1.0, 1.0])), 100 * S - 1, 100 * S)
    assert error.value.code == "episode"
    assert not made.sample(101 * S)[1]
    np.testing.assert_array_equal(made.sample(101 * S)[0], [0, 0])


def test_the_last_message_wins_and_begins_from_what_was_desired() -> None:
    made = controllers()
    made.follow(message((1000, [1.0, 1.0])), 0, 100 * S)
    made.sample(100 * S + 500 * MS)
    made.follow(message((1000, [0.5, 1.5])), 0, 100 * S + 500 * MS)
    assert made.sample(101 * S)[0] == pytest.approx([0.5, 1.0])
    made.begin(np.array([3.0, 4.0]), 102 * S)
    assert made.sample(103 * S)[0] == pytest.approx([3, 4])


@pytest.mark.parametrize(
    ("names", "points", "code"),
    [
        (("a", "c"), [(1, [0, 0], [], [])], "joints"),
        (("a",), [(1, [0], [], [])], "joints"),
        (("a", "a"), [(1, [0, 0], [], [])], "joints"),
        (JOINTS, [], "empty"),
        (JOINTS, [(2, [0, 0], [], []), (2, [1, 1], [], [])], "times"),
        (JOINTS, [(-1, [0, 0], [], [])], "times"),
        (JOINTS, [(1, [0], [], [])], "size"),
        (JOINTS, [(1, [], [], [])], "size"),
        (JOINTS, [(1, [0, 0], [1, 1], []), (2, [0, 0], [], [])], "size"),
        (JOINTS, [(1, [0, float("nan")], [], [])], "not finite"),
        (JOINTS, [(1, [0, 0], [0, float("inf")], [])], "not finite"),
        (JOINTS, [(1, [0, 0], [0, 1e-3], [])], "no rest"),
    ],
)
def test_messages_that_no_controller_takes(names, points, code: str) -> None:
    with pytest.raises(CommandRefused) as error:
        waypoints(JOINTS, names, points)
    assert error.value.code == code


def test_joints_may_come_in_any_order() -> None:
    found = waypoints(JOINTS, ("b", "a"), [(1, [1.0, 2.0], [0.0, 0.0], [3.0, 4.0])])
    assert found.positions.tolist() == [[2.0, 1.0]] and found.accelerations is not None and found.accelerations.tolist() == [[4.0, 3.0]]


def test_forward_commands_hold_until_silence() -> None:
    made = controllers(silence_s=0.2)
    made.forward("position", np.array([1.0, 2.0]), 100 * S)
    assert made.sample(100 * S + 200 * MS)[1] and not made.sample(100 * S + 201 * MS)[1]
    assert made.sample(105 * S)[0].tolist() == [1, 2]


def test_velocities_are_integrated_end_at_a_limit_and_stop_when_they_cease() -> None:
    made = Controllers(JOINTS, 0.2, np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    made.begin(np.zeros(2), 0)
    made.forward("velocity", np.array([0.5, -10.0]), 0)
    for k in range(1, 40):
        command, active = made.sample(10 * k * MS)
        assert active == (k <= 20)
    np.testing.assert_allclose(command, [0.1, -1.0], atol=1e-12)
    for wrong in (np.zeros(3), np.array([0.0, np.nan])):
        with pytest.raises(CommandRefused):
            made.forward("velocity", wrong, 0)


def test_a_robot_without_joints_takes_its_one_kind() -> None:
    action = ActionSpec({"velocity": Field((2,), unit="m/s", low=-1, high=1, kind="velocity", names=("x", "y"))})  # type: ignore[arg-type]
    made = Forward(action, "velocity", 0.2)
    assert not made.sample(5)[1]
    made.forward("velocity", np.array([0.3, 0.4]), S)
    assert made.sample(S + 200 * MS)[0].tolist() == [0.3, 0.4]
    command, active = made.sample(S + 201 * MS)
    assert not active and command.tolist() == [0, 0]
    for call in (
        lambda: made.forward("position", np.zeros(2), 0),
        lambda: made.follow(message((1, [0, 0])), 0, 0),
        lambda: made.forward("velocity", np.zeros(1), 0),
    ):
        with pytest.raises(CommandRefused):
            call()
