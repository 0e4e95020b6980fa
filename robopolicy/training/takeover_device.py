"""Taking over from a policy that learns by trial with a device: keyboard, gamepad, spacemouse, page or leader arm (``real.teleop``).

While the clutch is closed the person acts; a moment after it was opened the policy goes on, as HIL-SERL has it (Luo et al. 2024). One
person looks after one world, whose time has to be real: a robot, or a twin that is not in lock-step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from policies.motion import Reference, joint_columns
from policies.spec import InputError
from real.robot import Observation, RobotInfo
from real.teleop import device_class
from real.teleop.jog import JogConfig, make_jog
from real.teleop.source import Source
from real.teleop.takeover import Takeover as Person
from robopolicy.config import validate
from robopolicy.training.off_policy_config import TakeoverConfig
from sim.env import BatchEnv, JointDriven


class DeviceIntervention:
    """Somebody with a device; see :class:`robopolicy.training.takeover.Intervention`.

    Args:
        worlds: One world, simulated or a robot.
        source: The device; closed with this.
        jog: How it moves the robot.
        told: What else the person asks for (``hold``, ``stop``, ``resume``) with a number; None: nobody cares.
        clock: Monotonic seconds.

    Raises:
        InputError: if there are several worlds, or the device cannot move the robot.
    """

    def __init__(
        self, worlds: BatchEnv, source: Source, jog: JogConfig, told: Callable[[str, float], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if worlds.num_worlds != 1:
            raise InputError(f"training.takeover.source=device: a person looks after one world, expected training.worlds=1, found {worlds.num_worlds}")
        self.worlds, self.source, self.told = worlds, source, told
        self.info = robot_info(worlds)
        source.attach(worlds.spec, self.info)
        self.person = Person(source, make_jog(worlds.spec, self.info, jog), policy=False, clock=clock)
        self._closed = False

    def poll(self, obs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`robopolicy.training.takeover.Intervention`; returns (1,) and (1, Da)."""
        self.listen()
        mask, action = np.zeros(1, bool), np.zeros((1, self.worlds.spec.action.dim), np.float32)
        by_hand = self.person.act(self._reading(obs), None)
        if by_hand is not None and by_hand.size:
            mask[0], action[0] = True, by_hand
        return mask, action

    def listen(self) -> None:
        """Take in what the person does, and pass on what is no motion. Never waits."""
        for event in self.person.poll():
            if event in ("hold", "stop"):
                self.person.jog.rest()  # what went on by itself does not go on when the hold is over
            if event in ("hold", "stop", "resume") and self.told is not None:
                self.told(event, 0.0)

    def ended(self, worlds: np.ndarray) -> None:
        """See :class:`robopolicy.training.takeover.Intervention`; ``worlds`` is (1,)."""
        if worlds[0]:
            self.person.release()

    def close(self) -> None:
        """See :class:`robopolicy.training.takeover.Intervention`."""
        if not self._closed:
            self._closed = True
            self.source.close()

    def _reading(self, obs: Mapping[str, np.ndarray]) -> Observation:
        """Return what the jog looks at: where the robot has been sent, or where it stands."""
        real = getattr(self.worlds, "reading", None)
        if isinstance(real, Observation):
            return real
        fields = {name: np.asarray(array)[0] for name, array in obs.items()}
        reference = None
        if self.info.motion is not None:
            name, columns = joint_columns(self.worlds.spec.observation, self.info.motion.names)
            reference = Reference.at_rest(fields[name].astype(np.float64)[columns])
        return Observation(fields, {}, reference=reference)


def robot_info(worlds: BatchEnv) -> RobotInfo:
    """Return what is declared of the robot in ``worlds``: a robot's own, or a simulated one's limits and model."""
    robot = getattr(worlds, "robot", None)
    info: Any = getattr(robot, "info", None)
    if isinstance(info, RobotInfo):
        return info
    rate_hz = worlds.spec.action.rate_hz
    if not isinstance(worlds, JointDriven):
        return RobotInfo(worlds.task, rate_hz, "holds", 1.0)
    substeps = worlds.control_substeps
    return RobotInfo(worlds.task, rate_hz * substeps, "holds", 1.0, substeps=substeps, motion=worlds.motion, model=worlds.robot_model, home=tuple(worlds.home))


def open_device(config: TakeoverConfig, worlds: BatchEnv, told: Callable[[str, float], None] | None = None) -> DeviceIntervention:
    """Return the person with the device of ``training.takeover.device``.

    Raises:
        InputError: if none is named, it is not there, or it cannot move the robot.
    """
    named = dict(config.device)
    kind = named.pop("type", None)
    if not isinstance(kind, str):
        raise InputError("training.takeover.source=device: expected a device, e.g. training.takeover.device.type=spacemouse")
    jog = validate(JogConfig, config.jog, "training.takeover.jog", "training.takeover.jog.")
    device: Any = device_class(kind)
    source: Source = device(validate(device.Config, named, f"device {kind!r}", "training.takeover.device."))
    try:
        return DeviceIntervention(worlds, source, jog, told)
    except BaseException:
        source.close()
        raise
