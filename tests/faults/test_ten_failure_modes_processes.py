"""Failure modes 6, 7 and 10: every process is killed and stopped in turn, the processor is taken away, the disk is full."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.faults.processes import ROOT, wait_until
from tests.faults.starve import busy_loops

IN_FLIGHT = 3  # ticks of commands that are on their way when their source goes


def assert_stopped_within_the_bound(stack, since, emergency=False):
    """After the commands in flight the arm went no further than its brake's closed form allows."""
    found = stack.arrived()
    row = min(found.row(since) + IN_FLIGHT, len(found) - 1)
    gone = np.abs(found.position[row:] - found.position[row]).max(axis=0)
    bound = found.stop_bound(row, emergency=emergency)
    assert (gone <= bound).all(), f"{gone} beyond {bound}"


def test_6_the_runtime_stands_still_and_is_killed(stack):
    stack.pass_ticks(40)
    stack.runtime.stop()
    stopped = time.monotonic_ns()
    stack.until_still()
    assert_stopped_within_the_bound(stack, stopped)
    stack.runtime.go_on()
    stack.until_moving()
    stack.runtime.kill()
    killed = time.monotonic_ns()
    stack.until_still()
    assert_stopped_within_the_bound(stack, killed)
    stack.start_runtime()
    stack.until_moving()
    stack.judge()


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.soak)])
def test_6_the_drive_stands_still_and_is_killed(stack, times):
    before = stack.drive_status()["counts"]["missed_ticks"]
    for seconds in [0.1, 1.0] * times:
        stack.pass_ticks(40)
        stack.drive.stop()
        time.sleep(seconds)
        stack.drive.go_on()
        stack.until_moving()
        stack.judge()
    assert stack.drive_status()["counts"]["missed_ticks"] - before >= times * 106
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


@pytest.mark.parametrize("seconds", [1.5, pytest.param(5.0, marks=pytest.mark.soak)])
def test_7_four_busy_loops(stack, seconds):
    before, since = stack.drive_status()["counts"], time.monotonic()
    with busy_loops(4, seconds):
        wait_until(lambda: time.monotonic() - since > seconds)
    after, elapsed = stack.drive_status()["counts"], time.monotonic() - since
    stack.until_moving()
    stack.judge()
    passed = {name: after[name] - before[name] for name in ("ticks", "missed_ticks")}
    assert passed["ticks"] + passed["missed_ticks"] == pytest.approx(100 * elapsed, abs=30), "late ticks are counted, neither lost nor caught up"


def test_6_and_10_recorder_and_page_stand_still_the_disk_is_full_both_die(stack, tmp_path):
    ring = tmp_path / "ring"
    recorder, page = stack.start_recorder(ring), stack.start_page()
    assert stack.share_moving(50) > 0.05
    for process in (recorder, page):
        process.stop()
    assert stack.share_moving(70) > 0.05, "the loop waits for who only looks on"
    for process in (recorder, page):
        process.go_on()
    stack.pass_ticks(50)
    largest = max(file.stat().st_size for file in ring.rglob("*") if file.is_file())
    resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (largest, largest))  # from here on the disk takes nothing more
    assert stack.share_moving(70) > 0.05, "the loop waits for the disk"
    for process in (recorder, page):
        process.kill()
    assert stack.share_moving(50) > 0.05 and stack.healthy()
    summary = stack.end()
    stack.judge()
    assert not summary["failed"]
    done = subprocess.run([sys.executable, "-m", "robopolicy", "data", "recover", ring], cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = re.search(r"(\d+) messages", done.stdout)
    assert done.returncode == 0 and found and int(found[1]) > 50, done.stdout + done.stderr


@pytest.mark.parametrize("seconds", [1.0, pytest.param(0.1, marks=pytest.mark.soak)])
def test_6_the_robot_stands_still_and_is_killed(stack, seconds):
    stack.pass_ticks(40)
    before = stack.drive_status()["counts"]["missed_ticks"]
    frozen = time.monotonic_ns()
    stack.twin.stop()
    time.sleep(seconds)
    stack.twin.go_on()
    stack.until_moving()
    stack.frozen_ns += [frozen] if seconds > 0.25 else []  # s after which it takes itself for left alone
    stack.judge()
    assert stack.drive_status()["counts"]["missed_ticks"] - before >= 100 * seconds - 2
    stack.runtime.killed = True  # it ends by itself
    stack.twin.kill()
    wait_until(lambda: not stack.runtime.alive, stack.said)
    assert stack.runtime.process.returncode == 1 and "gone" in stack.runtime.said
    status = stack.drive_status()
    assert status["state"] == "stopped" and "gone" in status["cause"]
    stack.judge()
