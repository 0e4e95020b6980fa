"""Which topic every field of a spec comes from, and which joints its actions command: checked before anything moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, SpecMismatch, suggest
from real.ros.commands import INTERFACES, TWIST_AXES
from real.ros.sensors import JOINT_PARTS, ODOMETRY_NAMES, POSE_NAMES, WRENCH_NAMES
from real.ros.units import factors
from real.ros.urdf import Urdf

Source = Literal["joints", "state", "wrench", "odometry", "transform", "image"]
_NAMES: Mapping[str, tuple[str, ...]] = {"wrench": WRENCH_NAMES, "odometry": ODOMETRY_NAMES, "transform": POSE_NAMES}
_TOPICS: Mapping[str, str] = {"wrench": "wrench", "odometry": "odom"}
_UNITS: Mapping[str, tuple[str, ...]] = {
    "wrench": ("N",) * 3 + ("Nm",) * 3,
    "odometry": ("m",) * 3 + ("1",) * 4 + ("m/s",) * 3 + ("rad/s",) * 3,
    "transform": ("m",) * 3 + ("1",) * 4,
}
_PREFIX, _IMAGES = "observation.", "observation.images."


class FieldConfig(Config):
    """Where one observation field comes from, if not from where its name says.

    Attributes:
        source: Kind of topic; None: ``image`` for ``observation.images.*``, ``joints`` where all elements are joints, else ``state``.
        topic: Its name; None: ``camera/NAME/image_raw``, ``state/NAME``, ``wrench``, ``odom``.
        names: Elements: ``JOINT``, ``JOINT.velocity``, ``JOINT.effort``, or those of the message; None: as the checkpoint says.
        parent, child: Frames of a ``transform``: the pose of the child in the parent.
        compressed: Whether the topic carries JPEG or PNG files.
        resize: Whether pictures of another size are scaled.
        shape: [H, W, 3] of a picture, where no checkpoint says it.
        unit: Where no checkpoint says it.
    """

    source: Source | None = None
    topic: str | None = None
    names: list[str] | None = None
    parent: str = ""
    child: str = ""
    compressed: bool = False
    resize: bool = False
    shape: list[pydantic.PositiveInt] | None = None
    unit: str | None = None


@dataclass(frozen=True)
class FieldPlan:
    """How a field is filled.

    Attributes:
        name: Of the field.
        field: As in the spec.
        source: Kind of topic.
        topic: Its name; empty for joints and transforms.
        names: Its elements.
        factors: What ROS's numbers are multiplied with, (k,).
        config: See :class:`FieldConfig`.
    """

    name: str
    field: Field
    source: Source
    topic: str
    names: tuple[str, ...]
    factors: np.ndarray
    config: FieldConfig


@dataclass(frozen=True)
class Mapped:
    """A spec brought together with a robot.

    Attributes:
        spec: What the driver offers.
        plans: One for every observation field.
        joints: Names that the actions command, in their order; axes for a twist.
        factors: What an action is multiplied with to be in SI units, (Da,).
        lines: What there is to say about units.
    """

    spec: Spec
    plans: tuple[FieldPlan, ...]
    joints: tuple[str, ...]
    factors: np.ndarray
    lines: tuple[str, ...]


def split_joint(name: str, urdf: Urdf) -> tuple[str, str] | None:
    """Return joint and part (``position``, ``velocity``, ``effort``) of an element's name; None: it is not of a joint."""
    if name in urdf.joints:
        return name, "position"
    joint, _, part = name.rpartition(".")
    return (joint, part) if joint in urdf.joints and part in JOINT_PARTS else None


