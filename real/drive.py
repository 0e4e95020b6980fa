"""The drive: sole owner of the connection to a robot, of the check of every command and of the brake that always remains.

One :meth:`Drive.tick` a drive period: the command that was offered for exactly this tick, if it passed every check, else the
next sample of the verified brake, else hold. Whoever makes commands offers them; only here are they written.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pydantic

from policies.config import Config
from policies.motion import Reference
from policies.spec import InputError
from real.drive_motion import commanded_motion
from real.latch import Latch, robot_folder
from real.latency import Latency
from real.robot import Observation, Robot, RobotGone
from real.safety.redundancy import Redundancy

_MAX_CAUSES = 64  # counted apart; causes come from what others sent


class DriveOptions(Config):
    """How a drive treats its source of commands.

    Attributes:
        expiry_ticks: Ticks in a row without a word of the source after which it counts as silent. The brake begins with
            the first of them: a command is for one tick.
        stop_after_s: Seconds that a silent source's robot stands before the stop of its own drive is requested.
        max_late_ticks: A command that has waited longer than this for a late drive process is stale.
        lease_s: Seconds of silence after which another source may take over.
        deadman_s: Age of the deadman's signal beyond which the robot brakes and holds; None: there is no deadman.
        blocked_s: Seconds that the robot may take to answer a tick before it is taken for gone.
        state_dir: Where the latched stop lies; None: as ``real.latch.state_folder`` says.
        watch: Only read: nothing is sent to the robot, which somebody else moves (a run in shadow); a stop is still requested.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    expiry_ticks: pydantic.PositiveInt = 3
    stop_after_s: pydantic.PositiveFloat = 5.0
    max_late_ticks: pydantic.PositiveInt = 5
    lease_s: pydantic.PositiveFloat = 1.0
    deadman_s: pydantic.PositiveFloat | None = None
    blocked_s: pydantic.PositiveFloat = 3.0
    state_dir: str | None = None
    watch: bool = False


@dataclass
class DriveReading:
    """What a tick ended with.

    Attributes:
        tick: Its number, from 0.
        state: ``active`` (a source's command was sent), ``braking``, ``holding``, or ``stopped`` (no command is taken).
        cause: Why it is not active; empty otherwise.
        reference: Motion that was commanded; None where commands are no joint positions.
        observation: The robot's reading, with all of this on it; None: the robot is gone.
    """

    tick: int
    state: str
    cause: str
    reference: Reference | None
    observation: Observation | None


@dataclass
class DriveCounts:
    """What a drive has done.

    Attributes:
        ticks, commands, brake_ticks, hold_ticks: All ticks, and those in which a command, a brake sample or a hold was sent.
        missed_ticks: Points of the time grid at which this process was late; they are not made up for.
        late: Commands for a tick that had passed.
        refused: Other commands that were refused, by cause.
        stops: Emergency stops.
    """

    ticks: int = 0
    commands: int = 0
    brake_ticks: int = 0
    hold_ticks: int = 0
    missed_ticks: int = 0
    late: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    stops: int = 0

    def refuse(self, cause: str) -> None:
        """Count a refusal under :func:`kind_of` its cause."""
        key = kind_of(cause)
        self.refused[key if key in self.refused or len(self.refused) < _MAX_CAUSES else "other"] += 1


def kind_of(cause: str) -> str:
    """Return the words with which a cause begins, without its numbers and names."""
    return re.split(r"[:\d'\"]", cause, maxsplit=1)[0].strip()[:80]


