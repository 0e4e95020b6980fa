"""What is fitted: model fields, the delay of actions and the latency of readings, each one number in a form that suits the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.randomize_fields import Selection, select, split_key

DELAY, LATENCY = "delay", "latency"
_FACTOR = 1e3  # a positive field is searched between this many times less and more than where it begins


@dataclass(frozen=True)
class Parameter:
    """One number that is fitted, as z: a field that must be positive is start * exp(z), another start + z * scale; z of delays is seconds.

    Attributes:
        key: As it was asked for.
        selection: Its field; None for delay and latency.
        start: (R, C) values at z = 0 for a field; a delay's first guess (1, 1), s.
        log: Whether z is a logarithm.
        scale: Of z where it is not.
        low: Least z.
        high: Greatest z.
        unit: Of :meth:`value`.
        given: Whether the start was given, not the model's: all values then begin, and stay, alike.
    """

    key: str
    selection: Selection | None
    start: np.ndarray
    log: bool
    scale: float
    low: float
    high: float
    unit: str
    given: bool = False

    @property
    def first(self) -> float:
        """Return z at the start."""
        return float(self.start[0, 0]) if self.selection is None else 0.0

    @property
    def is_factor(self) -> bool:
        """Whether it is a factor (a summand) common to several values of the model, not one value."""
        return self.start.size > 1 and not self.given

    def values(self, z: np.ndarray) -> np.ndarray:
        """Return the field's values (K, R, C) for ``z`` (K,)."""
        if self.log:
            return self.start[None] * np.exp(z)[:, None, None]
        return self.start[None] + self.scale * z[:, None, None]

    def value(self, z: float) -> float:
        """Return what is reported for z: the field's value, seconds, or the factor (summand) of several values."""
        if self.selection is None:
            return z
        if self.is_factor:
            return math.exp(z) if self.log else self.scale * z
        return float(self.values(np.array([z]))[0, 0, 0])

    def deviation(self, z: float, of_z: float) -> float:
        """Return the standard error of :meth:`value` for that of z."""
        if self.selection is None:
            return of_z
        return abs(self.value(z)) * of_z if self.log else self.scale * of_z


def parameter(text: str, model: Any, most: float, dt: float) -> Parameter:
    """Read ``mass:pole``, ``mass:pole=0.15``, ``delay``, ``latency=0.02``; what is behind the sign is where the search begins.

    Args:
        text: As above.
        model: ``mujoco.MjModel``.
        most: Longest delay and latency that are searched, s.
        dt: Control step, s.

    Raises:
        InputError: one line: an unknown field or element, or a start that is missing or impossible.
    """
    key, sign, given = (part.strip() for part in text.partition("="))
    try:
        start = float(given) if sign else None
    except ValueError:
        raise InputError(f"--fit {text!r}: expected a number behind the sign, found {given!r}") from None
    if start is not None and not math.isfinite(start):
        raise InputError(f"--fit {text!r}: expected a finite number behind the sign, found {given}")
    if key in (DELAY, LATENCY):
        found = min(dt, most) if start is None else start
        if not 0 <= found <= most:
            raise InputError(f"--fit {text!r}: expected seconds from 0 to {most:g}, found {found:g}")
        return Parameter(key, None, np.full((1, 1), found), False, 1.0, 0.0, most, "s")
    selection = select(key, model, "--fit")
    if selection.named.also in ("rotation", "direction", "material"):
        raise InputError(f"--fit {text!r}: {split_key(key)[0]} is not one number; positions, masses, frictions and the like can be fitted")
    base = selection.base if start is None else np.full(selection.base.shape, start)
    strengths = selection.named.kind == "actuator" and base.size > 1 and bool((base > 0).all())  # of several motors: one factor, no summand
    positive = selection.named.low == 0.0 or strengths
    if positive and (base <= 0).any():
        where = "the model has 0 there, so say where to begin" if start is None else "expected a start above 0"
        raise InputError(f"--fit {text!r}: {where}, e.g. --fit {key}=0.1")
    scale = float(np.abs(base).mean()) or 1.0
    reach = math.log(_FACTOR) if positive else _FACTOR
    unit = "x" if base.size > 1 and positive and start is None else selection.named.unit
    return Parameter(key, selection, base.astype(np.float64), positive, scale, -reach, reach, unit, start is not None)


def parameters(texts: Sequence[str], model: Any, most: float, dt: float) -> list[Parameter]:
    """Read all of them, see :func:`parameter`. Raises InputError also for none, or for one that is given twice."""
    if not texts:
        raise InputError("nothing to fit: name model fields or delays, e.g. --fit mass:NAME --fit damping:NAME --fit delay")
    out = [parameter(text, model, most, dt) for text in texts]
    keys = [one.key for one in out]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise InputError(f"--fit {twice[0]!r} is given twice")
    return out
