"""The bytes of messages: ours (through rosbags) equal those of Cyclone DDS's own serialiser, for every type, with random values.

The two paths share only the definitions: rosbags' generated packers on one side, Cyclone's IDL machinery on the other.
"""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from real.ros.dds.types import plain_type
from real.ros.messages import MessageError, deserialize, message, names, serialize, store

SETTINGS = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

#: What the driver, the twin, the policy node, recording and the services exchange.
USED = [
    "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/Imu",
    "sensor_msgs/msg/Joy", "trajectory_msgs/msg/JointTrajectory", "trajectory_msgs/msg/JointTrajectoryPoint", "std_msgs/msg/Float64MultiArray",
    "std_msgs/msg/String", "std_msgs/msg/Empty", "std_msgs/msg/Bool", "std_msgs/msg/Header", "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/WrenchStamped", "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TransformStamped", "nav_msgs/msg/Odometry",
    "tf2_msgs/msg/TFMessage", "diagnostic_msgs/msg/DiagnosticArray", "rosgraph_msgs/msg/Clock", "rcl_interfaces/msg/Log",
    "rcl_interfaces/msg/ParameterEvent", "rcl_interfaces/msg/ParameterValue", "rcl_interfaces/msg/ParameterDescriptor",
    "rmw_dds_common/msg/ParticipantEntitiesInfo", "lifecycle_msgs/msg/TransitionEvent",
]  # fmt: skip


def bases(name: str, bound: int) -> st.SearchStrategy[Any]:
    """Values of a base type, with the ends of its range."""
    if name == "string":
        letters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
        return st.text(letters, max_size=min(bound or 12, 12))
    if name == "bool":
        return st.booleans()
    if name == "byte":
        return st.binary(min_size=1, max_size=1)
    if name == "float32":
        return st.floats(width=32, allow_nan=False)
    if name == "float64":
        return st.floats(allow_nan=False)
    limits = np.iinfo("uint8" if name == "char" else name)
    return st.integers(int(limits.min), int(limits.max))


def values(desc: Any) -> st.SearchStrategy[Any]:
    kind, rest = desc
    if kind == 1:
        return bases(*rest)
    if kind == 2:
        return messages(rest)
    sub, length = rest
    return st.lists(values(sub), min_size=length if kind == 3 else 0, max_size=length if kind == 3 else min(length or 4, 4))


def messages(name: str) -> st.SearchStrategy[Any]:
    """Random messages of a type."""
    _, fields = store().fielddefs[name]
    made = message(name)
    drawn = {field: values(desc) for field, desc in fields if field != "structure_needs_at_least_one_member"}
    if name in ("builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration"):
        drawn["nanosec"] = st.integers(0, 999_999_999)
    return st.builds(made, **drawn)


def for_cyclone(value: Any, name: str) -> Any:
    """Return the same message as Cyclone's own struct."""
    _, fields = store().fielddefs[name]
    kind = plain_type(name)
    if not fields or fields[0][0] == "structure_needs_at_least_one_member":
        return kind(structure_needs_at_least_one_member=0)

    def turn(desc: Any, v: Any) -> Any:
        what, rest = desc
        if what == 2:
            return for_cyclone(v, rest)
        if what == 1:
            return v[0] if rest[0] == "byte" else v & 0xFF if rest[0] == "int8" else v  # its packer takes int8 as an unsigned byte
        if isinstance(v, (array.array, np.ndarray)):
            v = v.tolist()
        return [turn(rest[0], element) for element in v]

    return kind(**{field: turn(desc, getattr(value, field)) for field, desc in fields})


def same_bytes(value: Any, name: str) -> bytes:
    ours = serialize(value)
    theirs = for_cyclone(value, name).serialize(use_version_2=False)
    assert ours[:2] == b"\x00\x01" and theirs[:2] == b"\x00\x01"
    assert ours[4:] == theirs[4 : len(ours)] and not any(theirs[len(ours) :])  # their end is filled up to four bytes
    return ours


@pytest.mark.parametrize("name", USED)
def test_bytes_equal_those_of_cyclones_own_serialiser(name: str) -> None:
    @SETTINGS
    @given(messages(name))
    def check(value: Any) -> None:
        cdr = same_bytes(value, name)
        assert deserialize(cdr, type(value)) == value
        assert deserialize(cdr + b"\0" * (-len(cdr) % 4), type(value)) == value

    check()


