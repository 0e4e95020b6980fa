"""The benchmark of latency in small: every way of acting is timed or named as missing, formats are judged by their deviation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from policies import registry
from policies.noise import Noise, row_keys
from policies.spec import InputError
from robopolicy.bench import harness, latency
from robopolicy.bench.latency import in_turn, make_policy, measure
from robopolicy.bench.latency_unet import chunk_for, conditions, lerobot_weights, planner, unet_policy


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "THREADS", (1,))
    result = measure(3, 2, 4, channels=(32, 64), names=("regression",))
    rows = {row.name: row for row in result.rows}
    for way in ("eager", "compiled", "ONNX Runtime"):
        found = f"regression, {way}, 1 thread, p50" in rows
        assert found != any(line.startswith(f"regression, {way}:") for line in result.missing), way
    assert rows["regression, eager, 1 thread, p99"].value >= rows["regression, eager, 1 thread, p50"].value > 0
    fast = rows["published U-Net, float32, accelerated, 1 thread, p50"]
    assert fast.target == 0.5 and fast.better == "lower" and fast.value > 0
    named = any(line.startswith("LeRobot's U-Net: not installed") for line in result.missing)
    assert (fast.peer_value is None) == named
    exact = rows["published U-Net, float32, deviation of the chunk over 4 inputs, largest"]
    rounded = rows["published U-Net, int8, deviation of the chunk over 4 inputs, largest"]
    assert exact.value < 1e-4 and exact.reached and rounded.value > exact.value


def test_calls_are_taken_in_turn() -> None:
    order: list[str] = []

    def plan(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    times = in_turn({name: plan(name) for name in ("a", "b")}, 3, 1)
    assert order == ["a", "b"] * 4 and {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("name", registry.chunk_policy_names())
def test_every_policy_can_be_timed_or_says_why_not(name: str) -> None:
    try:
        policy = make_policy(name)
    except InputError as error:
        assert "teacher" in str(error)  # a student alone has no spec to begin with
        return
    obs = {field: torch.zeros(1, policy.n_obs_steps, *f.shape) for field, f in policy.spec.observation.fields.items()}
    plan, _ = policy.act(obs, {}, Noise(row_keys(0, np.arange(1))))
    assert plan.actions.shape == (1, policy.n_action_steps, 4)


def test_deviations_are_taken_where_they_show() -> None:
    policy = unet_policy((64, 128))
    found = planner(policy, 32, 5)()
    assert found.std(0).mean() > 0.05  # plans follow from the condition
    assert (found.abs() < 0.99).float().mean() > 0.9  # and are not clipped, where every format would look exact
    wanted = chunk_for(policy.condition(conditions(32, 5), Noise(row_keys(5, np.arange(32)))), policy.horizon)
    assert wanted.shape == (32, 16, 2) and wanted.abs().max() < 1


def test_names_of_lerobots_weights_are_one_to_one() -> None:
    ours = unet_policy((32, 64)).network.state_dict()
    theirs = lerobot_weights(ours)
    assert len(theirs) == len(ours)
    for name in ("diffusion_step_encoder.1.weight", "down_modules.0.0.conv1.block.0.weight", "down_modules.0.2.bias", "mid_modules.1.cond_encoder.1.bias"):
        assert name in theirs
    for name in ("up_modules.0.2.weight", "up_modules.0.0.residual_conv.weight", "final_conv.0.block.1.weight", "final_conv.1.bias"):
        assert name in theirs


def test_it_is_listed() -> None:
    assert harness.names()["latency"].startswith("Latency of one plan") and "latency_unet" not in harness.names()
