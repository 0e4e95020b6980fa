"""An expert for the Shadow hand's finger tips: what the actuators ask for is moved until the tips are where they shall be.

Damped least squares over all five tips at once (Nakamura and Hanafusa 1986). It corrects what is asked of the actuators, which are weak
and give way under the hand's own weight, instead of where joints shall be: an error that stays keeps being corrected. It reaches four
of five goals; in the failures that were looked at, ring finger and thumb shall meet and stand at the ends of their joints, 1 to 2 mm too far.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

from typing import Any

import numpy as np

DAMPING = 3e-3  # m^2: tips within some centimetres of their goals move joints by little where two fingers are in each other's way
_TIPS = ("robot0:S_fftip", "robot0:S_mftip", "robot0:S_rftip", "robot0:S_lftip", "robot0:S_thtip")


class HandReachExpert:
    """Actions for one world of the suite's.

    Args:
        env: The suite's environment.
    """

    def __init__(self, env: Any) -> None:
        self._env, model = env, env.model
        self._tips = [model.site(name).id for name in _TIPS]
        joints = [model.joint(model.actuator(i).name.replace(":A_", ":")) for i in range(model.nu)]
        self._places = [joint.qposadr[0] for joint in joints]
        self._moves = np.zeros((model.nv, model.nu))  # rad of a joint by rad of an actuator
        for i, joint in enumerate(joints):
            self._moves[joint.dofadr[0], i] = 1.0
            if joint.name.endswith(("FFJ1", "MFJ1", "RFJ1", "LFJ1")):  # a finger's last joint bends with the one before it
                self._moves[model.joint(joint.name[:-1] + "0").dofadr[0], i] = 1.0
        self._low, self._high = model.actuator_ctrlrange.T

    def action(self) -> np.ndarray:
        """Return the action (20,) in [-1, 1] at the world's present state."""
        import mujoco

        model, data = self._env.model, self._env.data
        turn = np.zeros((3 * len(self._tips), model.nv))
        for i, tip in enumerate(self._tips):
            mujoco.mj_jacSite(model, data, turn[3 * i : 3 * i + 3], None, tip)
        way = self._env.goal - data.site_xpos[self._tips].ravel()
        turn = turn @ self._moves
        change = turn.T @ np.linalg.solve(turn @ turn.T + DAMPING * np.eye(len(way)), way)
        asked = data.ctrl if data.ctrl.any() else data.qpos[self._places]  # before the first action nothing has been asked for
        return 2.0 * (asked + change - self._low) / (self._high - self._low) - 1.0