def drawn(rng: np.random.Generator, desc: Any) -> Any:
    """A random value, without hypothesis: one example of all types together is beyond what it can draw."""
    kind, rest = desc
    if kind == 2:
        return drawn_message(rng, rest)
    if kind == 1:
        name, _ = rest
        if name == "string":
            return "x" * int(rng.integers(0, 9))
        if name.startswith("float"):
            return float(np.float32(rng.normal()))
        if name in ("bool", "byte"):
            return bool(rng.integers(2)) if name == "bool" else rng.bytes(1)
        limits = np.iinfo("uint8" if name == "char" else name)
        return int(rng.integers(limits.min, limits.max, endpoint=True, dtype=limits.dtype))
    sub, length = rest
    return [drawn(rng, sub) for _ in range(length if kind == 3 else int(rng.integers(0, min(4, length or 4) + 1)))]


def drawn_message(rng: np.random.Generator, name: str) -> Any:
    _, fields = store().fielddefs[name]
    given_fields = {field: drawn(rng, desc) for field, desc in fields if field != "structure_needs_at_least_one_member"}
    if "nanosec" in given_fields:
        given_fields["nanosec"] %= 1_000_000_000
    return message(name)(**given_fields)


@pytest.mark.parametrize("seed", [0])
def test_the_same_holds_for_every_type_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in names():
        value = drawn_message(rng, name)
        assert deserialize(same_bytes(value, name), type(value)) == value, name


def test_not_a_number_and_infinity_arrive_as_they_are() -> None:
    kind = message("std_msgs/msg/Float64MultiArray")
    back = deserialize(serialize(kind(data=[math.nan, math.inf, -math.inf])), kind).data
    assert math.isnan(back[0]) and back[1:] == array.array("d", [math.inf, -math.inf])


def test_a_joint_state_by_hand() -> None:
    """Every byte of a small message, written down from the CDR rules."""
    state = message("sensor_msgs/msg/JointState")(name=["a", "bc"], position=[1.0, -2.0])
    state.header.stamp.sec, state.header.stamp.nanosec, state.header.frame_id = 1, 2, "w"
    by_hand = "00010000" + "01000000" + "02000000" + "02000000" + "7700" + "0000"  # XCDR1, stamp, "w" and its filling
    by_hand += "02000000" + "02000000" + "6100" + "0000" + "03000000" + "626300" + "00"  # two names
    by_hand += "02000000" + "000000000000f03f" + "00000000000000c0" + "00000000" + "00000000"  # doubles stand on multiples of 8; two empty lists
    assert serialize(state).hex() == by_hand
    assert len(by_hand) // 2 - 4 == 64


def test_big_endian_bytes_are_read_too() -> None:
    name = "sensor_msgs/msg/JointState"
    state = message(name)(name=["a"], position=[0.5])
    big = bytes(store().serialize_cdr(type(state)._to_wire(state), name, little_endian=False))
    assert big[:2] == b"\0\0" and deserialize(big, type(state)) == state


@pytest.mark.parametrize("name", ["sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "diagnostic_msgs/msg/DiagnosticArray"])
def test_broken_bytes_are_a_message_or_one_error(name: str) -> None:
    """Cut, lengthened, with bits turned and numbers replaced: a valid message comes out, or MessageError; never anything else."""
    kind = message(name)
    outcomes = {"message": 0, "error": 0}

    @settings(SETTINGS, max_examples=100)
    @given(messages(name), st.randoms(use_true_random=False), st.integers(1, 3))
    def check(value: Any, random: Any, changes: int) -> None:
        cdr = bytearray(serialize(value))
        for _ in range(changes):
            at, how = random.randrange(len(cdr)), random.choice((0, 0, 0, 0, 0, 0, 1, 2, 3))
            if how == 0:
                cdr[at] ^= 1 << random.randrange(8)
            elif how == 1:
                cdr[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0"])
            elif how == 2 and len(cdr) > 1:
                del cdr[at:]
                cdr = cdr or bytearray(1)
            else:
                cdr += random.randbytes(5)
        try:
            back = deserialize(bytes(cdr), kind)
        except MessageError:
            outcomes["error"] += 1
            return
        outcomes["message"] += 1
        assert deserialize(serialize(back), kind) is not None  # within its type's bounds: it can be said again

    check()
    assert min(outcomes.values()) > 5, outcomes


def test_a_length_of_gigabytes_reserves_nothing() -> None:
    image = message("sensor_msgs/msg/Image")
    cdr = bytearray(serialize(image(data=bytes(8))))
    cdr[-12:-8] = (0x7FFFFFFF).to_bytes(4, "little")
    with pytest.raises(MessageError, match="Invalid sequence length 2147483647"):
        deserialize(bytes(cdr), image)
