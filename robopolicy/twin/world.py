"""The twin: a simulated world behind the robot interface, in a process of its own.

In real time the world steps at the task's rate (times ``speed``) with the newest command; when commands stop coming it
holds, as its driver declares. In lock-step it steps once for every command, as fast as the policy answers. Episodes
follow each other with seeds ``seed0``, ``seed0 + 1``, ...; the clock of an episode starts with its first command, and
a new one begins once the reading that says ``ended`` has been delivered, so that nobody misses an end.

A world whose commands are joint positions (:class:`sim.env.JointDriven`) steps at its drive's rate. There a command that
arrives a little early waits for its tick, so that jitter makes no jumps, and one that was meant for an episode that is
over moves nothing.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from policies.motion import joint_columns
from policies.spec import InputError
from robopolicy.twin.log import TwinLog
from sim.env import BatchEnv, JointDriven, StepResult

_FIRST_PHASE = 0.4  # of a period: where in its interval the first command arrives; the step before has been done, jitter stays inside
_EARLY = 2  # commands of joint positions that can wait; of more the oldest is dropped


@dataclass
class TwinEpisode:
    """One episode as the world saw it.

    Attributes:
        index: Counts from 0 in every session.
        seed: What the world was reset with.
        success: Whether success was reached.
        length: Control steps: actions of the task's rate.
        score: Largest score, None where the task has none.
        repeated: Real time: steps without a new command, in which the last one was used again.
        silent: Real time: steps in which the world held because commands had stopped coming.
        ticks: Steps of the world; a joint-driven one does several in a control step.
    """

    index: int
    seed: int
    success: bool = False
    length: int = 0
    score: float | None = None
    repeated: int = 0
    silent: int = 0
    ticks: int = 0

    def line(self) -> str:
        """Return how it ended, for a log."""
        score = "" if self.score is None else f", score {self.score:.2f}"
        return f"episode {self.index} (seed {self.seed}): {'success' if self.success else 'no success'} in {self.length} steps{score}"


@dataclass
class World:
    """One world and its list of episodes; it knows commands and time, not the network.

    Attributes:
        env: A batch of one world, auto-reset off; if it is :class:`sim.env.JointDriven`, it is stepped tick by tick.
        seed0: Seed of the first episode.
        episodes: How many there are; None: without end.
        lockstep: Whether it steps by commands alone.
        speed: Real time: how many times faster than the task's rate.
        silence_s: Real time: seconds without a command after which it holds.
        log: Where the beginnings of episodes and silences are written; None: nowhere.
    """

    env: BatchEnv
    seed0: int = 0
    episodes: int | None = None
    lockstep: bool = False
    speed: float = 1.0
    silence_s: float | None = None
    log: TwinLog | None = None
    records: list[TwinEpisode] = field(default_factory=list)
    slips: int = 0  # steps that began more than half a period late: this machine is too slow for the world

    def __post_init__(self) -> None:
        """Check the options and begin the first episode."""
        if self.env.num_worlds != 1 or self.env.autoreset:
            raise ValueError("the twin needs a batch of one world without auto-reset")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise InputError(f"speed: expected a number above 0, found {self.speed:g}")
        self.joints: JointDriven | None = self.env if isinstance(self.env, JointDriven) else None
        channels = getattr(getattr(self.env, "randomizer", None), "channels", ())
        if self.joints is not None and channels:
            raise InputError(f"twin of {self.env.task!r}: randomize.{channels[0]} acts once a control step, this world is stepped tick by tick: leave it out")
        self.substeps = self.joints.control_substeps if self.joints else 1
        self.rate_hz = self.env.spec.action.rate_hz * self.substeps * self.speed
        self.silence_s = max(0.25, 3 / self.rate_hz) if self.silence_s is None else self.silence_s
        self.restart()

    @property
    def over(self) -> bool:
        """Whether the last episode has ended."""
        return self.ended and self.episodes is not None and len(self.records) >= self.episodes

    def finished(self) -> list[TwinEpisode]:
        """Return the records of the episodes that have ended."""
        return [r for r in self.records if r is not self.record or self.ended]

    def restart(self) -> None:
        """Forget all records and begin the first episode."""
        self.records.clear()
        self._begin()

    def _begin(self) -> None:
        index = len(self.records)
        self.record = TwinEpisode(index, self.seed0 + index)
        self.records.append(self.record)
        self.observation = {n: a[0] for n, a in self.env.reset(np.array([self.record.seed], np.int64)).items()}
        self.ended = self.delivered = False
        self.command: np.ndarray | None = None  # None: the clock of this episode has not started
        self._fresh, self._waited, self._quiet = False, 0, False
        self._early: deque[np.ndarray] = deque(maxlen=_EARLY)
        self._commanded_at = self._next_step = self.captured_at = time.monotonic()
        if self.log:
            self.event("begin", command=self._standing())

    def _standing(self) -> np.ndarray | None:
        """Return where the joints stand (n,), None for a robot without joint commands."""
        if self.joints is None:
            return None
        name, columns = joint_columns(self.env.spec.observation, self.joints.motion.names)
        return self.observation[name].astype(np.float64)[columns]

    def event(self, kind: str, sequence: int = 0, command: np.ndarray | None = None, refused: str = "", episode: int | None = None) -> None:
        """Write an event of this moment to the log, if there is one; ``command`` (n,) as it arrived. See :meth:`TwinLog.event`."""
        if self.log:
            meant = self.record.seed if episode is None else episode
            self.log.event(kind, time.monotonic_ns(), sequence, meant, self.record.ticks, command, refused)

    def reading(self, now: float) -> tuple[dict[str, np.ndarray], float]:
        """Return the newest observation and its age in seconds; a world whose clock stands still is measured now."""
        running = self.command is not None and not self.ended and not self.lockstep
        return self.observation, max(now - self.captured_at, 0.0) if running else 0.0

    def write(self, command: np.ndarray | None, now: float) -> None:
        """Take a command (Da,), or None to hold. In lock-step the world steps; an episode that has ended makes room for the next."""
        if self.ended:
            self._next_episode()
            return
        if command is None and self.command is None:
            self._waited += 1  # nothing has moved yet: holding takes no step, but not for ever
            if self.lockstep and self._waited >= self.env.max_episode_steps * self.substeps:
                self.ended = True
            return
        if self.command is None:
            self._next_step = now + (1 - _FIRST_PHASE) / self.rate_hz
            self.captured_at = now
        chosen = self._held() if command is None else np.array(command, np.float64 if self.joints else np.float32)
        if command is None:
            self._early.clear()
        if self.joints is not None and not self.lockstep:
            self._early.append(chosen)
        if self.command is None or self.joints is None or self.lockstep:
            self.command = chosen
        self._fresh, self._quiet, self._commanded_at = True, False, now
        if self.lockstep:
            self._step()

    def advance(self, now: float) -> float:
        """Real time: do the step that is due; returns seconds until the next."""
        if self.ended:
            self._next_episode()
        if self.lockstep or self.ended or self.command is None:
            return math.inf
        if now >= self._next_step:
            period = 1 / self.rate_hz
            if now - self._commanded_at > (self.silence_s or 0):
                self.command = self._held()
                self.record.silent += 1
                if not self._quiet:
                    self._quiet = True
                    self.event("silent", command=self.command)
            elif self._early:
                self.command = self._early.popleft()
            elif not self._fresh:
                self.record.repeated += 1
            self.captured_at = self._next_step
            if now - self._next_step > 0.5 * period:
                self.slips += 1
                self.captured_at = self._next_step = now  # the world waits for this machine, it never hurries after it
            self._next_step += period
            self._step()
        return max(self._next_step - time.monotonic(), 0.0)

    def _held(self) -> np.ndarray:
        """Return the command (n,) that keeps the robot where the last one brought it."""
        assert self.command is not None
        return self.command if self.joints else self.env.spec.action.hold(self.command)

    def _advance_world(self) -> StepResult:
        assert self.command is not None
        return self.joints.control_step(self.command[None]) if self.joints else self.env.step(self.command[None])

    def _step(self) -> None:
        result = self._advance_world()
        self._fresh = False
        self.record.ticks += 1
        self.record.length = -(-self.record.ticks // self.substeps)
        self.record.success |= bool(result.info["success"][0])
        if "score" in result.info:
            self.record.score = max(float(result.info["score"][0]), self.record.score if self.record.score is not None else -math.inf)
        self.observation = {name: array[0] for name, array in result.next_obs.items()}
        self.ended = self.record.success or bool(result.terminated[0] or result.truncated[0])

    def _next_episode(self) -> None:
        if self.delivered and not self.over:
            self._begin()


def open_log(path: Path, env: BatchEnv, lockstep: bool, speed: float) -> TwinLog:
    """Begin or continue a log of commands to the world of ``env``. Raises InputError if the file cannot be written."""
    joints = env if isinstance(env, JointDriven) else None
    substeps = joints.control_substeps if joints else 1
    about = {"task": env.task, "dim": env.spec.action.dim, "rate_hz": env.spec.action.rate_hz * substeps * speed, "substeps": substeps, "lockstep": lockstep}
    return TwinLog(path, {**about, "motion": joints.motion.to_dict() if joints else None})
