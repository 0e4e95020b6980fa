"""Cart and pole: keep the pole upright by pushing the cart. The task to copy for one of your own.

Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems".
"""

from __future__ import annotations

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.mirror import Mirror
from sim.task import MujocoTask

FALLEN = 0.6  # rad
LONG = 2.0  # s, after which a pole that is still up was balanced: left alone, one in 500 is
GAINS = np.array([2.0, 30.0, 3.5, 5.0])  # of the expert: cart position and pole angle, their velocities; N a unit


class Cartpole(MujocoTask):
    """``observation.state``: cart x in m, pole angle in rad (0 is up), their velocities. Action: force, 1 is 10 N.

    Success: upright near the middle, from the second second on; the sparse reward is 1 for that at any time.
    """

    task_name = "classic/cartpole"
    description = "keep a pole upright on a cart"
    success = "the pole within 0.2 rad of upright and the cart within 0.5 m of the middle, at a step from the second second on"
    tags = ("expert",)
    xml = "cartpole.xml"
    rate_hz, time_limit_s = 50.0, 10.0
    camera = "front"
    mirror = Mirror(flipped=("*",))
    rewards = ("dense", "sparse")

    def observation_fields(self) -> dict[str, Field]:
        """Return the state of cart and pole."""
        return {"observation.state": Field((4,), unit="m, rad, m/s, rad/s", names=("cart.x", "pole.angle", "cart.v", "pole.w"))}

    def action_fields(self) -> dict[str, Field]:
        """Return the push on the cart."""
        return {"push": Field((1,), unit="10 N", low=(-1.0,), high=(1.0,), kind="effort", names=("push",))}

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Begin worlds ``rows`` (K,) near the middle with the pole a little off."""
        self.qpos[rows] = draws.uniform(-0.1, 0.1, (2,))
        self.qvel[rows] = draws.uniform(-0.1, 0.1, (2,))

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward an upright pole near the middle; the episode ends when the pole has fallen."""
        x, angle = self.qpos.T
        upright = np.abs(angle) < 0.2
        fallen = np.abs(angle) > FALLEN
        kept = upright & (np.abs(x) < 0.5)
        reward = np.cos(angle) - 0.1 * x * x - 0.01 * action[:, 0] ** 2 if self.reward_kind == "dense" else kept.astype(np.float64)
        return Outcome(reward, fallen, {"success": kept & (self._elapsed + 1 >= LONG * self.rate_hz)})

    def observe(self, out: Observation) -> None:
        """Positions and velocities."""
        state = out["observation.state"]
        state[:, :2], state[:, 2:] = self.qpos, self.qvel

    def expert_action(self) -> np.ndarray:
        """Return a linear feedback (N, 1)."""
        push = np.concatenate([self.qpos, self.qvel], axis=1) @ GAINS / 10.0
        return np.clip(push, -1, 1)[:, None].astype(np.float32)


TASKS = (Cartpole,)
