"""Hover at a point."""

from __future__ import annotations

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.quadrotor_expert import thrust_and_rates, towards
from sim.suites.quadrotor.vehicle import RATE_HZ, Quadrotor

NEAR, SLOW, LONG = 0.1, 0.25, 25  # m from the goal and m/s, kept for as many steps in a row (half a second)
AWAY, ASIDE = (0.5, 1.2), 0.3  # m, horizontally and vertically, from the goal at the beginning
ROOM, HEIGHT = 1.0, (0.9, 1.6)  # m, of the goal


class Hover(Quadrotor):
    """Fly to a point and stay there. ``info``: ``success``, after half a second within 0.1 m and below 0.25 m/s. A crash ends the episode.

    The dense reward is 1 at the goal and falls with the distance, less a little for turning; the sparse one is 1 while successful.
    """

    task_name, description = "quadrotor/hover", "hover at a point with a quadrotor"
    success = "half a second in a row within 0.1 m of the goal and slower than 0.25 m/s"
    time_limit_s = 6.0

    def observation_fields(self) -> dict[str, Field]:
        """Return the vehicle's state and the goal, (3,) m."""
        goal = Field((3,), unit="m", kind="goal", names=("goal.x", "goal.y", "goal.z"))
        return {**super().observation_fields(), "observation.environment_state": goal}

    def prepare(self) -> None:
        """Count the steps at the goal besides."""
        super().prepare()
        self._kept = np.zeros(self.num_worlds, np.int64)

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Draw the goals of worlds ``rows`` (K,), and begin up to 1.2 m away, tilted and moving."""
        goal = np.concatenate([draws.uniform(-ROOM, ROOM, (2,)), draws.uniform(*HEIGHT, (1,))], axis=1)
        distance, angle = draws.uniform(*AWAY), draws.uniform(-np.pi, np.pi)
        away = np.stack([distance * np.cos(angle), distance * np.sin(angle), draws.uniform(-ASIDE, ASIDE)], axis=1)
        self._markers[rows, 0] = goal
        self.begin_flight(rows, draws, goal + away, tilt=0.25, speed=0.4)
        self._kept[rows] = 0

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward being near, and punish turning a little."""
        off, velocity, rates = self._markers[:, 0] - self.position, self.velocity, self.rates
        squared = np.einsum("ij,ij->i", off, off)
        there = (squared < NEAR**2) & (np.einsum("ij,ij->i", velocity, velocity) < SLOW**2)
        self._kept = np.where(there, self._kept + 1, 0)
        success = self._kept >= LONG
        if self.reward_kind == "sparse":
            return Outcome(success.astype(np.float64), self.crashed(), {"success": success})
        reward = 1.0 / (1.0 + 4.0 * squared) - 0.01 * np.einsum("ij,ij->i", rates, rates) / RATE_HZ
        return Outcome(reward, self.crashed(), {"success": success})

    def observe(self, out: Observation) -> None:
        """Write the vehicle's state and the goal."""
        super().observe(out)
        if "observation.environment_state" in out:
            out["observation.environment_state"][:] = self._markers[:, 0]

    def expert_action(self) -> np.ndarray:
        """Return geometric control towards the goal (N, 4) float32."""
        wanted = towards(self.position, self.velocity, self._markers[:, 0])
        return np.clip(thrust_and_rates(self.airframe.mass, wanted, self.rotation), self._low, self._high).astype(np.float32)


TASKS = (Hover,)
