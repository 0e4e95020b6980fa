"""ALOHA's two arms in simulation: hand a cube over, put a peg into a socket; gym-aloha's scenes and rewards, 50 Hz.

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware". Scenes, initial states, reward and what ends an
episode are the package's; its observation, which draws three pictures of 640 x 480 in every step, is replaced: state alone unless
pictures are asked for. Contacts, of which the reward is made, are read from sensors that are added to the scene, for all worlds at once.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.identity import identity, model_files, versions
from sim.oracles.aloha_expert import Hands, insertion_action, transfer_action
from sim.registry import Entry, Options
from sim.task import MujocoTask

PACKAGE = "gym_aloha"
CAMERA = "top"
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
SIDES = ("left", "right")
ARM = 8  # joints of an arm with both fingers, in the model
#: Of every arm: six joints, rad, and two fingers, m.
START = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.02239, -0.02239)
#: Position of a finger, m, at gripper 0 and gripper 1.
CLOSED, OPEN = 0.01844, 0.05800
_NAMES = tuple(f"{side}.{name}" for side in SIDES for name in (*JOINTS, "gripper"))
_POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")
_BELOW_32_BITS = 1 << 32


def entries() -> list[Entry]:
    """Return the tasks."""
    return [task.entry() for task in TASKS]


def uniform_positions(seed: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return positions (K, 3), m, of objects in boxes from ``low`` to ``high`` (K, 3): the package's own for its seeds (below 2^32)."""
    key = seed if seed < _BELOW_32_BITS else [seed % _BELOW_32_BITS, seed // _BELOW_32_BITS]
    return np.random.RandomState(key).uniform(low, high)


class AlohaTask(MujocoTask):
    """N worlds of two arms; ``info``: ``success`` (the largest reward, ends the episode), ``score`` (reward / 4).

    ``observation.state``: per arm six joint positions, rad, and the opening of the gripper, 0 to 1. ``observation.environment_state``:
    position, m, and quaternion of every object. Action: targets of the same 14 numbers.

    Attributes:
        objects: Names of the objects, in the order of the model.
        low: Lower corner of the box that each object begins in, m.
        high: Upper corner.
        touches: Name -> pair of geoms; whether they touch is judged.
        move: The expert, of one world: (hands, positions, joint targets sent before) -> (14,).
    """

    rate_hz, time_limit_s = 50.0, 6.0
    camera = CAMERA
    requires = ("mujoco", PACKAGE)
    engines = ("mujoco",)
    info_fields: ClassVar[dict[str, str]] = {"score": "float32"}
    most = 4.0  # the largest reward
    objects: ClassVar[tuple[str, ...]]
    low: ClassVar[tuple[tuple[float, float, float], ...]]
    high: ClassVar[tuple[tuple[float, float, float], ...]]
    touches: ClassVar[dict[str, tuple[str, str]]]
    move: ClassVar[Callable[[Hands, np.ndarray, np.ndarray], np.ndarray]]

    @classmethod
    def entry(cls) -> Entry:
        """Return what the registry needs."""
        return replace(super().entry(), install="`robopolicy install gym-aloha`", success=cls.success)

    @classmethod
    def xml_path(cls) -> Path:
        """Return the package's file of the scene."""
        found = importlib.util.find_spec(PACKAGE)
        assert found is not None and found.origin is not None, "the registry refuses a suite that is not installed"
        return Path(found.origin).parent / "assets" / cls.xml

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        parts = f"{versions('gym-aloha')}, {self.engine.version}, task {self.version}"
        self.suite_version = identity(parts, self.success, model_files(*self.asset_paths()))

    def make_model(self) -> Any:
        """Return the package's model with a sensor for every pair of geoms that the reward asks about."""
        import mujoco

        scene = mujoco.MjSpec.from_file(str(self.xml_path()))
        found = 1 << mujoco.mjtConDataField.mjCONDATA_FOUND.value
        for name, (one, other) in self.touches.items():
            sensor = scene.add_sensor(name=name, type=mujoco.mjtSensor.mjSENS_CONTACT, intprm=[found, 0, 1])
            sensor.objtype, sensor.objname = mujoco.mjtObj.mjOBJ_GEOM, one
            sensor.reftype, sensor.refname = mujoco.mjtObj.mjOBJ_GEOM, other
        return scene.compile()

    def prepare(self) -> None:
        """Bind contacts; settle where the numbers of an observation lie."""
        self._contacts = self.engine.bind("sensordata")
        self._at = [self.model.sensor(name).adr[0] for name in self.touches]
        self._arms = np.concatenate([np.arange(6), ARM + np.arange(6)])
        self._outputs = np.concatenate([np.arange(6), 7 + np.arange(6)])
        self._seeds = np.zeros(self.num_worlds, np.int64)
        self._hands: Hands | None = None

    def observation_fields(self) -> dict[str, Field]:
        """Return joints and grippers, and the poses of the objects."""
        poses = tuple(f"{name}.{part}" for name in self.objects for part in _POSE)
        return {
            "observation.state": Field((14,), unit="rad, 1", names=_NAMES),
            "observation.environment_state": Field((len(poses),), unit="m, 1", names=poses),
        }

    def action_fields(self) -> dict[str, Field]:
        """Return the targets of joints, rad, and grippers, 0 (closed) to 1 (open)."""
        low, high = (np.nextafter(self.model.actuator_ctrlrange[:6, k].astype(np.float32), np.float32(0)) for k in (0, 1))
        out = {}
        for side in SIDES:
            names = tuple(f"{side}.{name}" for name in JOINTS)
            out[f"{side}_arm"] = Field((6,), unit="rad", low=tuple(map(float, low)), high=tuple(map(float, high)), kind="position", names=names)
            out[f"{side}_gripper"] = Field((1,), low=(0.0,), high=(1.0,), kind="gripper", names=(f"{side}.gripper",))
        return out

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._seeds[rows] = seeds
        super()._begin(rows, seeds)

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Put the arms of worlds ``rows`` (K,) into their first pose and the objects where the package puts them for these seeds."""
        self.qpos[rows, : 2 * ARM] = START * 2
        self.ctrl[rows, : 2 * ARM] = START * 2
        low, high = np.array(self.low), np.array(self.high)
        for row in rows:
            for k, position in enumerate(uniform_positions(int(self._seeds[row]), low, high)):
                at = 2 * ARM + 7 * k
                self.qpos[row, at : at + 3], self.qpos[row, at + 3 : at + 7] = position, (1.0, 0.0, 0.0, 0.0)

    def apply(self, action: np.ndarray) -> None:
        """Send the targets (N, 14) to the joints; both fingers of a gripper move together."""
        self.ctrl[:, self._arms] = action[:, self._outputs]
        for at, gripper in ((6, action[:, 6]), (ARM + 6, action[:, 13])):
            self.ctrl[:, at] = CLOSED + (OPEN - CLOSED) * gripper.astype(np.float64)
            self.ctrl[:, at + 1] = -self.ctrl[:, at]

    def observe(self, out: Observation) -> None:
        """Write joints and grippers, and the poses of the objects."""
        state = out["observation.state"]
        state[:, self._outputs] = self.qpos[:, self._arms]
        state[:, 6], state[:, 13] = ((self.qpos[:, at] - CLOSED) / (OPEN - CLOSED) for at in (6, ARM + 6))
        if "observation.environment_state" in out:
            out["observation.environment_state"][:] = self.qpos[:, 2 * ARM :]

    def judge(self, action: np.ndarray) -> Outcome:
        """Return the package's reward, 0 to 4 by stages; the last one is success and ends the episode."""
        touching = dict(zip(self.touches, (self._contacts[:, at] > 0 for at in self._at), strict=True))
        reward = self.stages(touching)
        success = reward == self.most
        return Outcome(reward, success, {"success": success, "score": reward / self.most})

    def stages(self, touching: dict[str, np.ndarray]) -> np.ndarray:
        """Return the reward (N,) for what touches, name -> (N,) bool."""
        return np.zeros(self.num_worlds)

    def expert_action(self) -> np.ndarray:
        """Return where the expert moves both arms (N, 14) float32; zeros, clipped, where ended."""
        out = np.zeros((self.num_worlds, 14), np.float32)
        hands = self._hands_of()
        for row in np.flatnonzero(self._running):
            out[row] = type(self).move(hands, self.qpos[row], self.ctrl[row, self._arms].reshape(2, 6))
        return self.spec.action.clip(out)

    def _hands_of(self) -> Hands:
        if self._hands is None:
            self._hands = Hands(self.model)
        return self._hands


class TransferCube(AlohaTask):
    """The right arm picks a cube up and hands it to the left one.

    Reward: 1 the right gripper touches the cube, 2 off the table, 3 the left gripper touches it, 4 off the table.
    """

    task_name = "aloha/transfer-cube"
    description = "two arms: pick a cube up with the right one and hand it to the left one (gym-aloha)"
    tags = ("bimanual", "expert")
    success = "the left gripper's left finger touches the cube, the cube does not touch the table (gym-aloha's reward 4); ends the episode"
    xml = "bimanual_viperx_transfer_cube.xml"
    move = staticmethod(transfer_action)
    objects = ("cube",)
    low, high = ((0.0, 0.4, 0.05),), ((0.2, 0.6, 0.05),)
    touches: ClassVar[dict[str, tuple[str, str]]] = {
        "left": ("red_box", "vx300s_left/10_left_gripper_finger"),
        "right": ("red_box", "vx300s_right/10_right_gripper_finger"),
        "table": ("red_box", "table"),
    }

    def stages(self, touching: dict[str, np.ndarray]) -> np.ndarray:
        """See base class; (N,)."""
        left, right, lifted = touching["left"], touching["right"], ~touching["table"]
        return np.where(left, 3.0 + lifted, np.where(right, 1.0 + lifted, 0.0))


_SOCKET = tuple(f"socket-{k}" for k in (1, 2, 3, 4))


class Insertion(AlohaTask):
    """The right arm picks a peg up, the left one a socket, and the peg goes into the socket until it touches the pin inside.

    Reward: 1 both are touched, 2 both off the table, 3 peg and socket touch off the table, 4 the peg touches the pin.
    """

    task_name = "aloha/insertion"
    description = "two arms: put a peg into a socket in mid-air (gym-aloha)"
    tags = ("bimanual", "expert")
    success = "the peg touches the pin inside the socket (gym-aloha's reward 4); ends the episode"
    xml = "bimanual_viperx_insertion.xml"
    move = staticmethod(insertion_action)
    objects = ("peg", "socket")
    low, high = ((0.1, 0.4, 0.05), (-0.2, 0.4, 0.05)), ((0.2, 0.6, 0.05), (-0.1, 0.6, 0.05))
    touches: ClassVar[dict[str, tuple[str, str]]] = {
        "right": ("red_peg", "vx300s_right/10_right_gripper_finger"),
        "peg_table": ("red_peg", "table"),
        "pin": ("red_peg", "pin"),
        **{f"left_{wall}": (wall, "vx300s_left/10_left_gripper_finger") for wall in _SOCKET},
        **{f"table_{wall}": (wall, "table") for wall in _SOCKET},
        **{f"peg_{wall}": ("red_peg", wall) for wall in _SOCKET},
    }

    def stages(self, touching: dict[str, np.ndarray]) -> np.ndarray:
        """See base class; (N,)."""
        left, table, inside = (np.any([touching[f"{of}_{wall}"] for wall in _SOCKET], axis=0) for of in ("left", "table", "peg"))
        lifted = ~touching["peg_table"] & ~table
        held = left & touching["right"]
        reward = np.where(held, 1.0 + lifted, 0.0)
        reward[inside & lifted] = 3.0
        reward[touching["pin"]] = 4.0
        return reward


TASKS = (TransferCube, Insertion)
