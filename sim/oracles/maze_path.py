"""Shortest ways through a maze of square cells: where to head next, for many positions and goals at once."""

from __future__ import annotations

import numpy as np


class MazePath:
    """Breadth-first distances between all open cells of a maze.

    Args:
        walls: (R, C) bool, true where a cell is closed; the border is.
        unit: Side of a cell, m.
        origin: (x, y) of the centre of cell (0, 0), m. Column j has x = origin x + j unit, row i has y = origin y + i unit.

    Attributes:
        cells: (K, 2) int64, the open cells (i, j) in row-major order.
        distance: (K, K) int64, steps between open cells; -1 where there is no way.
    """

    def __init__(self, walls: np.ndarray, unit: float, origin: tuple[float, float]) -> None:
        self.walls, self.unit, self.origin = np.asarray(walls, bool), float(unit), np.asarray(origin, float)
        self.cells = np.argwhere(~self.walls)
        self.number = np.full(self.walls.shape, -1, np.int64)  # open cell -> its place in cells
        self.number[tuple(self.cells.T)] = np.arange(len(self.cells))
        near = [self._neighbour(step) for step in ((-1, 0), (0, -1), (1, 0), (0, 1))]
        self._near = np.stack(near, axis=1)  # (K, 4) numbers of the neighbours, -1 where closed
        self.distance = self._distances()

    def _neighbour(self, step: tuple[int, int]) -> np.ndarray:
        beside = np.clip(self.cells + step, 0, np.array(self.walls.shape) - 1)
        return np.where((beside != self.cells).any(axis=1), self.number[tuple(beside.T)], -1)

    def _distances(self) -> np.ndarray:
        count = len(self.cells)
        out = np.full((count, count), -1, np.int64)
        reached = np.eye(count, dtype=bool)  # row: from where; column: cells that the last step reached first
        for steps in range(count):
            if not reached.any():
                break
            out[reached] = steps
            spread = np.zeros((count, count + 1), bool)  # the last column takes what would go into walls
            for side in self._near.T:
                spread[:, side] |= reached
            reached = spread[:, :count] & (out < 0)
        return out

    def cell(self, points: np.ndarray) -> np.ndarray:
        """Return the number (B,) of the open cell that each of ``points`` (B, 2) m lies in; of the nearest one where it is a wall."""
        at = np.rint((np.asarray(points, float) - self.origin) / self.unit).astype(np.int64)[:, ::-1]
        at = np.clip(at, 0, np.array(self.walls.shape) - 1)
        out = self.number[tuple(at.T)]
        for k in np.flatnonzero(out < 0):
            out[k] = np.argmin(np.linalg.norm(self.centre(np.arange(len(self.cells))) - points[k], axis=1))
        return out

    def centre(self, numbers: np.ndarray) -> np.ndarray:
        """Return the centres (B, 2) m of the open cells ``numbers`` (B,)."""
        return self.cells[numbers][:, ::-1] * self.unit + self.origin

    def next_cell(self, numbers: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Return the cell (B,) after ``numbers`` (B,) on a shortest way to ``goals`` (B,); itself where it is there or there is no way."""
        near = self._near[numbers]
        left = np.where(near >= 0, self.distance[near, goals[:, None]], -1)
        left = np.where(left < 0, np.iinfo(np.int64).max, left)
        side = np.argmin(left, axis=1)
        rows = np.arange(len(numbers))
        better = left[rows, side] < np.where(self.distance[numbers, goals] < 0, 0, self.distance[numbers, goals])
        return np.where(better, near[rows, side], numbers)

    def ways(self) -> np.ndarray:
        """Return :meth:`next_cell` for every pair: (K, K) int64, row: from where, column: goal."""
        count = len(self.cells)
        here, there = np.divmod(np.arange(count * count), count)
        return self.next_cell(here, there).reshape(count, count)

    def next_point(self, points: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Return where to head (B, 2) m from ``points`` (B, 2) to ``goals`` (B, 2): the next cell's centre, in the last cell the goal."""
        here, there = self.cell(points), self.cell(goals)
        heading = self.centre(self.next_cell(here, there))
        return np.where((here == there)[:, None], goals, heading)

    def corners(self) -> np.ndarray:
        """Return the numbers of the open cells that are not the inside of a straight passage: where ways end, turn or meet."""
        open_ = self._near >= 0
        up, left, down, right = open_.T
        return np.flatnonzero(~((up & down & ~left & ~right) | (left & right & ~up & ~down)))


def unit_step(here: np.ndarray, target: np.ndarray, reach: float = 0.0) -> np.ndarray:
    """Return directions (B, 2) of length 1 from ``here`` (B, 2) to ``target`` (B, 2), shorter where it is nearer than ``reach`` m."""
    way = target - here
    length = np.linalg.norm(way, axis=1, keepdims=True)
    return way / np.maximum(np.maximum(length, reach), 1e-6)
