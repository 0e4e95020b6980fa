"""The twin: its clock, its holds and its episodes step by step, then over the wire with its driver."""

import json
import threading
import time

import numpy as np
import pytest

from policies.spec import InputError
from real.robot import Robot, RobotGone
from real.robots import robot_class, robot_names
from real.robots.twin import TwinConfig, TwinRobot
from robopolicy.twin.server import TwinServer, records_json
from robopolicy.twin.world import World
from tests.real.toy import STEP, PointWorld

PERIOD = 0.04  # s, of a point world at 25 Hz


def at(world, seconds):
    """Step the world as if its machine were never late: whenever a step is due until ``seconds`` after its first command."""
    start = world.started
    while world.command is not None and not world.ended and world._next_step <= start + seconds:
        world.advance(world._next_step)


def begun(**options):
    world = World(PointWorld(1), **options)
    world.started = time.monotonic()
    return world


def test_the_clock_starts_with_the_first_command():
    world = begun(seed0=3)
    world.advance(world.started + 100)
    world.write(None, world.started)
    assert world.record.length == 0 and world.reading(world.started + 100)[1] == 0.0
    world.write(np.zeros(2), world.started)
    at(world, 0.02)
    assert world.record.length == 0
    at(world, 0.025)  # six tenths of a period later the first interval ends
    assert world.record.length == 1


def test_real_time_uses_the_newest_command_once_a_period():
    world = begun()
    start = world.observation["observation.state"].copy()
    for k in range(4):
        world.write(np.array([9.0, 9.0]), world.started + k * PERIOD)  # never used: a newer one comes in the same period
        world.write(start, world.started + k * PERIOD + 0.001)
        at(world, (k + 1) * PERIOD)
    assert world.record.length == 4 and world.record.repeated == 0
    np.testing.assert_allclose(world.observation["observation.state"], start, atol=1e-6)


def test_missing_commands_repeat_then_silence_holds():
    world = begun(silence_s=0.1)
    world.write(np.array([1.0, 1.0]), world.started)
    at(world, 0.4)
    assert (world.record.length, world.record.repeated, world.record.silent) == (10, 1, 8)  # steps end at 0.024, 0.064, 0.104 s, ...


def test_a_position_is_held_at_the_last_command():
    world = begun(silence_s=0.05)
    target = world.observation["observation.state"] + np.array([3 * STEP, 0], np.float32)
    target = np.clip(target, -1, 1)
    world.write(target, world.started)
    at(world, 1.0)
    np.testing.assert_allclose(world.observation["observation.state"], target, atol=1e-6)


def test_a_slow_machine_slips_and_never_hurries():
    world = begun()
    world.write(np.zeros(2), world.started)
    world.advance(world.started + 1.0)
    assert world.record.length == 1 and world.slips == 1
    assert world.advance(world.started + 1.0) > 0.9 * PERIOD or world.record.length == 1


def test_age_of_a_reading():
    world = begun()
    world.write(np.zeros(2), world.started)
    at(world, PERIOD)
    assert world.reading(world.captured_at + 0.013)[1] == pytest.approx(0.013)


def test_lockstep_steps_once_a_command():
    world = begun(lockstep=True)
    world.advance(world.started + 100)
    for k in range(5):
        world.write(np.zeros(2), world.started)
        assert world.record.length == k + 1
    world.write(None, world.started)
    assert world.record.length == 6


def test_episodes_follow_each_other_by_seed_once_the_end_is_known():
    world = begun(lockstep=True, episodes=3, seed0=40)
    seeds = []
    while not world.over:
        seeds.append(world.record.seed)
        expected = PointWorld(1).reset(np.array([world.record.seed]))
        np.testing.assert_array_equal(world.observation["observation.state"], expected["observation.state"][0])
        while not world.ended:
            world.write(expected["observation.environment_state"][0], world.started)
        length = world.record.length
        world.write(np.zeros(2), world.started)  # nobody has read the end yet
        assert world.ended and world.record.length == length
        world.delivered = True
        world.write(None, world.started)
    assert seeds == [40, 41, 42] and all(r.success for r in world.records) and world.record.length > 0


def test_lockstep_holding_from_the_start_ends_the_episode():
    world = begun(lockstep=True)
    for _ in range(world.env.max_episode_steps):
        world.write(None, world.started)
    assert world.ended and not world.record.success and world.record.length == 0


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_speed_must_be_a_speed(speed):
    with pytest.raises(InputError, match="speed"):
        World(PointWorld(1), speed=speed)


@pytest.fixture
def twin():
    """Serve worlds in threads; returns a function that makes one and connects its driver."""
    stop, running, robots = threading.Event(), [], []

    def start(**options):
        server = TwinServer(World(PointWorld(1), **options), "tcp://127.0.0.1:0", log=lambda line: None)
        thread = threading.Thread(target=server.serve, args=(stop.is_set,), daemon=True)
        thread.start()
        running.append(thread)
        robots.append(TwinRobot(TwinConfig(address=server.address, timeout_s=5)))
        return server, robots[-1]

    yield start
    for robot in robots:
        robot.close()
    stop.set()
    for thread in running:
        thread.join(5)


def test_driver_is_a_robot_and_tells_what_the_twin_is(twin):
    _, robot = twin(seed0=5, episodes=7, silence_s=0.3, speed=2.0)
    assert isinstance(robot, Robot) and robot.spec == PointWorld(1).spec
    info = robot.info
    assert (info.rate_hz, info.on_silence, info.silence_s, info.lockstep, info.episodes) == (50.0, "holds", 0.3, False, 7)
    reading = robot.read()
    assert reading.episode == 5 and not reading.ended
    now = time.monotonic_ns()
    assert all(0 <= now - stamp < 2e9 for stamp in reading.capture_ns.values())


