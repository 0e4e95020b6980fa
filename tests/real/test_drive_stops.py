"""The drive in this process, tick by tick: emergency stops, holds, deadmen, and robots and processes that fail."""

import dataclasses
import itertools

import numpy as np
import pytest

from policies.spec import InputError
from real.drive import Drive, DriveOptions
from real.latch import Latch
from real.robot import RobotGone, RobotInfo
from real.safety.brake import Brake
from tests.real.jointed import GOAL, RATE, TICK, Joints, begin, constant_jerk, follow, limits, moves, run_out, worst


@pytest.fixture
def latch(tmp_path):
    return Latch(tmp_path)


def test_the_stop_is_on_the_disk_before_it_is_acted_on(latch):
    order = []

    class Watching(Latch):
        def set(self, cause, who):
            order.append(("latched", len(robot.log)))
            return super().set(cause, who)

    drive, robot = begin(Watching(latch.path.parent))
    follow(drive, 40)
    last = drive.reading.reference
    assert drive.tick(0.0).state == "braking"  # gently, when the stop comes
    plan = Brake.of(drive.reading.reference, limits())
    drive.stop("a hand in the way", "the test")
    assert order == [("latched", 41)] and latch.read().cause == "a hand in the way"
    first = drive.tick(0.0)
    assert first.state == "stopped" and first.cause.startswith("a hand in the way") and first.reference.velocity.any()
    for _ in range(60):
        drive.tick(0.0)
    assert robot.words == ["write", "stop"] and drive.settled
    assert len(robot.commands) == 41 + int(np.ceil(plan.duration.max() / TICK)) < 41 + Brake.of(last, limits(), stop=False).duration.max() / TICK
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
    drive, robot = begin(latch, Joints(info), max_late_ticks=100)
    follow(drive, 30)
    last = drive.reading.reference.position
    robot.offset = np.full(3, 0.05)  # it came to rest elsewhere
    drive.tick(0.0)
    after = constant_jerk(drive.reading.reference, np.zeros(3), TICK)
    assert drive.offer(after.position, after, drive.reading.tick + 1) == ""
    drive.tick(0.0, missed=25)  # what was offered went on from a motion that is no more
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


def test_where_a_gentle_brake_would_swing_beyond_the_velocity_the_fast_one_is_taken(latch):
    motion = limits(low=-9.0, high=9.0, velocity=1.0, acceleration=20.0, jerk=50.0, stop_acceleration=20.0)
    drive = Drive(Joints(RobotInfo("joints", 100.0, "holds", 0.25, substeps=5, motion=motion)), DriveOptions(), latch)
    drive.tick(0.0)
    for reference in moves(np.zeros(3), np.full(3, 4.0), motion=motion):
        assert drive.offer(reference.position, reference, drive.reading.tick + 1) == ""
        drive.tick(0.0)
        if (reference.velocity > 0.85).all():
            break
    for _ in range(5):  # a source that stops in an emergency, and falls silent in the middle of it
        reference = Brake.of(drive.reading.reference, motion).reference(0.01)
        assert drive.offer(reference.position, reference, drive.reading.tick + 1) == ""
        drive.tick(0.0)
    while not drive.motion.at_rest:
        drive.tick(0.0)
        assert (np.abs(drive.reading.reference.velocity) <= 1 + 1e-6).all()


def test_where_a_gentle_brake_would_leave_the_range_the_fast_one_is_taken(latch):
    drive, robot = begin(latch)
    for reference in moves(np.zeros(3), np.full(3, 2.5)):
        if drive.offer(reference.position, reference, drive.reading.tick + 1):
            break
        drive.tick(0.0)
    last = drive.reading.reference
    assert (last.position + Brake.of(last, limits(), stop=False).displacement > 2.0).all()
    run_out(drive)
    assert np.allclose(robot.commands[-1], last.position + Brake.of(last, limits()).displacement) and robot.commands.max() <= 2.0 + 1e-6
