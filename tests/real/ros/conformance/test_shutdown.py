"""Contexts: opened once, closed once, and what that does to whoever waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import String, World


def test_a_context_is_open_between_init_and_shutdown(world: World) -> None:
    assert world.context.ok()
    assert ros.ok(context=world.context)
    assert world.context.get_domain_id() == world.domain
    ros.shutdown(context=world.context)
    assert not world.context.ok()
    assert not ros.ok(context=world.context)


def test_it_is_opened_and_closed_once(world: World) -> None:
    with pytest.raises(RuntimeError):
        ros.init(args=[], context=world.context, domain_id=world.domain)
    ros.shutdown(context=world.context)
    with pytest.raises(RuntimeError):
        ros.shutdown(context=world.context)
    ros.try_shutdown(context=world.context)


def test_nothing_is_made_in_a_closed_context(world: World) -> None:
    with pytest.raises(ros.NotInitializedException):
        ros.Node("node", context=ros.Context())
    ros.shutdown(context=world.context)
    with pytest.raises(ros.NotInitializedException):
        ros.Node("node", context=world.context)


def test_shutdown_is_told(world: World) -> None:
    told: list[bool] = []

    class Told:
        def say(self) -> None:
            told.append(True)

    keep = Told()
    world.context.on_shutdown(keep.say)
    ros.shutdown(context=world.context)
    assert told == [True]


def test_a_spin_ends_with_its_context(world: World) -> None:
    node = world.node()
    ended: list[str] = []

    def spin() -> None:
        try:
            world.executor.spin()
            ended.append("returned")
        except ros.ExternalShutdownException:
            ended.append("told")

    thread = threading.Thread(target=spin)
    started = threading.Event()
    node.create_timer(0.01, started.set)
    thread.start()
    assert started.wait(30.0)
    ros.shutdown(context=world.context)
    thread.join(30.0)
    assert not thread.is_alive()
    assert ended in (["told"], ["returned"])


def test_a_spin_ends_with_its_executor(world: World) -> None:
    node = world.node()
    started = threading.Event()
    node.create_timer(0.01, started.set)
    thread = threading.Thread(target=world.executor.spin)
    thread.start()
    assert started.wait(30.0)
    world.executor.shutdown()
    thread.join(30.0)
    assert not thread.is_alive()
    assert world.context.ok()


def test_a_destroyed_node_is_not_heard_and_not_seen(opened: Callable[..., World]) -> None:
    here, there = opened(), opened()
    listener, talker = here.node("listener"), there.node("talker")
    heard: list[Any] = []
    listener.create_subscription(String, "chatter", heard.append, 10)
    talker.create_publisher(String, "chatter", 10)
    here.until(lambda: listener.count_publishers("chatter") == 1)
    here.until(lambda: ("talker", "/") in listener.get_node_names_and_namespaces())
    there.executor.remove_node(talker)
    talker.destroy_node()
    here.until(lambda: listener.count_publishers("chatter") == 0, "absence of the publisher")
    here.until(lambda: ("talker", "/") not in listener.get_node_names_and_namespaces(), "absence of the node")


def test_functions_work_on_the_default_context(opened: Callable[..., World]) -> None:
    domain = opened().domain
    ros.init(args=[], domain_id=domain)
    try:
        node = ros.create_node("plain")
        beats: list[int] = []
        node.create_timer(0.01, lambda: beats.append(1))
        future = ros.Future()
        node.create_timer(0.05, lambda: future.done() or future.set_result(1))
        ros.spin_until_future_complete(node, future, timeout_sec=30.0)
        assert future.result() == 1
        assert beats
        ros.spin_once(node, timeout_sec=0.1)
        node.destroy_node()
    finally:
        ros.shutdown()
    assert not ros.ok()
    ros.init(args=[], domain_id=domain)
    ros.shutdown()
