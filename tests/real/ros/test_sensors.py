import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import InputError, SpecMismatch
from real.ros import api
from real.ros.sensors import JointReader, VectorReader, odometry_numbers, state_numbers, wrench_numbers
from real.ros.stamps import StampClock
from real.ros.transforms import Frames, TransformReader
from real.ros.units import factors

S = 1_000_000_000


def joints(names, position=(), velocity=(), effort=(), stamp=1):
    message = api.message("sensor_msgs/msg/JointState")()
    message.header.stamp.sec = stamp
    message.name = list(names)
    message.position, message.velocity, message.effort = list(map(float, position)), list(map(float, velocity)), list(map(float, effort))
    return message


@given(st.permutations(["a", "b", "c", "gripper"]))
def test_joints_are_told_apart_by_name_in_any_order(order):
    reader = JointReader(("c", "a"), StampClock("robot"))
    value = {"a": 1.0, "b": 2.0, "c": 3.0, "gripper": 4.0}
    reader.take(joints(order, [value[n] for n in order], [10 * value[n] for n in order]), 5 * S)
    values, capture, stamp = reader.read()
    assert values["position"].tolist() == [3.0, 1.0] and values["velocity"].tolist() == [30.0, 10.0] and np.isnan(values["effort"]).all()
    assert capture == 5 * S and stamp == S and not reader.missing and reader.heard == set(order)


def test_two_messages_make_one_robot_and_the_oldest_counts():
    reader = JointReader(("a", "b"), StampClock("robot"))
    reader.take(joints(["a"], [1]), 5 * S)
    assert reader.missing == ("b",)
    reader.take(joints(["b"], [2], stamp=2), 6 * S)
    values, capture, stamp = reader.read()
    assert values["position"].tolist() == [1.0, 2.0] and capture == 5 * S and stamp == S


def test_lists_that_do_not_fit_together_are_counted_and_change_nothing():
    reader = JointReader(("a", "b"), StampClock("robot"))
    reader.take(joints(["a", "b"], [1, 2]), 5 * S)
    reader.take(joints(["a", "b"], [7]), 6 * S)
    assert reader.malformed == 1 and reader.read()[0]["position"].tolist() == [1.0, 2.0] and reader.heard_ns == 5 * S


def test_a_state_field_by_the_names_of_its_elements():
    reader = VectorReader(("goal.y", "goal.x"), state_numbers, StampClock("robot"))
    with pytest.raises(InputError):
        reader.read()
    reader.take(joints(["goal.x", "z"], [1, 2]), 5)
    assert reader.malformed == 1 and reader.missing == ("goal.y",)
    reader.take(joints(["goal.x", "z", "goal.y"], [1, 2, 3]), 7)
    assert reader.read()[0].tolist() == [3.0, 1.0] and reader.read()[1:] == (7, S)


def test_wrench_and_odometry():
    wrench = api.message("geometry_msgs/msg/WrenchStamped")()
    wrench.wrench.force.x, wrench.wrench.torque.z = 1.5, -2.0
    assert wrench_numbers(wrench)[1].tolist() == [1.5, 0, 0, 0, 0, -2.0]
    odometry = api.message("nav_msgs/msg/Odometry")()
    odometry.pose.pose.position.y, odometry.pose.pose.orientation.w, odometry.twist.twist.angular.z = 2.0, 0.5, 3.0
    assert odometry_numbers(odometry)[1].tolist() == [0, 2, 0, 0.5, 0, 0, 0, 0, 0, 0, 0, 0, 3]


def transform(parent, child, position, quaternion, stamp=1):
    one = api.message("geometry_msgs/msg/TransformStamped")()
    one.header.frame_id, one.child_frame_id, one.header.stamp.sec = parent, child, stamp
    t, q = one.transform.translation, one.transform.rotation
    t.x, t.y, t.z = map(float, position)
    q.w, q.x, q.y, q.z = map(float, quaternion)
    return api.message("tf2_msgs/msg/TFMessage")(transforms=[one])


def matrix(pose):
    w, x, y, z = pose[3:]
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, pose[:3]
    return out


@given(st.integers(0, 2**31 - 1))
def test_the_pose_between_two_branches_is_that_of_the_matrices(seed):
    rng = np.random.default_rng(seed)
    frames, poses = Frames(StampClock("robot")), {}
    for parent, child in (("world", "base"), ("base", "arm"), ("arm", "hand"), ("world", "mast"), ("mast", "camera")):
        q = rng.normal(size=4)
        poses[child] = np.concatenate([rng.normal(size=3), q / np.linalg.norm(q)])
        frames.take(transform(parent, f"/{child}", poses[child][:3], poses[child][3:]), 5 * S, static=child == "mast")
    hand = matrix(poses["base"]) @ matrix(poses["arm"]) @ matrix(poses["hand"])
    camera = matrix(poses["mast"]) @ matrix(poses["camera"])
    found, capture, stamp = TransformReader(frames, "camera", "/hand").read()
    assert np.allclose(matrix(found), np.linalg.inv(camera) @ hand, atol=1e-9) and capture == 5 * S and stamp == S
    assert np.allclose(matrix(frames.pose("hand", "camera")[0]), np.linalg.inv(hand) @ camera, atol=1e-9)


def test_frames_that_are_none():
    frames = Frames(StampClock("robot"))
    frames.take(transform("a", "a", [0, 0, 0], [1, 0, 0, 0]), 1)
    frames.take(transform("a", "b", [np.nan, 0, 0], [1, 0, 0, 0]), 1)
    frames.take(transform("a", "b", [0, 0, 0], [0, 0, 0, 0]), 1)
    assert frames.malformed == 3 and frames.names == []
    frames.take(transform("a", "b", [0, 0, 0], [1, 0, 0, 0]), 1)
    frames.take(transform("b", "a", [1, 0, 0], [1, 0, 0, 0]), 1)  # a loop ends where it closes
    assert frames.pose("a", "b")[0].shape == (7,)
    with pytest.raises(InputError, match="no transform from 'c' to 'a'"):
        frames.pose("a", "c")


def test_units():
    scale, line = factors("f", "deg, mm", ["rad", "m"], ["a", "b"], convert=True)
    assert np.allclose(scale, [180 / np.pi, 1000]) and line == "f: converted rad -> deg, m -> mm"
    assert factors("f", "rad, rad/s, m", ["rad", "rad/s", "m"], ["a", "b", "c"], False)[1] == ""
    scale, line = factors("f", "1", ["rad"], ["a"], False)
    assert scale.tolist() == [1.0] and "does not say its unit" in line
    assert np.allclose(factors("f", "deg/s", ["rad/s"], ["a"], True)[0], 180 / np.pi)
    with pytest.raises(SpecMismatch, match="no unit of the same kind"):
        factors("f", "deg", ["rad/s"], ["a"], True)
