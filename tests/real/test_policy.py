"""LocalPolicy: the plans of the policy itself, failures by cause, late plans never returned."""

import threading
import time

import numpy as np
import pytest

from policies.base import Execution
from policies.noise import Noise, row_keys
from real.policy import LocalPolicy, RequestFailed, act_numpy
from tests.real.sockets import observation
from tests.real.toy import ReachPolicy, torch_policy


def wait(local, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = local.poll(0.05)
        if answer is not None:
            return answer
    raise AssertionError("no plan")


@pytest.fixture
def make():
    made = []

    def local(policy):
        made.append(LocalPolicy(policy))
        return made[-1]

    yield local
    for one in made:
        one.close()


def test_request_equals_act(make):
    local = make(ReachPolicy())
    obs, state = observation(local), local.initial_state(1)
    local.request(obs, state, np.array([5]), budget_s=5)
    plan, after = wait(local)
    expected, _ = local.act(obs, state, np.array([5]))
    np.testing.assert_array_equal(plan.actions, expected.actions)
    assert after["calls"].tolist() == [1] and plan.info["inference_s"].shape == (1,)
    assert not local.in_flight and local.poll() is None


def test_torch_gets_tensors_and_noise():
    import torch

    policy = torch_policy()
    obs, keys = observation(policy, rows=3), row_keys(1, [4, 5, 6], 0)
    plan, state = act_numpy(policy, obs, policy.initial_state(3), keys, Execution(np.array([0, 1, 2]), 0))
    with torch.no_grad():
        expected, _ = policy.act({n: torch.tensor(a) for n, a in obs.items()}, policy.initial_state(3), Noise(keys))
    assert isinstance(plan.actions, np.ndarray) and plan.actions.dtype == np.float32
    np.testing.assert_array_equal(plan.actions, expected.actions.numpy())
    assert isinstance(state["last"], torch.Tensor) and not state["last"].requires_grad


def test_closing_waits_for_a_call_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("real.policy._ENDS_WITHIN_S", 0.2)
    never, local = threading.Event(), LocalPolicy(ReachPolicy())
    monkeypatch.setattr(local, "act", lambda *arguments: never.wait())
    local.request(observation(local), local.initial_state(1), np.array([5]), budget_s=5)
    time.sleep(0.05)
    with pytest.warns(RuntimeWarning, match="has not come back in 0.2 s"):
        local.close()
    never.set()


def test_late_plan_is_never_returned(make):
    local = make(ReachPolicy(delay_s=0.15))
    obs, state = observation(local), local.initial_state(1)
    local.request(obs, state, np.array([1]), budget_s=0.02)
    with pytest.raises(RequestFailed) as caught:
        wait(local)
    assert caught.value.cause == "late"
    local.request(obs, state, np.array([2]), budget_s=5)
    plan, _ = wait(local)
    np.testing.assert_array_equal(plan.actions, local.act(obs, state, np.array([2]))[0].actions)


def test_abandoned_plan_is_never_returned(make):
    local = make(ReachPolicy(delay_s=0.1))
    obs, state = observation(local), local.initial_state(1)
    local.request(obs, state, np.array([1]), budget_s=5)
    time.sleep(0.03)
    local.abandon()
    assert local.poll(0.3) is None
    local.request(obs, state, np.array([2]), budget_s=5)
    plan, _ = wait(local)
    np.testing.assert_array_equal(plan.actions, local.act(obs, state, np.array([2]))[0].actions)


def test_exception_is_a_failed_request(make):
    local = make(ReachPolicy(bad="raise"))
    local.request(observation(local), local.initial_state(1), np.array([1]), budget_s=5)
    with pytest.raises(RequestFailed, match="cannot plan") as caught:
        wait(local)
    assert caught.value.cause == "error" and not local.in_flight


def test_one_request_in_flight_and_close_ends_the_thread(make):
    before = set(threading.enumerate())
    local = make(ReachPolicy(delay_s=0.05))
    local.request(observation(local), local.initial_state(1), np.array([1]), budget_s=5)
    with pytest.raises(RuntimeError, match="in flight"):
        local.request(observation(local), local.initial_state(1), np.array([1]), budget_s=5)
    local.close()
    assert not set(threading.enumerate()) - before
