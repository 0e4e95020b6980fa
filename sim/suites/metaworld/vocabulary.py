"""The words in which Meta-World's rewards are said, over all N worlds at once and to the last bit as the suite says them.

Yu et al. 2019, "Meta-World"; the tolerances are those of the DeepMind control suite (Tassa et al. 2018). Three things make array
code equal to the suite's scalars, and are kept here and nowhere else: lengths are dot products of whole rows by the same routine
(:func:`length`), squares are powers by the C library (:func:`square`), and where the action, float32, has entered a formula the
suite goes on in float32 (:class:`Mixed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

#: Value of a tolerance at the distance ``margin`` from its bounds.
_AT_MARGIN = 0.1
_LONG_TAIL = np.sqrt(1 / _AT_MARGIN - 1)
_GAUSSIAN = np.sqrt(-2 * np.log(_AT_MARGIN))


def length(vectors: np.ndarray) -> np.ndarray:
    """Return the Euclidean lengths (N,) of ``vectors`` (N, k), or the absolute values of (N,) numbers."""
    rows = np.ascontiguousarray(vectors if vectors.ndim > 1 else vectors[:, None])
    return np.sqrt(np.vecdot(rows, rows))


def square(x: np.ndarray) -> np.ndarray:
    """Return ``x`` squared as a scalar ``x ** 2`` is: the C library's power, which may differ from ``x * x`` in the last bit."""
    return np.float_power(x, 2.0)


class Mixed:
    """(N,) numbers that the suite computes in float32 in some rows, in float64 in the others.

    A float32 that meets a Python float stays float32 (NEP 50); the gripper's effort is a float32, everything else in a reward
    is a Python float. Arithmetic with (N,) float64 arrays and numbers keeps both ways side by side, :func:`plain` picks.

    Args:
        double: (N,) float64, what counts where ``narrow`` is false.
        single: (N,) float32, what counts where it is true.
        narrow: (N,) bool.
    """

    __slots__ = ("double", "narrow", "single")
    __array_ufunc__ = None  # arrays leave arithmetic with these to them

    def __init__(self, double: np.ndarray, single: np.ndarray, narrow: np.ndarray) -> None:
        self.double, self.single, self.narrow = double, single, narrow

    def _with(self, other: Any, operation: Callable[[Any, Any], np.ndarray], swapped: bool = False) -> Mixed:
        double, single, narrow = _ways(other, self.narrow)
        if swapped:
            return Mixed(operation(double, self.double), operation(single, self.single), self.narrow | narrow)
        return Mixed(operation(self.double, double), operation(self.single, single), self.narrow | narrow)

    def __add__(self, other: Any) -> Mixed:
        return self._with(other, np.add)

    def __sub__(self, other: Any) -> Mixed:
        return self._with(other, np.subtract)

    def __mul__(self, other: Any) -> Mixed:
        return self._with(other, np.multiply)

    def __truediv__(self, other: Any) -> Mixed:
        return self._with(other, np.divide)

    def __radd__(self, other: Any) -> Mixed:
        return self._with(other, np.add, swapped=True)

    def __rsub__(self, other: Any) -> Mixed:
        return self._with(other, np.subtract, swapped=True)

    def __rmul__(self, other: Any) -> Mixed:
        return self._with(other, np.multiply, swapped=True)


#: (N,) float64, or the same with rows in float32.
Numbers = np.ndarray | Mixed
A = TypeVar("A", bound=Numbers)
B = TypeVar("B", bound=Numbers)


def _ways(value: Any, like: np.ndarray) -> tuple[Any, Any, Any]:
    """Return ``value`` as (float64, float32, which rows are float32), for arithmetic with numbers narrow in rows ``like``."""
    if isinstance(value, Mixed):
        same = value.narrow is like
        single = value.single if same else np.where(value.narrow, value.single, value.double.astype(np.float32))
        return value.double, single, value.narrow
    narrow = np.zeros_like(like)
    return (value, value.astype(np.float32), narrow) if isinstance(value, np.ndarray) else (value, np.float32(value), narrow)


def plain(numbers: Numbers) -> np.ndarray:
    """Return (N,) float64: each row as it was computed."""
    return np.where(numbers.narrow, numbers.single, numbers.double) if isinstance(numbers, Mixed) else numbers


def choose(condition: np.ndarray, then: Numbers | float, otherwise: Numbers | float) -> Numbers:
    """Return ``then`` in the rows where ``condition`` (N,) bool is true, ``otherwise`` in the others, each in its own precision."""
    if not isinstance(then, Mixed) and not isinstance(otherwise, Mixed):
        return np.where(condition, then, otherwise)
    never = np.zeros_like(condition)
    (a, a32, narrow_a), (b, b32, narrow_b) = _ways(then, never), _ways(otherwise, never)
    return Mixed(np.where(condition, a, b), np.where(condition, a32, b32), np.where(condition, narrow_a, narrow_b))


