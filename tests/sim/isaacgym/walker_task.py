"""A quadruped that follows velocity commands: torques from a PD law at 200 Hz, policy at 50 Hz, contacts of feet, pushes, random friction."""

from pathlib import Path

import numpy as np
import torch
from isaacgym import gymapi, gymtorch
from isaacgym.torch_utils import get_axis_params, quat_apply, quat_rotate_inverse, to_torch, torch_rand_float

from tests.sim.isaacgym.vec_task import VecTask

DEFAULT_ANGLES = {"hip": 0.0, "thigh": 0.8, "calf": -1.6}


class Walker(VecTask):
    num_obs, num_actions = 48, 12
    dt, substeps, decimation = 0.005, 1, 4
    stiffness, damping, action_scale = 40.0, 1.0, 0.25

    def create_envs(self):
        self.add_ground()
        asset_options = gymapi.AssetOptions()
        asset_options.default_dof_drive_mode = int(gymapi.DOF_MODE_EFFORT)
        asset_options.collapse_fixed_joints = True
        asset_options.replace_cylinder_with_capsule = True
        asset_options.armature = 0.01
        asset = self.gym.load_asset(self.sim, str(Path(__file__).parent), "walker.urdf", asset_options)
        self.dof_names = self.gym.get_asset_dof_names(asset)
        body_names = self.gym.get_asset_rigid_body_names(asset)
        self.num_dof, self.num_bodies = len(self.dof_names), len(body_names)
        shape_props = self.gym.get_asset_rigid_shape_properties(asset)
        frictions = np.linspace(0.5, 1.25, 16)
        self.envs, self.actor_handles = [], []
        start_pose = gymapi.Transform()
        for i in range(self.num_envs):
            env = self.gym.create_env(self.sim, gymapi.Vec3(0.0, 0.0, 0.0), gymapi.Vec3(0.0, 0.0, 0.0), int(np.sqrt(self.num_envs)))
            start_pose.p = gymapi.Vec3(3.0 * (i % 8), 3.0 * (i // 8), 0.36)
            for shape in shape_props:
                shape.friction = frictions[i % 16]
            self.gym.set_asset_rigid_shape_properties(asset, shape_props)
            handle = self.gym.create_actor(env, asset, start_pose, "walker", i, 0, 0)
            props = self.gym.get_actor_dof_properties(env, handle)
            if i == 0:
                self.torque_limits = to_torch([props["effort"][j].item() for j in range(self.num_dof)])
                self.dof_vel_limits = to_torch([props["velocity"][j].item() for j in range(self.num_dof)])
            self.gym.set_actor_dof_properties(env, handle, props)
            body_props = self.gym.get_actor_rigid_body_properties(env, handle)
            body_props[0].mass += 0.1 * (i % 5)
            self.gym.set_actor_rigid_body_properties(env, handle, body_props, recomputeInertia=True)
            self.envs.append(env)
            self.actor_handles.append(handle)
        feet = [name for name in body_names if "foot" in name]
        self.feet_indices = torch.zeros(len(feet), dtype=torch.long)
        for j, name in enumerate(feet):
            self.feet_indices[j] = self.gym.find_actor_rigid_body_handle(self.envs[0], self.actor_handles[0], name)

    def init_tensors(self):
        self.root_states = gymtorch.wrap_tensor(self.gym.acquire_actor_root_state_tensor(self.sim))
        self.dof_state = gymtorch.wrap_tensor(self.gym.acquire_dof_state_tensor(self.sim))
        self.contact_forces = gymtorch.wrap_tensor(self.gym.acquire_net_contact_force_tensor(self.sim)).view(self.num_envs, -1, 3)
        self.refresh()
        self.dof_pos = self.dof_state.view(self.num_envs, self.num_dof, 2)[..., 0]
        self.dof_vel = self.dof_state.view(self.num_envs, self.num_dof, 2)[..., 1]
        self.base_quat = self.root_states[:, 3:7]
        self.base_init_state = self.root_states.clone()
        self.default_dof_pos = to_torch([DEFAULT_ANGLES[name.split("_")[1]] for name in self.dof_names]).unsqueeze(0)
        self.gravity_vec = to_torch(get_axis_params(-1.0, 2)).repeat((self.num_envs, 1))
        self.forward_vec = to_torch([1.0, 0.0, 0.0]).repeat((self.num_envs, 1))
        self.commands = torch.zeros(self.num_envs, 3)
        self.torques = torch.zeros(self.num_envs, self.num_dof)
        self.actions = torch.zeros(self.num_envs, self.num_actions)

    def apply_actions(self):
        wanted = self.action_scale * self.actions + self.default_dof_pos
        self.torques = torch.clip(self.stiffness * (wanted - self.dof_pos) - self.damping * self.dof_vel, -self.torque_limits, self.torque_limits)
        self.gym.set_dof_actuation_force_tensor(self.sim, gymtorch.unwrap_tensor(self.torques))

    def refresh(self):
        self.gym.refresh_actor_root_state_tensor(self.sim)
        self.gym.refresh_net_contact_force_tensor(self.sim)

    def compute_reward(self):
        self.base_lin_vel = quat_rotate_inverse(self.base_quat, self.root_states[:, 7:10])
        self.base_ang_vel = quat_rotate_inverse(self.base_quat, self.root_states[:, 10:13])
        self.projected_gravity = quat_rotate_inverse(self.base_quat, self.gravity_vec)
        forward = quat_apply(self.base_quat, self.forward_vec)
        self.heading = torch.atan2(forward[:, 1], forward[:, 0])
        error = torch.sum(torch.square(self.commands[:, :2] - self.base_lin_vel[:, :2]), dim=1)
        self.rew_buf[:] = torch.exp(-error / 0.25) - 0.0002 * torch.sum(self.torques**2, dim=1)
        touched = torch.norm(self.contact_forces[:, 0], dim=-1) > 1.0
        self.reset_buf[:] = (touched | (self.progress_buf >= self.max_episode_length - 1)).long()
        self.feet_down = self.contact_forces[:, self.feet_indices, 2] > 1.0

    def compute_observations(self):
        self.obs_buf[:] = torch.cat(
            (
                2.0 * self.base_lin_vel, 0.25 * self.base_ang_vel, self.projected_gravity, self.commands,
                self.dof_pos - self.default_dof_pos, 0.05 * self.dof_vel, self.actions,
            ),
            dim=-1,
        )  # fmt: skip

    def reset_idx(self, env_ids):
        self.dof_pos[env_ids] = self.default_dof_pos * torch_rand_float(0.9, 1.1, (len(env_ids), self.num_dof), device=self.device)
        self.dof_vel[env_ids] = 0.0
        self.root_states[env_ids] = self.base_init_state[env_ids]
        env_ids_int32 = env_ids.to(dtype=torch.int32)
        chosen = gymtorch.unwrap_tensor(env_ids_int32)
        self.gym.set_dof_state_tensor_indexed(self.sim, gymtorch.unwrap_tensor(self.dof_state), chosen, len(env_ids_int32))
        self.gym.set_actor_root_state_tensor_indexed(self.sim, gymtorch.unwrap_tensor(self.root_states), chosen, len(env_ids_int32))
        self.commands[env_ids, 0] = torch_rand_float(-1.0, 1.0, (len(env_ids), 1), device=self.device).squeeze(1)
        self.progress_buf[env_ids] = 0
        self.reset_buf[env_ids] = 0

    def push_robots(self):
        """Give every base another velocity along x and y, as a push would."""
        self.root_states[:, 7:9] = torch_rand_float(-1.0, 1.0, (self.num_envs, 2), device=self.device)
        self.gym.set_actor_root_state_tensor(self.sim, gymtorch.unwrap_tensor(self.root_states))
