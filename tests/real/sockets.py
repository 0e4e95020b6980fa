"""Both ends of the wire without the care of the real ones, for tests."""

import numpy as np
import zmq

from real.batching import ROWS
from real.server import PolicyServer
from real.wire import Limits, Message, checked_bind, configure, decode, encode, receive, send


def observation(policy, rows=1, seed=0):
    generator = np.random.default_rng(seed)
    out = {}
    for name, field in policy.spec.observation.fields.items():
        shape = (rows, policy.n_obs_steps, *field.shape)
        out[name] = generator.integers(0, 256, shape, np.uint8) if field.is_image else generator.uniform(-0.5, 0.5, shape).astype(field.dtype)
    return out


class Raw:
    """A DEALER socket without the client's care; ``keys`` of real.keys.ClientKeys."""

    def __init__(self, address, keys=None):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            keys.secure(self.socket)
        self.socket.connect(address)

    def send(self, message):
        self.socket.send_multipart([bytes(f) for f in encode(message)])

    def receive(self, seconds=20.0):
        assert self.socket.poll(int(1e3 * seconds)), "no answer"
        return decode(receive(self.socket, Limits()), Limits())

    def hello(self, streams=1):
        self.send(Message("hello", sequence=1, meta={"streams": streams, "resume": 0}))
        return self.receive().session


def act_message(policy, session, sequence, budget_s=5.0, kind="act"):
    rows = np.array([[0], [0], [1], [0], [0]])  # restart, after, noise, delay, frozen
    return Message(kind, session, sequence, budget_s, {}, policy.spec.fingerprint(), arrays={**observation(policy), ROWS: rows})


class FakeServer:
    """Answers the handshake as the real one, then as the test says."""

    def __init__(self, policy):
        self.real = PolicyServer(policy, "tcp://127.0.0.1:0", stats_s=0)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        configure(self.socket, Limits())
        self.address = checked_bind(self.socket, "tcp://127.0.0.1:0")

    def take(self):
        assert self.socket.poll(5000)
        frames = receive(self.socket, Limits())
        return frames[0].bytes, decode(frames[1:], Limits())

    def welcome(self):
        identity, message = self.take()
        assert message.kind == "hello"
        reply = self.real._open(identity, message)
        send(self.socket, reply, identity)
        return identity, reply.session

    def close(self):
        self.real.close()
        self.context.destroy(linger=0)
