"""Vectorised tasks in the idiom of Isaac Gym import, step and reset on these worlds, and their numbers are right."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.sim.isaacgym import scene  # noqa: F401  (makes "import isaacgym" find ours)
from tests.sim.isaacgym.ant_task import Ant
from tests.sim.isaacgym.cartpole_task import Cartpole
from tests.sim.isaacgym.walker_task import Walker

ROOT = Path(__file__).resolve().parents[3]
TASKS = [Cartpole, Ant, Walker]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_512_environments_step_and_reset_with_finite_numbers(task: type) -> None:
    torch.manual_seed(0)
    env = task(512)
    for _ in range(8):
        obs, reward, reset = env.step(2 * torch.rand(512, env.num_actions) - 1)
    assert obs.shape == (512, env.num_obs) and reward.shape == reset.shape == (512,)
    assert torch.isfinite(obs).all() and torch.isfinite(reward).all()
    assert not torch.equal(obs[0], obs[1])
    env.close()


def cart_and_pole(state: np.ndarray, force: float) -> np.ndarray:
    """Return the accelerations of cart and pole by their equations of motion (the angle turns the pole to -y)."""
    mass, arm, inertia, gravity = 0.5, 0.47, 0.03 + 0.5 * 0.47**2, 9.81
    _, angle, _, speed = state
    coupling = -mass * arm * math.cos(angle)
    matrix = np.array([[1.0 + mass, coupling], [coupling, inertia]])
    forces = np.array([force - mass * arm * math.sin(angle) * speed**2, mass * gravity * arm * math.sin(angle)])
    return np.linalg.solve(matrix, forces)


def test_cartpole_moves_as_its_equations_of_motion() -> None:
    """25 steps of 1/60 s in two substeps each, under random pushes, against the same integrator over the closed form."""
    torch.manual_seed(0)
    env = Cartpole(2)
    env.step(torch.zeros(2, 1))
    state = np.concatenate([env.dof_pos[0].double().numpy(), env.dof_vel[0].double().numpy()])
    pushes = 2 * torch.rand(25, generator=torch.Generator().manual_seed(3)) - 1
    for push in pushes:
        env.step(torch.stack([push, -push]).view(2, 1))
        for _ in range(2):
            state[2:] += cart_and_pole(state, 20.0 * push.item()) / 120
            state[:2] += state[2:] / 120
    assert abs(state[1]) > 0.05 and int(env.progress_buf[0]) == 26
    np.testing.assert_allclose(env.obs_buf[0].numpy(), state[[0, 2, 1, 3]], atol=2e-4)
    env.close()


@pytest.mark.parametrize("balanced", [True, False])
def test_cartpole_is_balanced_by_a_linear_law_and_lost_without(balanced: bool) -> None:
    """The task can be solved through the tensors: state feedback keeps 16 poles up for 5 s, no push loses all of them."""
    torch.manual_seed(1)
    env = Cartpole(16)
    gain = torch.tensor([-0.447, -0.552, 3.853, 0.844]) * balanced  # the linear-quadratic regulator of the linearised equations above
    obs, ended = env.step(torch.zeros(16, 1))[0], 0
    for _ in range(300):
        obs, _, _ = env.step(-(obs @ gain).clamp(-1, 1).unsqueeze(1))
        ended += int((env.progress_buf == 0).sum())
    assert ended == 0 if balanced else ended >= 16
    assert not balanced or (env.rew_buf > 0.9).all()
    env.close()


def test_ant_observes_what_its_state_says_and_runs_when_pushed() -> None:
    torch.manual_seed(0)
    env = Ant(8)
    env.step(torch.zeros(8, 8))
    env.root_states[:] = env.initial_root_states
    env.root_states[:, 2] = 2.0
    half = math.sqrt(0.5)
    env.root_states[:, 3:7] = torch.tensor([0.0, 0.0, half, half])  # looks along +y
    env.root_states[:, 8] = 3.0  # and moves there
    from isaacgym import gymtorch

    env.gym.set_actor_root_state_tensor(env.sim, gymtorch.unwrap_tensor(env.root_states))
    env.refresh()
    env.compute_observations()
    obs = env.obs_buf[0].numpy()
    assert obs[0] == pytest.approx(2.0) and obs[7] == pytest.approx(math.pi / 2, abs=1e-5)
    np.testing.assert_allclose(obs[1:4], [3.0, 0, 0], atol=1e-5)
    assert obs[10] == pytest.approx(1.0, abs=1e-5) and obs[11] == pytest.approx(0.0, abs=1e-5)  # upright; the target is to the right
    before = env.root_states[:, 0].clone()
    env.compute_reward()
    env.root_states[:, 0] += 0.5
    env.compute_reward()
    np.testing.assert_allclose(env.rew_buf.numpy(), 0.5 / env.dt + 0.5, rtol=1e-3)
    assert torch.equal(env.root_states[:, 0], before + 0.5)
    env.close()


def test_walker_stands_on_its_feet_and_carries_its_weight() -> None:
    torch.manual_seed(0)
    env = Walker(40)
    env.step(torch.zeros(40, 12))
    for _ in range(60):
        obs, _, reset = env.step(torch.zeros(40, 12))
    assert int(reset.sum()) == 0 and env.feet_down.all()
    masses = np.array([sum(b.mass for b in env.gym.get_actor_rigid_body_properties(e, 0)) for e in env.envs])
    np.testing.assert_allclose(masses, 12.1 + 0.1 * (np.arange(40) % 5), rtol=1e-6)
    carried = env.contact_forces[..., 2].sum(dim=1).numpy()
    np.testing.assert_allclose(carried, masses * 9.81, rtol=0.02)
    down = Rotation.from_quat(env.base_quat.numpy()).inv().apply([0.0, 0.0, -1.0])
    np.testing.assert_allclose(obs[:, 6:9].numpy(), down, atol=1e-6)  # gravity in the body's frame
    assert (down[:, 2] < -0.98).all()
    # Every walker stands where its environment put it, in one shared frame.
    np.testing.assert_allclose(env.root_states[:, 1].numpy(), 3.0 * (np.arange(40) // 8), atol=0.1)
    env.push_robots()
    env.step(torch.zeros(40, 12))
    assert (env.base_lin_vel[:, :2].abs().sum(dim=1) > 0.01).all()
    env.close()


def test_an_installed_alias_is_found_only_after_the_call_and_without_torch() -> None:
    code = """
