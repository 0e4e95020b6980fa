"""What a device of a person says: how they want to move, what they hold, and what they ask for once.

A device is one file of this package with a class that has a ``Config`` (a pydantic model of its options), takes that config and is a
:class:`Source`. It knows nothing of robots: motion is normalised to [-1, 1], only a leader arm speaks of joints. It is asked in every
tick of the drive and never waits; what stopped arriving is noticed by its age, and stale input lets go of the clutch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from policies.spec import Spec
from real.robot import RobotInfo

#: What a person can ask for once. What moves the robot is not among them but ``home`` and ``grip``, which go on until they are there,
#: something else is asked for, the input is stale, or anybody asks for a hold.
EVENTS = (
    "start",  # begin recording an episode
    "success",  # the episode is over and good
    "failure",  # the episode is over and bad
    "discard",  # the episode is over and forgotten
    "takeover",  # act in the policy's place from now on
    "release",  # give the robot back to the policy
    "grip",  # the gripper goes to its other end
    "frame",  # jog along the axes of base, tool or camera, in turn
    "home",  # go to the robot's home, slowly, for as long as nothing else is asked for
    "hold",  # nothing moves until ``resume``
    "resume",  # end a hold
    "stop",  # the drive's stop, latched
    "quit",  # end the session
)
#: What a device may make felt or heard, each where it can: a short buzz, a beep, a flash.
CUES = ("taken", "released", "recording", "saved", "discarded", "limit", "stale", "refused")


def _still() -> np.ndarray:
    return np.zeros(6)


@dataclass(frozen=True)
class Input:
    """What a person does at one moment.

    Attributes:
        twist: (6,) in [-1, 1]: along x, y, z, then about x, y, z, right-handed, of the full speed that the jog allows. With respect to
            the base x is away from the robot's base, y to its left, z up. A robot in the plane takes x and y.
        joints: (n,) in [-1, 1], of the full speed of each of the robot's joints, which then move instead of the hand (a device that
            can do both chooses by itself); None: the device moves the hand.
        positions: (n,) absolute joint positions in the robot's units, of a leader arm; None: the device has none.
        pose: (4, 4) absolute pose of the device in a frame of its own whose z is up (a phone), m; its changes since the clutch closed
            move the hand. None: the device has none.
        grip: In [-1, 1], rate of the gripper: above 0 it opens.
        opening: In [0, 1], where the gripper shall be (1: open); None: it stays.
        clutch: Whether the robot shall follow: held by a person, never latched.
        dial: Share of the full speed, above 0 to 1.
        events: One-shot, of :data:`EVENTS`, in order, each told once.
        age: Seconds since the device last said anything; infinity: never, or it is gone.
    """

    twist: np.ndarray = field(default_factory=_still)
    joints: np.ndarray | None = None
    positions: np.ndarray | None = None
    pose: np.ndarray | None = None
    grip: float = 0.0
    opening: float | None = None
    clutch: bool = False
    dial: float = 1.0
    events: tuple[str, ...] = ()
    age: float = math.inf

    def sound(self) -> bool:
        """Whether all numbers are finite and in their ranges; nobody follows what is not (a pose must be a rotation and a place)."""
        for part, shape in ((self.twist, (6,)), (self.joints, None), (self.positions, None), (self.pose, (4, 4))):
            if part is not None and not (np.isfinite(part).all() and (shape is None or np.shape(part) == shape)):
                return False
        bounded = [self.twist, np.array([self.grip])] + ([] if self.joints is None else [self.joints])
        if not all((np.abs(part) <= 1 + 1e-9).all() for part in bounded) or not 0 < self.dial <= 1:  # nan is in no range
            return False
        if self.opening is not None and not 0 <= self.opening <= 1:
            return False
        if self.pose is None:
            return True
        turn = np.asarray(self.pose)[:3, :3]
        return bool(np.abs(turn @ turn.T - np.eye(3)).max() < 1e-3 and np.linalg.det(turn) > 0)


@dataclass(frozen=True)
class Status:
    """What a device may show to the person.

    Attributes:
        state: Of the runtime: ``idle``, ``active``, ``hold`` or ``stopped``.
        cause: Why it holds or is stopped.
        taken: Whether the person acts.
        clutch: Whether the robot follows the device now.
        recording: Whether what happens is recorded.
        episode: Number of the present episode, from 0.
        episodes: How many are wanted; None: no end.
        counts: ``success``, ``failure`` and ``discard`` -> episodes that ended so.
        frame: ``base``, ``tool`` or ``camera``.
        dial: Share of the full speed.
        task: What the person shall do, in words.
        line: The newest thing to say, in words; empty: nothing.
    """

    state: str = "idle"
    cause: str = ""
    taken: bool = False
    clutch: bool = False
    recording: bool = False
    episode: int = 0
    episodes: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    frame: str = "base"
    dial: float = 1.0
    task: str = ""
    line: str = ""


class Source(Protocol):
    """A device, opened by ``Class(config)``, which raises InputError in one line where there is none.

    Attributes:
        name: What the device is called, for the status line.
        stale_s: Age of its input from which the clutch counts as open.
        help: Key or control -> what it does, in the order to show.
        held: May be left out. False: its clutch stays closed without anybody's hand, and is no sign of life of a person
            (``drive_options.deadman_s``).
    """

    name: str
    stale_s: float
    help: Mapping[str, str]

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """Take in whose robot this is, once, before anything is polled. Raises InputError where the device cannot move it."""
        ...

    def poll(self) -> Input:
        """Return what the person does now, with every event since the last call. Never waits and never raises for a lost device."""
        ...

    def feedback(self, cue: str) -> None:
        """Make one of :data:`CUES` felt or heard, where the device can. Never waits."""
        ...

    def show(self, status: Status) -> None:
        """Show the status, where the device has a display; called about ten times a second and at every change. Never waits."""
        ...

    def close(self) -> None:
        """Let go of the device and leave everything as it was found; may be called twice."""
        ...
