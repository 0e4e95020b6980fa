"""Failure modes 1, 2, 3 and 9: the policy server dies, stalls, lies, or is reached over a bad network.

Good chunks of these tests never move the last joint. Whoever moves it executes what is stale or foreign.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sim.suites.arm import robot_model
from tests.faults.arrivals import worst_brake_ticks
from tests.faults.policies import MODES, TourPolicy
from tests.faults.processes import wait_until
from tests.faults.proxy import Cable, Network, Relay
from tests.faults.stack import Stack

CHUNK_TICKS = TourPolicy.n_action_steps * 5  # at 20 Hz on a drive of 100 Hz
TIMEOUT_S = 0.3


def assert_stood_in_time(stack, since):
    """The arm stood within what was left of two chunks (one in play, one just arrived) and the slowest brake; in ticks of the log."""
    found = stack.arrived()
    row = found.row(since)
    still = found.still_from(row)
    assert still is not None and still - row <= 2 * CHUNK_TICKS + worst_brake_ticks(found.limits, found.tick_s)


def assert_nothing_stale(found, since=0):
    """The last joint is where it was before row ``since``."""
    moved = np.abs(found.position[since:, -1] - found.before[since, -1]).max()
    assert moved < 0.05, f"the last joint moved {moved:.3f} rad: a chunk was executed that should not have been"


def test_1_a_killed_server_leaves_the_arm_standing_until_there_is_a_new_session(stack):
    begun = len(stack.arrived())
    stack.pass_ticks(50)
    killed = time.monotonic_ns()
    stack.server.kill()
    stack.until_still()
    assert_stood_in_time(stack, killed)
    stack.server.start()
    stack.until_moving()
    summary = stack.end()
    assert_nothing_stale(stack.judge(), begun)
    assert summary["sessions"] == 2 and sum(summary["holds"].values()) > 0


def test_2_what_a_stalled_server_answers_late_is_never_executed(stack):
    start = len(stack.arrived())
    for _ in range(2):
        moved = np.repeat(stack.arrived().position[-1][None], TourPolicy.n_action_steps, axis=0)
        moved[:, -1] += 0.5
        begun, _ = stack.policy.say(delay_s=0.15, chunk=moved[None])
        wait_until(lambda before=begun: stack.policy.say()[0] > before)  # it thinks about the chunk that will be stale
        stopped = time.monotonic_ns()
        stack.server.stop()
        stack.until_still()
        assert_stood_in_time(stack, stopped)
        time.sleep(1.0)
        stack.server.go_on()
        stack.policy.say(delay_s=0.0)
        stack.until_moving()
        stack.pass_ticks(50)
    summary = stack.end()
    assert_nothing_stale(stack.judge(), start)
    assert summary["failed_requests"]["late"] >= 2 and summary["sessions"] >= 3


@pytest.mark.parametrize("ticks", [40, pytest.param(1000, marks=pytest.mark.soak)])
def test_3_whatever_a_policy_answers_what_arrives_is_finite_and_inside_every_limit(stack, ticks):
    for mode in MODES[1:]:
        stack.policy.say(mode)
        stack.pass_ticks(ticks)
        stack.judge()
    stack.policy.say("good")
    stack.until_moving()
    stack.judge().require_clear(robot_model())


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
CHUNKS = st.one_of(
    arrays.arrays(np.float32, (1, TourPolicy.n_action_steps, 7), elements=FLOATS, fill=st.just(0.0)),
    arrays.arrays(np.float32, (1, TourPolicy.n_action_steps, 7), elements=st.floats(-3, 3, width=32), fill=st.nothing()),
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=4, max_side=20), elements=FLOATS),
)


def test_3_hypothesis_looks_for_a_chunk_that_gets_through(stack):
    @given(CHUNKS)
    @settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.generate))  # a stack cannot be asked twice
    def attack(chunk):
        _, served = stack.policy.say(chunk=chunk)
        wait_until(lambda: stack.policy.say()[1] > served, stack.said, stack.healthy)
        stack.pass_ticks(10)
        stack.judge()

    attack()
    assert stack.runtime.alive, stack.said()
    stack.judge().require_clear(robot_model())


BAD = Network(delay_s=0.02, jitter_s=0.06, loss=0.05, double=0.3, echo_s=1.0)


@pytest.mark.parametrize("ticks", [200, pytest.param(6000, marks=pytest.mark.soak)])
def test_9_a_network_that_loses_doubles_delays_reorders_and_parts(tmp_path, ticks):
    relays = []

    def behind(server):
        relays.append(Relay(f"ipc://{tmp_path}/relay", server, BAD))
        return relays[0].address

    with Stack(tmp_path, policy_address=behind, run=[f"timeout_s={TIMEOUT_S}"]) as stack, relays[0] as relay:
        stack.pass_ticks(ticks)
        parted = time.monotonic_ns()
        relay.network = Network(partition=True)
        stack.until_still()
        time.sleep(2.0 - 1e-9 * (time.monotonic_ns() - parted))
        relay.network = BAD
        stack.until_moving()
        stack.pass_ticks(100)
        summary = stack.end()
        assert_stood_in_time(stack, parted)
        assert_nothing_stale(stack.judge())
    assert relay.counts["lost"] > 0 and relay.counts["doubled"] > 0 and relay.counts["reordered"] > 0
    assert summary["late_replies"] > 0 and summary["plans"] >= 2


@pytest.mark.parametrize("cuts", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_9_a_connection_that_is_cut_or_stands_still(tmp_path, cuts):
    cables = []

    def behind(server):
        cables.append(Cable(server))
        return cables[0].address

    with Stack(tmp_path, policy_address=behind, tcp=True, run=[f"timeout_s={TIMEOUT_S}"]) as stack, cables[0] as cable:
        for _ in range(cuts):
            stack.pass_ticks(50)
            cable.cut()
        stalled = time.monotonic_ns()
        cable.stalled = True
        stack.until_still()
        assert_stood_in_time(stack, stalled)
        cable.stalled = False
        stack.until_moving()
        stack.pass_ticks(60)
        assert_nothing_stale(stack.judge())
    assert cable.opened >= cuts
