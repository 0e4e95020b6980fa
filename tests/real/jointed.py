"""A small robot of joints for tests of the drive: position servos in this process or behind a twin, and an independent judge of its log."""

from __future__ import annotations

import numpy as np

from policies.motion import MotionLimits, Reference
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.robot import Observation, RobotGone, RobotInfo
from real.safety.brake import Brake

RATE = 100.0
NAMES = ("a", "b", "c")


def limits(**changes) -> MotionLimits:
    given = {"low": -2.0, "high": 2.0, "velocity": 2.0, "acceleration": 8.0, "jerk": 150.0, "stop_acceleration": 12.0, "stop_jerk": 400.0, "tracking": 0.3}
    return MotionLimits(NAMES, **{**given, **changes})


def spec() -> Spec:
    joints = {"unit": "rad", "low": (-2,) * 3, "high": (2,) * 3, "names": NAMES}
    observation = {"observation.state": Field((3,), **joints)}
    return Spec(ObservationSpec(observation, 20), ActionSpec({"action": Field((3,), kind="position", **joints)}, 20))


class Joints:
    """A robot whose joints are where they are told to be; it remembers everything that it was told.

    Attributes:
        log: (number of the read it came before, command, "hold", "stop" or "clear").
    """

    def __init__(self, info: RobotInfo | None = None, lockstep: bool = False) -> None:
        self.spec = spec()
        self.info = info or RobotInfo("joints", RATE, "holds", 0.25, lockstep=lockstep, substeps=5, motion=limits())
        self.position, self.log, self.reads = np.zeros(3), [], 0
        self.episode, self.ended, self.gone, self.stopped = 0, False, False, False
        self.offset = np.zeros(3)  # of the measured joints from the commanded ones

    def read(self) -> Observation:
        if self.gone:
            raise RobotGone("joints: no answer within 1 s")
        self.reads += 1
        fields = {"observation.state": (self.position + self.offset).astype(np.float32)}
        return Observation(fields, dict.fromkeys(fields, 0), self.episode, self.ended)

    def write(self, command) -> None:
        assert command.dtype == np.float32 and command.shape == (3,) and not self.stopped
        self.log.append((self.reads, command.copy()))
        self.position = command.astype(np.float64)

    def hold(self) -> None:
        self.log.append((self.reads, "hold"))
        self.episode, self.ended = self.episode + self.ended, False

    def stop(self) -> None:
        self.stopped = True
        self.log.append((self.reads, "stop"))

    def clear(self) -> None:
        self.stopped = False
        self.log.append((self.reads, "clear"))

    def close(self) -> None:
        pass

    @property
    def commands(self) -> np.ndarray:
        return np.array([c for _, c in self.log if isinstance(c, np.ndarray)], np.float64)

    @property
    def words(self) -> list[str]:
        """What else it was told, repetitions once."""
        said = [c if isinstance(c, str) else "write" for _, c in self.log]
        return [w for i, w in enumerate(said) if i == 0 or said[i - 1] != w]


def moves(start, goal, tick_s: float = 1 / RATE, motion: MotionLimits | None = None):
    """Yield the references of a motion from rest at ``start`` towards ``goal``, one a tick: full jerk until the brake must begin.

    A motion of its own, from the brake's closed form alone: the next tick speeds up if a stop from there still ends before
    the goal, else it goes on braking.
    """
    motion = motion or limits()
    now, goal = Reference.at_rest(np.asarray(start, float)), np.asarray(goal, float)
    way = np.sign(goal - now.position)
    while True:
        jerk = way * motion.jerk * 0.9
        jerk = np.where(way * now.acceleration + 0.9 * motion.jerk * tick_s > 0.9 * motion.acceleration, 0.0, jerk)
        ahead = constant_jerk(now, jerk, tick_s)
        ahead_speed = np.abs(ahead.velocity) + ahead.acceleration**2 / (2 * motion.jerk)
        stop = Brake(ahead.velocity, ahead.acceleration, motion.acceleration * 0.99, motion.jerk * 0.99)
        good = (way * (goal - ahead.position - stop.displacement) > 0).all() and (ahead_speed < 0.95 * motion.velocity).all()
        if not good:
            break
        now = ahead
        yield now
    stop = Brake(now.velocity, now.acceleration, motion.acceleration * 0.99, motion.jerk * 0.99)
    start_position, t = now.position, 0.0
    while t < stop.duration.max():
        t += tick_s
        q, v, a = stop.sample(t)
        yield Reference(start_position + q, v, a)


def constant_jerk(now: Reference, jerk: np.ndarray, tick_s: float) -> Reference:
    """Return the state after a tick of constant jerk (n,)."""
    t = tick_s
    return Reference(
        now.position + t * (now.velocity + t * (now.acceleration / 2 + t * jerk / 6)),
        now.velocity + t * (now.acceleration + t * jerk / 2),
        now.acceleration + t * jerk,
    )


def worst(commands: np.ndarray, motion: MotionLimits, tick_s: float = 1 / RATE) -> dict[str, float]:
    """Return the largest |velocity|, |acceleration| and |jerk| of logged commands (T, n) beside those of a stop, by finite differences.

    A log that begins and ends at rest; float32 rounding of positions is taken off.
    """
    q = np.concatenate([np.repeat(commands[:1], 3, 0), commands, np.repeat(commands[-1:], 3, 0)])
    noise = 6e-8 * np.abs(q).max()
    out = {}
    for order, name, limit in ((1, "velocity", motion.velocity), (2, "acceleration", motion.stop_acceleration), (3, "jerk", motion.stop_jerk)):
        found = np.abs(np.diff(q, order, axis=0)) - 2**order * noise
        out[name] = float((found / tick_s**order / limit).max())
    return out
