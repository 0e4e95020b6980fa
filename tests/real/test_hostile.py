"""Ten thousand mutated messages (half of them behind keys) and claims of 2 GiB against a server that shares memory, in the open and behind keys."""

import resource
import shutil
import socket
import struct
import threading
import time

import msgpack
import numpy as np
import pytest
import zmq

from real.keys import ClientKeys, authorize, new_keys
from real.server import PolicyServer
from real.shm import segment_for
from real.wire import Limits, Message, Placed, encode
from tests.real.sockets import Raw, act_message
from tests.real.toy import torch_policy

IMAGE = "observation.images.top"
LIMITS = Limits(frame_bytes=1 << 16)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(params=["open", "keys"])
def running(request, tmp_path):
    """A server in a thread, and how to connect to it."""
    keys = None
    if request.param == "keys":
        public, _ = new_keys(tmp_path / "server", "server")
        new_keys(tmp_path / "client", "arm")
        shutil.copy(public, tmp_path / "client")
        authorize(tmp_path / "server", tmp_path / "client" / "arm.key")
        keys = ClientKeys(tmp_path / "client")
    policy, stop = torch_policy(), threading.Event()
    lines: list[str] = []
    server = PolicyServer(policy, "tcp://127.0.0.1:0", stats_s=0, log=lines.append, keys=None if keys is None else tmp_path / "server")
    server.warm_up()
    thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
    thread.start()
    made = []

    def connect():
        made.append(Raw(server.address, keys))
        return made[-1]

    yield server, policy, connect
    for one in made:
        one.socket.close(linger=0)
    stop.set()
    thread.join(10)
    assert not thread.is_alive() and not any("Error" in line and "not finite" not in line for line in lines), lines[:3]


def seeds(policy, session, segment, others):
    """Return the frames of every kind of message that a server answers; those of the first two by a client of their own."""
    shared = act_message(policy, session, 0)
    del shared.arrays[IMAGE]
    shared.shared = {IMAGE: Placed("uint8", (1, 2, 24, 32, 3), 4096)}
    hello, share = Message("hello", sequence=1, meta={"streams": 1, "resume": others}), Message("share", session, 0, meta=segment.offer)
    return [[bytes(f) for f in encode(m)] for m in (hello, share, act_message(policy, session, 0), shared)]


def ask(one, message):
    """Return the answer to ``message``; those to messages before it are passed over."""
    one.send(message)
    while (reply := one.receive(20)).sequence != message.sequence:
        pass
    return reply


def structured(generator, header):
    """Return a header with one value replaced by something of another kind, size or sign."""
    odd = [None, -1, 0, 1 << 62, 1 << 31, (1 << 31) - 1, "", "x" * 200, b"", b"\xff" * 64, [], {}, [[[]]], {"a": [1, "b"]}, float("nan"), float("inf"), True]
    value = msgpack.unpackb(header)
    place, key = value, int(generator.integers(0, len(value)))
    while isinstance(place[key], (list, dict)) and place[key] and generator.random() < 0.8:
        place = place[key]
        key = list(place)[int(generator.integers(0, len(place)))] if isinstance(place, dict) else int(generator.integers(0, len(place)))
    place[key] = odd[int(generator.integers(0, len(odd)))]
    return msgpack.packb(value)


def mutated(generator, frames):
    frames = list(frames)
    which = int(generator.integers(0, len(frames)))
    data, kind = bytearray(frames[which]), int(generator.integers(0, 7))
    if kind == 0 and data:
        for _ in range(int(generator.integers(1, 9))):
            data[int(generator.integers(0, len(data)))] = int(generator.integers(0, 256))
    elif kind == 1:
        del data[int(generator.integers(0, len(data) + 1)) :]
    elif kind == 2:
        data += bytes(generator.integers(0, 256, int(generator.integers(1, 200)), np.uint8))
    elif kind == 3:
        frames.insert(which, bytes(data))
    elif kind == 4 and len(frames) > 1:
        del frames[which]
        return frames
    elif kind == 5 and data:  # a length of 2 GiB somewhere
        at = int(generator.integers(0, len(data)))
        data[at : at + 5] = bytes([int(generator.choice([0xC6, 0xC9, 0xDB, 0xDD, 0xDF]))]) + b"\x7f\xff\xff\xff"
    else:
        return [structured(generator, frames[0]), *frames[1:]]
    frames[min(which, len(frames) - 1)] = bytes(data)
    return frames


