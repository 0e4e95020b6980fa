"""Failure modes 6, 7 and 10: every process is killed and stopped in turn, the processor is taken away, the disk is full."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.faults.processes import wait_until
from tests.faults.stack import Stack
from tests.faults.starve import busy_loops

IN_FLIGHT = 3  # ticks of commands that are on their way when their source goes


def assert_stopped_within_the_bound(stack, since):
    """After the commands in flight the arm went no further than its brake's closed form allows."""
    found = stack.arrived()
    row = found.row(since) + IN_FLIGHT
    gone = np.abs(found.position[row:] - found.position[row]).max(axis=0)
    assert (gone <= found.stop_bound(row)).all(), f"{gone} beyond {found.stop_bound(row)}"


def test_6_the_runtime_is_killed(tmp_path):
    with Stack(tmp_path) as stack:
        stack.pass_ticks(60)
        stack.runtime.kill()
        killed = time.monotonic_ns()
        stack.until_still()
        assert_stopped_within_the_bound(stack, killed)
        stack.start_runtime()
        stack.until_moving()
        stack.judge()


def test_6_the_runtime_stands_still(tmp_path):
    with Stack(tmp_path) as stack:
        stack.pass_ticks(60)
        stack.runtime.stop()
        stopped = time.monotonic_ns()
        stack.until_still()
        assert_stopped_within_the_bound(stack, stopped)
        stack.runtime.go_on()
        stack.until_moving()
        stack.judge()


def test_6_the_drive_is_killed(tmp_path):
    with Stack(tmp_path) as stack:
        stack.pass_ticks(60)
        stack.runtime.killed = True  # it ends by itself
        stack.drive.kill()
        last = len(stack.arrived())
        wait_until(lambda: not stack.runtime.alive, stack.said)
        assert stack.runtime.process.returncode == 1 and "drive" in stack.runtime.said
        assert len(stack.arrived()) <= last + 1, "somebody else commands the robot"
        time.sleep(5.0)  # the robot keeps its connection for the drive that may come back; then another may have it
        stack.drive.start()
        stack.drive.ready()
        stack.start_runtime()
        stack.until_moving()
        stack.judge()


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_6_the_drive_stands_still(tmp_path, seconds):
    with Stack(tmp_path) as stack:
        for _ in range(2):
            stack.pass_ticks(60)
            stack.drive.stop()
            time.sleep(seconds)
            stack.drive.go_on()
            stack.until_moving()
            stack.judge()
        missed = stack.drive_status()["counts"]["missed_ticks"]
    assert missed >= 2 * (100 * seconds - 2)


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_6_the_robot_stands_still(tmp_path, seconds):
    with Stack(tmp_path) as stack:
        stack.pass_ticks(60)
        frozen = time.monotonic_ns()
        stack.twin.stop()
        time.sleep(seconds)
        stack.twin.go_on()
        stack.until_moving()
        stack.judge(frozen if seconds > 0.25 else None)  # s after which it takes itself for left alone
        assert stack.drive_status()["counts"]["missed_ticks"] >= 100 * seconds - 2


def test_6_the_robot_is_killed(tmp_path):
    with Stack(tmp_path) as stack:
        stack.pass_ticks(60)
        stack.twin.kill()
        wait_until(lambda: not stack.runtime.alive, stack.said)
        assert stack.runtime.process.returncode == 1 and "gone" in stack.runtime.said
        status = stack.drive_status()
        assert status["state"] == "stopped" and "gone" in status["cause"]
        stack.judge()


@pytest.mark.parametrize("seconds", [1.5, pytest.param(5.0, marks=pytest.mark.soak)])
def test_7_four_busy_loops(tmp_path, seconds):
    with Stack(tmp_path) as stack:
        before, since = stack.drive_status()["counts"], time.monotonic()
        with busy_loops(4, seconds):
            wait_until(lambda: time.monotonic() - since > seconds)
        after, elapsed = stack.drive_status()["counts"], time.monotonic() - since
        stack.until_moving()
        stack.judge()
    passed = {name: after[name] - before[name] for name in ("ticks", "missed_ticks")}
    assert passed["ticks"] + passed["missed_ticks"] == pytest.approx(100 * elapsed, abs=30), "late ticks are counted, neither lost nor caught up"
