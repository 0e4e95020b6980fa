"""Failure modes 4 and 5: the robot's sensors freeze or their readings are old, and the wall clock jumps."""

from __future__ import annotations

import pytest

from tests.faults.clock import WallClock
from tests.faults.proxy import Network, Relay
from tests.faults.senses import Senses
from tests.faults.stack import Stack


@pytest.mark.parametrize("fault, cause", [("frozen", "frozen observation"), ("old", "stale observation")])
def test_4_on_readings_that_are_frozen_or_old_no_plan_is_made(tmp_path, fault, cause):
    senses, relays = Senses(), []

    def behind(twin):
        relays.append(Relay(f"ipc://{tmp_path}/senses", twin, Network(towards_client=senses)))
        return relays[0].address

    with Stack(tmp_path, robot_address=behind, server=["--speed", "0.25"], run=["max_age_s=0.3"]) as stack, relays[0]:
        stack.pass_ticks(100)
        senses.frozen, senses.older_s = fault == "frozen", 0.5 * (fault == "old")
        stack.until_still()
        asked, _ = stack.policy.say()
        stack.pass_ticks(100)
        assert stack.policy.say()[0] == asked, "the policy was asked what to do about what nobody sees"
        senses.frozen, senses.older_s = False, 0.0
        stack.until_moving()
        summary = stack.end()
        stack.judge()
    assert senses.changed > 0 and summary["holds"][cause] > 0


@pytest.mark.parametrize("process", ["runtime", "drive", "server"])
def test_5_a_wall_clock_that_jumps_changes_nothing(tmp_path, process):
    clock = WallClock(tmp_path)
    with Stack(tmp_path, environments={process: clock.environment}) as stack:
        for offset_s in (0, 5, -5, 0):
            clock.set(offset_s)
            assert stack.share_moving(80) > 0.5, f"with the clock {offset_s:+} s off\n{stack.said()}"
        stack.end()
        stack.judge()
