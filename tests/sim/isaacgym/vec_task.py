"""What vectorised tasks for Isaac Gym share, in its idiom: buffers, one loop of physics steps, resets by index.

This file and the tasks beside it are written as task code for the package is: they know ``isaacgym`` and torch, nothing else.
"""

import torch
from isaacgym import gymapi, gymutil


class VecTask:
    """Buffers and the step of N environments; a task fills in the methods that are called here."""

    num_obs: int
    num_actions: int
    dt = 1 / 60
    substeps = 2
    decimation = 1  # calls of simulate a step
    max_episode_length = 500

    def __init__(self, num_envs, device="cpu", num_threads=1):
        self.num_envs, self.device = num_envs, device
        self.gym = gymapi.acquire_gym()
        sim_params = gymapi.SimParams()
        gymutil.parse_sim_config({"dt": self.dt, "substeps": self.substeps, "gravity": [0.0, 0.0, -9.81]}, sim_params)
        sim_params.up_axis = gymapi.UP_AXIS_Z
        sim_params.physx.solver_type = 1
        sim_params.physx.num_threads = num_threads
        self.sim = self.gym.create_sim(0, 0, gymapi.SIM_PHYSX, sim_params)
        self.create_envs()
        self.gym.prepare_sim(self.sim)
        self.viewer = self.gym.create_viewer(self.sim, gymapi.CameraProperties())
        self.gym.subscribe_viewer_keyboard_event(self.viewer, gymapi.KEY_ESCAPE, "QUIT")
        self.obs_buf = torch.zeros(num_envs, self.num_obs, device=device)
        self.rew_buf = torch.zeros(num_envs, device=device)
        self.reset_buf = torch.ones(num_envs, device=device, dtype=torch.long)
        self.progress_buf = torch.zeros(num_envs, device=device, dtype=torch.long)
        self.init_tensors()
        self.reset_idx(torch.arange(num_envs, device=device))

    def add_ground(self):
        plane_params = gymapi.PlaneParams()
        plane_params.normal = gymapi.Vec3(0.0, 0.0, 1.0)
        self.gym.add_ground(self.sim, plane_params)

    def step(self, actions):
        self.actions = actions.clone().to(self.device)
        for _ in range(self.decimation):
            self.apply_actions()
            self.gym.simulate(self.sim)
            self.gym.fetch_results(self.sim, True)
            self.gym.refresh_dof_state_tensor(self.sim)
        self.render()
        self.progress_buf += 1
        self.refresh()
        self.compute_reward()
        env_ids = self.reset_buf.nonzero(as_tuple=False).squeeze(-1)
        if len(env_ids) > 0:
            self.reset_idx(env_ids)
        self.compute_observations()
        return self.obs_buf, self.rew_buf, self.reset_buf

    def render(self):
        if self.viewer:
            if self.gym.query_viewer_has_closed(self.viewer):
                raise SystemExit
            for event in self.gym.query_viewer_action_events(self.viewer):
                if event.action == "QUIT":
                    raise SystemExit
            self.gym.step_graphics(self.sim)
            self.gym.draw_viewer(self.viewer, self.sim, True)
            self.gym.sync_frame_time(self.sim)

    def close(self):
        self.gym.destroy_viewer(self.viewer)
        self.gym.destroy_sim(self.sim)
