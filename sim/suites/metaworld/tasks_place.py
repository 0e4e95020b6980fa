"""Things that are picked up and placed: a puck in the air, over a wall, on a shelf, out of a hole; and the hand reaching past it."""

from __future__ import annotations

import numpy as np

from sim.suites.metaworld.tasks_push import Puck
from sim.suites.metaworld.vocabulary import Numbers, caging, choose, funnel, hamacher_product, length, plain, straddling, tolerance

_RADIUS = 0.05  # m from the goal that counts as there


class _Lifted(Puck):
    """A puck that has to leave the table."""

    def carried(self, near: float, high: float) -> np.ndarray:
        """Return where (N,) the gripper is within ``near`` m of the puck, not shut, and the puck ``high`` m above where it began."""
        return (length(self.object - self.tcp) < near) & (self.opening > 0) & (self.object[:, 2] - high > self.obj_init_pos[:, 2])


class PickPlace(_Lifted):
    """Pick up a puck and hold it in the air."""

    suite_task = "pick-place"

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the puck and bringing it to the goal, and more once it is lifted."""
        left, _, placed = self.placed()
        held = straddling(self.gripper, action, self.object, self.obj_init_pos)
        reward = hamacher_product(held, placed)
        reward = choose(self.carried(0.02, 0.01), reward + (1.0 + 5.0 * placed), reward)
        return choose(left < _RADIUS, 10.0, reward), left <= 0.07


class PickPlaceWall(_Lifted):
    """Carry a puck over a wall."""

    suite_task, at_geom = "pick-place-wall", True

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the puck, bringing it above the wall, then down to the goal."""
        scale, above = np.array([1.0, 1.0, 3.0]), self.target.copy()
        above[:, 1:] = 0.77, 0.25
        way = tolerance(length((self.object - above) * scale), 0, _RADIUS, length((self.obj_init_pos - above) * scale))
        left, _, placed = self.placed()
        held = caging(self.gripper, action, self.object, self.obj_init_pos, radius=0.015, pad=0.05, xz=0.005, dense=False)
        reward = hamacher_product(held, way)
        over = choose(self.object[:, 1] > 0.75, reward + 1.0 + 4.0 + 3.0 * placed, reward + 1.0 + 4.0 * way)
        reward = choose(self.carried(0.02, 0.015), over, reward)
        return choose(left < _RADIUS, 10.0, reward), left <= 0.07


class ShelfPlace(_Lifted):
    """Put a puck on a shelf."""

    suite_task = "shelf-place"

    def _under(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where (N,) the puck is low in front of the shelf, how near it (N,), and where (N,) it is low behind its edge."""
        (x, y, z), (goal_x, goal_y, _), deep = self.object.T, self.target.T, 3 * _RADIUS
        low = (z > 0.0) & (z < 0.24) & (goal_x - 0.15 < x) & (x < goal_x + 0.15)
        before = low & (goal_y - deep < y) & (y < goal_y)
        near = plain(hamacher_product((y - (goal_y - deep)) / deep, (0.24 - z) / 0.24))
        return before, near, low & (y > goal_y)

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the puck and bringing it to the goal, and more once it is lifted, but not under the shelf."""
        left, _, placed = self.placed()
        held = caging(self.gripper, action, self.object, self.obj_init_pos, radius=0.02, pad=0.05, xz=0.01, dense=False)
        reward = hamacher_product(held, placed)
        before, near, behind = self._under()
        blocked = np.clip(placed - near, 0.0, 1.0)  # of NumPy's own type where it counts: the sum is in float64 there
        lifted = choose(before, plain(reward) + (1.0 + 5.0 * blocked), reward + (1.0 + 5.0 * np.where(behind, 0.0, placed)))
        reward = choose(self.carried(0.025, 0.01), lifted, reward)
        return choose(left < _RADIUS, 10.0, reward), left <= 0.07


class PickOutOfHole(_Lifted):
    """Pick a puck out of a hole."""

    suite_task = "pick-out-of-hole"

    def prepare(self) -> None:
        """Bind the puck."""
        self._puck, self._quat = self.body("obj"), self.body_quat("obj")

    def objects(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the puck."""
        return [(self._puck, self._quat)]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the puck and bringing it to the goal, and more once it is lifted, above a funnel around the hole."""
        left = length(self.object - self.target)
        placed = tolerance(left, 0, 0.02, length(self.obj_init_pos - self.target))
        floor = funnel(length(self.tcp[:, :2] - self.obj_init_pos[:, :2]), 0.03, 0.015, 0.15)
        height = self.tcp[:, 2]
        above = np.where(height >= floor, 1.0, tolerance(np.maximum(floor - height, 0.0), 0.0, 0.01, 0.02))
        held = self.caging(action, self.object, radius=0.015, pad=0.02, xz=0.03, effort=0.1)
        lifted = self.object[:, 2] - 0.02 > self.obj_init_pos[:, 2]
        carried = (length(self.object - self.tcp) < 0.04) & lifted & ~(self.opening < 0.33)
        reward = hamacher_product(held, placed)
        reward = choose(carried, reward + (1.0 + 5.0 * hamacher_product(placed, above)), reward)
        return choose(left < _RADIUS, 10.0, reward), left <= 0.07


class Reach(Puck):
    """Reach a goal with the hand; the puck is in the way."""

    suite_task = "reach"
    kept = ("hand_init_pos",)

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward finger tips at the goal."""
        left = length(self.tcp - self.target)
        return 10 * tolerance(left, 0, _RADIUS, length(self.first["hand_init_pos"] - self.target)), left <= _RADIUS


class ReachWall(Reach):
    """Reach a goal behind a wall."""

    suite_task = "reach-wall"


TASKS = (PickPlace, PickPlaceWall, ShelfPlace, PickOutOfHole, Reach, ReachWall)
