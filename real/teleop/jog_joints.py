"""Jogging a robot of joint positions: at its hand, joint by joint, after a leader arm, or home."""

from __future__ import annotations

import numpy as np

from policies.cartesian import rotation_matrix
from policies.differential_ik import rotation_vector
from policies.motion import MotionLimits, Reference, joint_columns
from policies.spec import InputError, Spec
from real.robot import Observation, RobotInfo
from real.teleop.hand import Hand
from real.teleop.jog import JogConfig, shaped
from real.teleop.source import Input


class JointJog:
    """See :class:`real.teleop.jog.Jog`.

    The target starts where the robot, braking, would come to rest. It moves no faster than the share of the joints' speeds that is
    configured, and stays within reach of where the robot has been sent: what the filter does not allow is not stored up.

    Args:
        spec: The robot's.
        info: The robot: limits, model, home.
        config: Speeds and frames.

    Attributes:
        hand: The hand, None for a robot without a model; a twist then moves the first six joints.

    Raises:
        InputError: if the model does not have the joints or the hand.
    """

    def __init__(self, spec: Spec, info: RobotInfo, config: JogConfig = JogConfig()) -> None:
        if info.motion is None:
            raise InputError(f"robot {info.name!r} declares no limits of motion, so its joints cannot be jogged")
        self.config, self.motion, self._observation = config, info.motion, spec.observation
        self._action = action = spec.action
        self._low, self._high = (np.asarray(side, np.float64) for side in (np.maximum(action.low, info.motion.low), np.minimum(action.high, info.motion.high)))
        self._tick = 1.0 / action.rate_hz
        kinds = np.concatenate([np.full(f.size, f.kind) for f in action.fields.values()])
        self._grippers, self._arm = np.flatnonzero(kinds == "gripper"), np.flatnonzero(kinds != "gripper")
        self._step = config.joints * info.motion.velocity * self._tick  # most of a policy step
        self.hand = _make_hand(info, config, action.rate_hz, self._arm)
        self._home = np.array(info.home, np.float64) if len(info.home) == info.motion.n else None
        self.frame, self.limited, self.homing = config.frame, False, False
        self._q = np.zeros(info.motion.n)
        self._gripping = np.full(len(self._grippers), np.nan)  # where grippers go by themselves
        self._anchor: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # device pose, hand position and rotation when the clutch closed
        self._approaching = True

    def start(self, reading: Observation, last: np.ndarray | None) -> bool:
        """See :class:`real.teleop.jog.Jog`; ``last`` (Da,) is not needed: where joints are sent is known."""
        if reading.reference is not None:
            q = resting_place(reading.reference, self.motion)
        else:
            name, columns = joint_columns(self._observation, self.motion.names)
            q = np.asarray(reading.fields[name], np.float64)[columns]
        if not np.isfinite(q).all():
            return False
        self._q, self._anchor, self._approaching = np.clip(q, self._low, self._high), None, True
        if self.hand is not None:
            self.hand.start(self._q[self._arm])
        return True

    def step(self, value: Input, reading: Observation) -> np.ndarray:
        """See :class:`real.teleop.jog.Jog`; returns (Da,)."""
        before, self.limited = self._q.copy(), False
        wanted, most = before.copy(), self._step
        if value.clutch:
            wanted, most = self._followed(value, before)
        else:
            self._anchor, self._approaching = None, True
        if self.homing and self._home is not None:
            wanted, most = self._home, self.config.home_speed * self.motion.velocity * self._tick
            self.homing = bool((np.abs(self._home - before) > 1e-6).any())
        self._grip(value, wanted, before)
        q = before + np.clip(wanted - before, -most, most)
        self._q = self._within_reach(q, reading.reference)
        if self.hand is not None and (self.limited or self.homing):
            self.hand.start(self._q[self._arm])
        return np.clip(self._q, self._low, self._high).astype(np.float32)

    def hold(self, last: np.ndarray) -> np.ndarray:
        """See :class:`real.teleop.jog.Jog`; (Da,)."""
        return self._action.hold(last)

    def grip(self) -> None:
        """See :class:`real.teleop.jog.Jog`; the gripper is a joint and takes its time."""
        for k, g in enumerate(self._grippers):
            now = self._q[g] if np.isnan(self._gripping[k]) else self._gripping[k]
            self._gripping[k] = self._low[g] if now > 0.5 * (self._low[g] + self._high[g]) else self._high[g]

    @property
    def busy(self) -> bool:
        """See :class:`real.teleop.jog.Jog`."""
        return self.homing or not np.isnan(self._gripping).all()

    def rest(self) -> None:
        """See :class:`real.teleop.jog.Jog`."""
        self.homing = False
        self._gripping[:] = np.nan

    def go_home(self) -> bool:
        """See :class:`real.teleop.jog.Jog`."""
        self.homing = self._home is not None
        return self.homing

    def turn_frame(self) -> str:
        """See :class:`real.teleop.jog.Jog`."""
        frames = self.hand.frames() if self.hand is not None else ("base",)
        self.frame = frames[(frames.index(self.frame) + 1) % len(frames)] if self.frame in frames else frames[0]
        return self.frame

    def _followed(self, value: Input, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the joint positions (n,) that the device wants, and how far a joint may go in this step, (n,)."""
        full = self.motion.velocity * self._tick
        if value.positions is not None and len(value.positions) == len(q):
            self.homing = False
            target = np.clip(value.positions, self._low, self._high)
            off = float(np.abs(target - q)[self._arm].max(initial=0.0))
            self._approaching = off > self.config.leader_approach or (self._approaching and off > 0.2 * self.config.leader_approach)
            return target, (self.config.leader_speed if self._approaching else 1.0) * value.dial * full
        if value.joints is not None and len(value.joints) == len(q):
            speed = shaped(np.asarray(value.joints, np.float64), self.config.dead_zone, self.config.expo) * value.dial
            self.homing &= not speed.any()
            wanted = q + speed * self._step
            if self.hand is not None and speed.any():
                self.hand.start(wanted[self._arm])
            return wanted, self._step
        return self._hand_followed(value, q), self._step

    def _hand_followed(self, value: Input, q: np.ndarray) -> np.ndarray:
        twist = shaped(np.asarray(value.twist, np.float64), self.config.dead_zone, self.config.expo) * value.dial
        self.homing &= not twist.any() and value.pose is None
        wanted = q.copy()
        if self.hand is None:
            n = min(6, len(self._arm))
            wanted[self._arm[:n]] += twist[:n] * self._step[self._arm[:n]]
            return wanted
        if value.pose is not None:
            wanted[self._arm], near = self.hand.to(q[self._arm], *self._posed(np.asarray(value.pose, np.float64), value.dial))
        elif twist.any():
            scaled = twist * np.repeat([self.config.linear, self.config.angular], 3)
            wanted[self._arm], near = self.hand.move(q[self._arm], scaled, self.frame)
        else:
            return wanted
        self.limited |= not near
        return wanted

    def _posed(self, pose: np.ndarray, dial: float) -> tuple[np.ndarray, np.ndarray]:
        """Return where the hand shall be, (3,) and (3, 3): as far from where the clutch closed as the device is from there, within its speed."""
        assert self.hand is not None
        if self._anchor is None:
            self._anchor = pose.copy(), self.hand.position.copy(), self.hand.rotation.copy()
        held, position, rotation = self._anchor
        yaw = rotation_matrix("rotation_axis_angle", np.array([0.0, 0.0, self.config.pose_yaw]))
        to = position + self.config.pose_scale * dial * (yaw @ (pose[:3, 3] - held[:3, 3]))
        turn = yaw @ pose[:3, :3] @ held[:3, :3].T @ yaw.T
        way, most = to - self.hand.position, self.config.linear * self._tick
        nearer = self.hand.position + way * min(1.0, most / max(float(np.linalg.norm(way)), 1e-12))
        return nearer, _part(self.hand.rotation, turn @ rotation, self.config.angular * self._tick)

    def _grip(self, value: Input, wanted: np.ndarray, q: np.ndarray) -> None:
        """Write where the grippers shall be into ``wanted`` (n,)."""
        opens = 1.0 if self.config.opens == "high" else -1.0
        for k, g in enumerate(self._grippers):
            span = self._high[g] - self._low[g]
            most = self.config.gripper * span * self._tick
            if value.clutch and value.opening is not None:
                share = value.opening if opens > 0 else 1 - value.opening
                self._gripping[k] = self._low[g] + share * span
            elif value.clutch and value.positions is None and value.grip:
                self._gripping[k] = np.nan
                wanted[g] = q[g] + opens * value.grip * most
            if not np.isnan(self._gripping[k]):
                left = self._gripping[k] - q[g]
                wanted[g] = q[g] + np.clip(left, -most, most)
                if abs(left) <= most:
                    self._gripping[k] = np.nan

    def _within_reach(self, q: np.ndarray, reference: Reference | None) -> np.ndarray:
        """Return ``q`` (n,) inside its ranges and no further ahead of the robot than it can follow."""
        out = np.clip(q, self._low, self._high)
        if reference is not None:
            lead = self.config.lead_s * self.motion.velocity
            out = np.clip(out, reference.position - lead, reference.position + lead)
        self.limited |= bool((np.abs(out - q) > 1e-9)[self._arm].any())
        return out


def resting_place(reference: Reference, limits: MotionLimits) -> np.ndarray:
    """Return where joints (n,) in motion come to rest if they brake now within their limits, accelerations left aside."""
    v, a, j = np.abs(reference.velocity), limits.acceleration, limits.jerk
    distance = np.where(v * j >= a**2, 0.5 * v * (v / a + a / j), v * np.sqrt(v / j))
    return np.clip(reference.position + np.sign(reference.velocity) * distance, limits.low, limits.high)


def _make_hand(info: RobotInfo, config: JogConfig, rate_hz: float, arm: np.ndarray) -> Hand | None:
    """Return the hand of the joints ``arm`` (k,) of a robot; None without a model."""
    assert info.motion is not None
    if not info.model:
        if config.hand is not None:
            raise InputError(f"jog.hand={config.hand}: robot {info.name!r} has no model; jog its joints")
        return None
    m = info.motion
    names = tuple(m.names[i] for i in arm)
    limits = MotionLimits(names, m.low[arm], m.high[arm], m.velocity[arm], m.acceleration[arm], m.jerk[arm])
    return Hand(info.model, limits, config.joints * m.velocity[arm], rate_hz, config)


def _part(now: np.ndarray, wanted: np.ndarray, most: float) -> np.ndarray:
    """Return the rotation (3, 3) on the way from ``now`` to ``wanted`` that is at most ``most`` rad away from ``now``."""
    turn = rotation_vector(wanted @ now.T)
    return rotation_matrix("rotation_axis_angle", turn * min(1.0, most / max(float(np.linalg.norm(turn)), 1e-12))) @ now
