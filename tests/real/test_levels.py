"""Policy, controller and filter at their own rates: a robot of joints under plans of 20 Hz, in lock-step and in this process."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Execution, Plan
from policies.spec import Field, InputError, ObservationSpec, Spec, SpecMismatch
from real.drive import Drive, DriveOptions
from real.drive_handle import DriveHandle
from real.latch import Latch
from real.levels import JointLevel, RangeLevel, make_level
from real.robot import Observation, RobotInfo
from real.runtime import Runtime, RuntimeOptions
from tests.real.jointed import NAMES, RATE, Joints, limits, spec, worst
from tests.real.levelled import LOCAL, Sweep, Wishes, closed, go, local


@pytest.fixture(autouse=True)
def threads():
    """No thread of a policy outlives its test."""
    yield
    while LOCAL:
        LOCAL.pop().close()


def test_five_commands_an_action_inside_all_limits_and_at_the_goal(tmp_path):
    policy = Sweep((1.5, -1.4, 1.3), 0.5)
    runtime, robot = closed(tmp_path, policy)
    go(runtime, 400)
    assert np.allclose(robot.position, policy.goal, atol=2e-3)
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6
    assert not runtime.summary.interventions and runtime.summary.actions >= 399
    assert runtime.summary.plans == 400 // (5 * 16)
    seen = np.array(policy.seen[1:])  # two observations, one policy step apart
    assert seen.shape[1:] == (2, 3) and (np.abs(seen[0, 1] - seen[0, 0]) > 4 * 0.005).all()


def test_a_tenth_of_the_speed_takes_ten_times_as_long(tmp_path):
    reached = []
    for speed in (1.0, 0.25):
        runtime, robot = closed(tmp_path / str(speed), Sweep(), RuntimeOptions(speed=speed))
        runtime.states.enter("hold", "starting")
        while np.abs(robot.position - 0.55 * np.array([1, 0, 0]))[0] > 0.02:
            runtime.tick()
            assert runtime.summary.ticks < 2000
        reached.append(runtime.summary.ticks)
        velocities = np.abs(np.diff(robot.commands, axis=0)).max() * RATE
        assert velocities <= 1.2 * speed
    assert 2.5 < reached[1] / reached[0] < 5


@given(st.lists(st.sampled_from(["good", "nan", "huge", "flip", "none"]), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=15)
def test_whatever_is_planned_what_leaves_is_inside_all_limits(tmp_path_factory, kinds, seed):
    rng = np.random.default_rng(seed)

    class Mixed(Sweep):
        def act(self, obs, state, noise, execution=Execution()):
            plan, state = super().act(obs, state, noise, execution)
            kind = kinds[len(self.seen) % len(kinds)]
            if kind == "nan":
                plan.actions[0, rng.integers(16)] = np.nan
            elif kind == "huge":
                plan.actions[:] *= 1e30
            elif kind == "flip":
                plan.actions[:] = np.where(rng.random(plan.actions.shape) < 0.5, -2.0, 2.0)
            elif kind == "none":
                return Plan(plan.actions[:, :3], plan.info), state
            return plan, state

    robot = Joints(lockstep=False)
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds

    drive = Drive(robot, DriveOptions(), Latch(tmp_path_factory.mktemp("latch")), clock=lambda: clock[0])
    robot.read, read = (lambda: _stamped(read(), clock[0])), robot.read
    runtime = Runtime(DriveHandle(drive, clock=lambda: clock[0], sleep=sleep), local(Mixed(), lambda: clock[0]), clock=lambda: clock[0])
    go(runtime, 300)
    if len(robot.commands):
        assert np.isfinite(robot.commands).all() and (np.abs(robot.commands) <= 2 + 1e-9).all()
        assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6
    assert not drive.counts.refused


def _stamped(reading, now):
    reading.capture_ns = dict.fromkeys(reading.fields, int(1e9 * now))
    return reading


def test_without_a_plan_the_robot_brakes_and_then_holds(tmp_path):
    runtime, robot = closed(tmp_path, Sweep(speed=1.5))
    go(runtime, 40)
    moving = np.abs(np.diff(robot.commands[-2:], axis=0)).max() * RATE
    runtime._finished = True  # as at the end of an episode
    runtime.tick()
    assert runtime.state == "hold" and moving > 0.5
    for _ in range(80):
        runtime.tick()
    assert robot.words[-1] == "hold" and max(worst(robot.commands, limits()).values()) <= 1 + 1e-6


def test_a_far_first_action_is_approached_slowly_and_then_asked_for_anew(tmp_path):
    policy = Sweep(first_offset=0.0)
    robot = Joints(lockstep=True)
    robot.position[:] = (1.5, 1.5, 1.5)

    class Far(Sweep):
        def act(self, obs, state, noise, execution=Execution()):
            plan, state = super().act(obs, state, noise, execution)
            if np.abs(obs["observation.state"][0, -1] - 0.2).max() > 0.05 and len(self.seen) == 1:
                plan.actions[:] = 0.2
            return plan, state

    policy = Far(goal=(0.2, 0.2, 0.2))
    runtime, robot = closed(tmp_path, policy, robot=robot)
    runtime.states.enter("hold", "starting")
    runtime.tick()
    runtime.tick()
    assert runtime.state == "active" and runtime.cause == "approach"
    while runtime.cause == "approach":
        runtime.tick()
        assert runtime.summary.ticks < 2000
    speeds = np.abs(np.diff(robot.commands, axis=0)).max() * RATE
    assert speeds <= 0.2 * 2.0 * (1 + 1e-6)  # a fifth of the velocity limit
    for _ in range(10):
        runtime.tick()
    assert len(policy.seen) >= 2 and np.abs(robot.position - 0.2).max() < 0.05


def test_in_shadow_nothing_is_sent_and_the_difference_is_counted(tmp_path):
    runtime, robot = closed(tmp_path, Sweep(), RuntimeOptions(shadow=True))
    go(runtime, 100)
    assert robot.words == ["hold"] and runtime.summary.shadow.ticks > 50
    assert 0.001 < runtime.summary.shadow.largest < 0.2  # one policy step at 1 rad/s, from rest


def test_an_operator_holds_resumes_slows_and_stops(tmp_path):
    operator = Wishes(hold=60, resume=120, speed=(200, 0.5), stop=300)
    runtime, robot = closed(tmp_path, Sweep(goal=(1.9, -1.9, 1.9), speed=0.4), operator=operator)
    go(runtime, 59)
    assert runtime.state == "active"
    for _ in range(50):
        runtime.tick()
    assert runtime.state == "hold" and runtime.cause == "operator" and robot.words[-1] == "hold"
    for _ in range(60):
        runtime.tick()
    assert runtime.state == "active"
    for _ in range(60):
        runtime.tick()
    assert runtime.speed == 0.5
    for _ in range(80):
        runtime.tick()
    assert runtime.state == "stopped" and "stop" in robot.words and Latch(tmp_path).read() is not None
    before = len(robot.commands)
    for _ in range(20):
        runtime.tick()
    assert len(robot.commands) == before
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6


@pytest.mark.parametrize(("doubt", "share"), [(0.2, 1.0), (1.25, 0.5), (3.0, 0.0), (np.nan, 0.0)])
def test_a_doubtful_policy_is_slowed_down_or_held(tmp_path, doubt, share):
    runtime, robot = closed(tmp_path, Sweep(doubt=doubt), RuntimeOptions(slow_on={"energy": (0.5, 2.0)}))
    go(runtime, 60)
    assert runtime.plans.certainty == share
    if share == 0:
        assert runtime.state == "hold" and runtime.cause == "policy unsure" and not len(robot.commands)
    else:
        assert runtime.state == "active" and np.abs(np.diff(robot.commands, axis=0)).max() * RATE < 1.25 * share


def test_a_robot_that_is_blind_brakes_at_once_and_goes_on_when_it_sees(tmp_path):
    runtime, robot = closed(tmp_path, Sweep((1.8, -1.8, 1.8), 0.8))
    go(runtime, 63)
    read, blind = robot.read, [True]

    def noise():
        reading = read()
        if blind[0]:
            reading.fields["observation.environment"] = np.zeros(1, np.float32)
            reading.fields["observation.state"] = reading.fields["observation.state"].astype(np.float64)  # not as the spec says
        return reading

    robot.read = noise
    for _ in range(60):
        runtime.tick()
    assert runtime.state == "hold" and runtime.cause == "bad observation" and robot.words[-1] == "hold"
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6
    plans, blind[0] = runtime.summary.plans, False
    for _ in range(30):
        runtime.tick()
    assert runtime.state == "active" and runtime.summary.plans == plans + 1


class Goals:
    """A planner that has no sub-goal at first."""

    field = "observation.state"

    def __init__(self):
        self.calls = 0

    def update(self, reading, now):
        self.calls += 1
        return None if self.calls < 20 or self.calls > 200 else {"observation.state": np.array([1, 1, 1], np.float32)}


def test_without_a_sub_goal_the_robot_is_held_and_with_one_the_policy_sees_it(tmp_path):
    policy = Sweep()
    runtime, robot = closed(tmp_path, policy, planner=Goals())
    go(runtime, 19)
    assert runtime.state == "hold" and runtime.cause == "no sub-goal" and not policy.seen
    for _ in range(150):
        runtime.tick()
    assert runtime.state == "active" and (np.array(policy.seen) == 1).all()
    for _ in range(200):
        runtime.tick()
    assert runtime.cause == "no sub-goal" and robot.words[-1] == "hold"


class Named:
    """A planner that names a goal which the robot does not observe."""

    field = "observation.goal"

    def update(self, reading, now):
        return {self.field: np.array([7.0], np.float32)}


def test_a_goal_that_a_planner_names_need_not_be_observed(tmp_path):
    policy, goals = Sweep(), []
    fields = {**spec().observation.fields, "observation.goal": Field((1,), kind="goal")}
    policy.spec = Spec(ObservationSpec(fields, 20), spec().action)
    act = policy.act
    policy.act = lambda obs, *rest: goals.append(obs["observation.goal"]) or act(obs, *rest)
    with pytest.raises(SpecMismatch, match=r"observation\.goal"):
        closed(tmp_path, policy)
    runtime, _ = closed(tmp_path, policy, planner=Named())
    assert go(runtime, 30).state == "active" and (np.array(goals) == 7).all()
    assert goals[0].shape == (1, 2, 1) and len(policy.seen) == len(goals)


def test_declarations_that_do_not_fit_are_refused(tmp_path):
    action, observation = spec().action, spec().observation
    assert isinstance(make_level(observation, action, RobotInfo("r", 20, "holds", 0.3)), RangeLevel)
    with pytest.raises(InputError, match="5 commands an action need limits of motion"):
        make_level(observation, action, RobotInfo("r", 100, "holds", 0.3, substeps=5))
    other = limits()
    two = type(other)(NAMES[:2], *(getattr(other, k)[:2] for k in ("low", "high", "velocity", "acceleration", "jerk")))
    with pytest.raises(InputError, match="limits of 2 joints, actions of 3 numbers"):
        make_level(observation, action, RobotInfo("r", 100, "holds", 0.3, substeps=5, motion=two))
    turned = dataclasses.replace(limits(), names=NAMES[::-1])
    with pytest.raises(InputError, match="actions of a, b, c, limits of c, b, a: not the same in order"):
        make_level(observation, action, RobotInfo("r", 100, "holds", 0.3, substeps=5, motion=turned))
    with pytest.raises(InputError, match="not the same in order"):
        Drive(Joints(RobotInfo("r", 100, "holds", 0.3, substeps=5, motion=turned)), DriveOptions(), Latch(tmp_path))
    with pytest.raises(InputError, match="declares barriers and no model"):
        make_level(observation, action, RobotInfo("r", 100, "holds", 0.3, substeps=5, motion=limits(), barriers={"planes": []}))


def test_a_level_begins_where_the_drive_says_that_the_robot_is_sent():
    robot = Joints()
    level = JointLevel(robot.spec.observation, robot.info)
    reading = robot.read()
    level.start(reading)
    first = level.step(np.array([0.5, 0.5, 0.5]), reading)
    assert first is not None and first.reference is not None and not first.causes
    moved = Observation(reading.fields, reading.capture_ns, reference=first.reference)
    second = level.step(None, moved)
    assert second is not None and np.abs(second.values - first.values).max() < 2.0 / RATE
