"""What somebody did who took over, step by step as demonstrations: in pieces, so that n-step returns stay inside one hand."""

from __future__ import annotations

import numpy as np

from robopolicy.training.off_policy_actor import Experience
from robopolicy.training.replay import Replay

_Row = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, dict[str, np.ndarray], bool]


class Pieces:
    """Collects the steps of every world in which somebody else acted, and adds them to a replay of one world when the piece is over.

    Args:
        replay: Of one world.
    """

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self._open: dict[int, list[_Row]] = {}

    def take(self, experience: Experience) -> None:
        """Look at one control step of all worlds."""
        e = experience
        if not self._open and not e.taken.any():
            return
        ended = e.terminated | e.truncated
        for world in np.flatnonzero(e.taken).tolist():
            row = slice(world, world + 1)
            sides = ({name: side[name][row].copy() for name in self.replay.fields} for side in (e.obs, e.next_obs))
            own = (next(sides), e.action[row].copy(), e.reward[row].copy(), next(sides), bool(e.terminated[world]))
            self._open.setdefault(world, []).append(own)
        for world in [w for w in self._open if ended[w] or not e.taken[w]]:
            self._close(self._open.pop(world))

    def _close(self, rows: list[_Row]) -> None:
        for number, (obs, action, reward, next_obs, terminated) in enumerate(rows):
            last = number + 1 == len(rows)
            self.replay.add(obs, action, reward, next_obs, np.array([terminated]), np.array([last and not terminated]))
