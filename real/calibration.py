"""What is known about a robot's cameras, joints and delays: the contents of ``calibration.json``, and when two of them differ.

A robot carries its calibration as JSON text in ``spec.meta["calibration"]``. From there it goes into every data set that is
recorded, into the checkpoints that are trained on it, and with their spec to wherever they run. ``docs/calibration.md``
says how it is measured (``robopolicy calibrate``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, Spec, suggest

FORMAT, KIND, META = 1, "robopolicy calibration", "calibration"
#: Beyond these two calibrations are not the same robot any more: px, m, rad, rad, s.
PIXELS, METRES, RADIANS, ZERO, SECONDS = 3.0, 0.01, math.radians(1.0), math.radians(0.5), 0.015


class Calibration:
    """Everything measured about one robot.

    Args:
        contents: What the file holds, JSON-ready: ``cameras`` (name -> ``intrinsics``, ``mount``, ``latency``), ``joints`` and
            ``actuation``, each with its residuals and date; any of them may be absent.

    Raises:
        InputError: if it is no calibration, or a newer one than this version reads.
    """

    def __init__(self, contents: Mapping[str, Any], source: str = "calibration") -> None:
        if contents.get("kind") != KIND:
            raise InputError(f"{source}: not a calibration: kind {KIND!r} expected, found {contents.get('kind')!r}")
        if not isinstance(contents.get("format"), int) or contents["format"] > FORMAT:
            raise InputError(f"{source}: format {contents.get('format')!r} is newer than this version reads (up to {FORMAT}); update robopolicy")
        if unknown := sorted(set(contents) - {"kind", "format", "robot", "cameras", "joints", "actuation"}):
            raise InputError(f"{source}: {unknown[0]!r} is unknown{suggest(unknown[0], ['robot', 'cameras', 'joints', 'actuation'])}")
        self.contents = json.loads(json.dumps(contents, allow_nan=False))

    @classmethod
    def empty(cls, robot: str = "") -> Calibration:
        """Return a calibration in which nothing has been measured."""
        return cls({"kind": KIND, "format": FORMAT, "robot": robot})

    @classmethod
    def from_text(cls, text: str, source: str = "calibration") -> Calibration:
        """Return the calibration of a file's text. Raises InputError."""
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{source} line {error.lineno}: not valid JSON ({error.msg})") from error
        if not isinstance(value, dict):
            raise InputError(f"{source}: not a calibration")
        return cls(value, source)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Return the calibration of a file. Raises InputError."""
        try:
            return cls.from_text(Path(path).read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"calibration {path}: cannot be read: {error}; make one with: robopolicy calibrate --help") from error

    @property
    def text(self) -> str:
        """The contents in one line of JSON, always the same for the same contents."""
        return json.dumps(self.contents, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify the contents."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def cameras(self) -> dict[str, dict[str, Any]]:
        """Name -> what is known of that camera."""
        return dict(self.contents.get("cameras") or {})

    def camera(self, name: str, part: str) -> dict[str, Any] | None:
        """Return one part (``intrinsics``, ``mount``, ``latency``) of what is known of camera ``name``, None if it is not known."""
        return self.cameras.get(name, {}).get(part)

    def latency_ms(self, name: str) -> float | None:
        """Return the measured latency of camera ``name``, ms; None if it is not known."""
        part = self.camera(name, "latency")
        return None if part is None else 1e3 * float(part["seconds"])


def differences(trained: Calibration, present: Calibration) -> list[str]:
    """Return one phrase for everything that both know and that is not the same within the tolerances above.

    Args:
        trained: Of the robot whose data a policy learnt from.
        present: Of the robot that is to be driven.
    """
    out: list[str] = []
    for name, before in trained.cameras.items():
        now = present.cameras.get(name)
        if now is None:
            continue
        if "intrinsics" in before and "intrinsics" in now:
            out += _intrinsics(f"camera {name!r}", before["intrinsics"], now["intrinsics"])
        if "mount" in before and "mount" in now:
            out += _mount(f"camera {name!r}", before["mount"], now["mount"])
        if "latency" in before and "latency" in now:
            out += _seconds(f"camera {name!r}: latency", before["latency"], now["latency"])
    joints = (trained.contents.get("joints") or {}).get("offsets", {}), (present.contents.get("joints") or {}).get("offsets", {})
    for joint in joints[0].keys() & joints[1].keys():
        change = abs(joints[0][joint] - joints[1][joint])
        if change > ZERO:
            out.append(f"joint {joint!r}: its zero has moved by {math.degrees(change):.2f} degrees")
    actuation = trained.contents.get("actuation"), present.contents.get("actuation")
    if actuation[0] and actuation[1]:
        out += _seconds("actuation latency", actuation[0], actuation[1])
    return out


def fingerprint_of(spec: Spec) -> str | None:
    """Return the fingerprint of the calibration that ``spec`` carries, None if it carries none."""
    text = spec.meta.get(META)
    return None if text is None else Calibration.from_text(text, "the calibration of a spec").fingerprint


def changes(before: Spec, now: Spec) -> list[str]:
    """Return what differs between the calibrations that two specs carry; nothing, if one of them carries none.

    Args:
        before: Of data, or of a robot.
        now: Of others.

    Raises:
        InputError: if one of them is no calibration.
    """
    texts = before.meta.get(META), now.meta.get(META)
    if texts[0] is None or texts[1] is None:
        return []
    return differences(Calibration.from_text(texts[0], "the calibration of a spec"), Calibration.from_text(texts[1], "the calibration of a spec"))


def require_one(before: Spec, now: Spec, where: str) -> None:
    """Refuse to add data of a robot that has been changed to data from before.

    Args:
        before: Of the data that are there.
        now: Of the data to come.
        where: What is named in the message.

    Raises:
        InputError: one line, if both carry calibrations and these differ.
    """
    if wrong := changes(before, now):
        raise InputError(f"{where} was recorded with another calibration: {'; '.join(wrong)}; record into a data set of its own")


def require_same(policy: Spec, robot: Spec, warn: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
    """Compare what a policy's data were calibrated with to the robot's present calibration; both ride on the specs.

    Args:
        policy: Of the policy.
        robot: Of the robot that is to be driven (``robot.calibration=FILE``).
        warn: Say differences instead of refusing them.
        say: Takes one line: of differences, or that the robot's calibration is not known.

    Raises:
        InputError: one line, if they differ, or one of them is no calibration.
    """
    trained, present = policy.meta.get(META), robot.meta.get(META)
    if trained is None:
        return
    before = Calibration.from_text(trained, "the policy's calibration")
    if present is None:
        say(f"calibration: the policy's data were recorded with {before.fingerprint}, the robot says none: robot.calibration=calibration.json")
        return
    wrong = differences(before, Calibration.from_text(present, "the robot's calibration"))
    line = f"calibration: the robot is not as it was when the policy's data were recorded: {'; '.join(wrong)}"
    if wrong and not warn:
        raise InputError(f"{line}; calibrate it anew, put back what has moved, or run with calibration_check=warn")
    if wrong:
        say(line)


def pose_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[float, float]:
    """Return distance, m, and angle, rad, between two poses of ``position`` (3,), m, and ``quaternion`` (4,), w first."""
    distance = float(np.linalg.norm(np.subtract(before["position"], now["position"])))
    one, two = (np.asarray(pose["quaternion"], np.float64) for pose in (before, now))
    cosine = abs(float(one @ two)) / float(np.linalg.norm(one) * np.linalg.norm(two))
    return distance, 2 * math.acos(min(cosine, 1.0))


def _intrinsics(who: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if (before["width"], before["height"]) != (now["width"], now["height"]):
        return [f"{who}: {now['width']}x{now['height']} px, was {before['width']}x{before['height']}"]
    names = ("fx", "fy", "cx", "cy")
    moved = [f"{n} {before[n]:.1f} -> {now[n]:.1f}" for n in names if abs(before[n] - now[n]) > max(PIXELS, 0.01 * before["width"])]
    return [f"{who}: intrinsics have changed ({', '.join(moved)} px)"] if moved else []


def _mount(who: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before["frame"] != now["frame"]:
        return [f"{who}: mounted on {now['frame']!r}, was on {before['frame']!r}"]
    distance, angle = pose_difference(before, now)
    if distance <= METRES and angle <= RADIANS:
        return []
    return [f"{who}: its mounting has moved by {1e3 * distance:.0f} mm and {math.degrees(angle):.1f} degrees"]


def _seconds(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if abs(before["seconds"] - now["seconds"]) <= SECONDS:
        return []
    return [f"{what} is {1e3 * now['seconds']:.0f} ms, was {1e3 * before['seconds']:.0f} ms"]
