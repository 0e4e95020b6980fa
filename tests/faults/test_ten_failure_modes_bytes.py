"""Failure mode 8: hostile bytes, lengths that are only claimed, floods and foreign sources at every socket of the stack.

The runtime moves the arm all the while; nobody else may make it move, and no process may end or grow.
"""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import zmq

from real.wire import Message, encode
from tests.faults.frames import claim, garbage, mutated, throw
from tests.faults.test_ten_failure_modes_server import assert_nothing_stale

GROWTH = 64 << 20  # bytes that a process may grow by while it is under attack
NUMBER = 10_000


def drive_messages():
    """One well-formed message of every kind that a drive knows, but for a stop."""
    arrays = {"command": np.zeros(7), "reference": np.zeros((3, 7))}
    kinds = ("hello", "command", "status", "alive", "resume", "reset", "report", "bye")
    return [[bytes(f) for f in encode(Message(kind, 5, 7, meta={"tick": 3, "who": "x"}, arrays=arrays if kind == "command" else {}))] for kind in kinds]


def flood(address, seconds):
    """Send as fast as the socket takes them, and read no answer."""
    context = zmq.Context()
    link = context.socket(zmq.DEALER)
    link.setsockopt(zmq.SNDTIMEO, 1000)
    link.connect(address)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        link.send_multipart([b"garbage"])
    context.destroy(linger=0)


def other_messages():
    """Well-formed messages of operators without the token, of readers, of policy clients and of robots' drivers."""
    meta = {"token": "0" * 32, "sent_ns": 1, "streams": 1, "resume": 0, "value": 1.0}
    kinds = ("resume", "deadman", "join", "hello", "act", "read", "write", "report")
    return [[bytes(f) for f in encode(Message(kind, 3, 9, 1.0, meta=meta, arrays={"action": np.zeros(7)}))] for kind in kinds]


@pytest.mark.parametrize("number", [NUMBER // 10, pytest.param(NUMBER, marks=pytest.mark.soak)])
def test_8_no_other_socket_takes_harm_from_bytes(stack, number):
    operator = json.loads((stack.state / "operator.json").read_text())["address"]
    targets = {stack.server: stack.server.ready(), stack.twin: stack.twin.ready(), stack.runtime: operator}
    before = {process: process.peak_bytes for process in targets}
    for address in (*targets.values(), f"ipc://{stack.folder}/telemetry"):
        assert throw(address, mutated(other_messages(), number)) == number
        claim(address)
        garbage(address, b"\xff" * 100 + b"GET / HTTP/1.1\r\n\r\n")
    stack.until_moving()
    assert stack.healthy() and all(process.peak_bytes - before[process] < GROWTH for process in targets)
    assert_nothing_stale(stack.judge())


@pytest.mark.parametrize("number", [NUMBER // 4, pytest.param(NUMBER, marks=pytest.mark.soak)])
def test_8_the_drive_takes_no_harm_from_bytes(stack, number):
    address, memory, leases = stack.drive.ready(), stack.drive.peak_bytes, stack.drive_status()["counts"]["leases"]
    assert throw(address, mutated(drive_messages(), number)) == number
    for _ in range(5):
        claim(address)
        garbage(address, b"\xff" * 100 + b"GET / HTTP/1.1\r\n\r\n")
    flood(address, 1.0)
    stack.until_moving()
    assert stack.drive_status()["counts"]["leases"] == leases, "the runtime lost its lease"
    assert stack.healthy() and stack.drive.peak_bytes - memory < GROWTH
    assert_nothing_stale(stack.judge())
