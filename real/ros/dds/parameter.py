"""One parameter: a name, a type and a value (``rclpy.parameter.Parameter``), and what a descriptor allows it to be."""

from __future__ import annotations

import array
import re
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from real.ros.dds.exceptions import InvalidParameterException
from real.ros.messages import message


class ParameterType(IntEnum):
    """What a value is. Numbers as in ``rcl_interfaces/msg/ParameterType``."""

    NOT_SET = 0
    BOOL = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTE_ARRAY = 5
    BOOL_ARRAY = 6
    INTEGER_ARRAY = 7
    DOUBLE_ARRAY = 8
    STRING_ARRAY = 9

    @classmethod
    def from_parameter_value(cls, parameter_value: Any) -> ParameterType:
        """Return the type of a Python value; an empty list counts as bytes, as in rclpy.

        Raises:
            TypeError: if no parameter can hold it.
        """
        kinds = {type(None): cls.NOT_SET, bool: cls.BOOL, int: cls.INTEGER, float: cls.DOUBLE, str: cls.STRING}
        if type(parameter_value) in kinds:
            return kinds[type(parameter_value)]
        for kind in (bool, int, float, str):
            if isinstance(parameter_value, kind):
                return kinds[kind]
        if isinstance(parameter_value, (list, tuple, array.array)):
            for kind, listed in ((bytes, cls.BYTE_ARRAY), (bool, cls.BOOL_ARRAY), (int, cls.INTEGER_ARRAY), (float, cls.DOUBLE_ARRAY), (str, cls.STRING_ARRAY)):
                if all(isinstance(one, kind) for one in parameter_value):
                    return listed
            raise TypeError("a list of a parameter holds values of one type")
        raise TypeError(f"a parameter holds no {type(parameter_value).__name__}")

    def check(self, parameter_value: Any) -> bool:
        """Whether a value is of this type."""
        items = parameter_value if isinstance(parameter_value, (list, tuple, array.array)) else None
        scalars = {1: bool, 2: int, 3: float, 4: str}
        listed = {5: bytes, 6: bool, 7: int, 8: float, 9: str}
        if self.value in scalars:
            return isinstance(parameter_value, scalars[self.value]) and not (self is ParameterType.INTEGER and isinstance(parameter_value, bool))
        if self.value in listed:
            return items is not None and all(isinstance(one, listed[self.value]) for one in items)
        return parameter_value is None


_FIELDS = (
    "", "bool_value", "integer_value", "double_value", "string_value",
    "byte_array_value", "bool_array_value", "integer_array_value", "double_array_value", "string_array_value",
)  # fmt: skip


def value_of_message(value: Any) -> Any:
    """Return the Python value of a ``rcl_interfaces/msg/ParameterValue``.

    Raises:
        ValueError: for a type number that is none.
    """
    kind = ParameterType(value.type)
    held: Any = getattr(value, _FIELDS[kind]) if kind else None
    return list(held) if kind >= ParameterType.BYTE_ARRAY else held


def message_of_value(kind: ParameterType, value: Any) -> Any:
    """Return a Python value of a type as ``rcl_interfaces/msg/ParameterValue``."""
    made = message("rcl_interfaces/msg/ParameterValue")(type=int(kind))
    if kind:
        setattr(made, _FIELDS[kind], list(value) if kind >= ParameterType.BYTE_ARRAY else value)
    return made


