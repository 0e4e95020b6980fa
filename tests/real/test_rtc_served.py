"""Real-time chunking behind the server: what has passed travels, lost plans are not gone on from, measured delay costs no jumps."""

import threading
import time

import msgpack
import numpy as np
import pytest
import torch

from policies.base import Execution
from policies.noise import row_keys
from policies.realtime.rtc import Rtc, RtcConfig
from policies.spec import Spec
from real.batching import ROWS
from real.chunks import ChunkBuffer
from real.drive import Drive
from real.drive_handle import DriveHandle
from real.policy import LocalPolicy, RequestFailed, act_numpy
from real.robot import Observation, Robot, RobotInfo
from real.runtime import Runtime, RuntimeOptions
from real.server import PolicyServer
from real.wire import Limits, decode, encode
from robopolicy.bench import catch
from tests.policies.realtime.catching import exact
from tests.real.sockets import Raw, act_message
from tests.real.toy import ReachPolicy

torch.set_num_threads(1)


class Late(Rtc):
    """Real-time chunking that takes ``delay_s``; the call of number ``stuck`` does not end before the ``gate`` opens."""

    def __init__(self, beta, delay_s, stuck):
        super().__init__(RtcConfig(beta=beta), exact("flow", n_action_steps=10))
        self.delay_s, self.stuck, self.gate, self.executions = delay_s, stuck, threading.Event(), []

    def act(self, obs, state, noise, execution=Execution()):
        self.executions.append(execution)
        if len(self.executions) - 1 == self.stuck:
            self.gate.wait(20)
        time.sleep(self.delay_s)
        return super().act(obs, state, noise, execution)


def rtc(beta=5.0, delay_s=0.0, stuck=None):
    return Late(beta, delay_s, stuck)


def lose_one(client, method, *request):
    """Ask for a plan that is computed and comes too late."""
    client.request(*request, budget_s=1.0)
    with pytest.raises(RequestFailed, match="no reply"):
        client.poll(5)
    assert len(method.executions) == 2, "the server had no time to begin with this request"
    method.gate.set()


def observation(step=0):
    world = catch.Catch(np.arange(1))
    for _ in range(step):
        world.advance(np.full((1, 1), 0.5))
    return world.observation()


def test_steps_are_counted_from_the_last_plan_that_arrived():
    chunks, plan = ChunkBuffer(8, 1, 10.0, lead=2), np.zeros((8, 1), np.float32)
    assert chunks.execution().elapsed is None
    chunks.asked()
    chunks.splice(plan, 0.05)
    for _ in range(6):
        chunks.take()
    assert chunks.execution() == Execution(delay=2, frozen=2, elapsed=6)
    chunks.asked()
    chunks.take()
    chunks.failed()  # the plan asked for at step 6 is lost
    assert chunks.execution() == Execution(delay=1, frozen=1, elapsed=7)
    chunks.asked()
    chunks.take()
    assert chunks.take() is None  # holding: no step passes
    chunks.splice(plan, 0.3)  # its row t is for step 7 + t
    assert (chunks.step, chunks.remaining, chunks.execution().elapsed) == (8, 7, 1)
    chunks.clear()
    assert chunks.execution().elapsed is None


def test_what_has_passed_reaches_the_policy(serve, connect):
    method = rtc()
    client = connect(serve(method).address, streams=2)
    obs = {name: np.repeat(value, 2, 0) for name, value in observation().items()}
    state = client.initial_state(2)
    for execution, expected in (
        (Execution(), None),
        (Execution(1, 2, 3), ([1, 1], [2, 2], [3, 3])),
        (Execution(np.array([1, 2]), 0, np.array([5, 6])), ([1, 2], [0, 0], [5, 6])),
    ):
        _, state = client.act(obs, state, np.array([1, 2]), execution)
        found = method.executions[-1]
        if expected is None:
            assert found.elapsed is None
        else:
            assert tuple(v.tolist() for v in (found.delay, found.frozen, found.elapsed)) == expected


def test_a_message_without_it_or_of_the_old_version_is_refused(serve):
    policy = ReachPolicy()
    raw = Raw(serve(policy).address)
    session = raw.hello()
    message = act_message(policy, session, 4)
    del message.arrays[ROWS]
    raw.send(message)
    reply = raw.receive()
    assert reply.meta["code"] == "wire" and ROWS in reply.meta["text"]
    frames = [bytes(f) for f in encode(act_message(policy, session, 6))]
    header = [2, *msgpack.unpackb(frames[0])[1:]]
    raw.socket.send_multipart([msgpack.packb(header), *frames[1:]])
    reply = raw.receive()
    assert reply.meta == {"code": "wire", "text": "protocol version: expected 3, found 2"}
    raw.send(act_message(policy, session, 7))
    assert raw.receive().kind == "plan"


