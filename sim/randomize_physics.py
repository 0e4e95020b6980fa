"""Model fields of every world, written for many worlds at once, with what follows from them kept in step.

A mass takes its inertia along, a servo's gain its bias; the engine derives the rest (bounds of geoms, inverse weights, offsets of
cameras). What physics does not allow (a mass of zero, friction below zero) is refused before it reaches the engine.
"""

from __future__ import annotations

import math

import numpy as np

from policies.spec import InputError
from sim.engine import Engine
from sim.randomize_config import Distribution, FieldDraw
from sim.randomize_fields import Selection, field_rows

#: Fields beside the selected one that are written with it.
_COMPANIONS = {
    "mass": ("body_inertia",),
    "kp": ("actuator_biasprm",),
    "kd": ("actuator_gainprm",),
}


def companions(selection: Selection) -> tuple[str, ...]:
    """Return the fields that are written beside the selected one."""
    return _COMPANIONS.get(selection.named.also, ())


class ModelFields:
    """Model fields of the worlds of an engine that differ from world to world.

    Args:
        engine: The worlds.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._live: dict[str, np.ndarray] = {}
        self._base: dict[str, np.ndarray] = {}

    def open(self, field: str) -> np.ndarray:
        """Return the live (N, rows, columns) values of a field. Raises InputError if the engine cannot vary it."""
        if field not in self._live:
            base, values = field_rows(field, self.engine.model), self.engine.expand(field)
            self._live[field], self._base[field] = values.reshape(len(values), *base.shape), base
        return self._live[field]

    def restore(self, rows: np.ndarray) -> None:
        """Give worlds ``rows`` (K,) the model's own values of all fields that were opened."""
        for field, values in self._live.items():
            values[rows] = self._base[field]

    def write(self, selection: Selection, operation: str, rows: np.ndarray, values: np.ndarray, inertia: bool = True) -> np.ndarray:
        """Apply ``values`` (K, R, C), see :func:`drawn_shape`, to worlds ``rows`` (K,); returns the new ones (K, R, C).

        Args:
            selection: What is written.
            operation: ``scale``, ``add`` or ``set``.
            rows: Worlds.
            values: Factors, summands or new values.
            inertia: Whether a mass takes its body's inertia along.
        """
        live = self.open(selection.named.field)
        at = (rows[:, None, None], selection.rows[None, :, None], selection.columns[None, None, :])
        sign = -1.0 if selection.named.also == "kd" else 1.0
        now = sign * live[at].astype(np.float64)
        new = self._new(selection.named.also, operation, now, values)
        live[at] = sign * new
        self._follow(selection, rows, now, new, inertia)
        return new

    @staticmethod
    def _new(also: str, operation: str, now: np.ndarray, values: np.ndarray) -> np.ndarray:
        if also == "rotation":
            turn = quaternion(values)
            return turn if operation == "set" else quaternion_product(now, turn)
        new = now * values if operation == "scale" else now + values if operation == "add" else np.broadcast_to(values, now.shape)
        return new / np.maximum(np.linalg.norm(new, axis=-1, keepdims=True), 1e-12) if also == "direction" else new

    def _follow(self, selection: Selection, rows: np.ndarray, now: np.ndarray, new: np.ndarray, inertia: bool) -> None:
        """Write what hangs on the values that became ``new`` (K, R, C)."""
        also, mine = selection.named.also, selection.rows
        if also == "mass" and inertia:
            self.open("body_inertia")[np.ix_(rows, mine)] *= new / now
        elif also == "kp":
            self.open("actuator_biasprm")[rows[:, None], mine[None, :], 1] = -new[:, :, 0]
        elif also == "kd":
            velocity = np.asarray(self.engine.model.actuator_biasprm)[mine, 1] == 0
            self.open("actuator_gainprm")[rows[:, None], mine[velocity][None, :], 0] = new[:, velocity, 0]


def quaternion(turn: np.ndarray) -> np.ndarray:
    """Return the unit quaternions (..., 4), real part first, of rotation vectors ``turn`` (..., 3) in rad."""
    angle = np.linalg.norm(turn, axis=-1, keepdims=True)
    share = np.where(angle > 1e-12, np.sin(angle / 2) / np.where(angle > 1e-12, angle, 1.0), 0.5)
    return np.concatenate([np.cos(angle / 2), share * turn], axis=-1)


