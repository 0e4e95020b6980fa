"""What a URDF says of a robot's joints: names, kinds, units, limits, which follow others, in the order of the file.

A small reader of our own: document types and entities are refused before anything is parsed, since the text comes over the
network. Of ``<ros2_control>`` it takes the limits of acceleration and jerk, which URDF itself does not have.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies.spec import InputError, suggest

MOVING = ("revolute", "continuous", "prismatic")
_FIXED = ("fixed", "floating", "planar")
_MOST_BYTES = 8 << 20
_DECLARATIONS = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass(frozen=True)
class UrdfJoint:
    """One joint that moves.

    Attributes:
        name: As in JointState.
        kind: ``revolute``, ``continuous`` or ``prismatic``.
        low, high: Position, rad or m: the soft limits of ``<safety_controller>`` where they are tighter; -inf, inf if continuous.
        velocity, effort: Largest magnitudes; None: not given.
        acceleration, jerk: Largest magnitudes, from ``<ros2_control>``; None: not given.
        mimic: Name of the joint that it follows; empty: none.
    """

    name: str
    kind: str
    low: float
    high: float
    velocity: float | None = None
    effort: float | None = None
    acceleration: float | None = None
    jerk: float | None = None
    mimic: str = ""

    @property
    def unit(self) -> str:
        """``rad`` or ``m``."""
        return "m" if self.kind == "prismatic" else "rad"


@dataclass(frozen=True)
class Urdf:
    """The joints of a robot.

    Attributes:
        name: Of the robot.
        joints: name -> joint, all that move, in the order of the file.
        text: The whole description.
    """

    name: str
    joints: dict[str, UrdfJoint]
    text: str

    @property
    def driven(self) -> tuple[str, ...]:
        """Names of the joints that move by themselves, in the order of the file."""
        return tuple(name for name, joint in self.joints.items() if not joint.mimic)

    def of(self, names: Sequence[str]) -> tuple[UrdfJoint, ...]:
        """Return the joints ``names``, which can be commanded. Raises InputError for one that is unknown, fixed or follows another."""
        for name in names:
            if name not in self.joints:
                raise InputError(f"robot_description has no moving joint {name!r}{suggest(name, self.driven)}")
            if self.joints[name].mimic:
                raise InputError(f"robot_description: joint {name!r} follows {self.joints[name].mimic!r} (mimic) and takes no command of its own")
        return tuple(self.joints[name] for name in names)


def parse_urdf(text: str) -> Urdf:
    """Read a URDF.

    Args:
        text: XML, at most 8 MiB.

    Raises:
        InputError: one line: not XML, a document type or an entity, no robot, two joints of one name, a joint without limits or
            with limits that are none.
    """
    if len(text) > _MOST_BYTES:
        raise InputError(f"robot_description: {len(text)} characters, at most {_MOST_BYTES} are read")
    if found := _DECLARATIONS.search(text):
        raise InputError(f"robot_description: a {found[1].upper()} declaration is refused; a URDF needs none")
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"robot_description is not XML: {error}") from error
    if root.tag != "robot":
        raise InputError(f"robot_description: expected <robot>, found <{str(root.tag)[:40]}>; it is a URDF that is needed")
    joints: dict[str, UrdfJoint] = {}
    for element in root.findall("joint"):  # those of <transmission> and <ros2_control> lie deeper
        joint = _joint(element)
        if joint is None:
            continue
        if joint.name in joints:
            raise InputError(f"robot_description: two joints are called {joint.name!r}")
        joints[joint.name] = joint
    if not joints:
        raise InputError("robot_description: no joint of it moves")
    for joint in joints.values():
        if joint.mimic and joint.mimic not in joints:
            raise InputError(f"robot_description: joint {joint.name!r} mimics {joint.mimic!r}, which is none{suggest(joint.mimic, joints)}")
    return Urdf(root.get("name", ""), _with_control_limits(root, joints), text)


def _joint(element: ElementTree.Element) -> UrdfJoint | None:
    """Return a joint; None if it is fixed."""
    name, kind = element.get("name", ""), element.get("type", "")
    if not name:
        raise InputError("robot_description: a joint without a name")
    if kind in _FIXED:
        return None
    where = f"joint {name!r}"
    if kind not in MOVING:
        raise InputError(f"robot_description: {where}: type {kind!r} is unknown{suggest(kind, MOVING + _FIXED)}")
    limit, soft, mimic = element.find("limit"), element.find("safety_controller"), element.find("mimic")
    low, high = -math.inf, math.inf
    if kind != "continuous":
        if limit is None:
            raise InputError(f"robot_description: {where}: a {kind} joint needs <limit>")
        low, high = _number(limit, "lower", where, 0.0), _number(limit, "upper", where, 0.0)
        if soft is not None:  # both default to 0; 0 and 0 means that there is no soft range
            soft_low, soft_high = _number(soft, "soft_lower_limit", where, 0.0), _number(soft, "soft_upper_limit", where, 0.0)
            if soft_low < soft_high:
                low, high = max(low, soft_low), min(high, soft_high)
        if not low < high and mimic is None:
            raise InputError(f"robot_description: {where}: lower limit {low:g} is not below upper limit {high:g}")
    velocity, effort = (None, None) if limit is None else (_magnitude(limit, key, where) for key in ("velocity", "effort"))
    follows = "" if mimic is None else mimic.get("joint", "")
    return UrdfJoint(name, kind, low, high, velocity, effort, mimic=follows)


def _with_control_limits(root: ElementTree.Element, joints: dict[str, UrdfJoint]) -> dict[str, UrdfJoint]:
    """Return ``joints`` with the limits of ``<ros2_control>``: acceleration and jerk, and what is tighter than the URDF's own."""
    out = dict(joints)
    for element in root.findall("ros2_control/joint"):
        name = element.get("name", "")
        if name not in out:
            continue
        for interface in element.findall("command_interface"):
            out[name] = _limited(out[name], interface)
    return out


def _limited(joint: UrdfJoint, interface: ElementTree.Element) -> UrdfJoint:
    """Return ``joint`` within what a command interface says."""
    kind, where = interface.get("name", ""), f"ros2_control joint {joint.name!r}"
    texts = {param.get("name", ""): (param.text or "").strip() for param in interface.findall("param")}
    found = {side: _parse(texts[side], f"{where}: {kind} {side}") for side in ("min", "max") if texts.get(side)}
    if kind == "position":
        low, high = max(joint.low, found.get("min", -math.inf)), min(joint.high, found.get("max", math.inf))
        if not low < high and not joint.mimic:
            raise InputError(f"robot_description: {where}: its range [{low:g}, {high:g}] is empty")
        return replace(joint, low=low, high=high)
    if kind not in ("velocity", "acceleration", "jerk") or not found:
        return joint
    largest = min(abs(value) for value in found.values())
    if not largest > 0:
        raise InputError(f"robot_description: {where}: {kind} limit: expected a number that is not 0")
    before = getattr(joint, kind)
    return replace(joint, **{kind: largest if before is None else min(before, largest)})


def _number(element: ElementTree.Element, key: str, where: str, default: float) -> float:
    text = element.get(key)
    return default if text is None else _parse(text, f"{where}: {key}")


def _magnitude(element: ElementTree.Element, key: str, where: str) -> float | None:
    """Return an attribute above 0; None: not given, or 0, with which files leave it open."""
    value = _number(element, key, where, 0.0)
    if value < 0:
        raise InputError(f"robot_description: {where}: {key}: expected a number of at least 0, found {value:g}")
    return value or None


def _parse(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"robot_description: {what}: expected a finite number, found {text[:40]!r}")
    return value
