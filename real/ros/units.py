"""Units of what crosses: ROS measures in SI, a checkpoint may not. Nothing is converted unless it was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from policies.spec import SpecMismatch

#: unit -> (dimension, how much of the SI unit it is)
_UNITS: dict[str, tuple[str, float]] = {
    "rad": ("angle", 1.0),
    "deg": ("angle", math.pi / 180),
    "m": ("length", 1.0),
    "cm": ("length", 0.01),
    "mm": ("length", 0.001),
    "N": ("force", 1.0),
    "Nm": ("torque", 1.0),
    "N m": ("torque", 1.0),
    "1": ("number", 1.0),
}


def _known(unit: str) -> tuple[str, float] | None:
    """Return dimension and size of a unit, also of a rate ``U/s``; None: it is not known."""
    base, slash, per = unit.strip().partition("/")
    found = _UNITS.get(base.strip())
    if found is None or (slash and per.strip() != "s"):
        return None
    return (found[0] + slash, found[1])


def factors(what: str, wanted: str, measured: Sequence[str], names: Sequence[str], convert: bool) -> tuple[np.ndarray, str]:
    """Return what a measured number is multiplied with, (k,), and one line on it (empty: nothing is to be said).

    Args:
        what: The field, for messages.
        wanted: Unit of the field, or the units that its elements have between them, with commas.
        measured: Unit of every element as ROS has it.
        names: Of the elements.
        convert: Whether converting was asked for.

    Raises:
        SpecMismatch: if an element has a unit that is not wanted and that is not, or may not be, converted.
    """
    units = [unit.strip() for unit in wanted.split(",")]
    if units == ["1"] and any(unit != "1" for unit in measured):
        return np.ones(len(measured)), f"{what}: it does not say its unit; taken as ROS has it: {', '.join(dict.fromkeys(measured))}"
    out, said = np.ones(len(measured)), {}
    for i, unit in enumerate(measured):
        if unit in units:
            continue
        its = _known(unit)
        fitting = next((u for u in units if its is not None and (found := _known(u)) is not None and found[0] == its[0]), None)
        if fitting is None or its is None:
            raise SpecMismatch(f"{what}: {names[i]!r} is in {unit}, expected {wanted!r}: that is no unit of the same kind")
        if not convert:
            raise SpecMismatch(f"{what}: {names[i]!r} is in {unit}, expected {wanted!r}; robot.convert=true converts it")
        found = _known(fitting)
        assert found is not None
        out[i] = its[1] / found[1]
        said[unit, fitting] = None
    return out, f"{what}: converted {', '.join(f'{a} -> {b}' for a, b in said)}" if said else ""
