"""Pushing a puck that is kicked: a world in which a plan that was made before a kick is wrong after it.

``arm/push`` as it is forgives late plans: nothing moves but the arm, and plans are joint positions, right whenever they
come. Here the puck is kicked at random steps, so what counts is how soon a plan knows. When and where to is a pure
function of the episode's seed and the step: equal for every method and delay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.episodes import Outcome, hashed, hashed_normals
from sim.registry import Options
from sim.suites.arm import N
from sim.suites.arm_tasks import Push

OFTEN, SPEED = 1 / 20, 1.0  # kicks per control step (one a second, on average); m/s, which the puck slides for about 25 mm
LIMIT = 200  # control steps of an episode, 10 s; a push takes 3 to 6
_LANE = 0x6B69636B  # of the hash, for nothing else


class KickedPush(Push):
    """``arm/push`` with kicks."""

    def _kick(self, rows: np.ndarray) -> None:
        """Kick the pucks of those worlds ``rows`` (K,) whose turn it is in their present control step."""
        seeds, steps = self._root_seeds[rows], self._elapsed[rows]
        due = hashed(seeds, steps, _LANE) < OFTEN * 2.0**63
        if due.any():
            away = hashed_normals(seeds[due], steps[due], _LANE)
            velocity: Any = self.qvel[rows[due]]
            velocity[:, N : N + 2] += SPEED * away / np.linalg.norm(away, axis=1, keepdims=True)
            self.qvel[rows[due]] = velocity

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self._kick(rows)
        return super()._advance(rows, action)

    def control_step(self, command: np.ndarray) -> Any:
        """See :meth:`sim.suites.arm.DrivenArm.control_step`; kicks come with the first tick of a control step."""
        rows = np.flatnonzero(self._running)
        self._kick(rows[self._driven[rows] % self.control_substeps == 0])
        return super().control_step(command)


def make(num_worlds: int, max_episode_steps: int = LIMIT) -> KickedPush:
    """Return ``num_worlds`` worlds, auto-reset off."""
    return KickedPush("arm/push", Options(num_worlds=num_worlds, max_episode_steps=max_episode_steps))