def map_fields(
    wanted: Spec | None, fields: Mapping[str, FieldConfig], urdf: Urdf, interface: str, joints: Sequence[str], axes: Mapping[str, tuple[float, float]],
    rate_hz: float, convert: bool,
) -> Mapped:  # fmt: skip
    """Return how robot and spec go together.

    Args:
        wanted: The checkpoint's; None: positions and velocities of the joints, and ``fields``.
        fields: Field name -> where it comes from.
        urdf: The robot's.
        interface: One of ``real.ros.commands.INTERFACES``.
        joints: Names in the order of the command; empty: the checkpoint's, or all of the URDF.
        axes: Of a twist -> range, m/s and rad/s.
        rate_hz: Of actions, where no checkpoint says it.
        convert: Whether units may be converted.

    Raises:
        InputError, SpecMismatch: one line: a field without a source, a joint that there is not, a unit or a limit that does not fit.
    """
    for name in fields:
        if wanted is not None and name not in wanted.observation.fields:
            raise InputError(f"robot.fields: the checkpoint reads no field {name!r}{suggest(name, wanted.observation.fields)}")
    wanted = wanted or _spec_of(urdf, interface, joints, axes, fields, rate_hz)
    action, commanded, action_factors, lines = _map_action(wanted.action, urdf, interface, joints, axes, convert)
    plans = []
    for name, field in wanted.observation.fields.items():
        plan, line = _plan(name, field, fields.get(name, FieldConfig()), urdf, convert)
        plans.append(plan)
        lines += [line] if line else []
    if not interface.startswith("twist") and interface != "velocity" and not any(set(commanded) <= set(plan.field.names) for plan in plans):
        units = {urdf.joints[name].unit for name in commanded}
        unit = ", ".join(u for field in action.fields.values() for u in field.unit.split(", ")) if len(action.fields) == 1 else ", ".join(sorted(units))
        extra = Field((len(commanded),), unit=unit, names=commanded)  # where the robot stands must be known, whatever the policy reads
        plan, _ = _plan("observation.joint_position", extra, FieldConfig(source="joints"), urdf, convert)
        plans.append(plan)
    observation = ObservationSpec({plan.name: plan.field for plan in plans}, wanted.observation.rate_hz)
    return Mapped(Spec(observation, action), tuple(plans), commanded, action_factors, tuple(lines))


def _plan(name: str, field: Field, config: FieldConfig, urdf: Urdf, convert: bool) -> tuple[FieldPlan, str]:
    """Return the plan of a field and one line about its units."""
    what = f"observation field {name!r}"
    names = tuple(config.names or field.names)
    source = config.source
    if source is None:
        source = "image" if field.is_image else "joints" if names and all(split_joint(n, urdf) for n in names) else "state"
    if field.is_image != (source == "image"):
        raise SpecMismatch(f"{what} is {'a' if field.is_image else 'no'} picture; robot.fields takes it from {source!r}")
    if source == "image":
        default = f"camera/{name.removeprefix(_IMAGES)}/image_raw{'/compressed' if config.compressed else ''}"
        return FieldPlan(name, field, source, config.topic or default, (), np.ones(1), config), ""
    if source == "transform" and not (config.parent and config.child):
        raise InputError(f"robot.fields: {name}: a transform needs the names of two frames, parent and child")
    names = names or _NAMES.get(source, tuple(str(i) for i in range(field.size)))
    if len(names) != field.size:
        raise SpecMismatch(f"{what} has {field.size} elements, {len(names)} names come from {source!r}")
    units: list[str] = []
    for element in names:
        if source == "joints":
            found = split_joint(element, urdf)
            if found is None:
                raise SpecMismatch(f"{what}: robot_description has no joint for {element!r}{suggest(element, urdf.joints)}")
            units.append(_unit_of(urdf, *found))
        elif source in _NAMES:
            if element not in _NAMES[source]:
                raise SpecMismatch(f"{what}: {source} has no {element!r}{suggest(element, _NAMES[source])}")
            units.append(_UNITS[source][_NAMES[source].index(element)])
    scale, line = factors(what, field.unit, units, names, convert) if units else (np.ones(field.size), "")
    topic = "" if source in ("joints", "transform") else config.topic or _TOPICS.get(source, state_topic(name))
    return FieldPlan(name, field, source, topic, names, scale, config), line


def state_topic(field: str) -> str:
    """Return the topic of a state field: names of topics have no dots."""
    return f"state/{field.removeprefix(_PREFIX).replace('.', '_')}"


def _unit_of(urdf: Urdf, joint: str, part: str) -> str:
    unit = urdf.joints[joint].unit
    if part == "effort":
        return "N" if unit == "m" else "Nm"
    return unit if part == "position" else f"{unit}/s"


