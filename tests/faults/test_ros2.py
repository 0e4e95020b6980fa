"""The failure modes of the runtime with its robot behind ROS 2; what is asserted is asserted of the twin's controllers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from real.ros import api
from tests.faults.processes import wait_until
from tests.faults.ros_stack import TRAJECTORY, RosStack
from tests.real.ros.domains import free_domain

IN_FLIGHT = 12  # ticks of commands that are on their way, or lie ahead in the controller, when their source goes


class _Kept:
    """The stack of this file, made anew when a test has left it dead."""

    def __init__(self, factory: pytest.TempPathFactory, domain: int) -> None:
        self._factory, self.domain = factory, domain
        self._stack: RosStack | None = None

    def moving(self) -> RosStack:
        stack = self._stack
        if stack is None or not (stack.twin.alive and stack.drive.alive and stack.server.alive):
            self.close()
            robot = ("stale_s=0.25", "gone_s=2.0")
            stack = RosStack(self._factory.mktemp("stack"), self.domain, robot, run=["timeout_s=0.5", "lead=14", "approach=100"])
            self._stack = stack
            stack.__enter__()
        elif not stack.runtime.alive:
            stack.until_still()
            stack.start_runtime()
        stack.until_moving()
        return stack

    def close(self) -> None:
        if self._stack is not None:
            self._stack.__exit__()
        self._stack = None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Kept]:
    with free_domain() as domain:
        kept = _Kept(tmp_path_factory, domain)
        yield kept
        kept.close()


@pytest.fixture
def stack(kept: _Kept) -> RosStack:
    return kept.moving()


def cause(stack: RosStack) -> str:
    return stack.drive_status()["cause"]


def until_held(stack: RosStack, why: str) -> None:
    """Wait until the drive neither commands nor brakes, for that reason."""
    wait_until(lambda: why in (status := stack.drive_status())["cause"] and status["state"] in ("holding", "stopped"), stack.said)


def assert_stopped_within_the_bound(stack: RosStack, since: int) -> None:
    """After the commands in flight the controllers went no further than the emergency stop of the last one."""
    found = stack.arrived()
    row = min(found.row(since) + IN_FLIGHT, len(found) - 1)
    gone = np.abs(found.position[row:] - found.position[row]).max(axis=0)
    bound = found.stop_bound(row, late=IN_FLIGHT)
    assert (gone <= bound).all(), f"{gone} beyond {bound}"


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_the_runtime_is_killed_and_comes_back(stack, times):
    for _ in range(times):
        stack.runtime.kill()
        killed = time.monotonic_ns()
        stack.until_still()
        assert_stopped_within_the_bound(stack, killed)
        stack.start_runtime()
        stack.until_moving()
    stack.judge()


# 0.25 s pass before they are missed, and after 2 s without any the robot counts as gone
@pytest.mark.parametrize("seconds", [1.0, pytest.param(1.5, marks=pytest.mark.soak)])
def test_joint_states_stop_and_come_back(stack, seconds):
    stack.twin.stop()
    try:
        wait_until(lambda: "joint states: none on /joint_states" in cause(stack), stack.said)
        time.sleep(seconds)
    finally:
        stack.twin.go_on()
    frozen = time.monotonic_ns()
    wait_until(lambda: "joint states" not in cause(stack), stack.said)
    stack.until_moving()
    assert stack.arrived().row(frozen) > 0 and stack.healthy()


def test_a_second_publisher_of_commands_is_a_hold_by_its_name(stack):
    context = api.Context()
    api.init(args=[], context=context, domain_id=stack.domain, interface="")
    try:
        node = api.Node("intruder", context=context, use_global_arguments=False)
        node.create_publisher(api.message("trajectory_msgs/msg/JointTrajectory"), TRAJECTORY, 10)
        until_held(stack, "2 publishers of commands")
        assert "/intruder" in cause(stack)
        assert_stopped_within_the_bound(stack, time.monotonic_ns())
        node.destroy_node()
    finally:
        api.shutdown(context=context)
    stack.until_moving()
    assert stack.healthy()


def test_everything_of_ours_is_killed_and_the_controller_has_stopped_the_robot(stack):
    stack.pass_ticks(30)
    for process in (stack.runtime, stack.drive, stack.server):
        process.kill()
    killed = time.monotonic_ns()
    stack.until_still()
    assert_stopped_within_the_bound(stack, killed)
    found = stack.arrived()
    assert (found.position[-1] == found.position[-3:]).all(), "its last trajectory ends at rest"
    assert (found.arrived_ns[-1] - killed) * 1e-9 < 5.0 and stack.twin.alive


def test_the_robot_is_killed_and_the_drive_says_that_it_is_gone(stack):
    stack.runtime.killed = True  # it ends by itself
    stack.twin.kill()
    wait_until(lambda: not stack.runtime.alive, stack.said)
    assert stack.runtime.process.returncode == 1 and "gone" in stack.runtime.said
    status = stack.drive_status()
    assert status["state"] == "stopped" and "robot gone: joint states: none on /joint_states" in status["cause"]
