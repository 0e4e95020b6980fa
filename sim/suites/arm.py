"""A seven-joint arm under joint position commands: what its tasks share, and which there are.

A policy acts at 20 Hz; its targets become a smooth reference at 100 Hz (``policies.control.JointInterpolator``, the same
code as on a robot), which the joints' position servos follow. The arm is ``arm.xml`` beside this file; tasks add a table, what
stands on it, and another tool where they need one. Reach, push and tour are in ``arm_tasks.py``, the peg and its hole in
``arm_insert.py``, the gripper and the cube in ``arm_pick.py``.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import abc
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from policies.control import JointInterpolator, MotionLimits, MotionState
from policies.kinematics import Kinematics
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim import render
from sim.draws import Draws
from sim.engine import follow
from sim.env import Observation, StepResult
from sim.episodes import Outcome
from sim.registry import Entry, Options
from sim.task import MujocoTask

VERSION = 1  # raised when the arm, the scenes or a number of the tasks changes
RATE_HZ = 20.0  # of actions
SUBSTEPS = 5  # joint commands per action: 100 Hz
CAMERA = "front"

JOINTS = tuple(f"joint{i}" for i in range(1, 8))
N = len(JOINTS)
HOME = (0.0, 0.0, 0.0, -2.0, 0.0, np.pi - 2.0, 0.0)  # rad, the tool points down, 0.55 m in front and 0.36 m up
HOME_SPREAD = 0.2  # rad, uniform, of every joint at the beginning of an episode
TABLE = 2  # contype of the table, that only the arm and what collides with this bit meet

_MODULES = ("arm_tasks", "arm_insert", "arm_pick")


def entries() -> list[Entry]:
    """Return the arm's tasks."""
    return [task.entry() for module in _MODULES for task in importlib.import_module(f"sim.suites.{module}").TASKS]


@functools.cache
def robot_model() -> str:
    """Return the MJCF text of the arm alone."""
    return Path(__file__).with_name("arm.xml").read_text(encoding="utf-8")


@functools.cache
def joint_range() -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest joint positions (7,), rad."""
    render.configure()
    kinematics = Kinematics(robot_model())
    return kinematics.low, kinematics.high


def motion_limits() -> MotionLimits:
    """Return what the arm's joints may do, in rad, s."""
    low, high = joint_range()
    per_joint: dict[str, Any] = {
        "velocity": 2.0,
        "acceleration": 8.0,
        "jerk": 150.0,
        "stop_acceleration": 12.0,
        "stop_jerk": 400.0,
        "tracking": 0.15,
    }
    return MotionLimits(JOINTS, low, high, **per_joint)


def barriers() -> dict[str, Any]:
    """Return the workspace that the arm keeps to: above the table, clear of itself; see ``real.safety.barriers``."""
    return {"planes": [{"point": [0.0, 0.0, 0.0], "normal": [0.0, 0.0, 1.0]}], "self_collision": True, "margin_m": 0.01}


