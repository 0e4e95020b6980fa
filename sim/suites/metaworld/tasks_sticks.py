"""What is done with a stick: a thermos pulled or pushed by it, a peg put into its hole or pulled out of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.vocabulary import Numbers, caging, choose, hamacher_product, length, plain, quaternions, tolerance, within_box

_NO_ROTATION = np.zeros(4)  # what the suite observes where it knows no quaternion
_PADS = ("leftpad_geom", "rightpad_geom")


class _Stick(SawyerTask):
    """A stick, and the thermos that is moved with it."""

    kept = ("stick_init_pos",)
    offset = np.zeros(3)  #: of what is observed from the place behind the thermos' handle, m

    def prepare(self) -> None:
        """Bind the stick and the thermos."""
        self._stick, self._turn = self.body("stick"), self.body_matrix("stick")
        self._inside, self._end = self.site("insertion"), self.site("stick_end")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return stick and thermos."""
        return [(self._stick, quaternions(self._turn)), (self._inside + self.offset, _NO_ROTATION)]


class StickPull(_Stick):
    """Put a stick behind the handle of a thermos and pull."""

    suite_task = "stick-pull"

    def _inserted(self) -> np.ndarray:
        """Return where (N,) the end of the stick is behind the handle."""
        ahead, beside, above = (self._end - self.object2).T
        return (ahead >= 0) & (np.abs(beside) <= 0.040) & (np.abs(above) <= 0.060)

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the stick and bringing it to the thermos, then both to the goal."""
        stick, handle, began = self.object, self.object2, self.first["stick_init_pos"]
        radius, offset, scale = 0.05, np.array([0.05, 0.0, 0.0]), np.array([1.0, 1.0, 2.0])
        thermos = handle + offset
        margin = length((began - (self.obj_init_pos + offset)) * scale)
        reached = tolerance(length((stick - thermos) * scale), 0, radius, margin)
        stick_placed = tolerance(length(stick - self.target), 0, radius, length(began - self.target))
        placed = tolerance(length(thermos - self.target), 0, radius, length(self.obj_init_pos - self.target))
        held = self.caging(action, stick, radius=0.014, pad=0.05, xz=0.01)
        carried = (length(stick - self.tcp) < 0.02) & (self.opening > 0) & (stick[:, 2] - 0.01 > began[:, 2])
        reward = hamacher_product(choose(carried, 1.0, held), reached)
        left, inserted = length(handle - self.target), self._inserted()
        pulled = choose(left <= 0.12, 10.0, 1.0 + reward + 5.0 + 2.0 * stick_placed + 1.0 * placed)
        return choose(carried, choose(inserted, pulled, 1.0 + reward + 5.0 * reached), reward), (left <= 0.12) & inserted


class StickPush(_Stick):
    """Push a thermos with a stick."""

    suite_task = "stick-push"
    offset = np.array([0.0, 0.09, 0.0])

    def _touched(self, row: int) -> bool:
        """Return whether both pads press on the stick in world ``row``: forces of contacts are in no array over worlds."""
        model, data = self.engine.scene(row)
        contacts, stick = data.contact, model.geom("objGeom").id
        with_stick = (contacts.geom == stick).any(axis=1)
        for pad in _PADS:
            between = with_stick & (contacts.geom == model.geom(pad).id).any(axis=1)
            if not data.efc_force[contacts.efc_address[between]].sum() > 0:
                return False
        return True

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the stick, then stick and thermos at the goal."""
        stick, thermos, radius = self.object + np.array([0.015, 0.0, 0.0]), self.object2, 0.12
        began = self.first["stick_init_pos"]
        stick_placed = tolerance(length(stick - self.target), 0, radius, length(began - self.target) - radius)
        left = length(thermos - self.target)
        placed = tolerance(left, 0, radius, length(self.obj_init_pos - self.target) - radius)
        held = caging(self.gripper, action, stick, began, radius=0.04, pad=0.05, xz=0.01)
        lifted = (self.opening > 0) & (stick[:, 2] - 0.01 > began[:, 2])
        pushed = choose(left <= radius, 10.0, 2.0 + 5.0 * stick_placed + 3.0 * placed)
        success = lifted & (left <= radius)
        for row in np.flatnonzero(success):
            success[row] = self._touched(int(row))
        return choose(lifted & (length(stick - self.tcp) < 0.02), pushed, held), success


class PegInsertSide(SawyerTask):
    """Put a peg into a hole in the side of a box."""

    suite_task = "peg-insert-side"
    kept = ("peg_head_pos_init",)

    def prepare(self) -> None:
        """Bind peg and box."""
        self._grip, self._head = self.site("pegGrasp"), self.site("pegHead")
        self._turn = self.engine.bind("site_xmat")[:, self.engine.model.site("pegGrasp").id]
        corners = ("bottom_right_corner", "top_left_corner")
        self._edges = [tuple(self.site(f"{corner}_collision_box_{i}") for corner in corners) for i in (1, 2)]

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return where the peg is held."""
        return [(self._grip, quaternions(self._turn))]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the peg and bringing its head to the hole, clear of the box, and more once it is lifted."""
        radius, scale = 0.07, np.array([1.0, 2.0, 2.0])
        left = length((self._head - self.target) * scale)
        placed = tolerance(left, 0, radius, length((self.first["peg_head_pos_init"] - self.target) * scale))
        lower, upper = (within_box(self._head, *edges) for edges in self._edges)
        placed = plain(hamacher_product(placed, hamacher_product(upper, lower)))
        held = self.caging(action, self.object, radius=0.0075, pad=0.03, xz=0.005)
        lifted = self.object[:, 2] - 0.01 > self.obj_init_pos[:, 2]
        carried = (length(self.object - self.tcp) < 0.08) & (self.opening > 0) & lifted
        # a grade from inside a box is of NumPy's own type, with which the suite goes on in float64
        inside = (lower != 1.0) | (upper != 1.0)
        held = choose(carried, 1.0, choose(inside, plain(held), held))
        reward = hamacher_product(held, placed) + np.where(carried, 1.0 + 5 * placed, 0.0)
        return choose(left <= radius, 10.0, reward), left <= radius


class PegUnplugSide(SawyerTask):
    """Pull a peg out of the side of a box."""

    suite_task = "peg-unplug-side"

    def prepare(self) -> None:
        """Bind the end of the peg."""
        self._end, self._quat = self.site("pegEnd"), self.body_quat("plug1")

    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the end of the peg."""
        return [(self._end, self._quat)]

    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Reward holding the peg, and bringing it to the goal once it has moved out."""
        radius = 0.05
        left = length(self.object - self.target)
        placed = tolerance(left, 0, radius, length(self.obj_init_pos - self.target))
        held = self.caging(action, self.object, radius=0.025, pad=0.05, xz=0.005, effort=0.8)
        moved = (self.opening > 0.5) & (self.object[:, 0] - self.obj_init_pos[:, 0] > 0.015)
        carried = moved & (length(self.object - self.tcp) < 0.035)
        reward = choose(carried, 1 + 2 * held + 5 * placed, 2 * held)
        return choose(left <= radius, 10.0, reward), left <= 0.07


TASKS = (StickPull, StickPush, PegInsertSide, PegUnplugSide)
