"""Rough ground as one height field of patches, and its height at any points, for all worlds at once.

A row of patches is a kind of ground, a column a level of difficulty; every patch has a level place in the middle to begin on.
MuJoCo splits each cell of a height field into two triangles; :meth:`Terrain.heights` reads that same surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELL = 0.1  # m
SIDE = 60  # cells of a patch
KINDS = ("waves", "bumps", "stairs", "slope")
LEVELS = 4
RIM = 0.1  # m, of the outermost samples below the lowest patch
SEED = 20  # of the ground, which is the same in every world


@dataclass(frozen=True)
class Terrain:
    """A height field around the origin of the world.

    Attributes:
        elevation: (R, C) m, rows along y, columns along x, ``CELL`` apart.
        starts: (kinds, levels, 3) m, the middle of each patch.
    """

    elevation: np.ndarray
    starts: np.ndarray

    @property
    def radius(self) -> tuple[float, float]:
        """Half its length along x and along y, m."""
        rows, columns = self.elevation.shape
        return (columns - 1) * CELL / 2, (rows - 1) * CELL / 2

    def heights(self, points: np.ndarray) -> np.ndarray:
        """Return the height (..., ) of the ground, m, at ``points`` (..., 2), m; beyond the edge that of the edge."""
        rows, columns = self.elevation.shape
        x = np.clip(points[..., 0] / CELL + (columns - 1) / 2, 0.0, columns - 1.0)
        y = np.clip(points[..., 1] / CELL + (rows - 1) / 2, 0.0, rows - 1.0)
        column, row = np.minimum(x.astype(np.int64), columns - 2), np.minimum(y.astype(np.int64), rows - 2)
        x -= column
        y -= row
        corner = row * columns + column
        flat = self.elevation.ravel()
        a, b, c, d = (flat[corner + step] for step in (0, 1, columns, columns + 1))  # (x, y) = 00, 10, 01, 11
        # The triangles share the diagonal from corner 00 to corner 11; heights are linear in each.
        return a + np.where(x > y, x * (b - a) + y * (d - b), y * (c - a) + x * (d - c))


def _patch(kind: str, level: int, generator: np.random.Generator) -> np.ndarray:
    """Return the elevation (SIDE, SIDE), m, of one patch; ``level`` from 0 to LEVELS - 1."""
    hard = (level + 1) / LEVELS
    at = (np.arange(SIDE) - (SIDE - 1) / 2) * CELL
    x, y = np.meshgrid(at, at)
    ring = np.maximum(np.abs(x), np.abs(y))
    hill = np.clip(np.minimum(ring - 0.6, SIDE * CELL / 2 - ring), 0.0, None)  # up from the middle, down again to the edge
    if kind == "waves":
        a, b = generator.uniform(0, 2 * np.pi, 2)
        ground = 0.06 * hard * (np.sin(2 * np.pi * x / 1.5 + a) + np.sin(2 * np.pi * y / 1.5 + b))
    elif kind == "bumps":
        blocks = generator.uniform(0.0, 0.08 * hard, (SIDE // 3, SIDE // 3))
        ground = np.kron(blocks, np.ones((3, 3)))
    elif kind == "stairs":
        ground = 0.08 * hard * np.floor(hill / 0.4)
    else:
        ground = np.tan(0.35 * hard) * hill
    middle = ground[ring <= 0.6]
    blend = np.clip((ring - 0.6) / 0.3, 0.0, 1.0)
    edge = np.clip((SIDE * CELL / 2 - ring) / 0.3, 0.0, 1.0)  # neighbours meet on level ground
    return (middle.mean() * (1 - blend) + ground * blend) * edge


def make_terrain() -> Terrain:
    """Return the ground of the task: patches of every kind at every level, nowhere below zero but for a rim around all."""
    generator = np.random.default_rng(SEED)
    patches = [[_patch(kind, level, generator) for level in range(LEVELS)] for kind in KINDS]
    inner = np.block(patches)
    inner = inner - inner.min()
    elevation = np.pad(inner, 1, mode="constant", constant_values=-RIM)
    elevation = elevation.astype(np.float32).astype(np.float64)
    places = [(np.arange(n) - (n - 1) / 2) * SIDE * CELL for n in (LEVELS, len(KINDS))]
    starts = np.zeros((len(KINDS), LEVELS, 3))
    starts[..., 0], starts[..., 1] = np.meshgrid(*places)
    terrain = Terrain(elevation, starts)
    starts[..., 2] = terrain.heights(starts[..., :2])
    return terrain
