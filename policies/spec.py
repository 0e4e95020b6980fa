"""Specs: what every observation and action is called, measured in, bounded by and sampled at.

Datasets, checkpoints, environments, robots and the wire all carry a :class:`Spec`. Joining two that differ is refused
before anything moves. This module imports neither torch nor anything else of the house.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: What a field means. It decides how it is normalised, held and converted (see ``policies.normalize``, ``policies.rotations``).
OBSERVATION_KINDS = ("state", "image", "goal", "text")
ACTION_KINDS = (
    "position",  # absolute target: holding repeats the last command
    "velocity",  # rate: holding is zero
    "delta",  # increment on the present target: holding is zero
    "effort",  # force or torque: holding is zero
    "gripper",  # opening or effort, held at its last value
    "rotation_axis_angle",  # absolute orientation, 3 numbers, rad
    "rotation_quaternion",  # absolute orientation, (w, x, y, z)
    "rotation_6d",  # first two columns of the rotation matrix
)
_ZERO_WHEN_HELD = ("velocity", "delta", "effort")
_DTYPES = ("float32", "float64", "uint8", "int64", "bool")


class InputError(ValueError):
    """What a person gave cannot be used. The message is one clear line; the command line exits with code 2."""


class SpecMismatch(InputError):
    """Two specs that should agree do not; the message names the field, what was expected and what was found."""


def suggest(name: str, names: Iterable[str]) -> str:
    """Return ``'; did you mean NAME?'`` for the nearest of ``names``, or the list of names if none is near."""
    names = sorted(set(names))
    lowered = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.55)
    if near:
        return f"; did you mean {lowered[near[0]]!r}?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"; known: {shown}" if names else ""


@dataclass(frozen=True)
class Field:
    """One named array of an observation or an action.

    Attributes:
        shape: Shape without batch or time, e.g. ``(7,)`` for joints, ``(96, 96, 3)`` (H, W, RGB) for an image.
        dtype: numpy name; images are ``uint8`` in [0, 255], everything else ``float32`` unless there is a reason.
        unit: SI unit of every element (``rad``, ``m``, ``m/s``, ``N``), ``px`` for pixels, ``1`` for a pure number.
        low: Lower limit per element (flattened), or None when unbounded.
        high: Upper limit per element (flattened), or None when unbounded.
        kind: One of ``OBSERVATION_KINDS`` or ``ACTION_KINDS``.
        names: Name per element (flattened), e.g. joint names; may be empty.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    unit: str = "1"
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    kind: str = "state"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Normalise sequences to tuples and check that everything fits together."""
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        for side in ("low", "high"):
            value = getattr(self, side)
            if value is not None:
                given = np.asarray(value, np.float64)
                flat = given.ravel() if given.size == self.size else np.broadcast_to(given, self.shape).ravel()  # from_dict gives them flat
                object.__setattr__(self, side, tuple(float(v) for v in flat))
        object.__setattr__(self, "names", tuple(self.names))
        if self.dtype not in _DTYPES:
            raise InputError(f"field dtype {self.dtype!r} is not supported{suggest(self.dtype, _DTYPES)}")
        if self.kind not in OBSERVATION_KINDS + ACTION_KINDS:
            raise InputError(f"field kind {self.kind!r} is unknown{suggest(self.kind, OBSERVATION_KINDS + ACTION_KINDS)}")
        if self.names and len(self.names) != self.size:
            raise InputError(f"field has {self.size} elements but {len(self.names)} names")
        if self.low is not None and self.high is not None and any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise InputError("field has a lower limit above its upper limit")

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_image(self) -> bool:
        """Whether the field is an image (H, W, 3) uint8."""
        return self.kind == "image"

    @property
    def is_text(self) -> bool:
        """Whether the field is a text (L,) uint8: bytes of UTF-8, zeros behind its end."""
        return self.kind == "text"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; the inverse of :meth:`from_dict`."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "unit": self.unit,
            "low": None if self.low is None else list(self.low),
            "high": None if self.high is None else list(self.high),
            "kind": self.kind,
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Field:
        """Build a field from :meth:`to_dict`'s mapping."""
        return cls(
            shape=tuple(value["shape"]),
            dtype=value["dtype"],
            unit=value["unit"],
            low=None if value["low"] is None else tuple(value["low"]),
            high=None if value["high"] is None else tuple(value["high"]),
            kind=value["kind"],
            names=tuple(value["names"]),
        )


