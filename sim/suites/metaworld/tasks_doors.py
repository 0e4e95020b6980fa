"""What turns or slides on a joint: doors and their locks, drawers, faucets, a dial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import Numbers, closing, funnel, gaussian, hamacher_product, length, plain, quaternions, tolerance

_NO_ROTATION = np.zeros(4)  # what the suite observes where it knows no quaternion
_SHOULDER = np.array([0.0, 0.055, 0.07])  # from the hand to its shoulder, m
_LOCK_SCALE = np.array([0.25, 1.0, 0.5])  # of the distance to a lock


class _Door(SawyerTask):
    """A door with a handle."""

    def prepare(self) -> None:
        """Bind the handle and the hinge."""
        self._handle, self._turn, self._hinge = self.geom("handle"), self.geom_matrix("handle"), self.joint("doorjoint")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._handle, quaternions(self._turn))]


class DoorOpen(_Door):
    """Pull a door open by its handle."""

    suite_task = "door-open"

    def _ready(self) -> np.ndarray:
        """Return the grade (N,) of the hand being behind the handle, and above a funnel on the way there."""
        door, mouth = self.object + np.array([-0.05, 0, 0]), 0.12
        floor = funnel(length(self.hand[:, :2] - door[:, :2]), mouth, 0.04, 0.4)
        below = tolerance(floor - self.hand[:, 2], 0.0, 0.01, floor / 2.0)
        above = np.where(self.hand[:, 2] >= floor, 1.0, below)
        behind = tolerance(length(self.hand - door - np.array([0.05, 0.03, -0.01])), 0, mouth / 2.0, 0.5)
        return hamacher_product(above, behind)

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward a hand behind the handle, then the door's angle."""
        closed = ((action[:, 3] + np.float32(1)) / np.float32(2)).astype(np.float64)
        angle = -self._hinge
        wide = tolerance(np.pi / 2.0 + np.pi / 6 - angle, 0, 0.5, np.pi / 3.0)
        opened = 0.2 * (self._hinge < -np.pi / 90.0) + 0.8 * wide
        reward = 2.0 * hamacher_product(self._ready(), closed) + 8.0 * opened
        success = np.abs(self.object[:, 0] - self.target[:, 0]) <= 0.08
        return np.where(success, 10.0, reward), success


class DoorClose(_Door):
    """Push a door shut."""

    suite_task = "door-close"
    kept = ("hand_init_pos",)

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward handle and finger tips at the goal."""
        radius = 0.05
        left = length(self.object - self.target)
        shut = tolerance(left, 0, radius, length(self.obj_init_pos - self.target), gaussian)
        margin = length(self.first["hand_init_pos"] - self.object) + 0.1
        there = tolerance(length(self.tcp - self.target), 0, 0.25 * radius, margin, gaussian)
        return np.where(left < radius, 10.0, 3 * there + 6 * shut), left <= 0.08


class DoorLock(SawyerTask):
    """Turn a lock down."""

    suite_task = "door-lock"

    def prepare(self) -> None:
        """Bind the lock."""
        self._lock, self._quat = self.site("lockStartLock"), self.body_quat("door_link")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the lock."""
        return [(self._lock, self._quat)]

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward an open gripper at the lock and the lock's way down.

        The margin is the distance itself: what the suite keeps as the first position of the pad is a view that moves with it.
        """
        away = length((self.object - self.left_pad) * _LOCK_SCALE)
        left = np.abs(self.target[:, 2] - self.object[:, 2])
        at_lock, pressed = tolerance(away, 0, 0.01, away), tolerance(left, 0, 0.005, 0.1)
        return 2 * hamacher_product(self.opening, at_lock) + 8 * pressed, left <= 0.02


class DoorUnlock(SawyerTask):
    """Turn a lock sideways."""

    suite_task = "door-unlock"

    def prepare(self) -> None:
        """Bind the lock; its first position is kept by the suite as a view of the present one."""
        self._lock, self._quat, self._link = self.site("lockStartUnlock"), self.body_quat("door_link"), self.body("lock_link")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the lock."""
        return [(self._lock, self._quat)]

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward the hand's shoulder at the lock, and more the lock's way."""
        away = length((self.hand + _SHOULDER - self.object) * _LOCK_SCALE)
        margin = length((self.init_tcp + _SHOULDER - self._link) * _LOCK_SCALE)
        left = np.abs(self.target[:, 0] - self.object[:, 0])
        return 2 * tolerance(away, 0, 0.02, margin) + 8 * tolerance(left, 0, 0.005, 0.1), left <= 0.02


class _Drawer(SawyerTask):
    """A drawer with a handle."""

    offset: ClassVar[tuple[float, float, float]]  #: of the handle from the drawer, m

    def prepare(self) -> None:
        """Bind the drawer."""
        self._drawer, self._quat, self._offset = self.body("drawer_link"), self.body_quat("drawer_link"), np.array(self.offset)


class DrawerOpen(_Drawer):
    """Pull a drawer open."""

    suite_task = "drawer-open"
    offset = (0.0, -0.16, 0.0)

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._drawer + self._offset, self._quat)]

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward the hand over the handle and the drawer's way."""
        way, scale = 0.2, np.array([3.0, 3.0, 1.0])
        left = length(self.object - self.target)
        began = self.target + np.array([0.0, way, 0.0])
        margin = length((began - self.init_tcp) * scale)
        caged = tolerance(length((self.object - self.hand) * scale), 0, 0.01, margin)
        return (caged + tolerance(left, 0, 0.02, way)) * 5.0, left <= 0.03


