"""Acting in the policy's place: when a person has the robot, and what it does then.

Closing the clutch takes over, whatever runs; until the person gives it back the robot does what they do and holds in between. Where
nothing runs but an idle policy (:class:`IdlePolicy`) there is nobody to give it back to: letting go is enough, and the runtime holds.
Input that has become stale, or that is not sound, is an open clutch.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from policies.base import Execution, Plan, State
from policies.spec import ObservationSpec, Spec
from real.robot import Observation
from real.teleop.jog import Jog
from real.teleop.source import EVENTS, Input, Source

#: Events that are dealt with here; the others are for whoever runs the session.
OWN = ("takeover", "release", "grip", "frame", "home")
_PAUSE_S = 0.4  # with an open clutch for longer than that, nothing is being shown


class Takeover:
    """A person beside the loop; see :class:`real.beside.Teleoperator`.

    Args:
        source: Their device.
        jog: Of the robot.
        policy: Whether a policy runs that can be taken over from.
        clock: Monotonic seconds.

    Attributes:
        taken: Whether the person has the robot.
        clutch: Whether the robot follows the device now.
        value: The newest input.
        counts: ``takeovers``, ``steps`` by hand, ``stale`` and ``unsound`` input while the clutch was closed.
    """

    def __init__(self, source: Source, jog: Jog, policy: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.source, self.jog, self.policy = source, jog, policy
        self.taken = self.clutch = False
        self.value = Input()
        self.counts: Counter[str] = Counter(takeovers=0, steps=0, stale=0, unsound=0)
        self._clock = clock
        self._ready = False  # the jog knows where the robot is
        self._last: np.ndarray | None = None  # action executed last
        self._moved_at = -math.inf
        self._limited = self._spent = self._gripped = self._refused = False
        self._episode: int | None = None

    @property
    def paused(self) -> bool:
        """Whether the person has had the robot stand still for a while."""
        return self.taken and not self.jog.busy and self._clock() - self._moved_at > _PAUSE_S

    def poll(self) -> tuple[str, ...]:
        """Take in what the person does, every tick; returns the events that are not dealt with here (:data:`OWN`), in order."""
        value = self.source.poll()
        sound = value.sound()
        fresh = value.age <= self.source.stale_s
        self._spent &= value.clutch
        clutch = value.clutch and sound and fresh and not self._spent
        if value.clutch and not sound:
            self.counts["unsound"] += 1
        if self.clutch and value.clutch and not fresh:
            self.counts["stale"] += 1
            self.source.feedback("stale")
        if not fresh:
            self.jog.homing = False
        self.value, was = value, self.clutch
        self.clutch = clutch
        if clutch:
            self._moved_at = self._clock()
            if not was or not self.taken:
                self.take()
        passed = []
        for event in value.events:
            if event in OWN:
                self._obey(event)
            elif event in EVENTS:
                passed.append(event)
        return tuple(passed)

    def act(self, reading: Observation, policy_action: np.ndarray | None) -> np.ndarray | None:
        """See :class:`real.beside.Teleoperator`."""
        if not self.taken or (not self.policy and not self.clutch and self.paused):
            self._ready = False
            self._last = self._last if policy_action is None else np.array(policy_action, np.float32)
            return None
        if reading.episode != self._episode:
            self._ready, self._episode = False, reading.episode
        if not self._ready or reading.drive_state != "active":
            self._ready = self.jog.start(reading, self._last)
            if not self._ready:  # nobody knows where it is told to be: it stays as it was told last, or is not told anything
                if not self._refused:
                    self.source.feedback("refused")
                self._refused = True
                return np.zeros(0, np.float32) if self._last is None else self.jog.hold(self._last)
            self._refused = False
        if self._gripped:
            self._gripped = False
            self.jog.grip()
        value = self.value if self.clutch else Input(dial=self.value.dial)
        action = self.jog.step(value, reading)
        if self.jog.limited and not self._limited and self.clutch:
            self.source.feedback("limit")
        self._limited = self.jog.limited
        self._last = action
        self.counts["steps"] += 1
        return action

    def ended(self, reading: Observation) -> None:
        """See :class:`real.beside.Teleoperator`: the next episode begins with the policy."""
        self.release()
        self._last = None

    def release(self) -> None:
        """Give the robot back to the policy."""
        if self.taken:
            self.source.feedback("released")
        self._spent = self.policy and self.value.clutch  # a clutch that is still closed has to be opened before it takes over again
        self.taken = self._ready = self._gripped = False
        self.jog.rest()

    def take(self) -> None:
        """Give the robot to the person: it holds until they move it."""
        if not self.taken:
            self.counts["takeovers"] += 1
            self.source.feedback("taken")
        self.taken = True
        self._moved_at = self._clock()

    def _obey(self, event: str) -> None:
        if event == "takeover":
            self.take()
        elif event == "release":
            self.release()
        elif event == "grip":
            self.take()
            self._gripped = not self._gripped  # once the jog knows where the gripper is
        elif event == "home":
            if self.jog.go_home():
                self.take()
            else:
                self.source.feedback("refused")
        elif event == "frame":
            self.jog.turn_frame()


class IdlePolicy:
    """Plans nothing: a robot without a policy, that a person alone moves; see :class:`real.policy.AsyncPolicy`.

    Args:
        robot: The robot's spec; nothing of it is looked at, its actions are what a person gives.
    """

    n_obs_steps = horizon = n_action_steps = 1
    in_flight, connected = False, True

    def __init__(self, robot: Spec) -> None:
        self.spec = Spec(ObservationSpec({}, robot.observation.rate_hz), robot.action, robot.meta)

    def initial_state(self, batch: int) -> State:
        """Return nothing: there is no state."""
        return {}

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Return ``state``; ``mask`` (B,) changes nothing."""
        return state

    def request(
        self, obs: Mapping[str, np.ndarray], state: State, noise: np.ndarray, execution: Execution = Execution(), *,
        budget_s: float, ages_s: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Take note of nothing; arrays of any shape."""

    def poll(self, wait_s: float = 0.0) -> tuple[Plan, State] | None:
        """Return None: no plan ever comes."""
        return None

    def abandon(self) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Nothing is open."""
