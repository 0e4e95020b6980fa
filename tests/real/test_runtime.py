"""The runtime with a robot and a policy in this process: what leaves is finite and within limits, whatever the policy says."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from policies.base import Execution, Plan
from policies.noise import row_keys
from policies.spec import ActionSpec, InputError, Spec, SpecMismatch
from real.drive import Drive
from real.drive_handle import DriveHandle
from real.policy import RequestFailed
from real.robot import Observation, Robot, RobotGone, RobotInfo
from real.runtime import Runtime, RuntimeOptions
from tests.real.toy import spec

RATE = 20.0


class Clock:
    """Time that passes only when somebody sleeps, or when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Arm:
    """A robot that remembers what it was told; ``slow`` seconds pass in the given ticks."""

    def __init__(self, clock, info=None, slow=None, age_s=0.0):
        self.spec, self.clock, self.slow, self.age_s = spec(RATE), clock, slow or {}, age_s
        self.info = info or RobotInfo("arm", RATE, "holds", 0.3)
        self.said, self.times, self.fields, self.episode, self.ended = [], [], {}, 0, False
        self.gone_at = math.inf

    def read(self):
        if len(self.said) >= self.gone_at:
            raise RobotGone("arm: no answer within 1 s")
        n = np.float32(len(self.said))
        self.fields = {"observation.state": np.array([n, 0], np.float32), "observation.environment_state": np.zeros(2, np.float32)}
        stamp = int(1e9 * (self.clock() - self.age_s))
        return Observation(self.fields, dict.fromkeys(self.fields, stamp), self.episode, self.ended)

    def write(self, command):
        self._tell(np.array(command))

    def hold(self):
        self._tell(None)

    def stop(self):
        self._tell("stop")

    def close(self):
        pass

    def _tell(self, what):
        self.said.append(what)
        self.times.append(self.clock())
        self.clock.now += self.slow.get(len(self.said), 0.0)

    @property
    def commands(self):
        return [c for c in self.said if isinstance(c, np.ndarray)]


class Script:
    """A policy that answers ``delay_s`` after the request with the next of ``plans`` (the last for ever; an exception is raised)."""

    def __init__(self, clock, plans, delay_s=0.0, n_obs_steps=2, rows=8):
        self.spec, self.n_obs_steps, self.horizon, self.n_action_steps = spec(RATE), n_obs_steps, 16, rows
        self.clock, self.plans, self.delay_s = clock, list(plans), delay_s
        self.asked, self.connected, self.abandoned = [], True, 0
        self._due = None

    @property
    def in_flight(self):
        return self._due is not None

    def initial_state(self, batch):
        return {"calls": np.zeros(batch, np.int64)}

    def reset(self, state, mask):
        raise AssertionError("the runtime begins streams with initial_state")

    def request(self, obs, state, noise, execution=Execution(), *, budget_s, ages_s=None):
        if not self.connected:
            raise RequestFailed("gone", "no server")
        assert self._due is None
        self.asked.append({"obs": obs, "state": state, "noise": noise, "execution": execution, "at": self.clock(), "ages": ages_s})
        self._due, self._deadline, self._state = self.clock() + self.delay_s, self.clock() + budget_s, state

    def poll(self, wait_s=0.0):
        if self._due is None:
            return None
        ready = min(self._due, self._deadline)
        if ready > self.clock() + wait_s:
            self.clock.now += wait_s
            return None
        self.clock.now = max(self.clock.now, ready)
        late, self._due = self._due > self._deadline, None
        if late:
            raise RequestFailed("late", "late")
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        if isinstance(plan, Exception):
            raise plan
        return Plan(np.asarray(plan), {"network_calls": np.ones(1)}), {"calls": self._state["calls"] + 1}

    def abandon(self):
        self._due = None
        self.abandoned += 1

    def close(self):
        pass


def ramp(start=0.0, rows=8):
    return np.stack([np.linspace(start, start + 0.01 * (rows - 1), rows, dtype=np.float32)] * 2, 1)[None]


def make(plans=None, *, delay_s=0.0, options=RuntimeOptions(), **arm):
    clock = Clock()
    robot, policy = Arm(clock, **arm), Script(clock, plans if plans is not None else [ramp()], delay_s)
    return Runtime(held(robot, clock), policy, options, clock=clock), robot, policy


def held(robot, clock):
    """The robot's drive, in this process, on the test's clock."""
    return DriveHandle(Drive(robot, clock=clock), clock=clock, sleep=clock.sleep)


def test_the_double_is_a_robot():
    assert isinstance(Arm(Clock()), Robot)


def test_steady_run_keeps_the_grid_and_counts():
    runtime, robot, policy = make(delay_s=0.03)
    summary = runtime.run(seconds=2.0)
    runtime.robot.close()
    assert summary.ticks == 41 and summary.overruns == 0 and summary.rate_held == 1.0
    assert summary.holds == {"starting": 1} and summary.late_chunks == 0 and summary.actions == 40
    assert np.allclose(np.diff(robot.times[:-2]), 1 / RATE)
    assert robot.said[-1] is None and runtime.state == "idle" and summary.ended == "2 s done"
    assert summary.latency.quantile(0.5) == pytest.approx(0.03, rel=0.11)
    assert summary.network_calls == summary.plans == len(policy.asked) - (summary.requests - summary.plans)


