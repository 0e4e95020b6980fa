"""Jogging: no jump when somebody takes over, no speed and no limit beyond what is declared, the axes that are meant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kinematics import Kinematics
from policies.motion import MotionLimits, Reference
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from real.levels import make_level
from real.robot import Observation, RobotInfo
from real.teleop.jog import JogConfig, axis_of, make_jog, shaped
from real.teleop.jog_fields import rotation_numbers
from real.teleop.jog_joints import resting_place
from real.teleop.scripted import ScriptedSource
from real.teleop.source import Input
from real.teleop.takeover import Takeover
from sim import registry
from sim.suites import arm
from tests.real.jointed import worst

LIMITS = arm.motion_limits()
HOME = np.array(arm.HOME)
SPEC = registry.make("arm/reach", 1).spec
INFO = RobotInfo("arm", 100.0, "holds", 0.25, substeps=5, motion=LIMITS, model=arm.robot_model(), home=arm.HOME)
STRAIGHT = JogConfig(dead_zone=0.0, expo=0.0)
unit = st.floats(-1, 1)


def reading(q, velocity=None) -> Observation:
    q = np.asarray(q, np.float64)
    state = np.zeros(17, np.float32)
    state[:7] = q
    now = Reference(q, np.zeros(7) if velocity is None else np.asarray(velocity, np.float64), np.zeros(7))
    return Observation({"observation.state": state}, {}, reference=now)


def begun(q=HOME, config: JogConfig = STRAIGHT, info: RobotInfo = INFO, spec: Spec = SPEC):
    jog = make_jog(spec, info, config)
    assert jog.start(reading(q), None)
    return jog


def hand_of(q) -> tuple[np.ndarray, np.ndarray]:
    kinematics = Kinematics(arm.robot_model(), LIMITS.names)
    kinematics.forward(np.asarray(q, np.float64))
    return kinematics.pose("hand")


def drawn(draw) -> Input:
    kind = draw(st.sampled_from(["twist", "joints", "positions", "pose", "nothing"]))
    value = {"clutch": True, "dial": draw(st.floats(0.05, 1)), "age": 0.0}
    if kind == "twist":
        value["twist"] = np.array([draw(unit) for _ in range(6)])
    elif kind == "joints":
        value["joints"] = np.array([draw(unit) for _ in range(7)])
    elif kind == "positions":
        value["positions"] = np.array([draw(st.floats(-6, 6)) for _ in range(7)])
    elif kind == "pose":
        pose = np.eye(4)
        pose[:3, 3] = [draw(st.floats(-0.5, 0.5)) for _ in range(3)]
        value["pose"] = pose
    else:
        value["clutch"] = False
    return Input(**value)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_taking_over_never_jumps_and_no_step_is_faster_than_the_joints(data):
    """Whatever device, wherever the robot stands or moves: the first action is where it comes to rest, within one step."""
    share = np.array([data.draw(st.floats(0.02, 0.98)) for _ in range(7)])
    q = LIMITS.low + share * (LIMITS.high - LIMITS.low)
    velocity = np.array([data.draw(unit) for _ in range(7)]) * LIMITS.velocity
    jog = make_jog(SPEC, INFO, STRAIGHT)
    now = reading(q, velocity)
    assert jog.start(now, None)
    rest = resting_place(now.reference, LIMITS)
    step = LIMITS.velocity / 20 + 1e-6
    before = rest
    for k in range(6):
        action = jog.step(drawn(data.draw), now).astype(np.float64)
        assert np.isfinite(action).all() and (action >= SPEC.action.low).all() and (action <= SPEC.action.high).all()
        reach = JogConfig().lead_s * LIMITS.velocity
        free = np.abs(before - now.reference.position) < reach - step  # else it is taken back to where it can be followed
        assert (np.abs(action - before)[free] <= step[free]).all(), k
        assert (np.abs(action - now.reference.position) <= reach + step + 1e-5).all()
        before = action
        now = reading(np.clip(action, LIMITS.low, LIMITS.high))


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_what_leaves_the_filter_keeps_every_limit(data):
    """The level and the filter behind the jog, as in a run: position, velocity, acceleration, jerk, by finite differences."""
    jog, level = make_jog(SPEC, INFO, STRAIGHT), make_level(SPEC.observation, SPEC.action, INFO)
    now, sent, value = reading(HOME), [HOME], Input()
    level.start(now)
    jog.start(now, None)
    for k in range(60):
        if level.due:
            if k % 15 == 0:
                value = drawn(data.draw)
            action = jog.step(value, now)
        command = level.step(action, now)
        if command is not None:
            sent.append(command.values)
            state = np.zeros(17, np.float32)
            state[:7] = command.values
            now = Observation({"observation.state": state}, {}, reference=command.reference)
    commands = np.array(sent)
    assert max(worst(commands, LIMITS).values()) <= 1 + 1e-6
    assert (commands >= LIMITS.low - 1e-9).all() and (commands <= LIMITS.high + 1e-9).all()


def test_where_a_moving_joint_comes_to_rest():
    """From 1 rad/s at 8 rad/s^2 and 150 rad/s^3: v/2 (v/a + a/j); slower, where the acceleration is never reached: v sqrt(v/j)."""
    limits = MotionLimits(("a", "b"), np.full(2, -9.0), np.full(2, 9.0), np.full(2, 2.0), np.full(2, 8.0), np.full(2, 150.0))
    now = Reference(np.array([0.0, 1.0]), np.array([1.0, -0.1]), np.zeros(2))
    np.testing.assert_allclose(resting_place(now, limits), [0.5 * (1 / 8 + 8 / 150), 1 - 0.1 * np.sqrt(0.1 / 150)])


def test_the_hand_goes_where_it_is_pushed_at_the_speed_that_is_said():
    config = JogConfig(dead_zone=0, expo=0, linear=0.1, angular=0.5)
    for axis in range(3):
        jog, q = begun(config=config), HOME
        start, turned = hand_of(q)
        for _ in range(10):
            q = jog.step(Input(twist=np.eye(6)[axis], clutch=True), reading(q))
        at, after = hand_of(q)
        np.testing.assert_allclose(at - start, 0.1 * 10 / 20 * np.eye(3)[axis], atol=3e-3)
        assert np.abs(after - turned).max() < 5e-3, "without turning"
    jog, q = begun(config=config), HOME
    start, turned = hand_of(q)
    for _ in range(10):
        q = jog.step(Input(twist=np.eye(6)[5], clutch=True, dial=0.5), reading(q))
    at, after = hand_of(q)
    angle = np.arctan2((after @ turned.T)[1, 0], (after @ turned.T)[0, 0])
    assert angle == pytest.approx(0.5 * 0.5 * 10 / 20, abs=0.01) and np.abs(at - start).max() < 3e-3, "about the vertical, on the spot"


def test_frames_of_tool_and_camera():
    jog, q = begun(), HOME
    assert (jog.turn_frame(), jog.turn_frame()) == ("tool", "base"), "no camera is known"
    jog.turn_frame()
    start, turned = hand_of(q)
    for _ in range(6):
        q = jog.step(Input(twist=np.eye(6)[2], clutch=True), reading(q))
    moved = hand_of(q)[0] - start
    np.testing.assert_allclose(moved / np.linalg.norm(moved), turned[:, 2], atol=0.05)
    # a camera that looks along the base's x: its x is the base's -y, its y -z, its z x
    jog, q = begun(config=JogConfig(dead_zone=0, expo=0, frame="camera", camera=(-1.2092, 1.2092, -1.2092))), HOME
    for _ in range(6):
        q = jog.step(Input(twist=np.eye(6)[0], clutch=True), reading(q))
    moved = hand_of(q)[0] - start
    np.testing.assert_allclose(moved / np.linalg.norm(moved), [0, -1, 0], atol=0.05)


def test_single_joints_and_without_a_model_the_twist_moves_joints():
    speed = np.zeros(7)
    speed[6] = -1.0
    action = begun().step(Input(joints=speed, clutch=True), reading(HOME))
    np.testing.assert_allclose(action - HOME, speed * 0.5 * 2.0 / 20, atol=1e-6)
    blind = RobotInfo("arm", 100.0, "holds", 0.25, substeps=5, motion=LIMITS)
    action = begun(info=blind).step(Input(twist=np.eye(6)[3], clutch=True), reading(HOME))
    np.testing.assert_allclose(action - HOME, np.eye(7)[3] * 0.05, atol=1e-6)
    with pytest.raises(InputError, match="has no model"):
        make_jog(SPEC, blind, JogConfig(hand="hand"))
    with pytest.raises(InputError, match="no site or body 'hnd'; did you mean 'hand'"):
        make_jog(SPEC, INFO, JogConfig(hand="hnd"))


def test_a_leader_is_approached_slowly_and_then_followed():
    jog, q = begun(), HOME
    leader = HOME + [0.8, 0, 0, 0, 0, 0, 0]
    steps = []
    for _ in range(80):
        after = jog.step(Input(positions=leader, clutch=True), reading(q)).astype(np.float64)
        steps.append(np.abs(after - q).max())
        q = after
    slow = JogConfig().leader_speed * 2.0 / 20
    assert max(steps) <= 2.0 / 20 + 1e-6 and max(steps[:30]) <= slow + 1e-6
    np.testing.assert_allclose(q, leader, atol=1e-6)
    after = jog.step(Input(positions=leader + [0, 0, 0.08, 0, 0, 0, 0], clutch=True), reading(q))
    assert after[2] - q[2] == pytest.approx(0.08, abs=1e-5), "near it follows at full speed"


def test_a_pose_moves_the_hand_as_far_as_the_device_went_since_the_clutch_closed():
    jog, q = begun(config=JogConfig(dead_zone=0, expo=0, linear=1.0, joints=1.0, pose_yaw=np.pi / 2)), HOME
    start, _ = hand_of(q)
    pose = np.eye(4)
    pose[:3, 3] = [5.0, 3.0, 1.0]
    q = jog.step(Input(pose=pose.copy(), clutch=True), reading(q))
    assert np.abs(hand_of(q)[0] - start).max() < 1e-3, "where the device is in its own frame does not matter"
    pose[:3, 3] += [0.05, 0, 0]
    for _ in range(20):
        q = jog.step(Input(pose=pose.copy(), clutch=True), reading(q))
    np.testing.assert_allclose(hand_of(q)[0] - start, [0, 0.05, 0], atol=2e-3)
    q = jog.step(Input(), reading(q))
    pose[:3, 3] += [0.3, 0.3, 0]  # moved with an open clutch
    held = jog.step(Input(pose=pose.copy(), clutch=True), reading(q))
    assert np.abs(held - q).max() < 1e-3


def test_home_is_approached_at_its_own_speed_and_left_for_any_motion():
    far = HOME + 0.3
    jog, q, steps = begun(far), far, []
    assert jog.go_home()
    for _ in range(60):
        after = jog.step(Input(), reading(q)).astype(np.float64)
        steps.append(np.abs(after - q).max())
        q = after
    assert max(steps) <= 0.25 * 2.0 / 20 + 1e-6 and np.abs(q - HOME).max() < 1e-5 and not jog.homing
    jog = begun(far)
    jog.go_home()
    jog.step(Input(twist=np.eye(6)[0], clutch=True), reading(far))
    assert not jog.homing


def test_home_and_gripper_go_on_after_the_robot_was_held_in_between():
    fields = {"arm": Field((2,), unit="rad", kind="position", names=("a", "b")), "grip": Field((1,), low=(0.0,), high=(1.0,), kind="gripper", names=("g",))}
    seen = Field((3,), unit="rad", names=("a", "b", "g"))
    spec = Spec(ObservationSpec({"observation.state": seen}, 20.0), ActionSpec(fields, 20.0))
    motion = MotionLimits(("a", "b", "g"), np.array([-2, -2, 0.0]), np.array([2, 2, 1.0]), np.full(3, 2.0), np.full(3, 8.0), np.full(3, 150.0))
    info = RobotInfo("pair", 100.0, "holds", 0.25, substeps=5, motion=motion, home=(0.5, -0.5, 1.0))
    jog, q = make_jog(spec, info, JogConfig(gripper=0.5)), np.array([0.0, 0.0, 0.9])
    at = lambda: Observation({}, {}, reference=Reference.at_rest(q))  # noqa: E731
    assert jog.start(at(), None) and not jog.busy
    jog.grip()
    for _ in range(10):
        q = jog.step(Input(), at()).astype(np.float64)
    assert jog.busy and q[2] == pytest.approx(0.9 - 10 * 0.5 / 20, abs=1e-5)
    jog.start(at(), None)  # somebody held the robot, or a command came late
    for _ in range(40):
        q = jog.step(Input(), at()).astype(np.float64)
    assert not jog.busy and q.tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert jog.go_home()
    for k in range(60):
        if k == 20:
            jog.start(at(), None)
        q = jog.step(Input(), at()).astype(np.float64)
    assert q.tolist() == pytest.approx([0.5, -0.5, 1.0], abs=1e-4) and not jog.busy
    jog.grip()
    jog.rest()
    assert not jog.busy and jog.step(Input(), at())[2] == pytest.approx(1.0, abs=1e-4)


def test_the_target_does_not_run_away_from_a_robot_that_cannot_follow():
    jog, stuck = begun(), reading(HOME)
    for _ in range(100):
        action = jog.step(Input(twist=np.eye(6)[1], clutch=True), stuck)
    assert jog.limited and (np.abs(action - HOME) <= JogConfig().lead_s * LIMITS.velocity + 1e-5).all()


# ---- other robots


def plain(fields: dict[str, Field], seen: dict[str, Field] | None = None, **info):
    spec = Spec(ObservationSpec(seen or {}, 10.0), ActionSpec(fields, 10.0))
    return spec, RobotInfo("robot", 10.0, "holds", 0.25, **info)


def test_kinds_of_actions_are_driven_as_they_mean():
    fields = {
        "hand": Field((3,), low=(-1, -1, -1), high=(1, 1, 1), kind="delta", names=("hand.dx", "hand.dy", "hand.dz")),
        "gripper": Field((1,), low=(-1,), high=(1,), kind="gripper", names=("gripper",)),
    }
    jog = make_jog(*plain(fields), STRAIGHT)
    here = Observation({}, {})
    assert jog.start(here, None)
    np.testing.assert_allclose(jog.step(Input(twist=np.array([0.5, -1, 0.25, 1, 1, 1]), clutch=True), here), [0.5, -1, 0.25, 1])
    np.testing.assert_allclose(jog.step(Input(), here), [0, 0, 0, 1], err_msg="holding: no increment, the gripper as it was")
    jog.grip()
    gripped = [float(jog.step(Input(), here)[3]) for _ in range(12)]
    assert gripped[0] == pytest.approx(0.8) and gripped[-1] == -1.0, "closes at a share of its range a second"
    assert jog.start(here, np.array([0, 0, 0, 0.3])) and jog.step(Input(), here)[3] == pytest.approx(0.3), "as it was told before"


def test_a_base_is_driven_forwards_and_about_the_vertical():
    fields = {"base": Field((2,), unit="m/s", low=(-1, -2), high=(1, 2), kind="velocity", names=("linear.x", "angular.z"))}
    jog = make_jog(*plain(fields), STRAIGHT)
    here = Observation({}, {})
    jog.start(here, None)
    np.testing.assert_allclose(jog.step(Input(twist=np.array([1, 0.3, 0, 0, 0, -0.5]), clutch=True), here), [1, -1])


def test_what_goes_one_way_alone_is_driven_that_way():
    fields = {"base": Field((2,), unit="m/s", low=(0, -2), high=(1, 0), kind="velocity", names=("linear.x", "linear.z"))}
    jog = make_jog(*plain(fields), STRAIGHT)
    here = Observation({}, {})
    jog.start(here, None)
    np.testing.assert_allclose(jog.step(Input(twist=np.array([0.5, 0, -0.5, 0, 0, 0]), clutch=True), here), [0.5, -1])
    np.testing.assert_allclose(jog.step(Input(twist=np.array([-0.5, 0, 0.5, 0, 0, 0]), clutch=True), here), [0, 0])
    assert jog.limited


def test_positions_begin_where_they_are_measured_and_are_refused_where_nobody_knows():
    target = Field((2,), unit="px", low=(0, 0), high=(512, 512), kind="position", names=("x", "y"))
    spec, info = plain({"target": target}, {"observation.state": Field((2,), unit="px", names=("agent.x", "agent.y"))})
    jog = make_jog(spec, info, STRAIGHT)
    here = Observation({"observation.state": np.array([100.0, 200.0], np.float32)}, {})
    assert jog.start(here, None)
    np.testing.assert_allclose(jog.step(Input(), here), [100, 200])
    right_and_up = jog.step(Input(twist=np.array([1, -1, 0, 0, 0, 0.0]), clutch=True), here)
    assert right_and_up[0] > 100 and right_and_up[1] < 200, "as on the screen, where y goes down"
    blind = make_jog(*plain({"target": target}), STRAIGHT)
    assert not blind.start(Observation({}, {}), None)


def test_who_takes_over_while_nobody_knows_where_the_robot_is_holds_it():
    fields = {
        "base": Field((1,), unit="m/s", low=(-1,), high=(1,), kind="velocity", names=("linear.x",)),
        "lift": Field((1,), unit="m", low=(-1,), high=(1,), kind="position", names=("z",)),
    }
    spec, info = plain(fields, {"observation.state": Field((1,), unit="m", names=("z",))})
    source = ScriptedSource()
    hand = Takeover(source, make_jog(spec, info, STRAIGHT), policy=True)
    blind = Observation({"observation.state": np.array([np.nan], np.float32)}, {})
    source.say(Input(events=("takeover",)))
    hand.poll()
    nothing = hand.act(blind, np.array([0.5, 0.2], np.float32))
    assert nothing is not None and nothing.shape == (0,), "the policy does not act, and nothing is known that would hold the robot"
    hand.release()
    assert hand.act(blind, np.array([0.5, 0.2], np.float32)) is None
    hand.take()
    kept = hand.act(blind, None)
    assert kept is not None and kept.tolist() == pytest.approx([0, 0.2]), "a rate that was told last does not go on"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.sampled_from(["rotation_axis_angle", "rotation_quaternion", "rotation_6d"]))
def test_rotations_are_written_as_they_are_read(vector, kind):
    from policies.cartesian import rotation_matrix

    turn = rotation_matrix("rotation_axis_angle", np.array(vector))
    np.testing.assert_allclose(rotation_matrix(kind, rotation_numbers(kind, turn)), turn, atol=1e-7)


def test_axes_may_be_named():
    fields = {"arm": Field((3,), low=(-1,) * 3, high=(1,) * 3, kind="velocity", names=("a", "b", "c"))}
    jog = make_jog(*plain(fields), JogConfig(dead_zone=0, expo=0, axes=["-y", "0", "yaw"]))
    here = Observation({}, {})
    jog.start(here, None)
    np.testing.assert_allclose(jog.step(Input(twist=np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), clutch=True), here), [-0.2, 0, 0.6], atol=1e-6)
    assert axis_of("+z") == (2, 1.0)
    for wrong in ("w", "--x", "x-"):
        with pytest.raises(InputError, match=r"jog\.axes"):
            axis_of(wrong)
    with pytest.raises(InputError, match="expected 3"):
        make_jog(*plain(fields), JogConfig(axes=["x"]))


@given(st.floats(-1, 1), st.floats(0, 0.9), st.floats(0, 1))
def test_small_deflections_are_finer_and_full_ones_are_full(value, dead, expo):
    out = shaped(np.array([value, -value, 1.0, 0.5 * dead]), dead, expo)
    assert out[0] == -out[1] and abs(out[0]) <= abs(value) + 1e-9 and out[2] == 1.0 and out[3] == 0.0


def test_input_that_is_not_sound_is_known():
    good = Input(twist=np.array([1, 0, 0, 0, 0, -1.0]), clutch=True)
    assert good.sound() and Input(pose=np.eye(4)).sound()
    for bad in (
        Input(twist=np.array([np.nan, 0, 0, 0, 0, 0])), Input(twist=np.zeros(5)), Input(twist=np.array([1.1, 0, 0, 0, 0, 0])), Input(dial=0.0),
        Input(positions=np.array([np.inf])), Input(opening=1.2), Input(pose=2 * np.eye(4)), Input(grip=float("nan")), Input(joints=np.array([2.0])),
    ):  # fmt: skip
        assert not bad.sound(), bad
