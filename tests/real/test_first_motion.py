"""Before the first motion: what is found out while the robot stands still, and the slow way home."""

import time

import numpy as np
import pytest

from policies.spec import Field, InputError, ObservationSpec, Spec
from real.drive import Drive, DriveOptions
from real.drive_handle import DriveHandle
from real.first_motion import go_to, preflight, require_passed
from real.latch import Latch
from real.robot import RobotGone, RobotInfo
from robopolicy.cli import main
from robopolicy.deployment import load_run_config
from tests.real.jointed import RATE, Joints, limits, spec, stamped, worst


def handle(tmp_path, robot):
    return DriveHandle(Drive(robot, DriveOptions(), Latch(tmp_path)))


def failed(findings):
    return {f.what: f.line for f in findings if not f.passed}


def test_a_sound_robot_passes_and_nothing_is_commanded(tmp_path):
    robot = Joints(lockstep=True)
    ranges = {"observation.state": (np.full(3, -0.5), np.full(3, 0.5))}
    findings = preflight(handle(tmp_path, robot), spec(), ranges, max_age_s=1e9)
    assert not failed(findings) and not len(robot.commands)
    assert {f.what for f in findings} == {"spec", "rate", "observation.state", "start pose", "position limits"}
    require_passed(findings)


def test_every_fault_is_named(tmp_path):
    robot = Joints(lockstep=True)
    robot.position[:] = (0.0, 2.3, 0.0)
    ranges = {"observation.state": (np.full(3, -0.5), np.full(3, 0.5))}
    found = failed(preflight(handle(tmp_path / "a", robot), spec(), ranges, max_age_s=1e9))
    assert found["position limits"] == "outside: b"
    assert found["start pose"] == "observation.state[1] is 180 % of its range outside of the training data"
    found = failed(preflight(handle(tmp_path / "b", Joints(lockstep=True)), spec(), max_age_s=1.0))  # stamps of long ago
    assert "s are allowed" in found["observation.state"]
    with pytest.raises(InputError, match=r"pre-flight: observation\.state"):
        require_passed(preflight(handle(tmp_path / "c", Joints(lockstep=True)), spec(), max_age_s=1.0))


def test_a_driver_that_stamps_with_the_wall_clock_is_found(tmp_path):
    """Such stamps lie decades ahead: whatever is taken for their age never grows old."""
    robot = stamped(Joints(), time.time_ns)
    found = failed(preflight(handle(tmp_path, robot), spec(), seconds=0.1))
    assert "captured in the future" in found["observation.state"] and "monotonic clock" in found["observation.state"]


def test_a_robot_that_does_not_fit_is_told_at_once(tmp_path):
    wanted = Spec(ObservationSpec({"observation.tactile": Field((4,))}, 20), spec().action)
    (finding,) = preflight(handle(tmp_path, Joints(lockstep=True)), wanted)
    assert not finding.passed and finding.what == "spec" and "observation.tactile" in finding.line


@pytest.mark.parametrize(("picture", "passed"), [(0, False), (128, False), (None, True)])
def test_a_camera_that_shows_nothing_is_found(tmp_path, picture, passed):
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8) if picture is None else np.full((24, 24, 3), picture, np.uint8)
    robot, camera = Joints(lockstep=True), "observation.images.front"
    robot.spec = Spec(ObservationSpec({**spec().observation.fields, camera: Field((24, 24, 3), "uint8", "px", kind="image")}, 20), spec().action)
    read = robot.read

    def with_camera():
        reading = read()
        reading.fields[camera], reading.capture_ns[camera] = image, 0
        return reading

    robot.read = with_camera
    findings = preflight(handle(tmp_path, robot), robot.spec, max_age_s=1e9)
    assert (camera not in failed(findings)) is passed