import sys
try:
    import isaacgym
except ModuleNotFoundError:
    pass
else:
    sys.exit("found before")
import sim.isaacgym
sim.isaacgym.install()
import isaacgym
import isaacgym.gymapi
from isaacgym import gymapi, gymutil
assert isaacgym.gymapi is gymapi is sys.modules["sim.isaacgym.gymapi"]
gym = gymapi.acquire_gym()
assert gym is gymapi.acquire_gym()
if "torch" in sys.modules or "mujoco" in sys.modules:
    sys.exit("imported torch or mujoco")
from isaacgym.torch_utils import *
assert "torch" in sys.modules and callable(quat_mul)
sim.isaacgym.uninstall()
try:
    import isaacgym
except ModuleNotFoundError:
    sys.exit(0)
sys.exit("found after uninstall")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_results_do_not_depend_on_threads_nor_on_what_else_is_acquired() -> None:
    """Three runs of the walker with the same draws: alone, on two threads, and with body states, Jacobians and masses refreshed too."""
    ends = []
    for threads, more in ((1, False), (2, False), (1, True)):
        torch.manual_seed(4)
        env = Walker(12, num_threads=threads)
        if more:
            for call in ("rigid_body_state", "dof_force"):
                getattr(env.gym, f"acquire_{call}_tensor")(env.sim)
            env.gym.acquire_jacobian_tensor(env.sim, "walker")
        for _ in range(20):
            env.step(torch.randn(12, 12))
            if more:
                env.gym.refresh_rigid_body_state_tensor(env.sim)
                env.gym.refresh_jacobian_tensors(env.sim)
        ends.append((env.root_states.clone(), env.dof_state.clone(), env.contact_forces.clone()))
        env.close()
    for one, two, three in zip(*ends, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-4)
    assert ends[0][2].abs().max() > 10.0