def test_lockstep_over_the_wire_equals_the_world(twin):
    _, robot = twin(lockstep=True, seed0=11, episodes=2)
    world = PointWorld(1)
    for seed in (11, 12):
        obs = world.reset(np.array([seed]))
        for _ in range(world.max_episode_steps):
            reading = robot.read()
            assert reading.episode == seed
            np.testing.assert_array_equal(reading.fields["observation.state"], obs["observation.state"][0])
            if reading.ended:
                break
            command = obs["observation.environment_state"][0]
            robot.write(command)
            obs = world.step(command[None]).next_obs
        assert reading.ended and reading.success
        robot.hold()
    assert [(r["seed"], r["success"]) for r in robot.report()] == [(11, True), (12, True)]


def test_many_round_trips_lose_nothing(twin):
    server, robot = twin(lockstep=True)
    for _ in range(3000):
        robot.read()
        robot.write(np.zeros(2))
    assert server.world.records[0].length > 0


def test_many_real_time_ticks_lose_nothing(twin):
    server, robot = twin(speed=20.0)
    for _ in range(2000):
        robot.read()
        robot.write(np.zeros(2))
        robot.hold()
    robot.read()
    assert server._sequence == robot._sequence


def test_in_real_time_nobody_misses_an_end(twin):
    _, robot = twin(speed=20.0, seed0=7)
    goal = robot.read().fields["observation.environment_state"]
    robot.write(goal)
    for _ in range(200):
        time.sleep(0.005)
        robot.write(goal)
    robot.hold()
    reading = robot.read()
    assert (reading.episode, reading.ended, reading.success) == (7, True, True)
    robot.hold()
    deadline = time.monotonic() + 5
    while robot.read().episode == 7:
        assert time.monotonic() < deadline
    assert robot.read().episode == 8


@pytest.mark.parametrize("command", [np.array([np.nan, 0]), np.array([np.inf, 0]), np.zeros(3), np.zeros((1, 2))])
def test_the_drive_takes_no_bad_command(twin, command):
    _, robot = twin(lockstep=True)
    with pytest.raises(RobotGone, match="refused: command: expected 2 finite numbers"):
        robot.write(command)


def test_in_real_time_a_refusal_comes_with_the_next_reading(twin):
    _, robot = twin()
    robot.write(np.zeros(3))
    with pytest.raises(RobotGone, match="refused: command: expected 2 finite numbers"):
        robot.read()


def test_commands_beyond_the_limits_are_clipped_by_the_drive(twin):
    server, robot = twin(lockstep=True)
    robot.write(np.array([1e9, -1e9]))
    assert server.world.command.tolist() == [1.0, -1.0]


def test_stop_is_latched_until_a_new_session(twin):
    server, robot = twin(lockstep=True)
    robot.stop()
    with pytest.raises(RobotGone, match="was stopped"):
        robot.write(np.zeros(2))
    robot.close()
    again = TwinRobot(TwinConfig(address=server.address))
    again.write(np.zeros(2))
    again.close()


def test_reset_begins_the_next_episode(twin):
    _, robot = twin(lockstep=True, seed0=3)
    robot.write(np.zeros(2))
    robot.reset()
    assert robot.read().episode == 4
    assert [(r["seed"], r["success"]) for r in robot.report()] == [(3, False)]


@pytest.mark.parametrize("lockstep", [True, False])
def test_reset_after_an_end_skips_no_episode(twin, lockstep):
    """In real time the next episode begins as soon as the end was read, and a hold asks for it too: a reset then is late, not another."""
    server, robot = twin(lockstep=lockstep, seed0=3, speed=1.0 if lockstep else 4.0)
    for _ in range(1000):
        robot.write(np.zeros(2))
        if robot.read().ended:
            break
    robot.hold()
    robot.reset()
    robot.reset()
    assert robot.read().episode == 4 and len(server.world.records) == 2


def test_one_commander_at_a_time_and_a_new_session_starts_over(twin):
    server, robot = twin(lockstep=True, seed0=20)
    robot.write(np.zeros(2))
    robot.reset()
    with pytest.raises(InputError, match="another session commands this robot"):
        TwinRobot(TwinConfig(address=server.address, connect_s=1))
    robot.close()
    again = TwinRobot(TwinConfig(address=server.address))
    assert again.read().episode == 20 and again.report() == []
    again.close()


def test_no_twin_is_one_line():
    with pytest.raises(InputError, match=r"no answer within 0.2 s; start one with: robopolicy twin TASK"):
        TwinRobot(TwinConfig(address="tcp://127.0.0.1:9", connect_s=0.2))


def test_a_twin_that_died_is_gone(twin):
    server, robot = twin(lockstep=True)
    robot.config = TwinConfig(address=server.address, timeout_s=0.2)
    server.step = lambda wait_s: time.sleep(0.01)  # alive, but no longer answering
    time.sleep(0.15)
    with pytest.raises(RobotGone, match=r"no answer within 0.2 s"):
        robot.read() and robot.read()


def test_registry_lists_and_suggests():
    assert "twin" in robot_names() and robot_class("twin") is TwinRobot
    with pytest.raises(InputError, match="did you mean 'twin'"):
        robot_class("twim")


def test_records_are_json():
    world = begun(lockstep=True, seed0=3)
    found = json.loads(json.dumps(records_json("point", world.records), allow_nan=False))
    assert found["task"] == "point" and found["episodes"][0]["seed"] == 3
