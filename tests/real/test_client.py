"""The client over real sockets: what is late, foreign or malformed never gets through; a server that comes back is found again."""

import subprocess
import sys
import threading
import time

import msgpack
import numpy as np
import pytest

from policies.spec import InputError, SpecMismatch
from real.policy import RequestFailed
from real.wire import Message, send
from tests.real.sockets import FakeServer, observation
from tests.real.toy import ROOT, ReachPolicy, torch_policy


def test_one_request_in_flight(serve, connect):
    client = connect(serve(ReachPolicy(delay_s=0.1)).address)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=2)
    with pytest.raises(RuntimeError, match="in flight"):
        client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=2)
    assert client.poll(2) is not None and client.poll() is None


def test_late_plan_is_not_returned_and_a_new_session_follows(serve, connect):
    server = serve(ReachPolicy(delay_s=1.0))
    client = connect(server.address)
    first = client.session
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=0.05)
    started = time.monotonic()
    with pytest.raises(RequestFailed) as caught:
        client.poll(5)
    assert caught.value.cause == "late" and time.monotonic() - started < 0.95
    plan, _ = client.act(observation(client), client.initial_state(1), np.array([2]))
    local, _ = ReachPolicy().act(observation(client), ReachPolicy().initial_state(1), np.array([2]))
    np.testing.assert_allclose(plan.actions, local.actions, atol=1e-6)
    assert client.session != first and client.sessions == 2


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
    arrays = {"actions": np.full((1, 8, 2), value, np.float32), "info": np.ones((1, 1))}
    return Message("plan", session, sequence, meta={"info": ["network_calls"]}, arrays=arrays)


def refuse_one(client):
    """Poll until one more reply was refused; none may be returned."""
    before, until = client.late_replies, time.monotonic() + 5
    while client.late_replies == before and time.monotonic() < until:
        assert client.poll(0.05) is None
    assert client.late_replies == before + 1


def test_replies_of_another_session_or_order_are_never_returned(fake, connect):
    client, identity, session = connected(fake, connect)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    _, asked = fake.take()
    for wrong in ((session + 1, asked.sequence), (session, asked.sequence - 1), (session, asked.sequence + 1), (0, asked.sequence)):
        send(fake.socket, plan_message(*wrong, value=9), identity)
        refuse_one(client)
    assert client.late_replies == 4 and client.in_flight
    send(fake.socket, plan_message(session, asked.sequence, value=0.5), identity)
    plan, _ = client.poll(5)
    assert (plan.actions == 0.5).all()
    send(fake.socket, plan_message(session, asked.sequence, value=9), identity)  # the same once more
    refuse_one(client)


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


def test_malformed_replies_fail_the_request_and_are_counted_without_one(fake, connect):
    client, identity, _ = connected(fake, connect)
    until = time.monotonic() + 5
    fake.socket.send_multipart([identity, b"\xc1 what is this"])
    while not client.malformed_replies and time.monotonic() < until:
        assert client.poll(0.05) is None
    assert client.malformed_replies == 1 and client.connected
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    fake.take()
    fake.socket.send_multipart([identity, b"\xc1 what is this"])
    with pytest.raises(RequestFailed, match="malformed"):
        client.poll(5)
    assert client.malformed_replies == 2


def test_a_plan_whose_numbers_do_not_fit_fails_its_request(fake, connect):
    client, identity, session = connected(fake, connect)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    _, asked = fake.take()
    wrong = plan_message(session, asked.sequence)
    wrong.arrays["info"] = np.ones((2, 1))
    send(fake.socket, wrong, identity)
    with pytest.raises(RequestFailed, match="malformed message: numbers about the plan"):
        client.poll(1)
    assert not client.in_flight and not client.connected  # it asks for a new session, as after every failure


def test_a_server_of_another_version_is_named(fake, connect):
    def answer():
        identity, _ = fake.take()
        fake.socket.send_multipart([identity, msgpack.packb([99, "ready", 1, 1])])

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(InputError, match="protocol version: expected 3, found 99"):
        connect(fake.address, connect_s=1.0)
    thread.join()


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
    with pytest.raises(InputError, match=r"no answer within 0.2 s; start one with: robopolicy serve") as caught:
        connect("tcp://127.0.0.1:9", connect_s=0.2)
    assert "\n" not in str(caught.value)
    for address, text in (("nonsense", "only loopback"), ("tcp://192.168.1.2:5555", "only loopback"), ("tcp://127.0.0.1:port", "expected a port up to 65535")):
        with pytest.raises(InputError, match=text):
            connect(address)


def test_the_client_side_needs_no_torch():
    modules = "policies.spec, real.client, real.policy, real.runtime, real.chunks, real.wire, real.robot, real.robots.twin, robopolicy.deployment"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules, 'torch'; assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