class DrawerClose(_Drawer):
    """Push a drawer shut with a closed gripper."""

    suite_task = "drawer-close"
    offset = (0.0, -0.16, 0.05)

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._drawer + self._offset, _NO_ROTATION)]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward a closed gripper at the handle while the drawer is shut."""
        radius, reach = 0.05, 0.005
        left = length(self.object - self.target)
        shut = tolerance(left, 0, radius, np.abs(length(self.obj_init_pos - self.target) - radius))
        margin = np.abs(length(self.obj_init_pos - self.init_tcp) - reach)
        reached = hamacher_product(tolerance(length(self.object - self.tcp), 0, reach, margin, gaussian), closing(action))
        success = left <= radius + 0.015
        return np.where(success, 10.0, plain(hamacher_product(reached, shut) * 10)), success


class _Faucet(SawyerTask):
    """A faucet that is turned by its handle."""

    start: ClassVar[str]  #: site of the handle
    touched: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.0)  #: of what is touched from what is observed, m

    def prepare(self) -> None:
        """Bind the handle."""
        self._handle, self._quat, self._touched = self.site(self.start), self.body_quat("faucetBase"), np.array(self.touched)

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the handle."""
        return [(self._handle + np.array([0.0, 0.0, -0.01]), self._quat)]

    def judge(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward finger tips at the handle and the handle at the goal."""
        radius, reach = 0.07, 0.01
        handle = self.object + self._touched
        left = length(handle - self.target)
        turned = tolerance(left, 0, radius, np.abs(length(self.obj_init_pos - self.target) - radius))
        margin = np.abs(length(self.obj_init_pos - self.init_tcp) - reach)
        reached = tolerance(length(handle - self.tcp), 0, reach, margin, gaussian)
        success = left <= radius
        return np.where(success, 10.0, (2 * reached + 3 * turned) * 2), success


class FaucetOpen(_Faucet):
    """Turn a faucet one way."""

    suite_task, start, touched = "faucet-open", "handleStartOpen", (-0.04, 0.0, 0.03)


class FaucetClose(_Faucet):
    """Turn a faucet the other way."""

    suite_task, start = "faucet-close", "handleStartClose"


class DialTurn(SawyerTask):
    """Turn a dial with a closed gripper."""

    suite_task = "dial-turn"
    kept = ("dial_push_position",)

    def prepare(self) -> None:
        """Bind the dial and allocate the mark on its rim."""
        self._dial, self._quat, self._angle = self.body("dial"), self.body_quat("dial"), self.joint("knob_Joint_1")
        self._rim = np.zeros((self.num_worlds, 3))

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the mark on the rim, 5 cm from the centre."""
        self._rim[:, 0], self._rim[:, 1] = np.sin(self._angle), -np.cos(self._angle)
        return [(self._dial + self._rim * 0.05, self._quat)]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward a closed gripper where the dial is pushed while its mark is at the goal."""
        radius, reach, began = 0.07, 0.005, self.first["dial_push_position"]
        left = length(self.object - self.target)
        turned = tolerance(left, 0, radius, np.abs(length(began - self.target) - radius))
        away = length(self.object + np.array([0.05, 0.02, 0.09]) - self.tcp)
        margin = np.abs(length(began - self.init_tcp) - reach)
        reached = hamacher_product(tolerance(away, 0, reach, margin, gaussian), closing(action))
        return 10 * hamacher_product(reached, turned), left <= radius


TASKS = (DoorOpen, DoorClose, DoorLock, DoorUnlock, DrawerOpen, DrawerClose, FaucetOpen, FaucetClose, DialTurn)
