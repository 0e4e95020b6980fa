"""Beside the ten: two sources of commands at once, nobody at the deadman, and a latched stop over the restart of every process."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from tests.faults.arrivals import worst_brake_ticks
from tests.faults.processes import ROOT, wait_until
from tests.faults.stack import Stack
from tests.faults.test_ten_failure_modes_processes import assert_stopped_within_the_bound
from tests.faults.test_ten_failure_modes_server import assert_nothing_stale


def estop(stack, *words):
    """Run ``robopolicy estop`` and return its exit code."""
    command = [sys.executable, "-m", "robopolicy", "estop", "--state-dir", str(stack.state), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode


def test_a_second_source_is_refused_while_there_is_a_first(stack):
    source, forger = stack.start_source(), stack.start("forger", [ROOT / "tests/faults/source.py", stack.drive.ready(), "--forge"])
    wait_until(lambda: "another source commands" in source.said and "forging" in forger.said, stack.said)
    stack.pass_ticks(100)
    assert stack.share_moving(50) > 0.05, "the others keep the runtime from its work"
    assert stack.drive_status()["counts"]["lease"] > 100 and "commands" not in source.said.splitlines()
    assert_nothing_stale(stack.judge())
    forger.kill()
    stack.runtime.kill()  # the lease of a source that is silent runs out; then, and not before, another may have it
    killed = time.monotonic_ns()
    wait_until(lambda: "commands" in source.said.splitlines(), stack.said)
    stack.until_moving()
    found = stack.judge()
    source.kill()
    assert_stood_before_the_next(found, killed)


def assert_stood_before_the_next(found, since, lease_s=1.0):
    """The arm stood still before the lease of the first source ran out, and then moved as the second moves it: the last joint alone."""
    row = found.row(since)
    still = found.still_from(row)
    moved = np.diff(found.position[row:], axis=0) != 0
    assert still is not None and still - row < lease_s / found.tick_s, "another source got the lease while the arm moved"
    assert moved[still - row :, -1].any() and not moved[still - row :, :-1].any()


def test_a_stop_outlives_every_process(stack):
    stack.pass_ticks(60)
    stack.runtime.killed = True  # it ends by itself
    assert estop(stack) == 0
    stack.until_still()
    (latch,) = stack.state.glob("*/estop.json")
    stopped = time.monotonic_ns() - (time.time_ns() - latch.stat().st_mtime_ns)
    assert_stopped_within_the_bound(stack, stopped, emergency=True)
    assert stack.drive_status()["state"] == "stopped"
    for process in (stack.drive, stack.twin):
        process.kill()
    wait_until(lambda: not stack.runtime.alive, stack.said)
    assert stack.runtime.process.returncode == 1 and "stopped" in stack.runtime.said
    stack.judge()
    stack.twin.start()
    stack.twin.ready()
    stack.drive.start()
    stack.drive.ready()
    row = len(stack.arrived())
    stack.start_runtime()
    stack.runtime.killed = True
    wait_until(lambda: not stack.runtime.alive, stack.said)
    assert stack.runtime.process.returncode in (1, 2) and "stopped" in stack.runtime.said
    source = stack.start_source()
    wait_until(lambda: "commands" in source.said.splitlines(), stack.said)
    time.sleep(1.0)
    assert not stack.arrived().written[row:].any() and estop(stack, "--status") == 1
    assert estop(stack, "--clear") == 0
    stack.until_moving()
    stack.judge()
    source.kill()


def test_without_a_hand_on_the_deadman_the_arm_stands(tmp_path):
    with Stack(tmp_path, drive=["deadman_s=0.5"], moving=False) as stack:
        stack.pass_ticks(100)
        assert not stack.arrived().written.any()
        deadman = stack.start_deadman()
        stack.until_moving()
        stack.pass_ticks(60)
        deadman.kill()
        let_go = time.monotonic_ns()
        stack.until_still()
        found = stack.arrived()
        row = found.row(let_go)
        still = found.still_from(row)
        assert still is not None and still - row <= 50 + 20 + worst_brake_ticks(found.limits, found.tick_s)
        stack.start_deadman()
        stack.until_moving()
        stack.judge()
