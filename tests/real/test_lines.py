"""Nothing that a drive process says, hears or trips over keeps it from bringing the robot to rest."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from real.drive import Drive, DriveOptions
from real.drive_server import DriveServer
from real.latch import Latch
from real.lines import Lines
from real.wire import Message, encode
from tests.real.driven import Outsider, placed
from tests.real.jointed import GOAL, ROOT, Joints, limits, moves, worst


def test_lines_are_said_in_order_and_failures_are_counted():
    said, full = [], threading.Event()

    def say(line):
        if line == "bad":
            raise OSError(28, "No space left on device")
        said.append(line)

    lines = Lines(say)
    for line in ("a", "bad", "b"):
        lines(line)
    lines.close()
    assert said == ["a", "b"] and lines.lost == 1
    stuck = Lines(lambda line: full.wait(10))
    began = time.monotonic()
    for _ in range(1000):
        stuck("x")
    assert stuck.lost >= 1000 - 201 and time.monotonic() - began < 5
    full.set()
    stuck.close()


def test_whatever_is_raised_in_its_loop_the_robot_is_braked_and_asked_to_stop(tmp_path):
    robot = Joints()
    drive = Drive(robot, DriveOptions(), Latch(tmp_path))
    server, path, offered = DriveServer(drive, "tcp://127.0.0.1:0", log=lambda line: None), moves(np.zeros(3), GOAL), {-1, 0}

    def answer():
        due = drive.reading.tick + 1
        if due not in offered and drive.reading.observation is not None:
            offered.add(due)
            after = next(path)
            drive.offer(after.position, after, due)

    def publish(reading):
        if reading.tick >= 40:
            raise RuntimeError("broken")

    server._answer_all, server._publish = answer, publish
    with pytest.raises(RuntimeError, match="broken"):
        server.serve()
    assert drive.counts.commands > 20 and drive.counts.brake_ticks > 3 and drive.settled
    assert robot.words[-1] == "stop" and max(worst(robot.commands, limits()).values()) <= 1 + 1e-6


def test_arrays_of_other_kinds_cost_their_sender_an_error(tmp_path):
    with placed(tmp_path) as place:
        outsider = place.outsider
        ready = outsider.ask("hello")
        assert ready.kind == "ready"
        for kind, kind_of_rows in (("bool", "bool"), ("int64", "int64"), ("uint8", "float64"), ("float64", "float32")):
            arrays = {"command": np.zeros(3, kind), "reference": np.zeros((3, 3), kind_of_rows)}
            answer = outsider.ask("command", {"tick": 1}, ready.session, arrays)
            assert answer.kind == "error" and answer.meta["code"] == "wire"
        assert outsider.status()["state"] == "holding" and place.drive.process.poll() is None


@pytest.mark.parametrize("out", ["/dev/full", "closed pipe"])
def test_a_log_that_cannot_be_written_does_not_end_it(tmp_path, out):
    with placed(tmp_path) as place:
        command = [sys.executable, "-m", "real.drive_server", f'{{"type": "twin", "address": "{place.twin.ready()}"}}', "--linger", "1"]
        place.drive.end()
        file = tmp_path / "address"
        with Path("/dev/full" if out == "/dev/full" else "/dev/null").open("w") as full:
            process = subprocess.Popen(
                [*command, "--announce", str(file), "--options", f'{{"state_dir": "{tmp_path}"}}'],
                cwd=ROOT, stdout=full if out == "/dev/full" else subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        if process.stdout is not None:
            process.stdout.close()
        until = time.monotonic() + 30
        while not file.exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        outsider = Outsider(file.read_text())
        for _ in range(3):
            assert outsider.ask("hello").kind == "ready"
            time.sleep(0.15)
        assert outsider.status()["tick"] > 10 and process.poll() is None
        outsider.close()
        process.terminate()
        assert process.wait(20) in (0, 120)  # 120: Python's own complaint that its last words could not be written


def test_a_message_that_trips_the_drive_costs_its_sender_an_error(tmp_path, monkeypatch):
    drive = Drive(Joints(), DriveOptions(), Latch(tmp_path))
    server, sent = DriveServer(drive, "tcp://127.0.0.1:0", log=lambda line: None), []
    drive.report = lambda: 1 / 0
    server._session, server._identity = 7, b"me"
    monkeypatch.setattr("real.drive_server.send", lambda socket, message, identity: sent.append(message))
    server._answer([zmq.Frame(b"me"), *map(zmq.Frame, encode(Message("report", 7, 1)))])
    assert sent[0].kind == "error" and sent[0].meta["code"] == "failed" and server.counts["failed"] == 1
    server.close()
