"""The operator's channel: anybody may make the robot safer, only the token lets it move, and nothing old is carried out."""

from __future__ import annotations

import math
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import InputError
from real.latch import Latch
from real.operator import OperatorChannel, OperatorClient, OperatorRefused, read_file
from real.wire import Message, encode
from robopolicy.cli import main


@pytest.fixture
def keep():
    with ExitStack() as stack:
        yield lambda one: (stack.callback(one.close), one)[1]


def ask(channel, client, kind, value=None):
    """Ask from a thread, as another process would; return what the runtime got, or raise what the client did."""
    failed, got = [], []

    def work():
        try:
            client.request(kind, value)
        except OperatorRefused as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        got += channel.poll()
        time.sleep(0.001)
    thread.join()
    if failed:
        raise failed[0]
    return [tuple(request) for request in got + channel.poll()]


def test_without_the_token_the_robot_can_only_be_made_safer(keep):
    channel = keep(OperatorChannel())
    channel.speed = 0.5
    stranger = keep(OperatorClient(channel.address))
    assert ask(channel, stranger, "hold") == [("hold", 0.0)]
    assert ask(channel, stranger, "stop") == [("stop", 0.0)]
    assert ask(channel, stranger, "speed", 0.2) == [("speed", 0.2)] and channel.speed == 0.2
    for kind, value in (("resume", None), ("deadman", 1.0), ("speed", 0.21), ("speed", 1.0)):
        with pytest.raises(OperatorRefused, match="needs the token"):
            ask(channel, stranger, kind, value)
    assert channel.refused == {"no token": 4} and channel.speed == 0.2 and channel.deadman_age_s == math.inf
    wrong = keep(OperatorClient(channel.address, "0" * 32))
    with pytest.raises(OperatorRefused, match="needs the token"):
        ask(channel, wrong, "resume")
    for value in (-0.1, 1.1, math.nan, math.inf):
        with pytest.raises(OperatorRefused):
            ask(channel, stranger, "speed", value)
    assert channel.speed == 0.2


def test_with_the_token_everything_is_allowed(keep):
    channel = keep(OperatorChannel())
    channel.speed = 0.1
    client = keep(OperatorClient(channel.address, channel.token))
    assert ask(channel, client, "resume") == [("resume", 0.0)]
    assert ask(channel, client, "speed", 0.9) == [("speed", 0.9)] and channel.speed == 0.9
    assert ask(channel, client, "deadman", 1.0) == [("deadman", 1.0)]
    assert channel.deadman_age_s < 5
    assert ask(channel, client, "deadman", 0.0) == [] and channel.deadman_age_s == math.inf
    with pytest.raises(OperatorRefused, match="expected one of hold, stop"):
        ask(channel, client, "kill")
    with pytest.raises(OperatorRefused, match="takes no value"):
        ask(channel, client, "stop", 1.0)
    assert ask(channel, client, "stop") == [("stop", 0.0)]


def test_what_waited_in_a_queue_is_not_carried_out_but_a_stop_is(keep):
    late = [0]
    channel = keep(OperatorChannel(clock_ns=lambda: time.monotonic_ns() + late[0]))
    client = keep(OperatorClient(channel.address, channel.token, timeout_s=10))
    late[0] = 2_000_000_000  # the runtime looks two seconds later
    for kind, value in (("resume", None), ("deadman", 1.0), ("speed", 1.0)):
        channel.speed = 0.5
        with pytest.raises(OperatorRefused, match=r"2.0\d s ago"):
            ask(channel, client, kind, value)
    assert channel.refused["stale"] == 3
    assert ask(channel, client, "hold") == [("hold", 0.0)]
    assert ask(channel, client, "stop") == [("stop", 0.0)]
    late[0] = -2_000_000_000  # made in the future: another machine's clock, or a lie
    with pytest.raises(OperatorRefused):
        ask(channel, client, "resume")


def test_a_deadman_ends_with_its_heartbeat_and_each_holder_lets_go_for_itself(keep):
    now = [10**12]
    channel = keep(OperatorChannel(clock_ns=lambda: now[0]))
    context = zmq.Context()
    holders = [context.socket(zmq.DEALER) for _ in range(10)]
    for socket in holders:
        socket.connect(channel.address)

    def beat(socket, held):
        socket.send(encode(Message("deadman", meta={"token": channel.token, "sent_ns": now[0], "value": float(held)}))[0])
        until = time.monotonic() + 10
        while not socket.poll(0):
            assert time.monotonic() < until
            channel.poll()
        socket.recv_multipart()

    beat(holders[0], 1)
    now[0] += 100_000_000
    assert channel.deadman_age_s == pytest.approx(0.1)
    beat(holders[1], 1)
    assert channel.deadman_age_s == 0
    beat(holders[1], 0)
    assert channel.deadman_age_s == pytest.approx(0.1)
    now[0] += 10**9
    assert channel.deadman_age_s == pytest.approx(1.1)
    for socket in holders:
        beat(socket, 1)
    assert channel.refused == {"too many": 2}
    context.destroy(linger=0)


