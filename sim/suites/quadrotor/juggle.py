"""Keep a ball bouncing on a racket that sits on a quadrotor.

The ball touches the racket and the floor, nothing else, without friction. Its contact is a spring with little damping: half a period
of 16 ms, a restitution of about 0.8.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.quadrotor_expert import Juggling, juggle
from sim.suites.quadrotor.vehicle import Quadrotor

RACKET_RADIUS, RACKET_HALF, RACKET_HEIGHT, RACKET_MASS = 0.16, 0.005, 0.08, 0.05  # m, m, m above the vehicle's frame, kg
BALL_RADIUS, BALL_MASS = 0.03, 0.03  # m, kg
SPRING, DAMPING = 196.0, 0.071  # rad/s and share of critical: of the contact
CONTACT = RACKET_HEIGHT + RACKET_HALF + BALL_RADIUS  # m, of the ball's middle over the vehicle's frame when they touch

COUNTS = 0.3  # m that a ball must have risen above its contact for the bounce to count
IN_A_ROW = 10  # bounces, for success
DROPPED = 0.15  # m below the contact
HOME, APEX = (0.0, 0.0, 1.0), 0.7  # m, where the vehicle and how far above the contact the ball's highest point shall be
FIRST = (0.5, 0.9)  # m above the contact, of the ball at the beginning


class Juggle(Quadrotor):
    """Bounce the ball ten times in a row, each time from 0.3 m or higher. ``info``: ``success``; ``bounces``: in a row, so far.

    The dense reward is 1 for each bounce that counts, and every second up to 0.5 for a ball above the middle of the racket; the sparse
    one is 1 from the tenth bounce on. The episode ends when the ball falls below the racket or the vehicle crashes.
    """

    task_name, description = "quadrotor/juggle", "keep a ball bouncing on a racket on top of a quadrotor"
    success = "ten bounces in a row that each rose 0.3 m or higher"
    time_limit_s = 20.0
    engines = ("mujoco", "warp")  # a ball hardly bounces in Bullet, which knows nothing of MuJoCo's soft contacts
    goals_shown = 0
    info_fields = {"bounces": "int64"}  # noqa: RUF012

    def furnish(self, scene: Any) -> None:
        """Add the racket and the ball."""
        import mujoco

        mj: Any = mujoco
        scene.camera("front").pos = [0, -2.8, 2.1]  # nearer than for flights
        body, disc = scene.body("quadrotor"), mj.mjtGeom.mjGEOM_CYLINDER
        size, height = [RACKET_RADIUS, RACKET_HALF, 0], RACKET_HEIGHT
        body.add_geom(name="racket", type=disc, size=size, pos=[0, 0, height], mass=RACKET_MASS, rgba=[0.2, 0.5, 0.85, 0.6], contype=1, conaffinity=2)
        body.add_geom(name="post", type=disc, size=[0.008, height / 2, 0], pos=[0, 0, height / 2], mass=0.01, contype=0, rgba=[0.3, 0.32, 0.36, 1])
        ball = scene.worldbody.add_body(name="ball", pos=[0, 0, 2])
        ball.add_freejoint(name="ball")
        touch: dict[str, Any] = {"contype": 2, "conaffinity": 0, "condim": 1, "priority": 1}
        spring: dict[str, Any] = {"solref": [-(SPRING**2), -2 * DAMPING * SPRING], "solimp": [0.99, 0.99, 0.001, 0.5, 2]}
        sphere = mj.mjtGeom.mjGEOM_SPHERE
        ball.add_geom(name="ball", type=sphere, size=[BALL_RADIUS, 0, 0], mass=BALL_MASS, rgba=[0.9, 0.8, 0.1, 1], **touch, **spring)

    def observation_fields(self) -> dict[str, Field]:
        """Return the vehicle's state and the ball's."""
        names = tuple(f"ball.{what}{axis}" for what in ("", "velocity.") for axis in "xyz")
        return {**super().observation_fields(), "observation.environment_state": Field((6,), unit="m, m/s", names=names)}

    def prepare(self) -> None:
        """Bind the ball besides, and count."""
        super().prepare()
        self._ball, self._ball_velocity = self.qpos[:, 7:10], self.qvel[:, 6:9]
        self._bounces = np.zeros(self.num_worlds, np.int64)
        self._highest = np.zeros(self.num_worlds)  # of the ball above the racket since the last bounce, m
        self._falling = np.zeros(self.num_worlds, bool)
        self._plan = Juggling(mass=self.airframe.mass, ball_mass=BALL_MASS, restitution=restitution(), contact=CONTACT, home=np.array(HOME), apex=APEX)

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Let worlds ``rows`` (K,) begin near home with the ball somewhere above, nearly at rest."""
        home = np.array(HOME) + draws.uniform(-0.1, 0.1, (3,))
        self.begin_flight(rows, draws, home, tilt=0.05, speed=0.1)
        ball = home + draws.uniform(-0.04, 0.04, (3,)) * [1.0, 1.0, 0.0]
        ball[:, 2] += CONTACT + draws.uniform(*FIRST)
        self.qpos[rows, 7:10], self.qpos[rows, 10] = ball, 1.0
        self.qvel[rows, 6:8] = draws.uniform(-0.1, 0.1, (2,))
        self._bounces[rows], self._highest[rows], self._falling[rows] = 0, 0.0, False

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward bounces, and a ball above the racket's middle."""
        off = self._ball - self.position
        above, upward = off[:, 2] - CONTACT, self._ball_velocity[:, 2] > 0.0
        bounced = self._falling & upward  # gravity alone turns no ball upwards
        counts = bounced & (self._highest >= COUNTS)
        self._bounces = np.where(counts, self._bounces + 1, np.where(bounced, 0, self._bounces))
        self._highest = np.where(bounced, above, np.maximum(self._highest, above))
        self._falling = ~upward
        success, ended = self._bounces >= IN_A_ROW, self.crashed() | (above < -DROPPED)
        if self.reward_kind == "sparse":
            reward = success.astype(np.float64)
        else:
            aside = off[:, 0] ** 2 + off[:, 1] ** 2
            reward = counts + 0.01 / (1.0 + aside / RACKET_RADIUS**2)
        return Outcome(reward, ended, {"success": success, "bounces": self._bounces})

    def observe(self, out: Observation) -> None:
        """Write the vehicle's state and the ball's."""
        super().observe(out)
        if "observation.environment_state" in out:
            ball = out["observation.environment_state"]
            ball[:, :3], ball[:, 3:] = self._ball, self._ball_velocity

    def expert_action(self) -> np.ndarray:
        """Return collective thrust and body rates (N, 4) float32 that keep the ball at its height and bring it home."""
        action = juggle(self._plan, self.position, self.velocity, self.rotation, self._ball, self._ball_velocity)
        return np.clip(action, self._low, self._high).astype(np.float32)


def restitution() -> float:
    """Return the share of its speed that the ball keeps at a racket that does not move: that of a damped half oscillation."""
    return float(np.exp(-np.pi * DAMPING / np.sqrt(1.0 - DAMPING**2)))


TASKS = (Juggle,)
