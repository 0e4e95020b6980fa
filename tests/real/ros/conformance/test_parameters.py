"""Parameters: declared, typed, overridden, described, set through callbacks, and seen by other nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import World, ros_args

Descriptor = ros.message("rcl_interfaces/msg/ParameterDescriptor")
Result = ros.message("rcl_interfaces/msg/SetParametersResult")
Kind = ros.Parameter.Type


def value(node: Any, name: str) -> Any:
    """Return a parameter's value."""
    return node.get_parameter(name).value


@pytest.mark.parametrize(
    ("given", "kind"),
    [(True, Kind.BOOL), (3, Kind.INTEGER), (3.0, Kind.DOUBLE), ("3", Kind.STRING), ([True, False], Kind.BOOL_ARRAY), ([1, 2], Kind.INTEGER_ARRAY),
     ([1.0], Kind.DOUBLE_ARRAY), (["a", ""], Kind.STRING_ARRAY), ([b"a"], Kind.BYTE_ARRAY)],
)  # fmt: skip
def test_a_declared_parameter_has_the_type_of_its_default(world: World, given: Any, kind: Any) -> None:
    node = world.node()
    declared = node.declare_parameter("p", given)
    assert (declared.name, declared.type_, declared.value) == ("p", kind, given)
    assert node.has_parameter("p")
    assert node.get_parameter("p").type_ == kind
    assert node.describe_parameter("p").type == kind.value
    back = ros.Parameter.from_parameter_msg(declared.to_parameter_msg())
    assert (back.name, back.type_, list(back.value) if isinstance(given, list) else back.value) == ("p", kind, given)


def test_a_parameter_must_be_declared_and_only_once(world: World) -> None:
    node = world.node()
    with pytest.raises(ros.ParameterNotDeclaredException):
        node.get_parameter("p")
    with pytest.raises(ros.ParameterNotDeclaredException):
        node.set_parameters([ros.Parameter("p", Kind.INTEGER, 1)])
    with pytest.raises(ros.ParameterNotDeclaredException):
        node.describe_parameter("p")
    with pytest.raises(ros.ParameterNotDeclaredException):
        node.undeclare_parameter("p")
    node.declare_parameter("p", 1)
    with pytest.raises(ros.ParameterAlreadyDeclaredException):
        node.declare_parameter("p", 2)
    node.undeclare_parameter("p")
    assert not node.has_parameter("p")
    node.declare_parameter("p", "another type")


def test_a_node_may_allow_parameters_that_are_not_declared(world: World) -> None:
    node = world.node(allow_undeclared_parameters=True)
    assert node.get_parameter("p").type_ == Kind.NOT_SET
    (result,) = node.set_parameters([ros.Parameter("p", Kind.INTEGER, 1)])
    assert result.successful
    assert value(node, "p") == 1


def test_several_are_declared_below_a_prefix(world: World) -> None:
    node = world.node()
    node.declare_parameters("arm", [("kp", 1.0), ("kd", 0.1, Descriptor(description="damping"))])
    assert node.get_parameter("arm.kd").value == 0.1
    assert node.describe_parameter("arm.kd").description == "damping"
    assert {name: one.value for name, one in node.get_parameters_by_prefix("arm").items()} == {"kp": 1.0, "kd": 0.1}
    assert [one.value for one in node.get_parameters(["arm.kd", "arm.kp"])] == [0.1, 1.0]


def test_a_parameter_keeps_its_type_unless_it_is_dynamic(world: World) -> None:
    node = world.node()
    node.declare_parameter("fixed", 1)
    node.declare_parameter("free", 1, Descriptor(dynamic_typing=True))
    fixed, free = node.set_parameters([ros.Parameter("fixed", Kind.STRING, "a"), ros.Parameter("free", Kind.STRING, "a")])
    assert not fixed.successful
    assert fixed.reason
    assert free.successful
    assert (value(node, "fixed"), value(node, "free")) == (1, "a")


def test_a_parameter_may_be_declared_by_its_type_alone(world: World) -> None:
    node = world.node()
    node.declare_parameter("p", Kind.INTEGER)
    with pytest.raises(ros.ParameterUninitializedException):
        node.get_parameter("p")
    assert node.get_parameter_or("p", ros.Parameter("p", Kind.INTEGER, 7)).value == 7
    assert not node.set_parameters([ros.Parameter("p", Kind.DOUBLE, 1.0)])[0].successful
    assert node.set_parameters([ros.Parameter("p", Kind.INTEGER, 2)])[0].successful
    assert value(node, "p") == 2