def local_plans(obs, executions, noise, beta=5.0):
    """Return the plans (1, Ta, Da) of these calls in a row, in this process."""
    policy, plans = rtc(beta), []
    state = policy.initial_state(1)
    for one, execution, key in zip(obs, executions, noise, strict=True):
        plan, state = act_numpy(policy, one, state, key, execution)
        plans.append(plan)
    return plans


def test_a_lost_plan_is_not_gone_on_from(serve, connect):
    """The reply to the second request comes too late: the third plan is guided by the first, which is what was executed."""
    method = rtc(stuck=1)
    server = serve(method)
    client = connect(server.address)
    obs, keys = [observation(step) for step in (0, 5, 7)], [row_keys(1, 0, call) for call in range(3)]
    first, state = client.act(obs[0], client.initial_state(1), keys[0])
    lose_one(client, method, obs[1], state, keys[1], Execution(2, 2, 5))
    third, state = client.act(obs[2], state, keys[2], Execution(2, 2, 7))
    assert server.stats.plans == 3 and client.sessions == 2 and server.stats.forgotten == 0

    executed = local_plans([obs[0], obs[2]], [Execution(), Execution(2, 2, 7)], [keys[0], keys[2]])
    np.testing.assert_allclose(first.actions, executed[0].actions, atol=1e-5)
    np.testing.assert_allclose(third.actions, executed[1].actions, atol=1e-5)
    lost = local_plans(obs, [Execution(), Execution(2, 2, 5), Execution(2, 2, 2)], keys)
    assert np.abs(third.actions - lost[2].actions).max() > 0.1
    np.testing.assert_allclose(third.info["prefix_error"], executed[1].info["prefix_error"], atol=1e-5)
    # the prefix that it was guided by: what is left of the first plan, steps 7 and 8
    error = np.abs(third.actions[0, :2] - first.actions[0, 7:9]).max() * (2 / 5)  # 5 m/s^2 normalise to 2
    assert third.info["prefix_error"][0] == pytest.approx(error, abs=1e-4)

    again, _ = client.act(obs[2], state, keys[1], Execution(1, 1, 1))  # and the plan that was not lost is gone on from
    state = rtc().initial_state(1)
    for one, key, when in ((obs[0], keys[0], Execution()), (obs[2], keys[2], Execution(2, 2, 7)), (obs[2], keys[1], Execution(1, 1, 1))):
        plan, state = act_numpy(rtc(), one, state, key, when)
    np.testing.assert_allclose(again.actions, plan.actions, atol=1e-5)


def test_streams_begun_anew_and_going_on_in_one_request(serve, connect):
    """A client of two streams whose second begins a new episode after a lost plan."""
    method = rtc(stuck=1)
    client = connect(serve(method).address, streams=2)
    obs, keys = {name: np.repeat(value, 2, 0) for name, value in observation().items()}, row_keys(1, [0, 1])
    _, state = client.act(obs, client.initial_state(2), keys)
    lose_one(client, method, obs, state, keys)
    state = client.reset(state, np.array([False, True]))
    plan, _ = client.act(obs, state, row_keys(2, [0, 1]), Execution(2, 2, 4))
    local = rtc()
    _, own = act_numpy(local, obs, local.initial_state(2), keys)
    expected, _ = act_numpy(local, obs, local.reset(own, np.array([False, True])), row_keys(2, [0, 1]), Execution(2, 2, 4))
    np.testing.assert_allclose(plan.actions, expected.actions, atol=1e-5)
    assert plan.info["prefix_error"][0] > 0 == plan.info["prefix_error"][1]


def test_a_server_that_comes_back_begins_anew(connect):
    def start(bind):
        server, stop = PolicyServer(rtc(), bind, stats_s=0, log=lambda line: None), threading.Event()
        thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
        thread.start()
        return server, stop, thread

    server, stop, thread = start("tcp://127.0.0.1:0")
    client = connect(server.address, timeout_s=1.0)
    _, state = client.act(observation(), client.initial_state(1), row_keys(1, 0))
    stop.set()
    thread.join()
    server, stop, thread = start(server.address)
    try:
        plan = None
        for _ in range(5):
            try:
                plan, _ = client.act(observation(5), state, row_keys(1, 1), Execution(2, 2, 5))
                break
            except RequestFailed:
                continue
        assert plan is not None
        fresh = local_plans([observation(5)], [Execution(2, 2, 5)], [row_keys(1, 1)])[0]
        np.testing.assert_allclose(plan.actions, fresh.actions, atol=1e-5)
        assert server.stats.forgotten == 1 and plan.info["prefix_error"][0] == 0
    finally:
        stop.set()
        thread.join()


