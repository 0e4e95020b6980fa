"""A ball forced along the shortest way through a maze: a spring to the next cell's centre, and a damper."""

from __future__ import annotations

import numpy as np

from sim.oracles.maze_path import MazePath

STIFFNESS, DAMPING = 10.0, 1.0  # of the largest force, 1/m and s/m


class PointMazeExpert:
    """Forces for any number of balls in one maze.

    Args:
        walls: (R, C) bool, row 0 at the top (largest y), true where a cell is closed; the maze's middle is the origin.
        unit: Side of a cell, m.
    """

    def __init__(self, walls: np.ndarray, unit: float) -> None:
        rows, columns = walls.shape
        lowest = ((1 - columns) / 2.0 * unit, (1 - rows) / 2.0 * unit)
        self._path = MazePath(walls[::-1], unit, lowest)

    def force(self, position: np.ndarray, velocity: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Return forces (B, 2) in [-1, 1] at positions, velocities and goals (B, 2), m and m/s."""
        return np.clip(STIFFNESS * (self._path.next_point(position, goal) - position) - DAMPING * velocity, -1.0, 1.0)
