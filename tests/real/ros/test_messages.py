"""Message classes: rclpy's attributes, defaults and checks; definitions of every distribution; bytes that are no message."""

from __future__ import annotations

import array
import os
import subprocess
import sys

import numpy as np
import pytest

from policies.spec import InputError
from real.ros.messages import DISTROS, MessageError, define, deserialize, message, names, serialize, store, type_name

JointState = message("sensor_msgs/msg/JointState")


def test_defaults_are_rclpys() -> None:
    state = JointState()
    assert (state.header.stamp.sec, state.header.frame_id, state.name) == (0, "", [])
    assert state.position == array.array("d") and state.position.typecode == "d"
    assert message("geometry_msgs/msg/Pose")().orientation.w == 1.0
    info = message("sensor_msgs/msg/CameraInfo")()
    assert isinstance(info.k, np.ndarray) and info.k.shape == (9,) and info.k.dtype == np.float64
    assert isinstance(info.d, array.array)
    status = message("diagnostic_msgs/msg/DiagnosticStatus")
    assert (status().level, status.OK, status.ERROR, status.STALE) == (b"\0", b"\0", b"\2", b"\3")
    assert message("sensor_msgs/msg/JointState")().header is not state.header


def test_text_and_field_types_are_rclpys() -> None:
    assert repr(message("std_msgs/msg/String")(data="a")) == "std_msgs.msg.String(data='a')"
    assert JointState.get_fields_and_field_types() == {
        "header": "std_msgs/Header", "name": "sequence<string>", "position": "sequence<double>", "velocity": "sequence<double>", "effort": "sequence<double>"
    }  # fmt: skip
    assert message("sensor_msgs/msg/CameraInfo").get_fields_and_field_types()["k"] == "double[9]"
    assert message("std_msgs/msg/Empty").get_fields_and_field_types() == {}
    assert type_name(JointState()) == "sensor_msgs/msg/JointState"
    with pytest.raises(InputError, match="int is not a ROS 2 message"):
        type_name(3)


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        ("sensor_msgs/msg/JointState", "position", [1.0, "a"], "array.array of type 'd'"),
        ("sensor_msgs/msg/JointState", "position", np.zeros(2), "tolist"),
        ("sensor_msgs/msg/JointState", "position", array.array("f", [1.0]), "'d', got 'f'"),
        ("sensor_msgs/msg/JointState", "name", "joint1", "must be a list"),
        ("sensor_msgs/msg/JointState", "name", [1], "must be a str"),
        ("sensor_msgs/msg/JointState", "header", 3, "must be a std_msgs/Header"),
        ("std_msgs/msg/Float64", "data", 1, "must be a float"),
        ("std_msgs/msg/Float32", "data", 1e39, "fit a float32"),
        ("std_msgs/msg/UInt8", "data", 256, r"int in \[0, 255\]"),
        ("std_msgs/msg/Int8", "data", -129, r"int in \[-128, 127\]"),
        ("std_msgs/msg/Bool", "data", 1, "must be a bool"),
        ("std_msgs/msg/Byte", "data", 1, "bytes of length 1"),
        ("std_msgs/msg/UInt8MultiArray", "data", [1, 300], "array.array of type 'B'|greater than maximum"),
        ("sensor_msgs/msg/CameraInfo", "k", [1.0] * 8, "must have 9 elements, got 8"),
        ("sensor_msgs/msg/CameraInfo", "k", np.zeros(9, np.float32), "float64"),
        ("shape_msgs/msg/SolidPrimitive", "dimensions", [1.0] * 4, "at most 3 elements, got 4"),
    ],
)
def test_wrong_values_are_refused_where_they_are_given(kind: str, field: str, value: object, said: str) -> None:
    made = message(kind)
    with pytest.raises(AssertionError, match=said):
        made(**{field: value})
    there = made()
    with pytest.raises(AssertionError, match=said):
        setattr(there, field, value)
    assert there == made()


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(AssertionError, match="has no field 'positions'; it has header, name, position"):
        JointState(positions=[1.0])
    with pytest.raises(InputError, match="did you mean 'sensor_msgs/msg/JointState'"):
        message("sensor_msgs/msg/JointStates")
    with pytest.raises(InputError, match="expected package/msg/Name"):
        message("JointState")
    assert message("sensor_msgs/JointState") is JointState