def test_a_default_is_needed_unless_the_type_is_free(world: World) -> None:
    node = world.node()
    with pytest.raises(ValueError, match="p"):
        node.declare_parameter("p", None, Descriptor())
    node.declare_parameter("p", None, Descriptor(dynamic_typing=True))
    assert node.get_parameter("p").type_ == Kind.NOT_SET
    assert node.set_parameters([ros.Parameter("p", Kind.STRING, "now")])[0].successful


def test_callbacks_before_and_after_setting(world: World) -> None:
    node = world.node()
    node.declare_parameters("", [("a", 1), ("b", 1)])
    told: list[list[tuple[str, int]]] = []
    node.add_pre_set_parameters_callback(lambda given: [*given, ros.Parameter("b", Kind.INTEGER, given[0].value * 2)])
    node.add_post_set_parameters_callback(lambda given: told.append([(one.name, one.value) for one in given]))
    assert node.set_parameters([ros.Parameter("a", Kind.INTEGER, 5)])[0].successful
    assert (value(node, "a"), value(node, "b"), told) == (5, 10, [[("a", 5), ("b", 10)]])


def test_names_are_listed_by_prefix_and_depth(world: World) -> None:
    node = world.node()
    node.declare_parameters("", [("x", 1), ("arm.kp", 1), ("arm.wrist.kp", 1), ("armour", 1)])

    def listed(prefixes: list[str], depth: int) -> set[str]:
        return set(node.list_parameters(prefixes, depth).names) & {"x", "arm.kp", "arm.wrist.kp", "armour"}

    assert listed([], 0) == {"x", "arm.kp", "arm.wrist.kp", "armour"}
    assert listed([], 1) == {"x", "armour"}
    assert listed(["arm"], 0) == {"arm.kp", "arm.wrist.kp"}
    assert listed(["arm"], 1) == {"arm.kp"}
    assert listed(["x", "arm.wrist"], 1) == {"x", "arm.wrist.kp"}
    assert set(node.list_parameters(["arm"], 0).prefixes) == {"arm", "arm.wrist"}
    with pytest.raises(ValueError, match="depth"):
        node.list_parameters([], -1)


def test_a_read_only_parameter_stays(world: World) -> None:
    node = world.node()
    node.declare_parameter("p", 1, Descriptor(read_only=True))
    assert not node.set_parameters([ros.Parameter("p", Kind.INTEGER, 2)])[0].successful
    with pytest.raises(ros.ParameterImmutableException):
        node.undeclare_parameter("p")
    assert value(node, "p") == 1


def test_ranges_hold(world: World) -> None:
    node = world.node()
    whole = Descriptor(integer_range=[ros.message("rcl_interfaces/msg/IntegerRange")(from_value=0, to_value=10, step=3)])
    real = Descriptor(floating_point_range=[ros.message("rcl_interfaces/msg/FloatingPointRange")(from_value=-1.0, to_value=1.0, step=0.0)])
    node.declare_parameter("i", 3, whole)
    node.declare_parameter("d", 0.5, real)
    outcomes = {i: node.set_parameters([ros.Parameter("i", Kind.INTEGER, i)])[0].successful for i in (-1, 0, 4, 9, 10, 11)}
    assert outcomes == {-1: False, 0: True, 4: False, 9: True, 10: True, 11: False}
    assert not node.set_parameters([ros.Parameter("d", Kind.DOUBLE, 1.5)])[0].successful
    assert node.set_parameters([ros.Parameter("d", Kind.DOUBLE, -1.0)])[0].successful
    with pytest.raises(ros.InvalidParameterValueException):
        node.declare_parameter("out", 11, Descriptor(integer_range=[ros.message("rcl_interfaces/msg/IntegerRange")(from_value=0, to_value=10, step=1)]))


