"""Redundant sensors behind the drive: one of three that lies changes nothing, two stop the robot."""

import numpy as np
import pytest

from policies.spec import InputError
from real.drive import Drive, DriveOptions
from real.drive_wire import info_from_dict, info_to_dict
from real.latch import Latch
from real.robot import RobotInfo
from real.safety.redundancy import Redundancy
from tests.real.jointed import RATE, Joints, follow, limits, run_out, spec

SENSORS = ("encoder.a", "encoder.b", "encoder.c")
DECLARED = {"observation.state": {"sensors": SENSORS, "tolerance": 0.02}}
INFO = RobotInfo("joints", RATE, "holds", 0.25, substeps=5, motion=limits(), redundant=DECLARED)


class Encoders(Joints):
    """Three encoders a joint; ``lies`` maps some to what they say instead."""

    def __init__(self):
        super().__init__(INFO)
        self.lies = {}

    def read(self):
        reading = super().read()
        true = reading.fields["observation.state"]
        for i, name in enumerate(SENSORS):
            reading.fields[name] = self.lies.get(name, lambda q: q)(true).astype(np.float32)
            reading.capture_ns[name] = 10 * i
        reading.fields["observation.state"] = np.full(3, 99, np.float32)  # nobody's word
        return reading


def driven(tmp_path):
    robot = Encoders()
    drive = Drive(robot, DriveOptions(), Latch(tmp_path), clock=lambda: 0.0)
    drive.tick(0.0)
    return drive, robot


@pytest.mark.parametrize("lie", [lambda q: q + 1, lambda q: q * np.nan, lambda q: q * 0 + 0.3, lambda q: q * np.inf], ids=["offset", "nan", "frozen", "inf"])
def test_one_lying_sensor_of_three_changes_nothing(tmp_path, lie):
    commands = []
    for number, lies in enumerate(({}, {"encoder.b": lie})):
        drive, robot = driven(tmp_path / str(number))
        robot.lies = lies
        follow(drive, 60)
        commands.append(robot.commands)
        assert drive.reading.state == "active"
    np.testing.assert_array_equal(*commands)
    assert drive.tally()["sensors_disagreed"] == {"encoder.b": pytest.approx(60, abs=60)} and drive.redundancy.disagreed["encoder.b"] >= 20
    assert drive.reading.observation.capture_ns["observation.state"] == 10


def test_two_that_lie_differently_stop_the_robot(tmp_path):
    drive, robot = driven(tmp_path)
    follow(drive, 40)
    robot.lies = {"encoder.a": lambda q: q + 1, "encoder.c": lambda q: q - 1}
    assert run_out(drive) > 0
    assert drive.reading.cause.startswith("sensors of observation.state disagree: encoder.a, encoder.c")
    assert drive.refusal


def test_a_sensor_that_is_gone_stops_the_robot(tmp_path):
    drive, robot = driven(tmp_path)
    follow(drive, 40)
    robot.lies = {"encoder.c": lambda q: q[:2]}
    run_out(drive)
    assert "encoder.c gives nothing of shape (3,)" in drive.reading.cause


def test_declarations_are_checked_and_cross_the_wire():
    with pytest.raises(InputError, match=r"did you mean 'observation\.state'"):
        Redundancy({"observation.stat": DECLARED["observation.state"]}, spec().observation)
    with pytest.raises(InputError, match=r"redundant sensors of 'observation\.state': tolerance"):
        Redundancy({"observation.state": {"sensors": SENSORS, "tolerance": -1}}, spec().observation)
    assert info_from_dict(info_to_dict(INFO)).redundant is not None
