"""A seven-joint arm under joint position commands: reach a point, push a puck, tour several points in order.

A policy acts at 20 Hz; its targets become a smooth reference at 100 Hz (``policies.control.JointInterpolator``, the same
code as on a robot), which the joints' position servos follow in MuJoCo. The arm is ``arm.xml`` beside this file; tasks add
a table and what stands on it. All worlds are stepped together by ``mujoco.batch``.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import abc
import functools
from pathlib import Path
from typing import Any

import numpy as np

from policies.control import JointInterpolator, MotionLimits, MotionState
from policies.kinematics import Kinematics
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim import render
from sim.env import BatchEnv, Observation, StepResult
from sim.episodes import EpisodicBatch, Outcome
from sim.registry import Entry, Options

VERSION = 1  # raised when the arm, the scenes or a number of the tasks changes
RATE_HZ = 20.0  # of actions
SUBSTEPS = 5  # joint commands per action: 100 Hz
CAMERA = "front"
PICTURE_SIZE = 256  # px

JOINTS = tuple(f"joint{i}" for i in range(1, 8))
N = len(JOINTS)
HOME = (0.0, 0.0, 0.0, -2.0, 0.0, np.pi - 2.0, 0.0)  # rad, the tool points down, 0.55 m in front and 0.36 m up
HOME_SPREAD = 0.2  # rad, uniform, of every joint at the beginning of an episode

_TASKS = {
    "reach": ("bring the tool of a seven-joint arm to a point", 100),
    "push": ("push a puck across a table to a point with a seven-joint arm", 250),
    "tour": ("visit three points in their order with a seven-joint arm", 240),
}


def entries() -> list[Entry]:
    """Return the three tasks."""
    return [
        Entry(
            name=f"arm/{task}",
            description=description,
            tags=("arm", "joints", "expert", "camera"),
            rate_hz=RATE_HZ,
            max_episode_steps=steps,
            requires=("mujoco",),
            install="`pip install 'robopolicy[sim]'`",
            factory=_make,
            short=f"arm-{task}",
        )
        for task, (description, steps) in _TASKS.items()
    ]


def _make(name: str, options: Options) -> BatchEnv:
    from sim.suites.arm_tasks import TASKS

    return TASKS[name.rpartition("/")[2]](name, options)


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


def make_spec(task_fields: dict[str, Field], image_size: int) -> Spec:
    """Return the spec: joint positions in rad, velocities in rad/s and the tool's tip in m; what the task adds; joint position targets."""
    low, high = joint_range()
    names = (*JOINTS, *(f"{name}.velocity" for name in JOINTS), "hand.x", "hand.y", "hand.z")
    fields = {"observation.state": Field((len(names),), unit="rad, rad/s, m", names=names), **task_fields}
    if image_size:
        fields[f"observation.images.{CAMERA}"] = Field((image_size, image_size, 3), "uint8", kind="image")
    # float32 limits inside the float64 range, so that a clipped action never leaves it
    inside = np.nextafter(low.astype(np.float32), np.float32(np.inf)), np.nextafter(high.astype(np.float32), np.float32(-np.inf))
    target = Field((N,), unit="rad", low=tuple(inside[0]), high=tuple(inside[1]), kind="position", names=JOINTS)
    return Spec(ObservationSpec(fields, RATE_HZ), ActionSpec({"joint_position": target}, RATE_HZ))