def _differences(expected: Field, found: Field) -> list[str]:
    out = []
    for key in ("shape", "dtype", "unit", "kind", "names", "low", "high"):
        a, b = getattr(expected, key), getattr(found, key)
        if key in ("low", "high") and a is not None and b is not None and len(a) == len(b) and np.allclose(a, b, atol=1e-6):
            continue
        if key == "names" and not (a and b):  # an unnamed side makes no claim
            continue
        if a != b:
            out.append(f"{key}: expected {a!r}, found {b!r}")
    return out


@dataclass(frozen=True)
class ObservationSpec:
    """Every field that is observed, by name, and the rate at which they are sampled.

    Names follow LeRobot: ``observation.state``, ``observation.environment_state``, ``observation.images.CAMERA``.
    """

    fields: Mapping[str, Field]
    rate_hz: float = 10.0

    @property
    def image_names(self) -> tuple[str, ...]:
        """Names of the image fields, in order."""
        return tuple(n for n, f in self.fields.items() if f.is_image)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the fields that are neither images nor texts, in order."""
        return tuple(n for n, f in self.fields.items() if not (f.is_image or f.is_text))

    @property
    def text_names(self) -> tuple[str, ...]:
        """Names of the text fields, in order."""
        return tuple(n for n, f in self.fields.items() if f.is_text)

    def subset(self, names: Sequence[str]) -> ObservationSpec:
        """Return the spec of ``names`` alone. Raises InputError for an unknown name."""
        for name in names:
            if name not in self.fields:
                raise InputError(f"observation field {name!r} does not exist{suggest(name, self.fields)}")
        return ObservationSpec({n: self.fields[n] for n in names}, self.rate_hz)

    def validate(self, observation: Mapping[str, Any], lead: tuple[int, ...] = ()) -> None:
        """Check that arrays or tensors match this spec. ``lead`` are the leading dims, e.g. ``(B, To)``.

        Raises:
            SpecMismatch: naming the field, what was expected and what was found.
        """
        for name, spec in self.fields.items():
            if name not in observation:
                raise SpecMismatch(f"observation lacks field {name!r}: expected {spec.dtype}{list(spec.shape)}, found {sorted(observation)}")
            array = observation[name]
            if tuple(array.shape) != lead + spec.shape:
                raise SpecMismatch(f"observation field {name!r}: expected shape {lead + spec.shape}, found {tuple(array.shape)}")
            if str(array.dtype).removeprefix("torch.") != spec.dtype:
                raise SpecMismatch(f"observation field {name!r}: expected dtype {spec.dtype}, found {array.dtype}")


@dataclass(frozen=True)
class ActionSpec:
    """The command: fields concatenated in order into one vector of ``dim`` numbers, in robot units, at ``rate_hz``."""

    fields: Mapping[str, Field]
    rate_hz: float = 10.0

    @property
    def dim(self) -> int:
        """Length Da of the action vector."""
        return sum(f.size for f in self.fields.values())

    @property
    def slices(self) -> dict[str, slice]:
        """Where each field lies in the action vector."""
        out, start = {}, 0
        for name, f in self.fields.items():
            out[name] = slice(start, start + f.size)
            start += f.size
        return out

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each of the Da dimensions."""
        return tuple(n for key, f in self.fields.items() for n in (f.names or tuple(f"{key}.{i}" for i in range(f.size))))

    def _limit(self, side: str, default: float) -> np.ndarray:
        parts = [np.full(f.size, default) if getattr(f, side) is None else np.asarray(getattr(f, side)) for f in self.fields.values()]
        return np.concatenate(parts).astype(np.float32)

    @property
    def low(self) -> np.ndarray:
        """Lower limits (Da,) float32, -inf where unbounded."""
        return self._limit("low", -np.inf)

    @property
    def high(self) -> np.ndarray:
        """Upper limits (Da,) float32, inf where unbounded."""
        return self._limit("high", np.inf)

    @property
    def zero_when_held(self) -> np.ndarray:
        """(Da,) bool: dimensions whose hold command is zero (rates and increments); the others repeat."""
        return np.concatenate([np.full(f.size, f.kind in _ZERO_WHEN_HELD) for f in self.fields.values()])

    def clip(self, action: np.ndarray) -> np.ndarray:
        """Return ``action`` (..., Da) clamped to the limits, as float32."""
        return np.clip(np.asarray(action, np.float32), self.low, self.high)

    def hold(self, last: np.ndarray) -> np.ndarray:
        """Return the command (..., Da) that keeps the robot where it is, given the last command sent."""
        return np.where(self.zero_when_held, np.float32(0), np.asarray(last, np.float32))


