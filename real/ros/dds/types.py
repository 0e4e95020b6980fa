"""DDS types of ROS 2 messages, made at run time: final, without keys, their samples ready CDR bytes.

Nothing is serialised here: a sample carries the bytes that ``real.ros.messages`` made, or an image's that a camera made.
"""

from __future__ import annotations

import functools
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct
from cyclonedds.idl import types as idl

from policies.spec import InputError
from real.ros.messages import store

#: As ROS 2 itself says its types to DDS, a byte of any kind is an octet. Cyclone DDS 0.10 (Humble, Jazzy) crashes in its
#: type library when it is told of an int8 or uint8 of XTypes.
_PRIMITIVES: dict[str, Any] = {
    "bool": bool, "byte": idl.byte, "char": idl.byte, "int8": idl.byte, "uint8": idl.byte, "int16": idl.int16, "uint16": idl.uint16,
    "int32": idl.int32, "uint32": idl.uint32, "int64": idl.int64, "uint64": idl.uint64, "float32": idl.float32, "float64": idl.float64, "string": str,
}  # fmt: skip
_BASE, _NAME, _ARRAY = 1, 2, 3
_EMPTY = {"structure_needs_at_least_one_member": idl.byte}


class Sample:
    """Received CDR bytes, with what DDS says about them.

    Attributes:
        cdr: The bytes, with their four bytes of encapsulation.
        sample_info: Validity, source stamp, the publication's handle.
    """

    __slots__ = ("cdr", "sample_info")

    def __init__(self, cdr: bytes | None) -> None:
        self.cdr = cdr
        self.sample_info: Any = None


def dds_name(ros_type: str) -> str:
    """Return the DDS name of a ROS type: ``sensor_msgs/msg/JointState`` -> ``sensor_msgs::msg::dds_::JointState_``."""
    package, kind, name = ros_type.split("/")
    return f"{package}::{kind}::dds_::{name}_"


def ros_name(type_name: str) -> str:
    """Return the ROS name of a DDS type, or the name as it is where it is not one of ROS."""
    parts = type_name.split("::")
    if len(parts) == 4 and parts[2] == "dds_" and parts[3].endswith("_"):
        return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"
    return type_name


@functools.cache
def typehash(ros_type: str) -> str:
    """Return the RIHS01 hash of a message type, which graph tools of Iron and later show."""
    return store().hash_rihs01(ros_type)


@functools.cache
def plain_type(ros_type: str) -> Any:
    """Return the DDS struct of a message with its fields, which Cyclone's own serialiser can write.

    Raises:
        InputError: if the message has a field that DDS over Python cannot carry.
    """
    return make_idl_struct(ros_type.rpartition("/")[2] + "_", dds_name(ros_type), _fields(ros_type))


@functools.cache
def raw_type(ros_type: str, type_name: str | None = None, header: bool = False) -> Any:
    """Return a DDS type whose samples are CDR bytes: made by ``.of(cdr)``, read as ``.cdr``.

    Args:
        ros_type: Message type that gives the fields.
        type_name: DDS type name, when it is not that of the message.
        header: Whether a uint64 and an int64 go before the fields: client and sequence number of a service.

    Raises:
        InputError: if the message has a field that DDS over Python cannot carry.
    """
    fields = ({"client": idl.uint64, "sequence": idl.int64} if header else {}) | _fields(ros_type)
    made: Any = make_idl_struct(ros_type.rpartition("/")[2] + "_", type_name or dds_name(ros_type), fields)

    def serialize(self: Any, buffer: Any = None, endianness: Any = None, use_version_2: bool | None = None) -> bytes:
        return self.cdr

    def deserialize(data: bytes, has_header: bool = True, use_version_2: bool | None = None) -> Sample:
        return Sample(data)

    def deserialize_key(data: bytes, has_header: bool = True, use_version_2: bool | None = None) -> Sample:
        return Sample(None)  # of a writer that has gone: there is no key, and nothing to read

    def of(cdr: bytes) -> Any:
        sample = made.__new__(made)
        sample.cdr = cdr
        return sample

    made.serialize, made.deserialize, made.deserialize_key, made.of = serialize, staticmethod(deserialize), staticmethod(deserialize_key), staticmethod(of)
    return made


def _fields(ros_type: str) -> dict[str, Any]:
    _, fields = store().fielddefs[ros_type]
    return {name: _convert(ros_type, name, desc) for name, desc in fields} or dict(_EMPTY)


def _convert(ros_type: str, field: str, desc: Any) -> Any:
    kind, rest = desc
    if kind == _BASE:
        name, bound = rest
        if name not in _PRIMITIVES:
            raise InputError(f"{ros_type}.{field} is a {name}, which the DDS layer does not carry")
        return idl.bounded_str[bound] if name == "string" and bound else _PRIMITIVES[name]
    if kind == _NAME:
        return plain_type(rest)
    inner, length = _convert(ros_type, field, rest[0]), rest[1]
    if kind == _ARRAY:
        return idl.array[inner, length]
    return idl.sequence[inner, length] if length else idl.sequence[inner]


__all__ = ["IdlStruct", "Sample", "dds_name", "plain_type", "raw_type", "ros_name", "typehash"]
