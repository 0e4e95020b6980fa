"""The window of observations: what is stale, malformed, not finite or frozen never reaches a policy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.motion import MotionLimits, Reference
from policies.spec import Field, ObservationSpec
from real.observing import ObservationWindow
from real.robot import Observation

NAMES = ("joint1", "joint2")
MOTION = MotionLimits(NAMES, -2, 2, 1, 5, 50)  # type: ignore[arg-type]
SPEC = ObservationSpec(
    {
        "observation.state": Field((3,), names=(*NAMES, "other")),
        "observation.goal": Field((2,), kind="goal"),
        "observation.images.front": Field((40, 40, 3), "uint8", "px", kind="image"),
    },
    20.0,
)


def reading(joints=(0.0, 0.0), commanded=None, picture=0, at=10.0):
    image = np.full((40, 40, 3), picture, np.uint8)
    fields = {"observation.state": np.array([*joints, 0.0], np.float32), "observation.goal": np.zeros(2, np.float32), "observation.images.front": image}
    reference = None if commanded is None else Reference.at_rest(np.asarray(commanded))
    return Observation(fields, dict.fromkeys(fields, int(1e9 * at)), reference=reference)


def window(**options):
    return ObservationWindow(SPEC, 2, **{"substeps": 5, "motion": MOTION, **options})


def test_a_window_is_one_policy_step_apart_and_pads_with_the_oldest():
    seen = window()
    for tick in range(12):
        seen.push(reading((tick, 0)))
        pair = seen.stack()["observation.state"][0, :, 0]
        assert pair.tolist() == [max(tick - 5, 0), tick]
    assert seen.stack()["observation.images.front"].shape == (1, 2, 40, 40, 3)


def test_a_planners_goal_replaces_the_field_in_every_row():
    seen = window()
    seen.push(reading())
    stacked = seen.stack({"observation.goal": np.array([3, 4], np.float32)})
    assert stacked["observation.goal"].tolist() == [[[3, 4], [3, 4]]]


def test_old_fields_are_stale_and_a_world_that_waits_has_none():
    seen, old = window(max_age_s=0.5), reading(at=9.4)
    seen.push(old)
    assert seen.fault(old, 10.0) == "stale observation" and seen.fault(old, 10.0, lockstep=True) == "" and seen.fault(old, 9.8) == ""
    del old.capture_ns["observation.goal"]
    assert seen.fault(old, 9.5) == "stale observation"  # of unknown age


def test_stamps_ahead_of_this_machines_clock_are_not_believed():
    seen, ahead = window(max_age_s=0.5), reading(at=10.2)
    seen.push(ahead)
    assert seen.fault(ahead, 10.0) == "future observation" and seen.fault(ahead, 10.0, lockstep=True) == "" and seen.fault(ahead, 10.15) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_bad(value):
    seen, bad = window(), reading((0, value))
    seen.push(bad)
    assert seen.fault(bad, 10.0) == "bad observation"


@pytest.mark.parametrize("bad", [np.full(3, np.nan, np.float32), np.zeros(4, np.float32), None])
def test_a_bad_reading_is_believed_as_little_once_it_is_the_past_of_the_window(bad):
    seen, spoilt, good = window(), reading(), reading()
    spoilt.fields = {name: field for name, field in {**spoilt.fields, "observation.state": bad}.items() if field is not None}
    for one in (good, spoilt, *[good] * 4):  # the bad one is between two policy steps, which alone are looked at
        seen.push(one)
    assert seen.fault(good, 10.0) == ""
    seen.push(good)
    assert seen.fault(good, 10.0) == "bad observation"
    seen.push(good)
    assert seen.fault(good, 10.0) == "" and np.isfinite(seen.stack()["observation.state"]).all()


def test_wrong_shape_type_or_a_lacking_field_is_bad():
    for change in (
        lambda f: f.pop("observation.goal"),
        lambda f: f.update({"observation.goal": np.zeros(3, np.float32)}),
        lambda f: f.update({"observation.goal": np.zeros(2)}),
    ):
        seen, bad = window(), reading()
        change(bad.fields)
        seen.push(bad)
        assert seen.fault(bad, 10.0) == "bad observation"


@given(st.booleans(), st.booleans(), st.lists(st.floats(-0.03, 0.03), min_size=1, max_size=30))
def test_frozen_is_what_repeats_while_the_joints_are_sent_elsewhere(camera_lives, encoders_live, moves):
    seen, commanded = window(frozen_after=0.05), 0.0
    for number, move in enumerate(moves):
        commanded += move
        now = reading((commanded if encoders_live else 0.0, 0), (commanded, 0.0), number % 251 if camera_lives else 7)
        seen.push(now)
    travelled = np.cumsum(moves) - moves[0]
    dead = not camera_lives or (not encoders_live and any(moves))
    if camera_lives and encoders_live:
        assert seen.fault(now, 10.0) == ""
    elif dead and abs(travelled[-1]) > 0.051:
        assert seen.fault(now, 10.0) == "frozen observation"
    elif np.abs(travelled).max() < 0.049:
        assert seen.fault(now, 10.0) == ""


def test_a_camera_that_does_not_see_the_robot_may_be_exempt():
    seen = window(frozen_after=None)
    for commanded in (0.0, 1.0):
        now = reading((commanded, 0), (commanded, 0.0))
        seen.push(now)
    assert seen.fault(now, 10.0) == ""


def test_a_new_episode_forgets_what_it_saw():
    seen = window()
    seen.push(reading(commanded=(0, 0)))
    seen.clear()
    now = reading(commanded=(1, 0))
    seen.push(now)
    assert seen.fault(now, 10.0) == ""
