"""The barriers that a robot declares, for whoever must keep them: the runtime's filter and the drive's check."""

from __future__ import annotations

from policies.kinematics import Kinematics
from policies.spec import InputError
from real.robot import RobotInfo
from real.safety.barriers import Barriers


def robot_barriers(info: RobotInfo) -> Barriers | None:
    """Return the barriers of a robot of joints; None: it declares none.

    Raises:
        InputError: if they need a model and there is none, or are not well formed.
    """
    if not info.barriers or info.motion is None:
        return None
    if not info.model:
        raise InputError(f"robot {info.name!r} declares barriers and no model: nobody knows where its parts are")
    return Barriers(info.barriers, Kinematics(info.model, list(info.motion.names)))
