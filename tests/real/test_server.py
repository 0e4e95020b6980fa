"""Server and client over real sockets: served equals local, and what is late, foreign or malformed never gets through."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Execution, Policy
from policies.noise import row_keys
from policies.spec import InputError, SpecMismatch
from real.client import PolicyClient
from real.policy import RequestFailed, act_numpy
from real.server import PolicyServer
from real.wire import Limits, Message, checked_bind, configure, decode, encode, receive, send
from tests.real.test_policy import observation
from tests.real.toy import ROOT, ReachPolicy, torch_policy


@pytest.fixture
def serve():
    """Serve policies in threads; returns the servers."""
    running, stop = [], threading.Event()

    def start(policy, bind="tcp://127.0.0.1:0", **options):
        server = PolicyServer(policy, bind, stats_s=0, log=lambda line: None, **options)
        thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
        thread.start()
        running.append(thread)
        return server

    yield start
    stop.set()
    for thread in running:
        thread.join(5)


@pytest.fixture
def connect():
    """Make clients that are closed at the end."""
    made = []

    def client(address, **options):
        made.append(PolicyClient(address, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()


def test_handshake_tells_the_policy(serve, connect):
    server = serve(ReachPolicy(), name="reach 12ab")
    client = connect(server.address)
    assert isinstance(client, Policy)
    assert client.spec == ReachPolicy().spec and client.name == "reach 12ab"
    assert (client.n_obs_steps, client.horizon, client.n_action_steps) == (2, 16, 8)
    assert client.session > 0 and client.sessions == 1


def test_served_equals_local_over_calls_and_restarts(serve, connect):
    client, policy = connect(serve(torch_policy()).address, streams=3), torch_policy()
    ours, theirs = client.initial_state(3), policy.initial_state(3)
    for call in range(5):
        obs, keys = observation(policy, 3, call), row_keys(7, [0, 1, 2], call)
        if call == 3:
            mask = np.array([False, True, False])
            ours, theirs = client.reset(ours, mask), policy.reset(theirs, mask)
        when = Execution(np.array([0, 1, 2]), 1)
        served, ours = client.act(obs, ours, keys, when)
        local, theirs = act_numpy(policy, obs, theirs, keys, when)
        assert served.actions.shape == (3, 8, 3)
        np.testing.assert_allclose(served.actions, local.actions, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(served.info["network_calls"], local.info["network_calls"])


def test_sessions_keep_their_own_state(serve, connect):
    server = serve(ReachPolicy())
    clients = [connect(server.address) for _ in range(3)]
    states = [c.initial_state(1) for c in clients]
    for calls in range(4):
        for i, client in enumerate(clients):
            if i == 2 and calls == 2:
                states[i] = client.reset(states[i], np.array([True]))
            plan, states[i] = client.act(observation(client), states[i], np.array([1]))
            assert plan.info["call"][0] == (calls - 2 if i == 2 and calls >= 2 else calls)
    assert len({c.session for c in clients}) == 3


def test_one_request_in_flight(serve, connect):
    client = connect(serve(ReachPolicy(delay_s=0.1)).address)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=2)
    with pytest.raises(RuntimeError, match="in flight"):
        client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=2)
    assert client.poll(2) is not None and client.poll() is None


def test_policy_errors_are_answered_and_others_go_on(serve, connect):
    server = serve(ReachPolicy(bad="raise"))
    client, other = connect(server.address), connect(server.address)
    for one in (client, other, client):
        with pytest.raises(RequestFailed, match="this policy cannot plan") as caught:
            one.act(observation(client), client.initial_state(1), np.array([1]))
        assert caught.value.cause == "error"
    assert server.stats.policy_errors == 3


def test_plan_of_the_wrong_shape_is_refused(serve, connect):
    client = connect(serve(ReachPolicy(bad="shape")).address)
    with pytest.raises(RequestFailed, match=r"expected actions float32\[1, 8, 2\], found float32\[1, 7, 2\]"):
        client.act(observation(client), client.initial_state(1), np.array([1]))


def test_late_plan_is_not_returned_and_a_new_session_follows(serve, connect):
    server = serve(ReachPolicy(delay_s=0.2))
    client = connect(server.address)
    first = client.session
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=0.05)
    started = time.monotonic()
    with pytest.raises(RequestFailed) as caught:
        client.poll(5)
    assert caught.value.cause == "late" and time.monotonic() - started < 0.19
    plan, _ = client.act(observation(client), client.initial_state(1), np.array([2]))
    local, _ = ReachPolicy().act(observation(client), ReachPolicy().initial_state(1), np.array([2]))
    np.testing.assert_allclose(plan.actions, local.actions, atol=1e-6)
    assert client.session != first and client.sessions == 2


def test_past_its_budget_a_request_is_dropped(serve):
    policy = ReachPolicy(delay_s=0.15)
    server = serve(policy)
    slow, raw = Raw(server.address), Raw(server.address)
    sessions = [one.hello() for one in (slow, raw)]
    slow.send(act_message(policy, sessions[0], 2))
    time.sleep(0.02)
    raw.send(act_message(policy, sessions[1], 2, budget_s=0.03))
    raw.send(act_message(policy, sessions[1], 3, budget_s=5))
    assert slow.receive().kind == "plan"
    reply = raw.receive()
    assert (reply.kind, reply.sequence) == ("plan", 3)
    assert server.stats.dropped_late == 1 and policy.calls == 2


class Raw:
    """A DEALER socket without the client's care."""

    def __init__(self, address):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def send(self, message):
        self.socket.send_multipart([bytes(f) for f in encode(message)])

    def receive(self, seconds=5.0):
        assert self.socket.poll(int(1e3 * seconds)), "no answer"
        return decode(receive(self.socket, Limits()), Limits())

    def hello(self, streams=1):
        self.send(Message("hello", sequence=1, meta={"streams": streams}))
        return self.receive().session