@dataclass(frozen=True)
class Spec:
    """Observation and action together: the contract that two parts of the system join on."""

    observation: ObservationSpec
    action: ActionSpec
    meta: Mapping[str, str] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; the inverse of :meth:`from_dict`."""
        return {
            "observation": {"rate_hz": float(self.observation.rate_hz), "fields": {n: f.to_dict() for n, f in self.observation.fields.items()}},
            "action": {"rate_hz": float(self.action.rate_hz), "fields": {n: f.to_dict() for n, f in self.action.fields.items()}},
            "meta": dict(self.meta),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Spec:
        """Build a spec from :meth:`to_dict`'s mapping.

        Raises:
            InputError: if the mapping is not one that :meth:`to_dict` makes.
        """
        try:
            sides = [{n: Field.from_dict(f) for n, f in value[side]["fields"].items()} for side in ("observation", "action")]
            rates = [float(value[side]["rate_hz"]) for side in ("observation", "action")]
            return cls(ObservationSpec(sides[0], rates[0]), ActionSpec(sides[1], rates[1]), dict(value.get("meta", {})))
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"not a spec: {type(error).__name__}: {error}") from error

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify everything but ``meta``."""
        body = self.to_dict()
        del body["meta"]
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]

    def subset(self, names: Sequence[str]) -> Spec:
        """Return this spec with only the observation fields ``names``."""
        return Spec(self.observation.subset(names), self.action, self.meta)

    def require(self, found: Spec, expected_by: str, found_in: str) -> None:
        """Refuse ``found`` unless it offers every observation field of this spec and exactly its action.

        Extra observation fields in ``found`` are allowed: whoever expects less reads less.

        Raises:
            SpecMismatch: one line: the field, who expected what, what was found where, and how to map it.
        """
        remedy = "; map it with a field of that name and form"
        for name, spec in self.observation.fields.items():
            if name not in found.observation.fields:
                hint = suggest(name, found.observation.fields)
                raise SpecMismatch(f"observation field {name!r}: {expected_by} expects {spec.dtype}{list(spec.shape)}, {found_in} has no such field{hint}")
            wrong = _differences(spec, found.observation.fields[name])
            if wrong:
                raise SpecMismatch(f"observation field {name!r} of {found_in} does not fit {expected_by}: {'; '.join(wrong)}{remedy}")
        if list(self.action.fields) != list(found.action.fields):
            raise SpecMismatch(f"action fields: {expected_by} expects {list(self.action.fields)}, {found_in} has {list(found.action.fields)} (order matters)")
        for name, spec in self.action.fields.items():
            wrong = _differences(spec, found.action.fields[name])
            if wrong:
                raise SpecMismatch(f"action field {name!r} of {found_in} does not fit {expected_by}: {'; '.join(wrong)}{remedy}")
        if abs(self.action.rate_hz - found.action.rate_hz) > 1e-6 * self.action.rate_hz:
            rates = f"{expected_by} expects {self.action.rate_hz:g} Hz, {found_in} has {found.action.rate_hz:g} Hz"
            raise SpecMismatch(f"action rate: {rates}; set rate_hz to the same number")
