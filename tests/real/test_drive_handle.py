"""The handle of a drive: in lock-step, paced by a clock, over the wire; and the time grid."""

import json
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.motion import Reference
from policies.spec import InputError
from real.drive import Drive, DriveOptions, DriveReading
from real.drive_handle import DriveHandle
from real.drive_server import DriveServer, Refused
from real.drive_wire import info_from_dict, info_to_dict, observation_of, reading_message
from real.latch import Latch
from real.robot import Observation, RobotGone, RobotInfo
from real.robots.twin import TwinConfig, TwinRobot
from real.ticks import Grid
from real.wire import Limits, Message, decode, encode
from robopolicy.twin.server import TwinServer
from robopolicy.twin.world import World
from tests.real.driven import Outsider
from tests.real.jointed import GOAL, RATE, TICK, Joints, limits, moves, worst
from tests.real.toy import PointWorld


@pytest.fixture
def latch(tmp_path):
    return Latch(tmp_path)


@pytest.fixture
def background():
    """Starts ``serve(stopped)`` functions in threads and ends them."""
    stop, threads = threading.Event(), []

    def start(serve):
        threads.append(threading.Thread(target=serve, args=(stop.is_set,), daemon=True))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)


def test_a_lockstep_run_through_the_drive_is_the_world_itself_bit_for_bit(latch, background):
    world = World(PointWorld(), seed0=3, episodes=2, lockstep=True)
    server = TwinServer(world, "tcp://127.0.0.1:0", log=lambda line: None)
    background(server.serve)
    handle = DriveHandle(Drive(TwinRobot(TwinConfig(address=server.address)), latch=latch))
    env, generator = PointWorld(), np.random.default_rng(0)
    for seed in (3, 4):
        expected, ended = env.reset(np.array([seed])), False
        reading = handle.read()
        while not ended:
            assert reading.episode == seed and reading.reference is None
            assert all(reading.fields[name].tobytes() == array[0].tobytes() for name, array in expected.items())
            action = generator.uniform(-1, 1, 2).astype(np.float32)
            handle.write(action)
            result = env.step(action[None])
            expected, ended, reading = result.obs, bool(result.terminated[0] or result.truncated[0]), handle.read()
            assert reading.ended == ended and reading.drive_state == "active"
        handle.hold()
    report = handle.report()
    assert report["commands"] == sum(r["length"] for r in report["robot"]) and not report["refused"] and not report["late"]
    handle.close()


def test_in_lockstep_time_passes_by_commands_alone(latch):
    robot = Joints(lockstep=True)
    handle = DriveHandle(Drive(robot, latch=latch))
    first = handle.read()
    assert handle.read().tick == first.tick == 0 and not robot.log
    path = list(moves(np.zeros(3), GOAL))
    for k, moving in enumerate(path[:30]):
        handle.write(moving.position, moving)
        assert handle.read().tick == k + 1
    handle.stop("enough")
    assert handle.read().drive_state == "stopped" and robot.words == ["write", "stop"] and not handle.read().reference.velocity.any()
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-9


def test_letting_go_in_lockstep_brings_the_robot_to_rest(latch):
    robot = Joints(lockstep=True)
    with DriveHandle(Drive(robot, latch=latch)) as handle:
        handle.read()
        for moving in list(moves(np.zeros(3), GOAL))[:30]:
            handle.write(moving.position, moving)
            handle.read()
    assert len(robot.commands) > 30 and np.abs(np.diff(robot.commands[-2:], axis=0)).max() < 1e-3
    handle.close()


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_drive_in_this_process_keeps_the_robots_rate(latch):
    clock, robot = Clock(), Joints()
    handle = DriveHandle(Drive(robot, latch=latch, clock=clock), clock=clock, sleep=clock.sleep)
    handle.read()
    for k, moving in enumerate(list(moves(np.zeros(3), GOAL))[:20]):
        handle.write(moving.position, moving)
        assert handle.read().drive_state == "active" and math.isclose(clock.now, 50 + (k + 1) * TICK)
    clock.now += 3.2 * TICK
    assert handle.read().drive_state == "braking" and math.isclose(clock.now, 50 + 23.2 * TICK)
    assert handle.report()["missed_ticks"] == 2
    robot.gone = True
    with pytest.raises(RobotGone, match="no answer within 1 s"):
        handle.read()


@given(st.floats(1, 500), st.lists(st.floats(0, 5), min_size=1, max_size=50))
@settings(max_examples=300, deadline=None)
def test_the_grid_is_absolute_and_catches_nothing_up(rate, delays):
    grid, period, now, used, missed = Grid(rate, 10.0), 1 / rate, 10.0, [], 0
    for delay in delays:  # in periods
        now = max(grid.due, now) + delay * period
        before = grid.due
        skipped = grid.begin(now)
        missed += skipped
        used.append(now)
        assert skipped == max(round((now - before) / period), 0)
        assert grid.due - now >= 0.5 * period * (1 - 1e-6), "two ticks are never closer than half a period"
        assert math.isclose((grid.due - 10.0) * rate, round((grid.due - 10.0) * rate), abs_tol=1e-6)
    assert round((grid.due - 10.0) * rate) == len(delays) + missed


class Stuck(Joints):
    """A robot whose cable hangs."""

    def __init__(self):
        super().__init__()
        self.hang, self.let_go = False, threading.Event()

    def read(self):
        if self.hang:
            self.let_go.wait(30)
        return super().read()


