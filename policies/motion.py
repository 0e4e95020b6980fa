"""Limits of motion and the state of a reference: what controllers, worlds, the safety filter and the drive agree on.

Everything is per joint, shape (n,), float64, in the units of the command (rad or m, and per s, s^2, s^3). Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.spec import InputError, ObservationSpec

_ARRAYS = ("low", "high", "velocity", "acceleration", "jerk", "stop_acceleration", "stop_jerk", "tracking")


@dataclass(frozen=True)
class MotionLimits:
    """What a robot's joints may do.

    Attributes:
        names: Joint names, n of them.
        low, high: Position, rad or m.
        velocity, acceleration, jerk: Largest magnitudes in normal motion.
        stop_acceleration, stop_jerk: Those of an emergency stop, declared apart; at least the normal ones.
        tracking: Largest distance between commanded and measured position before the robot is stopped.
    """

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    stop_acceleration: np.ndarray = field(default=None)  # type: ignore[arg-type]
    stop_jerk: np.ndarray = field(default=None)  # type: ignore[arg-type]
    tracking: np.ndarray = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        """Bring every limit to (n,) float64 and check it. Raises InputError, naming limit and joint."""
        object.__setattr__(self, "names", tuple(self.names))
        defaults = {"stop_acceleration": self.acceleration, "stop_jerk": self.jerk, "tracking": np.inf}
        for key in _ARRAYS:
            given = getattr(self, key)
            value = np.array(np.broadcast_to(np.asarray(defaults[key] if given is None else given, np.float64), (self.n,)))
            value.setflags(write=False)
            object.__setattr__(self, key, value)
            wrong = np.isnan(value) if key == "tracking" else ~np.isfinite(value)
            if key not in ("low", "high"):
                wrong |= ~(value > 0)
            if wrong.any():
                joint = self.names[int(np.flatnonzero(wrong)[0])]
                kind = "number" if key in ("low", "high") else "number above 0"
                raise InputError(f"motion limits: {key} of {joint!r}: expected a {kind}, found {value[wrong][0]:g}")
        if (self.low >= self.high).any():
            joint = int(np.flatnonzero(self.low >= self.high)[0])
            raise InputError(f"motion limits: low of {self.names[joint]!r} is {self.low[joint]:g}, not below high, {self.high[joint]:g}")
        for key in ("acceleration", "jerk"):
            if (getattr(self, f"stop_{key}") < getattr(self, key)).any():
                raise InputError(f"motion limits: stop_{key} is below {key}: a stop must be able to do what normal motion does")

    @property
    def n(self) -> int:
        """Number of joints."""
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping (no infinity: an unbounded tracking error is null); the inverse of :meth:`from_dict`."""
        return {"names": list(self.names), **{k: [v if np.isfinite(v) else None for v in getattr(self, k).tolist()] for k in _ARRAYS}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> MotionLimits:
        """Build limits from :meth:`to_dict`'s mapping. Raises InputError if it is not one."""
        try:
            arrays = {k: np.array([np.inf if v is None and k == "tracking" else v for v in value[k]], np.float64) for k in _ARRAYS}
            return cls(tuple(value["names"]), **arrays)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"not motion limits: {type(error).__name__}: {error}") from error


@dataclass
class Reference:
    """State of the commanded motion at the end of a tick; between ticks its jerk is constant.

    Attributes:
        position, velocity, acceleration: (n,) float64.
    """

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def at_rest(cls, position: np.ndarray) -> Reference:
        """Return the reference that stands still at ``position`` (n,)."""
        position = np.array(position, np.float64)
        return cls(position, np.zeros_like(position), np.zeros_like(position))

    def copy(self) -> Reference:
        """Return a copy that shares nothing."""
        return Reference(self.position.copy(), self.velocity.copy(), self.acceleration.copy())


def joint_columns(observation: ObservationSpec, names: tuple[str, ...]) -> tuple[str, np.ndarray]:
    """Return the observation field that holds the measured joint positions, and the columns of ``names`` in it, (n,) int64.

    Raises:
        InputError: if no field names all the joints among its elements.
    """
    for field_name, spec in observation.fields.items():
        if not spec.is_image and set(names) <= set(spec.names):
            return field_name, np.array([spec.names.index(name) for name in names], np.int64)
    lacking = ", ".join(names)
    raise InputError(f"joints {lacking}: no observation field has them all among its element names, so nobody knows where the robot stands")