def test_thousands_of_mutated_messages(running):
    server, policy, connect = running
    generator, segment = np.random.default_rng(0), segment_for(policy.spec.observation, policy.n_obs_steps)
    greeter, sharer, raw = connect(), connect(), connect()
    before, answers, others, kinds = peak_mb(), 0, 0, []
    for number in range(5_500):
        if number % 250 == 0:  # a mutated number may well be a sequence that no later one is above: that ends a session for its client
            for one in (sharer, raw):
                while one.socket.poll(50):
                    one.socket.recv_multipart()
                    answers += 1
            session, others = (ask(one, Message("hello", 0, 10**6 + number, meta={"streams": 1, "resume": 0})).session for one in (raw, sharer))
            assert ask(raw, Message("share", session, 7, meta=segment.offer)).kind == "shared"
            kinds = seeds(policy, session, segment, others)
        kind = int(generator.integers(0, 4))
        header = msgpack.unpackb(kinds[kind][0])
        header[3] = 10 + number % 250  # a sequence that counts up, so that what is not broken is served
        header[2] = others if kind == 1 else header[2]
        sender = (greeter, sharer, raw, raw)[kind]
        frames = [msgpack.packb(header), *kinds[kind][1:]]
        sender.socket.send_multipart(mutated(generator, frames) if number % 10 else frames)
        for one in (greeter, sharer, raw):
            while one.socket.poll(0):
                one.socket.recv_multipart()
                answers += 1
        if number % 500 == 499:
            good = connect()
            own = good.hello()
            good.send(act_message(policy, own, 2))
            assert good.receive(20).kind == "plan"
    until = time.monotonic() + 20
    while raw.socket.poll(500) and time.monotonic() < until:
        raw.socket.recv_multipart()
        answers += 1
    segment.unlink()
    stats = server.stats
    assert stats.malformed > 2000 and stats.plans > 100 and stats.shared_arrays > 100 and stats.shared_refused > 10 and answers > 2000, vars(stats)
    assert stats.policy_errors == 0 and peak_mb() - before < 200


def test_lengths_of_2_gib_on_the_bare_connection(running):
    server, policy, connect = running
    host, port = server.address.removeprefix("tcp://").rsplit(":", 1)
    before = peak_mb()
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + (b"NULL" if server._keys is None else b"CURVE").ljust(20, b"\0") + bytes(32)
    for tail in (
        b"\x02" + struct.pack(">Q", 1 << 31),
        b"\x06" + struct.pack(">Q", (1 << 63) - 1),
        b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER" + b"\x02" + struct.pack(">Q", 1 << 31),
        bytes(range(256)),
    ):
        with socket.create_connection((host, int(port))) as bare:
            bare.sendall(greeting + tail)
            bare.settimeout(0.3)
            try:
                while bare.recv(1 << 16):
                    pass
            except OSError:
                continue
    raw = connect()
    own = raw.hello()
    raw.send(act_message(policy, own, 2))
    assert raw.receive(20).kind == "plan" and peak_mb() - before < 100


def test_an_oversized_frame_or_a_thousand_frames_cost_only_their_sender(running):
    server, policy, connect = running
    good, bad = connect(), connect()
    session = good.hello()
    before = peak_mb()
    frames = [bytes(f) for f in encode(Message("hello", sequence=1, meta={"streams": 1, "resume": 0}))]
    bad.socket.send_multipart([*frames, *[b"x"] * 1000])
    assert "at most" in bad.receive().meta["text"]
    bad.socket.send_multipart([*frames, bytes(8 << 20)])
    good.send(act_message(policy, session, 2))
    assert good.receive(20).kind == "plan" and server.stats.policy_errors == 0
    assert bad.socket.poll(100) == 0 and bad.socket.type == zmq.DEALER and peak_mb() - before < 100