def _map_action(
    action: ActionSpec, urdf: Urdf, interface: str, joints: Sequence[str], axes: Mapping[str, tuple[float, float]], convert: bool
) -> tuple[ActionSpec, tuple[str, ...], np.ndarray, list[str]]:
    """Check the actions against the robot; returns them, what they command, their factors to SI (Da,) and lines."""
    kind, twist = INTERFACES[interface][2], interface.startswith("twist")
    named = tuple(n for field in action.fields.values() for n in field.names)
    if len(named) != action.dim:
        raise SpecMismatch(f"actions: {action.dim} numbers, {len(named)} of them named: the names of the joints are needed")
    if joints and tuple(joints) != named:
        raise SpecMismatch(f"actions: the checkpoint commands {', '.join(named)}, robot.joints says {', '.join(joints)}: not the same in order")
    for name, field in action.fields.items():
        if field.kind != kind and not (field.kind == "gripper" and kind == "position"):
            raise SpecMismatch(f"action field {name!r} is a {field.kind}, robot.command={interface} takes a {kind}")
    if twist:
        for axis in named:
            if axis not in axes:
                raise SpecMismatch(f"actions: {axis!r} has no range in robot.twist{suggest(axis, axes or TWIST_AXES)}")
        units, ranges = ["m/s" if axis.startswith("linear") else "rad/s" for axis in named], [axes[axis] for axis in named]
    else:
        found = urdf.of(named)
        units = [joint.unit if kind == "position" else f"{joint.unit}/s" for joint in found]
        ranges = [(joint.low, joint.high) if kind == "position" else (-(joint.velocity or np.inf), joint.velocity or np.inf) for joint in found]
    parts, lines = [], []
    for name, field in action.fields.items():
        here = slice(sum(map(len, parts)), sum(map(len, parts)) + field.size)
        what = f"action field {name!r}"
        scale, line = factors(what, field.unit, units[here], named[here], convert)
        parts.append(scale)
        lines += [line] if line else []
        _require_inside(what, field, scale, named[here], ranges[here])
    return action, named, 1 / np.concatenate(parts), lines


def _require_inside(what: str, field: Field, scale: np.ndarray, names: Sequence[str], ranges: Sequence[tuple[float, float]]) -> None:
    """Refuse a field whose range goes beyond the robot's: it was made for another one. Raises SpecMismatch."""
    for i, (low, high) in enumerate(ranges):
        for side, given, limit, sign in (("low", field.low, low, -1), ("high", field.high, high, 1)):
            value = limit if given is None else given[i] / scale[i]
            if np.isfinite(value) and sign * (value - limit) > 1e-5 * (1 + abs(limit)):
                raise SpecMismatch(f"{what}: {side} of {names[i]!r} is {value:.6g}, beyond the robot's own {limit:.6g}: is it for another robot?")


def _spec_of(
    urdf: Urdf, interface: str, joints: Sequence[str], axes: Mapping[str, tuple[float, float]], fields: Mapping[str, FieldConfig], rate_hz: float
) -> Spec:
    """Return the spec of the robot as it is: all its joints, and what ``fields`` adds."""
    driven = tuple(joints) or urdf.driven
    found = urdf.of(driven)
    units = list(dict.fromkeys(joint.unit for joint in found))
    unit, rates = ", ".join(units), ", ".join(f"{u}/s" for u in units)
    limits = np.array([[j.low, j.high, j.velocity or np.inf] for j in found], np.float64)
    if interface.startswith("twist"):
        ranges = np.array(list(axes.values()), np.float64).reshape(-1, 2)
        kinds = list(dict.fromkeys("m/s" if axis.startswith("linear") else "rad/s" for axis in axes))
        action = {
            "base_velocity": Field((len(axes),), unit=", ".join(kinds), low=_tuple(ranges[:, 0]), high=_tuple(ranges[:, 1]), kind="velocity", names=tuple(axes))
        }
    elif interface == "velocity":
        action = {"joint_velocity": Field((len(driven),), unit=rates, low=_tuple(-limits[:, 2]), high=_tuple(limits[:, 2]), kind="velocity", names=driven)}
    else:
        action = {"joint_position": Field((len(driven),), unit=unit, low=_tuple(limits[:, 0]), high=_tuple(limits[:, 1]), kind="position", names=driven)}
    out = {"observation.state": Field((2 * len(driven),), unit=f"{unit}, {rates}", names=(*driven, *(f"{n}.velocity" for n in driven)))}
    for name, config in fields.items():
        if name.startswith(_IMAGES) or config.source == "image":
            if config.shape is None or len(config.shape) != 3:
                raise InputError(f"robot.fields: {name}: without a checkpoint (robot.spec) a picture needs its shape, [height, width, 3]")
            out[name] = Field(tuple(config.shape), "uint8", kind="image")
            continue
        names = tuple(config.names or _NAMES.get(config.source or "", ()))
        if not names:
            raise InputError(f"robot.fields: {name}: without a checkpoint (robot.spec) the names of its elements are needed")
        of_joints = config.source in (None, "joints") and all(split_joint(n, urdf) for n in names)
        own = [_unit_of(urdf, *found) for n in names if of_joints and (found := split_joint(n, urdf))]
        known = dict(zip(_NAMES.get(config.source or "", ()), _UNITS.get(config.source or "", ()), strict=True))
        own = own or [known[n] for n in names if n in known]
        out[name] = Field((len(names),), unit=config.unit or ", ".join(dict.fromkeys(own)) or "1", names=names)
    return Spec(ObservationSpec(out, rate_hz), ActionSpec(action, rate_hz))


def _tuple(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
