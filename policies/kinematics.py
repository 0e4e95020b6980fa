"""Forward kinematics and Jacobians of a robot from its MJCF or URDF text.

MuJoCo does the work and is imported when a model is read, so that a program which needs no kinematics starts without it.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policies.spec import InputError, suggest


class Kinematics:
    """A kinematic model at one configuration at a time: ``forward(q)`` first, then ``pose`` and ``jacobian``.

    Joints are the hinges and slides of the model in its order, or those that are named; every other joint stays where
    the model's first keyframe, or its reference configuration, has it. An instance holds MuJoCo's scratch memory: one thread at a time.

    Args:
        model: MJCF or URDF text; files it refers to (meshes) are not read.
        joints: Names of the joints that ``q`` is about, in its order; None: all hinges and slides.

    Attributes:
        names: Joint names, n of them.
        n: Number of joints.
        low, high: Position limits (n,), rad or m; infinite where the model has none.
        home: First keyframe of the model, or its reference configuration if it has none (n,), rad or m.
        model, data: MuJoCo's own ``MjModel`` and ``MjData``, for what is computed on top (distances, rendering).
        joints: Indices (n,) of the joints in the model.
        columns, places: Their indices (n,) among the model's degrees of freedom and in ``qpos``.

    Raises:
        InputError: The text is no model, or it has no such joint.
    """

    def __init__(self, model: str, joints: Sequence[str] | None = None) -> None:
        import mujoco

        mj: Any = mujoco
        self._mj = mj
        try:
            self.model: Any = mj.MjModel.from_xml_string(model)
        except ValueError as error:
            raise InputError(f"kinematics: not a model in MJCF or URDF: {' '.join(str(error).split())}") from error
        self.data: Any = mj.MjData(self.model)
        single = (int(mj.mjtJoint.mjJNT_HINGE), int(mj.mjtJoint.mjJNT_SLIDE))
        known = {self.model.joint(j).name: j for j in range(self.model.njnt) if int(self.model.jnt_type[j]) in single}
        wanted = list(known) if joints is None else list(joints)
        for name in wanted:
            if name not in known:
                raise InputError(f"kinematics: the model has no hinge or slide {name!r}{suggest(name, known)}")
        if not wanted:
            raise InputError("kinematics: the model has no hinge or slide joint")
        self.joints = chosen = np.array([known[name] for name in wanted], np.intp)
        self.names = tuple(wanted)
        self.n = len(wanted)
        limited = self.model.jnt_limited[chosen].astype(bool)
        self.low = np.where(limited, self.model.jnt_range[chosen, 0], -np.inf)
        self.high = np.where(limited, self.model.jnt_range[chosen, 1], np.inf)
        self.columns = self.model.jnt_dofadr[chosen].astype(np.intp)
        self.places = self.model.jnt_qposadr[chosen].astype(np.intp)
        self._whole = bool(self.model.nv == self.n and (self.columns == np.arange(self.n)).all())
        self._buffer = np.zeros((6, self.model.nv))
        self._objects: dict[str, tuple[bool, int]] = {}
        if self.model.nkey:
            mj.mj_resetDataKeyframe(self.model, self.data, 0)
        self.home = self.data.qpos[self.places].copy()
        self.forward(self.home)

    def forward(self, q: np.ndarray) -> None:
        """Place every body for joint positions ``q`` (n,), rad or m. Raises ValueError if ``q`` is not (n,)."""
        if np.shape(q) != (self.n,):
            raise ValueError(f"kinematics: expected joint positions of shape ({self.n},), found {np.shape(q)}")
        self.data.qpos[self.places] = q
        self._mj.mj_kinematics(self.model, self.data)
        self._mj.mj_comPos(self.model, self.data)  # Jacobians are written on its axes

    def pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return position (3,), m, and rotation matrix (3, 3) of a site or body in the world. Raises InputError if unknown."""
        site, number = self._find(name)
        where = self.data.site(number) if site else self.data.body(number)
        return where.xpos.copy(), where.xmat.reshape(3, 3).copy()

    def jacobian(self, name: str) -> np.ndarray:
        """Return the Jacobian (6, n) of a site or body in the world frame: linear rows first, then angular. Raises InputError."""
        site, number = self._find(name)
        of = self._mj.mj_jacSite if site else self._mj.mj_jacBody
        of(self.model, self.data, self._buffer[:3], self._buffer[3:], number)
        return self._buffer.copy() if self._whole else self._buffer[:, self.columns]

    def _find(self, name: str) -> tuple[bool, int]:
        """Return (whether it is a site, its number); a site wins over a body of the same name."""
        if name not in self._objects:
            sites = {self.model.site(s).name: s for s in range(self.model.nsite)}
            bodies = {self.model.body(b).name: b for b in range(self.model.nbody)}
            if name not in sites and name not in bodies:
                known = [n for n in (*sites, *bodies) if n]
                raise InputError(f"kinematics: the model has no site or body {name!r}{suggest(name, known)}")
            self._objects[name] = (True, sites[name]) if name in sites else (False, bodies[name])
        return self._objects[name]
