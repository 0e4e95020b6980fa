"""The server over real sockets: served equals local, mistakes and malformed messages are answered, nothing stops it."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Execution, Policy
from policies.noise import row_keys
from policies.spec import InputError
from real.batching import ROWS
from real.policy import RequestFailed, act_numpy
from real.server import PolicyServer
from real.wire import Message, Placed, encode
from tests.real.sockets import Raw, act_message, observation
from tests.real.toy import ReachPolicy, torch_policy


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


@pytest.mark.parametrize(
    "changes, code, text",
    [
        ({"fingerprint": "0123456789abcdef"}, "spec", "spec fingerprint"),
        ({"session": 123}, "session", "not open"),
        ({"sequence": 1}, "sequence", "expected more than 1"),
        ({"kind": "kill"}, "kind", "answers hello, share, act and bye"),
        ({"arrays": {"observation.state": np.zeros((1, 2, 3), np.float32)}}, "spec", "observation.state"),
        ({"arrays": {"observation.state": np.zeros((1, 2, 2), np.float64)}}, "spec", "dtype"),
        ({"arrays": {ROWS: np.zeros((5, 2), np.int64)}}, "wire", "expected int64[5 or 6, 1], found int64[5, 2]"),
        ({"arrays": {ROWS: np.zeros((5, 1), np.float64)}}, "wire", "found float64[5, 1]"),
        ({"arrays": {ROWS: np.array([[2], [0], [0], [0], [0]])}}, "wire", "restart of 0 or 1"),
        ({"arrays": {ROWS: np.array([[0], [0], [0], [0], [0], [-1]])}}, "wire", "elapsed of at least 0"),
        ({"arrays": {ROWS: np.array([[0], [-5], [0], [0], [0]])}}, "wire", "after"),
        ({"shared": {"observation.images.top": Placed("uint8", (1, 2), 4096)}}, "shm", "there is none in this session"),
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
    raws[0].send(Message("hello", sequence=1, meta={"streams": 3, "resume": 0}))
    assert "expected 1 to 2" in raws[0].receive().meta["text"]
    assert raws[0].hello(2) and raws[1].hello(1)
    raws[2].send(Message("hello", sequence=1, meta={"streams": 1, "resume": 0}))
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


def test_a_policy_that_is_slow_for_a_while_does_not_fill_the_server_with_given_up_sessions(serve, connect):
    policy = ReachPolicy(delay_s=0.1)
    server = serve(policy, max_sessions=4)
    client = connect(server.address, timeout_s=0.04)
    for _ in range(8):  # each is late, and the client asks for another session
        with pytest.raises(RequestFailed) as caught:
            client.act(observation(client), client.initial_state(1), np.array([1]))
        assert caught.value.cause in ("late", "gone")
        until = time.monotonic() + 4
        while not client.connected and time.monotonic() < until:
            client.poll(0.05)
        assert client.connected, "the server is full"
    assert client.sessions == 9 and server.stats.sessions_open <= 2
    policy.delay_s, client.timeout_s = 0.0, 5.0
    assert client.act(observation(client), client.initial_state(1), np.array([1]))


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
    raw.socket.send_multipart([bytes(f) for f in encode(Message("hello", sequence=1, meta={"streams": 1, "resume": 0}))] + [bytes(64 << 20)])
    assert not raw.socket.poll(200)
    client = connect(server.address)
    assert client.act(observation(client), client.initial_state(1), np.array([1]))


def test_addresses_that_cannot_be_bound(serve):
    with pytest.raises(InputError, match="loopback"):
        PolicyServer(ReachPolicy(), "tcp://0.0.0.0:5555")
    with pytest.raises(InputError, match="cannot be bound"):
        PolicyServer(ReachPolicy(), serve(ReachPolicy()).address)


def test_what_nobody_has_thought_of_costs_the_sender_alone(serve, connect, monkeypatch):
    server = serve(ReachPolicy())
    good, bad = connect(server.address), connect(server.address, timeout_s=1.0)
    enqueue = server._enqueue

    def broken(identity, message, since):
        if message.session == bad_session:
            raise ZeroDivisionError("a case\nthat was forgotten")
        enqueue(identity, message, since)

    bad_session = bad.session
    monkeypatch.setattr(server, "_enqueue", broken)
    with pytest.raises(RequestFailed, match="ZeroDivisionError: a case that was forgotten"):
        bad.act(observation(bad), bad.initial_state(1), np.array([1]))
    plan, _ = good.act(observation(good), good.initial_state(1), np.array([1]))
    assert plan.actions.shape == (1, 8, 2) and server.stats.malformed == 1
