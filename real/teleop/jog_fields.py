"""Jogging a robot whose actions are no joint positions with limits of motion: field by field, as the kinds of the action say.

Velocities, increments and efforts follow the deflection and are zero without one; positions and orientations are carried on from where the robot
stands; a gripper goes to an end or along its range. Where nothing else is configured, elements are moved by the axis that their
names end in; a robot in the plane is moved as its picture shows it: left and right along x, forwards up.
"""

from __future__ import annotations

import numpy as np

from policies.cartesian import rotation_matrix
from policies.differential_ik import rotation_vector
from policies.spec import Field, InputError, ObservationSpec, Spec
from real.robot import Observation, RobotInfo
from real.teleop.jog import JogConfig, axis_of, shaped
from real.teleop.source import Input

_LINEAR, _ANGULAR = {"x": 0, "y": 1, "z": 2}, {"x": 3, "y": 4, "z": 5, "roll": 3, "pitch": 4, "yaw": 5}
_TURNS = ("angular", "rate", "rot", "omega", "twist.w")  # in the name of an element: it is about the axis
_ROTATIONS = ("rotation_axis_angle", "rotation_quaternion", "rotation_6d")


class FieldJog:
    """See :class:`real.teleop.jog.Jog`.

    Args:
        spec: The robot's.
        info: The robot.
        config: Speeds, axes.

    Raises:
        InputError: if ``config.axes`` does not fit the action, or a position has no limits and its speed is not known.
    """

    def __init__(self, spec: Spec, info: RobotInfo, config: JogConfig = JogConfig()) -> None:
        action = spec.action
        self.config, self._spec, self._action = config, spec, action
        self._tick, self._low, self._high = 1.0 / action.rate_hz, action.low.astype(np.float64), action.high.astype(np.float64)
        self._axis, self._sign = _axes(spec, config)
        self._full = self._full_speeds(info)
        self._measured = measured_elements(spec)
        self._home = np.array(info.home, np.float64) if len(info.home) == action.dim else None
        self.frame, self.limited, self.homing = "base", False, False
        self._now = np.zeros(action.dim)
        self._gripping = np.full(action.dim, np.nan)

    def start(self, reading: Observation, last: np.ndarray | None) -> bool:
        """See :class:`real.teleop.jog.Jog`; an absolute element (Da,) begins where it is measured, else where it was told to be."""
        now, known = np.zeros(self._action.dim), self._action.zero_when_held.copy()
        for name, part in self._action.slices.items():
            field = self._action.fields[name]
            for i in range(part.start, part.stop):
                seen = self._measured.get(i)
                if seen is not None and field.kind != "gripper":
                    now[i], known[i] = float(np.ravel(reading.fields[seen[0]])[seen[1]]), True
            if not known[part].all() and last is not None:
                now[part], known[part] = last[part], True
            elif not known[part].all() and field.kind == "gripper":
                now[part], known[part] = (self._high if self.config.opens == "high" else self._low)[part], True
        if not (known.all() and np.isfinite(now).all()):
            return False
        self._now = np.clip(now, self._low, self._high)
        return True

    def step(self, value: Input, reading: Observation) -> np.ndarray:
        """See :class:`real.teleop.jog.Jog`; returns (Da,)."""
        twist = shaped(np.asarray(value.twist, np.float64), self.config.dead_zone, self.config.expo) * (value.dial if value.clutch else 0.0)
        moved = self._sign * twist[self._axis]
        if value.clutch and value.joints is not None and len(value.joints) == len(moved):
            moved = shaped(np.asarray(value.joints, np.float64), self.config.dead_zone, self.config.expo) * value.dial
        self.homing &= not moved.any()
        before = self._now.copy()
        for name, part in self._action.slices.items():
            self._now[part] = self._next(self._action.fields[name], part, moved, value)
        if value.clutch and value.positions is not None and len(value.positions) == len(before):
            absolute = ~self._action.zero_when_held
            self._now[absolute] = before[absolute] + np.clip(value.positions - before, -self._full, self._full)[absolute]
        if self.homing and self._home is not None:
            most = self.config.home_speed * self._full
            self._now = np.where(self._action.zero_when_held, 0.0, before + np.clip(self._home - before, -most, most))
            self.homing = bool((np.abs(self._home - self._now) > 1e-6)[~self._action.zero_when_held].any())
        inside = np.clip(self._now, self._low, self._high)
        self.limited = bool((np.abs(inside - self._now) > 1e-9).any())
        self._now = inside
        return inside.astype(np.float32)

    def hold(self, last: np.ndarray) -> np.ndarray:
        """See :class:`real.teleop.jog.Jog`; (Da,)."""
        return self._action.hold(last)

    def grip(self) -> None:
        """See :class:`real.teleop.jog.Jog`."""
        for name, part in self._action.slices.items():
            if self._action.fields[name].kind == "gripper":
                for i in range(part.start, part.stop):
                    now = self._now[i] if np.isnan(self._gripping[i]) else self._gripping[i]
                    self._gripping[i] = self._low[i] if now > 0.5 * (self._low[i] + self._high[i]) else self._high[i]

    @property
    def busy(self) -> bool:
        """See :class:`real.teleop.jog.Jog`."""
        return self.homing or not np.isnan(self._gripping).all()

    def rest(self) -> None:
        """See :class:`real.teleop.jog.Jog`."""
        self.homing = False
        self._gripping[:] = np.nan

    def go_home(self) -> bool:
        """See :class:`real.teleop.jog.Jog`."""
        self.homing = self._home is not None and not self._action.zero_when_held.all()
        return self.homing

    def turn_frame(self) -> str:
        """See :class:`real.teleop.jog.Jog`; there is but one."""
        return self.frame

    def _next(self, field: Field, part: slice, moved: np.ndarray, value: Input) -> np.ndarray:
        """Return the elements of ``field`` in this step, where deflections ``moved`` (Da,) say so."""
        now, full, by = self._now[part], self._full[part], moved[part]
        if field.kind in ("velocity", "delta", "effort"):
            return by * full
        if field.kind == "gripper":
            return np.array([self._gripped(i, value) for i in range(part.start, part.stop)])
        if field.kind in _ROTATIONS:
            turn = self._turn(value)
            return now if turn is None else rotation_numbers(field.kind, turn @ rotation_matrix(field.kind, now))
        return now + by * full

    def _turn(self, value: Input) -> np.ndarray | None:
        """Return the rotation (3, 3) of this step; None: it stays."""
        if not value.clutch:
            return None
        twist = shaped(np.asarray(value.twist, np.float64), self.config.dead_zone, self.config.expo) * value.dial
        return rotation_matrix("rotation_axis_angle", twist[3:] * self.config.angular * self._tick) if twist[3:].any() else None

    def _gripped(self, i: int, value: Input) -> float:
        span, opens = self._high[i] - self._low[i], 1.0 if self.config.opens == "high" else -1.0
        most = self.config.gripper * span * self._tick
        if value.clutch and value.opening is not None:
            share = value.opening if opens > 0 else 1 - value.opening
            self._gripping[i] = self._low[i] + share * span
        elif value.clutch and value.grip:
            self._gripping[i] = np.nan
            return float(self._now[i] + opens * value.grip * most)
        if np.isnan(self._gripping[i]):
            return float(self._now[i])
        left = self._gripping[i] - self._now[i]
        if abs(left) <= most:
            self._gripping[i] = np.nan
        return float(self._now[i] + np.clip(left, -most, most))

    def _full_speeds(self, info: RobotInfo) -> np.ndarray:
        """Return what a full deflection adds or says in a policy step, (Da,) in the units of the action."""
        out = np.zeros(self._action.dim)
        for name, part in self._action.slices.items():
            field, low, high = self._action.fields[name], self._low[part], self._high[part]
            bounded = np.isfinite(low) & np.isfinite(high)
            if field.kind in ("velocity", "delta", "effort"):
                turning = self._axis[part] >= 3
                step = self._tick if field.kind == "delta" else 1.0
                own = np.where(turning, self.config.angular, self.config.linear) * step
                least, most = np.minimum(np.abs(low), np.abs(high)), np.maximum(np.abs(low), np.abs(high))
                out[part] = np.where(bounded, self.config.field * np.where(least > 0, least, most), own)  # 0: it goes one way alone, clipped there
            elif field.kind == "position":
                share = 0.3 * self.config.field  # of the range in a second
                out[part] = np.where(bounded, share * (high - low), self.config.linear) * self._tick
                if not bounded.all() and field.unit not in ("m", "1"):
                    raise InputError(f"robot {info.name!r}: action field {name!r} in {field.unit} has no limits, so nobody knows how fast it may be jogged")
        return out