def act_message(policy, session, sequence, budget_s=5.0, kind="act"):
    meta = {"restart": [False], "noise": [1], "delay": [0], "frozen": [0]}
    return Message(kind, session, sequence, budget_s, {}, policy.spec.fingerprint(), meta, observation(policy))


@pytest.mark.parametrize(
    "changes, code, text",
    [
        ({"fingerprint": "0123456789abcdef"}, "spec", "spec fingerprint"),
        ({"session": 123}, "session", "not open"),
        ({"sequence": 1}, "sequence", "expected more than 1"),
        ({"kind": "kill"}, "kind", "answers hello, act and bye"),
        ({"arrays": {"observation.state": np.zeros((1, 2, 3), np.float32)}}, "spec", "observation.state"),
        ({"arrays": {"observation.state": np.zeros((1, 2, 2), np.float64)}}, "spec", "dtype"),
        ({"meta": {"noise": [1, 2]}}, "wire", "noise"),
        ({"meta": {"noise": [1.5]}}, "wire", "noise"),
        ({"meta": {"restart": [0]}}, "wire", "restart"),
        ({"meta": {"delay": None}}, "wire", "delay"),
    ],
)
def test_mistakes_are_answered_and_cost_the_session_nothing(serve, changes, code, text):
    policy = ReachPolicy()
    raw = Raw(serve(policy).address)
    session = raw.hello()
    if changes.get("sequence") == 1:
        raw.send(act_message(policy, session, 2))
        assert raw.receive().kind == "plan"
        changes, text = {"sequence": 2}, "expected more than 2"
    wrong = act_message(policy, session, 5)
    for key, value in changes.items():
        setattr(wrong, key, {**getattr(wrong, key), **value} if isinstance(value, dict) else value)
    raw.send(wrong)
    reply = raw.receive()
    assert reply.kind == "error" and reply.meta["code"] == code and text in reply.meta["text"]
    raw.send(act_message(policy, session, 9))
    assert raw.receive().kind == "plan"


def test_a_session_belongs_to_its_client(serve):
    policy = ReachPolicy()
    server = serve(policy)
    owner, thief = Raw(server.address), Raw(server.address)
    session = owner.hello()
    for kind in ("act", "bye"):
        thief.send(act_message(policy, session, 50, kind=kind))
        assert thief.receive().meta["code"] == "session"
    owner.send(act_message(policy, session, 2))
    assert owner.receive().kind == "plan"


def test_streams_and_sessions_are_bounded(serve, connect):
    server = serve(ReachPolicy(), max_streams=2, max_sessions=2)
    raws = [Raw(server.address) for _ in range(3)]
    raws[0].send(Message("hello", sequence=1, meta={"streams": 3}))
    assert "expected 1 to 2" in raws[0].receive().meta["text"]
    assert raws[0].hello(2) and raws[1].hello(1)
    raws[2].send(Message("hello", sequence=1, meta={"streams": 1}))
    assert raws[2].receive().meta["code"] == "full"
    with pytest.raises(InputError, match="2 sessions are open"):
        connect(server.address, connect_s=0.3)
    first = raws[0].hello(1)  # greeting again replaces its own session
    assert first and raws[0].hello(1) != first


def test_idle_sessions_are_closed(serve, connect):
    server = serve(ReachPolicy(), idle_s=0.15)
    client = connect(server.address)
    time.sleep(0.4)
    assert server.stats.sessions_closed_idle == 1
    with pytest.raises(RequestFailed, match="not open here") as caught:
        client.act(observation(client), client.initial_state(1), np.array([1]))
    assert caught.value.cause == "refused"
    assert client.act(observation(client), client.initial_state(1), np.array([1])) and client.sessions == 2


