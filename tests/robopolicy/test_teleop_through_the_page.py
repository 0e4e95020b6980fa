"""Demonstrations by a browser's page, end to end: page, jog, filter, drive, twin, recorder, training; and help for a policy that is stuck."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from policies.motion import joint_columns
from policies.noise import Noise, row_keys
from robopolicy.bench import teleop
from robopolicy.data.dataset import Dataset
from robopolicy.execution import load_policy
from robopolicy.training.run_folder import find_checkpoint
from sim.suites.arm import motion_limits
from tests.require import require

STALE_S = 1.0  # a browser without a graphics card, beside other tests, has its moments


def test_what_is_shown_at_the_page_is_recorded_learnt_and_helped(tmp_path, monkeypatch):
    """Two demonstrations, a policy that repeats them, one episode in which a bad one is helped; ``make soak`` does the full size."""
    require("chromium")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = teleop.session(tmp_path, "demonstrations", 2, stale_s=STALE_S)
    assert shown["episodes"] == shown["successes"] == shown["taken_episodes"] == 2 and shown["taken_share"] == 1
    assert shown["age_s"] > 0 and shown["latency_ms"] > 0
    data = Dataset.open(tmp_path / "demonstrations")
    safe(data)
    assert data.tasks == ["reach the green ball"]
    hand, goal = data.field("observation.state")[:, 14:17], data.field("observation.environment_state")
    for start, stop in zip(data.episode_starts[:-1], data.episode_starts[1:], strict=True):
        off = np.linalg.norm(hand[start:stop] - goal[start:stop], axis=1)
        assert off[0] > 0.1 and off[-1] < 0.5 * off[0]  # it went there; the reading with which it arrived ends the episode
        assert data.field("next.success")[stop - 1] and not data.field("next.success")[start : stop - 1].any()
    again = teleop.session(tmp_path, "demonstrations", 2)  # there is nothing left to do
    assert again["seconds"] < 30 and again["episodes"] == 2 and again["median_s"] == shown["median_s"]

    first = teleop.policy(tmp_path, "first", ["demonstrations"], steps=600, states=4)
    assert len(first.episodes) == 4 and off_by(tmp_path / "first", data) < 0.5  # of what standing still would be off by

    teleop.policy(tmp_path, "bad", ["demonstrations"], steps=1, states=1)  # one that has learnt nothing gets nowhere by itself
    helped = teleop.session(tmp_path, "takeovers", 1, tmp_path / "bad", stale_s=STALE_S)
    assert helped["episodes"] == helped["successes"] == 1
    takeovers = Dataset.open(tmp_path / "takeovers")
    safe(takeovers)
    taken = takeovers.field("takeover").reshape(-1)
    assert taken.any() and taken[int(np.argmax(taken)) :].all()  # the slow way to the policy's first action is not recorded
    both = teleop.policy(tmp_path, "both", ["demonstrations", "takeovers"], steps=20, states=2)
    assert len(both.episodes) == 2 and both.checkpoint_hash != first.checkpoint_hash


def off_by(run, data):
    """Return how far the policy's first actions are from those that were shown, as a share of how far these are from where the joints are."""
    policy = load_policy(find_checkpoint(run))
    fields = policy.spec.observation.fields
    obs = {name: torch.from_numpy(np.array(data.field(name), np.float32))[:, None] for name in fields}
    plan, _ = policy.act(obs, policy.initial_state(data.num_frames), Noise(row_keys(0, np.arange(data.num_frames))))
    action, joints = data.field("action"), data.field("observation.state")[:, :7]
    return np.abs(plan.actions[:, 0].detach().numpy() - action).mean() / np.abs(action - joints).mean()


def safe(data):
    """Check that the robot never moved faster than its limits, and that what it saw is stamped in order."""
    limits = motion_limits()
    name, columns = joint_columns(data.spec.observation, limits.names)
    for start, stop in zip(data.episode_starts[:-1], data.episode_starts[1:], strict=True):
        speed = np.abs(data.field(name)[start:stop, len(columns) : 2 * len(columns)])
        assert (speed <= 1.1 * limits.velocity).all()  # what the servos do, not what they were told
        stamps = data.field(f"capture_ns.{name}")[start:stop].reshape(-1)
        assert (np.diff(stamps) > 0).all()
    action = data.field("action")
    assert (action >= limits.low - 1e-6).all() and (action <= limits.high + 1e-6).all()


@pytest.mark.soak
def test_ten_demonstrations_make_a_policy_and_help_makes_it_better(tmp_path):
    require("chromium")
    result = teleop.run(quick=False, folder=tmp_path)
    value = {row.name: row.value for row in result.rows}
    assert value["demonstrations collected through the page"] == 10
    assert value["success of 10 demonstrations"] > 0  # %
    assert value["episodes with a takeover, of 20"] >= 1 and 0 < value["steps by hand in them"] < 100
    better = next(row for row in result.rows if row.name == "success after training on both")
    assert better.value > value["success of 10 demonstrations"] and better.reached and math.isfinite(better.value)
