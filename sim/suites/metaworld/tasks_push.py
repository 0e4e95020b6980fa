"""Things that are moved over the table without being lifted: a puck pushed, pushed back, past a wall or swept, a ball."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import Numbers, choose, hamacher_product, length, pinching, quaternions, tolerance

_RADIUS = 0.05  # m from the goal that counts as there


class Puck(SawyerTask):
    """A puck, observed at its body or at its geom, turned as its geom."""

    at_geom: ClassVar[bool] = False  #: whether the geom's position is observed, else the body's

    def prepare(self) -> None:
        """Bind the puck."""
        self._puck = self.geom("objGeom") if self.at_geom else self.body("obj")
        self._turn = self.geom_matrix("objGeom")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the puck."""
        return [(self._puck, quaternions(self._turn))]

    def placed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return distance to the goal, the same when the episode began, and the grade of being there, each (N,)."""
        left, began = length(self.object - self.target), length(self.obj_init_pos - self.target)
        return left, began, tolerance(left, 0, _RADIUS, began)


class Push(Puck):
    """Push a puck to a goal on the table."""

    suite_task = "push"

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the puck, then bringing it to the goal."""
        left, _, placed = self.placed()
        held = self.caging(action, self.object, radius=0.015, pad=0.05, xz=0.005)
        at_puck = (length(self.object - self.tcp) < 0.02) & (self.opening > 0)
        twice = 2 * held
        reward = choose(at_puck, twice + (1.0 + twice + 5.0 * placed), twice)
        return choose(left < _RADIUS, 10.0, reward), left <= _RADIUS


class PushBack(Puck):
    """Pull a puck back towards the arm."""

    suite_task, at_geom = "push-back", True

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward pinching the puck and bringing it to the goal, and more once it has moved."""
        left, began, placed = self.placed()
        held = pinching(self.gripper, self.object, self.obj_init_pos, radius=0.007, slack=0.003, near=0.01)
        closed = (self.opening > 0) & (self.opening < 0.55)
        moved = (length(self.object - self.tcp) < 0.01) & closed & (began - left > 0.01)
        reward = hamacher_product(held, placed) + np.where(moved, 1.0 + 5.0 * placed, 0.0)
        return choose(left < _RADIUS, 10.0, reward), left <= 0.07


class PushWall(Puck):
    """Push a puck around a wall."""

    suite_task, at_geom = "push-wall", True

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the puck, bringing it beside the wall, then past it to the goal."""
        scale, beside = np.array([3.0, 1.0, 1.0]), self.object.copy()
        beside[:, :2] = -0.05, 0.77
        way = tolerance(length((self.object - beside) * scale), 0, _RADIUS, length((self.obj_init_pos - beside) * scale))
        left, _, placed = self.placed()
        held = self.caging(action, self.object, radius=0.015, pad=0.05, xz=0.005)
        at_puck = (length(self.object - self.tcp) < 0.02) & (self.opening > 0)
        twice = 2.0 * held
        pushed = choose(self.object[:, 1] > 0.75, twice + 1.0 + 4.0 + 3.0 * placed, twice + 1.0 + 4.0 * way)
        reward = choose(at_puck, pushed, twice)
        return choose(left < _RADIUS, 10.0, reward), left <= 0.07


class Soccer(SawyerTask):
    """Push a ball into a goal."""

    suite_task = "soccer"

    def prepare(self) -> None:
        """Bind the ball."""
        self._ball, self._turn = self.body("soccer_ball"), self.body_matrix("soccer_ball")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the ball."""
        return [(self._ball, quaternions(self._turn))]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward pinching the ball and bringing it to the goal, less where it passes beside the posts; the margin is its way so far."""
        scale, radius, error = np.array([3.0, 1.0, 1.0]), 0.07, self.object - self.target
        left = length(error * scale)
        placed = tolerance(left, 0, radius, length((self.object - self.obj_init_pos) * scale))
        line = self.target[:, 1] - 0.1
        missed = (self.object[:, 1] > line) & (np.abs(error[:, 0]) > 0.10)
        behind = 2 * ((self.object[:, 1] - line) / (1 - line))
        placed = np.where(missed, np.clip(placed - behind, 0.0, 1.0), placed)
        held = pinching(self.gripper, self.object, self.obj_init_pos, radius=0.013, slack=0.01, near=0.005)
        return np.where(left < radius, 10.0, 3 * held + 6.5 * placed), length(error) <= radius


class _Swept(Puck):
    """A puck that is swept to a place."""

    slack: ClassVar[float]  #: of the pads around the puck, m
    near: ClassVar[float]  #: distance of the finger tips in x and z, m

    def place(self) -> np.ndarray:
        """Return where (N, 3) the puck is rewarded to be, m."""
        return self.target

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward pinching the puck and bringing it to the place."""
        place = self.place()
        left = length(self.object - place)
        placed = tolerance(left, 0, _RADIUS, length(self.obj_init_pos - place))
        held = pinching(self.gripper, self.object, self.obj_init_pos, radius=0.02, slack=self.slack, near=self.near)
        reward = 2 * held + 6 * hamacher_product(held, placed)
        return choose(left < _RADIUS, 10.0, reward), left <= _RADIUS


class Sweep(_Swept):
    """Sweep a puck off the table."""

    suite_task, slack, near = "sweep", 0.01, 0.005

    def prepare(self) -> None:
        """Bind the puck."""
        self._puck, self._quat = self.body("obj"), self.body_quat("obj")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the puck."""
        return [(self._puck, self._quat)]


class SweepInto(_Swept):
    """Sweep a puck into a hole in the table."""

    suite_task, slack, near = "sweep-into", 0.005, 0.01

    def place(self) -> np.ndarray:
        """Return the hole (N, 3) at the height of the puck."""
        hole = self.target.copy()
        hole[:, 2] = self.object[:, 2]
        return hole


TASKS = (Push, PushBack, PushWall, Soccer, Sweep, SweepInto)
