"""A curriculum over randomisation: one level in [0, 1], raised by success and lowered by failure; at 1 the ranges are whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.randomize_config import CurriculumConfig


class Curriculum:
    """Counts episodes and moves the level after every ``window`` of them.

    Akkaya et al. 2019, "Solving Rubik's Cube with a robot hand", widen their ranges by performance in the same spirit.

    Args:
        config: When and how far.

    Attributes:
        level: Share of the ranges that is drawn from.
        episodes: Counted so far, in all.
    """

    def __init__(self, config: CurriculumConfig) -> None:
        self.config = config
        self.level, self.episodes = float(config.level), 0
        self._seen = self._won = 0  # of the present window

    def count(self, successes: np.ndarray) -> None:
        """Count ended episodes, ``successes`` (K,) bool, in this order."""
        successes = np.asarray(successes, bool)
        while successes.size:
            taken, successes = np.split(successes, [self.config.window - self._seen])
            self._seen, self._won, self.episodes = self._seen + taken.size, self._won + int(taken.sum()), self.episodes + taken.size
            if self._seen == self.config.window:
                self._move(self._won / self._seen)
                self._seen = self._won = 0

    def _move(self, rate: float) -> None:
        way = float(rate >= self.config.raise_above) - float(rate <= self.config.lower_below)
        self.level = float(np.clip(self.level + way * self.config.step, 0.0, 1.0))

    def state(self) -> dict[str, float | int]:
        """Return what :meth:`load` goes on from, JSON-ready."""
        return {"level": self.level, "episodes": self.episodes, "seen": self._seen, "won": self._won}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` of :meth:`state`. Raises InputError if it is not one, or belongs to a longer window."""
        if set(state) != set(self.state()):
            raise InputError(f"curriculum: expected a state of {', '.join(self.state())}, found {', '.join(state) or 'nothing'}")
        if not 0.0 <= float(state["level"]) <= 1.0 or not 0 <= int(state["won"]) <= int(state["seen"]) < self.config.window:
            raise InputError(f"curriculum: the state {dict(state)} does not fit a window of {self.config.window} episodes and a level in [0, 1]")
        self.level, self.episodes = float(state["level"]), int(state["episodes"])
        self._seen, self._won = int(state["seen"]), int(state["won"])