class Catcher:
    """A robot that catches: its clock of steps goes on with every command and stands still while it is held."""

    def __init__(self, episodes, rate_hz):
        self.spec = Spec(catch.SPEC.observation, catch.SPEC.action)
        self.info = RobotInfo("catcher", rate_hz, "holds", 1.0, episodes=episodes)
        self.sent, self.episode, self.told = [[]], 0, False
        self.world = catch.Catch(np.array([0]))

    def read(self):
        if self.told:
            self.episode, self.told = self.episode + 1, False
            self.world = catch.Catch(np.array([self.episode]))
            self.sent.append([])
        fields = {name: value[0, 0] for name, value in self.world.observation().items()}
        self.told = self.world.over
        return Observation(fields, dict.fromkeys(fields, time.monotonic_ns()), self.episode, self.told)

    def write(self, command):
        self.sent[-1].append(command.copy())
        self.world.advance(command[None])

    def hold(self):
        pass

    def stop(self):
        pass

    def close(self):
        pass


def run(policy, episodes, rate_hz=25.0, lead=None):
    """Return the jumps of commands at changes of plan (m/s^2), the robot, the summary."""
    robot = Catcher(episodes, rate_hz)
    assert isinstance(robot, Robot)
    runtime = Runtime(DriveHandle(Drive(robot)), policy, RuntimeOptions(timeout_s=5.0, max_age_s=5.0, lead=lead))
    chunks = runtime.plans.chunks
    switches, splice, begun = [], chunks.splice, chunks.clear
    first = [0]

    def spliced(actions, latency_s):
        if chunks.remaining:  # else the robot holds, or an episode begins
            switches.append((len(robot.sent) - 1, chunks._switch_at - first[0]))
        splice(actions, latency_s)

    def cleared():
        first[0] = chunks.step
        begun()

    chunks.splice, chunks.clear = spliced, cleared
    summary = runtime.run(seconds=60)
    sent = [np.concatenate(s) for s in robot.sent if len(s)]
    jumps = [abs(sent[e][k] - sent[e][k - 1]) for e, k in switches if 0 < k < len(sent[e])]
    return np.array(jumps), robot, summary


def test_late_plans_join_without_jumps_through_the_server(serve, connect):
    """100 ms of inference at 25 Hz: the delay in steps is measured by the client's side; nothing else tells the policy."""
    found = {}
    for beta in (0.0, 5.0):
        method, jumps = rtc(beta, delay_s=0.1), np.zeros(0)
        client = connect(serve(method).address)
        for _ in range(6):  # on a machine that is busy with other things, plans that come too late leave nothing to join
            if len(jumps) >= 10:
                break
            more, _, summary = run(client, episodes=2, lead=5)  # 100 ms more than the policy takes, for a busy machine
            assert len(summary.episodes) == 2 and not summary.failed
            jumps = np.concatenate([jumps, more])
        delays = [int(e.delay[0]) for e in method.executions if e.elapsed is not None]
        passed = [int(e.elapsed[0]) for e in method.executions if e.elapsed is not None]
        assert np.median(delays) >= 3 and min(passed) >= 1 and len(jumps) >= 10
        found[beta] = jumps.mean()
    assert found[5.0] < 0.75 * found[0.0]


def test_a_policy_in_this_process_is_told_the_same():
    method = rtc(delay_s=0.1)
    local = LocalPolicy(method)
    try:
        _, _, summary = run(local, episodes=1)
    finally:
        local.close()
    elapsed = [e.elapsed for e in method.executions]
    assert elapsed[0] is None and len(elapsed) > 3 and all(1 <= int(e) <= 10 for e in elapsed[1:])
    assert len(summary.episodes) == 1


def test_limits_hold_the_new_numbers():
    """64 streams' numbers of a request stay far below the header's limit."""
    meta = {name: [2**62] * 64 for name in ("after", "noise", "delay", "frozen", "elapsed")}
    message = act_message(ReachPolicy(), 1, 1)
    message.meta |= meta
    frames = [bytes(f) for f in encode(message)]
    assert decode(frames, Limits()).meta["after"] == meta["after"] and len(frames[0]) < Limits().header_bytes / 100
