"""``isaacgym.gymapi``: every name of the interface that is covered; any other raises an error that names it."""

from __future__ import annotations

from typing import Any

from sim.isaacgym.actors import Env
from sim.isaacgym.asset import Asset
from sim.isaacgym.constants import DEFAULT_VIEWER_HEIGHT, DEFAULT_VIEWER_WIDTH, ENUMERATIONS, INVALID_HANDLE, MEMBERS
from sim.isaacgym.gym import Gym, Viewer, acquire_gym
from sim.isaacgym.parameters import (
    ActuatorProperties,
    AssetOptions,
    CameraProperties,
    ForceSensorProperties,
    HeightFieldParams,
    IndexRange,
    PhysXParams,
    PlaneParams,
    RigidBodyProperties,
    RigidShapeProperties,
    SimParams,
    TriangleMeshParams,
    VhacdParams,
)
from sim.isaacgym.refusal import refuse
from sim.isaacgym.structures import DofState, Mat33, Quat, RigidBodyState, Transform, Vec3, Velocity
from sim.isaacgym.tensor import Tensor
from sim.isaacgym.world import Sim

_NAMES = {**MEMBERS, **{enumeration.__name__: enumeration for enumeration in ENUMERATIONS}}

__all__ = [
    "DEFAULT_VIEWER_HEIGHT",
    "DEFAULT_VIEWER_WIDTH",
    "INVALID_HANDLE",
    "ActuatorProperties",
    "Asset",
    "AssetOptions",
    "CameraProperties",
    "DofState",
    "Env",
    "ForceSensorProperties",
    "Gym",
    "HeightFieldParams",
    "IndexRange",
    "Mat33",
    "PhysXParams",
    "PlaneParams",
    "Quat",
    "RigidBodyProperties",
    "RigidBodyState",
    "RigidShapeProperties",
    "Sim",
    "SimParams",
    "Tensor",
    "Transform",
    "TriangleMeshParams",
    "Vec3",
    "Velocity",
    "VhacdParams",
    "Viewer",
    "acquire_gym",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("__"):
        raise AttributeError(name)
    raise refuse("gymapi", name, [*_NAMES, *__all__])


def __dir__() -> list[str]:
    return sorted([*_NAMES, *__all__])
