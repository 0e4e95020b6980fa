"""What lies under the actors: planes, height fields and meshes of terrain.

A mesh becomes a height field: MuJoCo collides a mesh as its convex hull, a height field as it is. Overhangs are therefore lost.
"""

# pyright: reportAttributeAccessIssue=false
# (mujoco is compiled and comes without stubs)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.isaacgym.parameters import HeightFieldParams, PlaneParams, TriangleMeshParams
from sim.isaacgym.structures import Transform, Vec3

_BASE = 1.0  # m of material under the lowest point
_MOST_POINTS = 4_000_000  # of a grid that a mesh is sampled on


@dataclass(frozen=True)
class Grid:
    """Heights (R, C) m at x = ``step[0]`` * row, y = ``step[1]`` * column, placed by ``pose``."""

    heights: np.ndarray
    step: tuple[float, float]
    pose: Transform
    friction: float


class Terrain:
    """Planes and grids of heights of a simulation.

    Attributes:
        planes: As they were given.
        grids: Height fields.
        friction: Of the ground that was added last; None without any.
    """

    def __init__(self) -> None:
        self.planes: list[PlaneParams] = []
        self.grids: list[Grid] = []
        self.friction: float | None = None

    def add_plane(self, params: PlaneParams) -> None:
        """Add an infinite plane."""
        self.planes.append(params)
        self.friction = params.dynamic_friction

    def add_heights(self, samples: np.ndarray, params: HeightFieldParams) -> None:
        """Add a height field of ``samples`` (nbRows * nbColumns,) int16, row by row.

        Raises:
            InputError: if their number is not nbRows * nbColumns.
        """
        shape = (int(params.nbRows), int(params.nbColumns))
        if np.size(samples) != shape[0] * shape[1]:
            raise InputError(f"add_heightfield: {np.size(samples)} samples for nbRows {shape[0]} x nbColumns {shape[1]}")
        heights = np.asarray(samples, float).reshape(shape) * params.vertical_scale
        self.grids.append(Grid(heights, (params.row_scale, params.column_scale), params.transform, params.dynamic_friction))
        self.friction = params.dynamic_friction

    def add_mesh(self, vertices: np.ndarray, triangles: np.ndarray, params: TriangleMeshParams) -> None:
        """Add the upper side of a mesh: ``vertices`` (V, 3) or (3 V,) m, ``triangles`` (T, 3) or (3 T,) vertex indices.

        Raises:
            InputError: if it is too fine for a grid.
        """
        points = np.asarray(vertices, float).reshape(-1, 3)
        heights, step, corner = sample_mesh(points, np.asarray(triangles, int).reshape(-1, 3))
        pose = params.transform * Transform(Vec3(*corner, 0.0))
        self.grids.append(Grid(heights, step, pose, params.dynamic_friction))
        self.friction = params.dynamic_friction

    def add(self, spec: Any, bit: int) -> None:
        """Add everything to a ``mujoco.MjSpec``, colliding with whatever has ``bit`` in its affinity."""
        import mujoco

        for k, plane in enumerate(self.planes):
            normal = plane.normal.array() / np.linalg.norm(plane.normal.array())
            quat = np.zeros(4)
            mujoco.mju_quatZ2Vec(quat, normal)
            ground = spec.worldbody.add_geom(name=f"ground/plane/{k}", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
            ground.pos, ground.quat = -plane.distance * normal, quat
            ground.friction[0], ground.contype, ground.conaffinity = plane.dynamic_friction, bit, 0
        for k, grid in enumerate(self.grids):
            self._add_grid(spec, f"ground/grid/{k}", grid, bit)

    @staticmethod
    def _add_grid(spec: Any, name: str, grid: Grid, bit: int) -> None:
        import mujoco

        rows, columns = grid.heights.shape
        low, high = float(grid.heights.min()), float(grid.heights.max())
        span = max(high - low, 1e-6)
        half = (grid.step[0] * (rows - 1) / 2, grid.step[1] * (columns - 1) / 2)
        # MuJoCo's columns run along x; its data is a fraction of the span, row by row.
        data = ((grid.heights - low) / span).T
        spec.add_hfield(name=name, size=[half[0], half[1], span, _BASE], nrow=columns, ncol=rows, userdata=data.ravel().tolist())
        centre = grid.pose.transform_point(Vec3(half[0], half[1], low))
        turn = grid.pose.r
        ground = spec.worldbody.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=name)
        ground.pos, ground.quat = centre.array(), np.array([turn.w, turn.x, turn.y, turn.z])
        ground.friction[0], ground.contype, ground.conaffinity = grid.friction, bit, 0


def sample_mesh(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Return the highest points of a mesh over a regular grid.

    The grid is as fine as the vertices; every triangle is written into the points below it by its plane, the highest wins.

    Args:
        vertices: (V, 3), m.
        triangles: (T, 3), indices.

    Returns:
        heights (R, C), m; the steps along x and y; x and y of the first point. What no triangle covers lies as low as the lowest.

    Raises:
        InputError: if the grid would have more than 4 million points.
    """
    low, high = vertices[:, :2].min(axis=0), vertices[:, :2].max(axis=0)
    corners = vertices[triangles]  # (T, 3, 3)
    sides = np.abs(corners[:, [0, 1, 2], :2] - corners[:, [1, 2, 0], :2]).reshape(-1, 2)
    step = np.array([np.median(side[side > 1e-6 * (1 + high.max())]) for side in sides.T])
    counts = np.rint((high - low) / step).astype(int) + 1
    if counts.prod() > _MOST_POINTS:
        raise InputError(f"add_triangle_mesh: a grid of {counts[0]} x {counts[1]} points is needed; {_MOST_POINTS:,} points are covered")
    step = (high - low) / np.maximum(counts - 1, 1)
    heights = np.full(counts, -np.inf)
    grid = (corners[:, :, :2] - low) / step  # in points
    first = np.ceil(grid.min(axis=1) - 1e-6).astype(int)
    last = np.floor(grid.max(axis=1) + 1e-6).astype(int)
    extent = (last - first).max(axis=0) + 1
    for i in range(extent[0]):  # over the points of a triangle's box, not over triangles
        for j in range(extent[1]):
            at = first + (i, j)
            _write_points(heights, at, np.all(at <= last, axis=1), grid, corners[:, :, 2])
    heights[~np.isfinite(heights)] = vertices[:, 2].min()
    return heights, (float(step[0]), float(step[1])), (float(low[0]), float(low[1]))


def _write_points(heights: np.ndarray, at: np.ndarray, valid: np.ndarray, grid: np.ndarray, z: np.ndarray) -> None:
    """Raise ``heights`` (R, C) at points ``at`` (T, 2) to the triangles ``grid`` (T, 3, 2), ``z`` (T, 3) where these cover them."""
    a, b, c = grid[:, 0], grid[:, 1] - grid[:, 0], grid[:, 2] - grid[:, 0]
    p = at - a
    area = b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]
    flat = np.abs(area) < 1e-9  # upright triangles have no upper side
    area = np.where(flat, 1.0, area)
    u = (p[:, 0] * c[:, 1] - p[:, 1] * c[:, 0]) / area
    v = (b[:, 0] * p[:, 1] - b[:, 1] * p[:, 0]) / area
    inside = valid & ~flat & (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6)
    inside &= (at >= 0).all(axis=1) & (at < heights.shape).all(axis=1)
    height = z[:, 0] + u * (z[:, 1] - z[:, 0]) + v * (z[:, 2] - z[:, 0])
    np.maximum.at(heights, (at[inside, 0], at[inside, 1]), height[inside])
