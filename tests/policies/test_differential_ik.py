"""Differential IK: closed forms of planar arms, random reachable poses of seven joints, singularities, the null space, joint ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from policies.differential_ik import DifferentialIk, IkOptions, rotation_vector, solve
from policies.kinematics import Kinematics
from policies.spec import InputError
from sim.suites.arm import HOME, robot_model
from tests.policies.arms import LINKS, planar_arm, planar_hand, two_link_solutions

PLANE = IkOptions(rows=(0, 1), linear=2.0, near=0.02, damping=0.02, posture_gain=0.0)
PLANE_AND_YAW = IkOptions(rows=(0, 1, 5), linear=2.0, angular=5.0, near=0.02, damping=0.02, posture_gain=0.0)


@pytest.fixture(scope="module")
def seven() -> Kinematics:
    return Kinematics(robot_model())


def seven_ik(arm: Kinematics, **options: float) -> DifferentialIk:
    return DifferentialIk(arm, "hand", 2.0, 100.0, np.array(HOME), IkOptions(**options))  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0, np.pi))
def test_rotation_vectors_against_scipy(axis: list[float], angle: float) -> None:
    axis_ = np.array(axis) + [0, 0, 1e-3]
    vector = axis_ / np.linalg.norm(axis_) * angle
    rotation = Rotation.from_rotvec(vector).as_matrix()
    found = rotation_vector(rotation)
    np.testing.assert_allclose(Rotation.from_rotvec(found).as_matrix(), rotation, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found), angle, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 0.65), st.floats(-3, 3))
def test_two_links_end_at_the_closed_form(radius: float, bearing: float) -> None:
    arm = Kinematics(planar_arm(LINKS[:2], limit=6.0))
    ik = DifferentialIk(arm, "hand", 20.0, 100.0, options=PLANE)
    x, y = radius * np.cos(bearing), radius * np.sin(bearing)
    q = solve(ik, np.array([bearing, 1.0]), (x, y, 0.0))
    distances = [np.abs((q - known + np.pi) % (2 * np.pi) - np.pi).max() for known in two_link_solutions(x, y, *LINKS[:2])]
    assert min(distances) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1.2, 1.2), min_size=3, max_size=3))
def test_three_links_reach_place_and_heading(q: list[float]) -> None:
    arm = Kinematics(planar_arm(limit=6.0))
    ik = DifferentialIk(arm, "hand", 20.0, 100.0, options=PLANE_AND_YAW)
    x, y, yaw = planar_hand(np.array([q[0], 0.9 + 0.4 * q[1], q[2]]))
    found = solve(ik, np.array([q[0] - 0.2, 0.7, q[2] + 0.3]), (x, y, 0.0), Rotation.from_euler("z", yaw).as_matrix())
    np.testing.assert_allclose(planar_hand(found)[:2], [x, y], atol=1e-6)
    assert abs((planar_hand(found)[2] - yaw + np.pi) % (2 * np.pi) - np.pi) < 1e-6


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31))
def test_seven_joints_reach_random_poses(seed: int) -> None:
    """Poses near ones the arm stands in, so that a way along straight lines exists."""
    arm, rng = Kinematics(robot_model()), np.random.default_rng(seed)
    ik = seven_ik(arm)
    arm.forward(np.clip(np.array(HOME) + rng.uniform(-0.5, 0.5, 7), arm.low + 0.1, arm.high - 0.1))
    position, rotation = arm.pose("hand")
    q = solve(ik, np.array(HOME), position, rotation)
    error = ik.error(q, position, rotation)
    assert np.abs(error).max() < 1e-5
    assert (q >= arm.low).all() and (q <= arm.high).all()


def test_joint_velocities_stay_bounded_through_a_singularity(seven: Kinematics) -> None:
    """The hand is drawn to a point beyond reach, into the stretched arm and along it."""
    ik, q = seven_ik(seven), np.array(HOME)
    smallest, speeds = [], []
    for _ in range(400):
        after = ik.step(q, np.array([1.6, 0.0, 0.4]))
        speeds.append(np.abs(after - q).max() * ik.rate_hz)
        q = after
        seven.forward(q)
        smallest.append(np.linalg.svd(seven.jacobian("hand"), compute_uv=False)[-1])
    assert min(smallest) < ik.options.near / 2
    assert max(speeds) <= 2.0 + 1e-9
    assert max(speeds[-50:]) < 0.5  # comes to rest instead of shaking at full speed


def test_damping_bounds_what_plain_least_squares_does_not() -> None:
    """Along a stretched arm a small speed asks for a huge joint velocity; damped it is at most speed / 2 damping."""
    arm, q = Kinematics(planar_arm(LINKS[:2])), np.array([0.3, 1e-3])
    speeds = []
    for damping in (0.02, 0.0):
        options = IkOptions(rows=(0, 1), posture_gain=0.0, margin=0.0, near=0.02, damping=damping)
        speeds.append(np.linalg.norm(DifferentialIk(arm, "hand", 1e9, 100.0, options=options).velocities(q, np.array([-0.1, 0, 0, 0, 0, 0]))))
    assert speeds[0] <= 1.1 * 0.1 / (2 * 0.02)
    assert speeds[1] > 50


def test_the_null_space_moves_the_elbow_and_not_the_hand(seven: Kinematics) -> None:
    ik, q = seven_ik(seven), np.array([0.2, 0.5, -0.3, -2.0, 0.2, 1.3, 0.1])
    seven.forward(q)
    position, rotation = seven.pose("hand")
    elbow = seven.pose("link4")[0]
    posture = q + [0.8, 0, 0, 0, 0, 0, 0]
    for _ in range(300):
        q = ik.step(q, position, rotation, posture)
    assert np.abs(ik.error(q, position, rotation)).max() < 1e-6
    seven.forward(q)
    assert np.linalg.norm(seven.pose("link4")[0] - elbow) > 0.03


def test_first_order_null_space_by_the_jacobian(seven: Kinematics) -> None:
    ik, tried = seven_ik(seven, margin=0.0), 0
    for seed in range(20):
        q = np.random.default_rng(seed).uniform(seven.low + 0.3, seven.high - 0.3)
        seven.forward(q)
        jacobian = seven.jacobian("hand")
        if np.linalg.svd(jacobian, compute_uv=False)[-1] < ik.options.near:
            continue
        rates = ik.velocities(q, np.zeros(6))
        assert np.abs(jacobian @ rates).max() < 1e-9 and np.abs(rates).max() > 1e-3
        tried += 1
    assert tried >= 10


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_no_joint_leaves_its_range_or_is_too_fast(seed: int) -> None:
    arm, rng = Kinematics(robot_model()), np.random.default_rng(seed)
    ik, q = seven_ik(arm), rng.uniform(arm.low, arm.high)
    for _ in range(40):
        target, turn = rng.uniform(-1, 1, 3), Rotation.random(rng=rng).as_matrix()
        after = ik.step(q, target, turn)
        assert (after >= arm.low - 1e-12).all() and (after <= arm.high + 1e-12).all()
        assert (np.abs(after - q) * 100.0 <= 2.0 + 1e-9).all()
        q = after


def test_a_joint_at_its_end_is_made_up_for_by_the_others() -> None:
    """Three links in the plane: with the middle joint at its end the hand still moves as asked."""
    arm = Kinematics(planar_arm(limit=0.8))
    ik = DifferentialIk(arm, "hand", 50.0, 100.0, options=IkOptions(rows=(0, 1), posture_gain=0.0, margin=0.0, near=1e-3))
    q = np.array([0.2, 0.8, -0.5])
    arm.forward(q)
    jacobian = arm.jacobian("hand")[:2]
    twist = np.zeros(6)
    twist[:2] = jacobian @ [0.1, 0.5, 0.2]  # would take joint 2 outward
    rates = ik.velocities(q, twist)
    assert rates[1] <= 1e-9
    np.testing.assert_allclose(jacobian @ rates, twist[:2], atol=1e-9)


def test_manipulability_of_two_links_by_hand() -> None:
    arm = Kinematics(planar_arm(LINKS[:2]))
    ik = DifferentialIk(arm, "hand", 1.0, 100.0, options=PLANE)
    for elbow in (0.0, 0.3, -1.2, 2.0):
        np.testing.assert_allclose(ik.manipulability(np.array([0.4, elbow])), abs(0.4 * 0.3 * np.sin(elbow)), atol=1e-12)


def test_bad_input_is_one_line(seven: Kinematics) -> None:
    with pytest.raises(InputError, match="no site or body 'hnd'; did you mean 'hand'"):
        DifferentialIk(seven, "hnd", 1.0, 100.0)
    with pytest.raises(InputError, match="velocities and a rate above 0"):
        DifferentialIk(seven, "hand", 0.0, 100.0)
    with pytest.raises(InputError, match="rows: expected some of 0 to 5"):
        DifferentialIk(seven, "hand", 1.0, 100.0, options=IkOptions(rows=(6,)))
    with pytest.raises(InputError, match="posture: expected 7 joints"):
        DifferentialIk(seven, "hand", 1.0, 100.0, np.zeros(3))
    with pytest.raises(ValueError, match="expected finite"):
        seven_ik(seven).step(np.array(HOME), np.array([0.3, np.nan, 0.2]))