class ArmBatch(EpisodicBatch):
    """N arms at a table; a task says what else is there, what it observes, when it has succeeded and how it is done.

    Attributes:
        control_substeps: Joint commands per action.
        motion: Limits of the joints.
        robot_model: MJCF of the arm alone.
        barriers: Workspace, see :func:`barriers`.
        home: (7,) joint positions, rad.
    """

    goals_shown = 1  # markers of goal positions in the scene

    def __init__(self, name: str, options: Options) -> None:
        if options.images and not render.available():
            raise InputError(f"task {name!r} cannot show images on this machine: {render.unavailable_reason()}; use observations=state")
        render.configure()
        import mujoco
        import mujoco.batch

        self._mj: Any = mujoco
        self._image_size = options.image_size if options.images else 0
        spec = make_spec(self.task_fields(options.state), self._image_size)
        steps = options.max_episode_steps or _TASKS[name.rpartition("/")[2]][1]
        version = f"arm {VERSION}, mujoco {mujoco.__version__}"
        super().__init__(name, version, spec, options.num_worlds, steps, options.autoreset)
        self.control_substeps, self.motion, self.robot_model = SUBSTEPS, motion_limits(), robot_model()
        self.barriers, self.home = barriers(), HOME
        self._model: Any = self._scene()
        self._ticks_of_physics = round(1 / (RATE_HZ * SUBSTEPS * self._model.opt.timestep))
        self._worlds: Any = mujoco.batch.Batch(self._model, self.num_worlds, nthread=1)
        self._qpos, self._qvel, self._ctrl, self._mocap = (self._worlds.bind(n) for n in ("qpos", "qvel", "ctrl", "mocap_pos"))
        self._sites, self._hand_id = self._worlds.bind("site_xpos"), self._model.site("hand").id
        self._interpolator = JointInterpolator(self.motion, RATE_HZ * SUBSTEPS, SUBSTEPS)
        self._motion_state = MotionState(*np.zeros((4, self.num_worlds, N)))  # of what the servos follow, one row a world
        self._ticks = np.zeros(self.num_worlds, np.int64)
        self._cameras: dict[int, render.Camera] = {}

    # What a task fills in ----------------------------------------------------------------------------------------

    @classmethod
    @abc.abstractmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the observation fields beside the arm's own; ``state``: those that a camera could show are wanted too."""

    @abc.abstractmethod
    def _lay_out(self, row: int, generator: np.random.Generator) -> None:
        """Draw what the task places in world ``row``, whose arm stands already."""

    @abc.abstractmethod
    def _judge(self, rows: np.ndarray) -> Outcome:
        """Return what the present state of worlds ``rows`` (K,) is worth; called once an action."""

    @abc.abstractmethod
    def _observe_task(self, rows: np.ndarray, out: Observation) -> None:
        """Write the task's fields, see :meth:`sim.episodes.EpisodicBatch._observe`."""

    def _furnish(self, scene: Any) -> None:
        """Add to the ``mujoco.MjSpec`` of the scene; nothing by default."""

    # The worlds --------------------------------------------------------------------------------------------------

    def _scene(self) -> Any:
        """Return the ``mujoco.MjModel`` of the arm, its table, goal markers, lights, a camera and the task's own things."""
        mj = self._mj
        scene = mj.MjSpec.from_string(self.robot_model)
        world = scene.worldbody
        world.add_light(pos=[0.5, -0.8, 2.0], dir=[0.0, 0.4, -1.0], type=mj.mjtLightType.mjLIGHT_DIRECTIONAL)
        world.add_geom(name="table", type=mj.mjtGeom.mjGEOM_BOX, pos=[0.4, 0, -0.02], size=[0.55, 0.6, 0.02], rgba=[0.76, 0.7, 0.6, 1], contype=2)
        world.add_camera(name=CAMERA, pos=[1.75, 0.0, 1.0], xyaxes=[0, 1, 0, -0.459, 0, 0.888], fovy=42)
        for k in range(self.goals_shown):
            marker = world.add_body(name=f"goal{k}", mocap=True)
            shade = 0.6 + 0.4 * k / max(self.goals_shown - 1, 1)
            marker.add_geom(type=mj.mjtGeom.mjGEOM_SPHERE, size=[0.02, 0, 0], rgba=[0.1, shade, 0.3, 1], contype=0, conaffinity=0)
        self._furnish(scene)
        return scene.compile()

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._worlds.reset(rows, stage=self._mj.mjtStage.mjSTAGE_NONE.value)
        for row, seed in zip(rows, seeds, strict=True):
            generator = np.random.default_rng([int(seed), VERSION])
            self._qpos[row, :N] = np.array(HOME) + generator.uniform(-HOME_SPREAD, HOME_SPREAD, N)
            self._lay_out(int(row), generator)
        self._ctrl[rows] = self._qpos[rows, :N]
        self._keep(rows, self._interpolator.start(self._qpos[rows, :N]))
        self._ticks[rows] = 0
        self._worlds.forward(rows)

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        state, targets = MotionState(*(part[rows] for part in self._motion_state)), action.astype(np.float64)
        for substep in range(SUBSTEPS):
            command, state = self._interpolator.step(state, targets, substep)
            self._drive(rows, command)
        self._keep(rows, state)
        self._ticks[rows] += SUBSTEPS
        return self._judge(rows)

    def _keep(self, rows: np.ndarray, state: MotionState) -> None:
        """Store ``state`` of K streams as that of worlds ``rows`` (K,)."""
        for mine, new in zip(self._motion_state, state, strict=True):
            mine[rows] = new

    def _drive(self, rows: np.ndarray, command: np.ndarray) -> None:
        """One control tick of worlds ``rows`` (K,) with joint positions ``command`` (K, 7)."""
        self._ctrl[rows] = command
        self._worlds.step(rows, self._ticks_of_physics, self._mj.mjtStage.mjSTAGE_POS.value)

    def control_step(self, command: np.ndarray) -> StepResult:
        """Apply joint positions ``command`` (N, 7), rad, for one tick of the drive; see :class:`sim.env.JointDriven`.

        Raises:
            RuntimeError: if no world was ever reset.
            ValueError: if the shape does not fit, or the command of a world that has not ended is not finite.
        """
        self._checked(command)
        rows = np.flatnonzero(self._running)
        chosen = np.clip(np.asarray(command, np.float64)[rows], self.motion.low, self.motion.high)
        due = rows
        if rows.size:
            self._drive(rows, chosen)
            self._keep(rows, self._interpolator.start(chosen))
            self._ticks[rows] += 1
            due = rows[self._ticks[rows] % SUBSTEPS == 0]
            self._observe(rows, self._obs)
        return self._settled(due, self._judge(due) if due.size else None)

    @property
    def hand(self) -> np.ndarray:
        """(N, 3) position of the tool's tip, m."""
        return self._sites[:, self._hand_id]

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        state = out["observation.state"]
        state[rows, :N], state[rows, N : 2 * N], state[rows, 2 * N :] = self._qpos[rows, :N], self._qvel[rows, :N], self.hand[rows]
        self._observe_task(rows, out)
        if self._image_size:
            out[f"observation.images.{CAMERA}"][rows] = self._pictures(rows, self._image_size)

    def _pictures(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Return (K, size, size, 3) uint8."""
        if size not in self._cameras:
            self._cameras[size] = render.Camera(self._model, size, size, CAMERA)
        out, data = np.zeros((len(rows), size, size, 3), np.uint8), self._mj.MjData(self._model)
        for k, row in enumerate(rows):
            self._worlds.get_data(int(row), data)
            self._mj.mj_forward(self._model, data)
            out[k] = self._cameras[size].picture(self._model, data)
        return out

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return (len(worlds), 256, 256, 3) uint8, or None when this machine cannot render."""
        if not render.available():
            return None
        return self._pictures(np.arange(self.num_worlds) if worlds is None else np.asarray(worlds), PICTURE_SIZE)

    def close(self) -> None:
        """Free cameras and worlds; may be called twice."""
        for camera in self._cameras.values():
            camera.close()
        super().close()
        self._cameras = {}
