"""Chunks: which action of which plan goes out at which control step, and when the next plan must be asked for.

Control steps count the actions sent. A plan asked for at step k, after the observation of step k, has rows for steps
k, k+1, ...; while it is computed the rows of the old plan that are still left play on (they are frozen), and the new
one takes over at the step after them. Rows for steps that have passed are dropped, never played late. While the robot
holds, no step passes: a plan that arrives after the old one ran out goes on where the robot stands.
"""

from __future__ import annotations

import math

import numpy as np

from policies.base import Execution
from real.latency import Latency

_MARGIN_S = 0.002  # on top of the measured latency: polling and scheduling


class ChunkBuffer:
    """The plan being executed and the one asked for.

    Args:
        n_action_steps: Ta, actions in a plan.
        dim: Da.
        rate_hz: Control rate, to turn latencies into steps.
        lead: Steps before the end of the plan at which the next is asked for; None: from the measured latency; 0: at
            its end (lock-step, nothing overlaps).
        quantile: Of the last latencies, that the lead covers.

    Attributes:
        step: Actions sent so far.
        late_chunks: Plans that arrived only after the one before had run out (the first of an episode is not late).
        dropped_actions: Rows of new plans for steps that the plan before had already taken.
        latency: From request to arrival.
    """

    def __init__(self, n_action_steps: int, dim: int, rate_hz: float, lead: int | None = None, quantile: float = 0.95) -> None:
        self.n_action_steps, self.dim, self.rate_hz = n_action_steps, dim, rate_hz
        self.latency = Latency()
        self.step = self.late_chunks = self.dropped_actions = 0
        self._fixed_lead, self._quantile = lead, quantile
        self._actions = np.zeros((0, dim), np.float32)
        self._next = 0  # row of _actions for the present step
        self._asked_at: int | None = None
        self._planned_at: int | None = None  # step of the observation that the last plan was made from
        self._switch_at = 0
        self._begun = False  # whether a plan of this episode has been executed

    @property
    def remaining(self) -> int:
        """Actions left."""
        return len(self._actions) - self._next

    @property
    def waiting(self) -> bool:
        """Whether a plan has been asked for and not arrived."""
        return self._asked_at is not None

    @property
    def lead(self) -> int:
        """Steps before the end at which the next plan is asked for, at least one action of a plan being played."""
        if self._fixed_lead is not None:
            return min(self._fixed_lead, self.n_action_steps - 1)
        if not self.latency.count:
            return min(1, self.n_action_steps - 1)
        steps = math.ceil((self.latency.recent_quantile(self._quantile) + _MARGIN_S) * self.rate_hz)
        return min(steps, self.n_action_steps - 1)

    def clear(self) -> None:
        """Begin a new episode: nothing is left of the old one."""
        self.drop()
        self._planned_at = None

    def drop(self) -> None:
        """Forget the actions that are left and the plan asked for; steps are counted on from the last plan that arrived."""
        self._actions, self._next = np.zeros((0, self.dim), np.float32), 0
        self._asked_at, self._begun = None, False

    def wants_plan(self) -> bool:
        """Whether the next plan should be asked for with the observation of this step."""
        return self._asked_at is None and self.remaining <= self.lead

    def execution(self) -> Execution:
        """Return how a plan asked for now would be executed: after the actions that are left.

        ``elapsed`` counts from the request of the last plan that arrived, not of one that was lost; None before the first.
        """
        elapsed = None if self._planned_at is None else self.step - self._planned_at
        return Execution(delay=self.remaining, frozen=self.remaining, elapsed=elapsed)

    def asked(self) -> None:
        """Note that a plan has been asked for at this step."""
        self._asked_at, self._switch_at = self.step, self.step + self.remaining

    def failed(self) -> None:
        """Note that the plan asked for will not come; what is left of the old one plays on."""
        self._asked_at = None

    def splice(self, actions: np.ndarray, latency_s: float) -> None:
        """Take the plan that has arrived, (Ta, Da): after the rows of the old one up to the switch, its rows from there."""
        if self._asked_at is None:
            raise RuntimeError("no plan was asked for")
        self.latency.add(latency_s)
        rows_before_switch = self._switch_at - self._asked_at
        left = self._actions[self._next : self._next + max(self._switch_at - self.step, 0)]
        self.dropped_actions += min(rows_before_switch, len(actions))
        self._actions = np.concatenate([left, np.asarray(actions, np.float32)[rows_before_switch:]])
        self._next, self._asked_at, self._planned_at = 0, None, self._asked_at

    def take(self) -> np.ndarray | None:
        """Return the action (Da,) of this step and go to the next step; None, and no step, when there is none."""
        if not self.remaining:
            if self._asked_at is not None and self._begun:
                self.late_chunks += 1
                self._begun = False  # counted once; the plan that arrives begins anew
            return None
        action = self._actions[self._next]
        self._next += 1
        self.step += 1
        self._begun = True
        return action