class Parameter:
    """A parameter: ``name``, ``type_`` and ``value``."""

    Type = ParameterType

    def __init__(self, name: str, type_: ParameterType | None = None, value: Any = None) -> None:
        """The type follows from the value where it is not given.

        Raises:
            TypeError: if ``type_`` is no type, or no parameter can hold the value.
            ValueError: if type and value do not agree.
        """
        if type_ is None:
            type_ = ParameterType.from_parameter_value(value)
        if not isinstance(type_, ParameterType):
            raise TypeError(f"type_ is a Parameter.Type, not {type_!r}")
        if not type_.check(value):
            raise ValueError(f"parameter {name!r}: the value {value!r} is not of type {type_.name}")
        self._name, self._type, self._value = name, type_, value

    @classmethod
    def from_parameter_msg(cls, param_msg: Any) -> Parameter:
        """Return the parameter of a ``rcl_interfaces/msg/Parameter``."""
        return cls(param_msg.name, ParameterType(param_msg.value.type), value_of_message(param_msg.value))

    @property
    def name(self) -> str:
        """Return its name; dots separate levels."""
        return self._name

    @property
    def type_(self) -> ParameterType:
        """Return the type of its value."""
        return self._type

    @property
    def value(self) -> Any:
        """Return its value, None where it has none."""
        return self._value

    def get_parameter_value(self) -> Any:
        """Return the value as ``rcl_interfaces/msg/ParameterValue``."""
        return message_of_value(self._type, self._value)

    def to_parameter_msg(self) -> Any:
        """Return it as ``rcl_interfaces/msg/Parameter``."""
        return message("rcl_interfaces/msg/Parameter")(name=self._name, value=self.get_parameter_value())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameter):
            return NotImplemented
        return (self._name, self._type, self._value) == (other._name, other._type, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parameter({self._name!r}, {self._type.name}, {self._value!r})"


def validate_parameter_name(name: str) -> bool:
    """Return True for a valid name: levels of letters, digits, ``_``, ``-`` and ``/`` joined by dots; raises InvalidParameterException."""
    if not re.fullmatch(r"[^\s.]+(\.[^\s.]+)*", name):
        raise InvalidParameterException(name)
    return True


def result(reason: str = "") -> Any:
    """Return a ``SetParametersResult``: successful without a reason, refused with one."""
    return message("rcl_interfaces/msg/SetParametersResult")(successful=not reason, reason=reason)


def refused_by(descriptor: Any, parameter: Parameter, check_read_only: bool = True) -> str:
    """Return why a descriptor does not allow a value, an empty text if it does."""
    if check_read_only and descriptor.read_only:
        return f"parameter {parameter.name!r} is read-only"
    if not descriptor.dynamic_typing and descriptor.type != parameter.type_:
        return f"wrong type for parameter {parameter.name!r}: expected {ParameterType(descriptor.type).name}, got {parameter.type_.name}"
    kinds = {ParameterType.INTEGER: descriptor.integer_range, ParameterType.DOUBLE: descriptor.floating_point_range}
    for limits in kinds.get(parameter.type_, ()):
        if reason := _outside(parameter.value, limits, parameter.type_ is ParameterType.DOUBLE):
            return f"parameter {parameter.name!r}: {reason}"
    return ""


def _outside(value: float, limits: Any, real: bool) -> str:
    low, high = min(limits.from_value, limits.to_value), max(limits.from_value, limits.to_value)
    near = (lambda a, b: abs(a - b) <= 1e-9 * max(1.0, abs(a), abs(b))) if real else (lambda a, b: a == b)
    if near(value, low) or near(value, high):
        return ""
    if not low <= value <= high:
        return f"{value} is outside [{low}, {high}]"
    if limits.step and not near(round((value - low) / limits.step) * limits.step + low, value):
        return f"{value} is not a whole number of steps of {limits.step} from {low}"
    return ""


def names_below(names: Iterable[str], prefixes: list[str], depth: int) -> tuple[list[str], list[str]]:
    """Return the names that ``list_parameters`` gives (below ``prefixes``, at most ``depth`` levels; 0 for any) and their prefixes."""
    chosen = []
    for name in names:
        if prefixes:
            under = [p for p in prefixes if name == p or name.startswith(f"{p}.")]
            levels = min((name.count(".") - p.count(".") for p in under), default=None)
        else:
            levels = name.count(".") + 1
        if levels is not None and (depth == 0 or levels <= depth):
            chosen.append(name)
    return chosen, list(dict.fromkeys(name.rpartition(".")[0] for name in chosen if "." in name))
