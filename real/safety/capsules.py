"""The robot's body shapes as capsules, the nearest points of two segments, and joints as screws.

Reference for the nearest points: C. Ericson, Real-Time Collision Detection (2005), section 5.1.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from policies.kinematics import Kinematics


class Capsules:
    """Capsules of a model's body shapes, in the model's order; planes and height fields of the world are not among them.

    Args:
        kinematics: The robot; its scratch memory is not touched.

    Attributes:
        names: Of the shapes, or of their body where they have none.
        count: How many, G.
        body: (G,) index of the body each belongs to.
        radius: (G,), m.
        local: (G, 3, 2) both ends of the segments in the frame of the shape, m.
        data: Scratch memory of its own.
    """

    def __init__(self, kinematics: Kinematics) -> None:
        import mujoco

        mj: Any = mujoco
        model = kinematics.model
        self._kinematics, self._mj, self._model = kinematics, mj, model
        self.data: Any = mj.MjData(model)
        self.data.qpos[:] = kinematics.data.qpos
        flat = (int(mj.mjtGeom.mjGEOM_PLANE), int(mj.mjtGeom.mjGEOM_HFIELD))
        touches = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        self._geoms = np.array([g for g in range(model.ngeom) if touches[g] and int(model.geom_type[g]) not in flat], np.intp)
        self.count = len(self._geoms)
        self.body = model.geom_bodyid[self._geoms].astype(np.intp)
        self.names = tuple(model.geom(g).name or f"{model.body(b).name}#{g}" for g, b in zip(self._geoms, self.body, strict=True))
        shapes = [self._enclose(int(g)) for g in self._geoms]
        self.local = np.array([ends for ends, _ in shapes], np.float64).reshape(-1, 3, 2)
        self.radius = np.array([radius for _, radius in shapes], np.float64)
        self._local = np.zeros((model.ngeom, 3, 2))  # start and direction of every geom's segment in its own frame
        self._local[self._geoms] = np.stack([self.local[..., 0], self.local[..., 1] - self.local[..., 0]], axis=-1)
        self._poses: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._position, self._rotation = self.data.geom_xpos, self.data.geom_xmat
        self._qpos, self._places = self.data.qpos, kinematics.places

    def _enclose(self, geom: int) -> tuple[np.ndarray, float]:
        """Return the ends (3, 2) and the radius of the capsule around a shape."""
        kinds, size = self._mj.mjtGeom, self._model.geom_size[geom]
        kind = int(self._model.geom_type[geom])
        center, along, half = np.zeros(3), np.array([0.0, 0.0, 1.0]), 0.0
        if kind == int(kinds.mjGEOM_SPHERE):
            radius = size[0]
        elif kind in (int(kinds.mjGEOM_CAPSULE), int(kinds.mjGEOM_CYLINDER)):
            radius, half = size[0], size[1]
        elif kind == int(kinds.mjGEOM_ELLIPSOID):
            order = np.argsort(size)
            radius, half, along = size[order[1]], size[order[2]] - size[order[1]], np.eye(3)[order[2]]
        else:  # a box, or the box around a mesh
            box = self._model.geom_aabb[geom]
            center, order = box[:3], np.argsort(box[3:])
            radius, half, along = float(np.hypot(*box[3:][order[:2]])), box[3:][order[2]], np.eye(3)[order[2]]
        return np.stack([center - half * along, center + half * along], axis=-1), float(radius)

    def place(self, q: np.ndarray, out: np.ndarray) -> None:
        """Write, for configurations ``q`` (T, n), the starts and then the directions of all segments into ``out`` (T, 2 G, 3), m."""
        count = len(q)
        if count not in self._poses:
            shapes = (count, self._model.ngeom)
            self._poses[count] = np.empty((*shapes, 3)), np.empty((*shapes, 9))
        positions, rotations = self._poses[count]
        for k in range(count):
            self._qpos[self._places] = q[k]
            self._mj.mj_kinematics(self._model, self.data)
            positions[k], rotations[k] = self._position, self._rotation
        turned = np.matmul(rotations.reshape(count, -1, 3, 3), self._local).swapaxes(-1, -2)
        if self.count < self._model.ngeom:
            turned, positions = turned[:, self._geoms], positions[:, self._geoms]
        np.add(turned[:, :, 0], positions, out=out[:, : self.count])
        out[:, self.count : 2 * self.count] = turned[:, :, 1]

    def separate_pairs(self) -> Iterator[tuple[int, int]]:
        """Yield the pairs of shapes on bodies that are neither one, nor neighbours, nor excluded by the model."""
        for a in range(self.count):
            for b in range(a + 1, self.count):
                if not self._joined(a, b):
                    yield a, b

    def neighbours(self) -> list[str]:
        """Return the pairs that :meth:`separate_pairs` leaves out for their bodies, as lines."""
        pairs = [(a, b) for a in range(self.count) for b in range(a + 1, self.count)]
        return [f"{self.names[a]}:{self.names[b]}: one body, neighbours, or excluded by the model" for a, b in pairs if self._joined(a, b)]

    def _joined(self, a: int, b: int) -> bool:
        model = self._model
        one, other = (int(model.body_weldid[self.body[g]]) for g in (a, b))
        parent, others = (int(model.body_weldid[model.body_parentid[body]]) for body in (one, other))
        low, high = sorted((int(self.body[a]), int(self.body[b])))
        # MuJoCo packs an excluded pair of bodies into one number.
        return one in (other, others) or other == parent or (low << 16) + high in {int(s) for s in model.exclude_signature}

    def reaches(self, screws: Screws) -> np.ndarray:
        """Return a bound (G, n) of the distance from each joint to the ends of each shape, over all configurations."""
        out = np.zeros((self.count, screws.n))
        for g in range(self.count):
            geom = self._geoms[g]
            turn = np.zeros(9)
            self._mj.mju_quat2Mat(turn, self._model.geom_quat[geom])
            ends = self._model.geom_pos[geom][:, None] + turn.reshape(3, 3) @ self.local[g]  # in the body's frame
            out[g] = screws.reach(int(self.body[g]), ends)
        return out


class Screws:
    """How each joint moves each body at the configuration that was computed last.

    Args:
        kinematics: The robot.
        data: MuJoCo's scratch memory in which configurations are computed.

    Attributes:
        n: Number of joints.
        moves: (bodies, n), 1.0 where a joint moves a body.
    """

    def __init__(self, kinematics: Kinematics, data: Any) -> None:
        self._model, self.n = kinematics.model, kinematics.n
        self._joints = kinematics.joints
        self._axis, self._anchor = data.xaxis, data.xanchor
        self._slides = (self._model.jnt_type[self._joints] == 2)[:, None]  # mjJNT_SLIDE
        self._sliding = bool(self._slides.any())
        self.moves = np.zeros((self._model.nbody, self.n))
        for body in range(self._model.nbody):
            above = {body, *self._ancestors(body)}
            self.moves[body] = [int(self._model.jnt_bodyid[j]) in above for j in self._joints]
        first = [not any(int(self._model.body_jntnum[b]) for b in self._ancestors(int(self._model.jnt_bodyid[j]))) for j in self._joints]
        alone = [int(self._model.body_jntnum[self._model.jnt_bodyid[j]]) == 1 for j in self._joints]
        self._stands = np.array(first) & np.array(alone) & ~self._slides[:, 0]

    def _ancestors(self, body: int) -> list[int]:
        out = []
        while body:
            body = int(self._model.body_parentid[body])
            out.append(body)
        return out

    def along(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Return the speed (K, n) of ``points`` (K, 3) along ``normals`` (K, 3) per unit speed of each joint, if it moves them."""
        axis, anchor = self._axis[self._joints], self._anchor[self._joints]
        screws = np.concatenate([axis, _cross(anchor, axis)], axis=1)
        if self._sliding:
            screws = np.where(self._slides, np.concatenate([np.zeros_like(axis), axis], axis=1), screws)
        return np.concatenate([_cross(points, normals), normals], axis=1) @ screws.T

    def inclination(self, normals: np.ndarray) -> np.ndarray:
        """Return (K, n): the sine between ``normals`` (K, 3) and each joint's axis if that never moves, else 1."""
        axis = self._axis[self._joints]
        sine = np.linalg.norm(_cross(normals[:, None, :], axis[None]), axis=-1)
        return np.where(self._stands, np.minimum(sine + 1e-12, 1.0), 1.0)

    def reach(self, body: int, ends: np.ndarray) -> np.ndarray:
        """Bound (n,) the distance from each joint's anchor to points ``ends`` (3, E) of ``body``; 1 for slides, 0 if not moved."""
        model = self._model
        out = np.zeros(self.n)
        for i, joint in enumerate(self._joints):
            at, anchor = int(model.jnt_bodyid[joint]), model.jnt_pos[joint]
            if not self.moves[body, i]:
                continue
            if self._slides[i, 0]:
                out[i] = 1.0
                continue
            if at == body:
                out[i] = np.linalg.norm(ends - anchor[:, None], axis=0).max() + self._shift(body)
                continue
            chain = [b for b in [body, *self._ancestors(body)] if b > at and at in self._ancestors(b)]  # from the part up to below the joint
            first = chain[-1]
            out[i] = np.linalg.norm(model.body_pos[first] - anchor) + self._shift(at)
            out[i] += sum(float(np.linalg.norm(model.body_pos[b])) for b in chain[:-1]) + sum(self._shift(b) for b in chain)
            out[i] += np.linalg.norm(ends, axis=0).max()
        return out

    def _shift(self, body: int) -> float:
        """Return by how much the joints of a body can shift its origin: slides by their range, hinges away from it by turning."""
        model, out = self._model, 0.0
        start = int(model.body_jntadr[body])
        for joint in range(start, start + int(model.body_jntnum[body])):
            if int(model.jnt_type[joint]) == 2:
                out += float(np.abs(model.jnt_range[joint]).max()) if model.jnt_limited[joint] else np.inf
            else:
                out += 2 * float(np.linalg.norm(model.jnt_pos[joint]))
        return out


