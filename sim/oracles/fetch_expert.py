"""Experts for the Fetch arm: proportional steps of the gripper towards a point that the present state alone decides.

Each takes the suite's observation as one vector (``sim.suites.robotics.layout.flat``): gripper, object and their velocities, the
achieved and the desired goal; and returns the action (4,), the gripper's step in units of 5 cm and how it closes.
"""

from __future__ import annotations

import numpy as np

GAIN = 12.0  # 1/m: an error of 8 cm or more asks for a whole step
OPEN, CLOSED = 1.0, -1.0

# Push: the gripper is closed, the block a cube of 5 cm.
BEHIND, PUSH_HEIGHT, OVER = 0.075, 0.425, 0.5  # m: behind the block's middle; heights of pushing and of passing over it
ASIDE, LOW = 0.025, 0.445  # m: off the line to the goal that is still behind the block; height below which the gripper is down
TOUCHING, PUSH_GAIN, PUSH_LEAD = 0.045, 0.6, 0.05  # m between middles in contact; the gripper's lead by the block's way, and its most
ARRIVED = 0.012  # m from the goal: pushed far enough

# Pick and place.
HOVER, ABOVE = 0.08, 0.015  # m over the block to come down from; m aside within which the gripper comes down
GRIPPED = 0.0265  # m: opening of a finger on the block, which is 5 cm wide


def _step(way: np.ndarray, fingers: float) -> np.ndarray:
    return np.append(np.clip(GAIN * way, -1.0, 1.0), fingers)


def reach(seen: np.ndarray) -> np.ndarray:
    """Return the action (4,) that brings the gripper to the goal; ``seen`` (16,)."""
    return _step(seen[13:16] - seen[:3], 0.0)


def push(seen: np.ndarray) -> np.ndarray:
    """Return the action (4,) that pushes the block straight to its goal; ``seen`` (31,).

    Over the block to the place behind it, down, and along the line; once the block has slipped aside, again.
    """
    gripper, block, goal = seen[:3], seen[3:6], seen[28:31]
    way = goal[:2] - block[:2]
    distance = float(np.linalg.norm(way))
    if distance < ARRIVED:
        return np.zeros(4)
    ahead = way / distance
    offset = gripper[:2] - block[:2]
    along = float(offset @ ahead)
    aside = float(np.linalg.norm(offset - along * ahead))
    behind = block[:2] - BEHIND * ahead
    if along < 0.0 and aside < ASIDE and gripper[2] < LOW:  # behind and down: push, and steer back to the line
        further = min(PUSH_GAIN * distance, PUSH_LEAD)
        target = block[:2] + (further - TOUCHING) * ahead - (offset - along * ahead)
        return _step(np.append(target - gripper[:2], PUSH_HEIGHT - gripper[2]), CLOSED)
    if float(np.linalg.norm(gripper[:2] - behind)) < ASIDE:  # over the place behind it: down
        return _step(np.append(behind - gripper[:2], PUSH_HEIGHT - gripper[2]), CLOSED)
    over = OVER if float(np.linalg.norm(offset)) < BEHIND + 0.06 or gripper[2] < OVER else PUSH_HEIGHT
    rising = gripper[2] < OVER - 0.03 and float(np.linalg.norm(offset)) < BEHIND + 0.03
    across = np.zeros(2) if rising else behind - gripper[:2]
    return _step(np.append(across, over - gripper[2]), CLOSED)


def pick_and_place(seen: np.ndarray) -> np.ndarray:
    """Return the action (4,) that takes the block and brings it to its goal; ``seen`` (31,)."""
    gripper, block, goal = seen[:3], seen[3:6], seen[28:31]
    opening = float(seen[9] + seen[10]) / 2.0
    way = block - gripper
    aside, height = float(np.linalg.norm(way[:2])), float(abs(way[2]))
    if aside < ABOVE and height < 0.015:  # around it
        if opening > GRIPPED:
            return _step(way, CLOSED)
        return _step(goal - block, CLOSED)
    if aside < ABOVE:  # over it
        return _step(way, OPEN)
    return _step(np.append(way[:2], block[2] + HOVER - gripper[2]), OPEN)