def quaternion_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Hamilton products (..., 4): first ``b`` (..., 4), then ``a`` (..., 4)."""
    real = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(axis=-1, keepdims=True)
    return np.concatenate([real, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])], axis=-1)


def drawn_shape(selection: Selection, grain: str) -> tuple[int, int]:
    """Return how many numbers are drawn for a selection: elements (1 for a group), components (1 unless each has its own)."""
    width = 3 if selection.named.also == "rotation" else len(selection.columns)
    if grain == "component":
        return len(selection.elements), width
    return (1, 1) if grain == "group" else (len(selection.elements), 1)


def spread(selection: Selection, numbers: np.ndarray) -> np.ndarray:
    """Return ``numbers`` (K, elements, components) of :func:`drawn_shape` as one for each value, (K, R, C)."""
    width = 3 if selection.named.also == "rotation" else len(selection.columns)
    each = numbers[:, np.zeros_like(selection.element) if numbers.shape[1] == 1 else selection.element]
    return np.broadcast_to(each, (len(numbers), len(selection.rows), width))


def neutral(selection: Selection, draw: FieldDraw) -> float | np.ndarray:
    """Return the value at which a draw changes nothing: 1, 0, or the model's own, of the shape (elements, components) of :func:`drawn_shape`."""
    if draw.operation != "set" or selection.named.also == "rotation":
        return 1.0 if draw.operation == "scale" else 0.0
    count = len(selection.elements)
    means = np.stack([selection.base[selection.element == e].mean(axis=0) for e in range(count)])  # (elements, C)
    if draw.grain == "component":
        return means
    return means.mean(axis=1, keepdims=True) if draw.grain == "element" else means.mean().reshape(1, 1)


def require_possible(selection: Selection, draw: FieldDraw, source: str) -> None:
    """Refuse a draw whose range reaches where physics ends.

    Raises:
        InputError: one line: the key, the range, what is possible.
    """
    named, distribution = selection.named, draw.distribution
    if named.also == "rotation" and draw.operation == "scale":
        raise InputError(f"{source}: {selection.key!r}: an orientation cannot be scaled; add small turns (rad) or set it")
    if not draw.inertia and named.also != "mass":
        raise InputError(f"{source}: {selection.key!r}: 'inertia: false' is for masses alone; leave it out")
    if named.also == "material" and draw.operation != "set":
        raise InputError(f"{source}: {selection.key!r}: a material can only be set, to a choice of names")
    if distribution.direction is not None and drawn_shape(selection, draw.grain)[1] != 3:
        raise InputError(f"{source}: {selection.key!r}: a direction is a vector of x, y and z: name a field with three components, without 'per'")
    ends = [np.asarray(end) for end in distribution.bounds if math.isfinite(end)]
    for end in ends:
        found = {"scale": selection.base * end, "add": selection.base + end, "set": end + 0 * selection.base}[draw.operation]
        wrong = impossible(selection, found[None])
        if wrong.any():
            worst = found[np.unravel_index(int(np.argmax(wrong[0])), found.shape)]
            raise InputError(f"{source}: {selection.key!r}: {draw.operation} {_told(distribution)} gives {worst:g} {named.unit}; {possible(selection)}")


def _told(distribution: Distribution) -> str:
    low, high = distribution.bounds
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def possible(selection: Selection) -> str:
    """Return words for what the values must be."""
    named = selection.named
    low = "" if named.low == -math.inf else f"above {named.low:g}" if named.positive else f"at least {named.low:g}"
    high = "" if named.high == math.inf else f"{'below' if named.positive else 'at most'} {named.high:g}"
    return "expected " + (" and ".join(part for part in (low, high) if part) or "finite numbers")


def impossible(selection: Selection, values: np.ndarray) -> np.ndarray:
    """Return (K, R, C) bool: which of ``values`` (K, R, C) physics does not allow."""
    named = selection.named
    if named.also in ("rotation", "direction"):
        return ~np.isfinite(values)
    wrong = ~((values > named.low) & (values < named.high) if named.positive else (values >= named.low) & (values <= named.high))
    wrong |= ~np.isfinite(values)
    if named.also == "size":  # a shape has fewer sizes than the field has columns
        wrong &= (selection.base > 0)[None]
    return wrong


def _no_body(inertia: np.ndarray) -> np.ndarray:
    """Return (K, R) bool: which principal moments ``inertia`` (K, R, 3) belong to no body: one is above the sum of the others."""
    return inertia.max(axis=-1) * 2 > inertia.sum(axis=-1) * (1 + 1e-9)


def check(selection: Selection, values: np.ndarray, seeds: np.ndarray, source: str) -> None:
    """Refuse ``values`` (K, R, C) that were drawn for episodes ``seeds`` (K,) and that physics does not allow.

    Raises:
        InputError: one line: the key, the element, the value, the seed.
    """
    wrong = impossible(selection, values)
    if wrong.any():
        k, r, c = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        who = f"{selection.named.kind} {selection.elements[int(selection.element[r])]!r}"
        value = f"{values[k, r, c]:g} {selection.named.unit}"
        raise InputError(f"{source}: {selection.key!r}: drew {value} for {who} (episode of seed {int(seeds[k])}); {possible(selection)}: cut it with clip")


def require_body(selection: Selection, inertia: np.ndarray, source: str) -> None:
    """Refuse principal moments ``inertia`` (K, R, 3), kg m2, that belong to no body. Raises InputError: one line, the key, the element, the moments."""
    if _no_body(inertia).any():
        k, r = np.unravel_index(int(np.argmax(_no_body(inertia))), inertia.shape[:2])
        who = selection.elements[int(selection.element[r])]
        told = ", ".join(f"{v:g}" for v in inertia[k, r])
        raise InputError(f"{source}: {selection.key!r}: drew principal moments {told} for body {who!r}: one exceeds the sum of the others; draw per element")
