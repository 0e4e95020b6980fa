"""The batched environment contract: N worlds stepped together, the true successor never lost.

Array code over worlds; what it returns is valid until the next step (storage copies). Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from policies.control import MotionLimits
from policies.spec import Spec

Observation = dict[str, np.ndarray]


@dataclass
class StepResult:
    """What one step of N worlds returns.

    Attributes:
        obs: field -> (N, *shape), the observation to act on: after an auto-reset, the first of the new episode.
        next_obs: field -> (N, *shape), the true successor of the action; the same arrays as ``obs`` when nothing ended.
        reward: (N,) float32.
        terminated: (N,) bool, the task ended (no value beyond).
        truncated: (N,) bool, the time limit cut the episode (bootstrap from ``next_obs``).
        info: name -> (N,); always ``success`` (bool, at this step).
    """

    obs: Observation
    next_obs: Observation
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, np.ndarray]


@runtime_checkable
class BatchEnv(Protocol):
    """N worlds of one task.

    Attributes:
        task: Registered name, e.g. ``metaworld/peg-insert-side``.
        suite_version: What defines the task beyond its name (package versions, shims), for the evaluation ledger.
        spec: Fields of observations and actions.
        num_worlds: N.
        max_episode_steps: Steps after which an episode is truncated.
        autoreset: Whether an ended world begins anew by itself, with seed hash(seed, world, episode count).
    """

    task: str
    suite_version: str
    spec: Spec
    num_worlds: int
    max_episode_steps: int
    autoreset: bool

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin episodes with ``seeds`` (N,) int64 in the worlds where ``mask`` (N,) bool is set (all by default).

        The episode is a pure function of (task, seed, actions), whatever N and the history of the world. Returns
        field -> (N, *shape) for all worlds, those not reset as they were.
        """
        ...

    def step(self, action: np.ndarray) -> StepResult:
        """Apply ``action`` (N, Da), robot units, clipped to the spec's limits, for one control step.

        With auto-reset off, stepping a world that has ended is allowed and changes no result: it stays as it is, with
        reward 0 and its flags set (so finished rows can stay as padding).
        """
        ...

    def retire(self, mask: np.ndarray) -> None:
        """End the episodes where ``mask`` (N,) bool is set: those worlds stay as they are until they are reset.

        What an evaluation does with rows that are decided, so that padding costs no physics. Only without auto-reset.
        """
        ...

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return (len(worlds), H, W, 3) uint8 pictures for people, or None when this machine cannot render."""
        ...

    def expert_action(self) -> np.ndarray:
        """Return the scripted expert's action (N, Da) for the present state of every world.

        Raises:
            policies.spec.InputError: if the task ships no expert.
        """
        ...

    def close(self) -> None:
        """Release windows, contexts and threads; may be called twice."""
        ...


@runtime_checkable
class JointDriven(Protocol):
    """What a batch of worlds offers besides when its actions are joint positions that a drive follows at a higher rate.

    ``step`` is then ``control_substeps`` ticks of the drive, with commands that ``policies.control.JointInterpolator`` makes of
    the action. A twin steps such a world tick by tick instead, with commands that a runtime has made.

    Attributes:
        control_substeps: Ticks per action; the drive's rate is that of the actions times this.
        motion: Limits of the commanded joints, in the order of the action.
        robot_model: MJCF or URDF text of the robot alone, for its kinematics.
        barriers: What ``real.safety.barriers.BarrierConfig`` takes.
        home: Joint positions (n,) of a pose that the robot can always be brought to.
    """

    control_substeps: int
    motion: MotionLimits
    robot_model: str
    barriers: Mapping[str, Any]
    home: tuple[float, ...]

    def control_step(self, command: np.ndarray) -> StepResult:
        """Apply joint positions ``command`` (N, n), float64, cut to the range of ``motion``, for one tick of the drive.

        Success, reward and the time limit are judged every ``control_substeps`` ticks, as :meth:`BatchEnv.step` would;
        observations are new after every tick. Ended worlds stay as they are.
        """
        ...


def observation_rows(observation: Mapping[str, np.ndarray], mask: np.ndarray) -> Observation:
    """Copy the rows of ``observation`` where ``mask`` (N,) bool is set."""
    return {name: array[mask].copy() for name, array in observation.items()}
