"""The robot contract: read, write, hold, stop. A driver is one file in ``real/robots/`` and declares what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from policies.motion import MotionLimits, Reference
from policies.spec import Spec


@dataclass
class Observation:
    """One reading of every sensor.

    Attributes:
        fields: name -> (*shape), as the robot's spec says.
        capture_ns: name -> monotonic nanoseconds (this machine's clock) at which that field was measured.
        episode: Number of the episode; streams restart when it changes, and it names the noise of the policy in it. A twin
            gives the episode's seed, so that a run draws the same noise as an evaluation on that seed; a real robot says 0.
        ended: Whether the episode is over (twin only; a real robot never says so).
        success: Whether the episode has reached success (twin only).
        tick: Number of the drive's tick that this reading ends; the next command is for ``tick + 1``.
        reference: Motion commanded in that tick; None where commands are no joint positions.
        drive_state: What the drive does: ``active``, ``braking``, ``holding`` or ``stopped`` (no command is taken).
        cause: Why it is not active; empty otherwise.
        doubt: Why the driver itself does not believe this reading, or that its commands arrive: the drive brakes and holds with
            that cause until a reading comes without one. Empty: nothing is wrong.
    """

    fields: dict[str, np.ndarray]
    capture_ns: dict[str, int]
    episode: int = 0
    ended: bool = False
    success: bool = False
    tick: int = 0
    reference: Reference | None = None
    drive_state: str = "active"
    cause: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class RobotInfo:
    """What a driver declares about its hardware.

    Attributes:
        name: Driver name.
        rate_hz: Rate at which commands are expected.
        on_silence: What the hardware does when commands stop coming: ``brakes``, ``holds`` or ``unknown`` (refused).
        silence_s: Seconds of silence after which it does so.
        lockstep: Whether time passes only by writing commands (a twin as fast as possible).
        episodes: How many episodes there are (twin only); None: no end.
        substeps: Commands per action of the spec: a policy that acts at 20 Hz on a drive that takes commands at 100 Hz has 5.
        motion: Limits of the commanded joint positions; None: commands are not joint positions (then only their range is kept).
        model: MJCF or URDF text of the robot alone, for its kinematics; empty: there is none.
        home: (n,) joint positions of a pose that the robot can always be brought to slowly; empty: none is known.
        redundant: Observation field -> what ``real.safety.redundancy.Sensors`` takes: sensors that measure the same, and how far
            they may differ. The drive reads their median.
        barriers: What ``real.safety.barriers.BarrierConfig`` takes: workspace planes, self-collision, margin; None: none.
    """

    name: str
    rate_hz: float
    on_silence: str
    silence_s: float
    lockstep: bool = False
    episodes: int | None = None
    substeps: int = 1
    motion: MotionLimits | None = None
    model: str = ""
    home: tuple[float, ...] = ()
    barriers: Mapping[str, Any] | None = None
    redundant: Mapping[str, Any] | None = None


class RobotGone(ConnectionError):
    """The robot (or its process) no longer answers; one line says since when."""


@runtime_checkable
class Robot(Protocol):
    """A handle to one robot."""

    spec: Spec
    info: RobotInfo

    def read(self) -> Observation:
        """Return the newest reading. Raises RobotGone after the driver's timeout."""
        ...

    def write(self, command: np.ndarray) -> None:
        """Send one command (Da,) in robot units, already checked: float32, joint positions at the drive's rate float64.

        A driver of joints whose hardware is told more than positions has a ``write_motion(before, after)`` (two ``Reference``);
        the drive then calls that in its place: ``before`` is the commanded motion one tick ago, ``after`` what it leads to.
        """
        ...

    def hold(self) -> None:
        """Keep the present pose (the drive stays powered)."""
        ...

    def stop(self) -> None:
        """Request the drive's own stop, latched.

        A driver that can take it back has a ``clear()``; the drive calls it when the operator has cleared the latch and a
        source commands again.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; the robot holds."""
        ...