def measured_elements(spec: Spec) -> dict[int, tuple[str, int]]:
    """Return element of the action -> (observation field, element of it) that measures it: of the same name and unit, perhaps of a part (``agent.x``)."""
    out: dict[int, tuple[str, int]] = {}
    names = spec.action.names
    units = [f.unit for f in spec.action.fields.values() for _ in range(f.size)]
    for i, (name, unit) in enumerate(zip(names, units, strict=True)):
        found = _element(spec.observation, name, unit)
        if found is not None:
            out[i] = found
    return out


def _element(observation: ObservationSpec, name: str, unit: str) -> tuple[str, int] | None:
    for exact in (True, False):
        for field_name, field in observation.fields.items():
            if field.is_image or field.kind == "goal" or unit not in (u.strip() for u in field.unit.split(",")):
                continue
            for k, other in enumerate(field.names):
                if other == name or (not exact and other.endswith(f".{name}")):
                    return field_name, k
    return None


def rotation_numbers(kind: str, rotation: np.ndarray) -> np.ndarray:
    """Return the numbers (3,), (4,) or (6,) of a rotation (3, 3); the inverse of ``policies.cartesian.rotation_matrix``."""
    if kind == "rotation_6d":
        return np.concatenate([rotation[:, 0], rotation[:, 1]])
    vector = rotation_vector(rotation)
    if kind == "rotation_axis_angle":
        return vector
    angle = float(np.linalg.norm(vector))
    return np.concatenate([[np.cos(angle / 2)], 0.5 * np.sinc(angle / (2 * np.pi)) * vector])


