"""Batching: plans do not depend on who shared the call, nobody suffers for another's mistake, nobody waits past a budget."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Execution, Plan
from policies.noise import row_keys
from real.batching import Queue, Request, Rows, compute, pack, unpack
from real.policy import RequestFailed, act_numpy
from real.server import PolicyServer
from real.wire import WireError
from tests.real.sockets import Raw, act_message, observation
from tests.real.toy import ReachPolicy, torch_policy

INT64 = st.integers(-(2**63), 2**63 - 1)


def request(policy, session=1, streams=1, seed=0, elapsed=None, since=0.0, deadline=10.0, alone=False, state=None):
    when = [np.full(streams, 1), np.zeros(streams, np.int64)] + ([] if elapsed is None else [np.full(streams, elapsed)])
    rows = Rows([0] * streams, row_keys(seed, np.arange(streams)), Execution(*when))
    one = Request(session, 1, observation(policy, streams, seed), rows, since, deadline, alone)
    one.state = policy.initial_state(streams) if state is None else state
    return one


class Seen:
    """A policy that notes how many rows, and which timing, each of its calls had; NaN in a state makes it raise."""

    def __init__(self, policy):
        self.policy, self.calls = policy, []
        for name in ("spec", "n_obs_steps", "horizon", "n_action_steps", "initial_state", "reset"):
            setattr(self, name, getattr(policy, name))

    def act(self, obs, state, noise, execution=Execution()):
        keys = np.asarray(getattr(noise, "keys", noise))
        self.calls.append((len(keys), execution.elapsed is None))
        if any(not np.isfinite(np.asarray(o, np.float64)).all() for o in obs.values()):
            raise ValueError("not finite")
        return self.policy.act(obs, state, noise, execution)


@given(st.integers(1, 5), st.booleans(), st.data())
@settings(deadline=None, max_examples=50)
def test_what_is_packed_is_unpacked(streams, elapsed, data):
    draw = lambda least: np.array(data.draw(st.lists(st.integers(least, 2**63 - 1), min_size=streams, max_size=streams)), np.int64)  # noqa: E731
    restart = np.array(data.draw(st.lists(st.booleans(), min_size=streams, max_size=streams)))
    after, noise, delay, frozen, passed = draw(0), draw(-(2**63)), draw(0), draw(0), draw(0)
    rows = unpack(pack({"restart": restart, "after": after}, noise, Execution(delay, frozen, passed if elapsed else None)), streams)
    assert rows.after == np.where(restart, 0, after).tolist()
    for found, expected in ((rows.noise, noise), (rows.execution.delay, delay), (rows.execution.frozen, frozen)):
        np.testing.assert_array_equal(found, expected)
    assert (rows.execution.elapsed is None) == (not elapsed) and (not elapsed or (rows.execution.elapsed == passed).all())


def test_one_number_is_for_all_streams():
    rows = unpack(pack({"restart": np.zeros(3, bool), "after": np.zeros(3)}, np.arange(3), Execution(2, 1, 4)), 3)
    assert rows.execution.delay.tolist() == [2, 2, 2] and rows.execution.elapsed.tolist() == [4, 4, 4]


@given(st.integers(0, 7), st.integers(0, 3), st.sampled_from(["int64", "float64", "uint8"]), st.data())
@settings(deadline=None, max_examples=100)
def test_other_rows_are_refused(height, streams, dtype, data):
    numbers = data.draw(st.lists(st.integers(0, 3), min_size=height * streams, max_size=height * streams))
    rows = np.array(numbers, dtype).reshape(height, streams)
    if dtype == "int64" and height in (5, 6) and streams == 2 and max(numbers[:2]) <= 1:
        assert len(unpack(rows, 2).after) == 2
    else:
        with pytest.raises(WireError):
            unpack(rows, 2)
    with pytest.raises(WireError, match="found none"):
        unpack(None, 2)


@pytest.mark.parametrize("elapsed", [None, 3])
def test_rows_of_one_call_equal_calls_of_their_own(elapsed):
    policy = torch_policy()
    _, before = act_numpy(policy, observation(policy, 3, 9), policy.initial_state(3), np.arange(3))
    requests = [request(policy, 1, 2, 1, elapsed), request(policy, 2, 1, 2, elapsed), request(policy, 3, 3, 3, elapsed, state=before)]
    together, alone = compute(policy, requests), [compute(policy, [r])[0] for r in requests]
    assert [o.rows for o in together] == [6, 0, 0] and [o.rows for o in alone] == [2, 1, 3]
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours.plan.actions, theirs.plan.actions, atol=1e-5, rtol=0)
        np.testing.assert_allclose(ours.state["last"], theirs.state["last"], atol=1e-5, rtol=0)
        assert ours.plan.info.keys() == theirs.plan.info.keys() and ours.plan.info["network_calls"].shape == theirs.plan.info["network_calls"].shape
        assert ours.state["last"].untyped_storage().nbytes() == ours.state["last"].nbytes  # it keeps nobody else's rows


def test_a_failing_request_fails_alone():
    policy = Seen(ReachPolicy())
    requests = [request(policy, session, 1, session) for session in (1, 2, 3)]
    requests[1].obs["observation.state"][:] = np.nan
    found = compute(policy, requests)
    assert [o.error is None for o in found] == [True, False, True] and "not finite" in str(found[1].error)
    assert policy.calls == [(3, True), (1, True), (1, True), (1, True)] and [o.rows for o in found] == [1, 1, 1]
    np.testing.assert_array_equal(found[0].plan.actions, compute(policy, requests[:1])[0].plan.actions)
    assert compute(policy, []) == []


def test_a_policy_that_loses_rows_is_asked_one_by_one():
    class Loses(ReachPolicy):
        def act(self, obs, state, noise, execution=Execution()):
            plan, new = super().act(obs, state, noise, execution)
            return Plan(plan.actions[:1], plan.info), new

    policy = Loses()
    requests = [request(policy, session) for session in (1, 2)]
    assert [o.plan.actions.shape for o in compute(policy, requests)] == [(1, 8, 2), (1, 8, 2)]


def sessions(requests):
    return [r.session for r in requests]


def test_sessions_are_served_in_turn_and_two_of_each_wait():
    policy, queue = ReachPolicy(), Queue()
    for _ in range(2):
        assert queue.add(request(policy, 1)) is None
    assert queue.add(request(policy, 2)) is None and len(queue) == 2
    newest = request(policy, 1)
    assert queue.add(newest).session == 1  # the oldest of the third makes room
    assert sessions(queue.take(0, 1)[0]) == [1]
    queue.add(request(policy, 3))
    assert sessions(queue.take(0, 1)[0]) == [2] and sessions(queue.take(0, 1)[0]) == [1]
    assert sessions(queue.take(0, 9)[0]) == [3] and queue.take(0, 9) == ([], 0) and queue.bytes == 0


def test_a_call_holds_one_request_of_each_session_up_to_its_rows():
    policy, queue = ReachPolicy(), Queue()
    for session, streams in ((1, 3), (1, 3), (2, 2), (3, 4), (4, 1)):
        queue.add(request(policy, session, streams))
    assert sessions(queue.take(0, 6)[0]) == [1, 2, 4]  # 3 + 2 + 1 rows; session 3 is first in the next call
    assert sessions(queue.take(0, 3)[0]) == [3]  # more than the limit, by itself
    assert sessions(queue.take(0, 6)[0]) == [1]


def test_only_requests_that_fit_together_share_a_call():
    policy, queue = ReachPolicy(), Queue()
    for session, elapsed, alone in ((1, None, False), (2, 4, False), (3, None, False), (4, None, True), (5, 4, False)):
        queue.add(request(policy, session, elapsed=elapsed, alone=alone))
    assert [sessions(queue.take(0, 9)[0]) for _ in range(4)] == [[1, 3], [2, 5], [4], []]


def test_nobody_joins_a_call_that_would_then_be_too_late_for_one_in_it():
    policy, queue = ReachPolicy(), Queue()
    for session, deadline in ((1, 9.0), (2, 3.9), (3, 9.0), (4, 1.5)):
        queue.add(request(policy, session, 2, deadline=deadline))
    assert sessions(queue.take(1.0, 99, row_s=0.5)[0]) == [1, 2]  # with two rows more it would end at 4.0
    assert sessions(queue.take(1.0, 99, row_s=0.5)[0]) == [3]
    assert sessions(queue.take(1.0, 99, row_s=0.5)[0]) == [4]  # the first of a call is never put off


def test_what_is_past_its_budget_is_dropped():
    policy, queue = ReachPolicy(), Queue()
    for session, deadline in ((1, 1.0), (2, 2.0), (1, 3.0)):
        queue.add(request(policy, session, deadline=deadline))
    batch, late = queue.take(1.5, 9)
    assert late == 1 and sorted((r.session, r.deadline) for r in batch) == [(1, 3.0), (2, 2.0)] and queue.bytes == 0
    queue.add(request(policy, 1))
    queue.forget(1)
    queue.forget(2)
    assert len(queue) == 0 and queue.bytes == 0


def test_waiting_ends_with_the_window_and_before_the_tightest_budget():
    policy, queue = ReachPolicy(), Queue()
    assert queue.wait_s(0, 0.002, 0) == 0
    queue.add(request(policy, 1, since=1.0, deadline=9.0))
    assert queue.wait_s(1.0005, 0.002, 0.1) == pytest.approx(0.0015)
    queue.add(request(policy, 2, since=1.001, deadline=1.1020))
    assert queue.wait_s(1.001, 0.002, 0.1) == pytest.approx(0.0005)  # the call takes 0.1 s, 0.101 are left
    assert queue.wait_s(1.0016, 0.002, 0.1) == 0
    queue.add(request(policy, 3, alone=True))
    assert queue.wait_s(1.0, 0.002, 0) == 0


def in_parallel(clients, count, policy, streams=1):
    """Let every client ask ``count`` times in a row; returns the plans of each."""
    plans = [[] for _ in clients]

    def ask(number):
        state = clients[number].initial_state(streams)
        for call in range(count):
            keys = row_keys(number, np.arange(streams), call)
            plan, state = clients[number].act(observation(policy, streams, 100 * number + call), state, keys, Execution(1, 0, call))
            plans[number].append(plan.actions)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return plans


def test_many_robots_get_the_plans_of_one(serve, connect):
    policy = torch_policy()
    server = serve(policy, batch_s=0.02)
    clients = [connect(server.address, streams=2) for _ in range(4)]
    plans = in_parallel(clients, 6, policy, streams=2)
    for number in range(4):
        state = policy.initial_state(2)
        for call in range(6):
            obs, keys = observation(policy, 2, 100 * number + call), row_keys(number, np.arange(2), call)
            local, state = act_numpy(policy, obs, state, keys, Execution(1, 0, call))
            np.testing.assert_allclose(plans[number][call], local.actions, atol=1e-5, rtol=0)
    assert server.stats.plans == 24 and server.stats.batches < 24 and server.stats.batch_streams.total == 48


def test_without_batching_every_request_is_a_call(serve, connect):
    server = serve(ReachPolicy(), max_batch=1)
    in_parallel([connect(server.address) for _ in range(3)], 5, ReachPolicy())
    assert server.stats.plans == server.stats.batches == 15


class Picky(ReachPolicy):
    """Raises when a row's position is above 0.4."""

    def act(self, obs, state, noise, execution=Execution()):
        if (obs["observation.state"] > 0.4).any():
            raise ValueError("too far")
        return super().act(obs, state, noise, execution)


