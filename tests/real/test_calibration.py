"""What two calibrations differ in, and who is told: on specs, in data sets, between a policy and a robot."""

import json
import math

import pytest

from policies.spec import InputError
from real.calibration import Calibration, differences, fingerprint_of, pose_difference, require_one, require_same
from tests.real.toy import spec as toy_spec

HALF = math.sqrt(0.5)


def known(**changes) -> Calibration:
    camera = {
        "intrinsics": {"width": 640, "height": 480, "fx": 600.0, "fy": 600.0, "cx": 320.0, "cy": 240.0, "distortion": [0, 0, 0, 0, 0]},
        "mount": {"eye": "in-hand", "frame": "hand", "position": [0.05, 0.0, 0.1], "quaternion": [1, 0, 0, 0]},
        "latency": {"seconds": 0.04},
    }
    for name, value in changes.pop("camera", {}).items():
        camera[name] = {**camera[name], **value}
    contents = {"kind": "robopolicy calibration", "format": 1, "cameras": {"wrist": camera}, "joints": {"offsets": {"a": 0.01}}, "actuation": {"seconds": 0.02}}
    return Calibration({**contents, **changes})


def carried(calibration: Calibration | None):
    made = toy_spec()
    return made if calibration is None else type(made)(made.observation, made.action, {"calibration": calibration.text})


def test_the_same_within_tolerances_is_the_same():
    nearly = known(
        camera={"intrinsics": {"fx": 604.0}, "mount": {"position": [0.055, 0.005, 0.1]}, "latency": {"seconds": 0.05}},
        joints={"offsets": {"a": 0.01 + math.radians(0.4)}},
        actuation={"seconds": 0.03},
    )
    assert differences(known(), nearly) == [] and differences(known(), known()) == []
    assert known().fingerprint != nearly.fingerprint and len(known().fingerprint) == 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera": {"intrinsics": {"fx": 620.0, "cy": 230.0}}}, "camera 'wrist': intrinsics have changed (fx 600.0 -> 620.0, cy 240.0 -> 230.0 px)"),
        ({"camera": {"intrinsics": {"width": 1280}}}, "camera 'wrist': 1280x480 px, was 640x480"),
        ({"camera": {"mount": {"position": [0.05, 0.03, 0.14]}}}, "camera 'wrist': its mounting has moved by 50 mm and 0.0 degrees"),
        ({"camera": {"mount": {"quaternion": [HALF, HALF, 0, 0]}}}, "camera 'wrist': its mounting has moved by 0 mm and 90.0 degrees"),
        ({"camera": {"mount": {"frame": "base"}}}, "camera 'wrist': mounted on 'base', was on 'hand'"),
        ({"camera": {"latency": {"seconds": 0.1}}}, "camera 'wrist': latency is 100 ms, was 40 ms"),
        ({"joints": {"offsets": {"a": 0.01 + math.radians(1.5)}}}, "joint 'a': its zero has moved by 1.50 degrees"),
        ({"actuation": {"seconds": 0.06}}, "actuation latency is 60 ms, was 20 ms"),
    ],
)
def test_each_difference_is_named(changes, words):
    assert differences(known(), known(**changes)) == [words]


def test_what_only_one_of_them_knows_is_no_difference():
    assert differences(known(), Calibration.empty()) == [] == differences(Calibration.empty(), known())
    assert pose_difference({"position": [0, 0, 0], "quaternion": [1, 0, 0, 0]}, {"position": [3, 4, 0], "quaternion": [-1, 0, 0, 0]}) == (5.0, 0.0)


def test_a_policy_and_a_changed_robot_are_refused_or_warned_of():
    said = []
    moved = known(camera={"mount": {"position": [0.05, 0.03, 0.14]}})
    require_same(carried(None), carried(moved), say=said.append)
    require_same(carried(known()), carried(known()), say=said.append)
    assert said == []
    require_same(carried(known()), carried(None), say=said.append)
    assert known().fingerprint in said[0] and "robot.calibration=calibration.json" in said.pop()
    with pytest.raises(InputError, match=r"^calibration: the robot is not as it was .* moved by 50 mm .*calibration_check=warn$"):
        require_same(carried(known()), carried(moved))
    require_same(carried(known()), carried(moved), warn=True, say=said.append)
    assert "moved by 50 mm" in said[0]
    with pytest.raises(InputError, match="the policy's calibration line 1: not valid JSON"):
        require_same(type(carried(None))(toy_spec().observation, toy_spec().action, {"calibration": "{"}), carried(known()))


def test_data_of_a_changed_robot_are_not_added_to_those_from_before():
    require_one(carried(known()), carried(None), "data set x")
    require_one(carried(known()), carried(known()), "data set x")
    with pytest.raises(InputError, match=r"data set x was recorded with another calibration: actuation latency is 60 ms, was 20 ms; record into"):
        require_one(carried(known()), carried(known(actuation={"seconds": 0.06})), "data set x")
    assert fingerprint_of(carried(None)) is None and fingerprint_of(carried(known())) == known().fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "c.json: not a calibration"),
        ('{"kind": "x"}', "kind 'robopolicy calibration' expected, found 'x'"),
        ('{"kind": "robopolicy calibration", "format": 9}', "format 9 is newer than this version reads"),
        ('{"kind": "robopolicy calibration", "format": 1, "camera": {}}', "'camera' is unknown; did you mean 'cameras'"),
    ],
)
def test_what_is_no_calibration_is_one_line(tmp_path, text, words):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError) as error:
        Calibration.load(tmp_path / "c.json")
    assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="robopolicy calibrate --help"):
        Calibration.load(tmp_path / "none.json")


def test_text_and_contents_are_one():
    assert Calibration.from_text(known().text).contents == known().contents == json.loads(known().text)
    assert known().latency_ms("wrist") == 40.0 and known().latency_ms("front") is None
