"""The drive in this process, tick by tick: what is sent when commands come, come wrong, or do not come."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.motion import Reference
from real.latch import Latch
from real.robot import RobotInfo
from real.safety.brake import Brake
from tests.real.jointed import GOAL, TICK, Joints, begin, constant_jerk, follow, limits, moves, run_out, worst
from tests.real.toy import spec as point_spec


@pytest.fixture
def latch(tmp_path):
    return Latch(tmp_path)


def test_commands_are_sent_as_they_are(latch):
    drive, robot = begin(latch)
    follow(drive)
    wanted = np.array([r.position for r in moves(np.zeros(3), GOAL)])
    assert np.array_equal(robot.commands, wanted) and robot.words == ["write"]
    assert drive.counts.commands == len(wanted) and not drive.counts.refused and not drive.counts.brake_ticks
    observation = drive.reading.observation
    assert (observation.tick, observation.drive_state, observation.cause) == (len(wanted), "active", "")
    assert np.array_equal(observation.reference.position, wanted[-1])


def test_silence_brakes_along_the_closed_form_holds_and_then_asks_for_the_stop(latch):
    drive, robot = begin(latch, expiry_ticks=3, stop_after_s=0.5)
    follow(drive, 30)
    last = drive.reading.reference
    plan = Brake.of(last, limits(), stop=False)
    braked = run_out(drive)
    assert braked == int(np.ceil(plan.duration.max() / TICK))
    expected = [plan.reference((k + 1) * TICK).position for k in range(braked)]
    assert np.allclose(robot.commands[30:], expected, atol=1e-12)
    assert not drive.reading.reference.velocity.any() and np.abs(robot.commands[-1] - last.position).max() <= np.abs(plan.displacement).max() + 1e-12
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-9
    assert drive.reading.cause == "silent" and drive.reading.state == "holding"
    held = next(k for k in range(1000) if drive.tick(drive.reading.tick * TICK).cause == "silent; stop requested")
    assert held in (49, 50), "0.5 s after it stood, up to rounding"
    for _ in range(20):
        drive.tick(drive.reading.tick * TICK)
    assert robot.words == ["write", "hold", "stop"] and drive.reading.state == "holding"


def test_a_source_that_only_holds_is_not_silent(latch):
    drive, robot = begin(latch, stop_after_s=0.1)
    follow(drive, 20)
    for _ in range(100):
        drive.hold()
        drive.tick(drive.reading.tick * TICK)
    assert drive.reading.cause == "hold asked" and robot.words == ["write", "hold"]
    run_out(drive)
    assert drive.reading.cause == "silent"


def test_a_drive_that_nobody_has_used_is_not_stopped(latch):
    drive, robot = begin(latch, stop_after_s=0.1)
    for _ in range(100):
        drive.tick(drive.reading.tick * TICK)
    assert robot.words == ["hold"]


@pytest.mark.parametrize("ticks", [1, 5, 11])
def test_commands_go_on_from_the_brake(latch, ticks):
    drive, robot = begin(latch)
    follow(drive, 30)
    for _ in range(ticks):
        assert drive.tick(0.0).state == "braking"
    now = drive.reading.reference
    after = constant_jerk(now, np.clip(-now.acceleration / TICK, -150, 150), TICK)
    assert drive.offer(after.position, after, drive.reading.tick + 1) == "" and drive.tick(0.0).state == "active"
    run_out(drive)
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-9


def test_after_a_requested_stop_the_next_source_wakes_the_robot_where_it_stands(latch):
    drive, robot = begin(latch, stop_after_s=0.1)
    follow(drive, 30)
    run_out(drive)
    while not robot.stopped:
        drive.tick(drive.reading.tick * TICK)
    robot.position = robot.position + 0.01  # it sags without power
    drive.tick(drive.reading.tick * TICK)
    assert np.allclose(drive.reading.reference.position, robot.position, atol=1e-6) and not drive.reading.reference.velocity.any()
    follow(drive, 5)
    assert robot.words == ["write", "hold", "stop", "clear", "write"]


def test_a_robot_that_cannot_be_woken_says_so(latch):
    class Final(Joints):
        clear = None

    drive, robot = begin(latch, Final(), stop_after_s=0.1)
    follow(drive, 30)
    run_out(drive)
    while not robot.stopped:
        drive.tick(drive.reading.tick * TICK)
    at = drive.reading.reference
    drive.offer(at.position, at, drive.reading.tick + 1)
    assert drive.tick(drive.reading.tick * TICK).state == "holding" and robot.words[-1] == "stop"


REFUSALS = {
    "late": lambda r, k: (r.position, r, k - 1),
    "early": lambda r, k: (r.position, r, k + 1),
    "not finite": lambda r, k: (np.where([1, 0, 0], np.nan, r.position), r, k),
    "shape": lambda r, k: (r.position[:2], r, k),
    "reference": lambda r, k: (r.position, None, k),
    "reference: does not lead": lambda r, k: (r.position + 1e-3, r, k),
    "reference: nan": lambda r, k: (r.position, Reference(r.position, r.velocity * np.nan, r.acceleration), k),
    "reference: shape": lambda r, k: (r.position, Reference(r.position, r.velocity[:2], r.acceleration), k),
    "jerk": lambda r, k: (r.position + 0.05, Reference(r.position + 0.05, r.velocity, r.acceleration), k),
    "jerk: huge": lambda r, k: (r.position * 1e30, Reference(r.position * 1e30, r.velocity, r.acceleration), k),
    "jerk: false velocity": lambda r, k: (r.position, Reference(r.position, r.velocity + 0.1, r.acceleration), k),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_never_sent_and_the_brake_plays(latch, name):
    drive, robot = begin(latch)
    follow(drive, 30)
    after = next(itertools.islice(moves(np.zeros(3), GOAL), 30, None))
    kind = name.split(":")[0]
    assert drive.offer(*REFUSALS[name](after, drive.reading.tick + 1)).startswith(kind)
    reading = drive.tick(0.0)
    assert reading.state == "braking" and reading.cause.startswith(kind)
    assert (drive.counts.late, dict(drive.counts.refused)) == ((1, {}) if name == "late" else (0, {kind: 1}))
    run_out(drive)
    assert len(robot.commands) == 30 + drive.counts.brake_ticks and max(worst(robot.commands, limits()).values()) <= 1 + 1e-9


def test_a_command_that_leaves_no_brake_inside_the_range_is_refused(latch):
    drive, robot = begin(latch)
    for reference in moves(np.zeros(3), np.full(3, 2.5)):
        if drive.offer(reference.position, reference, drive.reading.tick + 1):
            break
        drive.tick(0.0)
    assert dict(drive.counts.refused) == {"position": 1}
    run_out(drive)
    assert 1.9 < robot.commands[:, 0].max() <= 2.0 + 1e-6, "whatever was taken, the brake stayed inside"


def test_only_the_first_command_of_a_tick_counts(latch):
    drive, robot = begin(latch)
    after = next(moves(np.zeros(3), GOAL))
    assert drive.offer(after.position, after, 1) == "" and drive.offer(after.position, after, 1).startswith("duplicate")
    drive.tick(0.0)
    assert len(robot.commands) == 1


class Point:
    """A robot whose commands are no joints of limited motion."""

    def __init__(self):
        self.spec, self.info, self.log = point_spec(), RobotInfo("point", 25, "holds", 0.25), []
        self.inner = Joints()

    def read(self):
        return dataclasses.replace(self.inner.read(), fields={"observation.state": np.zeros(2, np.float32)})

    def write(self, command):
        self.log.append(command)

    def hold(self):
        self.log.append("hold")

    def stop(self):
        self.log.append("stop")

    def close(self):
        pass


def test_other_commands_pass_bit_for_bit_inside_their_range_and_are_refused_outside(latch):
    drive, robot = begin(latch, Point())
    inside = np.array([0.1, -1.0], np.float32)
    assert drive.offer(inside, None, 1) == ""
    drive.tick(0.0)
    assert robot.log[0].dtype == np.float32 and robot.log[0].tobytes() == inside.tobytes()
    for bad, cause in (([0, 1.01], "range: y is 1.01, outside [-1, 1]"), ([np.inf, 0], "not finite"), ([0.0], "shape")):
        assert drive.offer(np.array(bad, np.float32), None, drive.reading.tick + 1).startswith(cause)
        assert drive.tick(0.0).state == "holding"
    assert robot.log[1:] == ["hold"] * 3
    drive.stop("test")
    drive.tick(0.0)
    assert robot.log[-1] == "stop" and drive.settled


numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
arrays = st.lists(numbers, min_size=0, max_size=4).map(np.array)


@given(st.lists(st.tuples(arrays, arrays, arrays, arrays, st.integers(-2, 2), st.sampled_from(["offer", "hold", "tick"])), max_size=12))
@settings(max_examples=150, deadline=None)
def test_whatever_is_offered_only_finite_limited_motion_leaves(tmp_path_factory, offers):
    drive, robot = begin(Latch(tmp_path_factory.getbasetemp() / "fuzzed"))
    follow(drive, 25)
    for command, position, velocity, acceleration, tick, what in offers:
        if what == "hold":
            drive.hold()
        elif what == "offer":
            drive.offer(command, Reference(position, velocity, acceleration), drive.reading.tick + 1 + tick)
        drive.tick(0.0)
    run_out(drive)
    assert np.isfinite(robot.commands).all() and max(worst(robot.commands, limits()).values()) <= 1 + 1e-9


steps = st.tuples(*[st.floats(-1.3, 1.3)] * 3)


@given(st.lists(steps, min_size=5, max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_source_that_pushes_the_limits_never_gets_beyond_them(tmp_path_factory, jerks):
    """Jerks of up to 1.3 times the limit, held for three ticks each: what is refused is braked, and all of it stays legal."""
    drive, robot = begin(Latch(tmp_path_factory.getbasetemp() / "pushed"))
    for jerk in jerks:
        for _ in range(3):
            after = constant_jerk(drive.reading.reference, np.array(jerk) * 150.0, TICK)
            drive.offer(after.position, after, drive.reading.tick + 1)
            drive.tick(0.0)
    run_out(drive)
    if len(robot.commands):
        assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-9
        assert np.abs(robot.commands).max() <= 2.0 + 1e-6
