"""The drive of the seven-joint arm with its barriers, and a source that pushes at every limit: nothing gets beyond one."""

import time

import numpy as np
import pytest

from policies.kinematics import Kinematics
from real.drive import Drive, DriveOptions
from real.latch import Latch
from real.robot import Observation, RobotInfo
from real.safety.barriers import Barriers
from sim.registry import make
from sim.suites import arm
from tests.real.jointed import TICK, constant_jerk, run_out, worst

LIMITS = arm.motion_limits()
SPEC = make("arm/reach").spec.subset(["observation.state"])


class Arm:
    """Seven joints that are where they are told to be, declared as the arm of the simulated suite."""

    def __init__(self, start: np.ndarray) -> None:
        self.spec, self.position, self.log = SPEC, np.array(start), []
        self.info = RobotInfo("arm", 100.0, "holds", 0.25, substeps=5, motion=LIMITS, model=arm.robot_model(), home=arm.HOME, barriers=arm.barriers())

    def read(self):
        state = np.concatenate([self.position, np.zeros(10)]).astype(np.float32)
        return Observation({"observation.state": state}, {"observation.state": time.monotonic_ns()})

    def write(self, command):
        self.log.append(command.copy())
        self.position = command.copy()

    def hold(self):
        pass

    def stop(self):
        pass

    def close(self):
        pass


@pytest.fixture(scope="module")
def barriers() -> Barriers:
    return Barriers(arm.barriers(), Kinematics(arm.robot_model(), list(LIMITS.names)))


@pytest.mark.parametrize("seed", range(4))
def test_a_source_that_pushes_at_every_limit(tmp_path, barriers, seed):
    """Jerks at and beyond the limit in a fixed direction of joints until nothing more is taken, then in another, and so on."""
    generator = np.random.default_rng(seed)
    robot = Arm(np.array(arm.HOME) + generator.uniform(-0.2, 0.2, 7))
    drive = Drive(robot, DriveOptions(), Latch(tmp_path), clock=lambda: 0.0)
    drive.tick(0.0)
    for _ in range(25):
        way = np.sign(generator.uniform(-1, 1, 7)) * generator.choice([0.9999, 1.0, 1.2], p=[0.7, 0.2, 0.1])
        for _ in range(12):
            now = drive.reading.reference
            for scale in (way, way * 0.3, -np.sign(now.acceleration) * np.minimum(np.abs(now.acceleration) / TICK / LIMITS.jerk, 1.0)):
                after = constant_jerk(now, scale * LIMITS.jerk, TICK)
                if not drive.offer(after.position, after, drive.reading.tick + 1):
                    break
            drive.tick(0.0)
    run_out(drive)
    commands = np.array(robot.log)
    assert drive.counts.commands > 100 and sum(drive.counts.refused.values()) > 20
    assert max(worst(commands, LIMITS).values()) <= 1 + 1e-9
    assert (commands >= LIMITS.low - 1e-6).all() and (commands <= LIMITS.high + 1e-6).all()
    assert barriers.path(commands).min() >= -1e-3, "between the samples of a stop, at most; the margin is 10 mm"


def test_what_leads_through_a_barrier_is_refused_with_its_name(tmp_path, barriers):
    robot = Arm(np.array(arm.HOME))
    drive = Drive(robot, DriveOptions(), Latch(tmp_path), clock=lambda: 0.0)
    drive.tick(0.0)
    down = np.array([0, 1.0, 0, 0, 0, 0, 0])  # the shoulder bends forward: the hand goes down
    for _ in range(300):
        now = drive.reading.reference
        steady = np.clip(-now.acceleration / TICK / LIMITS.jerk, -1, 1)
        speeding = now.velocity[1] < 0.8 and now.acceleration[1] < 4
        after = constant_jerk(now, (0.9 * down if speeding else steady) * LIMITS.jerk, TICK)
        refused = drive.offer(after.position, after, drive.reading.tick + 1)
        drive.tick(0.0)
        if refused:
            break
    assert refused.startswith("barrier 'plane0:")
    run_out(drive)
    assert barriers.path(np.array(robot.log)).min() >= -1e-4