def test_what_is_given_is_converted_as_rclpy_does() -> None:
    state = JointState(name=("a", "b"), position=[1.0, 2], velocity=array.array("d", [3.0]))
    assert state.name == ["a", "b"] and state.position == array.array("d", [1.0, 2.0])
    image = message("sensor_msgs/msg/Image")(data=b"\1\2")
    assert image.data == array.array("B", [1, 2])
    assert message("sensor_msgs/msg/CameraInfo")(k=[1.0] * 9).k.tolist() == [1.0] * 9


def test_definitions_can_be_added_and_services_have_two_halves() -> None:
    define("test_msgs/msg/Pair", "float64[2] both\nstring label\n")
    pair = message("test_msgs/msg/Pair")(both=[1.0, 2.0], label="x")
    assert deserialize(serialize(pair), type(pair)) == pair
    define("test_msgs/msg/Pair", "float64[2] both\nstring label\n")
    with pytest.raises(InputError, match="already present with different definition"):
        define("test_msgs/msg/Pair", "float64 other\n")
    with pytest.raises(InputError, match="the definition of test_msgs/msg/Broken"):
        define("test_msgs/msg/Broken", "float64[ both\n")
    trigger = message("std_srvs/srv/Trigger")
    assert trigger.Response(success=True, message="done").message == "done"
    assert serialize(trigger.Request()) == bytes.fromhex("0001000000")
    with pytest.raises(InputError, match="did you mean 'std_srvs/srv/Trigger'"):
        message("std_srvs/srv/Triger")


@pytest.mark.parametrize(
    ("cdr", "kind", "said"),
    [
        (b"", "std_msgs/msg/String", "encapsulation"),
        (bytes.fromhex("000700000200000061006100"), "std_msgs/msg/String", "encapsulation"),  # XCDR2
        (bytes.fromhex("0001000005000000616200"), "std_msgs/msg/String", "string length 5"),
        (bytes.fromhex("0001000003000000616263"), "std_msgs/msg/String", "terminator"),
        (bytes.fromhex("0001000003000000610000"), "std_msgs/msg/String", "zero byte"),
        (bytes.fromhex("0001000002000000ff00"), "std_msgs/msg/String", "utf-8"),
        (bytes.fromhex("00010000") + b"\xff" * 12, "std_msgs/msg/Float64MultiArray", "length"),
        (bytes.fromhex("000100000100000000ca9a3b"), "builtin_interfaces/msg/Time", "1000000000 nanoseconds"),
        (bytes.fromhex("00010000") + bytes(8) * 3, "std_msgs/msg/Float64", "size mismatch"),
        (bytes.fromhex("00010000010004000000") + bytes(64), "shape_msgs/msg/SolidPrimitive", "dimensions|polygon"),
    ],
)
def test_bytes_that_are_no_message_are_one_line(cdr: bytes, kind: str, said: str) -> None:
    if kind == "shape_msgs/msg/SolidPrimitive":
        cdr = bytes.fromhex("00010000 01000000 04000000") + bytes(8 * 4 + 8)
    with pytest.raises(MessageError, match=said) as raised:
        deserialize(cdr, message(kind))
    assert "\n" not in str(raised.value) and kind in str(raised.value) and f"{len(cdr)} bytes" in str(raised.value)


def test_texts_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(MessageError, match="std_msgs/msg/String cannot be written"):
        serialize(message("std_msgs/msg/String")(data="\ud800"))


@pytest.mark.parametrize("distro", DISTROS)
def test_every_distribution_has_its_definitions(distro: str) -> None:
    code = (
        "from real.ros.messages import message, names, serialize, store\n"
        "sizes = [len(serialize(message(n)())) for n in names()]\n"
        "gid = len(message('rmw_dds_common/msg/Gid')().data)\n"
        "print(len(sizes), gid, min(sizes), store().hash_rihs01('std_msgs/msg/String'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"ROS_DISTRO": distro}, timeout=120)
    assert done.returncode == 0, done.stderr
    count, gid, smallest, hashed = done.stdout.split()
    assert int(count) >= 150 and int(smallest) == 5
    assert int(gid) == (24 if distro == "humble" else 16)
    assert hashed == "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"  # as ROS 2 publishes it


def test_an_unknown_distribution_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from real.ros.messages import message; message('std_msgs/msg/String')"],
        capture_output=True, text=True, env=os.environ | {"ROS_DISTRO": "jazzi"}, timeout=120,
    )  # fmt: skip
    assert "ROS_DISTRO='jazzi': no message definitions of it here; did you mean 'jazzy'?" in done.stderr


def test_all_types_can_be_made() -> None:
    assert len(names()) >= 160
    for name in names():
        made = message(name)()
        assert deserialize(serialize(made), type(made)) == made
    assert store().fielddefs
