"""Ant and humanoid: robots that run freely in space (Gymnasium's Ant-v5 and Humanoid-v5), with and without contact forces.

``gymnasium/ant`` and ``gymnasium/humanoid`` leave contact forces out of observation and reward, which Gymnasium offers as
options, because one call for all worlds does not compute them. ``gymnasium/ant-full`` and ``gymnasium/humanoid-full`` are
Gymnasium's defaults: after the step, forces are computed world by world.
"""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np

from sim.batch import MujocoEngine
from sim.draws import Draws
from sim.engine import Engine
from sim.episodes import Outcome
from sim.registry import Options
from sim.suites.gymnasium.walking import WalkingTask

_INFO = ("x_position", "y_position", "x_velocity", "y_velocity", "reward_forward", "reward_ctrl", "reward_survive")


class FreeTask(WalkingTask):
    """A robot on a free joint; reward: weight x forward speed + a number while healthy - the cost of the torques."""

    skipped, place_size = 2, 2
    info_fields = dict.fromkeys(_INFO, "float64")

    @abc.abstractmethod
    def healthy(self) -> np.ndarray:
        """Return (N,) bool: whether the robot is at a height where it can walk."""

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward speed along x (N,) and being healthy, less the cost of the torques; being unhealthy ends the episode."""
        velocity, control, healthy = self.moved(), self.control_reward(action), self.healthy()
        forward, survive = velocity[:, 0] * self.forward_weight, healthy * self.healthy_reward
        self.reward = forward + survive
        self.reward += control
        x, y = self.qpos[:, 0], self.qpos[:, 1]
        info = {
            "success": self.succeeded(velocity[:, 0]) & healthy,
            "x_position": x,
            "y_position": y,
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": forward,
            "reward_ctrl": control,
            "reward_survive": survive,
        }
        return Outcome(self.reward, ~healthy, info)

    def fill(self, out: np.ndarray) -> None:
        """Write height, attitude and joints, then all velocities (N, nq - 2 + nv), into the first columns of ``out``."""
        out[:, : self._positions_end] = self._observed_positions
        out[:, self._positions_end : self._velocities_end] = self.qvel


class Ant(FreeTask):
    """Eight joints on four legs; unhealthy outside 0.2 to 1 m. Observation (27,)."""

    task_name = "gymnasium/ant"
    short = "gymnasium-ant"
    environment = "Ant-v5"
    description = "run forward on four legs (Gymnasium Ant-v5 without contact forces)"
    success = "judged at the time limit: healthy, on average faster forward than 5 m/s (our line: 1,000 such steps give the registered 6,000)"
    xml = "ant.xml"
    rate_hz, time_limit_s = 20.0, 50.0
    control_weight, healthy_reward = 0.5, 1.0
    reset_noise, normal_velocities = 0.1, True
    target_speed = 5.0

    def prepare(self) -> None:
        """Bind where the torso is."""
        super().prepare()
        self._torso = self.engine.bind("xpos")[:, 1, :2]

    def place(self) -> np.ndarray:
        """Return x and y of the torso (N, 2), m."""
        return self._torso

    def healthy(self) -> np.ndarray:
        """Return (N,) bool: of the right height, and every number finite."""
        height = self.qpos[:, 2]
        healthy = (height >= 0.2) & (height <= 1.0)
        if not math.isfinite(np.add.reduce(self.qvel, axis=None) + np.add.reduce(self.qpos, axis=None)):
            healthy &= np.isfinite(self.qpos).all(axis=1) & np.isfinite(self.qvel).all(axis=1)
        return healthy


class Humanoid(FreeTask):
    """Seventeen joints; unhealthy outside 1 to 2 m. Observation (270,): also inertias and velocities of bodies, actuator forces."""

    task_name = "gymnasium/humanoid"
    short = "gymnasium-humanoid"
    environment = "Humanoid-v5"
    description = "run forward on two legs (Gymnasium Humanoid-v5 without contact forces)"
    success = "judged at the time limit: healthy, on average faster forward than 3 m/s (our line: Gymnasium registers no return)"
    xml = "humanoid.xml"
    rate_hz, time_limit_s = 1.0 / 0.015, 15.0
    forward_weight, control_weight, healthy_reward = 1.25, 0.1, 5.0
    reset_noise = 0.01
    target_speed = 3.0  # Gymnasium registers no return at which it is solved
    engines = ("mujoco",)

    def prepare(self) -> None:
        """Bind where the bodies are, their inertias and velocities about the centre of mass, and the actuators' forces."""
        super().prepare()
        bodies = self.model.nbody - 1
        self._centres = self.engine.bind("xipos")[:, :, :2]
        self._mass_shares = self.model.body_mass / self.model.body_mass.sum()
        inertia, velocity = self.engine.bind("cinert"), self.engine.bind("cvel")
        parts = inertia[:, 1:].reshape(-1, bodies * 10), velocity[:, 1:].reshape(-1, bodies * 6), self.engine.bind("qfrc_actuator")[:, 6:]
        assert np.shares_memory(parts[0], inertia) and np.shares_memory(parts[1], velocity)
        self._further, first = [], self._velocities_end
        for part in parts:
            self._further.append((slice(first, first + part.shape[1]), part))
            first += part.shape[1]

    def further_names(self) -> tuple[str, ...]:
        """Return the names of inertias (10 a body), velocities (6 a body) and actuator forces."""
        bodies = [self.model.body(i).name for i in range(1, self.model.nbody)]
        joints = coordinate_velocities(self.model)[6:]
        return (*_numbered(bodies, "inertia", 10), *_numbered(bodies, "velocity", 6), *(f"{name}.force" for name in joints))

    def place(self) -> np.ndarray:
        """Return x and y of the centre of mass (N, 2), m."""
        return np.einsum("b,nbj->nj", self._mass_shares, self._centres)

    def healthy(self) -> np.ndarray:
        """Return (N,) bool: of the right height."""
        height = self.qpos[:, 2]
        return (height > 1.0) & (height < 2.0)

    def fill(self, out: np.ndarray) -> None:
        """Write the observation (N, D)."""
        super().fill(out)
        for columns, part in self._further:
            out[:, columns] = part