def test_a_rate_that_is_not_held_is_found(tmp_path):
    robot = stamped(Joints())
    slow = RobotInfo("joints", RATE, "holds", 0.25, substeps=5, motion=limits())
    drive = Drive(robot, DriveOptions(), Latch(tmp_path))
    held = DriveHandle(drive)
    held.info = RobotInfo(**{**vars(slow), "rate_hz": 3 * RATE})  # declares more than the drive does
    assert "300 Hz declared" in failed(preflight(held, spec(), seconds=0.3, max_age_s=1e9))["rate"]


@pytest.mark.parametrize("speed", [0.1, 1.0])
def test_home_is_reached_slowly_and_inside_all_limits(tmp_path, speed):
    robot = Joints(lockstep=True)
    left = go_to(handle(tmp_path, robot), np.array([0.4, -0.3, 1.2]), speed=speed)
    assert left < 1e-3 and max(worst(robot.commands, limits()).values()) <= 1 + 1e-6
    assert np.abs(np.diff(robot.commands, axis=0)).max() * RATE <= speed * 2.0 * (1 + 1e-6)


def test_a_pose_out_of_reach_or_of_another_size_moves_nothing(tmp_path):
    robot = Joints(lockstep=True)
    held = handle(tmp_path, robot)
    with pytest.raises(InputError, match=r"pose: b 3 is outside of \[-2, 2\]"):
        go_to(held, np.array([0, 3.0, 0]))
    with pytest.raises(InputError, match="expected 3 finite numbers for a, b, c"):
        go_to(held, np.zeros(2))
    with pytest.raises(InputError, match="expected 3 finite numbers"):
        go_to(held, np.array([0, np.nan, 0]))
    assert not len(robot.commands)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("speed=0.05", "home: speed is none of its keys, robot and drive; options are given as --speed"),
        ("drive=tcp://127.0.0.1:5557", "has a robot of its own"),
    ],
)
def test_home_refuses_what_it_would_not_heed(word, text, monkeypatch, capsys):
    """Whoever asks for a twentieth of the speed must not see the robot move at a fifth."""
    monkeypatch.setattr("robopolicy.deployment.open_drive", lambda *arguments: pytest.fail("a robot was opened"))
    assert main(["home", "robot=twin", word]) == 2
    assert text in capsys.readouterr().err


def test_home_says_in_one_line_that_a_number_is_no_address(capsys):
    assert main(["home", "drive=5557"]) == 2
    assert "address '5557': only loopback is served" in capsys.readouterr().err


def test_what_is_held_back_is_said(tmp_path):
    robot = Joints(lockstep=True)
    with pytest.raises(InputError, match="from the pose after"):
        go_to(handle(tmp_path, robot), np.array([1.9, 0, 0]), speed=0.05, timeout_s=1.0)


def test_a_robot_that_goes_before_the_run_is_one_line(monkeypatch, capsys):
    def gone(*arguments):
        raise RobotGone("joints: no answer within 1 s")

    monkeypatch.setattr("robopolicy.deployment.run", gone)
    assert main(["run", "robot=twin"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "error: joints: no answer within 1 s" in said


@pytest.mark.parametrize("words", [["deadman_s=0.3"], ["stop_after_s=2"]])
def test_a_running_drive_takes_no_options_from_a_run(words):
    with pytest.raises(InputError, match="runs already with options of its own"):
        load_run_config(["drive=tcp://127.0.0.1:5557", *(f"drive_options.{word}" for word in words)])
    assert load_run_config(["drive=tcp://127.0.0.1:5557"]).drive_options.deadman_s is None


def test_shadow_only_reads_whoever_moves_the_robot(tmp_path):
    robot = Joints()
    drive = Drive(robot, DriveOptions(watch=True), Latch(tmp_path), clock=lambda: 0.0)
    for tick in range(50):
        robot.offset[:] = 0.05 * tick  # moved by hand, far beyond the tracking limit
        assert drive.tick(0.01 * tick).state == "holding"
        drive.hold()
    drive.request_stop()
    assert robot.log == [] and drive.latch.read() is None and drive.reading.cause == "watching"
    assert np.allclose(drive.reading.reference.position, robot.offset)
    drive.stop("a person says so")
    drive.tick(1.0)
    assert robot.words == ["stop"]
