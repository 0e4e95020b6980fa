"""Tools with a handle: the wrench that goes on its peg and comes off it, the hammer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import Numbers, choose, funnel, length, plain, snapped, tolerance, upright

_LAID_DOWN = np.array([0.707, 0, 0, 0.707])
_UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])


class _Wrench(SawyerTask):
    """A wrench held at its handle, its ring over a peg."""

    def prepare(self) -> None:
        """Bind handle and ring."""
        self._grip, self._quat, self._ring = self.site("RoundNut-8"), self.body_quat("RoundNut"), self.site("RoundNut")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._grip, self._quat)]

    def handle(self) -> np.ndarray:
        """Return the point (N, 3) of the handle that the hand is at: anywhere along its length of 2 cm will do."""
        return snapped(self.object, self.hand, 0.02 / 2.0)


class Assembly(_Wrench):
    """Put the ring over the peg."""

    suite_task = "assembly"

    def _placed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the grade of the ring's place and whether it is over the peg, each (N,)."""
        error = self.target - self._ring
        radius = length(error[:, :2])
        success = (radius < 0.02) & (error[:, 2] > 0.0)
        mouth = np.where(success, 0.02, 0.01)  # a placed ring need not be centred better
        error[:, 2] = funnel(radius, mouth, 0.02, 0.2) - self._ring[:, 2]
        lifted = (self._ring[:, 2] > 0.02) | (radius < mouth)
        grade = 0.1 * lifted + 0.9 * tolerance(length(error * np.array([1.0, 1.0, 3.0])), 0, 0.02, 0.4)
        return grade, success

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the wrench level and bringing its ring down a funnel onto the peg."""
        held = self.caging(action, self.handle(), radius=0.015, pad=0.02, xz=0.01, reach=0.01)
        placed, success = self._placed()
        reward = (2.0 * held + 6.0 * placed) * upright(self.object_quat, _LAID_DOWN, 0.4)
        return choose(success, 10.0, reward), success


class Disassemble(_Wrench):
    """Take the ring off the peg."""

    suite_task = "disassemble"

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the wrench level and lifting it off."""
        held = self.caging(action, self.handle(), radius=0.015, pad=0.02, xz=0.01)
        away = length(self.target + np.array([0.0, 0.0, 0.1]) - self._ring)
        off = 0.1 * (self._ring[:, 2] > 0.02) + 0.9 * tolerance(away, 0, 0.02, 0.2)
        reward = (2.0 * held + 6.0 * off) * upright(self.object_quat, _LAID_DOWN, 0.4)
        success = self.object[:, 2] > self.target[:, 2]
        return choose(success, 10.0, reward), success


class Hammer(SawyerTask):
    """Drive a nail into a box."""

    suite_task = "hammer"

    def prepare(self) -> None:
        """Bind hammer and nail."""
        self._bound = [(self.body(name), self.body_quat(name)) for name in ("hammer", "nail_link")]
        self._driven = self.joint("NailSlideJoint")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return hammer and nail."""
        return self._bound

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the hammer upright with its head at the nail."""
        head = self.object + np.array([0.16, 0.06, 0.0])
        grip = snapped(self.object, self.hand, 0.14 / 2.0)
        held = self.caging(action, grip, radius=0.015, pad=0.02, xz=0.01)
        at_nail = 0.1 * (head[:, 2] > 0.02) + 0.9 * tolerance(length(self.target - head), 0, 0.02, 0.2)
        reward = (2.0 * held + 6.0 * at_nail) * upright(self.object_quat, _UPRIGHT, 0.4)
        success = self._driven > 0.09
        return choose(success & (plain(reward) > 5.0), 10.0, reward), success


TASKS = (Assembly, Disassemble, Hammer)