class ArmBatch(MujocoTask):
    """N arms at a table; a task says what else is there, what it observes, when it has succeeded and how it is done.

    Attributes:
        control_substeps: Joint commands per action.
        motion: Limits of the joints.
        robot_model: MJCF of the arm alone.
        barriers: Workspace, see :func:`barriers`.
        home: (7,) joint positions, rad.
    """

    tags = ("joints", "expert")
    xml = "arm.xml"
    rate_hz = RATE_HZ
    version = VERSION
    camera = CAMERA
    rewards = ("dense", "sparse")
    goals_shown = 1  # markers of goal positions in the scene

    # What a task fills in ----------------------------------------------------------------------------------------

    @classmethod
    @abc.abstractmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the observation fields beside the arm's own; ``state``: those that a camera could show are wanted too."""

    @abc.abstractmethod
    def place(self, rows: np.ndarray, draws: Draws) -> None:
        """Draw what the task places in worlds ``rows`` (K,), whose arms stand already."""

    @abc.abstractmethod
    def observe_task(self, out: Observation) -> None:
        """Write the task's fields for all N worlds."""

    @classmethod
    def robot(cls) -> str:
        """Return the MJCF text of the arm with the tool of this task."""
        return robot_model()

    def furnish(self, scene: Any) -> None:
        """Add to the ``mujoco.MjSpec`` of the scene; nothing by default."""

    # The worlds --------------------------------------------------------------------------------------------------

    def make_model(self) -> Any:
        """Return the ``mujoco.MjModel`` of the arm, its table, goal markers, lights, a camera and the task's own things."""
        import mujoco

        mj: Any = mujoco
        scene = mj.MjSpec.from_string(self.robot())
        world = scene.worldbody
        world.add_light(pos=[0.5, -0.8, 2.0], dir=[0.0, 0.4, -1.0], type=mj.mjtLightType.mjLIGHT_DIRECTIONAL)
        world.add_geom(name="table", type=mj.mjtGeom.mjGEOM_BOX, pos=[0.4, 0, -0.02], size=[0.55, 0.6, 0.02], rgba=[0.76, 0.7, 0.6, 1], contype=TABLE)
        world.add_camera(name=CAMERA, pos=[1.75, 0.0, 1.0], xyaxes=[0, 1, 0, -0.459, 0, 0.888], fovy=42)
        for k in range(self.goals_shown):
            marker = world.add_body(name=f"goal{k}", mocap=True)
            shade = 0.6 + 0.4 * k / max(self.goals_shown - 1, 1)
            marker.add_geom(type=mj.mjtGeom.mjGEOM_SPHERE, size=[0.02, 0, 0], rgba=[0.1, shade, 0.3, 1], contype=0, conaffinity=0)
        self.furnish(scene)
        return scene.compile()

    def prepare(self) -> None:
        """Bind what all tasks read, and let every reference rest at zero."""
        self.control_substeps, self.motion, self.robot_model = SUBSTEPS, motion_limits(), self.robot()
        self.barriers, self.home = barriers(), HOME
        self._sites, self._hand_id = self.engine.bind("site_xpos"), self.model.site("hand").id
        self._mocap = self.engine.bind("mocap_pos")  # (N, movable bodies, 3)
        self._ticks_a_command = self.ticks // SUBSTEPS
        self._controls = np.zeros((self.num_worlds, SUBSTEPS, self.model.nu))  # of one action
        self._interpolator = JointInterpolator(self.motion, RATE_HZ * SUBSTEPS, SUBSTEPS)
        self._motion_state = MotionState(*np.zeros((4, self.num_worlds, N)))  # of what the servos follow, one row a world
        self._driven = np.zeros(self.num_worlds, np.int64)  # ticks of the drive in this episode
        self._due = np.zeros(self.num_worlds, bool)  # worlds whose control step is complete when they are judged

    def _make_spec(self, options: Options) -> Spec:
        fields = {**_arm_field(), **self.task_fields(options.state)}
        if self._image_size:
            fields[f"observation.images.{CAMERA}"] = Field((self._image_size, self._image_size, 3), "uint8", kind="image")
        return Spec(ObservationSpec(fields, RATE_HZ), ActionSpec(self.action_fields(), RATE_HZ))

    def observation_fields(self) -> dict[str, Field]:
        """Return the arm's state, see :func:`_arm_field`, and the task's fields."""
        return {**_arm_field(), **self.task_fields(state=True)}

    def action_fields(self) -> dict[str, Field]:
        """Return the joint position targets."""
        return {"joint_position": _target_field()}

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Let the arms of worlds ``rows`` (K,) stand near home, and place what the task needs."""
        self.qpos[rows, :N] = draws.uniform(-HOME_SPREAD, HOME_SPREAD, (N,)) + HOME
        self.place(rows, draws)
        self._rest(rows)

    def resume(self, rows: np.ndarray) -> None:
        """Let the references of worlds ``rows`` (K,) rest where their arms were put."""
        self._rest(rows)

    def _rest(self, rows: np.ndarray) -> None:
        """Let the references of worlds ``rows`` (K,) rest where their arms stand."""
        self.ctrl[rows, :N] = self.qpos[rows, :N]
        self._keep(rows, self._interpolator.start(self.qpos[rows, :N]))
        self._driven[rows] = 0

    def play(self, rows: np.ndarray | None, action: np.ndarray) -> None:
        """Make commands of ``action`` (N, Da) and have the servos of worlds ``rows`` (K,) (None: all) follow them."""
        if rows is None:
            state, targets = self._motion_state, action[:, :N].astype(np.float64)
        else:
            state, targets = MotionState(*(part[rows] for part in self._motion_state)), action[rows, :N].astype(np.float64)
        controls = self._controls[: len(targets)]  # of other actuators: what a task has written
        state = self._interpolator.steps(state, targets, controls[:, :, :N])
        follow(self.engine, controls, self._ticks_a_command, rows)
        self._keep(rows, state)
        self._driven[slice(None) if rows is None else rows] += SUBSTEPS
        self._due[:] = self._running

    def _keep(self, rows: np.ndarray | None, state: MotionState) -> None:
        """Store ``state`` of K streams as that of worlds ``rows`` (K,) (None: all)."""
        for mine, new in zip(self._motion_state, state, strict=True):
            mine[slice(None) if rows is None else rows] = new

    def worth(self, success: np.ndarray, shaped: np.ndarray) -> Outcome:
        """Return the outcome of worlds with ``success`` (N,) bool; ``shaped`` (N,) is the dense reward. Nothing here ends an episode."""
        reward = shaped if self.reward_kind == "dense" else success.astype(np.float64)
        return Outcome(reward, np.zeros(self.num_worlds, bool), {"success": success})

    @property
    def hand(self) -> np.ndarray:
        """(N, 3) position of the tool's tip, m."""
        return self._sites[:, self._hand_id]

    def observe(self, out: Observation) -> None:
        """Write joint positions, velocities and the tip, and the task's fields."""
        state = out["observation.state"]
        state[:, :N], state[:, N : 2 * N], state[:, 2 * N : 2 * N + 3] = self.qpos[:, :N], self.qvel[:, :N], self.hand
        self.observe_task(out)