def _hamacher(a: Any, b: Any) -> np.ndarray:
    product = a * b
    below = a + b - product
    return np.where(below > 0, product / below, product.dtype.type(0))


def hamacher_product(a: A, b: B) -> A | B:
    """Return a b / (a + b - a b), a conjunction of two grades in [0, 1] (Hamacher 1978), and 0 where both are 0."""
    if not isinstance(a, Mixed) and not isinstance(b, Mixed):
        return _hamacher(a, b)
    like = a.narrow if isinstance(a, Mixed) else b.narrow  # type: ignore[union-attr]
    (left, left32, narrow_a), (right, right32, narrow_b) = _ways(a, like), _ways(b, like)
    return Mixed(_hamacher(left, right), _hamacher(left32, right32), narrow_a | narrow_b)  # type: ignore[return-value]


def long_tail(d: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + (3 d)^2) of ``d`` (N,): 1 at 0, 0.1 at 1."""
    return 1 / (square(d * _LONG_TAIL) + 1)


def gaussian(d: np.ndarray) -> np.ndarray:
    """Return a bell curve of ``d`` (N,) that is 1 at 0 and 0.1 at 1."""
    return np.exp(-0.5 * square(d * _GAUSSIAN))


def tolerance(
    x: np.ndarray,
    low: float,
    high: float,
    margin: np.ndarray | float,
    tail: Callable[[np.ndarray], np.ndarray] = long_tail,
) -> np.ndarray:
    """Return how well ``x`` (N,) keeps to [low, high]: 1 inside, falling off outside to 0.1 at the distance ``margin``.

    A margin of 0 gives 0 outside. (The suite raises an error where a margin is negative; here it counts as its absolute value.)
    """
    away = np.where(x < low, low - x, x - high) / margin
    return np.where((low <= x) & (x <= high), 1.0, tail(away))


def within_box(point: np.ndarray, zero: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return the product of how far ``point`` (N, 3) is on the way from corner ``zero`` to ``one``; 1 outside of the box."""
    inside = ((np.minimum(zero, one) <= point) & (point <= np.maximum(zero, one))).all(axis=1)
    part = (point - zero) / (one - zero)
    return np.where(inside, part[:, 0] * part[:, 1] * part[:, 2], 1.0)


def upright(quaternion: np.ndarray, ideal: np.ndarray, width: float) -> np.ndarray:
    """Return 1 - |q - ideal| / width, at least 0, of quaternions (N, 4)."""
    return np.maximum(1.0 - length(quaternion - ideal) / width, 0.0)


def funnel(radius: np.ndarray, mouth: np.ndarray | float, slope: float, height: float) -> np.ndarray:
    """Return the height (N,) in m that a logarithmic funnel asks for at ``radius`` (N,) from its axis; 0 within ``mouth``."""
    return np.where(radius > mouth, slope * np.log(radius - mouth) + height, 0.0)


def snapped(x: np.ndarray, y: np.ndarray, reach: float) -> np.ndarray:
    """Return ``x`` (N, 3) with its first coordinate replaced by that of ``y`` (N, 3) where the two differ by less than ``reach``."""
    out = x.copy()
    out[:, 0] = np.where(np.abs(x[:, 0] - y[:, 0]) < reach, y[:, 0], x[:, 0])
    return out


def quaternions(matrices: np.ndarray) -> np.ndarray:
    """Return SciPy's quaternions (N, 4), x y z w, of rotation matrices (N, 9), the order that the suite observes some objects in.

    Four times a quaternion's outer product with itself is linear in its matrix; of its rows, each a multiple of the quaternion,
    the one with the largest diagonal is normalised (Shepperd 1978). The order of sums is SciPy's, whose call costs more than a reward.
    """
    (xx, xy, xz, yx, yy, yz, zx, zy, zz), rows = matrices.T, np.arange(len(matrices))
    trace = xx + yy + zz
    outer = np.empty((len(matrices), 4, 4))
    outer[:, 0, 0], outer[:, 1, 1], outer[:, 2, 2], outer[:, 3, 3] = 1 - trace + 2 * xx, 1 - trace + 2 * yy, 1 - trace + 2 * zz, 1 + trace
    for (i, j), entry in {(0, 1): yx + xy, (0, 2): zx + xz, (1, 2): zy + yz, (0, 3): zy - yz, (1, 3): xz - zx, (2, 3): yx - xy}.items():
        outer[:, i, j] = outer[:, j, i] = entry
    chosen = outer[rows, np.argmax([xx, yy, zz, trace], axis=0)]
    x, y, z, w = (chosen * chosen).T
    return chosen / np.sqrt(x + y + z + w)[:, None]


# The gripper around an object ----------------------------------------------------------------------------------------


class Gripper(NamedTuple):
    """Where the gripper is, in m: live arrays (N, 3).

    Attributes:
        tcp: Between the finger tips.
        init_tcp: The same when the episode began.
        left_pad: Pad of the left finger.
        right_pad: Pad of the right finger.
    """

    tcp: np.ndarray
    init_tcp: np.ndarray
    left_pad: np.ndarray
    right_pad: np.ndarray


