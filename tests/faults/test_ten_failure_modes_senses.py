"""Failure modes 4 and 5: the robot's sensors freeze or their readings are old, and the wall clock jumps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.faults.clock import WallClock
from tests.faults.proxy import Network, Relay
from tests.faults.senses import Senses
from tests.faults.stack import Stack


class Behind:
    """A relay between robot and drive, made when the robot's address is known; it passes ``senses`` on."""

    def __init__(self, folder, senses):
        self.address, self.network, self.relay = f"ipc://{folder}/senses", Network(towards_client=senses), None

    def __call__(self, twin):
        self.relay = Relay(self.address, twin, self.network)
        return self.address


def test_4_on_readings_that_are_frozen_or_old_no_plan_is_made(tmp_path):
    senses = Senses()
    behind = Behind(tmp_path, senses)
    with Stack(tmp_path, robot_address=behind, server=["--speed", "0.06"], run=["max_age_s=0.3"]) as stack, behind.relay:
        for fault in ("frozen", "old"):
            stack.pass_ticks(50)
            senses.frozen, senses.older_s = fault == "frozen", 0.5 * (fault == "old")
            stack.until_still()
            asked, _ = stack.policy.say()
            stack.pass_ticks(60)
            assert stack.policy.say()[0] == asked, f"the policy was asked what to do about what is {fault}"
            senses.frozen, senses.older_s = False, 0.0
            stack.until_moving()
        summary = stack.end()
        stack.judge()
    assert senses.changed > 120 and summary["holds"]["frozen observation"] > 0 and summary["holds"]["stale observation"] > 0


def test_4_a_fast_arm_whose_joints_seem_to_stand_is_stopped(tmp_path):
    senses = Senses()
    behind = Behind(tmp_path, senses)
    with Stack(tmp_path, robot_address=behind) as stack, behind.relay:
        stack.pass_ticks(60)
        senses.frozen = True
        stack.runtime.killed = True  # it may end by itself
        row = stack.until_still()
        found = stack.judge()
        gone = np.abs(found.position[row:] - found.position[row]).max(axis=0)
    assert (gone <= found.limits.tracking + found.stop_bound(row, late=10)).all()


@pytest.mark.parametrize("process", ["runtime", *(pytest.param(name, marks=pytest.mark.soak) for name in ("drive", "server"))])
def test_5_a_wall_clock_that_jumps_changes_nothing(tmp_path, process):
    clock = WallClock(tmp_path)
    with Stack(tmp_path, environments={process: clock.environment}) as stack:
        for offset_s in (0, 5, -5, 0):
            clock.set(offset_s)
            assert stack.share_moving(60) > 0.05, f"with the clock {offset_s:+} s off\n{stack.said()}"
        stack.end()
        stack.judge()
