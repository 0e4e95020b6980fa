"""The control runtime: one visible tick between a robot and a policy, at a fixed rate, with a defined behaviour for everything that is missing.

States: ``idle`` before and after a run, ``active`` while actions of a plan are sent, ``hold`` while the robot keeps its
pose because there is no action that may be sent; the cause is counted. Only :meth:`Runtime._enter` changes the state:
idle -> hold at the start, hold <-> active by whether this tick has a command, any -> idle at the end, after a last hold.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from policies.base import Plan, State
from policies.noise import row_keys
from policies.spec import InputError, SpecMismatch
from real.chunks import ChunkBuffer
from real.policy import AsyncPolicy, RequestFailed
from real.robot import Observation, Robot, RobotGone
from real.summary import EpisodeRecord, Summary

_POLL_S = 0.002  # polling is not finer than this: the rest of the way to a grid point is slept


@dataclass(frozen=True)
class RuntimeOptions:
    """How the loop runs.

    Attributes:
        rate_hz: Control rate; None: the robot's. A lower one runs the same plan slower, a higher one is refused.
        timeout_s: Deadline of a plan that was asked for; afterwards it is not executed.
        lockstep_timeout_s: The same when the world waits for the policy; the run ends when it passes.
        max_age_s: No plan is asked for with a field captured longer ago.
        noise_seed: Seed of the policy's noise.
        lead: Steps before the end of a plan at which the next is asked for; None: from the measured latency.
        quantile: Of the latency that the lead covers.
    """

    rate_hz: float | None = None
    timeout_s: float = 0.5
    lockstep_timeout_s: float = 30.0
    max_age_s: float = 0.5
    noise_seed: int = 0
    lead: int | None = None
    quantile: float = 0.95


class Runtime:
    """Closes the loop between one robot and one policy.

    Args:
        robot: The robot or its twin.
        policy: ``real.client.PolicyClient`` or ``real.policy.LocalPolicy``.
        options: See :class:`RuntimeOptions`.
        clock: Monotonic seconds.
        sleep: Waits for some seconds.

    Attributes:
        state: ``idle``, ``active`` or ``hold``.
        cause: Why it holds.
        summary: Counts so far.

    Raises:
        SpecMismatch: when robot and policy do not fit; nothing has moved.
        InputError: when the robot says that nobody knows what it does without commands, or for a rate beyond the robot's.
    """

    def __init__(
        self, robot: Robot, policy: AsyncPolicy, options: RuntimeOptions = RuntimeOptions(), *,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        policy.spec.require(robot.spec, "the policy", f"robot {robot.info.name!r}")
        self.robot, self.policy, self.options = robot, policy, options
        self.lockstep = robot.info.lockstep
        self.rate_hz = _checked_rate(robot, options.rate_hz)
        self.summary = Summary(self.rate_hz, self.lockstep)
        self.state, self.cause = "idle", ""
        self.chunks = ChunkBuffer(
            policy.n_action_steps, policy.spec.action.dim, self.rate_hz, 0 if self.lockstep else options.lead, options.quantile
        )
        self._clock, self._sleep = clock, sleep
        self._window: deque[Mapping[str, np.ndarray]] = deque(maxlen=policy.n_obs_steps)
        self._streams: State = policy.initial_state(1)
        self._episode: EpisodeRecord | None = None
        self._finished = False  # the present episode has been recorded
        self._calls = 0  # plans asked for in this episode: names the noise of each
        self._asked_at = 0.0
        self._missing = "starting"  # why there is no plan, should there be none
        self._failed_before = False  # the request before this one brought no plan: its cause stands until one does

    def tick(self) -> None:
        """One control step: read, plan, splice, check, write. A bad action is never sent; without a good one the robot is held."""
        reading = self.robot.read()
        self._observe(reading)
        action = None if self._finished else self._next_action(reading)
        command = self.check(action)
        if command is None:
            self._hold()
        else:
            self.robot.write(command)
            self._enter("active")
            self.summary.actions += 1
            self._episode_record().steps += 1
        self.summary.ticks += 1

    def check(self, action: np.ndarray | None) -> np.ndarray | None:
        """Return the command (Da,) to send for ``action``: finite, of the right shape, clamped to the limits; else None."""
        if action is None:
            return None
        spec = self.policy.spec.action
        if np.shape(action) != (spec.dim,) or not np.isfinite(action).all():
            self.summary.bad_actions += 1
            self._missing = "bad action"
            return None
        command = spec.clip(action)
        self.summary.clamped += bool((command != np.asarray(action, np.float32)).any())
        return command

    def run(self, *, seconds: float | None = None, episodes: int | None = None, stopped: Callable[[], bool] = lambda: False) -> Summary:
        """Tick at the control rate (as fast as the world goes in lock-step) until a limit is reached; the robot is held at the end.

        Ticks are due on an absolute grid. One that is more than half a period behind gives up the grid points it has
        missed (counted as overruns): they are never caught up, and two commands are never closer than half a period.

        Args:
            seconds: Wall time after which to end.
            episodes: Finished episodes after which to end.
            stopped: Asked before every tick; True ends the run.
        """
        summary, period = self.summary, 1.0 / self.rate_hz
        limits = [n for n in (episodes, self.robot.info.episodes) if n is not None]
        origin, due = self._clock(), 0
        self._enter("hold", "starting")
        try:
            while not self._over(seconds, min(limits, default=None), stopped, self._clock() - origin if self.lockstep else due * period):
                if self.lockstep:
                    self.tick()
                    continue
                self._wait_until(origin + due * period)
                summary.jitter.add(self._clock() - (origin + due * period))
                self.tick()
                summary.on_time += self._clock() - (origin + due * period) <= 0.5 * period
                due += 1
                missed = max(round((self._clock() - (origin + due * period)) / period), 0)
                summary.overruns += missed
                due += missed
        except RobotGone as error:
            summary.ended, summary.failed = f"robot gone: {error}", True
        except RequestFailed as error:  # lock-step only: without plans the world would stand still for ever
            summary.ended, summary.failed = f"no plan ({error.cause}): {error}", True
        finally:
            summary.seconds = self._clock() - origin
            self._end()
        return summary

    def _over(self, seconds: float | None, episodes: int | None, stopped: Callable[[], bool], elapsed_s: float) -> bool:
        if episodes is not None and len(self.summary.episodes) >= episodes:
            self.summary.ended = f"{episodes} episodes done"
        elif seconds is not None and elapsed_s >= seconds:
            self.summary.ended = f"{seconds:g} s done"
        elif stopped():
            self.summary.ended = "stopped"
        return bool(self.summary.ended)

    def _wait_until(self, when: float) -> None:
        """Wait for the next grid point; a plan that comes in the meantime is taken in then, so that its latency is the true one."""
        left = when - self._clock() - _POLL_S
        if left > 0 and self.policy.in_flight:
            self._collect(left)
        left = when - self._clock()
        if left > 0:
            self._sleep(left)

    def _end(self) -> None:
        """Hold the robot for the last time."""
        self._enter("idle")
        self.policy.abandon()
        for source in ("late_replies", "sessions"):
            setattr(self.summary, source, getattr(self.policy, source, 0))
        self.summary.late_chunks, self.summary.dropped_actions = self.chunks.late_chunks, self.chunks.dropped_actions
        if not self.summary.ended.startswith("robot gone"):
            try:
                self.robot.hold()
            except RobotGone as error:
                self.summary.ended += f"; robot gone: {error}"

    def _enter(self, state: str, cause: str = "") -> None:
        """The one place where the state changes."""
        self.state, self.cause = state, cause

    def _hold(self) -> None:
        self.robot.hold()
        self._enter("hold", self._missing)
        self.summary.holds[self._missing] += 1
        if not self._finished:
            self._episode_record().holds += 1

    def _episode_record(self) -> EpisodeRecord:
        assert self._episode is not None, "an episode begins with its first reading"
        return self._episode

    def _observe(self, reading: Observation) -> None:
        """Take the reading into the window; begin a new episode or note the end of one."""
        if self._episode is None or reading.episode != self._episode.index:
            self._episode = EpisodeRecord(reading.episode)
            self._finished, self._calls, self._missing, self._failed_before = False, 0, "starting", False
            self._window.clear()
            self.chunks.clear()
            self.policy.abandon()
            self._streams = self.policy.initial_state(1)
        self._window.append(reading.fields)
        self._episode.success |= reading.success
        if reading.ended and not self._finished:
            self._finished, self._missing = True, "episode over"
            self.chunks.clear()
            self.policy.abandon()
            self.summary.episodes.append(self._episode)

    def _next_action(self, reading: Observation) -> np.ndarray | None:
        """Collect the plan that has arrived, ask for the next one when it is time, and return the action of this step."""
        self._collect(0.0)
        if self.chunks.wants_plan():
            self._ask(reading)
        if self.lockstep and self.policy.in_flight:
            self._collect(self.options.lockstep_timeout_s)
        action = self.chunks.take()
        if action is None and self.chunks.waiting and not self._failed_before:
            self._missing = "late" if self._episode_record().steps else "starting"
        return action

    def _ask(self, reading: Observation) -> None:
        """Ask for a plan from the window that ends with this reading."""
        now = self._clock()
        ages = {name: now - 1e-9 * stamp for name, stamp in reading.capture_ns.items()}
        fields = self.policy.spec.observation.fields
        if not self.lockstep and any(ages.get(name, math.inf) > self.options.max_age_s for name in fields):
            self._missing = "stale observation"
            return
        try:
            self.policy.spec.observation.validate(reading.fields)
        except SpecMismatch:
            self._missing = "bad observation"
            return
        if not all(np.isfinite(reading.fields[name]).all() for name in self.policy.spec.observation.state_names):
            self._missing = "bad observation"
            return
        window = [self._window[0]] * (self.policy.n_obs_steps - len(self._window)) + list(self._window)
        obs = {name: np.stack([past[name] for past in window])[None] for name in fields}
        noise = row_keys(self.options.noise_seed, self._episode_record().index, self._calls)
        budget_s = self.options.lockstep_timeout_s if self.lockstep else self.options.timeout_s
        try:
            self.policy.request(obs, self._streams, noise, self.chunks.execution(), budget_s=budget_s, ages_s=ages)
        except RequestFailed as error:
            self._failed(error)
            return
        self.chunks.asked()
        self._asked_at = now
        self._calls += 1
        self.summary.requests += 1

    def _collect(self, wait_s: float) -> None:
        """Splice the plan in if it has come."""
        try:
            answer = self.policy.poll(wait_s)
        except RequestFailed as error:
            self._failed(error)
            return
        if answer is None or not self.chunks.waiting:
            return
        plan, streams = answer
        if np.shape(plan.actions) != (1, self.policy.n_action_steps, self.policy.spec.action.dim):
            self._failed(RequestFailed("error", f"plan of shape {np.shape(plan.actions)}"))
            return
        self._streams, self._failed_before = streams, False
        self._count(plan)
        self.chunks.splice(np.asarray(plan.actions[0], np.float32), self._clock() - self._asked_at)

    def _count(self, plan: Plan) -> None:
        self.summary.latency.add(self._clock() - self._asked_at)
        if "inference_s" in plan.info:
            self.summary.inference.add(float(plan.info["inference_s"][0]))
        calls = float(plan.info["network_calls"][0]) if "network_calls" in plan.info else 0.0
        self.summary.plans += 1
        self.summary.network_calls += calls
        self._episode_record().plans += 1
        self._episode_record().network_calls += calls

    def _failed(self, error: RequestFailed) -> None:
        self.chunks.failed()
        self.summary.failed_requests[error.cause] += 1
        self._missing, self._failed_before = error.cause, True
        if self.lockstep:
            raise error


def _checked_rate(robot: Robot, asked: float | None) -> float:
    info = robot.info
    name = f"robot {info.name!r}"
    if info.on_silence not in ("brakes", "holds"):
        raise InputError(f"{name}: what it does when commands stop is {info.on_silence!r}; its driver must declare 'brakes' or 'holds'")
    rate = info.rate_hz if asked is None else asked
    if not 0 < rate <= info.rate_hz * (1 + 1e-9):
        raise InputError(f"rate_hz {rate:g}: {name} takes commands at {info.rate_hz:g} Hz at most")
    if not info.lockstep and rate * info.silence_s <= 1:
        slowest = 1 / info.silence_s
        raise InputError(f"rate_hz {rate:g}: {name} {info.on_silence} after {info.silence_s:g} s without a command; expected more than {slowest:.3g} Hz")
    return rate
