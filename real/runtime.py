"""The control runtime: one visible tick between a robot and a policy, with a defined behaviour for everything that is missing.

The drive is the clock: every reading of it is one tick, and the command made from it is for the next. The states of a run
are in ``real.states``, the policy's part of a tick in ``real.plans``, what makes commands and keeps them safe in ``real.levels``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from policies.spec import InputError
from real.beside import Goals, Operator, StepRecorder, Teleoperator, Watcher
from real.drive_handle import DriveHandle
from real.levels import Command, JointLevel, make_level
from real.plans import PolicyLevel
from real.policy import AsyncPolicy, RequestFailed
from real.robot import Observation, RobotGone
from real.states import States
from real.summary import EpisodeRecord, Summary

_RAMP_PER_S = 0.5  # of the speed upwards; downwards it is at once
_EARLY_S = 0.002  # before the next reading is due, waiting for plans ends
_STILL = 1e-3  # rad/s or m/s
_ARRIVED = 0.02  # rad or m from the first action at which the slow approach ends


@dataclass(frozen=True)
class RuntimeOptions:
    """How the loop runs.

    Attributes:
        timeout_s: Deadline of a plan that was asked for; afterwards it is not executed.
        lockstep_timeout_s: The same when the world waits for the policy; the run ends when it passes.
        max_age_s: No plan is asked for with a field captured longer ago.
        noise_seed: Seed of the policy's noise.
        lead: Policy steps before the end of a plan at which the next is asked for; None: from the measured latency.
        quantile: Of the latency that the lead covers.
        read_timeout_s: Without a reading for so long the robot is gone.
        speed: Of the motion of a robot of joints, above 0 to 1.
        approach: Largest distance, rad or m, from the pose to the first action that is driven at full speed.
        approach_speed: Of the way to a first action that is farther away.
        frozen_after: See ``real.observing.ObservationWindow``.
        slow_on: Number in ``plan.info`` -> (value up to which the speed is full, value from which the robot holds; one that
            cannot be slowed down holds beyond the first).
        shadow: Nothing is sent: what would have been is compared with what the robot does.
    """

    timeout_s: float = 0.5
    lockstep_timeout_s: float = 30.0
    max_age_s: float = 0.5
    noise_seed: int = 0
    lead: int | None = None
    quantile: float = 0.95
    read_timeout_s: float = 2.0
    speed: float = 1.0
    approach: float = 0.2
    approach_speed: float = 0.2
    frozen_after: float | None = 0.05
    slow_on: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shadow: bool = False


class Runtime:
    """Closes the loop between one robot and one policy.

    Args:
        robot: Handle of the robot's drive.
        policy: ``real.client.PolicyClient`` or ``real.policy.LocalPolicy``.
        options: See :class:`RuntimeOptions`.
        clock: Monotonic seconds.
        watcher: Told of every tick and event.
        operator: Asked every tick what the operator wants.
        planner: Gives the goal fields of the observation.
        teleoperator: Asked at every policy step whether a person acts in the policy's place.
        recorder: Given every policy step that was executed.

    Attributes:
        states: ``idle``, ``active``, ``hold`` or ``stopped``, and the cause.
        summary: Counts so far.
        speed: Of the motion now.

    Raises:
        SpecMismatch: when robot and policy do not fit; nothing has moved.
        InputError: when the robot's declarations do not fit together, or it cannot be as slow as asked.
    """

    def __init__(
        self, robot: DriveHandle, policy: AsyncPolicy, options: RuntimeOptions = RuntimeOptions(), *, clock: Callable[[], float] = time.monotonic,
        watcher: Watcher | None = None, operator: Operator | None = None, planner: Goals | None = None,
        teleoperator: Teleoperator | None = None, recorder: StepRecorder | None = None,
    ) -> None:  # fmt: skip
        info = robot.info
        given = () if planner is None else (planner.field,)
        policy.spec.subset([n for n in policy.spec.observation.fields if n not in given]).require(robot.spec, "the policy", f"robot {info.name!r}")
        self.robot, self.options, self.rate_hz, self.lockstep = robot, options, info.rate_hz, info.lockstep
        self.summary = Summary(self.rate_hz, self.lockstep)
        self.states = States(self._changed)
        self.plans = PolicyLevel(policy, info, options, self.summary, clock, given)
        self.level = make_level(robot.spec.observation, robot.spec.action, info)
        if options.speed < 1 and not self.level.slows:
            raise InputError(f"speed {options.speed:g}: robot {info.name!r} declares no limits of motion, so it cannot be slowed down")
        self.speed = self._asked_speed = options.speed
        self._clock, self._watcher, self._operator, self._planner = clock, watcher, operator, planner
        self._teleoperator, self._recorder = teleoperator, recorder
        self._taken = False  # a person chose the action being executed
        self._episode: EpisodeRecord | None = None
        self._finished = False  # the present episode has been recorded
        self._held_by_operator = False
        self._goal: Mapping[str, np.ndarray] | None = None
        self._approach: np.ndarray | None = None  # the first action, while it is approached slowly
        self._approached = 0  # ticks of that
        self._intended: np.ndarray | None = None  # shadow: the command that would have been
        self._tick, self._read_at, self._sent = 0, 0.0, False  # of the tick before

    @property
    def state(self) -> str:
        """The present state's name."""
        return self.states.now

    @property
    def cause(self) -> str:
        """Why the run is in hold or stopped."""
        return self.states.cause

    def tick(self) -> None:
        """One control step: read, plan, control, filter, write. A bad action is never sent; without a good one the robot is held."""
        self._await_plan()
        reading = self.robot.read(self.options.read_timeout_s)
        self._observe(reading)
        if self.options.shadow:
            reading = self._compare(reading)
        due = self.level.due
        action = self._chosen(reading, self._next_action(reading))
        command = self.level.step(action, reading, self._speed())
        self._send(command, reading)
        if self._recorder is not None and due and action is not None and command is not None and self._approach is None:
            self._recorder.step(reading, action, self._taken)

    def run(self, *, seconds: float | None = None, episodes: int | None = None, stopped: Callable[[], bool] = lambda: False) -> Summary:
        """Tick until a limit is reached; the robot is held at the end.

        Args:
            seconds: Wall time after which to end.
            episodes: Finished episodes after which to end.
            stopped: Asked before every tick; True ends the run.
        """
        summary = self.summary
        limits = [n for n in (episodes, self.robot.info.episodes) if n is not None]
        origin = self._clock()
        self.states.enter("hold", "starting")
        try:
            while not self._over(seconds, min(limits, default=None), stopped, self._clock() - origin):
                self.tick()
        except RobotGone as error:
            summary.ended, summary.failed = _gone(error), True
        except RequestFailed as error:  # lock-step only: without plans the world would stand still for ever
            summary.ended, summary.failed = f"no plan ({error.cause}): {error}", True
        finally:
            summary.seconds = self._clock() - origin
            self._end()
        return summary

    def _over(self, seconds: float | None, episodes: int | None, stopped: Callable[[], bool], elapsed_s: float) -> bool:
        if self.state == "stopped":
            self.summary.ended, self.summary.failed = f"stopped: {self.cause}", True
        elif episodes is not None and len(self.summary.episodes) >= episodes:
            self.summary.ended = f"{episodes} episodes done"
        elif seconds is not None and elapsed_s >= seconds:
            self.summary.ended = f"{seconds:g} s done"
        elif stopped():
            self.summary.ended = "stopped"
        return bool(self.summary.ended)

    def _end(self) -> None:
        """Hold the robot for the last time."""
        policy, chunks, summary = self.plans.policy, self.plans.chunks, self.summary
        policy.abandon()
        self.states.enter("idle")
        for count in ("late_replies", "malformed_replies", "sessions"):
            setattr(summary, count, getattr(policy, count, 0))
        summary.late_chunks, summary.dropped_actions = chunks.late_chunks, chunks.dropped_actions
        if not summary.ended.startswith("robot gone"):
            try:
                self.robot.hold()
                summary.drive = self.robot.report()
                summary.overruns += summary.drive["missed_ticks"]
            except RobotGone as error:
                summary.ended += f"; {_gone(error)}"

    def _await_plan(self) -> None:
        """Take a plan in that comes before the next reading is due: its latency is then the true one."""
        left = self._read_at + 1 / self.rate_hz - self._clock() - _EARLY_S
        if self._tick and not self.lockstep and left > 0 and self.plans.policy.in_flight:
            self.plans.collect(left)

    def _observe(self, reading: Observation) -> None:
        """Take the reading in: the drive's state, what the operator wants, the beginning or end of an episode."""
        now = self._clock()
        if self._tick and not self.lockstep:
            self.summary.overruns += max(reading.tick - self._tick - 1, 0)
            self.summary.jitter.add(abs(now - self._read_at - (reading.tick - self._tick) / self.rate_hz))
        self.summary.on_time += not self._sent or reading.drive_state == "active"
        self._tick, self._read_at = reading.tick, now
        if reading.drive_state == "stopped":
            self.states.enter("stopped", reading.cause)
        if self._operator is not None:
            self._operator.speed = self._asked_speed
            self._obey(self._operator.poll())
        self.speed = min(self._asked_speed, self.speed + _RAMP_PER_S / self.rate_hz)
        if self._episode is None or reading.episode != self._episode.index:
            if self._episode is not None and not self._finished:  # its end came while this process did not read
                self._episode.unseen = True
                self.summary.episodes.append(self._episode)
            self._episode, self._finished, self._approach = EpisodeRecord(reading.episode), False, None
            self.plans.begin(self._episode)
            self.level.start(reading)
        self.plans.window.push(reading)
        if self._recorder is not None:
            self._recorder.reading(reading)
        self._episode.success |= reading.success
        if reading.ended and not self._finished:
            self._finished = True
            self.plans.drop()
            self.summary.episodes.append(self._episode)
            for beside in (self._teleoperator, self._recorder):
                if beside is not None:
                    beside.ended(reading)
        if self._watcher is not None and self.level.due:
            self._watcher.observation(reading.fields, reading.capture_ns)

    def _compare(self, reading: Observation) -> Observation:
        """Shadow: count how far the robot is from what would have been commanded; every policy step begins where it really stands."""
        reading = replace(reading, reference=None)
        if isinstance(self.level, JointLevel):
            if self._intended is not None:
                self.summary.shadow.add(np.abs(self.level.measured(reading) - self._intended))
            if self.level.due:
                self.level.start(reading)
        return reading

    def _obey(self, wishes: Sequence[tuple[str, float]]) -> None:
        for wish, value in wishes:
            if wish == "stop":
                self.robot.stop("operator")
                self.states.enter("stopped", "operator")
            elif wish == "hold":
                self._held_by_operator = True
            elif wish == "resume":
                self._held_by_operator = False
                self.robot.resume()  # somebody may have held the drive itself
            elif wish == "speed":
                self._asked_speed = float(np.clip(value, 0.0, 1.0))
            elif wish == "deadman":
                self.robot.alive()

    def _next_action(self, reading: Observation) -> np.ndarray | None:
        """Return the action of this policy step, if one is due and may be taken; else the cause stands in ``plans.missing``."""
        reason = self._held(reading)
        if not reason and self._planner is not None:
            self._goal = self._planner.update(reading, self._clock())
            reason = "no sub-goal" if self._goal is None else ""
        if reason:
            self.plans.missing, self._approach = reason, None
            self.plans.drop()  # by the time that the robot may move again it is old
            self.level.drop()
            return None
        if self._approach is not None:
            return self._approaching(reading)
        self.plans.collect(0.0)
        if self.plans.certainty <= 0 and not self._taken:
            self.level.drop()
        self.plans.slow(self._speed())
        was_still = self.state != "active"
        action = self.plans.action(reading, self.level.due, self._goal)
        if action is not None and was_still and self._distance(action, reading) > self.options.approach:
            self._approach, self._approached = action, 0
        return action

    def _chosen(self, reading: Observation, action: np.ndarray | None) -> np.ndarray | None:
        """Return what a person does in the place of the policy's ``action`` (Da,), if anybody has taken over."""
        if self._teleoperator is None or not self.level.due or self._held(reading):
            return action
        by_hand = self._teleoperator.act(reading, action)
        self._taken = by_hand is not None
        if by_hand is None:
            return action
        self._approach = None
        self.plans.drop()  # whoever gives the robot back gives it back somewhere else
        if not np.size(by_hand):
            self.plans.missing = "taken over"
            return None
        if np.shape(by_hand) != (self.robot.spec.action.dim,) or not np.isfinite(by_hand).all():
            self.summary.bad_actions += 1
            self.plans.missing = "bad action"
            return None
        return by_hand

    def _held(self, reading: Observation) -> str:
        """Return why the robot may not move, whatever the policy wants; empty: it may."""
        if self._finished:
            return "episode over"
        if self._held_by_operator or self.state == "stopped":
            return "operator"
        if self.speed <= 0 or (self._asked_speed < 1 and not self.level.slows):
            return "speed"
        if reading.drive_state != "active" and reading.cause.startswith(("deadman", "held")):
            return reading.cause.partition(":")[0]
        return ""

    def _approaching(self, reading: Observation) -> np.ndarray | None:
        """Return the first action until it is reached, slowly, or nothing moves any more; then ask anew, for the plan it came from is old."""
        assert self._approach is not None
        self._approached += 1
        stands = reading.reference is not None and bool((np.abs(reading.reference.velocity) < _STILL).all())
        if self._distance(self._approach, reading) > _ARRIVED and not (stands and self._approached > self.rate_hz):
            return self._approach
        self._approach = None
        self.plans.drop()
        return self.plans.action(reading, self.level.due, self._goal)

    def _distance(self, action: np.ndarray, reading: Observation) -> float:
        """Return the largest distance of a joint, rad or m, from where it is sent to ``action`` in its range; 0 where commands are no positions."""
        motion = self.robot.info.motion
        if reading.reference is None or motion is None:
            return 0.0
        return float(np.abs(np.clip(action, motion.low, motion.high) - reading.reference.position).max())

    def _speed(self) -> float:
        if self._approach is not None:
            return self.options.approach_speed * self.speed
        return self.speed * (1.0 if self._taken else self.plans.certainty)  # what the policy doubts does not hold who took over for that

    def _send(self, command: Command | None, reading: Observation) -> None:
        """Let the command go to the drive, count what became of it, and tell the watcher."""
        self._sent = command is not None and not self.options.shadow
        self._intended = None if command is None else command.values
        if command is None or self.options.shadow:
            self.robot.hold()
        else:
            self.robot.write(command.values, command.reference)
        assert self._episode is not None, "an episode begins with its first reading"
        if command is not None and not command.braking:
            self.states.enter("active", "approach" if self._approach is not None else "")
            self.summary.actions += 1
            self._episode.steps += 1
        else:
            cause = "safety" if command is not None and command.causes else self.plans.missing
            self.states.enter("hold", cause)
            self.summary.holds[cause] += 1
            self._episode.holds += not self._finished
        self.summary.ticks += 1
        if command is not None and command.causes:
            self.summary.interventions.update(command.causes)
            self.summary.clamped += "range" in command.causes
            if self._watcher is not None:
                self._watcher.event("intervention", ", ".join(command.causes), command.before, command.values)
        if self._watcher is not None:
            self._watcher.tick(self._numbers(command, reading))

    def _numbers(self, command: Command | None, reading: Observation) -> dict[str, object]:
        """Return what is worth seeing of this tick."""
        summary = self.summary
        out: dict[str, object] = {"tick": reading.tick, "state": self.state, "cause": self.cause, "drive": reading.drive_state, "speed": self.speed}
        out["tick_ms"] = 1e3 * (self._clock() - self._read_at)
        if summary.plans:
            out["plan_ms"] = 1e3 * summary.latency.last_s
        out["counts"] = {"overruns": summary.overruns, "late plans": self.plans.chunks.late_chunks, **summary.interventions}
        if reading.reference is not None and isinstance(self.level, JointLevel):
            out["reference"], out["measured"] = reading.reference.position, self.level.measured(reading)
        if command is not None:
            out["command"] = command.values
        return out

    def _changed(self, before: str, after: str, cause: str) -> None:
        if self._watcher is not None:
            self._watcher.event("state", f"{before} -> {after}" + (f": {cause}" if cause else ""))


def _gone(error: RobotGone) -> str:
    text = str(error)
    return text if text.startswith("robot gone") else f"robot gone: {text}"
