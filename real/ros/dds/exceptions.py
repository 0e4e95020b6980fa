"""The exceptions of the ``rclpy`` API, under its names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class NotInitializedException(Exception):
    """Something that needs a context was asked for before ``init()`` or after ``shutdown()``."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ("init() has not been called, or shutdown() has",)))


class InvalidHandle(Exception):
    """An entity was used after it was destroyed."""


class ROSInterruptException(Exception):
    """What was waiting was ended by the shutdown of its context."""


class RCLError(RuntimeError):
    """An operation that the state of things does not allow, e.g. a lifecycle transition from the wrong state."""


class UnknownROSArgsError(RuntimeError):
    """A word between ``--ros-args`` and ``--`` that is no flag of ROS."""


class InvalidROSArgsError(RuntimeError):
    """A flag of ROS whose value cannot be read (rclpy's ``RCLInvalidROSArgsError``)."""


class NameValidationException(ValueError):
    """A name that ROS does not allow.

    Attributes:
        name_type: What the name was for, e.g. ``topic name``.
        name: The name.
        error_msg: What is wrong with it.
        invalid_index: Index of the first character that is wrong.
    """

    def __init__(self, name_type: str, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__(f"invalid {name_type} {name!r}: {error_msg} (at character {invalid_index})")
        self.name_type, self.name, self.error_msg, self.invalid_index = name_type, name, error_msg, invalid_index


class InvalidNodeNameException(NameValidationException):
    """A node name that ROS does not allow."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("node name", name, error_msg, invalid_index)


class InvalidNamespaceException(NameValidationException):
    """A namespace that ROS does not allow."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("namespace", name, error_msg, invalid_index)


class InvalidTopicNameException(NameValidationException):
    """A topic name that ROS does not allow."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("topic name", name, error_msg, invalid_index)


class InvalidServiceNameException(NameValidationException):
    """A service name that ROS does not allow."""

    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__("service name", name, error_msg, invalid_index)


class ParameterException(Exception):
    """Base of what parameters can raise. ``args`` are the message and the parameters' names."""

    def __init__(self, error_msg: str, parameters: Sequence[str] | str, *args: object) -> None:
        super().__init__(error_msg, parameters, *args)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class ParameterNotDeclaredException(ParameterException):
    """A parameter that the node has not declared."""

    def __init__(self, parameters: Sequence[str] | str, *args: object) -> None:
        super().__init__("parameter not declared", parameters, *args)


class ParameterAlreadyDeclaredException(ParameterException):
    """A parameter was declared a second time."""

    def __init__(self, parameters: Sequence[str] | str, *args: object) -> None:
        super().__init__("parameter already declared", parameters, *args)


class InvalidParameterException(ParameterException):
    """A parameter name that ROS does not allow."""

    def __init__(self, parameter: str, *args: object) -> None:
        super().__init__("invalid parameter name", parameter, *args)


class InvalidParameterTypeException(ParameterException):
    """A parameter is given a value of another type than it was declared with."""

    def __init__(self, desired_parameter: Any, expected_type: Any, *args: object) -> None:
        super().__init__(f"a value of type {desired_parameter.type_} for a parameter of type {expected_type}", desired_parameter.name, *args)


class ParameterUninitializedException(ParameterException):
    """A parameter was declared by type alone, and nobody has given it a value."""

    def __init__(self, parameter_name: str, *args: object) -> None:
        super().__init__("the parameter was declared without a value and nothing overrides it", parameter_name, *args)


class InvalidParameterValueException(ParameterException):
    """A value was refused by the parameter's descriptor or by a callback."""

    def __init__(self, parameter: str, value: object, reason: str, *args: object) -> None:
        super().__init__(f"the value {value!r} is refused{f' ({reason})' if reason else ''}", parameter, *args)


class ParameterImmutableException(ParameterException):
    """A read-only parameter was to be changed or removed."""

    def __init__(self, parameter: str, *args: object) -> None:
        super().__init__("the parameter is read-only", parameter, *args)
