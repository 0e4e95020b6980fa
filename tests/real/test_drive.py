"""The drive in this process, tick by tick: what is sent when commands come, come wrong, or do not come."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.motion import Reference
from policies.spec import InputError
from real.drive import Drive, DriveOptions
from real.latch import Latch
from real.robot import RobotGone, RobotInfo
from real.safety.brake import Brake
from tests.real.jointed import RATE, Joints, constant_jerk, limits, moves, worst
from tests.real.toy import spec as point_spec

TICK = 1 / RATE
GOAL = np.array([1.0, -0.8, 0.5])


@pytest.fixture
def latch(tmp_path):
    return Latch(tmp_path)


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
    plan = Brake.of(last, limits())
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


def test_the_stop_is_on_the_disk_before_it_is_acted_on(latch):
    order = []

    class Watching(Latch):
        def set(self, cause, who):
            order.append(("latched", len(robot.log)))
            return super().set(cause, who)

    drive, robot = begin(Watching(latch.path.parent))
    follow(drive, 40)
    drive.stop("a hand in the way", "the test")
    assert order == [("latched", 40)] and latch.read().cause == "a hand in the way"
    first = drive.tick(0.0)
    assert first.state == "stopped" and first.cause.startswith("a hand in the way") and first.reference.velocity.any()
    for _ in range(60):
        drive.tick(0.0)
    assert robot.words == ["write", "stop"] and drive.settled
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-9
    follows = drive.reading.reference
    assert drive.offer(follows.position, follows, drive.reading.tick + 1).startswith("stopped")


def test_a_latched_drive_takes_no_command_after_a_restart_until_it_is_cleared(latch):
    latch.set("before", "me")
    drive, robot = begin_stopped(latch)
    after = next(moves(np.zeros(3), GOAL))
    for _ in range(10):
        assert drive.offer(after.position, after, drive.reading.tick + 1).startswith("stopped: before")
        assert drive.tick(0.0).state == "stopped"
    assert robot.words == ["stop"]
    latch.clear()
    assert drive.tick(0.0).state == "holding"
    follow(drive, 5)
    assert robot.words == ["stop", "clear", "write"]


def begin_stopped(latch):
    robot = Joints()
    drive = Drive(robot, DriveOptions(), latch, clock=lambda: 0.0)
    assert drive.tick(0.0).state == "stopped"
    return drive, robot


def test_the_file_alone_stops_it_and_a_clear_is_not_believed_while_it_moves(latch):
    drive, _ = begin(latch)
    follow(drive, 40)
    Latch(latch.path.parent).set("from another process", "someone")
    assert drive.tick(0.0).state == "stopped"
    latch.clear()
    while drive.reading.reference.velocity.any():
        assert drive.tick(0.0).state == "stopped"
    drive.tick(0.0)
    assert drive.reading.state == "holding" and drive.counts.stops == 1


def test_a_stop_that_cannot_be_written_stops_all_the_same(latch, monkeypatch):
    drive, robot = begin(latch)
    follow(drive, 40)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(latch, "set", full)
    drive.stop("disk full")
    for _ in range(60):
        assert drive.tick(0.0).state == "stopped"
    assert "NOT kept on the disk: No space left" in drive.reading.cause and robot.words == ["write", "stop"]


def test_the_deadman(latch):
    drive, robot = begin(latch, deadman_s=0.2)
    after = next(moves(np.zeros(3), GOAL))
    drive.offer(after.position, after, 1)
    assert drive.tick(0.0).cause == "deadman: no signal" and not len(robot.commands)
    drive.alive()  # at 0 s
    follow(drive, 19)  # until 0.19 s
    for reference in itertools.islice(moves(np.zeros(3), GOAL), 19, 22):
        drive.offer(reference.position, reference, drive.reading.tick + 1)
        drive.tick(0.21)
    assert drive.reading.state == "braking" and drive.reading.cause == "deadman: no signal"


def test_an_operators_hold_stays_until_the_source_resumes(latch):
    drive, _ = begin(latch)
    follow(drive, 30)
    drive.hold("the page")
    run_out(drive)
    at = drive.reading.reference
    assert drive.offer(at.position, at, drive.reading.tick + 1) == "held: by the page" and drive.tick(0.0).state == "holding"
    drive.resume()
    follow(drive, 5)


def test_a_robot_that_leaves_its_command_is_stopped(latch):
    drive, robot = begin(latch)
    follow(drive, 30)
    robot.offset = np.array([0, 0, 0.31])  # tracking: 0.3
    after = next(itertools.islice(moves(np.zeros(3), GOAL), 30, None))
    drive.offer(after.position, after, drive.reading.tick + 1)
    assert drive.tick(0.0).state == "stopped" and drive.reading.cause.startswith("tracking: c is 0.31")
    assert latch.read().who == "the drive"


def test_unmeasured_joints_brake_but_do_not_latch(latch):
    drive, robot = begin(latch)
    follow(drive, 30)
    robot.offset = np.full(3, np.nan)
    drive.tick(0.0)
    at = drive.reading.reference
    assert drive.offer(at.position, at, drive.reading.tick + 1) == "measured joints are not finite"
    run_out(drive)
    assert latch.read() is None and np.isfinite(robot.commands).all()


def test_nothing_is_sent_before_the_robot_says_where_it_stands(latch):
    robot = Joints()
    robot.offset = np.full(3, np.nan)
    drive = Drive(robot, DriveOptions(), latch, clock=lambda: 0.0)
    after = next(moves(np.zeros(3), GOAL))
    assert drive.offer(after.position, after, 0).startswith("no reading")
    drive.tick(0.0)
    assert drive.offer(after.position, after, 1) == "measured joints are not finite"
    drive.tick(0.0)
    assert robot.words == ["hold"]


@pytest.mark.parametrize("error", [RobotGone("arm: no answer within 2 s"), OSError("cable"), ZeroDivisionError("a bug of a driver")])
@pytest.mark.parametrize("call", ["read", "write", "hold"])
def test_a_robot_that_is_gone_ends_nothing_but_motion(latch, error, call, monkeypatch):
    drive, robot = begin(latch)
    follow(drive, 30)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(robot, call, fail)
    for _ in range(60):
        reading = drive.tick(0.0)
    assert reading.state == "stopped" and reading.observation is None and str(error) in reading.cause
    spoken = len(robot.log)
    after = next(moves(np.zeros(3), GOAL))
    assert drive.offer(after.position, after, reading.tick + 1) == reading.cause
    drive.tick(0.0)
    assert len(robot.log) == spoken and drive.reading.tick == reading.tick + 1 and latch.read() is None
    assert drive.report()["robot"] is None


def test_ticks_that_were_missed_are_counted_and_old_commands_refused(latch):
    drive, robot = begin(latch, max_late_ticks=5)
    path = moves(np.zeros(3), GOAL)
    for k, missed in enumerate([0] * 20 + [5, 6]):
        after = next(path)
        assert drive.offer(after.position, after, drive.reading.tick + 1) == ""
        reading = drive.tick(0.0, missed)
        assert reading.state == ("braking" if missed == 6 else "active"), k
    assert reading.cause == "drive late: 6 ticks" and drive.counts.missed_ticks == 11 and drive.counts.refused["drive late"] == 1
    assert len(robot.log) == 22, "nothing is caught up"


@pytest.mark.parametrize("on_silence", ["holds", "brakes"])
def test_after_the_robots_own_silence_motion_begins_at_rest(latch, on_silence):
    info = RobotInfo("joints", RATE, on_silence, 0.25, motion=limits())
    drive, robot = begin(latch, Joints(info))
    follow(drive, 30)
    last = drive.reading.reference.position
    robot.offset = np.full(3, 0.05)  # it came to rest elsewhere
    drive.tick(0.0)
    drive.tick(0.0, missed=25)
    stands = robot.position + robot.offset if on_silence == "brakes" else None
    assert not drive.reading.reference.velocity.any() and drive.reading.state == "holding"
    if on_silence == "brakes":
        assert np.allclose(drive.reading.reference.position, stands, atol=1e-6)
    else:
        assert np.array_equal(drive.reading.reference.position, robot.commands[-1]) and (robot.commands[-1] != last).any()


def test_a_new_episode_begins_where_its_robot_stands(latch):
    drive, robot = begin(latch)
    follow(drive, 30)
    robot.ended = True
    drive.tick(0.0)
    robot.position, log = np.array([0.4, 0.4, 0.4]), len(robot.log)
    after = next(itertools.islice(moves(np.zeros(3), GOAL), 30, None))
    drive.offer(after.position, after, drive.reading.tick + 1)
    reading = drive.tick(0.0)
    assert [w for _, w in robot.log[log:]] == ["hold"], "neither a command nor a brake of the episode that is over"
    assert reading.observation.episode == 1 and np.allclose(reading.reference.position, 0.4) and not reading.reference.velocity.any()
    follow(drive, 5)


@pytest.mark.parametrize("on_silence", ["unknown", "", "coasts"])
def test_a_robot_that_does_not_say_what_silence_does_is_refused(latch, on_silence):
    with pytest.raises(InputError, match=r"^robot 'joints': what it does when commands stop is .*declare 'brakes' or 'holds'$"):
        Drive(Joints(dataclasses.replace(Joints().info, on_silence=on_silence)), latch=latch)


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
