"""How a robot's declaration and its readings cross between a drive process and its source of commands.

Both run on one machine (only loopback is served), so capture times cross as they are: its monotonic clock is shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.motion import MotionLimits, Reference
from real.drive import DriveReading
from real.robot import Observation, RobotInfo
from real.wire import Message, WireError

_REFERENCE = "drive.reference"  # beside the robot's fields, whose names begin with observation.
_INFO = ("name", "rate_hz", "on_silence", "silence_s", "lockstep", "episodes", "substeps", "model", "barriers", "redundant")


def info_to_dict(info: RobotInfo) -> dict[str, Any]:
    """Return a JSON-ready mapping; the inverse of :func:`info_from_dict`."""
    motion = None if info.motion is None else info.motion.to_dict()
    barriers = None if info.barriers is None else dict(info.barriers)
    redundant = None if info.redundant is None else {name: dict(sensors) for name, sensors in info.redundant.items()}
    return {**{key: getattr(info, key) for key in _INFO}, "home": list(info.home), "motion": motion, "barriers": barriers, "redundant": redundant}


def info_from_dict(value: dict[str, Any]) -> RobotInfo:
    """Build a declaration from :func:`info_to_dict`'s mapping. Raises KeyError, TypeError or InputError if it is not one."""
    motion = None if value["motion"] is None else MotionLimits.from_dict(value["motion"])
    return RobotInfo(**{key: value[key] for key in _INFO}, home=tuple(value["home"]), motion=motion)


def reading_message(reading: DriveReading) -> Message:
    """Return the message of a reading that has an observation."""
    observation = reading.observation
    assert observation is not None
    arrays = dict(observation.fields)
    stamps = [int(observation.capture_ns[name]) for name in arrays]
    if reading.reference is not None:
        arrays[_REFERENCE] = np.stack([reading.reference.position, reading.reference.velocity, reading.reference.acceleration])
    meta = {
        "tick": reading.tick,
        "state": reading.state,
        "cause": reading.cause[:500],
        "episode": observation.episode,
        "ended": observation.ended,
        "success": observation.success,
        "capture_ns": stamps,
    }
    return Message("reading", meta=meta, arrays=arrays)


def observation_of(message: Message) -> Observation:
    """Return the reading of :func:`reading_message`'s message. Raises WireError, KeyError or IndexError if it is not one."""
    arrays = dict(message.arrays)
    rows = arrays.pop(_REFERENCE, None)
    if rows is not None and (rows.ndim != 2 or len(rows) != 3):
        raise WireError(f"reading with a reference of shape {rows.shape}")
    stamps = message.meta["capture_ns"]
    if not isinstance(stamps, list) or len(stamps) != len(arrays):
        raise WireError("reading without a capture time for every field")
    return Observation(
        arrays,
        {name: int(stamp) for name, stamp in zip(arrays, stamps, strict=True)},
        message.value("episode", int),
        message.value("ended", bool),
        message.value("success", bool),
        message.value("tick", int),
        None if rows is None else Reference(rows[0], rows[1], rows[2]),
        message.value("state", str),
        message.value("cause", str),
    )