class DrivenArm(ArmBatch):
    """An arm all of whose actions are joint positions: a twin can step it at the drive's rate; see :class:`sim.env.JointDriven`."""

    def control_step(self, command: np.ndarray) -> StepResult:
        """Apply joint positions ``command`` (N, 7), rad, for one tick of the drive; see :class:`sim.env.JointDriven`.

        Raises:
            RuntimeError: if no world was ever reset.
            ValueError: if the shape does not fit, or the command of a world that has not ended is not finite.
            InputError: if actions or readings are randomized, which are late by steps of the task and not by ticks.
        """
        if self.randomizer is not None and self.randomizer.channels:
            what = f"randomize.{self.randomizer.channels[0]} acts once a control step, this world is stepped tick by tick"
            raise InputError(f"task {self.task!r}: {what}; randomize its model alone")
        self._checked(command)
        rows = np.flatnonzero(self._running)
        command = np.clip(np.asarray(command, np.float64), self.motion.low, self.motion.high)
        due = rows
        if rows.size:
            self.ctrl[rows, :N] = command[rows]
            self.engine.step(rows, self._ticks_a_command)
            self._keep(rows, self._interpolator.start(command[rows]))
            self._driven[rows] += 1
            due = rows[self._driven[rows] % SUBSTEPS == 0]
            self._observed(rows)
        if not due.size:
            return self._settled(due, None)
        self._due[:] = False
        self._due[due] = True
        found = self.judge(command.astype(np.float32))
        return self._settled(due, Outcome(found.reward[due], found.terminated[due], {n: v[due] for n, v in found.info.items()}))


def _arm_field() -> dict[str, Field]:
    """Return the field of joint positions, rad, joint velocities, rad/s, and the tip of the tool, m, (17,)."""
    names = (*JOINTS, *(f"{name}.velocity" for name in JOINTS), "hand.x", "hand.y", "hand.z")
    return {"observation.state": Field((len(names),), unit="rad, rad/s, m", names=names)}


def _target_field() -> Field:
    """Return the field of joint position targets, (7,) rad."""
    low, high = joint_range()
    # float32 limits inside the float64 range, so that a clipped action never leaves it
    inside = np.nextafter(low.astype(np.float32), np.float32(np.inf)), np.nextafter(high.astype(np.float32), np.float32(-np.inf))
    return Field((N,), unit="rad", low=tuple(inside[0]), high=tuple(inside[1]), kind="position", names=JOINTS)