@pytest.mark.parametrize(("full", "moves"), [(1.5, True), (0.5, False)])
def test_a_robot_that_cannot_be_slowed_down_is_held_by_any_doubt(full, moves):
    """Every plan says 1 of itself: half of the speed with bounds of 0.5 and 1.5."""
    runtime, robot, _ = make(options=RuntimeOptions(slow_on={"network_calls": (full, full + 1.0)}))
    summary = runtime.run(seconds=1.0)
    assert bool(robot.commands) == moves and (moves or summary.holds["policy unsure"] > 10)


def test_a_plan_is_asked_for_before_the_last_ends():
    runtime, _, policy = make(delay_s=0.08)  # two ticks of 50 ms
    runtime.run(seconds=3.0)
    later = [a["execution"].delay for a in policy.asked[3:]]
    assert set(later) == {2} and runtime.summary.late_chunks <= 1  # the first plans are asked for before a latency is known


def test_window_is_padded_then_slides():
    runtime, _, policy = make()
    runtime.run(seconds=1.0)
    windows = [a["obs"]["observation.state"][0, :, 0].tolist() for a in policy.asked]
    assert windows[0] == [0, 0]
    assert all(second - first == 1 for first, second in windows[1:])
    assert policy.asked[0]["obs"]["observation.state"].shape == (1, 2, 2)


def test_noise_names_episode_and_call():
    runtime, robot, policy = make(options=RuntimeOptions(noise_seed=9))
    robot.episode = 123
    runtime.run(seconds=2.0)
    for call, asked in enumerate(policy.asked):
        np.testing.assert_array_equal(asked["noise"], row_keys(9, 123, call))


def test_a_new_episode_begins_anew():
    runtime, robot, policy = make(delay_s=0.01)
    for _ in range(10):
        runtime.tick()
    robot.ended = True
    for _ in range(4):
        runtime.tick()
    assert len(runtime.summary.episodes) == 1 and robot.said[-3:] == [None] * 3
    assert runtime.summary.holds["episode over"] == 4
    robot.ended, robot.episode = False, 1
    before = len(policy.asked)
    runtime.tick()
    asked = policy.asked[before]
    assert asked["state"]["calls"].tolist() == [0]
    assert np.ptp(asked["obs"]["observation.state"][0, :, 0]) == 0  # nothing of the episode before
    np.testing.assert_array_equal(asked["noise"], row_keys(0, 1, 0))


def test_an_episode_whose_end_was_missed_is_counted():
    runtime, robot, _ = make()
    for _ in range(6):
        runtime.tick()
    robot.episode = 1
    for _ in range(3):
        runtime.tick()
    (missed,) = runtime.summary.episodes
    assert missed.unseen and missed.index == 0 and not missed.success


def test_overruns_are_counted_and_never_caught_up():
    runtime, robot, _ = make(slow={10: 0.33, 20: 0.02, 25: 0.055})
    summary = runtime.run(seconds=3.0)
    gaps = np.diff(robot.times)
    assert gaps.min() >= 0.5 / RATE - 1e-9 and 0.3299 <= gaps.max() < 0.36
    assert summary.overruns in (6, 7) and summary.ticks + summary.overruns in (60, 61)


def test_late_server_holds_then_resumes():
    runtime, robot, policy = make(delay_s=0.02, options=RuntimeOptions(timeout_s=0.3))
    for _ in range(12):
        runtime.tick()
    policy.delay_s = 10.0
    for _ in range(30):
        runtime.tick()
    assert runtime.state == "hold" and runtime.cause == "late"
    assert [c is None for c in robot.said[-15:]] == [True] * 15
    assert runtime.summary.failed_requests["late"] >= 2 and runtime.plans.chunks.late_chunks == 1
    policy.delay_s = 0.02
    for _ in range(10):
        runtime.tick()
    assert runtime.state == "active"


def test_gone_server_holds_with_that_cause():
    runtime, robot, policy = make()
    runtime.tick()
    policy.connected = False
    runtime.run(seconds=2.0)
    assert runtime.summary.holds["gone"] > 20 and robot.said[-1] is None
    assert len(robot.commands) <= policy.n_action_steps


def test_old_observations_pause_the_policy():
    runtime, robot, policy = make(age_s=0.6)
    summary = runtime.run(seconds=1.0)
    assert not policy.asked and set(summary.holds) == {"stale observation"} and not robot.commands


@pytest.mark.parametrize("bad", [np.array([np.nan, 0], np.float32), np.zeros(3, np.float32), np.zeros(2, np.float64)])
def test_bad_observations_pause_the_policy(bad):
    runtime, robot, policy = make()
    read = robot.read
    robot.read = lambda: replace(read(), fields={**robot.fields, "observation.state": bad})
    summary = runtime.run(seconds=1.0)
    assert not policy.asked and set(summary.holds) == {"bad observation"}


