"""What nodes, topics and services may be called, how names are made absolute, and how a command line changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import String, World, ros_args


@pytest.mark.parametrize("name", ["", "two words", "1st", "a/b", "a.b", "a-b", "é"])
def test_node_names_that_are_refused(world: World, name: str) -> None:
    with pytest.raises(ros.InvalidNodeNameException):
        world.node(name)


@pytest.mark.parametrize("namespace", ["/a//b", "a b", "/1st", "/a/", "~"])
def test_namespaces_that_are_refused(world: World, namespace: str) -> None:
    with pytest.raises(ros.InvalidNamespaceException):
        world.node("node", namespace=namespace)


@pytest.mark.parametrize(("given", "absolute"), [(None, "/"), ("", "/"), ("/", "/"), ("arm", "/arm"), ("/cell/arm", "/cell/arm")])
def test_a_namespace_is_made_absolute(world: World, given: str | None, absolute: str) -> None:
    node = world.node("node", namespace=given)
    assert node.get_name() == "node"
    assert node.get_namespace() == absolute
    assert node.get_fully_qualified_name() == ("/node" if absolute == "/" else f"{absolute}/node")


@pytest.mark.parametrize(
    ("given", "absolute"), [("chatter", "/arm/chatter"), ("/chatter", "/chatter"), ("~/chatter", "/arm/node/chatter"), ("a/b", "/arm/a/b")]
)
def test_topics_and_services_are_relative_private_or_absolute(world: World, given: str, absolute: str) -> None:
    node = world.node("node", namespace="arm")
    assert node.resolve_topic_name(given) == absolute
    assert node.resolve_service_name(given) == absolute
    assert node.create_publisher(String, given, 1).topic_name == absolute
    assert node.create_subscription(String, given, lambda message: None, 1).topic_name == absolute


@pytest.mark.parametrize("name", ["", "two words", "1st", "a//b", "a/", "~a", "a~", "a/{unknown"])
def test_topic_and_service_names_that_are_refused(world: World, name: str) -> None:
    node = world.node()
    with pytest.raises(ros.InvalidTopicNameException):
        node.create_publisher(String, name, 1)
    with pytest.raises(ros.InvalidTopicNameException):
        node.create_subscription(String, name, lambda message: None, 1)
    with pytest.raises(ros.InvalidServiceNameException):
        node.create_client(ros.service("std_srvs/srv/Trigger"), name)


def named(world: World, *words: str, name: str = "node", namespace: str = "/ns", **kwargs: Any) -> Any:
    """Return a node with a command line of its own."""
    return world.node(name, namespace=namespace, cli_args=ros_args(*words), **kwargs)


def test_a_node_and_its_namespace_are_renamed(world: World) -> None:
    node = named(world, "-r", "__node:=other", "-r", "__ns:=/elsewhere")
    assert node.get_fully_qualified_name() == "/elsewhere/other"
    assert named(world, "--remap", "__name:=third").get_name() == "third"


def test_topics_are_remapped_by_their_absolute_names(world: World) -> None:
    node = named(world, "-r", "chatter:=talk", "-r", "/far/away:=near", "-r", "~/private:=/public")
    assert node.resolve_topic_name("chatter") == "/ns/talk"
    assert node.resolve_topic_name("/ns/chatter") == "/ns/talk"
    assert node.resolve_topic_name("/chatter") == "/chatter"
    assert node.resolve_topic_name("/far/away") == "/ns/near"
    assert node.resolve_topic_name("~/private") == "/public"
    assert node.resolve_topic_name("chatter", only_expand=True) == "/ns/chatter"
    assert node.create_publisher(String, "chatter", 1).topic_name == "/ns/talk"


def test_the_first_rule_that_matches_wins(world: World) -> None:
    assert named(world, "-r", "a:=first", "-r", "a:=second").resolve_topic_name("a") == "/ns/first"


def test_a_rule_may_be_for_one_node_alone(world: World) -> None:
    words = ("-r", "one:a:=b", "-r", "two:a:=c", "-r", "two:__node:=renamed")
    assert named(world, *words, name="one").resolve_topic_name("a") == "/ns/b"
    assert named(world, *words, name="two").get_name() == "renamed"
    assert named(world, *words, name="three").resolve_topic_name("a") == "/ns/a"


def test_a_rule_may_be_for_topics_or_services_alone(world: World) -> None:
    node = named(world, "-r", "rostopic://a:=t", "-r", "rosservice://a:=s")
    assert node.resolve_topic_name("a") == "/ns/t"
    assert node.resolve_service_name("a") == "/ns/s"


def test_the_process_s_own_arguments_hold_for_every_node_and_come_second(opened: Callable[..., World]) -> None:
    world = opened(args=["program", "--unrelated", *ros_args("-r", "a:=everywhere", "-r", "b:=b2")])
    assert world.node("one").resolve_topic_name("a") == "/everywhere"
    local = world.node("two", cli_args=ros_args("-r", "a:=here"))
    assert local.resolve_topic_name("a") == "/here"
    assert local.resolve_topic_name("b") == "/b2"
    assert world.node("three", use_global_arguments=False).resolve_topic_name("a") == "/a"


def test_a_word_that_is_no_flag_is_refused(world: World) -> None:
    with pytest.raises(Exception, match="no-such-flag"):
        world.node("node", cli_args=ros_args("--no-such-flag"))


def test_a_rule_without_an_arrow_is_refused(world: World) -> None:
    with pytest.raises(Exception, match="chatter"):
        world.node("node", cli_args=ros_args("-r", "chatter=talk"))
