"""The drive as a process: sources that die, stop, come twice or send rubbish; judged in ticks on the log of the robot behind it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from policies.motion import Reference
from policies.spec import InputError
from real.drive import DriveOptions
from real.drive_handle import DriveHandle
from real.drive_process import DriveProcess
from real.drive_server import DriveServer
from real.drive_server import main as drive_main
from real.latch import Latch, robot_folder
from real.robot import RobotGone
from real.wire import Message, encode
from robopolicy.cli import main
from robopolicy.twin.log import read_log
from tests.real.driven import Outsider, placed
from tests.real.jointed import RATE, ROOT, Joints, Running, moves

#: Ticks within which the fastest joint comes to rest, and how far it may go meanwhile, rad: velocity, then acceleration, then jerk.
STOP_TICKS = RATE * (2.0 / 12.0 + 2 * 12.0 / 400.0 + 8.0 / 400.0) + 2
STOP_RAD = 2.0 * STOP_TICKS / RATE


@pytest.fixture
def place(tmp_path):
    with placed(tmp_path, stop_after_s=0.3) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with placed(tmp_path_factory.mktemp("drive")) as made:
        yield made


def after_last(events, kind: str) -> list[str]:
    """Kinds that follow the last event of ``kind``, repetitions once."""
    kinds = events.kind.tolist()
    rest = kinds[len(kinds) - kinds[::-1].index(kind) :]
    return [k for i, k in enumerate(rest) if i == 0 or rest[i - 1] != k]


def test_a_killed_source_leaves_a_brake_a_hold_and_a_requested_stop_and_the_next_goes_on(place):
    source = place.source()
    source.ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 60, "moved")
    source.process.kill()
    before = place.outsider.status()
    status = place.outsider.wait(lambda s: s["cause"] == "silent; stop requested", "stopped by itself")
    assert status["state"] == "holding" and status["counts"]["stops"] == 0
    commands, events = place.check_log(), place.events()
    sent = before["counts"]["commands"] + before["counts"]["brake_ticks"]
    assert len(commands) - sent <= STOP_TICKS + RATE * 0.2 and np.abs(commands[-1] - commands[min(sent, len(commands)) - 1]).max() <= STOP_RAD
    assert set(after_last(events, "write")) <= {"hold", "stop", "silent"} and "stop" in events.kind
    place.source().ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > before["counts"]["commands"] + 60, "moved again")
    place.check_log()
    assert place.outsider.status()["counts"]["leases"] == 2


def test_a_source_that_stands_still_for_a_second_executes_nothing_old(place):
    source = place.source()
    source.ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 60, "moved")
    os.kill(source.process.pid, signal.SIGSTOP)
    stood = place.outsider.wait(lambda s: s["state"] == "holding", "stood")
    time.sleep(0.5)
    commands = len(place.check_log())
    os.kill(source.process.pid, signal.SIGCONT)
    place.outsider.wait(lambda s: s["counts"]["commands"] > stood["counts"]["commands"] + 60, "moved again")
    assert len(place.check_log()) > commands and place.outsider.status()["counts"]["leases"] == 1


@pytest.mark.parametrize("mischief", ["jump", "nan", "late"])
def test_mischief_never_reaches_the_robot(shared, mischief):
    before = shared.outsider.status()["counts"]
    with shared.source("--mischief", mischief) as source:
        source.ready()
        kind = {"jump": "jerk", "nan": "not finite"}.get(mischief)

        def counted(counts):
            return counts["late"] if kind is None else counts["refused"].get(kind, 0)

        shared.outsider.wait(lambda s: counted(s["counts"]) >= counted(before) + 3, mischief)
    shared.outsider.wait(lambda s: s["state"] == "holding", "at rest")
    shared.check_log()


def test_one_source_at_a_time(shared):
    with shared.source() as first:
        first.ready()
        with pytest.raises(InputError, match=r"another source commands this robot \(process \d+\)"):
            DriveHandle(shared.address)
        commands = shared.outsider.status()["counts"]["commands"]
        for kind in ("command", "resume", "alive", "reset", "report", "bye", "nonsense"):
            refused = shared.outsider.ask(kind, {"tick": 10**6}, session=1234, arrays={"command": np.zeros(3)})
            assert (refused.kind, refused.meta["code"]) == ("error", "lease")
        shared.outsider.wait(lambda s: s["counts"]["commands"] > commands + 20, "went on")
        assert shared.outsider.status()["counts"]["lease"] >= 7
    with DriveHandle(shared.address) as second:  # as soon as the killed one's lease has run out
        assert second.read().fields["observation.state"].shape == (3,)
    with DriveHandle(shared.address) as third:  # at once: the second has given it back
        third.read()
    shared.check_log()


def test_a_lease_that_was_taken_over_ends_the_run_of_the_one_before(shared):
    sleeper = DriveHandle(shared.address)
    sleeper.read()
    time.sleep(1.2 * DriveOptions().lease_s)
    with DriveHandle(shared.address) as other:
        other.read()
        with pytest.raises(RobotGone, match="another source has taken over"):
            for _ in range(500):
                sleeper.hold()
                sleeper.read()
    sleeper.close()


def test_anyone_may_hold_the_robot_and_only_its_source_lets_it_go(shared):
    with DriveHandle(shared.address) as handle:
        reading = handle.read()
        assert shared.outsider.ask("hold", {"who": "the page"}).kind == "held"
        at = Reference.at_rest(reading.reference.position)
        for _ in range(5):
            handle.write(at.position, at)
            reading = handle.read()
        assert (reading.drive_state, reading.cause) == ("holding", "held: by the page")
        handle.resume()
        until = time.monotonic() + 30
        while reading.drive_state != "active":  # on a busy machine a command may come too late for its tick
            assert time.monotonic() < until, reading.cause
            handle.write(at.position, at)
            reading = handle.read()
        assert handle.report()["robot"] == []


def test_hostile_bytes_cost_the_sender_an_error_and_nothing_else(shared):
    before = shared.outsider.status()
    generator = np.random.default_rng(5)
    good = encode(Message("command", 77, 1, meta={"tick": 3}, arrays={"command": np.zeros(3), "reference": np.zeros((3, 3))}))
    good = [bytes(f) for f in good]
    hostile = Outsider(shared.address)
    for k in range(1500):
        frames = [bytearray(f) for f in good]
        for _ in range(int(generator.integers(1, 6))):
            frame = frames[int(generator.integers(len(frames)))]
            if len(frame):
                frame[int(generator.integers(len(frame)))] = int(generator.integers(256))
        if k % 3 == 0:
            del frames[int(generator.integers(len(frames))) :]
        if k % 7 == 0:
            frames += [bytearray(b"x")] * int(generator.integers(80))
        hostile.socket.send_multipart(frames or [b""])
        while hostile.socket.poll(0):
            hostile.socket.recv_multipart()
    while hostile.socket.poll(500):
        hostile.socket.recv_multipart()
    hostile.close()
    for meta in ({}, {"who": 5}, {"who": "x" * 10**5}, {"cause": [1, 2]}):
        assert shared.outsider.ask("hello", meta).kind == "ready"
        shared.outsider.sequence += 10
    after = shared.outsider.wait(lambda s: s["tick"] > before["tick"] + 5, "ticked on")
    refused = {kind: after["counts"].get(kind, 0) - before["counts"].get(kind, 0) for kind in ("malformed", "lease")}
    assert refused["malformed"] > 200 and sum(refused.values()) > 1200, refused
    assert after["counts"]["commands"] == before["counts"]["commands"]


def test_a_stop_survives_the_restart_of_every_process_until_it_is_cleared(place, capsys):
    source = place.source()
    source.ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 60, "moved")
    assert place.outsider.ask("stop", {"cause": "a hand", "who": "the test"}).kind == "stopped"
    assert Latch(robot_folder("twin of joints")).read().cause == "a hand", "kept before it was confirmed"
    place.outsider.wait(lambda s: s["state"] == "stopped", "stopped")
    place.drive.end()
    source.process.kill()
    events, commands = place.events(), place.check_log()
    assert "stop" in events.kind and set(after_last(events, "write")) <= {"hold", "stop", "silent"}
    place.start()
    with DriveHandle(place.address) as handle:
        reading = handle.read()
        for _ in range(10):
            handle.write(reading.reference.position, reading.reference)
            reading = handle.read()
        assert reading.drive_state == "stopped" and reading.cause.startswith("a hand (by the test")
        assert main(["estop", "--status"]) == 1 and main(["estop", "twin of joints", "--clear"]) == 0
        while reading.drive_state == "stopped":
            reading = handle.read()
    assert len(place.check_log()) == len(commands), "nothing was written while it was latched"
    place.source().ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 30, "moved again")
    assert len(place.check_log()) > len(commands)


def test_the_command_line_stops_a_moving_robot(place, capsys):
    place.source().ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 60, "moved")
    assert main(["estop", "--cause", "pulled the cord"]) == 0
    status = place.outsider.wait(lambda s: s["state"] == "stopped", "stopped")
    assert status["cause"].startswith("pulled the cord (by robopolicy estop")
    place.outsider.wait(lambda s: "stop" in place.events().kind, "asked the robot's own stop")
    place.check_log()


def test_without_a_deadmans_signal_nothing_moves(tmp_path):
    with placed(tmp_path, deadman_s=0.15) as place, DriveHandle(place.address) as handle:
        reading = handle.read()
        for _ in range(5):
            handle.write(reading.reference.position, reading.reference)
            reading = handle.read()
        assert reading.cause == "deadman: no signal" and "write" not in place.events().kind
        active = 0
        for moving in moves(reading.reference.position, np.ones(3)):
            handle.alive()
            handle.write(moving.position, moving)
            active += handle.read().drive_state == "active"
        assert active > 0
        last = None
        while last is None or last.drive_state != "holding":  # the source lives, the operator's thumb has gone
            handle.write(np.zeros(3), Reference.at_rest(np.zeros(3)))
            last = handle.read()
        place.check_log()


def test_a_robot_that_hangs_is_told_and_the_process_answers_on(place):
    with DriveHandle(place.address) as handle:
        handle.read()
        os.kill(place.twin.process.pid, signal.SIGSTOP)
        with pytest.raises(RobotGone, match=r"robot gone: twin .* no answer within 1 s"):
            while True:
                handle.hold()
                handle.read(5.0)
        status = place.outsider.status()
        assert status["state"] == "stopped" and status["cause"].startswith("robot gone")
        os.kill(place.twin.process.pid, signal.SIGCONT)
        assert place.outsider.status()["state"] == "stopped", "what has been lost is not trusted again"


def test_asked_to_end_it_brakes_holds_and_requests_the_stop(place):
    source = place.source()
    source.ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 60, "moved")
    place.drive.process.terminate()
    assert place.drive.process.wait(20) == 0
    commands, events = place.check_log(), place.events()
    assert set(after_last(events, "write")) <= {"hold", "stop", "silent"} and "stop" in events.kind
    assert np.abs(np.diff(commands[-2:], axis=0)).max() < 1e-3, "it came to rest by the brake"


def test_a_killed_drive_is_the_robots_own_silence(place):
    place.source().ready()
    place.outsider.wait(lambda s: s["counts"]["commands"] > 60, "moved")
    place.drive.process.kill()
    until = time.monotonic() + 20
    while "silent" not in place.events().kind:
        assert time.monotonic() < until, "the robot did not hold by itself"
        time.sleep(0.02)


def test_a_drive_outlives_whoever_started_it_and_ends_when_nobody_speaks(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path / "state"))
    code = """