_ZERO, _ONE, _TWO = np.array(0.0), np.array(1.0), np.array(2.0)
_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product (..., 3); numpy's own takes several times as long on few rows."""
    return a[..., _NEXT] * b[..., _LAST] - a[..., _LAST] * b[..., _NEXT]


class Segments:
    """Distances between pairs of segments, and of segments to planes, from the inner products of all their vectors.

    Vectors are stacked as rows: starts of the segments, their directions, the normals of the planes. The lengths of the
    segments never change.

    Args:
        segments: How many segments there are, S; vectors are their starts, then their directions, then the normals.
        normals: How many planes.
        first: Segments (P,) that are compared with ``second``.
        second: Segments (P,).
        plane: Planes (Q,) that are compared with ``part``.
        part: Segments (Q,).
        lengths: (S,) m.
    """

    def __init__(self, segments: int, normals: int, first: np.ndarray, second: np.ndarray, plane: np.ndarray, part: np.ndarray, lengths: np.ndarray) -> None:
        self._rows, self.first, self.second, self.part = 2 * segments + normals, first, second, part
        p1, p2, d1, d2 = first, second, first + segments, second + segments
        products = [(p1, d1), (p2, d1), (p1, d2), (p2, d2), (d1, d2), (p1, p1), (p2, p2), (p1, p2)]
        self._pairs = np.array([x * self._rows + y for x, y in products]).reshape(8, -1)
        normal = 2 * segments + plane
        self._planes = np.array([part * self._rows + normal, (part + segments) * self._rows + normal]).reshape(2, -1)
        a, e = lengths[first] ** 2, lengths[second] ** 2
        flat = 1e-300
        self._squares = np.stack([a, e, 1 / (a + flat), 1 / (e + flat), a * e, 1e-12 * a * e + flat]).reshape(6, -1)
        self._sized: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _size(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if count not in self._sized:
            shift = (np.arange(count) * self._rows**2)[:, None]
            pairs, planes = (np.ascontiguousarray((index[:, None] + shift).reshape(len(index), -1)) for index in (self._pairs, self._planes))
            self._sized[count] = pairs, planes, np.ascontiguousarray(np.tile(self._squares, (1, count)))
        return self._sized[count]

    def solve(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Solve for ``vectors`` (T, rows, 3).

        Returns:
            Distances of the pairs (T, P); the shares (T * P,) of both segments at which they are nearest; the least product
            of each part with its plane's normal (T, Q).
        """
        count = len(vectors)
        pairs, planes, squares = self._size(count)
        gram = np.matmul(vectors, vectors.swapaxes(-1, -2)).ravel()
        g, (a, e, per_a, per_e, both, flat) = gram[pairs], squares
        b, c, f = g[4], g[0] - g[1], g[2] - g[3]
        s = np.minimum(np.maximum((b * f - c * e) / np.maximum(both - b * b, flat), _ZERO), _ONE)
        t = np.minimum(np.maximum((b * s + f) * per_e, _ZERO), _ONE)
        s = np.minimum(np.maximum((b * t - c) * per_a, _ZERO), _ONE)
        square = g[5] + g[6] - _TWO * g[7] + s * (s * a + _TWO * (c - t * b)) + t * (t * e - _TWO * f)
        heights = gram[planes]
        lowest = heights[0] + np.minimum(heights[1], _ZERO)
        return np.sqrt(np.maximum(square, _ZERO)).reshape(count, -1), s, t, lowest.reshape(count, -1)
