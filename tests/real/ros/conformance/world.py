"""Nodes on a DDS domain of their own and one executor that spins when it is told; the same on rclpy and on the DDS layer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from real.ros import api as ros
from tests.real.ros.domains import free_domain

#: How long anything may take, s; generous, since a test machine may be busy.
PATIENCE_S = 30.0

#: How long nothing must happen for it to count as never, s.
NEVER_S = 0.4

String = ros.message("std_msgs/msg/String")


class World:
    """One context, its nodes and their executor."""

    def __init__(self, domain: int, args: Sequence[str] = ()) -> None:
        self.domain = domain
        self.context: Any = ros.Context()
        ros.init(args=list(args), context=self.context, domain_id=domain)
        self.executor: Any = ros.SingleThreadedExecutor(context=self.context)

    def node(self, name: str = "node", *, spins: bool = True, **kwargs: Any) -> Any:
        """Return a new node, spun by this world's executor unless told otherwise."""
        node: Any = ros.Node(name, context=self.context, **kwargs)
        if spins:
            self.executor.add_node(node)
        return node

    def until(self, condition: Callable[[], bool], what: str = "what was waited for") -> None:
        """Spin until ``condition()``; fails after ``PATIENCE_S``."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"no {what} in {PATIENCE_S} s"
            self.executor.spin_once(timeout_sec=0.02)

    def pass_time(self, seconds: float = NEVER_S) -> None:
        """Spin for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def result(self, future: Any) -> Any:
        """Spin until a future is over; return its result."""
        self.executor.spin_until_future_complete(future, timeout_sec=PATIENCE_S)
        assert future.done(), "the future is not over"
        return future.result()

    @contextlib.contextmanager
    def spinning(self, executor: Any = None) -> Iterator[None]:
        """Spin in another thread meanwhile."""
        spun = executor or self.executor
        over = threading.Event()

        def spin() -> None:
            while not over.is_set() and self.context.ok():
                spun.spin_once(timeout_sec=0.02)

        thread = threading.Thread(target=spin)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def close(self) -> None:
        """End everything."""
        self.executor.shutdown(timeout_sec=PATIENCE_S)
        if self.context.ok():
            ros.shutdown(context=self.context)


@contextlib.contextmanager
def worlds() -> Iterator[Callable[..., World]]:
    """Open worlds on one domain that no other test uses: ``opened(args=...)``."""
    with free_domain() as domain:
        made: list[World] = []

        def opened(args: Sequence[str] = ()) -> World:
            made.append(World(domain, args))
            return made[-1]

        try:
            yield opened
        finally:
            for world in reversed(made):
                world.close()


def texts(world: World, node: Any, topic: str, qos: Any = 10, **kwargs: Any) -> list[str]:
    """Subscribe to strings; the list grows as they come."""
    heard: list[str] = []
    node.create_subscription(String, topic, lambda message: heard.append(message.data), qos, **kwargs)
    return heard


def ros_args(*words: str) -> list[str]:
    """Return the words of a command line that say this to ROS."""
    return ["--ros-args", *words]
