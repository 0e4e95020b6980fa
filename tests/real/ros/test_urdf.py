import math

import pytest

from policies.spec import InputError
from real.ros.urdf import parse_urdf


def joint(name="a", kind="revolute", inside='<limit lower="-1" upper="2" velocity="3" effort="4"/>'):
    return f'<joint name="{name}" type="{kind}">{inside}</joint>'


def robot(*parts):
    return f'<?xml version="1.0" encoding="utf-8"?><robot name="r">{"".join(parts)}</robot>'


def test_kinds_units_limits_and_order():
    text = robot(joint("z"), joint("base", "fixed", ""), joint("c", "continuous", ""), joint("p", "prismatic", '<limit lower="0" upper="0.5" velocity="0.1"/>'))
    urdf = parse_urdf(text)
    assert list(urdf.joints) == ["z", "c", "p"] == list(urdf.driven) and urdf.name == "r"
    z, c, p = urdf.joints.values()
    assert (z.low, z.high, z.velocity, z.effort, z.unit) == (-1.0, 2.0, 3.0, 4.0, "rad")
    assert (c.low, c.high, c.velocity, c.unit) == (-math.inf, math.inf, None, "rad")
    assert (p.low, p.high, p.velocity, p.effort, p.unit) == (0.0, 0.5, 0.1, None, "m")


def test_soft_limits_and_ros2_control_tighten_and_never_loosen():
    soft = '<limit lower="-1" upper="2" velocity="3"/><safety_controller soft_lower_limit="-0.5" soft_upper_limit="9" k_velocity="1"/>'
    control = (
        '<ros2_control name="x" type="system"><joint name="a">'
        '<command_interface name="position"><param name="min">-9</param><param name="max">1.5</param></command_interface>'
        '<command_interface name="velocity"><param name="min">-1</param><param name="max">2.5</param></command_interface>'
        '<command_interface name="acceleration"><param name="max">8.0</param></command_interface>'
        '<command_interface name="jerk"><param name="max">150</param></command_interface></joint></ros2_control>'
    )
    a = parse_urdf(robot(joint(inside=soft), control)).joints["a"]
    assert (a.low, a.high, a.velocity, a.acceleration, a.jerk) == (-0.5, 1.5, 1.0, 8.0, 150.0)


def test_mimic_joints_are_known_but_not_driven():
    urdf = parse_urdf(robot(joint("a"), joint("b", inside='<limit velocity="1"/><mimic joint="a" multiplier="-1"/>')))
    assert urdf.driven == ("a",) and urdf.joints["b"].mimic == "a"
    with pytest.raises(InputError, match="'b' follows 'a'"):
        urdf.of(["b"])
    with pytest.raises(InputError, match="no moving joint 'aa'; did you mean 'a'"):
        urdf.of(["aa"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not XML"),
        ("<robot", "not XML"),
        ("<sdf/>", "expected <robot>, found <sdf>"),
        (robot(), "no joint of it moves"),
        (robot(joint("a"), joint("a")), "two joints are called 'a'"),
        (robot(joint(inside="")), "needs <limit>"),
        (robot(joint(inside='<limit lower="1" upper="1"/>')), "lower limit 1 is not below upper limit 1"),
        (robot(joint(inside='<limit lower="nan" upper="1"/>')), "lower: expected a finite number, found 'nan'"),
        (robot(joint(inside='<limit lower="0" upper="inf"/>')), "upper: expected a finite number"),
        (robot(joint(inside='<limit lower="0" upper="1" velocity="-2"/>')), "velocity: expected a number of at least 0, found -2"),
        (robot(joint(kind="revolut")), "type 'revolut' is unknown; did you mean 'revolute'"),
        (robot(joint("a"), joint("b", inside='<limit/><mimic joint="aa"/>')), "mimics 'aa', which is none; did you mean 'a'"),
        ('<!DOCTYPE robot [<!ENTITY a "b">]>' + robot(joint()), "DOCTYPE declaration is refused"),
        ('<!  entity x "y">', "ENTITY declaration is refused"),
        ("x" * (9 << 20), "characters, at most"),
    ],
)
def test_what_is_no_description_is_one_line(text, said):
    with pytest.raises(InputError) as error:
        parse_urdf(text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_entities_are_refused_before_the_parser_sees_them():
    lines = ['<!ENTITY a0 "ha">', *(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))]
    with pytest.raises(InputError, match="refused"):
        parse_urdf(f"<?xml version='1.0'?><!DOCTYPE r [{''.join(lines)}]><robot name='&a11;'/>")
