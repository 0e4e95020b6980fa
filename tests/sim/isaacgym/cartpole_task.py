"""Cart and pole: balance by pushing the cart. From a URDF file with a fixed base."""

from pathlib import Path

import torch
from isaacgym import gymapi, gymtorch

from tests.sim.isaacgym.vec_task import VecTask


class Cartpole(VecTask):
    num_obs, num_actions = 4, 1
    max_push_effort, reset_dist = 20.0, 3.0

    def create_envs(self):
        self.add_ground()
        asset_options = gymapi.AssetOptions()
        asset_options.fix_base_link = True
        asset = self.gym.load_asset(self.sim, str(Path(__file__).parent), "cartpole.urdf", asset_options)
        self.num_dof = self.gym.get_asset_dof_count(asset)
        pose = gymapi.Transform()
        pose.p.z = 2.0
        self.envs, self.handles = [], []
        lower, upper = gymapi.Vec3(-2.0, -2.0, 0.0), gymapi.Vec3(2.0, 2.0, 2.0)
        for i in range(self.num_envs):
            env = self.gym.create_env(self.sim, lower, upper, int(self.num_envs**0.5))
            handle = self.gym.create_actor(env, asset, pose, "cartpole", i, 1, 0)
            dof_props = self.gym.get_actor_dof_properties(env, handle)
            dof_props["driveMode"][0] = gymapi.DOF_MODE_EFFORT
            dof_props["driveMode"][1] = gymapi.DOF_MODE_NONE
            dof_props["stiffness"][:] = 0.0
            dof_props["damping"][:] = 0.0
            self.gym.set_actor_dof_properties(env, handle, dof_props)
            self.envs.append(env)
            self.handles.append(handle)

    def init_tensors(self):
        self.dof_state = gymtorch.wrap_tensor(self.gym.acquire_dof_state_tensor(self.sim))
        self.dof_pos = self.dof_state.view(self.num_envs, self.num_dof, 2)[..., 0]
        self.dof_vel = self.dof_state.view(self.num_envs, self.num_dof, 2)[..., 1]
        self.forces = torch.zeros(self.num_envs * self.num_dof, device=self.device)

    def apply_actions(self):
        self.forces[:: self.num_dof] = self.actions.squeeze(-1) * self.max_push_effort
        self.gym.set_dof_actuation_force_tensor(self.sim, gymtorch.unwrap_tensor(self.forces))

    def refresh(self):
        pass  # the step refreshes the only tensor

    def compute_reward(self):
        self.rew_buf[:], self.reset_buf[:] = cartpole_reward(
            self.dof_pos[:, 1], self.dof_vel[:, 1], self.dof_vel[:, 0], self.dof_pos[:, 0], self.reset_dist, self.progress_buf, self.max_episode_length
        )

    def compute_observations(self):
        self.obs_buf[:, 0], self.obs_buf[:, 1] = self.dof_pos[:, 0], self.dof_vel[:, 0]
        self.obs_buf[:, 2], self.obs_buf[:, 3] = self.dof_pos[:, 1], self.dof_vel[:, 1]

    def reset_idx(self, env_ids):
        self.dof_pos[env_ids] = 0.2 * (torch.rand(len(env_ids), self.num_dof, device=self.device) - 0.5)
        self.dof_vel[env_ids] = 0.5 * (torch.rand(len(env_ids), self.num_dof, device=self.device) - 0.5)
        env_ids_int32 = env_ids.to(dtype=torch.int32)
        self.gym.set_dof_state_tensor_indexed(self.sim, gymtorch.unwrap_tensor(self.dof_state), gymtorch.unwrap_tensor(env_ids_int32), len(env_ids_int32))
        self.reset_buf[env_ids] = 0
        self.progress_buf[env_ids] = 0


@torch.jit.script
def cartpole_reward(pole_angle, pole_vel, cart_vel, cart_pos, reset_dist, progress_buf, max_episode_length):
    # type: (Tensor, Tensor, Tensor, Tensor, float, Tensor, float) -> Tuple[Tensor, Tensor]
    reward = 1.0 - pole_angle * pole_angle - 0.01 * torch.abs(cart_vel) - 0.005 * torch.abs(pole_vel)
    lost = (torch.abs(cart_pos) > reset_dist) | (torch.abs(pole_angle) > 1.5707963)
    reward = torch.where(lost, torch.ones_like(reward) * -2.0, reward)
    return reward, (lost | (progress_buf >= max_episode_length - 1)).long()
