"""``create_node``, ``spin`` and its kin: rclpy's functions over one executor of the process."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from real.ros.dds.context import get_default_context, ok
from real.ros.dds.executor import Executor, SingleThreadedExecutor
from real.ros.dds.future import Future
from real.ros.dds.node import Node

_executor: SingleThreadedExecutor | None = None
_lock = threading.Lock()


def get_global_executor() -> Executor:
    """Return the executor that is used where none is named; a new one after the default context was shut down."""
    global _executor
    with _lock:
        if _executor is None or _executor._closed:
            _executor = made = SingleThreadedExecutor()
            get_default_context().on_shutdown(partial(_end, made))
        return _executor


def _end(executor: Executor) -> None:
    executor.shutdown()


def create_node(node_name: str, **kwargs: Any) -> Node:
    """Return a new node; arguments are those of Node."""
    return Node(node_name, **kwargs)


def _own(node: Node, executor: Executor | None) -> tuple[Executor, bool]:
    """Return the executor to spin with, and whether it is one for this call alone (the node's context is not the default one)."""
    if executor is not None:
        return executor, False
    if node.context is get_default_context():
        return get_global_executor(), False
    return SingleThreadedExecutor(context=node.context), True


def spin(node: Node, executor: Executor | None = None) -> None:
    """Run a node's callbacks until its context is shut down."""
    chosen, alone = _own(node, executor)
    try:
        chosen.add_node(node)
        chosen.spin()
    finally:
        chosen.remove_node(node)
        if alone:
            chosen.shutdown()


def spin_once(node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Run one callback of a node, waiting for it at most so long."""
    chosen, alone = _own(node, executor)
    try:
        chosen.add_node(node)
        chosen.spin_once(timeout_sec)
    finally:
        chosen.remove_node(node)
        if alone:
            chosen.shutdown()


def spin_until_future_complete(node: Node, future: Future, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Run a node's callbacks until a future is over, at most so long."""
    chosen, alone = _own(node, executor)
    try:
        chosen.add_node(node)
        chosen.spin_until_future_complete(future, timeout_sec)
    finally:
        chosen.remove_node(node)
        if alone:
            chosen.shutdown()


__all__ = ["create_node", "get_global_executor", "ok", "spin", "spin_once", "spin_until_future_complete"]
