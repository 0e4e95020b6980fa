"""Buttons that are pressed, the four and the coffee machine's; handles that are pressed, and one that is pulled from the side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import Numbers, choose, hamacher_product, length, square, tolerance

_NO_ROTATION = np.zeros(4)  # what the suite observes where it knows no quaternion
_UNTURNED = np.array([1.0, 0.0, 0.0, 0.0])


class _Button(SawyerTask):
    """A button that moves along one axis towards the goal."""

    kept = ("_obj_to_target_init",)
    axis: ClassVar[int] = 1  #: of the world, along which it is pressed
    offset: ClassVar[tuple[float, float, float]] = (0.0, -0.193, 0.0)  #: of what is touched from the button's body, m
    near: ClassVar[float] = 0.05  #: distance that counts as touching it, m
    rewarded: ClassVar[float] = 0.05  #: distance from which on pressing is rewarded, m
    weights: ClassVar[tuple[float, float]] = (2.0, 8.0)  #: of touching and pressing
    done: ClassVar[float] = 0.02  #: distance to the goal that is success, m

    def prepare(self) -> None:
        """Bind the button."""
        self._button, self._quat, self._offset = self.body("button"), self.body_quat("button"), np.array(self.offset)

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return what is touched."""
        return [(self._button + self._offset, self._quat)]

    def posture(self) -> np.ndarray:
        """Return the grade (N,) of how the gripper is held."""
        return self.opening

    def travel(self) -> np.ndarray | float:
        """Return the way (N,) in m over which pressing is graded."""
        return self.first["_obj_to_target_init"]

    def grades(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return distance to the button, distance of the button to the goal, grades of touching and of pressing, each (N,)."""
        away = length(self.object - self.tcp)
        left = np.abs(self.target[:, self.axis] - self.object[:, self.axis])
        touching = tolerance(away, 0, self.near, length(self.object - self.init_tcp))
        return away, left, touching, tolerance(left, 0, 0.005, self.travel())

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward touching the button with the gripper held right, then pressing it."""
        away, left, touching, pressed = self.grades()
        touch, press = self.weights
        reward = touch * hamacher_product(self.posture(), touching) + np.where(away <= self.rewarded, press * pressed, 0.0)
        return reward, left <= self.done


class ButtonPress(_Button):
    """A button in the side of a box."""

    suite_task = "button-press"


class ButtonPressTopdown(_Button):
    """A button in the lid of a box; the gripper is closed."""

    suite_task = "button-press-topdown"
    axis, offset, near, rewarded, weights, done = 2, (0.0, 0.0, 0.193), 0.01, 0.03, (5.0, 5.0), 0.024

    def posture(self) -> np.ndarray:
        """Return how far (N,) the gripper is closed."""
        return 1 - self.opening


class ButtonPressTopdownWall(_Button):
    """A button in the lid of a box behind a wall; the gripper is open."""

    suite_task = "button-press-topdown-wall"
    axis, offset, near, rewarded, weights, done = 2, (0.0, 0.0, 0.193), 0.01, 0.03, (5.0, 5.0), 0.024


class ButtonPressWall(_Button):
    """A button in the side of a box behind a wall: closed on the way, open at the button."""

    suite_task = "button-press-wall"
    near, done = 0.01, 0.03

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward the way with a closed gripper, then opening it and pressing."""
        away, left, touching, pressed = self.grades()
        coming = 2 * hamacher_product((1 - self.opening) / 2.0, touching)
        there = 2 + 2 * (1 + self.opening) + 4 * square(pressed)
        return np.where(away > 0.07, coming, there), left <= self.done


class CoffeeButton(_Button):
    """The button of a coffee machine."""

    suite_task = "coffee-button"
    kept = ()

    def prepare(self) -> None:
        """Bind the front of the button."""
        self._front = self.site("buttonStart")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the front of the button."""
        return [(self._front, _UNTURNED)]

    def travel(self) -> float:
        """Return the button's way."""
        return 0.03


class _HandlePress(SawyerTask):
    """A handle that is pressed down."""

    kept = ("_handle_init_pos",)

    def prepare(self) -> None:
        """Bind the handle."""
        self._handle = self.site("handleStart")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._handle, _NO_ROTATION)]

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward being at the handle while it is low."""
        radius, began = 0.02, self.first["_handle_init_pos"]
        left = length(self.object[:, 2] - self.target[:, 2])
        low = tolerance(left, 0, radius, np.abs(length(began[:, 2] - self.target[:, 2]) - radius))
        at_handle = tolerance(length(self.object - self.tcp), 0, radius, np.abs(length(began - self.init_tcp) - radius))
        success = left <= radius
        return np.where(success, 1.0, hamacher_product(at_handle, low)) * 10, success


class HandlePress(_HandlePress):
    """A handle in front of the arm."""

    suite_task = "handle-press"


class HandlePressSide(_HandlePress):
    """A handle beside the arm."""

    suite_task = "handle-press-side"


class HandlePullSide(SawyerTask):
    """A handle beside the arm that is pulled up."""

    suite_task = "handle-pull-side"

    def prepare(self) -> None:
        """Bind the handle."""
        self._handle = self.site("handleCenter")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._handle, _NO_ROTATION)]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the handle and bringing it up."""
        radius = 0.05
        left = length(self.object - self.target)
        raised = tolerance(left, 0, radius, length(self.obj_init_pos - self.target))
        held = self.caging(action, self.object, radius=0.032, pad=0.06, xz=0.01)
        lifted = self.object[:, 2] - 0.01 > self.obj_init_pos[:, 2]
        pulled = (length(self.object - self.tcp) < 0.035) & (self.opening > 0) & lifted
        reward = hamacher_product(held, raised) + np.where(pulled, 1.0 + 5.0 * raised, 0.0)
        return choose(left < radius, 10.0, reward), left <= 0.08


TASKS = (ButtonPress, ButtonPressTopdown, ButtonPressTopdownWall, ButtonPressWall, CoffeeButton, HandlePress, HandlePressSide, HandlePullSide)