def test_policy_exceptions_hold():
    runtime, robot, _ = make([RequestFailed("error", "broken")])
    summary = runtime.run(seconds=1.0)
    assert not robot.commands and summary.failed_requests["error"] >= summary.requests - 1 > 10 and "error" in summary.holds


def inside(robot):
    low, high = robot.spec.action.low, robot.spec.action.high
    return all(c.shape == (2,) and np.isfinite(c).all() and (c >= low).all() and (c <= high).all() for c in robot.commands)


NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.5]))
SHAPES = st.one_of(st.just((1, 8, 2)), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
PLANS = st.one_of(
    arrays.arrays(np.float32, SHAPES, elements=NUMBERS),
    arrays.arrays(np.float64, st.just((1, 8, 2)), elements=st.one_of(st.floats(), st.sampled_from([1e300, -1e300]))),
    st.just(RequestFailed("error", "no")),
)


@given(st.lists(PLANS, min_size=1, max_size=6), st.sampled_from([0.0, 0.03, 0.2]))
@settings(deadline=None, max_examples=150)
@pytest.mark.filterwarnings("ignore:overflow")
def test_whatever_a_policy_plans_only_finite_commands_within_limits_leave(plans, delay_s):
    runtime, robot, _ = make(plans, delay_s=delay_s)
    summary = runtime.run(seconds=2.0)
    assert inside(robot)
    runtime.robot.close()
    assert summary.actions - len(robot.commands) in (0, 1)  # the last was for a tick that did not come
    assert summary.actions + sum(summary.holds.values()) == summary.ticks


def test_nan_rows_are_held_and_the_good_rows_sent():
    plan = ramp()
    plan[0, 2:4] = np.nan
    runtime, robot, _ = make([plan])
    summary = runtime.run(seconds=2.0)
    assert summary.holds["bad action"] >= summary.bad_actions > 3 and len(robot.commands) >= 15 and inside(robot)


def test_huge_actions_are_clamped_and_counted():
    runtime, robot, _ = make([1e30 * ramp(1.0)])
    summary = runtime.run(seconds=1.0)
    assert (np.array(robot.commands) == 1).all() and summary.clamped == summary.actions > 10


def test_wrong_shapes_are_refused_as_a_whole():
    runtime, robot, _ = make([ramp()[:, :, :1]])
    summary = runtime.run(seconds=1.0)
    assert not robot.commands and summary.failed_requests["error"] >= summary.requests - 1 > 10


def test_robot_gone_ends_the_run():
    runtime, robot, _ = make()
    robot.gone_at = 7
    summary = runtime.run(seconds=5.0)
    assert summary.failed and summary.ended.startswith("robot gone: arm: no answer within 1 s") and runtime.state == "idle"


def test_stopped_by_the_caller_holds():
    runtime, robot, _ = make()
    summary = runtime.run(stopped=lambda: len(robot.said) >= 9)
    runtime.robot.close()
    assert summary.ended == "stopped" and robot.said[-1] is None and not summary.failed


def test_lockstep_plays_whole_plans_and_ends_without_a_policy():
    info = RobotInfo("twin", RATE, "holds", 0.3, lockstep=True)
    runtime, robot, policy = make([ramp(0), ramp(0.1), RequestFailed("late", "server is silent")], delay_s=2.0, info=info)
    summary = runtime.run(seconds=1e6)
    assert np.allclose([c[0] for c in robot.commands], [*ramp(0)[0, :, 0], *ramp(0.1)[0, :, 0]])
    assert summary.failed and summary.ended == "no plan (late): server is silent" and not any(a["execution"].delay for a in policy.asked)


def test_a_policy_that_does_not_fit_is_refused_before_anything_moves():
    clock = Clock()
    robot, policy = Arm(clock), Script(clock, [ramp()])
    wrong = policy.spec.action.fields["action"]
    policy.spec = Spec(policy.spec.observation, ActionSpec({"action": replace(wrong, unit="rad")}, RATE))
    with pytest.raises(SpecMismatch, match="action field 'action' of robot 'arm' does not fit the policy: unit: expected 'rad', found 'm'"):
        Runtime(held(robot, clock), policy)
    assert not robot.said


def test_a_robot_that_does_not_say_what_silence_does_is_refused():
    with pytest.raises(InputError, match="must declare 'brakes' or 'holds'"):
        make(info=RobotInfo("arm", RATE, "unknown", 0.3))


def test_summary_is_json():
    runtime, _, _ = make(delay_s=0.03)
    found = json.loads(json.dumps(runtime.run(seconds=1.0).to_dict(), allow_nan=False))
    assert found["ticks"] == 21 and found["rate_held"] == 1.0 and found["ms_per_chunk"]["p50"] == pytest.approx(30, rel=0.11)
    assert found["holds"] == {"starting": 1} and found["ended"] == "1 s done"
