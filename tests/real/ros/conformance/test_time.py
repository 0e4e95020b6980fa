"""Times, durations and clocks; simulated time from /clock, for clocks and timers, backwards too."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import World

S = 1_000_000_000
ClockMessage = ros.message("rosgraph_msgs/msg/Clock")
StampMessage = ros.message("builtin_interfaces/msg/Time")


def at(nanoseconds: int, clock_type: Any = ros.ClockType.ROS_TIME) -> Any:
    """Return a time."""
    return ros.Time(nanoseconds=nanoseconds, clock_type=clock_type)


def test_durations_are_signed_sums_of_seconds_and_nanoseconds() -> None:
    assert ros.Duration(seconds=1, nanoseconds=5).nanoseconds == S + 5
    assert ros.Duration(seconds=-0.5).nanoseconds == -S // 2
    assert ros.Duration(seconds=1) == ros.Duration(nanoseconds=S)
    assert ros.Duration(seconds=1) > ros.Duration(nanoseconds=-1)
    message = ros.Duration(seconds=1, nanoseconds=5).to_msg()
    assert (message.sec, message.nanosec) == (1, 5)
    assert ros.Duration.from_msg(message).nanoseconds == S + 5
    with pytest.raises(OverflowError):
        ros.Duration(nanoseconds=2**63)


def test_times_add_and_subtract_within_one_clock() -> None:
    assert (at(5) + ros.Duration(nanoseconds=7)).nanoseconds == 12
    assert (at(5) - at(7)).nanoseconds == -2
    assert (at(9) - ros.Duration(nanoseconds=7)) == at(2)
    assert at(5) < at(6) <= at(6)
    assert at(2 * S + 3).seconds_nanoseconds() == (2, 3)
    assert ros.Time(seconds=1, nanoseconds=2).clock_type == ros.ClockType.SYSTEM_TIME
    with pytest.raises(TypeError):
        at(1) < at(1, ros.ClockType.SYSTEM_TIME)  # noqa: B015
    with pytest.raises(TypeError):
        at(1) - at(1, ros.ClockType.STEADY_TIME)
    with pytest.raises(TypeError):
        at(1) + at(1)
    with pytest.raises(ValueError):
        ros.Time(nanoseconds=-1)
    with pytest.raises(OverflowError):
        ros.Time(nanoseconds=2**63)


def test_times_are_written_as_messages() -> None:
    message = at(2 * S + 3).to_msg()
    assert isinstance(message, StampMessage)
    assert (message.sec, message.nanosec) == (2, 3)
    assert ros.Time.from_msg(message) == at(2 * S + 3)
    assert ros.Time.from_msg(message, clock_type=ros.ClockType.SYSTEM_TIME).clock_type == ros.ClockType.SYSTEM_TIME


def test_clocks_of_three_types() -> None:
    before = time.time_ns()
    system = ros.Clock().now()
    assert before <= system.nanoseconds <= time.time_ns()
    assert system.clock_type == ros.ClockType.SYSTEM_TIME
    steady = ros.Clock(clock_type=ros.ClockType.STEADY_TIME)
    assert steady.now() <= steady.now()
    simulated = ros.Clock(clock_type=ros.ClockType.ROS_TIME)
    assert isinstance(simulated, ros.ROSClock)
    assert not simulated.ros_time_is_active


def test_jump_thresholds_have_signs() -> None:
    for wrong in (
        {"min_forward": ros.Duration(nanoseconds=-1), "min_backward": None},
        {"min_forward": None, "min_backward": ros.Duration(nanoseconds=1)},
        {"min_forward": None, "min_backward": None, "on_clock_change": False},
    ):
        with pytest.raises(ValueError):
            ros.JumpThreshold(**wrong)


class Simulated:
    """A node on simulated time and the publisher of that time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.node("simulated", parameter_overrides=[ros.Parameter("use_sim_time", ros.Parameter.Type.BOOL, True)])
        self.clock = self.node.get_clock()
        self.publisher = world.node("clock").create_publisher(ClockMessage, "/clock", 10)
        world.until(lambda: self.publisher.get_subscription_count() == 1, "subscription to /clock")

    def show(self, nanoseconds: int) -> None:
        """Publish a time until the node's clock shows it."""
        message = ClockMessage(clock=at(nanoseconds).to_msg())
        self.publisher.publish(message)
        for _ in range(300):
            self.world.pass_time(0.02)
            if self.clock.now().nanoseconds == nanoseconds:
                return
            self.publisher.publish(message)  # best effort: it may be lost
        raise AssertionError(f"the clock shows {self.clock.now().nanoseconds}")


