"""The instruments of the failure tests do what they say: the relay, the cable, the wall clock, the hostile bytes."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import zmq

from tests.faults.clock import WallClock
from tests.faults.frames import CLAIMS, claim, garbage, mutated, peak_bytes, throw
from tests.faults.proxy import Cable, Network, Relay


@pytest.fixture
def echo(tmp_path):
    """A ROUTER that answers every message with itself; returns its address."""
    context, stop = zmq.Context(), threading.Event()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.MAXMSGSIZE, 1 << 20)
    router.bind(f"ipc://{tmp_path}/echo")

    def run():
        while not stop.is_set():
            if router.poll(20):
                router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=run)
    thread.start()
    yield f"ipc://{tmp_path}/echo"
    stop.set()
    thread.join()
    context.destroy(linger=0)


def exchange(address, number, wait_s=1.0):
    """Send 0 .. number-1 and return the numbers that came back within ``wait_s`` of the last."""
    context = zmq.Context()
    client, back = context.socket(zmq.DEALER), []
    client.connect(address)
    for value in range(number):
        client.send_multipart([b"header", b"%d" % value])
    while client.poll(int(1e3 * wait_s)):
        back.append(int(client.recv_multipart()[1]))
    context.destroy(linger=0)
    return back


def test_a_good_network_changes_nothing(echo, tmp_path):
    with Relay(f"ipc://{tmp_path}/relay", echo) as relay:
        assert exchange(relay.address, 50, 0.3) == list(range(50))
        assert exchange(relay.address, 3, 0.3) == [0, 1, 2] and relay.counts == {"passed": 106, "reordered": 0}


def test_a_bad_network_loses_doubles_and_reorders(echo, tmp_path):
    with Relay(f"ipc://{tmp_path}/relay", echo, Network(jitter_s=0.05, loss=0.1, double=0.2, echo_s=0.1), seed=1) as relay:
        back = exchange(relay.address, 200, 0.5)
        counts = dict(relay.counts)
    assert counts["lost"] > 20 and counts["doubled"] > 40 and counts["reordered"] > 40
    assert len(set(back)) < 200 < len(back) and back != sorted(back)


def test_delays_are_kept_and_a_partition_loses_everything(echo, tmp_path):
    with Relay(f"ipc://{tmp_path}/relay", echo, Network(delay_s=0.1)) as relay:
        started = time.monotonic()
        assert exchange(relay.address, 1, 0.3) == [0] and time.monotonic() - started > 0.2
        relay.network = Network(partition=True)
        assert exchange(relay.address, 5, 0.3) == []
        relay.network = Network(towards_client=lambda frames: None if frames[1] == b"1" else [frames[0], b"7"])
        assert exchange(relay.address, 3, 0.3) == [7, 7]


def test_a_cable_stalls_and_is_cut():
    with socket.create_server(("127.0.0.1", 0)) as server, Cable(f"tcp://127.0.0.1:{server.getsockname()[1]}") as cable:
        host, port = cable.address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client, server.accept()[0] as end:
            client.sendall(b"abc")
            assert end.recv(3) == b"abc"
            cable.stalled = True
            time.sleep(0.1)
            client.sendall(b"def")
            end.settimeout(0.2)
            with pytest.raises(TimeoutError):
                end.recv(3)
            cable.stalled = False
            end.settimeout(5)
            assert end.recv(3) == b"def"
            cable.cut()
            assert client.recv(1) == b"" and end.recv(1) == b"" and cable.opened == 1


def test_the_wall_clock_steps_and_the_monotonic_one_does_not(tmp_path):
    clock = WallClock(tmp_path, offset_s=5)
    code = "import time\nfor _ in iter(input, 'end'): time.sleep(0.01); print(time.time(), time.monotonic(), flush=True)"
    environment = {**os.environ, **clock.environment}
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True, env=environment) as process:
        for offset in (5, -5, 0):
            clock.set(offset)
            process.stdin.write("now\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            assert wall - time.time() == pytest.approx(offset, abs=2) and monotonic == pytest.approx(time.monotonic(), abs=2)
        process.communicate("end\n")


def test_mutations_differ_and_are_the_same_for_the_same_seed():
    message = [b"header of some length", b"\0" * 16]
    first, second = list(mutated([message], 300)), list(mutated([message], 300))
    assert first == second != list(mutated([message], 300, seed=1))
    assert sum(m != message for m in first) > 290 and {len(m) for m in first} >= {1, 2, 3, 4}
    assert any(m[0].startswith(CLAIMS[0]) for m in first)


def test_claims_cost_a_good_socket_nothing(echo):
    before = peak_bytes(os.getpid())
    claim(echo)
    garbage(echo, b"GET / HTTP/1.1\r\n\r\n" * 100)
    assert throw(echo, mutated([[b"header", b"body"]], 500)) == 500
    assert exchange(echo, 5, 0.3) == [0, 1, 2, 3, 4]
    assert peak_bytes(os.getpid()) - before < 64 << 20