class ContactForces(FreeTask):
    """Adds to a robot the forces on its bodies (N, nbody, 6): a cost, and the last columns of the observation."""

    info_fields = dict.fromkeys((*_INFO, "reward_contact"), "float64")
    engines = ("mujoco",)

    def make_worlds(self, options: Options) -> Engine:
        """Return worlds that keep their contacts."""
        return MujocoEngine(self.model, options.num_worlds, options.threads, persistent=True)

    def prepare(self) -> None:
        """Allocate the forces; the engine computes them world by world."""
        super().prepare()
        assert isinstance(self.engine, MujocoEngine)
        self._measure = self.engine.contact_forces
        self._forces = np.zeros((self.num_worlds, self.model.nbody, 6))

    def further_names(self) -> tuple[str, ...]:
        """Return the names of what the robot observes besides, and of forces and torques (6 a body)."""
        return (*super().further_names(), *_numbered([self.model.body(i).name for i in range(1, self.model.nbody)], "contact", 6))

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Begin like the robot without forces; none are known before the first step."""
        super().lay_out(rows, draws)
        self._forces[rows] = 0.0

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward as without forces (N,), less the cost of contacts."""
        self._measure(self._forces)
        plain = super().judge(action)
        contact = -self.contact_cost()
        self.reward = plain.reward + contact
        return plain._replace(reward=self.reward, info={**plain.info, "reward_contact": contact})

    @abc.abstractmethod
    def contact_cost(self) -> np.ndarray:
        """Return what contacts cost (N,)."""

    def observed_forces(self) -> np.ndarray:
        """Return the forces (N, nbody, 6), N and Nm, as they are observed."""
        return self._forces

    def fill(self, out: np.ndarray) -> None:
        """Write the observation (N, D)."""
        super().fill(out)
        forces = self.observed_forces()[:, 1:].reshape(self.num_worlds, -1)
        out[:, -forces.shape[1] :] = forces


class AntFull(ContactForces, Ant):
    """The ant with contact forces, cut to 1: observation (105,), cost 0.0005 |forces|^2."""

    task_name = "gymnasium/ant-full"
    short = "gymnasium-ant-full"
    description = "run forward on four legs (Gymnasium Ant-v5, forces world by world)"

    def observed_forces(self) -> np.ndarray:
        """Return the forces (N, nbody, 6), cut to [-1, 1]."""
        return np.clip(self._forces, -1.0, 1.0)

    def contact_cost(self) -> np.ndarray:
        """Return what the cut forces cost (N,)."""
        return 5e-4 * np.square(self.observed_forces()).sum(axis=(1, 2))


class HumanoidFull(ContactForces, Humanoid):
    """The humanoid with contact forces: observation (348,), cost 5e-7 |forces|^2, at most 10."""

    task_name = "gymnasium/humanoid-full"
    short = "gymnasium-humanoid-full"
    description = "run forward on two legs (Gymnasium Humanoid-v5, forces world by world)"

    def contact_cost(self) -> np.ndarray:
        """Return what the forces cost (N,)."""
        return np.minimum(5e-7 * np.square(self._forces).sum(axis=(1, 2)), 10.0)


def coordinate_velocities(model: Any) -> tuple[str, ...]:
    """Return the names of the degrees of freedom (nv) of a ``mujoco.MjModel``, after its joints."""
    return tuple(model.joint(int(model.dof_jntid[i])).name for i in range(model.nv))


def _numbered(names: list[str], what: str, count: int) -> list[str]:
    return [f"{name}.{what}{k}" for name in names for k in range(count)]


TASKS = (Ant, Humanoid, AntFull, HumanoidFull)
