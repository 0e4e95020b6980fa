"""Closed loops of a person and a twin: through jog, takeover, level and filter, to recorded episodes."""

from __future__ import annotations

import numpy as np
import pytest

from policies.kinematics import Kinematics
from real.safety.barriers import Barriers
from real.teleop.source import Input
from sim import registry
from sim.suites import arm
from tests.real.jointed import worst
from tests.robopolicy.acted import Acting, AwayPolicy, towards


@pytest.fixture
def acting(tmp_path):
    opened = []

    def start(*args, **options) -> Acting:
        opened.append(Acting(tmp_path, *args, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def hand(a: Acting) -> np.ndarray:
    return a.seen["observation.state"][14:17].astype(np.float64)


def reach(a: Acting, most: int = 2500) -> bool:
    """Push the arm's hand to the goal until the episode is over; returns whether the world calls it a success."""
    before = a.episodes.counts.total()
    for _ in range(most):
        goal = a.seen["observation.environment_state"].astype(np.float64)
        a.tick(Input(twist=towards(goal, hand(a), 12.0), clutch=True))
        if a.episodes.counts.total() > before:
            return a.episodes.counts["success"] > 0
    return False


def test_a_person_reaches_the_goal_with_the_hand_through_the_filter(acting):
    a = acting("arm/reach", max_episode_steps=400)
    assert reach(a) and a.kept.words == ["begin", "success"]
    limits, sent = arm.motion_limits(), np.array(a.driver.sent)
    assert max(worst(sent, limits).values()) <= 1 + 1e-9
    assert Barriers(arm.barriers(), Kinematics(arm.robot_model(), list(limits.names))).path(sent).min() >= -1e-3
    (episode,) = a.kept.episodes
    assert all(taken for _, _, taken in episode) and len(episode) > 10
    assert {"taken", "recording", "saved", "released"} <= set(a.source.cues)


def test_who_takes_over_from_a_bad_policy_is_marked_and_saves_the_episode(acting):
    spec = registry.make("arm/reach", 1).spec
    a = acting("arm/reach", policy=AwayPolicy(spec), max_episode_steps=400)
    for _ in range(100):
        a.tick()
    assert not a.hand.taken and len(a.kept.steps) > 15 and not any(taken for _, _, taken in a.kept.steps)
    assert a.seen["observation.state"][0] > 0.3, "the policy turns away"
    assert reach(a)
    (episode,) = a.kept.episodes
    marks = np.array([taken for _, _, taken in episode])
    assert not marks[0] and marks[-1] and np.diff(marks.astype(int)).tolist().count(1) == 1
    jump = np.abs(np.diff(np.array([action for _, action, _ in episode])[marks], axis=0)).max()
    assert jump <= 2.0 / 20 + 1e-6, "by hand no action is further from the one before than a joint goes in a step"
    # the next episode begins with the policy, until somebody takes over again: a clutch that was never opened does not
    for _ in range(20):
        a.tick(Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True))
    for _ in range(20):
        a.tick(Input())
    assert not a.hand.taken and a.kept.steps and not any(taken for _, _, taken in a.kept.steps)
    for _ in range(20):
        a.tick(Input(events=("takeover",)) if not a.hand.taken else None)
    stood = hand(a)
    for _ in range(60):
        a.tick(Input())
    assert a.hand.taken and np.abs(hand(a) - stood).max() < 0.02, "taken over without moving: it holds"
    a.tick(Input(events=("release",)))
    assert not a.hand.taken


def test_stale_input_opens_the_clutch_and_the_robot_holds(acting):
    a = acting("arm/reach", max_episode_steps=2000)
    push = Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True)
    for _ in range(60):
        a.tick(push)
    assert a.hand.clutch
    for _ in range(100):  # nothing is said any more
        a.tick()
    assert not a.hand.clutch and a.hand.counts["stale"] == 1 and a.source.cues.count("stale") == 1
    stood = hand(a)
    for _ in range(100):
        a.tick()
    assert np.abs(hand(a) - stood).max() < 1e-3 and a.runtime.state == "hold"
    recorded = len(a.kept.steps)
    for _ in range(40):
        a.tick()
    assert len(a.kept.steps) == recorded, "a pause is no part of the demonstration"
    a.tick(push)
    assert a.hand.clutch


def test_episodes_end_by_the_persons_word_and_the_world_begins_anew(acting):
    a = acting("arm/reach", max_episode_steps=2000, wanted=2)
    push = Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True)
    words, seeds = iter(["discard", "failure", "success"]), []
    over = False
    for word in words:
        seeds.append(a.world.record.seed)
        for _ in range(40):
            assert not a.tick(push)
        over = a.tick(Input(events=(word,)))
        assert not a.episodes.open
    assert over and a.kept.words == ["begin", "discard", "begin", "failure", "begin", "success"]
    assert len(set(seeds)) == 3 and dict(a.episodes.counts) == {"discard": 1, "failure": 1, "success": 1}
    assert a.source.cues.count("discarded") == 1 and a.source.cues.count("saved") == 2
    a.tick(Input(events=("success",)))
    assert a.source.cues[-1] == "refused", "nothing is open"


