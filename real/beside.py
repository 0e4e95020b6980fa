"""Who stands beside the loop of a run: watchers, operators, planners, people who act in the policy's place, recorders.

The runtime asks each of them in every tick and never waits for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from real.robot import Observation


class Watcher(Protocol):
    """What is told of every tick (``real.telemetry``); it never waits."""

    def tick(self, values: Mapping[str, object]) -> None:
        """Take the numbers of a tick."""
        ...

    def observation(self, fields: Mapping[str, np.ndarray], capture_ns: Mapping[str, int]) -> None:
        """Take an observation, name -> (*shape)."""
        ...

    def event(self, kind: str, cause: str, before: np.ndarray | None = None, after: np.ndarray | None = None) -> None:
        """Take an intervention or a change of state; ``before`` and ``after`` are commands (Da,)."""
        ...


class Operator(Protocol):
    """What a person at the robot wants (``real.operator``)."""

    speed: float

    def poll(self) -> Sequence[tuple[str, float]]:
        """Return what was asked since the last time: ``hold``, ``resume``, ``stop``, ``deadman`` or ``speed``, with its number."""
        ...


class Goals(Protocol):
    """The level above the policy (``real.planner``).

    Attributes:
        field: The goal field that it gives; the robot need not observe it.
    """

    field: str

    def update(self, reading: Observation, now: float) -> Mapping[str, np.ndarray] | None:
        """Return the goal fields (*shape) that stand now; None: there is no sub-goal, the robot holds. Never waits, but in lock-step."""
        ...


class Teleoperator(Protocol):
    """A person who may act in the policy's place (``real.teleop``); what they do passes the same levels and the same filter."""

    def act(self, reading: Observation, policy_action: np.ndarray | None) -> np.ndarray | None:
        """Return the action (Da,) of this policy step, robot units; None: nobody has taken over, the policy acts. Never waits.

        Of no elements, (0,): somebody has, and nobody knows yet what holds the robot; it is not commanded.

        Args:
            reading: The robot now; ``reading.reference`` is where it has been sent.
            policy_action: What the policy would do, None: nothing, or there is none.
        """
        ...

    def ended(self, reading: Observation) -> None:
        """Note that the episode of ``reading`` is over."""
        ...


class StepRecorder(Protocol):
    """Keeps what was seen and done (``real.recorder``)."""

    def reading(self, reading: Observation) -> None:
        """Take the reading of a tick, at the drive's rate, whether or not a policy step begins from it. Never waits."""
        ...

    def step(self, reading: Observation, action: np.ndarray, taken: bool) -> None:
        """Take one policy step: what was seen, the action (Da,) begun from it, and whether a person chose it. Never waits.

        The slow way to a first action is none.
        """
        ...

    def ended(self, reading: Observation) -> None:
        """Note that the episode of ``reading`` is over, whose success it says if the robot knows."""
        ...
