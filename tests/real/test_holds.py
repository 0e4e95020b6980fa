"""Holds: they begin in the tick in which they are asked for, forget what is old by their end, and end when their cause does."""

import numpy as np
import pytest

from policies.spec import InputError
from real.robot import RobotInfo
from real.runtime import RuntimeOptions
from tests.real.jointed import Joints, limits, stamped, worst
from tests.real.levelled import LOCAL, Sweep, Wishes, closed, go


@pytest.fixture(autouse=True)
def threads():
    """No thread of a policy outlives its test."""
    yield
    while LOCAL:
        LOCAL.pop().close()


def real_time(tmp_path, policy, options=RuntimeOptions(), **parts):
    """As ``closed``, with plans that overlap, and readings of now."""
    robot = stamped(Joints())
    return closed(tmp_path, policy, options, robot, **parts)


def test_doubt_in_the_middle_of_a_plan_stops_the_robot_and_the_next_sure_plan_moves_it(tmp_path):
    policy = Sweep(goal=(1.9, -1.9, 1.9), speed=0.2)
    runtime, robot = real_time(tmp_path, policy, RuntimeOptions(slow_on={"energy": (0.5, 2.0)}))
    go(runtime, 30)
    assert runtime.state == "active"
    policy.doubt = 3.0
    for _ in range(150):
        runtime.tick()
    assert runtime.state == "hold" and runtime.cause == "policy unsure" and robot.words[-1] == "hold"
    policy.doubt, steps = 0.0, runtime.plans.chunks.step
    for _ in range(30):
        runtime.tick()
    assert runtime.state == "active" and runtime.plans.chunks.step - steps <= 7  # no action was taken for nothing
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6


class Person:
    """Somebody who takes over for as long as ``wants`` says where to go."""

    wants = None

    def act(self, reading, policy_action):
        return self.wants

    def ended(self, reading):
        pass


def test_who_takes_over_from_a_policy_in_doubt_moves_the_robot(tmp_path):
    policy, person = Sweep(goal=(1.9, -1.9, 1.9), speed=0.2), Person()
    runtime, robot = real_time(tmp_path, policy, RuntimeOptions(slow_on={"energy": (0.5, 2.0)}), teleoperator=person)
    go(runtime, 30)
    policy.doubt = 3.0
    go(runtime, 150)
    assert runtime.cause == "policy unsure"
    person.wants = np.full(3, 0.4, np.float32)
    go(runtime, 150)
    assert np.allclose(robot.position, 0.4, atol=1e-3), runtime.cause
    person.wants, taken = None, len(robot.commands)
    go(runtime, 60)  # given back, the doubt counts again
    assert runtime.state == "hold" and runtime.cause == "policy unsure" and len(robot.commands) - taken < 20
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6


def test_at_speed_zero_the_robot_holds_and_then_goes_on_with_a_new_plan(tmp_path):
    operator = Wishes(speed=(60, 0.0))
    runtime, robot = closed(tmp_path, Sweep(goal=(1.9, -1.9, 1.9), speed=0.4), operator=operator)
    go(runtime, 120)
    assert runtime.state == "hold" and runtime.cause == "speed" and robot.words[-1] == "hold"
    plans, operator.at = runtime.summary.requests, {"speed": (121, 1.0)}
    go(runtime, 20)
    assert runtime.state == "active" and runtime.summary.requests == plans + 1


@pytest.mark.parametrize("speed", [1.0, 0.1, 0.02])
def test_an_operators_hold_brakes_in_the_same_tick_at_any_speed(tmp_path, speed):
    operator = Wishes(hold=300, resume=400)
    runtime, robot = closed(tmp_path, Sweep(goal=(1.9, -1.9, 1.9), speed=0.4), RuntimeOptions(speed=speed), operator=operator)
    assert go(runtime, 299).state == "active"
    runtime.tick()
    assert runtime.state == "hold" and runtime.cause == "operator"
    for _ in range(40):
        runtime.tick()
    assert robot.words[-1] == "hold"
    old = runtime.plans.chunks.step
    for _ in range(80):
        runtime.tick()
    assert runtime.state == "active" and runtime.plans.chunks.step > old


def test_a_hold_during_the_approach_forgets_where_it_led(tmp_path):
    policy, operator = Sweep(speed=0.4, first_offset=0.9), Wishes(hold=60, resume=100)
    runtime, _ = closed(tmp_path, policy, operator=operator)
    go(runtime, 59)
    assert runtime.cause == "approach"
    policy.first_offset = -0.9
    go(runtime, 45)
    assert runtime.cause == "approach" and runtime._approach is not None and (runtime._approach < 0).all()


def test_a_drive_that_is_held_is_not_called_active_and_an_operator_lets_it_go(tmp_path):
    operator = Wishes(resume=200)
    runtime, robot = closed(tmp_path, Sweep(goal=(1.9, -1.9, 1.9), speed=0.4), operator=operator)
    go(runtime, 60)
    drive = runtime.robot._link._drive
    drive.hold("somebody")
    actions = runtime.summary.actions
    go(runtime, 100)
    assert runtime.state == "hold" and runtime.cause == "held" and runtime.summary.actions <= actions + 2
    go(runtime, 60)
    assert runtime.state == "active" and drive.reading.state == "active"
    assert max(worst(robot.commands, limits()).values()) <= 1 + 1e-6


def test_a_robot_that_cannot_be_slowed_down_is_not_driven_at_another_speed(tmp_path):
    class Increments(Joints):
        def write(self, command):
            self.log.append((self.reads, command.copy()))

    def robot():
        return Increments(RobotInfo("increments", 20, "holds", 0.5, lockstep=True))

    with pytest.raises(InputError, match=r"speed 0\.1: robot 'increments' declares no limits of motion"):
        closed(tmp_path, Sweep(), RuntimeOptions(speed=0.1), robot())
    runtime, moved = closed(tmp_path, Sweep(), robot=robot(), operator=Wishes(speed=(10, 0.5)))
    go(runtime, 30)
    assert runtime.state == "hold" and runtime.cause == "speed" and len(moved.commands) == 9


def test_readings_that_are_no_numbers_at_first_only_delay_the_beginning(tmp_path):
    class Blind(Joints):
        def read(self):
            reading = super().read()
            if self.reads < 5:
                reading.fields["observation.state"][0] = np.nan
            return reading

    runtime, robot = closed(tmp_path, Sweep(), robot=Blind(lockstep=True))
    go(runtime, 4)
    assert runtime.state == "hold" and not len(robot.commands)
    go(runtime, 30)
    assert runtime.state == "active" and len(robot.commands)


def test_an_approach_that_the_range_or_a_barrier_ends_asks_for_a_new_plan(tmp_path):
    runtime, robot = closed(tmp_path, Sweep(speed=0.4, first_offset=3.0))  # all of it beyond the range
    go(runtime, 1200)
    assert runtime.summary.requests > 1 and runtime.state == "active" and np.abs(robot.position - 2).max() < 0.03
    fenced, robot = closed(tmp_path, Sweep(speed=0.4, first_offset=0.9))
    fenced.level.filter.limits = limits(high=0.4)  # what only the filter knows, like a barrier
    go(fenced, 900)
    assert fenced.summary.requests > 1 and robot.position[0] <= 0.4 + 1e-6