def test_stop_and_hold_of_the_device_reach_the_drive(acting):
    a = acting("arm/reach")
    push = Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True)
    for _ in range(30):
        a.tick(push)
    a.tick(Input(twist=push.twist, clutch=True, events=("hold",)))
    for _ in range(100):
        a.tick(push)
    stood = hand(a)
    for _ in range(30):
        a.tick(push)
    assert a.runtime.state == "hold" and np.abs(hand(a) - stood).max() < 1e-4
    a.tick(Input(twist=push.twist, clutch=True, events=("resume",)))
    for _ in range(60):
        a.tick(push)
    assert np.abs(hand(a) - stood).max() > 0.01
    a.tick(Input(twist=push.twist, clutch=True, events=("stop",)))
    for _ in range(60):
        a.tick(push)
    assert a.runtime.state == "stopped"


def test_the_robot_goes_home_and_stops_there_when_something_else_is_asked(acting):
    a = acting("arm/reach", max_episode_steps=4000)
    for _ in range(100):
        a.tick(Input(twist=np.array([0.0, 1, 0, 0, 0, 0]), clutch=True))
    a.tick(Input(events=("home",)))
    for _ in range(600):
        a.tick(Input())
        if not a.jog.homing:
            break
    for _ in range(50):
        a.tick(Input())
    assert np.abs(a.seen["observation.state"][:7] - arm.HOME).max() < 0.02


def test_the_way_home_does_not_go_on_when_a_hold_is_over(acting):
    a = acting("arm/reach", max_episode_steps=4000)
    for _ in range(100):
        a.tick(Input(twist=np.array([0.0, 1, 0, 0, 0, 0]), clutch=True))
    a.tick(Input(events=("home",)))
    for _ in range(20):
        a.tick(Input())
    assert a.jog.homing
    a.tick(Input(events=("hold",)))
    for _ in range(100):
        a.tick(Input())
    stood = a.seen["observation.state"][:7].copy()
    a.tick(Input(events=("resume",)))
    for _ in range(60):
        a.tick(Input())
    assert not a.jog.homing and np.abs(a.seen["observation.state"][:7] - stood).max() < 1e-3
    assert np.abs(stood - arm.HOME).max() > 0.05, "it was on its way"


def test_a_robot_that_was_taken_over_without_an_action_is_held(acting, monkeypatch):
    a = acting("arm/reach", policy=AwayPolicy(registry.make("arm/reach", 1).spec), max_episode_steps=400)
    for _ in range(60):
        a.tick()
    monkeypatch.setattr(a.hand, "act", lambda reading, action: np.zeros(0, np.float32))
    for _ in range(100):
        a.tick()
    stood = a.seen["observation.state"][:7].copy()
    for _ in range(60):
        a.tick()
    assert np.abs(a.seen["observation.state"][:7] - stood).max() < 1e-4
    assert (a.runtime.state, a.runtime.cause) == ("hold", "taken over")


def test_a_clutch_that_nobody_holds_is_no_sign_of_life(acting):
    a = acting("arm/reach")
    push = Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True)
    a.source.say(push)
    assert ("deadman", 0.0) in a.episodes.poll()
    a.source.held = False  # a leader arm without a pedal
    a.source.say(push)
    assert ("deadman", 0.0) not in a.episodes.poll() and a.hand.clutch


def test_two_route_is_driven_by_its_velocities(acting):
    a = acting("two-route", max_episode_steps=200)
    start = a.seen["observation.state"].copy()
    for _ in range(5):
        a.tick(Input(twist=np.array([1.0, 0, 0, 0, 0, 0]), clutch=True))
    up = a.seen["observation.state"] - start
    assert up[1] > 0 and abs(up[0]) < 0.05 * up[1], "forwards is up"
    here = a.seen["observation.state"].copy()
    for _ in range(5):
        a.tick(Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True))
    left = a.seen["observation.state"] - here
    assert left[0] < 0 and abs(left[1]) < -0.05 * left[0]
    stood = a.seen["observation.state"].copy()
    for _ in range(5):
        a.tick(Input())
    assert np.abs(a.seen["observation.state"] - stood).max() < 0.02
    assert all(taken for _, _, taken in a.kept.steps)


def test_a_gripper_that_is_asked_for_before_anything_else_closes_all_the_way(acting):
    a = acting("arm/pick-place", max_episode_steps=200)
    a.tick(Input(events=("grip",)))
    for _ in range(25):
        a.tick(Input())
    assert a.driver.sent[-1][7] == 0.0 and a.driver.sent[0][7] == pytest.approx(0.95) and not a.jog.busy
    sent = len(a.driver.sent)
    for _ in range(20):
        a.tick(Input())
    assert len(a.driver.sent) - sent < 12, "then nothing is done: the robot holds"