def closing(action: np.ndarray, full: float = 1.0, where: np.ndarray | None = None) -> Numbers:
    """Return how much of the effort ``full`` to close the gripper ``action`` (N, 4) float32 asks for, in [0, 1]; 0 outside ``where``."""
    effort = action[:, 3]
    single = np.minimum(np.maximum(effort, np.float32(0)), np.float32(full)) / np.float32(full)
    narrow = (effort > 0) & (effort <= np.float32(full))
    if where is not None:
        single, narrow = np.where(where, single, np.float32(0)), narrow & where
    return Mixed(single.astype(np.float64), single, narrow) if narrow.any() else single.astype(np.float64)


def _grasp(caged: np.ndarray, action: np.ndarray, effort: float) -> Numbers:
    return hamacher_product(caged, closing(action, effort, where=caged > 0.97))


def caging(
    gripper: Gripper,
    action: np.ndarray,
    obj: np.ndarray,
    obj_init: np.ndarray,
    radius: float,
    pad: float,
    xz: float,
    effort: float = 1.0,
    reach: float | None = None,
    dense: bool = True,
) -> Numbers:
    """Return the grade (N,) of holding an object between the pads: beside them in y, at the finger tips in x and z, closed.

    Args:
        gripper: Where it is.
        action: (N, 4) float32.
        obj: (N, 3) m, the object.
        obj_init: (N, 3) m, where it was when the episode began.
        radius: Of the object, m: a pad nearer than that is too near.
        pad: Farthest distance of a pad in y, m.
        xz: Farthest distance of the finger tips in x and z, m.
        effort: Of the gripper that counts as closed.
        reach: None: the mean with being caged ("high density"); else with being within this distance of the object, m ("medium").
        dense: Whether there is a mean at all; else the grade of holding it alone.
    """
    sides = []
    for side in (gripper.left_pad, gripper.right_pad):
        margin = np.abs(np.abs(side[:, 1] - obj_init[:, 1]) - pad)
        sides.append(tolerance(np.abs(side[:, 1] - obj[:, 1]), radius, pad, margin))
    beside = _hamacher(*sides)
    flat = slice(0, None, 2)  # x and z
    margin = length(obj_init[:, flat] - gripper.init_tcp[:, flat]) - xz
    caged = _hamacher(beside, tolerance(length(gripper.tcp[:, flat] - obj[:, flat]), 0, xz, margin))
    grasped = _grasp(caged, action, effort)
    if not dense:
        return grasped
    if reach is None:
        return (grasped + caged) / 2
    reached = tolerance(length(obj - gripper.tcp), 0, reach, np.abs(length(obj_init - gripper.init_tcp) - reach))
    return (grasped + reached) / 2


def _between(gripper: Gripper, obj: np.ndarray, radius: float, wide: float) -> np.ndarray:
    """Return the grade (N,) of each pad being on its own side of the object, ``radius`` to ``wide`` m away in y.

    The margins are of the pads as they are now: what the suite keeps as their first position is a view that moves with them.
    """
    y, left, right = obj[:, 1], gripper.left_pad[:, 1], gripper.right_pad[:, 1]
    by_left = tolerance(left - y, radius, wide, np.abs(np.abs(y - left) - 0.05))
    by_right = tolerance(y - right, radius, wide, np.abs(np.abs(y - right) - 0.05))
    return _hamacher(by_left, by_right)


def _at_tips(gripper: Gripper, obj: np.ndarray, obj_init: np.ndarray, near: float) -> np.ndarray:
    """Return the grade (N,) of the object being within ``near`` m of the finger tips in x and z."""
    flat = np.array([1.0, 0.0, 1.0])
    margin = length((obj_init - gripper.init_tcp) * flat) - near
    return tolerance(length((gripper.tcp - obj) * flat), 0, near, margin)


def straddling(gripper: Gripper, action: np.ndarray, obj: np.ndarray, obj_init: np.ndarray) -> Numbers:
    """Return the grade (N,) of holding a puck: like :func:`caging`, each pad on its own side (tasks that pick and place)."""
    caged = _hamacher(_between(gripper, obj, 0.015, 0.05), _at_tips(gripper, obj, obj_init, 0.005))
    return (_grasp(caged, action, 1.0) + caged) / 2


def pinching(gripper: Gripper, obj: np.ndarray, obj_init: np.ndarray, radius: float, slack: float, near: float) -> np.ndarray:
    """Return the grade (N,) of pads that touch an object of ``radius`` m to within ``slack`` m, whatever the effort (tasks that sweep)."""
    caged = _hamacher(_between(gripper, obj, radius, 0.05), _at_tips(gripper, obj, obj_init, near))
    gripped = _between(gripper, obj, radius, radius + slack)
    return (caged + np.where(caged > 0.95, gripped, 0.0)) / 2