def test_stops_come_first_and_a_flood_costs_a_bounded_tick(keep):
    channel = keep(OperatorChannel())
    context = zmq.Context()
    flood, other = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    flood.setsockopt(zmq.SNDHWM, 0)
    for socket in (flood, other):
        socket.connect(channel.address)
    other.send(encode(Message("hold"))[0])
    for _ in range(5000):
        flood.send(b"x" * 100)
    other.send(encode(Message("stop"))[0])
    got, polls = [], 0
    until = time.monotonic() + 20
    while "stop" not in [r.kind for r in got]:
        assert time.monotonic() < until
        before = sum(channel.refused.values())
        got += channel.poll()
        assert sum(channel.refused.values()) - before <= 16
        polls += bool(sum(channel.refused.values()) - before)
    assert channel.refused["malformed"] < 3000  # the stop had not to wait for the flood
    context.destroy(linger=0)


@given(st.lists(st.binary(max_size=64), min_size=1, max_size=4))
def test_any_frames_are_refused_with_a_count(frames):
    channel = OperatorChannel()
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.connect(channel.address)
        socket.send_multipart(frames)
        until = time.monotonic() + 10
        while not channel.refused:
            assert time.monotonic() < until
            assert channel.poll() == []
        assert set(channel.refused) <= {"malformed", "unknown request"}
    finally:
        context.destroy(linger=0)
        channel.close()


def test_the_file_is_private_and_goes_with_its_run(tmp_path):
    folder = tmp_path / "state"
    channel = OperatorChannel(folder=folder, telemetry="tcp://127.0.0.1:5600")
    file = folder / "operator.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = read_file(file)
    assert found["token"] == channel.token and found["telemetry"] == "tcp://127.0.0.1:5600"
    second = OperatorChannel(folder=folder)
    assert second.token != channel.token and len(second.token) == 32
    channel.close()
    assert read_file(file)["token"] == second.token  # not the first one's to remove
    file.chmod(0o644)
    with pytest.raises(InputError, match="others on this machine"):
        read_file(file)
    second.close()
    assert not file.exists()
    with pytest.raises(InputError, match="is one running"):
        OperatorClient.from_file(file)
    file.write_text("[]")
    file.chmod(0o600)
    with pytest.raises(InputError, match="not what a runtime writes"):
        read_file(file)
    with pytest.raises(InputError, match="only loopback"):
        OperatorChannel("tcp://0.0.0.0:0")


def test_the_commands_reach_a_runtime(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path))
    assert main(["stop"]) == 2
    assert "is one running" in capsys.readouterr().err
    channel = OperatorChannel(folder=tmp_path)
    got, done = [], threading.Event()

    def runtime():
        while not done.is_set():
            got.extend(channel.poll())
            time.sleep(0.001)

    thread = threading.Thread(target=runtime)
    thread.start()
    try:
        channel.speed = 0.3
        assert [main([kind]) for kind in ("hold", "resume", "stop")] == [0, 0, 0]
        assert main(["speed", "0.8"]) == 0 and main(["speed", "1.5"]) == 2
        assert main(["stop", "--operator", channel.address]) == 0
        assert main(["resume", "--operator", channel.address]) == 0
        file = tmp_path / "elsewhere.json"
        (tmp_path / "operator.json").rename(file)
        assert main(["resume", "--operator", channel.address]) == 2  # address alone, no token
        assert main(["resume", "--file", str(file)]) == 0
    finally:
        done.set()
        thread.join()
        channel.close()
    assert [r.kind for r in got] == ["hold", "resume", "stop", "speed", "stop", "resume", "resume"]


def test_nobody_there_is_said_in_time(keep, tmp_path):
    client = keep(OperatorClient(f"ipc://{tmp_path}/nobody", timeout_s=0.2))
    with pytest.raises(OperatorRefused, match="nobody listens"):
        client.request("stop")
    channel = keep(OperatorChannel())
    silent = keep(OperatorClient(channel.address, timeout_s=0.2))
    with pytest.raises(OperatorRefused, match="no answer"):
        silent.request("stop")
    assert channel.poll() == [("stop", 0.0)]  # and it is heard when the runtime looks


def test_it_starts_quickly_and_without_torch():
    code = "import real.operator, sys; sys.exit('torch' in sys.modules or 'viser' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2]).returncode == 0


def test_a_stop_that_the_runtime_does_not_hear_is_latched_for_its_drive(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path / "state"))
    latch = Latch(tmp_path / "elsewhere" / "arm")
    channel = OperatorChannel(folder=tmp_path / "state", latch=str(latch.path))  # which nobody polls
    try:
        assert main(["hold"]) == 2 and latch.read() is None
        assert main(["stop"]) == 0
        record = latch.read()
        assert record is not None and record.cause == "operator" and record.who == "robopolicy stop"
        assert "stopped by the drive's latch instead" in capsys.readouterr().out
    finally:
        channel.close()


def test_a_stop_without_a_run_names_the_one_that_needs_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path))
    assert main(["hold"]) == 2 and "estop" not in capsys.readouterr().err
    assert main(["stop"]) == 2
    assert "NOT stopped; robopolicy estop stops robots without a run" in capsys.readouterr().err
