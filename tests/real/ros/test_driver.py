"""The driver in a closed loop with a process that behaves like ros2_control's controllers; failures come from there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from policies.motion import Reference
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, SpecMismatch
from real.drive import Drive, DriveOptions
from real.latch import Latch
from real.robot import RobotGone
from real.robots.ros2 import Ros2Config, Ros2Robot
from real.safety.brake import Brake
from tests.real.ros.domains import free_domain

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0


class Controller:
    """The process of ``controller.py``."""

    def __init__(self, folder: Path, domain: int) -> None:
        self.folder, self.domain = folder, domain
        command = [sys.executable, str(Path(__file__).with_name("controller.py")), str(folder), str(domain)]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ROBOPOLICY_ROS": "dds", "PATH": ""}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == f"done {line}\n"

    def desired(self) -> np.ndarray:
        """Return the desired positions of every step so far, (T, 1 + 2): time in s, shoulder, elbow."""
        lines = (self.folder / "desired.log").read_text().rpartition("\n")[0].split("\n")
        rows = np.array([json.loads(line) for line in lines])
        rows[:, 0] *= 1e-9
        return rows

    def said(self) -> str:
        return (self.folder / "said.log").read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with free_domain() as domain:
        made = Controller(tmp_path_factory.mktemp("controller"), domain)
        yield made
        made.end()


@pytest.fixture
def opened(controller, request):
    """Opens drivers, and closes them."""
    made: list[Ros2Robot] = []

    def open_robot(**options: object) -> Ros2Robot:
        lines: list[str] = []
        config = Ros2Config(domain=controller.domain, interface="", connect_s=20.0, **options)  # type: ignore[arg-type]
        made.append(Ros2Robot(config, lines.append))
        made[-1].said = lines  # type: ignore[attr-defined]
        return made[-1]

    yield open_robot
    for robot in made:
        robot.close()


def until(condition, why="it does not come"):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, why
        time.sleep(0.005)


def refused(controller, **options) -> str:
    """Return the line with which a driver is refused."""
    with pytest.raises(InputError) as error:
        Ros2Robot(Ros2Config(domain=controller.domain, interface="", **{"connect_s": 20.0, **options}), lambda line: None).close()
    assert "\n" not in str(error.value) and str(error.value).startswith("robot=ros2: ")
    return str(error.value)


CAMERA = {"observation.images.front": {"shape": [4, 6, 3]}}


def test_what_the_robot_is_comes_from_its_description(controller, opened):
    robot = opened(fields=CAMERA, tracking=0.2, velocity={"elbow": 1.0}, stop_jerk=200.0)
    assert not any("robot.tracking" in line for line in robot.said)
    assert robot.spec.action.names == ("shoulder", "elbow") and robot.spec.action.fields["joint_position"].unit == "rad"
    limits = robot.info.motion
    assert limits.low.tolist() == [-2.0, -1.5] and limits.high.tolist() == [2.0, 1.5] and limits.velocity.tolist() == [1.5, 1.0]
    assert limits.acceleration.tolist() == [6.0, 8.0] and limits.jerk.tolist() == [80.0, 100.0] and limits.stop_jerk.tolist() == [200.0, 200.0]
    assert robot.info.on_silence == "brakes" and robot.info.substeps == 5 and "<robot name=" in robot.info.model
    reading = robot.read()
    assert reading.fields["observation.state"].shape == (4,) and not reading.doubt
    assert np.abs(reading.fields["observation.state"][:2] - controller.desired()[-1, 1:]).max() < 1e-6, "by name: it sends another order, and a joint more"
    picture = reading.fields["observation.images.front"]
    assert picture[1, 2].tolist() == [200, 0, 7], "bgr8 with padded rows"
    ages = [(time.monotonic_ns() - stamp) * 1e-9 for stamp in reading.capture_ns.values()]
    assert all(0 <= age < 10 for age in ages)


def test_a_wall_clock_that_is_set_back_does_not_end_the_watch_over_the_graph(controller, opened, monkeypatch):
    robot = opened(tracking=0.2)
    back = SimpleNamespace(time_ns=lambda: time.time_ns() - 3600 * 10**9, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr("real.ros.dds.clock._time", back)
    robot._graph_doubt = "of before"
    until(lambda: not robot._graph_doubt, "nobody looks who else is there")


def checkpoint(names=("shoulder", "elbow"), unit="rad", low=(-1.9, -1.5), high=(1.9, 1.5), kind="position", extra=None):
    names = tuple(names)
    state = {"observation.state": Field((len(names),), unit=unit, names=names), **(extra or {})}
    action = {"joint_position": Field((len(names),), unit=unit, low=low, high=high, kind=kind, names=names)}
    return Spec(ObservationSpec(state, 20.0), ActionSpec(action, 20.0)).to_dict()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spec": checkpoint(("shoulder", "elbo"))}, "'elbo'; did you mean 'elbow'"),
        ({"spec": checkpoint(("shoulder", "finger"))}, "joint 'finger' follows 'elbow' (mimic)"),
        ({"spec": checkpoint(unit="m")}, "'shoulder' is in rad, expected 'm': that is no unit of the same kind"),
        ({"spec": checkpoint(unit="deg", low=(-90, -80), high=(90, 80))}, "'shoulder' is in rad, expected 'deg'; robot.convert=true converts it"),
        ({"spec": checkpoint(high=(2.5, 1.5))}, "high of 'shoulder' is 2.5, beyond the robot's own 2"),
        ({"spec": checkpoint(kind="delta")}, "is a delta, robot.command=trajectory takes a position"),
        ({"spec": checkpoint(), "joints": ["elbow", "shoulder"]}, "not the same in order"),
        ({"spec": checkpoint(), "fields": {"observation.stat": {}}}, "no field 'observation.stat'; did you mean 'observation.state'"),
        ({"rate_hz": 30.0}, "expected a whole multiple of the 20 Hz"),
        ({"deadline_s": 0.2}, "robot.deadline_s=0.2: a stop takes up to"),
        ({"command": "position"}, "accept_no_timeout: true"),
        ({"command": "velocity", "spec": None}, "set robot.timeout_s"),
        ({"home": [0.0]}, "robot.home: expected 2 numbers, found 1"),
        ({"velocity": {"elbo": 1.0}}, "no commanded joint 'elbo'; did you mean 'elbow'"),
        (
            {"joint_states": "joint_state", "connect_s": 0.5},
            "no joint states on /joint_state within 0.5 s; topics of sensor_msgs/msg/JointState seen: /joint_states; did you mean",
        ),
        (
            {"namespace": "left", "connect_s": 0.5},
            "no joint states on /left/joint_states within 0.5 s; topics of sensor_msgs/msg/JointState seen: /joint_states; did you mean",
        ),
        ({"command_topic": "arm/joint_trajectory", "connect_s": 0.5}, "nobody takes commands on /arm/joint_trajectory within 0.5 s"),
        ({"fields": {"observation.images.frnt": {"shape": [4, 6, 3]}}, "connect_s": 0.5}, "nothing on /camera/frnt/image_raw within 0.5 s"),
        ({"fields": {"observation.images.front": {"shape": [8, 6, 3]}}, "connect_s": 0.5}, "image of 6x4 pixels, 6x8 are expected"),
        ({"fields": {"f": {"source": "wrench", "names": ["force.x"]}}, "connect_s": 0.5}, "field f: nothing on /wrench within 0.5 s"),
        ({"fields": {"p": {"source": "transform", "names": ["position.x"], "parent": "a", "child": "b"}}, "connect_s": 0.5}, "no transform from 'b' to 'a'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(controller, options, said):
    if options.get("command") == "velocity":
        options = {**options, "spec": None}
    assert said in refused(controller, **options)


def test_limits_of_a_simulation_that_is_faster_are_those_of_its_own_seconds(controller, opened):
    robot = opened()
    limits = robot.info.motion
    robot.close()
    faster = opened(speed=2.0).info
    assert faster.rate_hz == 200.0 and faster.substeps == 5
    for part, power in (("velocity", 1), ("acceleration", 2), ("jerk", 3), ("stop_jerk", 3)):
        assert getattr(faster.motion, part).tolist() == (getattr(limits, part) * 2**power).tolist()


def test_a_spec_that_fits_is_offered_as_it_is(controller, opened):
    wanted = Spec.from_dict(checkpoint())
    robot = opened(spec=checkpoint())
    assert any("robot.tracking is not set" in line for line in robot.said), "what is not watched is said"
    wanted.require(robot.spec, "the policy", "the robot")
    assert robot.info.motion.low.tolist() == pytest.approx([-1.9, -1.5])


def test_degrees_are_converted_when_asked_for_and_said(controller, opened):
    robot = opened(spec=checkpoint(unit="deg", low=(-90, -80), high=(90, 80)), convert=True, velocity=0.8)
    assert any("converted rad -> deg" in line for line in robot.said)
    until(lambda: np.abs(robot.read().fields["observation.state"] - np.degrees(controller.desired()[-1, 1:])).max() < 1e-3)
    assert robot.info.motion.velocity[1] == pytest.approx(np.degrees(0.8)) and robot.info.motion.acceleration[0] == pytest.approx(np.degrees(6.0))
    start = np.degrees(controller.desired()[-1, 1:])
    move(robot, start, ticks=30)
    until(lambda: np.abs(np.degrees(controller.desired()[-1, 1:]) - robot._commander._end).max() < 1e-6)
    assert np.abs(np.degrees(controller.desired()[-1, 1:]) - start).max() > 1e-5, "it has moved"


def move(robot, start, ticks):
    """Speed up for half of ``ticks`` with the jerk and acceleration of the limits; returns the last reference."""
    limits, tick = robot.info.motion, 1 / robot.info.rate_hz
    state, begin = Reference.at_rest(start), time.monotonic()
    for k in range(ticks):
        jerk = limits.jerk * (0.5 if k < 3 else 0.0) * np.array([1.0, -1.0])
        before = state
        state = Reference(
            before.position + before.velocity * tick + before.acceleration * tick**2 / 2 + jerk * tick**3 / 6,
            before.velocity + before.acceleration * tick + jerk * tick**2 / 2, before.acceleration + jerk * tick,
        )  # fmt: skip
        if (np.abs(state.velocity) + state.acceleration**2 / limits.jerk > 0.6 * limits.velocity).any():
            state = Brake.of(before, limits, stop=False).reference(tick)
        time.sleep(max(begin + k * tick - time.monotonic(), 0))
        robot.write_motion(before, state)
    return state


def test_a_driver_that_falls_silent_leaves_the_robot_at_rest_where_the_brake_ends(controller, opened):
    robot = opened(deadline_s=1.0)
    start = controller.desired()[-1, 1:]
    move(robot, start, ticks=5)
    since = len(controller.desired())
    goal = robot._commander._end.copy()
    until(lambda: len(controller.desired()) > since + 130)
    found = controller.desired()[since:]
    assert np.abs(found[-1, 1:] - goal).max() < 1e-6, "it stands where its last trajectory ended"
    assert np.abs(start - goal).max() > 1e-6, "it was moving"


def test_a_drive_brakes_when_joint_states_stop_and_goes_on_when_they_come_back(controller, opened, tmp_path):
    robot = opened(stale_s=0.2)
    drive = Drive(robot, DriveOptions(), Latch(tmp_path / "latch"))
    tick(drive, 3)
    assert drive.reading.state == "holding" and "doubt" not in drive.reading.cause
    controller.tell("silence")
    until(lambda: (tick(drive, 1), "joint states: none on /joint_states for more than 0.2 s" in drive.refusal)[1])
    assert drive.offer(np.zeros(2), Reference.at_rest(np.zeros(2)), drive.reading.tick + 1).startswith("joint states")
    controller.tell("well")
    until(lambda: (tick(drive, 1), not drive.refusal)[1])
    controller.tell("nan")
    until(lambda: (tick(drive, 1), "not finite" in drive.refusal)[1])
    controller.tell("well")
    until(lambda: (tick(drive, 1), not drive.refusal)[1])


def tick(drive, number):
    for _ in range(number):
        drive.tick()
        time.sleep(0.01)


def test_a_clock_that_jumps_holds_with_that_cause_and_then_the_new_one_counts(controller, opened, tmp_path):
    robot = opened()
    drive = Drive(robot, DriveOptions(), Latch(tmp_path / "latch"))
    tick(drive, 3)
    for jump in ("5", "-5"):
        controller.tell(f"jump {jump}")
        until(lambda: (tick(drive, 1), "clock: that of the robot jumped" in drive.refusal)[1])
        until(lambda: (tick(drive, 1), not drive.refusal)[1])
    assert robot.report()["clock_jumps"] == 2


@pytest.mark.parametrize(("what", "said"), [("commands", "2 publishers of commands"), ("states", "2 publishers of joint states")])
def test_somebody_else_who_publishes_is_a_hold_by_name_and_refused_at_the_start(controller, opened, what, said):
    robot = opened()
    assert not robot.read().doubt
    controller.tell(f"second {what}")
    try:
        until(lambda: said in robot.read().doubt and "/intruder" in robot.read().doubt)
        robot.close()
        if what == "states":
            assert said in refused(controller, connect_s=0.5)
    finally:
        controller.tell("second none")


def test_two_descriptions_of_a_robot_are_refused_by_name(controller):
    controller.tell("second descriptions")
    try:
        said = refused(controller, connect_s=0.5)
        assert "2 publishers of robot descriptions on /robot_description" in said and "/intruder" in said
    finally:
        controller.tell("second none")


def test_a_controller_that_goes_is_a_hold_and_then_the_robot_is_gone(controller, opened):
    robot = opened(gone_s=1.5)
    controller.tell("deaf")
    try:
        until(lambda: "controller gone: nobody takes commands on /joint_trajectory_controller/joint_trajectory" in robot.read().doubt)
        with pytest.raises(RobotGone, match="controller gone"):
            until(lambda: robot.read() is None)
    finally:
        controller.tell("hear")


def test_a_camera_that_stalls_grows_old_and_nothing_else_does(controller, opened):
    robot = opened(fields=CAMERA)
    controller.tell("images off")
    try:
        until(lambda: time.monotonic_ns() - robot.read().capture_ns["observation.images.front"] > 500_000_000)
        reading = robot.read()
        assert not reading.doubt and time.monotonic_ns() - reading.capture_ns["observation.state"] < 250_000_000
    finally:
        controller.tell("images on")


def test_positions_go_to_a_forward_controller_when_that_is_accepted(controller, opened):
    robot = opened(command="position", accept_no_timeout=True)
    at = controller.desired()[-1, 1:]
    robot.write_motion(Reference.at_rest(at), Reference.at_rest(at + 0.01))
    until(lambda: np.abs(controller.desired()[-1, 1:] - at - 0.01).max() < 1e-9)
    assert robot.info.on_silence == "holds"


def test_a_robot_that_somebody_else_has_moved_is_not_pulled_back_to_where_it_was_left(controller, opened):
    robot, other = opened(), opened(command="position", accept_no_timeout=True, node="other")
    move(robot, controller.desired()[-1, 1:], ticks=5)
    left = robot._commander._end.copy()
    until(lambda: np.abs(controller.desired()[-1, 1:] - left).max() < 1e-6)
    other.write_motion(Reference.at_rest(left + 0.3), Reference.at_rest(left + 0.3))
    until(lambda: np.abs(robot.read().fields["observation.state"][:2] - left - 0.3).max() < 1e-3)
    sent = robot.report()["commands"]
    robot.write_motion(Reference.at_rest(left), Reference.at_rest(left))
    assert robot.report()["commands"] == sent and "is 0.3 rad or m from where it was left" in robot.read().doubt
    robot.hold()
    assert not robot.read().doubt
    since, here = len(controller.desired()), controller.desired()[-1, 1:]
    move(robot, here, ticks=5)
    until(lambda: len(controller.desired()) > since + 60)
    found = controller.desired()[since:, 1:]
    assert np.abs(np.diff(found, axis=0)).max() < 0.03 and np.abs(found - here).max() < 0.15, "it goes on from where it is"


def test_rates_are_zero_when_held(controller, opened):
    robot = opened(command="velocity", timeout_s=0.2)
    assert robot.info.on_silence == "brakes" and robot.info.silence_s == 0.2 and robot.info.motion is None
    at = controller.desired()[-1, 1]
    for _ in range(20):
        robot.write(np.array([0.2, 0.0], np.float32))
        time.sleep(0.01)
    until(lambda: controller.desired()[-1, 1] > at + 0.01)
    robot.hold()
    until(lambda: np.ptp(controller.desired()[-10:, 1]) == 0)
    robot.stop()
    robot.write(np.array([0.2, 0.0], np.float32))
    assert robot.report()["commands"] == 22, "stopped: nothing is sent any more"
    robot.clear()


def test_a_twist_with_its_time(controller, opened):
    robot = opened(command="twist_stamped", twist={"linear.x": (-0.3, 0.3), "angular.z": (-1, 1)}, timeout_s=0.5)
    assert robot.spec.action.names == ("linear.x", "angular.z") and robot.spec.action.high.tolist() == pytest.approx([0.3, 1.0])
    robot.write(np.array([0.25, -0.5], np.float32))
    until(lambda: "twist 0.25 -0.5 True" in controller.said())


def test_units_that_are_not_known_are_a_mismatch_and_no_error_of_ours(controller):
    with pytest.raises(InputError, match="furlong") as error:
        Ros2Robot(Ros2Config(domain=controller.domain, interface="", spec=checkpoint(unit="furlong")), lambda line: None)
    assert isinstance(error.value.__cause__, SpecMismatch)


def test_topics_of_other_names_are_reached_by_remapping(controller, opened):
    robot = opened(
        namespace="left", remap={"states": "/joint_states", "robot_description": "/robot_description"}, joint_states="states", command_topic="/" + TOPIC
    )
    assert robot.info.name == "ros2 left" and not robot.read().doubt


TOPIC = "joint_trajectory_controller/joint_trajectory"
