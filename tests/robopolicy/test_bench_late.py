"""The benchmarks of late plans and of the control rate: timing of plans by hand, kicks, rows complete."""

import json
import time

import numpy as np
import pytest
import torch

from policies.base import Plan
from policies.control import JointInterpolator
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.latency import Latency
from robopolicy.bench import arm_policy, control_rate, harness, late, late_real, late_run, late_world
from sim.episodes import EpisodicBatch, Outcome

SPEC = Spec(ObservationSpec({"observation.state": Field((1,))}, 20.0), ActionSpec({"action": Field((2,))}, 20.0))


class Counting(EpisodicBatch):
    """Worlds that show how many steps they have done and keep their actions; world i ends after ``ends[i]`` steps."""

    def __init__(self, ends):
        super().__init__("counting", "1", SPEC, len(ends), 50, False)
        self._low, self._high = np.full(2, -np.inf), np.full(2, np.inf)
        self.ends, self.actions = np.array(ends), []

    def _begin(self, rows, seeds):
        self.actions.clear()

    def _advance(self, rows, action):
        kept = np.full((self.num_worlds, 2), np.nan)
        kept[rows] = action
        self.actions.append(kept)
        return Outcome(np.zeros(len(rows)), np.zeros(len(rows), bool), {"success": self._elapsed[rows] + 1 >= self.ends[rows]})

    def _observe(self, rows, out):
        out["observation.state"][rows, 0] = self._elapsed[rows]


class Telling:
    """Plans whose actions say at which step they were asked for and which row they are; its state counts the plans of a row."""

    spec, n_obs_steps, horizon = SPEC, 2, 32

    def __init__(self, n_action_steps):
        self.n_action_steps, self.executions = n_action_steps, []

    def initial_state(self, batch):
        return {"plans": torch.zeros(batch)}

    def act(self, obs, state, noise, execution):
        asked = obs["observation.state"][:, -1, 0]
        self.executions.append((int(asked[0]), execution.delay, execution.frozen, execution.elapsed))
        row = torch.arange(self.n_action_steps, dtype=torch.float32).expand(len(asked), -1)
        return Plan(torch.stack([asked[:, None].expand_as(row), row], -1), {}), {"plans": state["plans"] + 1}


@pytest.mark.parametrize(
    ("taken", "delay", "asked"),
    [(16, 0, [0, 16, 32, 48]), (16, 4, [0, 12, 24, 36, 48]), (16, 8, [0, 8, 16, 24, 32, 40, 48]), (1, 0, list(range(50))), (2, 1, [0, *range(1, 50)])],
)
def test_plans_play_from_the_step_at_which_they_arrive(taken, delay, asked):
    """Asked for with ``delay`` actions left; the action of every step is the row of that step, of the newest plan that has come by then."""
    env, policy = Counting([50, 50]), Telling(taken)
    outcome = late_run.play(env, policy, np.array([5, 6]), delay)
    actions = np.array(env.actions)[:, 0]
    assert [e[0] for e in policy.executions] == asked
    assert outcome.plans == len(asked) and outcome.length.tolist() == [50, 50] and outcome.success.all()
    for step, (from_step, row) in enumerate(actions):
        there = [a for a in asked if a == 0 or a + delay <= step]  # the first is awaited
        assert from_step == there[-1] and row == step - from_step
    for before, (step, due, frozen, elapsed) in zip([None, *policy.executions], policy.executions, strict=False):
        assert due == frozen == (0 if step == 0 else delay)
        assert elapsed == (None if before is None else step - before[0])


def test_rows_that_have_ended_are_not_planned_for():
    env, policy = Counting([3, 40]), Telling(4)
    sizes = []
    plain, policy.act = policy.act, lambda obs, *rest: (sizes.append(len(obs["observation.state"])), plain(obs, *rest))[1]
    outcome = late_run.play(env, policy, np.array([5, 6]), 2)
    assert outcome.length.tolist() == [3, 40]
    assert sizes[0] == 2 and sizes[-1] == 1
    last = np.array(env.actions)[-1]
    assert last[1].sum() == 39 and np.isnan(last[0]).all()


def test_plans_with_nothing_to_say_are_refused():
    with pytest.raises(ValueError, match="8 steps late"):
        late_run.play(Counting([5]), Telling(8), np.array([0]), 8)


