"""The robot in the page's 3D view: the geoms of its MJCF or URDF, placed by its measured joints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policies.spec import InputError


class RobotScene:
    """Draws one robot.

    Args:
        scene: A viser scene.
        model: MJCF or URDF text; empty, or one that cannot be read: a plain frame stands for the robot.
        joints: Names of the joints in the order of the values; None: all of the model.

    Attributes:
        n: Number of joints; 0 without a model.
        problem: Why there is no robot to see; empty if there is one.
    """

    def __init__(self, scene: Any, model: str, joints: Sequence[str] | None = None) -> None:
        self.n, self.problem, self._kinematics, self._handles = 0, "", None, {}
        self._shown = np.empty(0)  # nothing is sent for a robot that stands still
        scene.add_grid("/floor", width=4.0, height=4.0, cell_size=0.25, section_size=1.0, cell_color=(55, 58, 64), section_color=(90, 94, 102))
        scene.add_frame("/robot", axes_length=0.12, axes_radius=0.004)
        if not model:
            self.problem = "the robot declares no model"
            return
        try:
            from policies.kinematics import Kinematics

            self._kinematics = Kinematics(model, list(joints) if joints else None)
        except (InputError, ImportError) as error:
            self.problem = str(error)
            return
        self.n = self._kinematics.n
        loaded = self._kinematics.model
        shown = [g for g in range(loaded.ngeom) if loaded.geom_rgba[g, 3] > 0.05]
        drawn = {g: draw_geom(scene, loaded, g, f"/robot/geom{g}", tuple(int(255 * c) for c in loaded.geom_rgba[g, :3])) for g in shown}
        self._handles = {g: handle for g, handle in drawn.items() if handle is not None}
        self.move(self._kinematics.home)

    @property
    def view(self) -> tuple[np.ndarray, np.ndarray]:
        """Where to look from and at, (3,) and (3,), m."""
        if not self._handles or self._kinematics is None:
            return np.array([1.5, 1.5, 1.2]), np.array([0.0, 0.0, 0.3])
        points = self._kinematics.data.geom_xpos[list(self._handles)]
        centre, size = points.mean(0), max(float(np.ptp(points, 0).max()), 0.3)
        return centre + size * np.array([1.0, -1.0, 0.45]), centre

    def move(self, q: np.ndarray) -> None:
        """Place every geom for joint positions ``q`` (n,); what is no such array leaves the robot where it is."""
        if self._kinematics is None or np.shape(q) != (self.n,) or not np.isfinite(q).all() or np.array_equal(q, self._shown):
            return
        self._shown = np.array(q)
        self._kinematics.forward(np.asarray(q, np.float64))
        data = self._kinematics.data
        for geom, handle in self._handles.items():
            handle.position = data.geom_xpos[geom].copy()
            handle.wxyz = quaternion(data.geom_xmat[geom].reshape(3, 3))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return (4,) w, x, y, z of a rotation matrix (3, 3), by the largest of its four components (Shepperd 1978)."""
    r = rotation
    squares = np.array([r.trace(), r[0, 0], r[1, 1], r[2, 2]])
    largest = int(squares.argmax())
    if largest == 0:
        q = np.array([1 + squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    else:
        i = largest - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[0] = r[k, j] - r[j, k]
        q[1 + i] = 1 + r[i, i] - r[j, j] - r[k, k]
        q[1 + j], q[1 + k] = r[j, i] + r[i, j], r[k, i] + r[i, k]
    return q / np.linalg.norm(q)


def draw_geom(scene: Any, model: Any, geom: int, name: str, colour: tuple[int, ...]) -> Any:
    """Draw one geom of a ``mujoco.MjModel`` as ``name`` and return its handle; None for kinds that have no shape of their own.

    Those are planes and height fields. ``colour``: (3,) of 0 to 255.
    """
    import mujoco
    import trimesh

    engine: Any = mujoco
    kinds = engine.mjtGeom
    kind, size = int(model.geom_type[geom]), model.geom_size[geom]
    if kind == int(kinds.mjGEOM_BOX):
        return scene.add_box(name, color=colour, dimensions=tuple(2 * size))
    if kind in (int(kinds.mjGEOM_SPHERE), int(kinds.mjGEOM_ELLIPSOID)):
        scale = 1.0 if kind == int(kinds.mjGEOM_SPHERE) else tuple(float(s) for s in size / size[0])
        return scene.add_icosphere(name, radius=float(size[0]), color=colour, scale=scale)
    if kind == int(kinds.mjGEOM_CYLINDER):
        return scene.add_cylinder(name, radius=float(size[0]), height=float(2 * size[1]), color=colour)
    if kind == int(kinds.mjGEOM_CAPSULE):
        mesh = trimesh.creation.capsule(height=float(2 * size[1]), radius=float(size[0]), count=(24, 24))
        mesh.apply_translation(-mesh.bounds.mean(0))
        return scene.add_mesh_simple(name, np.asarray(mesh.vertices), np.asarray(mesh.faces), color=colour)
    if kind == int(kinds.mjGEOM_MESH):
        number = int(model.geom_dataid[geom])
        first, count = int(model.mesh_vertadr[number]), int(model.mesh_vertnum[number])
        face, faces = int(model.mesh_faceadr[number]), int(model.mesh_facenum[number])
        return scene.add_mesh_simple(name, model.mesh_vert[first : first + count], model.mesh_face[face : face + faces], color=colour)
    return None
