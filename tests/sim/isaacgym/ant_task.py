"""Ant: run ahead with eight motors. From an MJCF file, with force sensors at the feet."""

from pathlib import Path

import torch
from isaacgym import gymapi, gymtorch
from isaacgym.torch_utils import (
    compute_heading_and_up,
    compute_rot,
    get_axis_params,
    normalize_angle,
    quat_conjugate,
    tensor_clamp,
    to_torch,
    torch_rand_float,
    unscale,
)

from tests.sim.isaacgym.vec_task import VecTask


class Ant(VecTask):
    num_obs, num_actions = 60, 8
    death_cost, termination_height = -2.0, 0.31

    def create_envs(self):
        self.add_ground()
        asset = self.gym.load_asset(self.sim, str(Path(__file__).parent), "ant.xml", gymapi.AssetOptions())
        self.num_dof, self.num_bodies = self.gym.get_asset_dof_count(asset), self.gym.get_asset_rigid_body_count(asset)
        actuator_props = self.gym.get_asset_actuator_properties(asset)
        self.joint_gears = to_torch([prop.motor_effort for prop in actuator_props], device=self.device)
        feet = [name for name in self.gym.get_asset_rigid_body_names(asset) if "foot" in name]
        for name in feet:
            self.gym.create_asset_force_sensor(asset, self.gym.find_asset_rigid_body_index(asset, name), gymapi.Transform())
        start_pose = gymapi.Transform()
        start_pose.p = gymapi.Vec3(*get_axis_params(0.7, 2))
        self.start_rotation = to_torch([start_pose.r.x, start_pose.r.y, start_pose.r.z, start_pose.r.w], device=self.device)
        self.envs = []
        for i in range(self.num_envs):
            env = self.gym.create_env(self.sim, gymapi.Vec3(-2.5, -2.5, 0.0), gymapi.Vec3(2.5, 2.5, 2.5), int(self.num_envs**0.5))
            handle = self.gym.create_actor(env, asset, start_pose, "ant", i, 1, 0)
            for j in range(self.num_bodies):
                self.gym.set_rigid_body_color(env, handle, j, gymapi.MESH_VISUAL, gymapi.Vec3(0.97, 0.38, 0.06))
            self.envs.append(env)
        dof_prop = self.gym.get_actor_dof_properties(self.envs[0], 0)
        self.dof_limits_lower, self.dof_limits_upper = to_torch(dof_prop["lower"]), to_torch(dof_prop["upper"])

    def init_tensors(self):
        self.root_states = gymtorch.wrap_tensor(self.gym.acquire_actor_root_state_tensor(self.sim))
        self.dof_state = gymtorch.wrap_tensor(self.gym.acquire_dof_state_tensor(self.sim))
        self.vec_sensor_tensor = gymtorch.wrap_tensor(self.gym.acquire_force_sensor_tensor(self.sim)).view(self.num_envs, 24)
        self.refresh()
        self.dof_pos = self.dof_state.view(self.num_envs, self.num_dof, 2)[..., 0]
        self.dof_vel = self.dof_state.view(self.num_envs, self.num_dof, 2)[..., 1]
        self.initial_root_states = self.root_states.clone()
        self.initial_root_states[:, 7:13] = 0
        zero = torch.zeros_like(self.dof_pos[0])
        self.initial_dof_pos = tensor_clamp(zero, self.dof_limits_lower, self.dof_limits_upper).repeat(self.num_envs, 1)
        self.inv_start_rot = quat_conjugate(self.start_rotation).repeat((self.num_envs, 1))
        self.basis_vec0 = to_torch([1, 0, 0], device=self.device).repeat((self.num_envs, 1))
        self.basis_vec1 = to_torch([0, 0, 1], device=self.device).repeat((self.num_envs, 1))
        self.targets = to_torch([1000, 0, 0], device=self.device).repeat((self.num_envs, 1))
        self.potentials = to_torch([-1000.0 / self.dt], device=self.device).repeat(self.num_envs)
        self.prev_potentials = self.potentials.clone()
        self.actions = torch.zeros(self.num_envs, self.num_actions, device=self.device)

    def apply_actions(self):
        forces = self.actions * self.joint_gears
        self.gym.set_dof_actuation_force_tensor(self.sim, gymtorch.unwrap_tensor(forces))

    def refresh(self):
        self.gym.refresh_dof_state_tensor(self.sim)
        self.gym.refresh_actor_root_state_tensor(self.sim)
        self.gym.refresh_force_sensor_tensor(self.sim)

    def compute_observations(self):
        self.obs_buf[:] = ant_observations(
            self.root_states, self.targets, self.inv_start_rot, self.dof_pos, self.dof_vel,
            self.dof_limits_lower, self.dof_limits_upper, self.vec_sensor_tensor, self.actions, self.basis_vec0, self.basis_vec1,
        )  # fmt: skip

    def compute_reward(self):
        to_target = self.targets - self.root_states[:, 0:3]
        to_target[:, 2] = 0.0
        self.prev_potentials[:] = self.potentials
        self.potentials[:] = -torch.norm(to_target, p=2, dim=-1) / self.dt
        progress = self.potentials - self.prev_potentials
        self.rew_buf[:] = progress + 0.5 - 0.005 * torch.sum(self.actions**2, dim=-1)
        fallen = self.root_states[:, 2] < self.termination_height
        self.rew_buf[:] = torch.where(fallen, torch.ones_like(self.rew_buf) * self.death_cost, self.rew_buf)
        self.reset_buf[:] = (fallen | (self.progress_buf >= self.max_episode_length - 1)).long()

    def reset_idx(self, env_ids):
        positions = torch_rand_float(-0.2, 0.2, (len(env_ids), self.num_dof), device=self.device)
        velocities = torch_rand_float(-0.1, 0.1, (len(env_ids), self.num_dof), device=self.device)
        self.dof_pos[env_ids] = tensor_clamp(self.initial_dof_pos[env_ids] + positions, self.dof_limits_lower, self.dof_limits_upper)
        self.dof_vel[env_ids] = velocities
        env_ids_int32 = gymtorch.unwrap_tensor(env_ids.to(dtype=torch.int32))
        root = gymtorch.unwrap_tensor(self.initial_root_states)
        self.gym.set_actor_root_state_tensor_indexed(self.sim, root, env_ids_int32, len(env_ids))
        self.gym.set_dof_state_tensor_indexed(self.sim, gymtorch.unwrap_tensor(self.dof_state), env_ids_int32, len(env_ids))
        self.gym.refresh_actor_root_state_tensor(self.sim)
        to_target = self.targets[env_ids] - self.initial_root_states[env_ids, 0:3]
        to_target[:, 2] = 0.0
        self.potentials[env_ids] = -torch.norm(to_target, p=2, dim=-1) / self.dt
        self.progress_buf[env_ids] = 0
        self.reset_buf[env_ids] = 0


@torch.jit.script
def ant_observations(root_states, targets, inv_start_rot, dof_pos, dof_vel, lower, upper, sensors, actions, basis_vec0, basis_vec1):
    # type: (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) -> Tensor
    torso_position, torso_rotation = root_states[:, 0:3], root_states[:, 3:7]
    to_target = targets - torso_position
    to_target[:, 2] = 0.0
    torso_quat, up_proj, heading_proj, _, _ = compute_heading_and_up(torso_rotation, inv_start_rot, to_target, basis_vec0, basis_vec1, 2)
    vel_loc, angvel_loc, roll, _, yaw, angle_to_target = compute_rot(torso_quat, root_states[:, 7:10], root_states[:, 10:13], targets, torso_position)
    return torch.cat(
        (
            torso_position[:, 2].view(-1, 1), vel_loc, angvel_loc, yaw.unsqueeze(-1), roll.unsqueeze(-1),
            normalize_angle(angle_to_target).unsqueeze(-1), up_proj.unsqueeze(-1), heading_proj.unsqueeze(-1),
            unscale(dof_pos, lower, upper), dof_vel * 0.2, sensors * 0.1, actions,
        ),
        dim=-1,
    )  # fmt: skip


__all__ = ["Ant"]
