"""Training batches whose goals are drawn by hindsight, see ``robopolicy.data.goals``."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.noise import row_keys
from robopolicy.data.goals import GoalsConfig, goal_frames
from robopolicy.data.windows import WindowSampler

_GOALS = 0x60A1  # keeps the keys of the goals apart from those of the order and of the noise


class GoalSampler(WindowSampler):
    """A window sampler that fills the field of the goal with one gather a batch; every observed step of a window has the same goal.

    Args:
        goals: How goals are drawn; the field may be absent from ``fields``: then there are none.
        arguments: Those of :class:`robopolicy.data.windows.WindowSampler`, by name.
    """

    def __init__(self, goals: GoalsConfig, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.goals = goals
        self._wanted = self._arrays.pop(goals.field, None)

    def draw(self, positions: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """See base class; the goals hang on the positions, so every epoch draws others."""
        windows = self.at(positions)
        self.fill(windows, out)
        if self._wanted is not None:
            start, length, time = self.locate(windows)
            frames = goal_frames(self.goals, row_keys(self.seed ^ _GOALS, positions), start, length, time, (self._starts, self._lengths))
            out[self.goals.field][:] = self._wanted[frames][:, None]

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """See base class."""
        out = super().empty(rows)
        if self._wanted is not None:
            out[self.goals.field] = np.empty((rows, self.n_obs_steps, *self._wanted.shape[1:]), self._wanted.dtype)
        return out
