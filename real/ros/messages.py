"""ROS 2 message classes and their bytes (CDR, XCDR1 little-endian), from the definitions that ``rosbags`` ships.

``message("sensor_msgs/msg/JointState")`` is the class that rclpy would give: default values, keyword arguments only,
``array.array`` for unbounded numeric sequences, ``numpy.ndarray`` for fixed numeric arrays, lists for everything else,
``bytes`` of one byte for ``byte``. With rclpy it is rclpy's own class. ``ROS_DISTRO`` chooses the definitions (default
jazzy). Bytes of a message come from strangers: ``deserialize`` gives a message whose every field is within its type's
bounds, or raises ``MessageError``.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import threading
from typing import Any

from policies.spec import InputError, suggest
from real.ros.backend import BACKEND

DISTROS = ("humble", "iron", "jazzy", "kilted", "lyrical")
DEFAULT_DISTRO = "jazzy"

#: Nothing that anybody sends on purpose is longer; a length field of a broken message must not reserve memory.
_MAX_SEQUENCE = 1 << 30

_building = threading.RLock()


class MessageError(InputError):
    """Bytes are not the message they should be, or a message cannot be written as its type; one line says what and where."""


def distro() -> str:
    """Return the ROS 2 distribution whose definitions are used: ``ROS_DISTRO``, or jazzy.

    Raises:
        InputError: for a distribution whose definitions are not known.
    """
    name = os.environ.get("ROS_DISTRO", "") or DEFAULT_DISTRO
    if name == "rolling":
        return DISTROS[-1]
    if name not in DISTROS:
        raise InputError(f"ROS_DISTRO={name!r}: no message definitions of it here{suggest(name, DISTROS)}")
    return name


@functools.cache
def store() -> Any:
    """Return the ``rosbags`` typestore of this distribution, whose messages are the classes of this module."""
    from rosbags.typesys import Stores, get_typestore

    found = get_typestore(Stores(f"ros2_{distro()}"))
    found.max_sequence_length = _MAX_SEQUENCE
    return found


def define(name: str, text: str) -> None:
    """Add a message type from its definition, e.g. ``define("std_srvs/srv/Trigger_Request", "")``; again is a no-op.

    Args:
        name: ``package/msg/Name``, or ``package/srv/Name_Request`` and ``.._Response``.
        text: The lines of a ``.msg`` file.

    Raises:
        InputError: if the text is not a definition, or contradicts what the name already stands for.
    """
    from rosbags.typesys import TypesysError, get_types_from_msg

    package, _, short = name.split("/")
    with _building:
        try:
            (definition,) = get_types_from_msg(text, f"{package}/msg/{short}").values()  # that parser knows messages only
            store().register({name: definition})
        except (TypesysError, ValueError) as error:
            raise InputError(f"the definition of {name}: {error}") from None


def names() -> list[str]:
    """Return the names of all message types known here."""
    return sorted(store().fielddefs)


@functools.cache
def message(name: str) -> Any:
    """Return the class of a message, e.g. ``message("sensor_msgs/msg/JointState")``; a service's has ``.Request`` and ``.Response``.

    Args:
        name: ``package/msg/Name``, ``package/srv/Name``, or short ``package/Name`` for a message.

    Raises:
        InputError: if there is no such type, with the nearest known name.
    """
    parts = name.split("/")
    if len(parts) == 2:
        parts = [parts[0], "msg", parts[1]]
    if len(parts) != 3 or not all(parts):
        raise InputError(f"{name!r} is not the name of a ROS 2 type; expected package/msg/Name, e.g. sensor_msgs/msg/JointState")
    if BACKEND == "rclpy":
        return _of_rclpy(parts)
    full = "/".join(parts)
    if parts[1] == "srv" and not parts[2].endswith(("_Request", "_Response", "_Event")):
        return _service(full)
    with _building:
        if full not in store().fielddefs:
            raise InputError(f"no ROS 2 type {full} in {distro()}{suggest(full, names())}")
        from real.ros.message_class import build

        return build(store(), full)


def _of_rclpy(parts: list[str]) -> Any:
    package, kind, name = parts
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"no ROS 2 type {package}/{kind}/{name} in this installation: {error}") from None


def _service(full: str) -> Any:
    from real.ros.dds.service_types import SERVICES

    if full not in SERVICES:
        raise InputError(f"no ROS 2 service type {full}{suggest(full, SERVICES)}")
    for part, text in zip(("Request", "Response"), SERVICES[full], strict=True):
        define(f"{full}_{part}", text)
    halves = {part: message(f"{full}_{part}") for part in ("Request", "Response")}
    return type(full.rpartition("/")[2], (), {"__doc__": f"The service {full}.", "__slots__": (), "name": full, **halves})


def type_name(kind: Any) -> str:
    """Return ``package/msg/Name`` of a message class or message, of either back end.

    Raises:
        InputError: if it is not a ROS 2 message.
    """
    cls = kind if isinstance(kind, type) else type(kind)
    name = getattr(cls, "__msgtype__", None)
    if isinstance(name, str):
        return name
    parts = cls.__module__.split(".")
    if len(parts) >= 2 and hasattr(cls, "get_fields_and_field_types"):
        return f"{parts[0]}/{parts[1]}/{cls.__name__}"
    raise InputError(f"{cls.__name__} is not a ROS 2 message type; message('package/msg/Name') gives one")


def serialize(value: Any) -> bytes:
    """Return the CDR bytes of a message, with the four bytes of encapsulation in front.

    Raises:
        MessageError: if a value does not fit its field (a text that is not UTF-8, an array of the wrong length).
    """
    if BACKEND == "rclpy":
        return importlib.import_module("rclpy.serialization").serialize_message(value)
    try:
        return bytes(store().serialize_cdr(type(value)._to_wire(value), type(value).__msgtype__))
    except AttributeError as error:
        raise MessageError(f"{type(value).__name__} cannot be written as a ROS 2 message: {error}") from None
    except (_serde_error(), struct.error, ValueError, TypeError, OverflowError) as error:
        raise MessageError(f"a {type(value).__msgtype__} cannot be written: {error}") from None


def deserialize(cdr: bytes | memoryview, kind: Any) -> Any:
    """Return the message that CDR bytes are; whatever the bytes, the answer is a message within its bounds or ``MessageError``.

    Args:
        cdr: Bytes as they were on the wire, with their encapsulation.
        kind: Message class, from ``message()``.

    Raises:
        MessageError: if they are cut short, too long, of another encoding, or hold a value that the type does not allow.
    """
    if BACKEND == "rclpy":
        return importlib.import_module("rclpy.serialization").deserialize_message(bytes(cdr), kind)
    name = type_name(kind)
    try:
        return store().deserialize_cdr(cdr, name)
    except MessageError as error:
        raise MessageError(f"{len(cdr)} bytes that should be a {name}: {error}") from None
    except (_serde_error(), struct.error, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise MessageError(f"{len(cdr)} bytes that should be a {name}: {error}") from None


@functools.cache
def _serde_error() -> type[Exception]:
    from rosbags.serde import SerdeError

    return SerdeError