import json, os, sys
from pathlib import Path
from real.drive_process import DriveProcess
drive = DriveProcess({"type": "twin", "address": sys.argv[1]}, Path(sys.argv[2]), linger_s=1.0)
print(json.dumps([drive.process.pid, drive.address()]), flush=True)
os.killpg(0, 9)
"""
    with Running(tmp_path, "twin", "twin", "--log", tmp_path / "twin.jsonl") as twin:
        starter = [sys.executable, "-c", code, twin.ready(), str(tmp_path)]
        done = subprocess.run(starter, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, start_new_session=True, check=False)
        assert done.returncode == -9
        pid, address = json.loads(done.stdout)
        outsider = Outsider(address)
        assert outsider.status()["robot"] == "twin of joints"
        outsider.close()
        until = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < until, "it stays for ever"
            time.sleep(0.05)
        assert "stop" in read_log(tmp_path / "twin.jsonl").kind


def test_a_source_that_takes_its_time_to_begin_finds_its_drive(tmp_path):
    """A run loads a checkpoint and starts a recorder when its drive is there already."""
    with placed(tmp_path) as place:
        place.drive.end()
        place.start(linger_s=0.5)
        with DriveHandle(place.address) as handle:
            first = handle.read(5.0).tick
            time.sleep(1.5)
            while handle.read(5.0).tick < first + 1.5 * RATE:
                continue
        assert place.drive.process.poll() is None


def test_an_end_of_an_episode_is_never_skipped(tmp_path):
    with placed(tmp_path, max_steps=4) as place, DriveHandle(place.address) as handle:
        ends = 0
        for _ in range(60):
            reading = handle.read()
            if reading.ended:
                ends += 1
                handle.hold()
            else:
                handle.write(reading.reference.position, Reference.at_rest(reading.reference.position))
            if reading.tick % 7 == 0:
                time.sleep(0.06)  # several readings wait
        report = handle.report()
        assert report["skipped"] > 0 and ends >= 1
        seen = len([r for r in report["robot"] if r["ticks"] >= 20])
        assert ends in (seen, seen - 1), "one may have ended since the last reading"


def test_what_cannot_be_driven_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path / "state"))
    for robot, said in (({"type": "twim"}, "did you mean 'twin'"), ({"type": "twin", "adress": "x"}, "adress"), ({}, "expected a type")):
        with DriveProcess(robot, tmp_path) as drive, pytest.raises(InputError, match=said) as error:
            drive.address()
        assert "\n" not in str(error.value) and drive.process.wait() == 2
    with pytest.raises(InputError, match="only loopback"):
        DriveHandle("tcp://192.0.2.1:5557")
    with pytest.raises(InputError, match="no answer; start one with: robopolicy drive"):
        DriveHandle("tcp://127.0.0.1:9", connect_s=0.2)


@pytest.mark.parametrize("robot", ["[1]", "3", "null", '"twin"'])
def test_a_robot_that_is_no_mapping_is_one_line(robot, capsys):
    assert drive_main([robot]) == 2
    assert capsys.readouterr().err == "error: robot: expected a type, e.g. robot.type=twin\n"


def test_a_robot_that_goes_when_it_is_asked_for_its_stop_is_one_line(tmp_path, monkeypatch, capsys):
    def gone():
        raise RobotGone("joints: no answer within 1 s")

    robot = Joints()
    robot.stop = gone
    monkeypatch.setattr("real.drive_server.open_driver", lambda given: robot)
    monkeypatch.setattr(DriveServer, "_deserted", lambda self: self.drive.reading.tick > 2)
    assert drive_main(["{}", "--options", json.dumps({"state_dir": str(tmp_path)})]) == 1
    assert capsys.readouterr().err == "error: joints: no answer within 1 s\n"
