"""What hopper, cheetah and ant have in common: run forward, along x, with motors of limited torque."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.task import MujocoTask


class Running(MujocoTask):
    """``observation.state``: positions but those along the ground, then all velocities. Action: torques, 1 is a motor's most.

    The dense reward a step is what was run (m), plus ``alive`` a second, minus ``effort`` times the squared action a second; the
    sparse one is 1 a second beyond the finish. Success: ``finish_m`` from the start without having fallen.

    Attributes:
        start_x: (N,) m, where each episode began.
        before_x: (N,) m, at the beginning of the control step.
    """

    rate_hz, time_limit_s = 50.0, 20.0
    camera = "side"
    fresh = False  # it looks at positions and velocities of joints alone
    rewards = ("dense", "sparse")
    info_fields: ClassVar[dict[str, str]] = {"distance": "float32", "speed": "float32", "effort": "float32"}
    along: ClassVar[int] = 1  #: Leading positions that say where it is on the ground: not observed.
    finish_m: ClassVar[float]
    alive: ClassVar[float] = 0.0
    effort: ClassVar[float] = 0.1
    home: ClassVar[tuple[float, ...]]  #: All positions to begin with.

    def observation_fields(self) -> dict[str, Field]:
        """Return positions and velocities."""
        joints = [self.model.joint(k) for k in range(self.model.njnt)]
        names = [name for joint in joints for name in _names(joint.name, len(joint.qpos0), "xyz", ("w", "i", "j", "k"))]
        speeds = [name for joint in joints for name in _names(joint.name, 6 if len(joint.qpos0) == 7 else 1, "xyz", ("wx", "wy", "wz"))]
        names = [*names[self.along :], *(f"{name}.velocity" for name in speeds)]
        return {"observation.state": Field((len(names),), unit="m, rad, m/s, rad/s", names=tuple(names))}

    def action_fields(self) -> dict[str, Field]:
        """Return the torques."""
        names = tuple(self.model.actuator(k).name for k in range(self.model.nu))
        return {"torque": Field((len(names),), unit="1", low=(-1.0,) * len(names), high=(1.0,) * len(names), kind="effort", names=names)}

    def prepare(self) -> None:
        """Allocate where worlds began."""
        self.start_x, self.before_x = np.zeros((2, self.num_worlds))

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Begin near the standing pose."""
        spread = np.zeros(self.model.nq)
        spread[-self.model.nu :] = 0.05
        self.qpos[rows] = np.asarray(self.home) + spread * draws.uniform(-1.0, 1.0, (self.model.nq,))
        self.qvel[rows] = draws.uniform(-0.05, 0.05, (self.model.nv,))
        self.resume(rows)

    def resume(self, rows: np.ndarray) -> None:
        """Begin to count the way of worlds ``rows`` (K,) where they are."""
        self.start_x[rows] = self.before_x[rows] = self.qpos[rows, 0]

    def apply(self, action: np.ndarray) -> None:
        """Torques, and where the step began."""
        self.before_x[:] = self.qpos[:, 0]
        self.ctrl[:] = action

    def fallen(self) -> np.ndarray:
        """Return (N,) bool, where the episode is over."""
        return np.zeros(self.num_worlds, bool)

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward the way that was run."""
        x, dt = self.qpos[:, 0], 1.0 / self.rate_hz
        fallen = self.fallen()
        distance, speed, effort = x - self.start_x, (x - self.before_x) * self.rate_hz, (action * action).sum(axis=1)
        success = (distance >= self.finish_m) & ~fallen
        reward = (speed + self.alive * ~fallen - self.effort * effort if self.reward_kind == "dense" else success) * dt
        return Outcome(reward, fallen, {"success": success, "distance": distance, "speed": speed, "effort": effort})

    def observe(self, out: Observation) -> None:
        """Positions and velocities."""
        state, shown = out["observation.state"], self.qpos.shape[1] - self.along
        state[:, :shown], state[:, shown:] = self.qpos[:, self.along :], self.qvel


def _names(joint: str, count: int, axes: str, rest: tuple[str, ...]) -> list[str]:
    """Return a name for each of the ``count`` numbers of a joint."""
    return [joint] if count == 1 else [f"{joint}.{name}" for name in (*axes, *rest)]