class Drive:
    """Drives one robot.

    Args:
        driver: The robot; nobody else may hold it.
        options: See :class:`DriveOptions`.
        latch: The emergency stop; None: the one of this robot's name in the state folder.
        clock: Monotonic seconds.

    Attributes:
        reading: Of the last tick.
        counts: So far; ``reaction``: from the newest value of a reading until the command that answers it was written.

    Raises:
        InputError: for a robot that does not say what it does in silence or whose declarations do not fit together, or
            when a stop could not be kept.
    """

    def __init__(self, driver: Robot, options: DriveOptions = DriveOptions(), latch: Latch | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        info = driver.info
        if info.on_silence not in ("brakes", "holds"):
            told = f"what it does when commands stop is {info.on_silence!r}"
            raise InputError(f"robot {info.name!r}: {told}; its driver must declare 'brakes' or 'holds'")
        self.spec, self.info, self.options = driver.spec, info, options
        self.latch = latch or Latch(robot_folder(info.name, options.state_dir))
        self.counts, self.reaction = DriveCounts(), Latency()
        self.motion = commanded_motion(driver.spec, info)
        self.redundancy = Redundancy(info.redundant, driver.spec.observation) if info.redundant else None
        self.reading = DriveReading(-1, "holding", "starting", None, None)
        self._driver, self._clock = driver, clock
        self._offer: tuple[np.ndarray, Reference | None] | None = None  # the checked command of the next tick
        self._gone = self._latched = self._held_by = self._unsure = ""  # causes for which no command is taken
        self._unsaved = False  # a stop that could not be written: it stands until this process ends
        self._heard = self._asked_to_hold = False  # what the source said since the last tick
        self._refused = ""  # why the last offer since then was not taken
        self._silent_ticks, self._silent_since = 0, math.inf
        self._was_active = self._drive_stopped = False
        self._alive_at = -math.inf  # of the deadman

    def tick(self, now: float | None = None, missed: int = 0) -> DriveReading:
        """Do one drive period: send the checked command of this tick, or brake, or hold; then read the robot.

        Args:
            now: Monotonic seconds; None: the clock's.
            missed: Grid points that passed unused before this one.
        """
        now = self._clock() if now is None else now
        number, cause = self.reading.tick + 1, self._forbidden(now, missed)
        offered, self._offer = self._offer, None
        try:
            if self.reading.observation is not None:
                self._send(None if cause else offered, cause, now)
            self._read(number)
        except Exception as error:  # whatever a driver raises: this process goes on and says so, the robot does what silence does
            self.lose(f"robot gone: {error}" if isinstance(error, RobotGone) else f"driver failed: {type(error).__name__}: {error}")
            self.reading.tick = number
        self.counts.ticks += 1
        return self.reading

    def offer(self, command: np.ndarray, reference: Reference | None, tick: int) -> str:
        """Take a command for the next tick, if it passes every check; returns why not, empty: it is taken.

        Args:
            command: (Da,) in robot units.
            reference: The motion that it leads to; for robots of joints.
            tick: Number of the tick that it is for: that of the newest reading, plus 1.
        """
        self._refused = self._check(command, reference, tick)
        if not self._refused:
            self._offer, self._heard = (np.asarray(command), reference), True
        elif self._refused.startswith("late"):
            self.counts.late += 1
        else:
            self.counts.refuse(self._refused)
        return self._refused

    def hold(self, operator: str = "") -> None:
        """Brake and hold: in the next tick for the source of commands, until :meth:`resume` for an ``operator``, whoever is the source."""
        self._offer, self._held_by = None, operator or self._held_by
        if not operator:
            self._heard = self._asked_to_hold = True

    def resume(self) -> None:
        """Take commands again after an operator's hold."""
        self._held_by = ""

    def stop(self, cause: str, who: str = "the source") -> None:
        """Emergency stop: latched on the disk, then the brake, then the drive's own stop is requested."""
        try:
            self._latched = self.latch.set(cause, who).line()
        except OSError as error:
            self._latched, self._unsaved = f"{cause} (by {who}; NOT kept on the disk: {error.strerror})", True
        self._offer = None
        self.counts.stops += 1

    def alive(self) -> None:
        """Renew the deadman's signal."""
        self._alive_at = self._clock()

    def reset(self, episode: int | None = None) -> None:
        """Give up ``episode`` (None: the present one), unless it is over, and begin the next (twins only). Raises InputError where there is none."""
        reset, last = getattr(self._driver, "reset", None), self.reading.observation
        if reset is None:
            raise InputError(f"robot {self.info.name!r} has no episodes to reset")
        self._offer = None
        try:
            if episode is None or last is None or episode == last.episode:
                reset()
                self._read(self.reading.tick, anew=True)
        except RobotGone as error:
            self.lose(f"robot gone: {error}")

    def lose(self, cause: str) -> None:
        """Take the robot for gone: from here on it is not spoken to, it does what it declares for silence."""
        self._gone, self._offer = self._gone or " ".join(cause.split()), None
        self.reading = DriveReading(self.reading.tick, "stopped", self._gone, self.reading.reference, None)

    def request_stop(self) -> None:
        """Request the robot's own stop, once; the drive calls it at rest, its process also when it ends."""
        if not self._drive_stopped and not self._gone and (self._latched or not self.options.watch):
            self._drive_stopped = True
            self._driver.stop()

    def tally(self) -> dict[str, Any]:
        """Return the counts, JSON-ready; ``cameras`` are those beside the robot (``real.camera_robot``), where there are any."""
        disagreed = dict(self.redundancy.disagreed) if self.redundancy else {}
        cameras: Any = getattr(self._driver, "camera_counts", None)
        beside: dict[str, Any] = {"sensors_disagreed": disagreed, "reaction_ms": self.reaction.to_dict(), **({} if cameras is None else {"cameras": cameras()})}
        return {**asdict(self.counts), "refused": dict(self.counts.refused), **beside}

    def report(self) -> dict[str, Any]:
        """Return the counts, and under ``robot`` the driver's own report (None where it has none)."""
        report: Any = getattr(self._driver, "report", None)
        own = None
        if report is not None and not self._gone:
            try:
                own = report()
            except RobotGone as error:
                self.lose(f"robot gone: {error}")
        return {**self.tally(), "robot": own}

    def close(self) -> None:
        """Let go of the robot."""
        self._driver.close()

    @property
    def settled(self) -> bool:
        """Whether nothing moves by command: at rest and, in an emergency stop, the robot's own requested; or the robot is gone."""
        return bool(self._gone) or (self.motion.at_rest and (self._drive_stopped or not self._latched))

    @property
    def refusal(self) -> str:
        """Why no command is taken, whatever it is; empty: commands are taken."""
        return self._gone or (f"stopped: {self._latched}" if self._latched else "") or (f"held: by {self._held_by}" if self._held_by else "") or self._unsure

    @property
    def _episode_over(self) -> bool:
        return self.reading.observation is not None and self.reading.observation.ended

    def _forbidden(self, now: float, missed: int) -> str:
        """Take note of what happened since the last tick; returns why no source's command may be sent in this one."""
        self.counts.missed_ticks += missed
        self._look_at_latch()
        self._silent_ticks = 0 if self._heard else self._silent_ticks + 1
        asked, self._heard, self._asked_to_hold = self._asked_to_hold, False, False
        # A robot that holds stands at the last command from the first tick without another, and when its own clock calls that
        # silence is not known here to a tick: half of the time is enough. One that brakes needs all of it.
        patience_s = self.info.silence_s * (0.5 if self.info.on_silence == "holds" else 1.0)
        stands = missed / self.info.rate_hz >= patience_s and not self.info.lockstep
        if stands:
            self._settle()
        cause = self.refusal
        if not cause and self.options.deadman_s is not None and now - self._alive_at > self.options.deadman_s:
            cause = "deadman: no signal"
        if not cause and self._episode_over:
            cause = "episode over"
        if not cause and (stands or missed > self.options.max_late_ticks):
            cause = f"drive late: {missed} ticks"
        if not cause and asked:
            cause = "hold asked"
        if self._offer is not None and cause:
            self.counts.refuse(cause)
        return cause

    def _look_at_latch(self) -> None:
        record = self.latch.read()
        if record is not None:
            self.counts.stops += not self._latched
            self._latched = record.line()
        elif self._latched and not self._unsaved and self.motion.at_rest:  # cleared: believed only while nothing moves
            self._latched = ""

    def _settle(self) -> None:
        """The robot was without commands for longer than it waits: it stands by itself, where it declares to."""
        self.motion.halt()
        if self.info.on_silence != "holds" and self.reading.observation is not None:
            self.reading.observation.doubt = "drive late"  # it was made before: where the robot has come to rest is read anew

    def _check(self, command: np.ndarray, reference: Reference | None, tick: int) -> str:
        """Return why a command may not be that of the next tick; empty: it may."""
        due = self.reading.tick + 1
        if tick < due:
            return f"late: for tick {tick}, the next is {due}"
        if tick > due:
            return f"early: for tick {tick}, the next is {due}"
        if self.refusal:
            return self.refusal
        if self._offer is not None:
            return "duplicate: this tick has a command"
        if np.shape(command) != (self.spec.action.dim,):
            return f"shape: expected ({self.spec.action.dim},), found {np.shape(command)}"
        if not np.isfinite(command).all():
            return "not finite: a command of finite numbers is expected"
        return self.motion.refuse(np.asarray(command), reference)

    def _send(self, offered: tuple[np.ndarray, Reference | None] | None, cause: str, now: float) -> None:
        """Write the offered command, or the brake's next sample, or hold, or request the drive's own stop."""
        if self.options.watch and not self._latched:
            self.reading.state, self.reading.cause = "holding", "watching"
            return
        if offered is not None and self._drive_stopped:
            cause = self._wake()
            offered = None if cause else offered
        cause = cause or self._refused or "silent"
        self._refused, command, state, before = "", None, "holding", self.motion.reference
        if offered is not None:
            state, cause, command = "active", "", self.motion.accept(*offered)
            self.counts.commands += 1
            self._was_active = True
        elif not self._episode_over:  # in an episode that is over there is nothing left to brake
            state, command = "braking", self.motion.brake(emergency=bool(self._latched))
            self.counts.brake_ticks += command is not None
        if command is not None:
            self._write(command, before)
            self._silent_since = math.inf
        else:
            state, cause = "holding", self._rest(now) or cause
        self.reading.state, self.reading.cause = state, cause

    def _write(self, command: np.ndarray, before: Reference | None) -> None:
        """Send a command (Da,), to a driver that takes it the motion from ``before`` that it stands for."""
        write_motion: Any = getattr(self._driver, "write_motion", None)
        if write_motion is not None and before is not None and self.motion.reference is not None:
            write_motion(before, self.motion.reference)
        else:
            self._driver.write(np.ascontiguousarray(command))
        seen = self.reading.observation
        self.reaction.add(self._clock() - 1e-9 * max(seen.capture_ns.values()) if seen and seen.capture_ns else 0.0)

    def _rest(self, now: float) -> str:
        """Hold, or request the drive's own stop once it is due. Returns what is to be said of that; empty: nothing."""
        silent = self._was_active and self._silent_ticks >= self.options.expiry_ticks and not self.info.lockstep
        self._silent_since = min(self._silent_since, now) if silent else math.inf
        if not self._drive_stopped and (self._latched or now - self._silent_since >= self.options.stop_after_s):
            self.request_stop()
        elif not self._drive_stopped:
            self._driver.hold()
            self.counts.hold_ticks += 1
        return "silent; stop requested" if self._drive_stopped else ""

    def _wake(self) -> str:
        """Take back the request to stop; returns why that cannot be, empty: the robot takes commands."""
        clear: Any = getattr(self._driver, "clear", None)
        if clear is None:
            return "stop requested: this robot's driver cannot take that back; start the drive again"
        clear()
        self._drive_stopped = False
        return ""

    def _read(self, number: int, anew: bool = False) -> None:
        """Read the robot at the end of tick ``number``; where it stands is where motion begins in a new episode and after a stop."""
        before, observation = self.reading, None
        if not self._gone:
            observation = self._driver.read()
            doubt = (self.redundancy.apply(observation) if self.redundancy else "") or observation.doubt
            last = before.observation  # after a doubt the robot stands where it is found
            new = anew or last is None or observation.episode != last.episode or bool(last.doubt and self.motion.at_rest)
            if doubt:
                self._unsure = doubt
            elif new or observation.ended or self._drive_stopped or self.options.watch:
                self._unsure = self.motion.rest_at(observation)
            else:
                self._unsure, stop = self.motion.watch(observation)
                if stop and not self._latched:
                    self.stop(self._unsure, "the drive")
        stopped = self._gone or self._latched
        reference = None if self.motion.reference is None else self.motion.reference.copy()
        state, cause = ("stopped", stopped) if stopped else (before.state, before.cause)
        self.reading = DriveReading(number, state, cause, reference, observation)
        if observation is not None:
            observation.tick, observation.reference, observation.drive_state, observation.cause = number, reference, state, cause