def test_a_driver_that_blocks_is_given_up_and_the_process_answers_on(latch, background):
    robot = Stuck()
    server = DriveServer(Drive(robot, DriveOptions(blocked_s=0.3), latch), "tcp://127.0.0.1:0", log=lambda line: None)
    background(server.serve)
    handle, outsider = DriveHandle(server.address), Outsider(server.address)
    handle.read(5.0)
    robot.hang = True
    with pytest.raises(RobotGone, match=r"robot gone: it has not answered within 0\.3 s"):
        while True:
            handle.read(5.0)
    assert outsider.status()["state"] == "stopped"
    robot.hang = False
    robot.let_go.set()
    assert outsider.wait(lambda s: s["state"] == "stopped", "stopped")["cause"].startswith("robot gone")
    said = len(robot.log)
    handle.hold()
    time.sleep(5 * TICK)
    assert len(robot.log) == said, "what has been given up is not spoken to"
    handle.close(), outsider.close()


def test_a_stop_that_the_drive_does_not_confirm_is_latched_for_it(latch, background, monkeypatch):
    monkeypatch.setattr("real.drive_handle._REPLY_S", 0.2)
    server = DriveServer(Drive(Joints(), latch=latch), "tcp://127.0.0.1:0", log=lambda line: None)
    background(server.serve)
    handle = DriveHandle(server.address)
    server._answer_all = lambda: None  # it hears nobody any more
    with pytest.raises(RobotGone, match=r"no answer within 0\.2 s; stopped by the drive's latch instead"):
        handle.stop("operator")
    assert latch.read() is not None and latch.read().cause == "operator"
    until = time.monotonic() + 5
    while handle.read(5.0).drive_state != "stopped":
        assert time.monotonic() < until, "the drive looks at the latch, whoever else it hears"
    handle.close()


def test_reset_and_report_cross(tmp_path, latch, background):
    from tests.real.jointed import JointWorld

    twin = TwinServer(World(JointWorld()), "tcp://127.0.0.1:0", log=lambda line: None)
    background(twin.serve)
    server = DriveServer(Drive(TwinRobot(TwinConfig(address=twin.address)), latch=latch), "tcp://127.0.0.1:0", log=lambda line: None)
    background(server.serve)
    handle = DriveHandle(server.address)
    assert handle.info.motion.to_dict() == limits().to_dict() and handle.info.substeps == 5 and handle.info.rate_hz == RATE
    first = handle.read(5.0)
    time.sleep(0.1)  # readings wait
    handle.reset()
    reading = handle.read(5.0)
    assert reading.episode == first.episode + 1, "no reading of the episode before"
    handle.reset()
    handle.reset()  # late: what it gives up is over
    assert handle.read(5.0).episode == first.episode + 2
    assert np.allclose(reading.reference.position, 0.01, atol=1e-6), "motion begins where the new episode does"
    report = handle.report()
    assert report["robot"] and report["work_ms"]["count"] > 0 and report["leases"] == 1
    handle.close()


def test_a_resume_does_not_undo_the_hold_of_a_drive_that_is_ending(latch):
    server = DriveServer(Drive(Joints(), latch=latch), "tcp://127.0.0.1:0", log=lambda line: None)
    server._serve_source("resume", Message("resume"))
    server._come_to_rest(lambda: None)
    with pytest.raises(Refused, match="the drive is ending"):
        server._serve_source("resume", Message("resume"))
    assert server.drive.refusal == "held: by the drive, which is ending"
    server.close()


def test_a_lockstep_robot_has_no_drive_process(latch):
    with pytest.raises(InputError, match="lock-step: it is driven inside the runtime's process"):
        DriveServer(Drive(Joints(lockstep=True), latch=latch), "tcp://127.0.0.1:0")


def test_declarations_cross_whole():
    info = RobotInfo("arm", 100.0, "brakes", 0.3, False, 7, 5, limits(tracking=np.inf), "<mujoco/>", (0.1, 0.2), {"planes": [{"normal": [0, 0, 1]}]})
    crossed = info_from_dict(json.loads(json.dumps(info_to_dict(info), allow_nan=False)))
    assert crossed.motion.to_dict() == info.motion.to_dict() and crossed.motion.tracking[0] == np.inf
    for name in ("name", "rate_hz", "on_silence", "silence_s", "lockstep", "episodes", "substeps", "model", "home", "barriers"):
        assert getattr(crossed, name) == getattr(info, name), name


finite = st.floats(-1e6, 1e6)
triples = st.lists(finite, min_size=3, max_size=3).map(np.array)


@given(triples, triples, triples, st.integers(0, 2**60), st.booleans(), st.text(max_size=40), st.integers(0, 2**62))
@settings(max_examples=100, deadline=None)
def test_readings_cross_bit_for_bit(position, velocity, acceleration, tick, ended, cause, stamp):
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    fields = {"observation.state": position.astype(np.float32), "observation.images.top": image}
    observation = Observation(fields, {"observation.state": stamp, "observation.images.top": stamp // 2}, 5, ended, not ended)
    sent = DriveReading(tick, "braking", cause, Reference(position, velocity, acceleration), observation)
    got = observation_of(decode([bytes(f) for f in encode(reading_message(sent))], Limits()))
    assert all(got.fields[n].tobytes() == fields[n].tobytes() and got.fields[n].shape == fields[n].shape for n in fields)
    assert got.capture_ns == observation.capture_ns and (got.tick, got.drive_state, got.cause) == (tick, "braking", cause[:500])
    assert (got.episode, got.ended, got.success) == (5, ended, not ended)
    for name, array in (("position", position), ("velocity", velocity), ("acceleration", acceleration)):
        assert getattr(got.reference, name).tobytes() == array.tobytes()