def _axes(spec: Spec, config: JogConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return which element of the twist moves each element of the action (Da,), and its sign (Da,), 0 for none."""
    action = spec.action
    driven = [(i, name, f) for f, start in zip(action.fields.values(), (s.start for s in action.slices.values()), strict=True)
              for i, name in zip(range(start, start + f.size), f.names or ("",) * f.size, strict=True)
              if f.kind not in ("gripper", *_ROTATIONS)]  # fmt: skip
    axis, sign = np.zeros(action.dim, np.intp), np.zeros(action.dim)
    if config.axes is not None:
        if len(config.axes) != len(driven):
            raise InputError(f"jog.axes: expected {len(driven)}, one for each of {', '.join(n or str(i) for i, n, _ in driven)}, found {len(config.axes)}")
        for (i, _, _), text in zip(driven, config.axes, strict=True):
            axis[i], sign[i] = axis_of(text)
        return axis, sign
    planar = [_letter(name) for _, name, _ in driven] == ["x", "y"] and action.dim == 2
    for place, (i, name, field) in enumerate(driven):
        letter, turns = _letter(name), any(word in f"{name} {field.unit}" for word in (*_TURNS, "rad/s"))
        known = (_ANGULAR if turns or letter not in _LINEAR else _LINEAR).get(letter)
        if planar:  # as seen on a screen, where forwards is up; of pixels y goes down
            axis[i], sign[i] = (1, -1.0) if letter == "x" else (0, -1.0 if field.unit == "px" else 1.0)
        elif known is not None:
            axis[i], sign[i] = known, 1.0
        elif place < 6:
            axis[i], sign[i] = place, 1.0
    return axis, sign


def _letter(name: str) -> str:
    """Return the axis that a name ends in (``hand.dx``, ``linear.x``, ``yaw``), or the name."""
    last = name.rpartition(".")[2].rpartition("_")[2].lower()
    return last.removeprefix("d") if len(last) == 2 and last.startswith("d") else last
