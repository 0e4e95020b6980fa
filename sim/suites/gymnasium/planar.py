"""Half-cheetah, hopper and walker: robots in a plane that run by torques (Gymnasium's HalfCheetah, Hopper and Walker2d, v5)."""

from __future__ import annotations

import abc

import numpy as np

from sim.episodes import Outcome
from sim.mirror import Mirror
from sim.suites.gymnasium.walking import WalkingTask

SPEED_LIMIT = 10.0  # m/s, rad/s: velocities are observed within it (hopper, walker)


class HalfCheetah(WalkingTask):
    """Six joints; reward: forward speed - 0.1 |torques|^2. Never ends by itself."""

    task_name = "gymnasium/half-cheetah"
    short = "gymnasium-half-cheetah"
    environment = "HalfCheetah-v5"
    description = "run forward on two legs in a plane (Gymnasium HalfCheetah-v5)"
    success = "judged at the time limit: on average faster forward than 4.8 m/s (our line: 1,000 such steps give the registered return of 4,800)"
    xml = "half_cheetah.xml"
    rate_hz, time_limit_s = 20.0, 50.0
    control_weight = 0.1
    reset_noise, normal_velocities = 0.1, True
    target_speed = 4.8
    info_fields = dict.fromkeys(("x_position", "x_velocity", "reward_forward", "reward_ctrl"), "float64")

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward speed forward (N,), less the cost of the torques."""
        velocity, control = self.moved()[:, 0], self.control_reward(action)
        self.reward = velocity + control
        info = {"success": self.succeeded(velocity), "x_position": self.qpos[:, 0], "x_velocity": velocity, "reward_forward": velocity, "reward_ctrl": control}
        return Outcome(self.reward, np.zeros(self.num_worlds, bool), info)

    def fill(self, out: np.ndarray) -> None:
        """Write the observation (N, 17): height, pitch and joints, then all velocities."""
        out[:, : self._positions_end] = self._observed_positions
        out[:, self._positions_end :] = self.qvel


class UprightTask(WalkingTask):
    """A robot that must not fall; reward: forward speed + 1 while upright - 0.001 |torques|^2."""

    rate_hz, time_limit_s = 125.0, 8.0
    control_weight, healthy_reward, reset_noise = 1e-3, 1.0, 5e-3
    info_fields = dict.fromkeys(("x_position", "x_velocity", "reward_forward", "reward_ctrl", "reward_survive"), "float64")

    def prepare(self) -> None:
        """Allocate; bind height and pitch."""
        super().prepare()
        self._clipped = np.zeros((self.num_worlds, self._nv))
        self._x, self._height, self._pitch, self._angles = self.qpos[:, 0], self.qpos[:, 1], self.qpos[:, 2], self.qpos[:, 2:]

    @abc.abstractmethod
    def upright(self) -> np.ndarray:
        """Return (N,) bool: whether the robot has not fallen."""

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward speed forward (N,) and being upright, less the cost of the torques; a fall ends the episode."""
        velocity, control, upright = self.moved()[:, 0], self.control_reward(action), self.upright()
        self.reward = velocity + control
        self.reward += upright
        info = {
            "success": self.succeeded(velocity) & upright,
            "x_position": self._x,
            "x_velocity": velocity,
            "reward_forward": velocity,
            "reward_ctrl": control,
            "reward_survive": upright,
        }
        return Outcome(self.reward, ~upright, info)

    def fill(self, out: np.ndarray) -> None:
        """Write the observation (N, D): height, pitch and joints, then all velocities, cut to 10."""
        out[:, : self._positions_end] = self._observed_positions
        np.maximum(self.qvel, -SPEED_LIMIT, out=self._clipped)
        np.minimum(self._clipped, SPEED_LIMIT, out=out[:, self._positions_end :])


class Hopper(UprightTask):
    """Three joints; fallen below 0.7 m, beyond 0.2 rad, or when a number of the state reaches 100."""

    task_name = "gymnasium/hopper"
    short = "gymnasium-hopper"
    environment = "Hopper-v5"
    description = "hop forward on one leg in a plane (Gymnasium Hopper-v5)"
    success = "judged at the time limit: upright, on average faster forward than 2.8 m/s (our line: 1,000 such steps give the registered 3,800)"
    xml = "hopper.xml"
    target_speed = 2.8

    def upright(self) -> np.ndarray:
        """Return (N,) bool: high enough, upright, and no runaway number."""
        standing = (self._height > 0.7) & (np.abs(self._pitch) < 0.2)
        if not (largest(self.qvel) < 100.0 and largest(self._angles) < 100.0):  # a NaN counts as fallen
            standing &= (np.abs(self.qvel) < 100.0).all(axis=1) & (np.abs(self._angles) < 100.0).all(axis=1)
        return standing


class Walker2d(UprightTask):
    """Six joints; fallen outside 0.8 to 2 m, or beyond 1 rad. Gymnasium registers no return at which it is solved."""

    task_name = "gymnasium/walker2d"
    short = "gymnasium-walker2d"
    environment = "Walker2d-v5"
    description = "walk forward on two legs in a plane (Gymnasium Walker2d-v5)"
    success = "judged at the time limit: upright, on average faster forward than 3 m/s (our line: Gymnasium registers no return)"
    xml = "walker2d_v5.xml"
    mirror = Mirror(swapped=(("thigh_joint", "thigh_left_joint"), ("leg_joint", "leg_left_joint"), ("foot_joint", "foot_left_joint")))
    target_speed = 3.0

    def upright(self) -> np.ndarray:
        """Return (N,) bool: of the right height, and upright."""
        return (self._height > 0.8) & (self._height < 2.0) & (np.abs(self._pitch) < 1.0)


def largest(values: np.ndarray) -> float:
    """Return the largest magnitude in ``values``, of any shape; NaN if one is."""
    return np.maximum.reduce(np.abs(values), axis=None)


TASKS = (HalfCheetah, Hopper, Walker2d)
