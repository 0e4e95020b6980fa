"""Things that are moved along rails or about a hinge: a plate on the table, a window, a handle, a lever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import Numbers, choose, gaussian, hamacher_product, length, long_tail, plain, quaternions, tolerance

_NO_ROTATION = np.zeros(4)  # what the suite observes where it knows no quaternion
_RADIUS = 0.05  # m from the goal that counts as there


class _Plate(SawyerTask):
    """A plate that slides over the table."""

    def prepare(self) -> None:
        """Bind the plate."""
        self._plate, self._turn = self.geom("puck"), self.geom_matrix("puck")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the plate."""
        return [(self._plate, quaternions(self._turn))]

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward finger tips at the plate, then the plate at the goal."""
        left, away = length(self.object - self.target), length(self.tcp - self.object)
        placed = tolerance(left, 0, _RADIUS, length(self.obj_init_pos - self.target) - _RADIUS)
        reached = tolerance(away, 0, _RADIUS, length(self.init_tcp - self.obj_init_pos) - _RADIUS)
        on_plate = (self.tcp[:, 2] <= 0.03) & (away < 0.07)
        reward = np.where(on_plate, 2.0 + 7.0 * placed, 1.5 * reached)
        return np.where(left < _RADIUS, 10.0, reward), left <= 0.07


class PlateSlide(_Plate):
    """Slide a plate into its cabinet."""

    suite_task = "plate-slide"

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward finger tips at the plate while it is at the goal."""
        left = length(self.object - self.target)
        placed = tolerance(left, 0, _RADIUS, length(self.obj_init_pos - self.target))
        reached = tolerance(length(self.tcp - self.object), 0, _RADIUS, length(self.init_tcp - self.obj_init_pos))
        return np.where(left < _RADIUS, 10.0, 8 * plain(hamacher_product(reached, placed))), left <= 0.07


class PlateSlideBack(_Plate):
    """Slide a plate out of its cabinet."""

    suite_task = "plate-slide-back"


class PlateSlideBackSide(_Plate):
    """Slide a plate sideways out of its cabinet."""

    suite_task = "plate-slide-back-side"


class PlateSlideSide(_Plate):
    """Slide a plate sideways into its cabinet."""

    suite_task = "plate-slide-side"


class _Window(SawyerTask):
    """A window that slides, with a handle."""

    kept = ("window_handle_pos_init",)
    handle: ClassVar[str]  #: site of the handle
    tail: ClassVar[Callable[[np.ndarray], np.ndarray]]  #: of the grade of reaching the handle

    def prepare(self) -> None:
        """Bind the handle."""
        self._handle = self.site(self.handle)

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._handle, _NO_ROTATION)]

    def began(self) -> np.ndarray:
        """Return where (N, 3) the window's way to the goal began, m."""
        return self.obj_init_pos

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward finger tips at the handle while the window is at the goal."""
        near, tail = 0.02, type(self).tail
        left, way = (np.abs(x[:, 0] - self.target[:, 0]) for x in (self.object, self.began()))
        slid = tolerance(left, 0, _RADIUS, np.abs(way - _RADIUS))
        margin = np.abs(length(self.first["window_handle_pos_init"] - self.init_tcp) - near)
        reached = tolerance(length(self.object - self.tcp), 0, near, margin, tail)
        return 10 * hamacher_product(reached, slid), left <= _RADIUS


class WindowOpen(_Window):
    """Slide a window open."""

    suite_task, handle, tail = "window-open", "handleOpenStart", long_tail


class WindowClose(_Window):
    """Slide a window shut."""

    suite_task, handle, tail = "window-close", "handleCloseStart", gaussian

    def began(self) -> np.ndarray:
        """Return where the handle (N, 3) was."""
        return self.first["window_handle_pos_init"]


class HandlePull(SawyerTask):
    """Pull a handle up."""

    suite_task = "handle-pull"

    def prepare(self) -> None:
        """Bind the handle."""
        self._handle = self.site("handleRight")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._handle, _NO_ROTATION)]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the handle while it is up; the suite compares its y with the z where it began."""
        left = np.abs(self.target[:, 2] - self.object[:, 2])
        up = tolerance(left, 0, _RADIUS, np.abs(self.target[:, 2] - self.obj_init_pos[:, 2]))
        held = self.caging(action, self.object, radius=0.022, pad=0.05, xz=0.01)
        at_handle = (length(self.object - self.tcp) < 0.035) & (self.opening > 0)
        pulled = at_handle & (self.object[:, 1] - 0.01 > self.obj_init_pos[:, 2])
        reward = hamacher_product(held, up)
        reward = choose(pulled, reward + (1.0 + 5.0 * up), reward)
        return choose(left < _RADIUS, 10.0, reward), left <= _RADIUS


class LeverPull(SawyerTask):
    """Pull a lever up about its hinge."""

    suite_task = "lever-pull"
    kept = ("_lever_pos_init",)

    def prepare(self) -> None:
        """Bind the lever and its hinge."""
        self._lever, self._turn, self._hinge = self.site("leverStart"), self.geom_matrix("objGeom"), self.joint("LeverAxis")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the end of the lever."""
        return [(self._lever, quaternions(self._turn))]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward the hand's shoulder under the lever while the lever is at the goal."""
        shoulder, scale, began = np.array([0.0, 0.055, 0.07]), np.array([4.0, 1.0, 4.0]), self.first["_lever_pos_init"]
        away = length((self.hand + shoulder - self.object) * scale)
        ready = tolerance(away, 0, 0.02, length((self.init_tcp + shoulder - began) * scale))
        up = tolerance(length(self.object - self.target), 0, 0.04, length(began - self.target))
        return 10.0 * hamacher_product(ready, up), np.abs(-self._hinge - np.pi / 2.0) <= np.pi / 24


TASKS = (PlateSlide, PlateSlideBack, PlateSlideBackSide, PlateSlideSide, WindowOpen, WindowClose, HandlePull, LeverPull)
