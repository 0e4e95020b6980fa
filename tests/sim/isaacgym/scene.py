"""A simulation in a few words, for the tests of the interface. Importing it makes ``import isaacgym`` find ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sim.isaacgym

sim.isaacgym.install()

from isaacgym import gymapi, gymtorch  # noqa: E402

HERE = Path(__file__).parent
GRAVITY = 9.81
Placed = tuple[Any, Any, str]  # asset, pose, name


class Scene:
    """``num_envs`` environments of the same actors, and their tensors as torch views (num_envs, ..., ...)."""

    def __init__(self, num_envs: int = 2, dt: float = 0.01, substeps: int = 1, gravity: float = GRAVITY, ground: bool = False) -> None:
        self.gym = gymapi.acquire_gym()
        params = gymapi.SimParams()
        params.dt, params.substeps, params.up_axis = dt, substeps, gymapi.UP_AXIS_Z
        params.gravity = gymapi.Vec3(0.0, 0.0, -gravity)
        self.num_envs = num_envs
        self.sim = self.gym.create_sim(0, 0, gymapi.SIM_PHYSX, params)
        if ground:
            plane = gymapi.PlaneParams()
            plane.normal = gymapi.Vec3(0.0, 0.0, 1.0)
            self.gym.add_ground(self.sim, plane)
        self.envs: list[Any] = []

    def load(self, file: str, **options: Any) -> Any:
        """Load an asset of this folder."""
        wanted = gymapi.AssetOptions()
        for name, value in options.items():
            setattr(wanted, name, value)
        return self.gym.load_asset(self.sim, str(HERE), file, wanted)

    def fill(
        self, actors: Sequence[Placed], spacing: float = 2.0, each: Callable[[Any, list[int]], None] | None = None, mask: int = 0, prepare: bool = True
    ) -> Scene:
        """Make the environments; ``each`` is called with every environment and its handles."""
        lower, upper = gymapi.Vec3(-spacing / 2, -spacing / 2, 0.0), gymapi.Vec3(spacing / 2, spacing / 2, spacing)
        for i in range(self.num_envs):
            env = self.gym.create_env(self.sim, lower, upper, 2)
            handles = [self.gym.create_actor(env, asset, pose, name, i, mask) for asset, pose, name in actors]
            self.envs.append(env)
            if each is not None:
                each(env, handles)
        if prepare:
            self.gym.prepare_sim(self.sim)
        return self

    def tensor(self, name: str, *arguments: Any) -> torch.Tensor:
        """Return the tensor of ``acquire_<name>_tensor``."""
        return gymtorch.wrap_tensor(getattr(self.gym, f"acquire_{name}_tensor")(self.sim, *arguments))

    def rows(self, name: str) -> torch.Tensor:
        """Return a tensor (num_envs, per environment, width)."""
        return self.tensor(name).view(self.num_envs, -1, self.tensor(name).shape[-1])

    def refresh(self) -> None:
        """Refresh every tensor."""
        for name in ("actor_root_state", "dof_state", "rigid_body_state", "net_contact_force", "dof_force", "force_sensor"):
            getattr(self.gym, f"refresh_{name}_tensor")(self.sim)
        self.gym.refresh_jacobian_tensors(self.sim)
        self.gym.refresh_mass_matrix_tensors(self.sim)

    def set(self, call: str, tensor: torch.Tensor, indices: Sequence[int] | None = None) -> None:
        """Call ``set_<call>_tensor`` or, with indices, its indexed form."""
        given = gymtorch.unwrap_tensor(tensor)
        if indices is None:
            getattr(self.gym, f"set_{call}_tensor")(self.sim, given)
        else:
            chosen = torch.tensor(indices, dtype=torch.int32)
            getattr(self.gym, f"set_{call}_tensor_indexed")(self.sim, given, gymtorch.unwrap_tensor(chosen), len(chosen))

    def run(self, steps: int) -> None:
        """Simulate, then refresh everything."""
        for _ in range(steps):
            self.gym.simulate(self.sim)
            self.gym.fetch_results(self.sim, True)
        self.refresh()


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: Any = None) -> Any:
    """Return a transform."""
    return gymapi.Transform(gymapi.Vec3(x, y, z), turn or gymapi.Quat(0.0, 0.0, 0.0, 1.0))


def about(axis: Sequence[float], angle: float) -> Any:
    """Return a rotation."""
    return gymapi.Quat.from_axis_angle(gymapi.Vec3(*axis), angle)


def numbers(*values: float) -> np.ndarray:
    """Return float64 numbers."""
    return np.array(values, float)
