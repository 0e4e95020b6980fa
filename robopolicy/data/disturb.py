"""Disturbed demonstrations: noise on what is executed, and stretches of wrong actions that the expert must recover from.

What is recorded as the action is always the expert's own. With noise (Laskey et al. 2017, "DART: Noise Injection for Robust
Imitation Learning") every step of every episode is pushed a little aside. With recovery an episode is, by chance, taken over for
a short stretch by actions that nobody would choose, and what follows shows how the task is done from there. All is drawn by counter
from the seed of the episode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.spec import ActionSpec, InputError
from sim.draws import unit_numbers

_STREAM = 0xD157  # of the numbers that disturbances draw
_NEVER = np.iinfo(np.int64).max // 2
#: Share of the range by which targets of positions are moved: a joint sent anywhere in its range is a blow, not a mistake.
POSITION_SHARE = 0.2


@dataclass(frozen=True)
class Recovery:
    """How episodes are disturbed.

    Attributes:
        chance: That an episode is disturbed, in [0, 1].
        steps: Longest stretch, control steps; the shortest is half of it.
        within: The stretch begins at one of the first ``within`` steps of the episode.
        size: Share of the action range that wrong actions are drawn from (of targets of positions: of a fifth of it).
        marked: Whether disturbed frames are kept, in a column ``disturbed``; otherwise a disturbed episode is recorded from the end
            of its stretch on, and every frame is one of the expert's.
    """

    chance: float
    steps: int
    within: int
    size: float = 1.0
    marked: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise InputError(f"recovery: expected a chance from 0 to 1, found {self.chance:g}")
        if self.steps < 1 or self.within < 1 or not self.size > 0:
            raise InputError(f"recovery: steps and within must be at least 1 and size above 0, found {self.steps}, {self.within}, {self.size:g}")


def half_range(action: ActionSpec) -> np.ndarray:
    """Return half the range (Da,) of every action; 1 where it is unbounded."""
    half = (action.high.astype(np.float64) - action.low) / 2
    return np.where(np.isfinite(half), half, 1.0)


class Disturbances:
    """The stretches of B episodes.

    Args:
        recovery: How episodes are disturbed; None: not at all.
        seeds: (B,) of the episodes.
        action: What an action is.

    Attributes:
        start: (B,) step at which the stretch begins; beyond every episode where there is none.
        end: (B,) first step after it.
        held: (B,) bool: one wrong action for the whole stretch; else a new one at every step.
    """

    def __init__(self, recovery: Recovery | None, seeds: np.ndarray, action: ActionSpec) -> None:
        rows, dim = len(seeds), action.dim
        steps = 0 if recovery is None else recovery.steps
        self.start, self.end, self.held = np.full(rows, _NEVER), np.full(rows, _NEVER), np.zeros(rows, bool)
        self._ways = np.zeros((rows, steps, dim))
        self._middle = np.where(np.isfinite(action.low) & np.isfinite(action.high), (action.low.astype(np.float64) + action.high) / 2, 0.0)
        self._position = np.concatenate([np.full(f.size, f.kind == "position") for f in action.fields.values()])
        self._base = np.tile(self._middle, (rows, 1))
        if recovery is None:
            return
        drawn = unit_numbers(seeds, _STREAM, 4 + steps * dim)
        disturbed = drawn[:, 0] < recovery.chance
        shortest = -(-steps // 2)
        length = shortest + np.floor(drawn[:, 2] * (steps - shortest + 1)).astype(np.int64)
        self.start[disturbed] = np.floor(drawn[disturbed, 1] * recovery.within).astype(np.int64)
        self.end[disturbed] = self.start[disturbed] + length[disturbed]
        self.held = disturbed & (drawn[:, 3] < 0.5)
        self._ways = 2 * drawn[:, 4:].reshape(rows, steps, dim) - 1
        self._ways[self.held] = self._ways[self.held, :1]
        self._ways *= half_range(action) * recovery.size * np.where(self._position, POSITION_SHARE, 1.0)

    def call_off(self, rows: np.ndarray) -> None:
        """Leave episodes ``rows`` (B,) bool undisturbed whose stretch has not begun: they have succeeded already."""
        self.start[rows], self.end[rows] = _NEVER, _NEVER

    def executed(self, step: int, expert: np.ndarray, planned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is executed (B, Da), not clipped, and where (B,) bool that is a disturbance.

        Args:
            step: Control step of the episodes.
            expert: (B, Da) what the expert would do.
            planned: (B, Da) what is executed where nothing is disturbed.
        """
        now = (step >= self.start) & (step < self.end)
        if not now.any():
            return planned, now
        begun = step == self.start
        self._base[begun] = np.where(self._position, expert[begun], self._middle)
        rows = np.flatnonzero(now)
        out = planned.copy()
        out[rows] = self._base[rows] + self._ways[rows, step - self.start[rows]]
        return out, now