def test_a_failing_session_never_harms_the_others(serve, connect):
    server = serve(Picky(delay_s=0.002), batch_s=0.02)
    good, bad = [connect(server.address) for _ in range(3)], connect(server.address)
    near, far = ({"observation.state": np.full((1, 2, 2), x, np.float32), "observation.environment_state": np.zeros((1, 2, 2), np.float32)} for x in (0.1, 0.5))
    failures, stop = [], threading.Event()

    def fail():
        while not stop.is_set():
            try:
                bad.act(far, bad.initial_state(1), np.array([1]))
            except RequestFailed as error:
                failures.append(error.cause)

    culprit = threading.Thread(target=fail)
    culprit.start()
    expected, _ = ReachPolicy().act(near, {"calls": np.zeros(1, np.int64)}, np.array([7]))
    plans = []

    def ask(client):
        for _ in range(15):
            plans.append(client.act(near, client.initial_state(1), np.array([7]))[0].actions)

    threads = [threading.Thread(target=ask, args=(client,)) for client in good]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    stop.set()
    culprit.join(10)
    assert len(plans) == 45 and set(failures) == {"error"}
    for plan in plans:
        np.testing.assert_allclose(plan, expected.actions, atol=1e-6)
    assert server.stats.batches_split <= server.stats.policy_errors


