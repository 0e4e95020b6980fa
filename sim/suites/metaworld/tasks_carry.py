"""Things that are carried to a place: a ball, a cube between bins, a lid, a mug, a block into a hole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import (
    Numbers,
    choose,
    funnel,
    hamacher_product,
    length,
    quaternions,
    tolerance,
    upright,
)

_LAID_DOWN = np.array([0.707, 0, 0, 0.707])


class _Thing(SawyerTask):
    """One body that is carried."""

    thing: ClassVar[str] = "obj"  #: name of the body

    def prepare(self) -> None:
        """Bind the thing."""
        self._thing, self._quat = self.body(self.thing), self.body_quat(self.thing)

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the thing."""
        return [(self._thing, self._quat)]


class Basketball(_Thing):
    """Drop a ball into a basket."""

    suite_task, thing = "basketball", "bsktball"

    def prepare(self) -> None:
        """Bind ball and basket."""
        super().prepare()
        self._basket = self.site("goal")

    def goal(self) -> np.ndarray:
        """Return the basket, which the suite keeps as a view."""
        return self._basket

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the ball and bringing it over the basket."""
        radius, scale = 0.08, np.array([1.0, 1.0, 2.0])
        above = self._basket.copy()
        above[:, 2] = 0.3
        left = length((self.object - above) * scale)
        placed = tolerance(left, 0, radius, length((self.obj_init_pos - above) * scale))
        held = self.caging(action, self.object, radius=0.025, pad=0.06, xz=0.005)
        lifted = self.object[:, 2] - 0.01 > self.obj_init_pos[:, 2]
        carried = (length(self.object - self.tcp) < 0.035) & (self.opening > 0) & lifted
        reward = hamacher_product(choose(carried, 1.0, held), placed) + np.where(carried, 1.0 + 5.0 * placed, 0.0)
        return choose(left < radius, 10.0, reward), left <= radius


class BinPicking(_Thing):
    """Carry a cube from one bin into the other."""

    suite_task = "bin-picking"
    kept = ("_target_to_obj_init",)  # none yet when an episode begins

    def prepare(self) -> None:
        """Bind cube and bin."""
        super().prepare()
        self._bin = self.body("bin_goal")

    def goal(self) -> np.ndarray:
        """Return the other bin, which the suite keeps as a view."""
        return self._bin

    def _above(self) -> np.ndarray:
        """Return the grade (N,) of the hand keeping above funnels over both bins."""
        axes = (self.obj_init_pos, self._bin)
        floor = np.minimum(*(funnel(length(self.hand[:, :2] - axis[:, :2]), 0.03, 0.02, 0.2) for axis in axes))
        below = tolerance(np.maximum(floor - self.hand[:, 2], 0.0), 0.0, 0.01, 0.05)
        return np.where(self.hand[:, 2] >= floor, 1.0, below)

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the cube, and more carrying it over the walls of the bins; the margin is the way left after the first step."""
        radius = 0.05
        left = length(self.object - self._bin)
        began = self.first["_target_to_obj_init"]
        began[:] = np.where(np.isnan(began), left, began)
        placed = tolerance(left, 0, radius, began)
        held = self.caging(action, self.object, radius=0.015, pad=0.05, xz=0.01, effort=0.7)
        near = length(self.object - self.hand) < 0.04
        lifted = self.object[:, 2] - 0.02 > self.obj_init_pos[:, 2]
        carried = near & lifted & ~(self.opening < 0.43)
        over = 1.0 + 5.0 * hamacher_product(self._above(), placed)
        reward = hamacher_product(held, placed) + np.where(carried, over, 0.0)
        return choose(left < radius, 10.0, reward), left <= radius


class BoxClose(_Thing):
    """Put the lid on a box."""

    suite_task, thing = "box-close", "top_link"

    def _ready(self, lid: np.ndarray) -> np.ndarray:
        """Return the grade (N,) of the hand being at the handle of ``lid`` (N, 3), and above a funnel on the way there."""
        floor = funnel(length(self.hand[:, :2] - lid[:, :2]), 0.02, 0.04, 0.4)
        below = tolerance(floor - self.hand[:, 2], 0.0, 0.01, floor / 2.0)
        above = np.where(self.hand[:, 2] >= floor, 1.0, below)
        return hamacher_product(above, tolerance(length(self.hand - lid), 0, 0.02, 0.5))

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward grasping the lid, then its way to the box, all the less the more it is tilted."""
        closed = ((action[:, 3] + np.float32(1)) / np.float32(2)).astype(np.float64)
        lid = self.object + np.array([0.0, 0.0, 0.02])
        way = tolerance(length((self.target - lid) * np.array([1.0, 1.0, 3.0])), 0, 0.05, 0.25)
        lifted = 0.2 * (lid[:, 2] > 0.04) + 0.8 * way
        reward = 2.0 * hamacher_product(closed, self._ready(lid)) + 8.0 * lifted
        success = length(self.object - self.target) < 0.08
        return np.where(success, 10.0, reward) * upright(self.object_quat, _LAID_DOWN, 0.2), success


class _Mug(_Thing):
    """A mug that is slid over the table to or from a coffee machine."""

    def prepare(self) -> None:
        """Bind the mug."""
        self._thing, self._turn = self.body("obj"), self.geom_matrix("mug")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the mug."""
        return [(self._thing, quaternions(self._turn))]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the mug and bringing it to the goal."""
        scale = np.array([2.0, 2.0, 1.0])
        left = length((self.object - self.target) * scale)
        placed = tolerance(left, 0, 0.05, length((self.obj_init_pos - self.target) * scale))
        held = self.caging(action, self.object, radius=0.02, pad=0.05, xz=0.05, effort=0.7, reach=0.04)
        at_mug = (length(self.object - self.tcp) < 0.04) & (self.opening > 0)
        reward = hamacher_product(held, placed) + np.where(at_mug, 1.0 + 5.0 * placed, 0.0)
        return choose(left < 0.05, 10.0, reward), length(self.object - self.target) <= 0.07


class CoffeePull(_Mug):
    """Pull a mug from under a coffee machine."""

    suite_task = "coffee-pull"


class CoffeePush(_Mug):
    """Push a mug under a coffee machine."""

    suite_task = "coffee-push"


class HandInsert(_Thing):
    """Bring a block into a hole in the table."""

    suite_task = "hand-insert"

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the block and bringing it to the goal."""
        radius = 0.05
        left = length(self.object - self.target)
        placed = tolerance(left, 0, radius, length(self.obj_init_pos - self.target))
        held = self.caging(action, self.object, radius=0.015, pad=0.05, xz=0.005)
        at_block = (length(self.object - self.tcp) < 0.02) & (self.opening > 0)
        reward = hamacher_product(held, placed) + np.where(at_block, 1.0 + 7.0 * placed, 0.0)
        return choose(left < radius, 10.0, reward), left <= radius


TASKS = (Basketball, BinPicking, BoxClose, CoffeePull, CoffeePush, HandInsert)
