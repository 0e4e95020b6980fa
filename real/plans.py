"""The policy's level: plans asked for early enough, spliced in order, one action for every policy step that is due."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from policies.base import Plan, State
from policies.noise import row_keys
from real.chunks import ChunkBuffer
from real.observing import ObservationWindow
from real.policy import AsyncPolicy, RequestFailed
from real.robot import Observation, RobotInfo
from real.summary import EpisodeRecord, Summary

if TYPE_CHECKING:
    from real.runtime import RuntimeOptions


class PolicyLevel:
    """What the policy wants of each policy step; None, with a cause, where nothing is to be had.

    Args:
        policy: One request in flight, never waited for but in lock-step.
        info: The robot: rates, limits, lock-step.
        options: Deadlines, ages, lead, seed of the noise.
        summary: Counts what happens here.
        clock: Monotonic seconds.
        given: Observation fields that a planner gives.

    Attributes:
        missing: Why there is no action, should there be none.
        certainty: Factor of the speed that the last plan's own doubt leaves, 0 to 1 (``RuntimeOptions.slow_on``); for a robot
            that cannot be slowed down 0 or 1.
    """

    def __init__(
        self, policy: AsyncPolicy, info: RobotInfo, options: RuntimeOptions, summary: Summary, clock: Callable[[], float], given: Sequence[str] = ()
    ) -> None:
        self.policy, self.options, self.lockstep = policy, options, info.lockstep
        lead = 0 if self.lockstep else options.lead
        self.chunks = ChunkBuffer(policy.n_action_steps, policy.spec.action.dim, info.rate_hz / info.substeps, lead, options.quantile)
        self.window = ObservationWindow(policy.spec.observation, policy.n_obs_steps, info.substeps, options.max_age_s, info.motion, options.frozen_after, given)
        self._rate_hz, self._slows = self.chunks.rate_hz, info.motion is not None
        self.missing, self.certainty = "starting", 1.0
        self._summary, self._clock = summary, clock
        self._streams: State = policy.initial_state(1)
        self._record = EpisodeRecord(-1)
        self._calls = 0  # plans asked for in this episode: names the noise of each
        self._asked_at = 0.0
        self._failed_before = False  # the request before this one brought no plan: its cause stands until one does

    def begin(self, record: EpisodeRecord) -> None:
        """Begin an episode: nothing is left of the one before."""
        self._record = record
        self._calls, self.missing, self.certainty, self._failed_before = 0, "starting", 1.0, False
        self.window.clear()
        self.drop()
        self.chunks.clear()
        self._streams = self.policy.initial_state(1)

    def slow(self, speed: float) -> None:
        """Ask for plans as early as a policy step takes at ``speed``, above 0 to 1."""
        self.chunks.rate_hz = self._rate_hz * max(speed, 0.01)

    def drop(self) -> None:
        """Forget the plan and the request in flight: the robot is no longer where they begin."""
        self.chunks.drop()
        self.policy.abandon()

    def action(self, reading: Observation, due: bool, goal: Mapping[str, np.ndarray] | None = None) -> np.ndarray | None:
        """Return the action (Da,) of this policy step if one is due; also ask for the next plan. What has come is collected before.

        Args:
            reading: The robot now.
            due: Whether this tick begins a policy step.
            goal: Fields (*shape) that a planner puts in the place of the observed ones.
        """
        if not due:
            return None
        fault = self.window.fault(reading, self._clock(), self.lockstep)
        if fault:  # whoever does not see where the robot is moves no further, whatever was planned before
            self.missing, self._failed_before = fault, True
            self.drop()
            return None
        if self.chunks.wants_plan():
            self._ask(reading, goal)
        if self.lockstep and self.policy.in_flight:
            self.collect(self.options.lockstep_timeout_s)
        action = self.chunks.take()
        if action is None and self.chunks.waiting and not self._failed_before:
            self.missing = "late" if self._record.steps else "starting"
        if self.certainty <= 0 and not self._failed_before:
            self.missing = "policy unsure"
        return self._sound(action)

    def _sound(self, action: np.ndarray | None) -> np.ndarray | None:
        """Return ``action`` if it is finite and of the right shape, else None and count it."""
        if action is None:
            return None
        if np.shape(action) != (self.policy.spec.action.dim,) or not np.isfinite(action).all():
            self._summary.bad_actions += 1
            self.missing, self._failed_before = "bad action", True
            self.drop()  # what comes after it in the plan is for a robot that has made this step; the next plan starts here
            return None
        return action

    def collect(self, wait_s: float) -> None:
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
        if self.certainty <= 0:  # nothing of it is executed; the next one may be surer
            self.chunks.drop()

    def _ask(self, reading: Observation, goal: Mapping[str, np.ndarray] | None) -> None:
        """Ask for a plan from the window that ends with this reading."""
        now = self._clock()
        ages = {name: now - 1e-9 * stamp for name, stamp in reading.capture_ns.items()}
        noise = row_keys(self.options.noise_seed, self._record.index, self._calls)
        budget_s = self.options.lockstep_timeout_s if self.lockstep else self.options.timeout_s
        try:
            self.policy.request(self.window.stack(goal), self._streams, noise, self.chunks.execution(), budget_s=budget_s, ages_s=ages)
        except RequestFailed as error:
            self._failed(error)
            return
        self.chunks.asked()
        self._asked_at = now
        self._calls += 1
        self._summary.requests += 1

    def _count(self, plan: Plan) -> None:
        summary = self._summary
        summary.latency.add(self._clock() - self._asked_at)
        if "inference_s" in plan.info:
            summary.inference.add(float(plan.info["inference_s"][0]))
        calls = float(plan.info["network_calls"][0]) if "network_calls" in plan.info else 0.0
        summary.plans += 1
        summary.network_calls += calls
        self._record.plans += 1
        self._record.network_calls += calls
        self.certainty = min((_certainty(plan, name, *bounds) for name, bounds in self.options.slow_on.items()), default=1.0)
        if self.certainty < 1 and not self._slows:
            self.certainty = 0.0  # at half of the certainty it would move at full speed

    def _failed(self, error: RequestFailed) -> None:
        self.chunks.failed()
        self._summary.failed_requests[error.cause] += 1
        self.missing, self._failed_before = error.cause, True
        if self.lockstep:
            raise error


def _certainty(plan: Plan, name: str, full: float, none: float) -> float:
    """Return 1 where ``plan.info[name]`` is at most ``full``, 0 from ``none`` on or where it is absent or not finite, linear between."""
    value = float(plan.info[name][0]) if name in plan.info else math.nan
    return float(np.clip((none - value) / (none - full), 0.0, 1.0)) if math.isfinite(value) else 0.0
