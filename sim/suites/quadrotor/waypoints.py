"""Fly through points in their order."""

from __future__ import annotations

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.quadrotor_expert import thrust_and_rates, towards
from sim.suites.quadrotor.vehicle import Quadrotor

POINTS, REACHED = 4, 0.2  # how many; m
ACROSS, ALONG, HEIGHT = (0.5, 1.7), 1.5, (0.7, 2.0)  # m: |x|, whose sign changes from point to point, |y| and z
CRASH = 1.0  # what it costs


class Waypoints(Quadrotor):
    """Come within 0.2 m of four points, one after the other. ``info``: ``success``, once all were; ``reached``: how many were.

    ``observation.environment_state``: the next point and the one after it (the last: twice), (6,) m, then how many were reached. The
    dense reward is the way gained towards the next point, m, and 1 for each; the sparse one is 1 once all were. A crash ends it.
    """

    task_name, description = "quadrotor/waypoints", "fly through four points in their order with a quadrotor"
    success = "was within 0.2 m of all four points, in their order"
    time_limit_s = 12.0
    goals_shown = POINTS
    info_fields = {"reached": "int64"}  # noqa: RUF012

    def observation_fields(self) -> dict[str, Field]:
        """Return the vehicle's state and the points ahead."""
        names = (*(f"{which}.{axis}" for which in ("next", "second") for axis in "xyz"), "reached")
        return {**super().observation_fields(), "observation.environment_state": Field((7,), unit="m, 1", kind="goal", names=names)}

    def prepare(self) -> None:
        """Allocate the progress besides."""
        super().prepare()
        self._reached = np.zeros(self.num_worlds, np.int64)
        self._distance = np.zeros(self.num_worlds)
        self._worlds = np.arange(self.num_worlds)

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Draw the points, left and right by turns, and begin on the side away from the first."""
        side = 2.0 * draws.integers(0, 2) - 1.0
        signs = side[:, None] * (-1.0) ** np.arange(POINTS + 1)
        places = np.stack(
            [signs * draws.uniform(*ACROSS, (POINTS + 1,)), draws.uniform(-ALONG, ALONG, (POINTS + 1,)), draws.uniform(*HEIGHT, (POINTS + 1,))], axis=2
        )
        self._markers[rows] = places[:, 1:]
        self.begin_flight(rows, draws, places[:, 0], tilt=0.15, speed=0.2)
        self._reached[rows] = 0
        self._distance[rows] = np.linalg.norm(places[:, 1] - places[:, 0], axis=1)

    def _point(self, more: int = 0) -> np.ndarray:
        """Return the next point, or the one that many after it, (N, 3) m."""
        return self._markers[self._worlds, np.minimum(self._reached + more, POINTS - 1)]

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward the way gained and points reached."""
        distance = np.linalg.norm(self._point() - self.position, axis=1)
        reached = (distance < REACHED) & (self._reached < POINTS)
        gained = np.where(self._reached < POINTS, self._distance - distance, 0.0) + reached
        self._reached += reached
        self._distance = np.where(reached, np.linalg.norm(self._point() - self.position, axis=1), distance)
        success, crashed = self._reached == POINTS, self.crashed()
        reward = gained - CRASH * crashed if self.reward_kind == "dense" else success.astype(np.float64)
        return Outcome(reward, crashed, {"success": success, "reached": self._reached})

    def observe(self, out: Observation) -> None:
        """Write the vehicle's state and the points ahead."""
        super().observe(out)
        if "observation.environment_state" in out:
            ahead = out["observation.environment_state"]
            ahead[:, :3], ahead[:, 3:6], ahead[:, 6] = self._point(), self._point(1), self._reached

    def expert_action(self) -> np.ndarray:
        """Return geometric control towards the next point (N, 4) float32."""
        wanted = towards(self.position, self.velocity, self._point())
        return np.clip(thrust_and_rates(self.airframe.mass, wanted, self.rotation), self._low, self._high).astype(np.float32)


TASKS = (Waypoints,)