@given(st.lists(st.one_of(st.binary(max_size=60), st.just(encode(Message("act", 3, 3))[0])), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_hostile_frames_cost_the_sender_an_error(frames):
    hostile, policy = HOSTILE
    hostile.socket.send_multipart(frames)
    assert hostile.receive().kind == "error"
    raw_session = hostile.hello()
    hostile.send(act_message(policy, raw_session, 10))
    assert hostile.receive().kind == "plan"


@pytest.fixture(scope="module", autouse=True)
def hostile():
    """One server and one hostile client for all examples of the fuzz."""
    global HOSTILE
    policy, stop = ReachPolicy(), threading.Event()
    server = PolicyServer(policy, "tcp://127.0.0.1:0", stats_s=0)
    thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
    thread.start()
    HOSTILE = Raw(server.address), policy
    yield
    stop.set()
    thread.join(5)


def test_an_oversized_frame_costs_the_connection(serve, connect):
    server = serve(ReachPolicy())
    raw = Raw(server.address)
    raw.socket.send_multipart([bytes(f) for f in encode(Message("hello", sequence=1, meta={"streams": 1}))] + [bytes(64 << 20)])
    assert not raw.socket.poll(200)
    client = connect(server.address)
    assert client.act(observation(client), client.initial_state(1), np.array([1]))


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


@pytest.fixture
def fake():
    server = FakeServer(ReachPolicy())
    yield server
    server.close()


def connected(fake, connect):
    sessions = []
    thread = threading.Thread(target=lambda: sessions.append(fake.welcome()))
    thread.start()
    client = connect(fake.address)
    thread.join()
    return client, *sessions[0]


def plan_message(session, sequence, value=0.0):
    return Message("plan", session, sequence, arrays={"actions": np.full((1, 8, 2), value, np.float32), "network_calls": np.ones(1)})


def test_replies_of_another_session_or_order_are_never_returned(fake, connect):
    client, identity, session = connected(fake, connect)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    _, asked = fake.take()
    for wrong in ((session + 1, asked.sequence), (session, asked.sequence - 1), (session, asked.sequence + 1), (0, asked.sequence)):
        send(fake.socket, plan_message(*wrong, value=9), identity)
    assert client.poll(0.2) is None and client.late_replies == 4 and client.in_flight
    send(fake.socket, plan_message(session, asked.sequence, value=0.5), identity)
    plan, _ = client.poll(5)
    assert (plan.actions == 0.5).all()
    send(fake.socket, plan_message(session, asked.sequence, value=9), identity)  # the same once more
    assert client.poll(0.2) is None and client.late_replies == 5


def test_an_abandoned_reply_is_never_returned(fake, connect):
    client, identity, session = connected(fake, connect)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    _, old = fake.take()
    client.abandon()
    client.request(observation(client), client.initial_state(1), np.array([2]), budget_s=5)
    _, new = fake.take()
    send(fake.socket, plan_message(session, old.sequence, value=9), identity)
    send(fake.socket, plan_message(session, new.sequence, value=0.25), identity)
    plan, _ = client.poll(5)
    assert (plan.actions == 0.25).all() and client.late_replies == 1


def test_the_client_judges_lateness_by_its_own_clock(fake, connect):
    client, identity, session = connected(fake, connect)
    now = time.monotonic()
    client._clock = lambda: now
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    _, asked = fake.take()
    send(fake.socket, plan_message(session, asked.sequence), identity)
    time.sleep(0.05)
    now += 5.0
    with pytest.raises(RequestFailed) as caught:
        client.poll()
    assert caught.value.cause == "late" and client.late_replies == 1


def test_malformed_replies_fail_the_request(fake, connect):
    client, identity, _ = connected(fake, connect)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    fake.take()
    fake.socket.send_multipart([identity, b"\xc1 what is this"])
    with pytest.raises(RequestFailed, match="malformed"):
        client.poll(5)


def test_another_policy_after_a_restart_is_refused(fake, connect):
    client, _, _ = connected(fake, connect)
    client._lose()
    fake.real.policy = torch_policy()
    with pytest.raises(SpecMismatch, match="came back with another policy"):
        deadline = time.monotonic() + 5
        threading.Thread(target=fake.welcome).start()
        while time.monotonic() < deadline:
            client.poll(0.05)


def test_no_server_is_one_line(connect):
    with pytest.raises(InputError, match="no answer within 0.2 s; start one with: robopolicy serve") as caught:
        connect("tcp://127.0.0.1:9", connect_s=0.2)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is not one"):
        connect("nonsense")


def test_addresses_that_cannot_be_bound(serve):
    with pytest.raises(InputError, match="loopback"):
        PolicyServer(ReachPolicy(), "tcp://0.0.0.0:5555")
    with pytest.raises(InputError, match="cannot be bound"):
        PolicyServer(ReachPolicy(), serve(ReachPolicy()).address)


def test_the_client_side_needs_no_torch_and_starts_fast():
    modules = "policies.spec, real.client, real.runtime, real.chunks, real.wire, real.robot, real.robots.twin"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules, 'torch'; assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    times = []
    for _ in range(3):
        command = [sys.executable, "-X", "importtime", "-c", "import policies.spec, real.client"]
        lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr.splitlines()
        assert not any(" torch" in line for line in lines)
        ours = [line for line in lines if line.split("|")[2].rstrip() in (" policies", " policies.spec", " real", " real.client")]
        times.append(sum(int(line.split("|")[1]) for line in ours) / 1e6)
    assert min(times) < 0.3, times