def test_a_descriptor_can_be_changed(world: World) -> None:
    node = world.node()
    node.declare_parameter("p", 7)
    tight = Descriptor(type=2, integer_range=[ros.message("rcl_interfaces/msg/IntegerRange")(from_value=0, to_value=5, step=1)])
    with pytest.raises(ros.InvalidParameterValueException):
        node.set_descriptor("p", tight)
    assert node.set_descriptor("p", tight, ros.Parameter("p", Kind.INTEGER, 3).get_parameter_value()).integer_value == 3
    assert value(node, "p") == 3
    assert not node.set_parameters([ros.Parameter("p", Kind.INTEGER, 6)])[0].successful


def test_overrides_stand_in_place_of_defaults(world: World) -> None:
    given = [ros.Parameter("p", Kind.INTEGER, 5), ros.Parameter("q", Kind.STRING, "text"), ros.Parameter("unused", Kind.BOOL, True)]
    node = world.node(parameter_overrides=given)
    assert node.declare_parameter("p", 1).value == 5
    assert not node.has_parameter("unused")
    with pytest.raises(ros.InvalidParameterTypeException):
        node.declare_parameter("q", 1)
    assert node.declare_parameter("q", 1, ignore_override=True).value == 1
    assert world.node("auto", parameter_overrides=given, automatically_declare_parameters_from_overrides=True).get_parameter("q").value == "text"


def test_values_of_a_command_line_are_yaml(world: World) -> None:
    words = (
        "-p",
        "i:=3",
        "-p",
        "d:=2.5",
        "-p",
        "b:=true",
        "-p",
        "s:=word",
        "-p",
        "l:=[1.0, 2.0]",
        "-p",
        "node:mine:=1",
        "-p",
        "other:mine:=2",
        "-p",
        "n.m:='3'",
    )
    node = world.node(cli_args=ros_args(*words))
    defaults = {"i": 0, "d": 0.0, "b": False, "s": "", "l": [0.0], "mine": 0, "n.m": ""}
    assert {name: node.declare_parameter(name, default).value for name, default in defaults.items()} == {
        "i": 3, "d": 2.5, "b": True, "s": "word", "l": [1.0, 2.0], "mine": 1, "n.m": "3",
    }  # fmt: skip


def test_files_name_nodes_with_wildcards_and_nest_names(opened: Callable[..., World], tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    everywhere: 1\n    overridden: [1, 2]\n"
        "cell:\n  arm:\n    ros__parameters:\n      gains: {kp: 2.0, kd: 1.0e-1}\n      overridden: [3]\n"
        "/*/arm:\n  ros__parameters:\n    word: 'yes'\n"
        "/elsewhere:\n  ros__parameters:\n    everywhere: 9\n",
        encoding="utf-8",
    )
    world = opened(args=ros_args("--params-file", str(file)))
    node = world.node("arm", namespace="cell", automatically_declare_parameters_from_overrides=True)
    names = ("everywhere", "overridden", "gains.kp", "gains.kd", "word")
    found = {name: list(value(node, name)) if isinstance(value(node, name), (list, tuple)) else value(node, name) for name in names if name != "overridden"}
    assert found == {"everywhere": 1, "gains.kp": 2.0, "gains.kd": 0.1, "word": "yes"}
    assert list(value(node, "overridden")) == [3]
    other = world.node("else", automatically_declare_parameters_from_overrides=True)
    assert value(other, "everywhere") == 1
    assert not other.has_parameter("word")


def test_callbacks_may_refuse_and_are_told(world: World) -> None:
    node = world.node()
    node.declare_parameter("speed", 1.0)
    asked: list[Any] = []

    def check(parameters: list[Any]) -> Any:
        asked.append([(one.name, one.value) for one in parameters])
        return Result(successful=all(one.value <= 2.0 for one in parameters), reason="too fast")

    node.add_on_set_parameters_callback(check)
    fast, slow = node.set_parameters([ros.Parameter("speed", Kind.DOUBLE, 3.0), ros.Parameter("speed", Kind.DOUBLE, 2.0)])
    assert (fast.successful, fast.reason, slow.successful) == (False, "too fast", True)
    assert value(node, "speed") == 2.0
    assert asked == [[("speed", 3.0)], [("speed", 2.0)]]
    with pytest.raises(ros.InvalidParameterValueException):
        node.declare_parameter("other", 5.0)
    node.remove_on_set_parameters_callback(check)
    assert node.set_parameters([ros.Parameter("speed", Kind.DOUBLE, 9.0)])[0].successful


