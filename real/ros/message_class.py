"""Python classes of ROS 2 messages: the attributes, defaults and checks that rclpy's generated classes have.

Every assignment is checked (rclpy of Humble does, later ones may not), so that what runs here runs on all of them.
"""

from __future__ import annotations

import array
import numbers
from collections.abc import Callable, Sequence, Set
from typing import Any

import numpy as np

from real.ros.messages import MessageError

_TYPECODES = {
    "int8": "b", "uint8": "B", "char": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
    "float32": "f", "float64": "d",
}  # fmt: skip
_DTYPES: dict[str, Any] = {name: np.dtype(name) for name in _TYPECODES if name != "char"} | {"char": np.dtype(np.uint8)}
_RANGES = {name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for name, dtype in _DTYPES.items() if dtype.kind in "iu"}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_BASE, _NAME, _ARRAY, _SEQUENCE = 1, 2, 3, 4
_EMPTY = "structure_needs_at_least_one_member"

#: Defaults that are not zero; the definitions that rosbags ships leave them out.
_DEFAULTS: dict[str, dict[str, Any]] = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}

_NANOSECONDS = {"builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration"}

Convert = Callable[[Any], Any]


class Message:
    """What all message classes share: keyword arguments, equality by value, a text that shows the fields."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    __msgtype__: str
    _fields_and_field_types: dict[str, str]
    _default_of: dict[str, Callable[[], Any]]
    _to_wire: Callable[[Any], Any]

    def __init__(self, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in self._default_of:
                raise AssertionError(f"{self.__msgtype__} has no field {name!r}; it has {', '.join(self._fields_and_field_types) or 'none'}")
        for name, default in self._default_of.items():
            if name in kwargs:
                setattr(self, name, kwargs[name])
            else:
                object.__setattr__(self, "_" + name, default())

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """Return field name -> ROS type, e.g. ``{"position": "sequence<double>"}``."""
        return dict(cls._fields_and_field_types)

    def __repr__(self) -> str:
        package, kind, name = self.__msgtype__.split("/")
        fields = ", ".join(f"{field}={getattr(self, field)!r}" for field in self._fields_and_field_types)
        return f"{package}.{kind}.{name}({fields})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        for field in self._default_of:
            ours, theirs = getattr(self, field), getattr(other, field)
            if not (np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs):
                return False
        return True


class _Wire:
    """A message as the serialiser reads it: numpy arrays, numbers for ``byte``."""

    __slots__ = ("__dict__",)

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def build(store: Any, name: str) -> type[Message]:
    """Return the class of the message ``name`` and teach the typestore to decode into it; built once per typestore and name.

    Args:
        store: A ``rosbags`` typestore that defines the type.
        name: ``package/msg/Name``.
    """
    built: dict[str, type[Message]] = store.__dict__.setdefault("message_classes", {})
    if name in built:
        return built[name]
    constants, fields = store.fielddefs[name]
    shown = [(field, desc) for field, desc in fields if field != _EMPTY]
    nested = {desc_name(desc): build(store, desc_name(desc)) for _, desc in shown if desc_name(desc)}
    space: dict[str, Any] = {
        "__slots__": tuple("_" + field for field, _ in fields),
        "__msgtype__": name,
        "__doc__": f"The ROS 2 message {name}.",
        "__module__": ".".join(name.split("/")[:2]),
        "_fields_and_field_types": {field: describe(desc) for field, desc in shown},
        "_default_of": {field: _default(desc, nested, _DEFAULTS.get(name, {}).get(field)) for field, desc in fields},
    }
    for constant, kind, value in constants:
        space[constant] = bytes([value & 0xFF]) if kind in ("byte", "octet") else value
    for field, desc in fields:
        space[field] = _property(name, field, desc, nested)
    made: type[Message] = type(name.rpartition("/")[2], (Message,), space)
    made._to_wire = staticmethod(_writer(fields, nested))
    built[name] = made
    store.types[name] = _reader(name, made, fields)  # what decoded values, in order, are given to
    store.cache.pop(name, None)
    return made


def desc_name(desc: Any) -> str:
    """Return the message type that a field holds or is a list of, or an empty text."""
    kind, rest = desc
    if kind == _NAME:
        return rest
    return desc_name(rest[0]) if kind in (_ARRAY, _SEQUENCE) else ""


def describe(desc: Any) -> str:
    """Return a field's type as rclpy writes it: ``double``, ``sequence<double>``, ``double[9]``, ``geometry_msgs/Point``."""
    kind, rest = desc
    if kind == _BASE:
        name, bound = rest
        if name == "string" and bound:
            return f"string<{bound}>"
        return {"float64": "double", "float32": "float", "bool": "boolean", "byte": "octet", "char": "uint8"}.get(name, name)
    if kind == _NAME:
        package, _, name = rest.split("/")
        return f"{package}/{name}"
    inner, bound = describe(rest[0]), rest[1]
    if kind == _ARRAY:
        return f"{inner}[{bound}]"
    return f"sequence<{inner}, {bound}>" if bound else f"sequence<{inner}>"