def test_a_node_on_simulated_time_shows_what_clock_says(world: World) -> None:
    simulated = Simulated(world)
    assert simulated.clock.ros_time_is_active
    assert simulated.clock.now().nanoseconds == 0
    for moment in (10 * S, 10 * S + 1, 3 * S):
        simulated.show(moment)
        assert simulated.clock.now() == at(moment)


def test_use_sim_time_is_a_parameter(world: World) -> None:
    node = world.node()
    assert node.get_parameter("use_sim_time").value is False
    assert abs(node.get_clock().now().nanoseconds - time.time_ns()) < 30 * S
    kinds = ros.Parameter.Type
    assert node.set_parameters([ros.Parameter("use_sim_time", kinds.BOOL, True)])[0].successful
    assert node.get_clock().now().nanoseconds == 0
    assert not node.set_parameters([ros.Parameter("use_sim_time", kinds.STRING, "yes")])[0].successful
    assert node.set_parameters([ros.Parameter("use_sim_time", kinds.BOOL, False)])[0].successful
    assert node.get_clock().now().nanoseconds > S


def test_a_timer_on_simulated_time_waits_for_it(world: World) -> None:
    simulated = Simulated(world)
    simulated.show(100 * S)
    beats: list[int] = []
    simulated.node.create_timer(1.0, lambda: beats.append(simulated.clock.now().nanoseconds))
    world.pass_time(0.3)
    assert beats == []
    simulated.show(100 * S + S // 2)
    assert beats == []
    simulated.show(101 * S)
    world.until(lambda: len(beats) == 1, "beat at 101 s")
    simulated.show(102 * S + 1)
    world.until(lambda: len(beats) == 2, "beat at 102 s")


def test_a_timer_goes_on_after_a_jump_backwards(world: World) -> None:
    simulated = Simulated(world)
    simulated.show(100 * S)
    beats: list[int] = []
    simulated.node.create_timer(1.0, lambda: beats.append(1))
    simulated.show(101 * S)
    world.until(lambda: len(beats) == 1)
    simulated.show(10 * S)
    world.pass_time(0.2)
    assert len(beats) == 1
    simulated.show(11 * S)
    world.until(lambda: len(beats) == 2, "beat a period after the jump")


def test_jumps_are_told(world: World) -> None:
    simulated = Simulated(world)
    simulated.show(100 * S)
    told: list[tuple[str, int]] = []
    threshold = ros.JumpThreshold(min_forward=ros.Duration(seconds=5), min_backward=ros.Duration(nanoseconds=-1), on_clock_change=True)
    handle = simulated.clock.create_jump_callback(
        threshold, pre_callback=lambda: told.append(("before", 0)), post_callback=lambda jump: told.append(("after", jump.delta.nanoseconds))
    )
    simulated.show(101 * S)
    assert told == []
    simulated.show(110 * S)
    simulated.show(109 * S)
    assert told == [("before", 0), ("after", 9 * S), ("before", 0), ("after", -S)]
    handle.unregister()
    simulated.show(1 * S)
    assert len(told) == 4


def test_sleeping_follows_the_clock(world: World) -> None:
    start = time.monotonic()
    assert ros.Clock(clock_type=ros.ClockType.STEADY_TIME).sleep_for(ros.Duration(seconds=0.1), context=world.context)
    assert time.monotonic() - start >= 0.1
    simulated = Simulated(world)
    simulated.show(100 * S)
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(simulated.clock.sleep_until(at(101 * S), context=world.context)))
    thread.start()
    world.pass_time(0.2)
    assert woken == []
    simulated.show(101 * S)
    thread.join(30.0)
    assert woken == [True]


def test_sleeping_ends_with_the_context(world: World) -> None:
    woken: list[bool] = []
    clock = ros.Clock(clock_type=ros.ClockType.STEADY_TIME)
    thread = threading.Thread(target=lambda: woken.append(clock.sleep_for(ros.Duration(seconds=3600), context=world.context)))
    thread.start()
    world.pass_time(0.1)
    world.executor.shutdown()
    ros.shutdown(context=world.context)
    thread.join(30.0)
    assert woken == [False]