def test_a_surplus_request_is_replaced_and_a_session_that_ends_is_forgotten():
    policy = ReachPolicy()
    server = PolicyServer(policy, "tcp://127.0.0.1:0", stats_s=0, log=lambda line: None)
    raw, other = Raw(server.address), Raw(server.address)
    try:
        for one in (raw, other):
            one.send(_hello())
        until = time.monotonic() + 5
        while server.stats.sessions_opened < 2 and time.monotonic() < until:
            server.step(0.05)
        session, gone = raw.receive().session, other.receive().session
        for sequence in range(2, 6):
            raw.send(act_message(policy, session, sequence))
        other.send(act_message(policy, gone, 2))
        other.send(act_message(policy, gone, 3, kind="bye"))
        until = time.monotonic() + 5
        while (server.stats.dropped_surplus < 2 or server.stats.sessions_open > 1) and time.monotonic() < until:
            server._take_in(time.monotonic())
        for _ in range(3):
            server.step(0.0)
        assert [raw.receive().sequence for _ in range(2)] == [4, 5]  # the newest two
        assert server.stats.dropped_surplus == 2 and server.stats.plans == 2 and server.stats.sessions_open == 1
    finally:
        server.close()


def _hello():
    from real.wire import Message

    return Message("hello", sequence=1, meta={"streams": 1, "resume": 0})


def test_nobody_waits_for_robots_that_are_silent(serve, connect):
    server = serve(ReachPolicy(), batch_s=20.0)
    client, _ = connect(server.address), connect(server.address)
    time.sleep(1.1)  # the other has not been heard for a second
    started = time.monotonic()
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=10)  # of which half could be waited away
    assert client.poll(10) is not None and time.monotonic() - started < 4


def test_a_tight_budget_is_not_waited_away(serve, connect):
    server = serve(ReachPolicy(), batch_s=30.0)
    client, other = connect(server.address), connect(server.address)
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=4.0)
    started = time.monotonic()
    while (answer := client.poll(0.05)) is None:
        other.poll()  # keeps nothing alive: only its greeting was heard
    assert time.monotonic() - started < 4.0 and answer[0].actions.shape == (1, 8, 2)