def _default(desc: Any, nested: dict[str, type[Message]], given: Any) -> Callable[[], Any]:
    kind, rest = desc
    if kind == _NAME:
        return nested[rest]
    if kind == _BASE:
        zero = {"string": "", "bool": False, "byte": b"\0", "float32": 0.0, "float64": 0.0}.get(rest[0], 0) if given is None else given
        return lambda: zero
    sub, length = rest
    numeric = sub[0] == _BASE and sub[1][0] in _TYPECODES
    if kind == _SEQUENCE:
        if numeric:
            code = _TYPECODES[sub[1][0]]
            return lambda: array.array(code)
        return list
    if numeric:
        dtype = _DTYPES[sub[1][0]]
        return lambda: np.zeros(length, dtype)
    one = _default(sub, nested, None)
    return lambda: [one() for _ in range(length)]


def _property(owner: str, field: str, desc: Any, nested: dict[str, type[Message]]) -> property:
    slot = "_" + field
    check = _checker(f"the {field!r} field of {owner}", desc, nested)

    def read(self: Message) -> Any:
        return getattr(self, slot)

    def write(self: Message, value: Any) -> None:
        object.__setattr__(self, slot, check(value))

    return property(read, write)


def _checker(what: str, desc: Any, nested: dict[str, type[Message]]) -> Convert:
    """Return what checks a value on assignment and gives what is stored; raises AssertionError, as rclpy does."""
    kind, rest = desc
    if kind == _NAME:
        return _of_type(what, nested[rest], describe(desc))
    if kind == _BASE:
        return _base_checker(what, *rest)
    sub, length = rest
    if sub[0] == _BASE and sub[1][0] in _TYPECODES:
        return (_fixed_checker if kind == _ARRAY else _sequence_checker)(what, sub[1][0], length)
    one = _checker(f"each element of {what}", sub, nested)

    def check(value: Any) -> Any:
        if not isinstance(value, (Sequence, Set)) or isinstance(value, (str, bytes)):
            raise AssertionError(f"{what} must be a list, got {type(value).__name__}")
        _check_length(what, kind, len(value), length)
        for element in value:
            one(element)
        return value if isinstance(value, list) else list(value)

    return check


def _check_length(what: str, kind: int, found: int, length: int) -> None:
    if kind == _ARRAY and found != length:
        raise AssertionError(f"{what} must have {length} elements, got {found}")
    if kind == _SEQUENCE and length and found > length:
        raise AssertionError(f"{what} may have at most {length} elements, got {found}")


def _of_type(what: str, kind: type, shown: str) -> Convert:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise AssertionError(f"{what} must be a {shown}, got {type(value).__name__}")
        return value

    return check


def _base_checker(what: str, name: str, bound: int) -> Convert:
    if name == "string":

        def text(value: Any) -> Any:
            if not isinstance(value, str):
                raise AssertionError(f"{what} must be a str, got {type(value).__name__}")
            if bound and len(value) > bound:
                raise AssertionError(f"{what} may have at most {bound} characters, got {len(value)}")
            return value

        return text
    if name == "bool":
        return _of_type(what, bool, "bool")
    if name == "byte":

        def byte(value: Any) -> Any:
            if not isinstance(value, (bytes, bytearray)) or len(value) != 1:
                raise AssertionError(f"{what} must be bytes of length 1, got {value!r}")
            return bytes(value)

        return byte
    if name in ("float32", "float64"):

        def real(value: Any) -> Any:
            if not isinstance(value, float):
                raise AssertionError(f"{what} must be a float, got {type(value).__name__}")
            if name == "float32" and abs(value) > _FLOAT32_MAX and value not in (float("inf"), float("-inf")):
                raise AssertionError(f"{what} must fit a float32, got {value!r}")
            return value

        return real
    low, high = _RANGES[name]

    def integer(value: Any) -> Any:
        if not isinstance(value, int) or not low <= value <= high:
            raise AssertionError(f"{what} must be an int in [{low}, {high}], got {value!r}")
        return value

    return integer


def _sequence_checker(what: str, name: str, bound: int) -> Convert:
    code = _TYPECODES[name]
    kind = numbers.Real if code in "fd" else numbers.Integral

    def check(value: Any) -> Any:
        if isinstance(value, array.array):
            if value.typecode != code:
                raise AssertionError(f"{what} must be an array.array of type {code!r}, got {value.typecode!r}")
        elif isinstance(value, (bytes, bytearray)) and code == "B":
            value = array.array(code, value)
        elif isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes)) and all(isinstance(v, kind) for v in value):
            try:
                value = array.array(code, value)
            except OverflowError as error:
                raise AssertionError(f"{what}: {error}") from None
        else:
            hint = ": tolist(), or array.array(..).frombytes()" if isinstance(value, np.ndarray) else ""
            raise AssertionError(f"{what} must be an array.array of type {code!r} or a list of numbers, got {type(value).__name__}{hint}")
        _check_length(what, _SEQUENCE, len(value), bound)
        return value

    return check


