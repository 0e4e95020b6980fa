"""A small robot of joints for tests of the drive: in this process or behind a twin, a source of commands, and a judge of what arrived.

``python tests/real/jointed.py twin|source ...`` is a process of its own; ``Running`` starts one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from policies.motion import MotionLimits, Reference
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.drive import Drive, DriveOptions
from real.robot import Observation, RobotGone, RobotInfo
from real.safety.brake import Brake
from sim.env import StepResult

ROOT = Path(__file__).resolve().parents[2]
RATE = 100.0
TICK = 1 / RATE
GOAL = np.array([1.0, -0.8, 0.5])
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
        assert command.dtype == np.float64 and command.shape == (3,) and not self.stopped
        self.log.append((self.reads, command.copy()))
        self.position = command.copy()

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
    """Yield the references of a motion from rest at ``start`` towards ``goal``, one a tick; all joints speed up and stop together.

    From the brake's closed form alone: the next tick speeds up, or else keeps its speed, if a stop from there still ends
    before the nearest goal; else it brakes.
    """
    motion = motion or limits()
    now, goal = Reference.at_rest(np.asarray(start, float)), np.asarray(goal, float)
    way = np.sign(goal - now.position)
    while True:
        faster = np.where(way * now.acceleration + 0.9 * motion.jerk * tick_s > 0.9 * motion.acceleration, 0.0, way * motion.jerk * 0.9)
        steady = np.clip(-now.acceleration / tick_s, -0.9 * motion.jerk, 0.9 * motion.jerk)
        for ahead in (constant_jerk(now, faster, tick_s), constant_jerk(now, steady, tick_s)):
            peak = np.abs(ahead.velocity) + ahead.acceleration**2 / (2 * motion.jerk)
            stop = Brake(ahead.velocity, ahead.acceleration, motion.acceleration * 0.99, motion.jerk * 0.99)
            good = (way * (goal - ahead.position - stop.displacement) > 0).all() and (peak < 0.95 * motion.velocity).all()
            if good:
                break
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

    A log that begins at rest; rounding is taken off.
    """
    q = np.concatenate([np.repeat(commands[:1], 3, 0), commands])
    noise = 2.5e-16 * np.abs(q).max()
    out = {}
    for order, name, limit in ((1, "velocity", motion.velocity), (2, "acceleration", motion.stop_acceleration), (3, "jerk", motion.stop_jerk)):
        found = np.abs(np.diff(q, order, axis=0)) - 2**order * noise
        out[name] = float((found / tick_s**order / limit).max())
    return out


def begin(latch, robot=None, **options):
    """A drive that has read its robot once, and its robot."""
    robot = robot or Joints()
    drive = Drive(robot, DriveOptions(**options), latch, clock=lambda: 0.0)
    assert drive.tick(0.0).state == "holding"
    return drive, robot


def follow(drive, ticks=10**6, goal=GOAL):
    """Offer a motion to ``goal``, one command a tick, for at most so many ticks."""
    for reference in itertools.islice(moves(drive.reading.reference.position, goal), ticks):
        assert drive.offer(reference.position, reference, drive.reading.tick + 1) == ""
        assert drive.tick(drive.reading.tick * TICK).state == "active"


def run_out(drive, ticks=200):
    """Tick without commands until it holds; returns how many ticks it braked."""
    for braked in range(ticks):
        if drive.tick(drive.reading.tick * TICK).state != "braking":
            return braked
    raise AssertionError("it brakes for ever")


