"""A quadruped follows velocity commands on flat ground: twelve position servos at 50 Hz, the physics at 200 Hz.

The terms of the reward are those that velocity tasks of legged robots have in common: Rudin, Hoeller, Reist and Hutter 2022,
"Learning to Walk in Minutes Using Massively Parallel Deep Reinforcement Learning". The robot is our own: 12 kg, ``quadruped.xml``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.mirror import Mirror
from sim.suites.locomotion import frames, gait
from sim.suites.locomotion.commands import VelocityCommands
from sim.task import MujocoTask

LEGS = ("fl", "fr", "rl", "rr")
JOINTS = tuple(f"{leg}_{part}" for leg in LEGS for part in ("hip", "thigh", "calf"))
HOME = np.tile([0.0, 0.8, -1.6], 4)  # rad; every foot below its hip
REACH = 0.6  # rad an action of 1 moves a joint's target away from home
STANDING = 0.3  # m, of the trunk above the ground
FALLEN_HEIGHT, FALLEN_TILT = 0.15, 0.5  # m; cosine of the trunk's tilt
FOOT, CONTACT = 0.022, 0.006  # m: radius; clearance under which a foot stands (touch sensors, which are there too, are not in every engine)
STEP_S = 0.1  # of a foot in the air from which on a step is rewarded

#: Of the reward, a second. ``track_*`` are exp(-error^2 / SIGMA).
WEIGHTS = {
    "track_linear": 1.5,
    "track_yaw": 0.75,
    "vertical": -2.0,  # (m/s)^2 up and down
    "tilting": -0.05,  # (rad/s)^2 of roll and pitch
    "tilt": -1.0,  # squared sine of the tilt
    "effort": -2e-4,  # (N m)^2
    "jerking": -0.01,  # squared change of the action
    "air_time": 0.5,  # s beyond STEP_S, at touch-down, while commanded to move
    "alive": 0.25,
}
SIGMA = 0.25  # (m/s)^2, (rad/s)^2
TOLERANCE = (0.2, 0.25)  # m/s and rad/s: mean errors of the stride's average within which commands were followed

VELOCITIES = ("base.vx", "base.vy", "base.vz", "base.wx", "base.wy", "base.wz")
STATE_NAMES = (
    *VELOCITIES,
    *(f"gravity.{axis}" for axis in "xyz"),
    *("command.vx", "command.vy", "command.wz"),
    *(f"{name}.offset" for name in JOINTS),
    *(f"{name}.velocity" for name in JOINTS),
    *(f"{name}.action" for name in JOINTS),
)


class Quadruped(MujocoTask):
    """``observation.state`` (48,): velocities of the trunk, gravity, all in its frame; command; joints from home; last action.

    Action: targets of the twelve joints, 1 is 0.6 rad from home. Success, known at the time limit only: never fallen, and the
    mean error of the velocity, averaged over a stride, within 0.2 m/s and 0.25 rad/s and well below what standing still would
    miss (1.5 s after a new command are not judged).
    """

    task_name = "locomotion/quadruped"
    description = "a quadruped follows velocity commands on flat ground"
    success = "judged at the time limit: never fallen, mean velocity errors within 0.2 m/s and 0.25 rad/s, and well below those of standing still"
    tags = ("expert",)
    xml = "quadruped.xml"
    rate_hz, time_limit_s = 50.0, 20.0
    camera = "side"
    fresh = False  # torques and contacts are of the last tick, all else is of the state itself
    mirror = Mirror(
        swapped=(("fl_", "fr_"), ("rl_", "rr_")),
        flipped=("base.vy", "base.wx", "base.wz", "gravity.y", "command.vy", "command.wz", "*_hip", "*_hip.*"),
    )
    rewards = ("dense", "sparse")
    info_fields: ClassVar = {**dict.fromkeys(WEIGHTS, "float32"), "linear_error": "float32", "yaw_error": "float32"}
    command_low, command_high, standing = (-0.5, -0.3, -0.8), (0.8, 0.3, 0.8), 0.1
    trot = gait.Trot()

    def observation_fields(self) -> dict[str, Field]:
        """Return what an inertial unit, joint sensors and an estimator of the trunk's velocity give, and the command."""
        return {"observation.state": Field((48,), unit="m/s, rad/s, 1, rad", names=STATE_NAMES)}

    def action_fields(self) -> dict[str, Field]:
        """Return the targets of the joints."""
        return {"target": Field((12,), unit="0.6 rad", low=(-1.0,) * 12, high=(1.0,) * 12, kind="position", names=JOINTS)}

    def prepare(self) -> None:
        """Bind torques and feet, allocate what an episode remembers."""
        n = self.num_worlds
        self.torque = self.engine.bind("actuator_force")
        self.sites, self.foot_sites = self.engine.bind("site_xpos"), [self.model.site(f"{leg}_foot").id for leg in LEGS]
        self.commands = VelocityCommands(n, self.rate_hz, self.max_episode_steps, 4.0, self.command_low, self.command_high, self.standing)
        self._judged: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # the motion that the step ended with
        self.last_action, self.change, self.air = np.zeros((n, 12)), np.zeros((n, 12)), np.zeros((n, 4))

    # An episode --------------------------------------------------------------------------------------------------

    def place(self, rows: np.ndarray, draws: Draws) -> np.ndarray:
        """Return where (K, 3) worlds ``rows`` (K,) begin, at the height of the ground, m."""
        return np.zeros((len(rows), 3))

    def ground(self, points: np.ndarray) -> np.ndarray:
        """Return the height (N, P), m, of the ground at ``points`` (N, P, 2)."""
        return np.zeros(points.shape[:2])

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Begin near the standing pose, in any direction, with commands for the whole episode."""
        self.qpos[rows, :3] = self.place(rows, draws) + (0.0, 0.0, STANDING + 0.01)
        self.qpos[rows, 3:7] = frames.yaw_quaternions(draws.uniform(-np.pi, np.pi))
        self.qpos[rows, 7:] = HOME + draws.uniform(-0.1, 0.1, (12,))
        self.qvel[rows] = draws.uniform(-0.2, 0.2, (18,))
        self.ctrl[rows] = HOME
        self.commands.draw(rows, draws)
        self.resume(rows)

    def resume(self, rows: np.ndarray) -> None:
        """Take what worlds ``rows`` (K,) are asked for now as their last action, and their feet as standing."""
        self.last_action[rows] = (self.ctrl[rows] - HOME) / REACH
        self.change[rows], self.air[rows] = 0.0, 0.0
        self._judged = None

    def apply(self, action: np.ndarray) -> None:
        """Targets around the standing pose."""
        self._judged = None
        self.ctrl[:] = HOME + REACH * action.astype(np.float64)

    def motion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return gravity's direction, linear and angular velocity of the trunk, (N, 3) each, in its own frame."""
        rotation = frames.rotations(self.qpos[:, 3:7])
        return frames.gravity_in_base(rotation), frames.to_base(rotation, self.qvel[:, :3]), self.qvel[:, 3:6]

    def heights(self) -> np.ndarray:
        """Return the heights (N, 5), m, of the trunk and of the four feet above the ground below them."""
        points = np.concatenate([self.qpos[:, None, :3], self.sites[:, self.foot_sites]], axis=1)
        return points[..., 2] - self.ground(points[..., :2])

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward following the command gently; the episode ends when the robot has fallen."""
        np.subtract(action, self.last_action, out=self.change)
        self.last_action[:] = action
        gravity, linear, angular = self._judged = self.motion()
        command = self.commands.at(self._elapsed)
        height = self.heights()
        terms = self.terms(gravity, linear, angular, command, height[:, 1:] < FOOT + CONTACT)
        velocity = np.concatenate([linear[:, :2], angular[:, 2:]], axis=1)
        errors = self.commands.follow(velocity, command, self._elapsed)
        fallen = (height[:, 0] < FALLEN_HEIGHT) | (gravity[:, 2] > -FALLEN_TILT)
        last = self._elapsed + 1 >= self.max_episode_steps
        success = last & ~fallen & self.commands.tracked(TOLERANCE)
        if self.reward_kind == "dense":
            reward = sum(WEIGHTS[name] * term for name, term in terms.items()) / self.rate_hz
        else:
            reward = ((errors < TOLERANCE).all(axis=1) & ~fallen) / self.rate_hz
        info = {"success": success, "linear_error": errors[:, 0], "yaw_error": errors[:, 1], **terms}
        return Outcome(np.asarray(reward), fallen, info)

    def terms(self, gravity: np.ndarray, linear: np.ndarray, angular: np.ndarray, command: np.ndarray, contact: np.ndarray) -> dict[str, np.ndarray]:
        """Return the terms (N,) of the reward before their weights, for vectors (N, 3) in the frame of the trunk and ``contact`` (N, 4) of the feet."""
        landed = contact & (self.air > 0.0)
        self.air += 1.0 / self.rate_hz
        moving = command.any(axis=1)
        air_time = ((self.air - STEP_S) * landed).sum(axis=1) * moving
        self.air[contact] = 0.0
        off = linear[:, :2] - command[:, :2]
        return {
            "track_linear": np.exp((off * off).sum(axis=1) / -SIGMA),
            "track_yaw": np.exp((angular[:, 2] - command[:, 2]) ** 2 / -SIGMA),
            "vertical": linear[:, 2] ** 2,
            "tilting": (angular[:, :2] ** 2).sum(axis=1),
            "tilt": (gravity[:, :2] ** 2).sum(axis=1),
            "effort": (self.torque * self.torque).sum(axis=1),
            "jerking": (self.change * self.change).sum(axis=1),
            "air_time": air_time,
            "alive": np.ones(self.num_worlds),
        }

    def observe(self, out: Observation) -> None:
        """Motion, gravity, command, joints and last action."""
        state = out["observation.state"]
        state[:, 6:9], state[:, 0:3], state[:, 3:6] = self._judged or self.motion()
        state[:, 9:12] = self.commands.at(self._elapsed)
        state[:, 12:24] = self.qpos[:, 7:] - HOME
        state[:, 24:36] = self.qvel[:, 6:]
        state[:, 36:48] = self.last_action

    def feet(self) -> np.ndarray:
        """Return where the feet (N, 4, 3) are, m, by the kinematics of the present joints."""
        hips = np.concatenate([gait.HIPS, np.zeros((4, 1))], axis=1)
        from_trunk = hips + gait.foot_positions(self.qpos[:, 7:].reshape(-1, 4, 3))
        rotation = frames.rotations(self.qpos[:, 3:7])
        return self.qpos[:, None, :3] + (rotation[:, None] * from_trunk[:, :, None]).sum(axis=3)

    def expert_action(self) -> np.ndarray:
        """Return the action (N, 12) of a trot whose phase is the time of the episode."""
        gravity, linear, angular = self.motion()
        ground = self.ground(self.feet()[..., :2])
        below = ground - ground.mean(axis=1, keepdims=True)
        targets = self.trot.targets(self._elapsed / self.rate_hz, self.commands.at(self._elapsed), gravity, linear, angular, below)
        return np.clip((targets - HOME) / REACH, -1.0, 1.0).astype(np.float32)


TASKS = (Quadruped,)