def _fixed_checker(what: str, name: str, length: int) -> Convert:
    dtype = _DTYPES[name]

    def check(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype != dtype or value.shape != (length,):
                raise AssertionError(f"{what} must be a numpy array of {dtype} and shape ({length},), got {value.dtype} and {value.shape}")
            return value
        if not isinstance(value, (Sequence, array.array)) or isinstance(value, str):
            raise AssertionError(f"{what} must be {length} numbers, got {type(value).__name__}")
        _check_length(what, _ARRAY, len(value), length)
        try:
            return np.array(value, dtype=dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise AssertionError(f"{what}: {error}") from None

    return check


def _to_wire_of(desc: Any, nested: dict[str, type[Message]]) -> Convert | None:
    """Return how a field is turned for the serialiser, or None if it is written as it is."""
    kind, rest = desc
    if kind == _NAME:
        return nested[rest]._to_wire
    if kind == _BASE:
        return (lambda value: int.from_bytes(value, "little", signed=True)) if rest[0] == "byte" else None
    base = rest[0][1][0] if rest[0][0] == _BASE else ""
    if base in _TYPECODES:
        dtype = _DTYPES[base]
        return lambda value: np.ascontiguousarray(value, dtype)
    if base == "bool":
        return lambda value: np.array(value, np.bool_)
    if base == "byte":
        return lambda value: np.frombuffer(b"".join(value), np.int8)
    one = _to_wire_of(rest[0], nested)
    return None if one is None else lambda value: [one(v) for v in value]


def _writer(fields: Any, nested: dict[str, type[Message]]) -> Convert:
    rows = [(field, "_" + field, _to_wire_of(desc, nested)) for field, desc in fields]
    if all(turn is None for _, _, turn in rows):
        return lambda value: value

    def to_wire(value: Any) -> Any:
        return _Wire(**{field: getattr(value, slot) if turn is None else turn(getattr(value, slot)) for field, slot, turn in rows})

    return to_wire


def _from_wire_of(field: str, desc: Any) -> Convert | None:
    """Return how a decoded value becomes what the message holds, with the checks of its bound; None if it is taken as it is."""
    kind, rest = desc
    if kind == _NAME:
        return None
    if kind == _BASE:
        name, bound = rest
        if name == "byte":
            return lambda value: (value & 0xFF).to_bytes(1, "little")
        return _text_reader(field, bound) if name == "string" else None
    sub, length = rest
    base = sub[1][0] if sub[0] == _BASE else ""
    inner: Convert | None = None
    if base in _TYPECODES:
        code = _TYPECODES[base]
        inner = (lambda value: array.array(code, value.tobytes())) if kind == _SEQUENCE else (lambda value: value.copy())
    elif base == "bool":
        inner = lambda value: value.view(np.uint8).astype(np.bool_).tolist()  # noqa: E731
    elif base == "byte":
        inner = lambda value: [bytes([v & 0xFF]) for v in value.tolist()]  # noqa: E731
    elif base == "string":
        one = _text_reader(field, sub[1][1])
        inner = lambda value: [one(v) for v in value]  # noqa: E731
    if kind == _SEQUENCE and length:

        def bounded(value: Any) -> Any:
            if len(value) > length:
                raise MessageError(f"{field} has {len(value)} elements, of at most {length}")
            return value if inner is None else inner(value)

        return bounded
    return inner


def _text_reader(field: str, bound: int) -> Convert:
    def check(value: str) -> str:
        if "\0" in value:
            raise MessageError(f"{field} is a text with a zero byte in it")
        if bound and len(value) > bound:
            raise MessageError(f"{field} is a text of {len(value)} characters, of at most {bound}")
        return value

    return check


def _reader(name: str, made: type[Message], fields: Any) -> Callable[..., Message]:
    """Return what makes a message of decoded values in the order of its fields."""
    rows = [("_" + field, _from_wire_of(field, desc)) for field, desc in fields]
    stamped = name in _NANOSECONDS

    def decode(*values: Any) -> Message:
        made_now = object.__new__(made)
        for (slot, turn), value in zip(rows, values, strict=True):
            object.__setattr__(made_now, slot, value if turn is None else turn(value))
        if stamped and values[1] >= 1_000_000_000:
            raise MessageError(f"a stamp with {values[1]} nanoseconds, of less than a second's")
        return made_now

    return decode
