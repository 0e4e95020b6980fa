"""The Isaac Gym interface: 512 environments stepped through its tensors, beside raw ``mujoco.batch`` stepping of the same model.

A step sets a drive tensor, simulates, refreshes the tensors that such tasks read, makes an observation and a reward of them in
torch, and resets some environments by index. Rates are environment steps per CPU second of one thread, the best of several
rounds that alternate with the peer's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.bench.harness import Result, Row, measured

ENVS, ROUNDS, TARGET = 512, 5, 0.8


@dataclass(frozen=True)
class Bed:
    """A robot: its file in ``sim/suites``, time step (s), substeps, which drive tensor is set, whether contact forces are read."""

    name: str
    file: str
    dt: float
    substeps: int
    drive: str
    contacts: bool


BEDS = (
    Bed("cart and pole", "classic/cartpole.xml", 1 / 60, 2, "dof_actuation_force", False),
    Bed("ant", "locomotion/ant.xml", 1 / 60, 2, "dof_actuation_force", False),
    Bed("quadruped", "locomotion/quadruped.xml", 0.02, 4, "dof_position_target", False),
    Bed("quadruped with contact forces", "locomotion/quadruped.xml", 0.02, 4, "dof_position_target", True),
)


def make(bed: Bed) -> tuple[Any, Any]:
    """Return the interface and a simulation of ``ENVS`` environments with the bed's robot."""
    import sim
    import sim.isaacgym

    sim.isaacgym.install()
    from sim.isaacgym import gymapi

    gym, params = gymapi.acquire_gym(), gymapi.SimParams()
    params.dt, params.substeps, params.up_axis, params.gravity = bed.dt, bed.substeps, gymapi.UP_AXIS_Z, gymapi.Vec3(0.0, 0.0, -9.81)
    world = gym.create_sim(0, 0, gymapi.SIM_PHYSX, params)
    plane = gymapi.PlaneParams()
    plane.normal = gymapi.Vec3(0.0, 0.0, 1.0)
    gym.add_ground(world, plane)
    asset = gym.load_asset(world, str(Path(sim.__file__ or "").parent / "suites"), bed.file, gymapi.AssetOptions())
    for i in range(ENVS):
        env = gym.create_env(world, gymapi.Vec3(-1, -1, 0), gymapi.Vec3(1, 1, 1), 16)
        gym.create_actor(env, asset, gymapi.Transform(gymapi.Vec3(0.0, 0.0, 0.6)), "robot", i, 1)
    gym.prepare_sim(world)
    return gym, world


def ours(bed: Bed) -> tuple[Callable[[], None], Any]:
    """Return one step of all environments through the interface, and the model that is stepped."""
    import torch

    gym, world = make(bed)
    from sim.isaacgym import gymtorch, torch_utils

    root = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(world))
    dof = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(world))
    forces = gymtorch.wrap_tensor(gym.acquire_net_contact_force_tensor(world)) if bed.contacts else None
    first_root, first_dof, set_drive = root.clone(), dof.clone(), getattr(gym, f"set_{bed.drive}_tensor")
    generator, down = torch.Generator().manual_seed(0), torch.tensor([[0.0, 0.0, -1.0]]).repeat(ENVS, 1)
    counter = [0]

    def step() -> None:
        set_drive(world, gymtorch.unwrap_tensor(0.3 * torch.randn(dof.shape[0], generator=generator)))
        gym.simulate(world)
        gym.refresh_actor_root_state_tensor(world)
        gym.refresh_dof_state_tensor(world)
        if forces is not None:
            gym.refresh_net_contact_force_tensor(world)
        frame = [torch_utils.quat_rotate_inverse(root[:, 3:7], v) for v in (root[:, 7:10], root[:, 10:13], down)]
        parts = [*frame, dof.view(ENVS, -1)] + ([forces.view(ENVS, -1)] if forces is not None else [])
        observation = torch.cat(parts, dim=1)
        (torch.exp(-(observation[:, 0] ** 2)) * torch.isfinite(observation).all(dim=1)).sum()
        counter[0] += 1
        chosen = torch.arange(counter[0] % 64, ENVS, 64, dtype=torch.int32)
        actors = gymtorch.unwrap_tensor(chosen)
        gym.set_actor_root_state_tensor_indexed(world, gymtorch.unwrap_tensor(first_root), actors, len(chosen))
        gym.set_dof_state_tensor_indexed(world, gymtorch.unwrap_tensor(first_dof), actors, len(chosen))

    return step, world.layout.model


def raw(bed: Bed) -> Callable[[], None]:
    """Return one step of as many worlds of the same model without contact sensors in ``mujoco.batch``, controls drawn, resets likewise."""
    import numpy as np
    from mujoco import batch

    _, world = make(bed)
    worlds = batch.Batch(world.layout.model, ENVS, nthread=1)
    worlds.state[:] = world.engine.save()
    first, ctrl, rng, counter = worlds.state.copy(), worlds.bind("ctrl"), np.random.default_rng(0), [0]
    stiffness = world.properties.gains()[0]
    scale = stiffness if bed.drive == "dof_position_target" else np.ones_like(stiffness)

    def step() -> None:
        ctrl[:] = 0.3 * scale * rng.standard_normal(ctrl.shape, dtype=np.float32)
        worlds.step(None, bed.substeps)
        counter[0] += 1
        worlds.state[counter[0] % 64 :: 64] = first[counter[0] % 64 :: 64]

    return step


def rate(step: Callable[[], None], steps: int) -> float:
    """Return environment steps per CPU second."""
    began = time.process_time()
    for _ in range(steps):
        step()
    return ENVS * steps / (time.process_time() - began)


def run(quick: bool) -> Result:
    """Measure all beds."""
    import torch

    torch.set_num_threads(1)
    result = Result()
    steps = 10 if quick else 40
    for bed in BEDS:
        with measured() as elapsed:
            (step, model), peer = ours(bed), raw(bed)
            for settle in (step, peer):
                for _ in range(10):
                    settle()
            pairs = [(rate(step, steps), rate(peer, steps)) for _ in range(2 if quick else ROUNDS)]
        best, beaten = (max(side) for side in zip(*pairs, strict=True))
        row = Row(f"{bed.name}, {ENVS} environments", best, "env-steps/CPU-s", "raw mujoco.batch", beaten, TARGET, "higher", elapsed.wall_s, elapsed.cpu_s)
        result.rows.append(row)
        result.notes.append(f"{bed.name}: {model.nv} degrees of freedom, {bed.substeps} substeps, {model.nsensordata} sensor numbers")
    return result
