import numpy as np
import pydantic
import pytest
import yaml

from policies.spec import InputError
from real.ros.commander import TrajectoryCommander
from real.ros.commands import INTERFACES
from real.ros.description import describe
from real.ros.fields import map_fields
from real.ros.options import Ros2Config, wanted_spec
from real.ros.urdf import parse_urdf
from robopolicy.config import find_recipe
from robopolicy.deployment import load_run_config
from tests.real.ros.controller import URDF


def test_the_recipe_shows_every_option_with_its_default():
    robot = yaml.safe_load(find_recipe("runtime/ros2").read_text(encoding="utf-8"))["robot"]
    assert robot.pop("type") == "ros2"
    assert Ros2Config(**robot) == Ros2Config() and set(robot) == set(Ros2Config.model_fields)
    assert load_run_config(["runtime/ros2", "robot.speed=2"]).robot["speed"] == 2


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(pydantic.ValidationError, match="expected less than gone_s"):
        Ros2Config(stale_s=6.0)
    with pytest.raises(pydantic.ValidationError, match="a base needs its range"):
        Ros2Config(command="twist", timeout_s=0.5)
    with pytest.raises(InputError, match="not a checkpoint's folder"):
        wanted_spec(Ros2Config(spec="/nowhere"))


def described(text=URDF, **options):
    config, urdf = Ros2Config(**options), parse_urdf(text)
    mapped = map_fields(None, config.fields, urdf, config.command, config.joints, config.twist, config.action_rate_hz, config.convert)
    return describe(config, urdf, mapped)


def test_a_limit_that_nobody_says_is_named():
    bare = URDF[: URDF.index("<ros2_control")] + "</robot>"
    with pytest.raises(InputError, match=r"acceleration of shoulder, elbow: robot_description does not limit it .* set robot.acceleration"):
        described(bare)
    motion, info = described(bare, acceleration=[2.0, 3.0], jerk={"shoulder": 20.0, "elbow": 30.0})
    assert motion.acceleration.tolist() == [2.0, 3.0] and motion.stop_jerk.tolist() == [20.0, 30.0]
    assert info.silence_s > 3 * 0.01 + 0.01 + 3 * 0.1 + 2.0 / 3.0, "lead, tick, ramps and the way from full speed"


def test_the_order_of_a_command_can_be_said():
    motion, _ = described(joints=["elbow", "shoulder"])
    assert motion.names == ("elbow", "shoulder") and motion.velocity.tolist() == [2.0, 1.5]


def test_every_interface_without_a_timeout_is_refused_by_itself():
    twist = {"linear.x": (-0.3, 0.3)}
    for command, (_, _, kind) in INTERFACES.items():
        options = {"command": command, **({"twist": twist} if command.startswith("twist") else {})}
        if command == "trajectory":
            assert described(**options)[1].on_silence == "brakes"
            continue
        with pytest.raises(InputError, match="accept_no_timeout"):
            described(**options)
        assert described(**options, accept_no_timeout=True)[1].on_silence == "holds"
        if kind == "velocity":
            assert described(**options, timeout_s=0.4)[1].silence_s == 0.4


def test_a_trajectory_is_never_made_of_positions_alone():
    with pytest.raises(ValueError, match="motion behind a command"):
        TrajectoryCommander.send(object.__new__(TrajectoryCommander), np.zeros(2))