class JointWorld:
    """A world of three joints that are where they are told to be; implements sim.env.BatchEnv and JointDriven."""

    task, suite_version, autoreset, num_worlds = "joints", "1", False, 1
    control_substeps, robot_model, barriers, home = 5, "", {}, (0.0, 0.0, 0.0)

    def __init__(self, max_episode_steps: int = 10**6) -> None:
        self.spec, self.motion, self.max_episode_steps = spec(), limits(), max_episode_steps
        self.position, self.ticks = np.zeros((1, 3)), 0

    def reset(self, seeds, mask=None):
        self.position[:], self.ticks = 0.01 * (int(seeds[0]) % 10), 0
        return self.observe()

    def observe(self):
        return {"observation.state": self.position.astype(np.float32)}

    def control_step(self, command):
        self.position, self.ticks = np.array(command, np.float64), self.ticks + 1
        over, obs, never = np.array([self.ticks >= 5 * self.max_episode_steps]), self.observe(), np.zeros(1, bool)
        return StepResult(obs, obs, np.zeros(1, np.float32), never, over, {"success": never})

    def step(self, action):
        raise AssertionError("the twin of joints is stepped by control_step")

    def retire(self, mask):
        pass

    def render(self, worlds=None):
        return None

    def expert_action(self):
        return self.position

    def close(self):
        pass


class Running:
    """A process of this file, or any other; a context manager that leaves nothing running."""

    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        self.file, self.out = folder / f"{name}.address", folder / f"{name}.out"
        self.file.unlink(missing_ok=True)
        command = [sys.executable, __file__, *map(str, arguments), "--announce", str(self.file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

    def ready(self) -> str:
        """What it announced, once it has."""
        until = time.monotonic() + 60
        while not self.file.exists():
            assert self.process.poll() is None and time.monotonic() < until, f"not ready: {self.out.read_text()}"
            time.sleep(0.01)
        return self.file.read_text()


def announce(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def twin(options: argparse.Namespace) -> None:
    from robopolicy.twin.server import TwinServer
    from robopolicy.twin.world import World, open_log

    env = JointWorld(options.max_steps)
    server = TwinServer(World(env, log=open_log(options.log, env, False, 1.0)), "tcp://127.0.0.1:0")
    announce(options.announce, server.address)
    server.serve()


def source(options: argparse.Namespace) -> None:
    """Move between -1 and 1 for ever; ``--mischief`` is done at every 40th tick."""
    from real.drive_handle import DriveHandle

    handle = DriveHandle(options.address)
    reading, path, ticks = handle.read(5.0), iter(()), itertools.count()
    side = itertools.cycle((1.0, -1.0))
    while True:
        moving = next(path, None)
        continues = reading.drive_state == "active" or reading.reference.velocity.any()
        if moving is None or not np.allclose(moving.position, reading.reference.position, atol=0.05):
            at_rest = not (reading.reference.velocity.any() or reading.reference.acceleration.any())
            path = moves(reading.reference.position, np.full(3, next(side))) if at_rest else iter(())
            moving = next(path, None)
        k = next(ticks)
        if k == 20:
            announce(options.announce, f"moving {continues}")
        if moving is None:
            handle.hold()
        elif k % 40 == 39 and options.mischief == "jump":
            handle.write(moving.position + 0.1, Reference(moving.position + 0.1, moving.velocity, moving.acceleration))
        elif k % 40 == 39 and options.mischief == "nan":
            handle.write(np.full(3, np.nan), moving)
        elif k % 40 == 39 and options.mischief == "late":
            time.sleep(5 / RATE)
            handle.write(moving.position, moving)
        else:
            handle.write(moving.position, moving)
        reading = handle.read(5.0)


def stamped(robot: Joints, clock_ns: Callable[[], int] = time.monotonic_ns) -> Joints:
    """Return ``robot``, whose readings from now on were captured when they are read, by ``clock_ns``."""
    read = robot.read

    def now():
        reading = read()
        reading.capture_ns = dict.fromkeys(reading.fields, clock_ns())
        return reading

    robot.read = now
    return robot


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("twin", "source"))
    parser.add_argument("--announce", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--max-steps", type=int, default=10**6)
    parser.add_argument("--address")
    parser.add_argument("--mischief", default="")
    options = parser.parse_args()
    {"twin": twin, "source": source}[options.what](options)


if __name__ == "__main__":
    main()
