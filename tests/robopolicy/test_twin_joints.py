"""The twin of an arm: its drive's ticks, jitter, episodes that follow each other, what the driver learns, and the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from policies.control import JointInterpolator
from policies.kinematics import Kinematics
from policies.motion import joint_columns
from policies.spec import InputError
from real.robot import RobotGone
from real.robots.twin import TwinConfig, TwinRobot
from real.safety.barriers import Barriers
from robopolicy.twin.log import TwinLog, read_log
from robopolicy.twin.server import TwinServer
from robopolicy.twin.world import World, open_log
from sim import registry
from sim.env import JointDriven

ROOT = Path(__file__).resolve().parents[2]
TICK = 0.01  # s


def arm(task: str = "arm/reach", **options):
    env = registry.make(task, 1, **options)
    assert isinstance(env, JointDriven)
    return env


def world(tmp_path: Path | None = None, lockstep: bool = False, speed: float = 1.0, **options) -> World:
    env = arm(**{k: options.pop(k) for k in ("task", "max_episode_steps") if k in options})
    log = open_log(tmp_path / "twin.jsonl", env, lockstep, speed) if tmp_path else None
    made = World(env, lockstep=lockstep, speed=speed, log=log, **options)
    made.started = time.monotonic()
    return made


def at(made: World, seconds: float) -> None:
    """Step as if the machine were never late."""
    while made.command is not None and not made.ended and made._next_step <= made.started + seconds:
        made.advance(made._next_step)


def standing(made: World) -> np.ndarray:
    return made.observation["observation.state"][:7].astype(np.float64)


@pytest.fixture
def serve():
    stop, running, robots = threading.Event(), [], []

    def start(made: World) -> TwinRobot:
        server = TwinServer(made, "tcp://127.0.0.1:0", log=lambda line: None)
        thread = threading.Thread(target=server.serve, args=(stop.is_set,), daemon=True)
        thread.start()
        running.append(thread)
        robots.append(TwinRobot(TwinConfig(address=server.address, timeout_s=10)))
        return robots[-1]

    yield start
    for robot in robots:
        robot.close()
    stop.set()
    for thread in running:
        thread.join(5)


def test_it_ticks_at_the_drives_rate() -> None:
    made = world()
    assert made.rate_hz == 100 and made.substeps == 5
    pose = standing(made)
    made.write(pose, made.started)
    for k in range(1, 20):
        made.write(pose, made.started + k * TICK)
        at(made, k * TICK + 0.005)
    assert made.record.ticks == 19 and made.record.length == 4 and made.record.repeated == 0


def test_early_commands_wait_for_their_tick() -> None:
    made = world()
    pose, used = standing(made), []
    steps = made._advance_world
    made._advance_world = lambda: (used.append(made.command[0] - pose[0]), steps())[1]  # type: ignore[method-assign]
    arrivals = [0.0, 1.3, 1.4, 3.2, 3.5, 5.0, 5.9, 6.6]  # ticks: as late and as early as a loaded machine sends them
    for k, tick in enumerate(arrivals):
        at(made, tick * TICK)
        made.write(pose + 1e-4 * k, made.started + tick * TICK)
    at(made, 8.7 * TICK)
    np.testing.assert_allclose(used, 1e-4 * np.array([0, 1, 2, 3, 4, 5, 6, 7, 7]), atol=1e-12)


def test_more_than_two_early_commands_lose_the_oldest_and_a_hold_drops_them() -> None:
    made = world()
    pose = standing(made)
    made.write(pose, made.started)
    at(made, 0.7 * TICK)
    for k in (1, 2, 3):
        made.write(pose + 1e-4 * k, made.started + 0.8 * TICK)
    at(made, 1.7 * TICK)
    assert made.command[0] == pytest.approx(pose[0] + 2e-4)
    made.write(None, made.started + 1.8 * TICK)
    at(made, 4 * TICK)
    assert made.command[0] == pytest.approx(pose[0] + 2e-4)


def test_silence_holds_and_is_logged_once(tmp_path: Path) -> None:
    made = world(tmp_path, silence_s=0.1)
    made.write(standing(made), made.started)
    at(made, 0.5)
    assert (made.record.ticks, made.record.repeated, made.record.silent) == (50, 9, 40)  # ticks end at 0.006, 0.016, ... s
    assert read_log(tmp_path / "twin.jsonl").kind.tolist() == ["begin", "silent"]


def test_the_driver_learns_what_the_arm_may_do(serve) -> None:
    made = world(lockstep=True)
    info = serve(made).info
    assert (info.rate_hz, info.substeps, info.lockstep, info.on_silence) == (100.0, 5, True, "holds")
    assert info.motion.to_dict() == made.env.motion.to_dict() and info.model == made.env.robot_model
    assert info.barriers == made.env.barriers and info.home == made.env.home
    field, columns = joint_columns(made.env.spec.observation, info.motion.names)
    assert field == "observation.state" and columns.tolist() == list(range(7))


def test_ticks_over_the_wire_equal_actions_of_the_world(serve) -> None:
    """The same interpolator on this side of the wire: bit for bit what ``step`` does with the actions."""
    made, env = world(lockstep=True, seed0=4), arm()
    robot, obs = serve(made), env.reset(np.array([4]))
    interpolator = JointInterpolator(env.motion, 100, 5)
    reading, state, interpolating = robot.read(), interpolator.start(env.qpos[:, :7]), 0
    while not reading.ended:
        for name, array in obs.items():
            np.testing.assert_array_equal(reading.fields[name], array[0])
        action = env.expert_action()
        for substep in range(5):
            command, state = interpolator.step(state, action.astype(np.float64), substep)
            robot.write(command[0])
            reading = robot.read()
        result = env.step(action)
        obs, interpolating = result.next_obs, interpolating + 1
    assert reading.success and result.info["success"][0]
    (record,) = robot.report()
    assert record["length"] == interpolating and record["ticks"] == 5 * interpolating


def test_a_command_for_an_episode_that_is_over_moves_nothing(serve, tmp_path: Path) -> None:
    made = world(tmp_path, speed=5.0, max_episode_steps=2, seed0=9)
    robot = serve(made)
    pose = robot.read().fields["observation.state"][:7].astype(np.float64)
    deadline = time.monotonic() + 10
    while made.record.seed == 9:  # the driver has not looked: it still means the first episode
        robot._send("write", {"action": pose}, 1.0, {"quiet": True, "episode": 9})
        time.sleep(0.01)
        made.delivered |= made.ended
        assert time.monotonic() < deadline
    for _ in range(3):
        robot._send("write", {"action": pose + 0.5}, 1.0, {"quiet": True, "episode": 9})
    reading = robot.read()
    assert reading.episode == 10 and made.command is None and made.record.ticks == 0
    log = read_log(tmp_path / "twin.jsonl")
    assert log.refused[-3:].tolist() == ["episode"] * 3 and log.episode[-1] == 9
    *_, (start, commands) = log.motions()
    assert len(commands) == 0
    np.testing.assert_array_equal(start, reading.fields["observation.state"][:7])


def test_the_log_holds_what_arrived_unclipped(serve, tmp_path: Path) -> None:
    robot = serve(world(tmp_path, lockstep=True))
    pose = robot.read().fields["observation.state"][:7].astype(np.float64)
    robot.write(pose)
    robot.write(pose + 100)
    with pytest.raises(RobotGone, match="expected 7 finite numbers"):
        robot.write(np.full(7, np.nan))
    with pytest.raises(RobotGone, match="expected 7 finite numbers"):
        robot.write(np.zeros(3))
    robot.hold()
    robot.stop()
    with pytest.raises(RobotGone, match="was stopped"):
        robot.write(pose)
    log = read_log(tmp_path / "twin.jsonl")
    assert log.about["task"] == "arm/reach" and log.about["rate_hz"] == 100 and log.about["motion"]["velocity"] == [2.0] * 7
    assert log.kind.tolist() == ["begin", "write", "write", "write", "write", "hold", "stop", "write"]
    assert log.refused.tolist() == ["", "", "", "command", "command", "", "", "stopped"]
    assert log.step.tolist() == [0, 0, 1, 2, 2, 2, 3, 4] and (np.diff(log.arrived_ns) > 0).all() and (np.diff(log.sequence[1:]) > 0).all()
    np.testing.assert_array_equal(log.command[[1, 2]], [pose, pose + 100])
    assert np.isnan(log.command[[3, 4, 5, 6]]).all()


def test_the_log_survives_kill_nine(tmp_path: Path) -> None:
    path, address = tmp_path / "twin.jsonl", f"ipc://{tmp_path}/twin"
    words = [sys.executable, "-m", "robopolicy", "twin", "arm-reach", "--bind", address, "--lockstep", "--log", str(path), "--max-steps", "100000"]
    for count in (40, 60):  # the second twin goes on in the same file
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        robot = TwinRobot(TwinConfig(address=address, connect_s=60, timeout_s=20))
        pose = robot.read().fields["observation.state"][:7].astype(np.float64)
        for k in range(count):
            robot.write(pose + 1e-5 * k)
        process.kill()
        process.wait()
        robot.close()
    log = read_log(path)
    assert [len(commands) for _, commands in log.motions()] == [40, 60]
    with path.open("ab") as file:
        file.write(b'{"kind":"wri')
    assert len(read_log(path).kind) == len(log.kind)


@pytest.mark.parametrize("task", ["arm/reach", "arm/push", "arm/tour"])
def test_the_expert_keeps_clear_of_the_barriers_that_the_arm_declares(task: str) -> None:
    """So that a safety filter lets demonstrations pass as they are, beyond the distance at which it begins to hold off."""
    env = registry.make(task, 6)
    barriers = Barriers(env.barriers, Kinematics(env.robot_model))
    assert {"plane0:tool", "base:tool", "link5:link7"} <= set(barriers.names)
    env.reset(np.arange(6))
    for _ in range(env.max_episode_steps):
        for row in np.flatnonzero(env._running):
            assert barriers.distances(env.qpos[row, :7]).min() > barriers.config.reserve_m
        env.retire(env.step(env.expert_action()).info["success"])
        if not env._running.any():
            break
    assert not env._running.any()
    env.close()


def test_what_is_no_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(json.dumps({"kind": "start"}) + "\n")
    with pytest.raises(InputError, match="not a log of a twin"):
        read_log(tmp_path / "other")
    with pytest.raises(InputError, match="No such file"):
        read_log(tmp_path / "none")
    with pytest.raises(InputError, match="Is a directory"):
        TwinLog(tmp_path, {})