def test_all_or_none_are_set_atomically(world: World) -> None:
    node = world.node()
    node.declare_parameter("a", 1)
    node.declare_parameter("b", 1, Descriptor(read_only=True))
    outcome = node.set_parameters_atomically([ros.Parameter("a", Kind.INTEGER, 2), ros.Parameter("b", Kind.INTEGER, 2)])
    assert not outcome.successful
    assert (value(node, "a"), value(node, "b")) == (1, 1)


def test_a_parameter_s_type_and_value_must_agree() -> None:
    with pytest.raises(ValueError, match="p"):
        ros.Parameter("p", Kind.INTEGER, "text")
    with pytest.raises(TypeError):
        ros.Parameter("p", value=object())
    assert ros.Parameter("p", value=[1.0]).type_ == Kind.DOUBLE_ARRAY
    assert ros.Parameter("p").type_ == Kind.NOT_SET


def asked(world: World, name: str, service: str, **fields: Any) -> Any:
    """Call one of a node's parameter services."""
    kind = ros.service(f"rcl_interfaces/srv/{name}")
    client = world.node(f"asks_{service}").create_client(kind, f"/node/{service}")
    assert client.wait_for_service(timeout_sec=30.0)
    return world.result(client.call_async(kind.Request(**fields)))


def test_other_nodes_see_and_set_parameters(world: World) -> None:
    node = world.node()
    node.declare_parameter("arm.kp", 1.0, Descriptor(description="gain"))
    node.declare_parameter("count", 2)
    assert [v.double_value for v in asked(world, "GetParameters", "get_parameters", names=["arm.kp"]).values] == [1.0]
    assert len(asked(world, "GetParameters", "get_parameters", names=["arm.kp", "unknown"]).values) == 0
    assert list(asked(world, "GetParameterTypes", "get_parameter_types", names=["count", "arm.kp"]).types) == [2, 3]
    assert [d.description for d in asked(world, "DescribeParameters", "describe_parameters", names=["arm.kp"]).descriptors] == ["gain"]
    listed = asked(world, "ListParameters", "list_parameters", prefixes=["arm"], depth=0).result
    assert (list(listed.names), list(listed.prefixes)) == (["arm.kp"], ["arm"])
    assert {"arm.kp", "count", "use_sim_time"} <= set(asked(world, "ListParameters", "list_parameters", prefixes=[], depth=0).result.names)
    wanted = [ros.Parameter("count", Kind.INTEGER, 3), ros.Parameter("count", Kind.STRING, "no"), ros.Parameter("unknown", Kind.INTEGER, 1)]
    results = asked(world, "SetParameters", "set_parameters", parameters=[one.to_parameter_msg() for one in wanted]).results
    assert [one.successful for one in results] == [True, False, False]
    assert value(node, "count") == 3
    atomic = [ros.Parameter("count", Kind.INTEGER, 4), ros.Parameter("arm.kp", Kind.INTEGER, 4)]
    outcome = asked(world, "SetParametersAtomically", "set_parameters_atomically", parameters=[one.to_parameter_msg() for one in atomic]).result
    assert not outcome.successful
    assert value(node, "count") == 3


def test_changes_are_told_on_parameter_events(world: World) -> None:
    listener, node = world.node("listener"), world.node(namespace="ns")
    events: list[Any] = []
    listener.create_subscription(ros.message("rcl_interfaces/msg/ParameterEvent"), "/parameter_events", events.append, ros.qos_profile_parameter_events)
    world.until(lambda: listener.count_publishers("/parameter_events") >= 2)
    world.pass_time(0.2)

    def told(what: str, name: str) -> Callable[[], bool]:
        return lambda: any(one.name == name for event in events if event.node == "/ns/node" for one in getattr(event, what))

    node.declare_parameter("p", 1, Descriptor(dynamic_typing=True))
    world.until(told("new_parameters", "p"))
    node.set_parameters([ros.Parameter("p", Kind.INTEGER, 2)])
    world.until(told("changed_parameters", "p"))
    assert [e.changed_parameters[0].value.integer_value for e in events if e.node == "/ns/node" and e.changed_parameters] == [2]
    node.set_parameters([ros.Parameter("p", Kind.NOT_SET)])
    world.until(told("deleted_parameters", "p"))
    assert not node.has_parameter("p")
