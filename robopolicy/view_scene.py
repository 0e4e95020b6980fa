"""A MuJoCo world in a viser scene: its visible geoms, placed by what the engine computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from real.page_scene import draw_geom, quaternion

_SEEN = 0.05  # alpha from which on a geom is drawn
_GROUPS = 3  # geoms of higher groups are for collisions by MuJoCo's convention


class WorldScene:
    """Draws one world.

    Args:
        scene: A viser scene.
        model: ``mujoco.MjModel``.
    """

    def __init__(self, scene: Any, model: Any) -> None:
        shown = [g for g in range(model.ngeom) if _alpha(model, g) > _SEEN and model.geom_group[g] < _GROUPS]
        drawn = {g: _surface(scene, model, g) or draw_geom(scene, model, g, f"/world/geom{g}", _colour(model, g)) for g in shown}
        self._handles = {g: handle for g, handle in drawn.items() if handle is not None}
        self._ids = np.array(list(self._handles), np.intp)
        self._shown = np.full((len(self._ids), 12), np.nan)
        self._extent, self._centre = float(model.stat.extent), np.array(model.stat.center)

    @property
    def view(self) -> tuple[np.ndarray, np.ndarray]:
        """Where to look from and at, (3,) and (3,), m."""
        return self._centre + 1.6 * self._extent * np.array([0.7, -0.7, 0.4]), self._centre

    def place(self, data: Any) -> None:
        """Place every geom as in ``data`` (``mujoco.MjData``, positions computed); those that have not moved cost nothing."""
        poses = np.concatenate([data.geom_xpos[self._ids], data.geom_xmat[self._ids]], axis=1)
        for k in np.flatnonzero((np.abs(poses - self._shown) > 1e-6).any(axis=1) | np.isnan(self._shown[:, 0])):
            handle = self._handles[int(self._ids[k])]
            handle.position, handle.wxyz = poses[k, :3].copy(), quaternion(poses[k, 3:].reshape(3, 3))
        self._shown = poses


def _alpha(model: Any, geom: int) -> float:
    material = int(model.geom_matid[geom])
    return float(model.mat_rgba[material, 3] if material >= 0 else model.geom_rgba[geom, 3])


def _colour(model: Any, geom: int) -> tuple[int, int, int]:
    """Return the colour of a geom, its material's where the geom has none of its own."""
    material, own = int(model.geom_matid[geom]), model.geom_rgba[geom]
    rgba = model.mat_rgba[material] if material >= 0 and (own == 0.5).sum() >= 3 else own
    red, green, blue = (int(255 * c) for c in rgba[:3])
    return red, green, blue


def _surface(scene: Any, model: Any, geom: int) -> Any:
    """Draw a plane or a height field; None for another kind."""
    import mujoco

    kinds: Any = mujoco.mjtGeom  # type: ignore[attr-defined]
    kind, size, name = int(model.geom_type[geom]), model.geom_size[geom], f"/world/geom{geom}"
    if kind == int(kinds.mjGEOM_PLANE):
        half = np.where(size[:2] > 0, size[:2], 20.0)  # 0 means without end
        return scene.add_box(name, color=_colour(model, geom), dimensions=(2 * float(half[0]), 2 * float(half[1]), 1e-3))
    if kind == int(kinds.mjGEOM_HFIELD):
        field = int(model.geom_dataid[geom])
        vertices, faces = height_field(model, field)
        return scene.add_mesh_simple(name, vertices, faces, color=_colour(model, geom), flat_shading=True)
    return None


def height_field(model: Any, field: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (R * C, 3) in m and triangles (F, 3) of a height field's surface, in the frame of its geom."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    half_x, half_y, top, _ = model.hfield_size[field]
    start = int(model.hfield_adr[field])
    heights = np.array(model.hfield_data[start : start + rows * columns]).reshape(rows, columns) * top
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + columns], axis=1)
    upper = np.stack([corner + 1, corner + columns + 1, corner + columns], axis=1)
    return np.stack([x, y, heights], axis=-1).reshape(-1, 3), np.concatenate([lower, upper])
