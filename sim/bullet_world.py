"""One Bullet world, built from a translated model: a client of its own, so that no world knows of another.

Calls of pybullet are per world and per tree (its arrays span the joints of one tree): this is the Python that the other engines
do not have.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.bullet_model import Link, Translation, Tree, carrier, geom_kind, hull, inverse, product, rotated, terrain
from sim.engine import muted

_MASSLESS = 1e-7  # kg, of links that only join others
_UNLIMITED = 1e6  # rad/s and m/s, of joints; Bullet's own limit is 100
_SOLVER_ITERATIONS = 100
MOST_WORLDS = 1024  # clients that pybullet holds in a process
_STANDS, _MOVES = (2, -3), (1, -1)  # Bullet's own groups and masks for what stands and what moves


class BulletWorld:
    """One world.

    Args:
        model: ``mujoco.MjModel``.
        translation: Of it.
        standing: Poses (S, 7) of the standing shapes' geoms, position and quaternion wxyz, in the world or on their mocap body.

    Attributes:
        joints: For every tree, (links, addresses in qpos, addresses in qvel) of its moving joints; slices where they follow one another.
        floating: (tree, body, address in qpos, address in qvel) of every tree that floats.
    """

    def __init__(self, model: Any, translation: Translation, standing: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
        pybullet = library()
        self._p: Any = pybullet
        self._model, self._translation, self._standing = model, translation, standing
        self._client = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise InputError(f"engine 'bullet' has no room for another world: pybullet holds {MOST_WORLDS} at most")
        self._c: dict[str, int] = {"physicsClientId": self._client}
        parameters = {"fixedTimeStep": float(model.opt.timestep), "numSolverIterations": _SOLVER_ITERATIONS, "deterministicOverlappingPairs": 1}
        pybullet.setPhysicsEngineParameter(**parameters, **self._c)
        self._trees = [self._build(tree) for tree in translation.trees]
        self._fixed = {shape: self._stand(shape) for shape in translation.fixed}
        self.joints = [_moving(model, tree) for tree in translation.trees]
        self._zeros = [model.qpos0[places].copy() for _, places, _ in self.joints]
        self.floating = [(t, tree.base, *_addresses(model, tree.base)) for t, tree in enumerate(translation.trees) if tree.base >= 0]
        self._limit_joints()
        self._filter()

    def close(self) -> None:
        """End the world; may be called twice."""
        if self._client >= 0 and self._p.isConnected(self._client):
            self._p.disconnect(self._client)
        self._client = -1

    # Building ----------------------------------------------------------------------------------------------------

    def _build(self, tree: Tree) -> int:
        p, model, links = self._p, self._model, tree.links
        base: dict[str, Any] = {"baseMass": 0, "baseCollisionShapeIndex": -1}
        if tree.base >= 0:
            inertial = {"baseInertialFramePosition": model.body_ipos[tree.base].tolist(), "baseInertialFrameOrientation": _xyzw(model.body_iquat[tree.base])}
            base = {"baseMass": float(model.body_mass[tree.base]), "baseCollisionShapeIndex": self._shape(tree.base_shape, np.zeros(3)), **inertial}
        kinds = {-1: p.JOINT_FIXED, 2: p.JOINT_PRISMATIC, 3: p.JOINT_REVOLUTE}
        body = p.createMultiBody(
            **base,
            linkMasses=[float(model.body_mass[link.body]) if link.heavy else _MASSLESS for link in links],
            linkCollisionShapeIndices=[self._shape(link.shape, link.offset) for link in links],
            linkVisualShapeIndices=[-1] * len(links),
            linkPositions=[link.position.tolist() for link in links],
            linkOrientations=[_xyzw(link.orientation) for link in links],
            linkInertialFramePositions=[(link.offset + model.body_ipos[link.body]).tolist() if link.heavy else [0, 0, 0] for link in links],
            linkInertialFrameOrientations=[_xyzw(model.body_iquat[link.body]) if link.heavy else [0, 0, 0, 1] for link in links],
            linkParentIndices=[link.parent + 1 for link in links],
            linkJointTypes=[kinds[int(model.jnt_type[link.joint]) if link.joint >= 0 else -1] for link in links],
            linkJointAxis=[model.jnt_axis[link.joint].tolist() if link.joint >= 0 else [0, 0, 1] for link in links],
            flags=p.URDF_USE_SELF_COLLISION,
            **self._c,
        )
        if body < 0:
            raise InputError(f"engine 'bullet' cannot build the tree of body {model.body(tree.base if tree.base >= 0 else links[0].body).name!r}")
        still = {"linearDamping": 0, "angularDamping": 0, "jointDamping": 0, "restitution": 0, "rollingFriction": 0, "spinningFriction": 0}
        for link in range(-1, len(links)):
            p.changeDynamics(body, link, maxJointVelocity=_UNLIMITED, **still, **self._c)
        return body

    def _shape(self, shape: int, offset: np.ndarray) -> int:
        """Make the collision shape of a link from geoms, whose poses are in the body's frame, itself at ``offset`` in the link's."""
        if shape < 0:
            return -1
        model, geoms = self._model, list(self._translation.shapes[shape])
        if geom_kind(model, geoms[0]) in ("ellipsoid", "mesh"):
            return self._hull(geoms[0], model.geom_pos[geoms[0]] + offset, model.geom_quat[geoms[0]])
        sizes = model.geom_size[geoms]
        made = self._p.createCollisionShapeArray(
            shapeTypes=[self._kind(g) for g in geoms],
            radii=sizes[:, 0].tolist(),
            lengths=(2 * sizes[:, 1]).tolist(),
            halfExtents=sizes.tolist(),
            collisionFramePositions=(model.geom_pos[geoms] + offset).tolist(),
            collisionFrameOrientations=[_xyzw(model.geom_quat[g]) for g in geoms],
            **self._c,
        )
        if made < 0:
            raise InputError(f"engine 'bullet' cannot build {len(geoms)} geoms of body {model.body(int(model.geom_bodyid[geoms[0]])).name!r} as one shape")
        return made

    def _kind(self, geom: int) -> int:
        p = self._p
        names = {"sphere": p.GEOM_SPHERE, "capsule": p.GEOM_CAPSULE, "cylinder": p.GEOM_CYLINDER, "box": p.GEOM_BOX, "plane": p.GEOM_PLANE}
        return names[geom_kind(self._model, geom)]

    def _hull(self, geom: int, position: np.ndarray, orientation: np.ndarray) -> int:
        frame = {"collisionFramePosition": position.tolist(), "collisionFrameOrientation": _xyzw(orientation)}
        return self._p.createCollisionShape(self._p.GEOM_MESH, vertices=hull(self._model, geom).tolist(), **frame, **self._c)

    def _stand(self, shape: int) -> int:
        """Build a geom that stands, at its place in the world or that of its mocap body at the beginning."""
        p, geom = self._p, self._translation.shapes[shape][0]
        (position, orientation), size, kind = self._standing[shape], self._model.geom_size[geom], geom_kind(self._model, geom)
        if kind == "hfield":
            heights, spacing = terrain(self._model, geom)
            rows, columns = heights.shape
            position = position + rotated(orientation, np.array([0, 0, (heights.min() + heights.max()) / 2]))  # Bullet's zero is half way up
            along = {"numHeightfieldRows": columns, "numHeightfieldColumns": rows, "meshScale": [*spacing.tolist(), 1.0]}
            made = p.createCollisionShape(p.GEOM_HEIGHTFIELD, heightfieldData=heights.ravel().tolist(), **along, **self._c)
        elif kind in ("ellipsoid", "mesh"):
            made = self._hull(geom, np.zeros(3), np.array([1.0, 0, 0, 0]))
        else:
            what = {"planeNormal": [0, 0, 1]} if kind == "plane" else {"radius": float(size[0]), "height": float(2 * size[1]), "halfExtents": size.tolist()}
            made = p.createCollisionShape(self._kind(geom), **what, **self._c)
        body = p.createMultiBody(0, made, -1, position.tolist(), _xyzw(orientation), **self._c)
        p.changeDynamics(body, -1, restitution=0, rollingFriction=0, spinningFriction=0, **self._c)
        return body

    def _limit_joints(self) -> None:
        import mujoco

        model, p = self._model, self._p
        off = mujoco.mjtDisableBit  # type: ignore[attr-defined]
        limits = not model.opt.disableflags & int(off.mjDSBL_LIMIT | off.mjDSBL_CONSTRAINT)
        for body, tree in zip(self._trees, self._translation.trees, strict=True):
            for index, link in enumerate(tree.links):
                if link.joint >= 0 and limits and model.jnt_limited[link.joint]:
                    low, high = model.jnt_range[link.joint] - model.qpos0[model.jnt_qposadr[link.joint]]
                    p.changeDynamics(body, index, jointLowerLimit=float(low), jointUpperLimit=float(high), **self._c)

    def _filter(self) -> None:
        """Let those shapes collide that do in MuJoCo, and no others."""
        meets = self._translation.meets
        for one in range(len(meets)):
            for two in range(one):
                if one not in self._fixed or two not in self._fixed:
                    (body1, link1), (body2, link2) = self._address(one), self._address(two)
                    self._p.setCollisionFilterPair(body1, body2, link1, link2, int(meets[one, two]), **self._c)
        self.forget()

    def _address(self, shape: int) -> tuple[int, int]:
        """Return Bullet's (body, link) of a shape."""
        if shape in self._fixed:
            return self._fixed[shape], -1
        tree, link = self._translation.places[shape]
        return self._trees[tree], link

    # Physics -----------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Forget contacts of the past, which Bullet goes on from: what follows then depends on the state alone."""
        for shape in range(len(self._translation.shapes)):
            group, mask = _STANDS if shape in self._fixed else _MOVES
            self._p.setCollisionFilterGroupMask(*self._address(shape), group, mask, **self._c)

    def set_dynamics(self, mass: np.ndarray, inertia: np.ndarray, friction: np.ndarray, loss: np.ndarray, gravity: np.ndarray) -> None:
        """Give bodies their masses (nbody,) and inertias (nbody, 3), shapes their friction (S,), joints theirs (nv,), the world its gravity (3,)."""
        p = self._p
        for body, tree, (links, _, dofs) in zip(self._trees, self._translation.trees, self.joints, strict=True):
            if tree.base >= 0:
                p.changeDynamics(body, -1, mass=float(mass[tree.base]), localInertiaDiagonal=inertia[tree.base].tolist(), **self._c)
            for index, link in enumerate(tree.links):
                own = (float(mass[link.body]), inertia[link.body].tolist()) if link.heavy else (_MASSLESS, [0, 0, 0])
                p.changeDynamics(body, index, mass=max(own[0], _MASSLESS), localInertiaDiagonal=own[1], **self._c)
            if links:
                p.setJointMotorControlArray(body, links, p.VELOCITY_CONTROL, forces=loss[dofs].tolist(), **self._c)
        for shape, value in enumerate(friction):
            p.changeDynamics(*self._address(shape), lateralFriction=float(value), **self._c)
        p.setGravity(*gravity.tolist(), **self._c)

    def put(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the bodies into the state ``qpos`` (nq,), ``qvel`` (nv,), with no memory of contacts."""
        self.take_back(qpos, qvel)
        self.forget()

    def take_back(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the bodies into the state ``qpos`` (nq,), ``qvel`` (nv,) that the last tick began with."""
        p, model = self._p, self._model
        for body, (links, places, dofs) in zip(self._trees, self.joints, strict=True):
            if links:
                p.resetJointStatesMultiDof(body, links, (qpos[places] - model.qpos0[places])[:, None].tolist(), qvel[dofs][:, None].tolist(), **self._c)
        for tree, base, q, v in self.floating:
            orientation = qpos[q + 3 : q + 7] / np.linalg.norm(qpos[q + 3 : q + 7])
            lever, spin = rotated(orientation, model.body_ipos[base]), rotated(orientation, qvel[v + 3 : v + 6])
            turned = product(orientation, model.body_iquat[base])
            p.resetBasePositionAndOrientation(self._trees[tree], (qpos[q : q + 3] + lever).tolist(), _xyzw(turned), **self._c)
            p.resetBaseVelocity(self._trees[tree], (qvel[v : v + 3] + np.cross(spin, lever)).tolist(), spin.tolist(), **self._c)

    def place(self, shape: int, position: np.ndarray, orientation: np.ndarray) -> None:
        """Move a standing shape to ``position`` (3,), ``orientation`` (4,) wxyz."""
        self._p.resetBasePositionAndOrientation(self._fixed[shape], position.tolist(), _xyzw(orientation), **self._c)

    def step(self, force: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """One tick with generalized forces ``force`` (nv,); writes the new state into ``qpos`` (nq,), ``qvel`` (nv,)."""
        p, model = self._p, self._model
        for body, (links, _, dofs) in zip(self._trees, self.joints, strict=True):
            if links:
                p.setJointMotorControlArray(body, links, p.TORQUE_CONTROL, forces=force[dofs].tolist(), **self._c)
        for tree, _, q, v in self.floating:
            if np.abs(force[v : v + 6]).max() > 1e-9:
                turned = rotated(qpos[q + 3 : q + 7], force[v + 3 : v + 6])
                p.applyExternalForce(self._trees[tree], -1, force[v : v + 3].tolist(), qpos[q : q + 3].tolist(), p.WORLD_FRAME, **self._c)
                p.applyExternalTorque(self._trees[tree], -1, turned.tolist(), p.WORLD_FRAME, **self._c)
        p.stepSimulation(**self._c)
        for body, (links, places, dofs), zero in zip(self._trees, self.joints, self._zeros, strict=True):
            if links:
                positions, speeds, *_ = zip(*p.getJointStates(body, links, **self._c), strict=True)
                qpos[places], qvel[dofs] = positions, speeds
                qpos[places] += zero
        for tree, base, q, v in self.floating:
            position, orientation = p.getBasePositionAndOrientation(self._trees[tree], **self._c)
            linear, spin = (np.array(part) for part in p.getBaseVelocity(self._trees[tree], **self._c))
            turned = product(np.array([orientation[3], *orientation[:3]]), inverse(model.body_iquat[base]))
            turned = turned if turned @ qpos[q + 3 : q + 7] >= 0 else -turned
            lever = rotated(turned, model.body_ipos[base])
            qpos[q : q + 3], qpos[q + 3 : q + 7] = np.array(position) - lever, turned
            qvel[v : v + 3], qvel[v + 3 : v + 6] = linear - np.cross(spin, lever), rotated(inverse(turned), spin)


@functools.cache
def library() -> Any:
    """Import pybullet, which otherwise greets on standard error."""
    with muted():
        import pybullet
    return pybullet


def standing_poses(model: Any, translation: Translation) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return (position, quaternion wxyz) of every standing shape at the beginning."""
    import mujoco

    data = mujoco.MjData(model)  # type: ignore[attr-defined]
    mujoco.mj_kinematics(model, data)  # type: ignore[attr-defined]
    return {shape: geom_pose(model, translation.shapes[shape][0], data.xpos, data.xquat) for shape in translation.fixed}


def geom_pose(model: Any, geom: int, xpos: np.ndarray, xquat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return position and quaternion of a geom where bodies are at ``xpos`` (nbody, 3), ``xquat`` (nbody, 4)."""
    body = int(model.geom_bodyid[geom])
    return xpos[body] + rotated(xquat[body], model.geom_pos[geom]), product(xquat[body], model.geom_quat[geom])


def carried(model: Any, translation: Translation) -> list[int]:
    """Return the standing shapes that a mocap body carries."""
    return [shape for shape in translation.fixed if carrier(model, translation.shapes[shape][0])]


def _moving(model: Any, tree: Tree) -> tuple[list[int], Any, Any]:
    links: list[tuple[int, Link]] = [(k, link) for k, link in enumerate(tree.links) if link.joint >= 0]
    joints = np.array([link.joint for _, link in links], np.int64)
    return [k for k, _ in links], _run(model.jnt_qposadr[joints]), _run(model.jnt_dofadr[joints])


def _run(index: np.ndarray) -> Any:
    """Return ``index`` (n,) as a slice if its numbers follow one another: half the time a tick."""
    if len(index) and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _addresses(model: Any, body: int) -> tuple[int, int]:
    joint = model.body_jntadr[body]
    return int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])


def _xyzw(quat: np.ndarray) -> list[float]:
    return [float(quat[k]) for k in (1, 2, 3, 0)]