def test_methods_replan_as_often_as_one_plan_in_flight_allows():
    assert late.method("plain switching", 8, 10) == "none" and late.method("rtc", 0, 10) == "rtc"
    assert [late.method("ensembling", d, 10) for d in (0, 1, 8)] == [f"ensemble:n_action_steps={n}" for n in (1, 2, 16)]
    assert late.method("rti", 4, 20) == "rti:level=20,n_action_steps=8"
    assert late.method("rti", 0, 20, real_time=True) == "rti:level=20,n_action_steps=2"


def test_kicks_are_the_same_step_by_step_and_tick_by_tick():
    """A twin, which steps tick by tick, kicks as the batch does; kicks come as often as they should and move the puck."""
    seeds = np.array([3, 4])
    whole, ticked, calm = late_world.make(2), late_world.make(2), late_world.make(2)
    calm._kick = lambda rows: None
    seen = [env.reset(seeds) for env in (whole, ticked, calm)]
    target = seen[0]["observation.state"][:, :7].astype(np.float64)
    interpolator = JointInterpolator(ticked.motion, 100.0, ticked.control_substeps)
    state = interpolator.start(target)
    for _ in range(60):
        moved = whole.step(target).next_obs["observation.environment_state"][:, :2]
        still = calm.step(target).next_obs["observation.environment_state"][:, :2]
        for substep in range(ticked.control_substeps):
            command, state = interpolator.step(state, target.astype(np.float32).astype(np.float64), substep)
            result = ticked.control_step(command)
    np.testing.assert_allclose(result.next_obs["observation.environment_state"][:, :2], moved, atol=1e-6)
    assert np.linalg.norm(moved - still, axis=1).min() > 0.01
    for env in (whole, ticked, calm):
        env.close()


def test_a_delayed_policy_takes_its_time():
    policy = Telling(4)
    policy.reset, policy.act = None, lambda *arguments: ("plan", arguments[1])
    delayed = late_real.Delayed(policy, 0.05)
    began = time.monotonic()
    assert delayed.act({}, {"row": 1}, np.zeros(1, np.int64)) == ("plan", {"row": 1})
    assert time.monotonic() - began >= 0.05


def test_shares_of_a_histogram():
    latency = Latency()
    for seconds in (0.0005, 0.0005, 0.004, 0.04):
        latency.add(seconds)
    assert control_rate.cumulative(latency.to_dict(), (0.1, 1, 10, 100)) == [(0.1, 0.0), (1, 0.5), (10, 0.75), (100, 1.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one policy that has hardly been trained."""
    return tmp_path_factory.mktemp("late")


def test_rows_and_what_is_not_run_twice(folder, capsys):
    size = late.Size(4, 2, (10, 20), (0, 8), real=0, limit=20, small=True)
    result = late.measure(folder, size)
    assert len(result.rows) == 2 * len(late.METHODS)
    assert [row.peer for row in result.rows] == 2 * [None, *3 * [late.PLAIN]]
    assert {"late", "control_rate"} <= set(harness.names()) and not {"late_run", "late_real", "late_world", "arm_policy"} & set(harness.names())
    assert capsys.readouterr().out.count("lock-step, ") == 10
    again = late.measure(folder, size)
    assert "lock-step, " not in capsys.readouterr().out
    assert [row.value for row in again.rows] == [row.value for row in result.rows]


def test_real_time_and_control_rate(folder):
    """One short episode whose plans take 8 steps, and two seconds of the whole stack: every count is there."""
    checkpoint = arm_policy.checkpoint(folder, small=True)
    row = late_real.play(checkpoint, "none", 8, 2_000_000, 1, 30)
    assert row["ended"] == "1 episodes done" and len(row["outcomes"]) == 1 and row["plan_ms"] >= 375
    result = control_rate.measure(2.0, folder, small=True)
    figures = {r.name: r.value for r in result.rows}
    counts = json.loads((folder / "summary.json").read_text())
    assert figures["drive: ticks"] == counts["drive"]["ticks"] > 0
    assert figures["drive: commands executed"] > 0
    assert figures["drive: lateness of a tick, up to 100 ms"] >= figures["drive: lateness of a tick, up to 1 ms"] >= 0
    assert set(counts["cpu_share"]) == {"runtime", "serve", "twin", "drive"} and len(counts["loads"]) == len(counts["counted"]) >= 3
