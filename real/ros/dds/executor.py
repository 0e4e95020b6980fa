"""Executors: they wait in DDS, without a busy loop, and run what is ready, everybody in turn.

One round takes one item of everything that is ready (timers first); only when all of it has been run is there a look for
more, so that a topic that never falls silent starves no other.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from cyclonedds.core import DDSException, GuardCondition, WaitSet

from real.ros.dds.context import Context, get_default_context
from real.ros.dds.endpoints import anything
from real.ros.dds.future import Future, Task
from real.ros.dds.timer import Timer

if TYPE_CHECKING:
    from real.ros.dds.node import Node

#: Python hears signals only between two waits in DDS.
_SLICE_NS = 200_000_000


class ExternalShutdownException(Exception):
    """The context was shut down while an executor waited."""

    def __init__(self) -> None:
        super().__init__("the context was shut down while spinning")


class ShutdownException(Exception):
    """The executor was shut down while it waited."""


class TimeoutException(Exception):
    """Nothing was ready within the time given."""


class Executor:
    """Runs the callbacks of its nodes, in the thread that spins.

    Args:
        context: Context of the nodes; None is the default one.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        self._context = context or get_default_context()
        self._nodes: list[Node] = []
        self._lock = threading.RLock()
        self._tasks: deque[Task] = deque()
        self._ready: deque[Any] = deque()
        self._closed = False
        self._guard = GuardCondition(self._context.participant)
        self._waitset = WaitSet(self._context.participant)
        self._waitset.attach(self._guard)
        self._attached: dict[int, Any] = {}
        self._conditions: dict[int, tuple[Any, Any]] = {}
        self._end = partial(_wake, weakref.ref(self))
        self._context.on_shutdown(self._end)

    @property
    def context(self) -> Context:
        """The context of its nodes."""
        return self._context

    def wake(self) -> None:
        """Have whoever spins look again; any thread may."""
        try:
            self._guard.set(True)
        except DDSException:  # its context has gone, and with it whoever would wait
            pass

    def add_node(self, node: Node) -> bool:
        """Run this node's callbacks too; returns whether it is new here."""
        with self._lock:
            if any(n is node for n in self._nodes):
                return False
            other = node.executor
            if other is not None and other is not self:
                other.remove_node(node)
            self._nodes.append(node)
            node._set_executor(self)
        self.wake()
        return True

    def remove_node(self, node: Node) -> None:
        """Run this node's callbacks no more."""
        with self._lock:
            self._nodes = [n for n in self._nodes if n is not node]
            gone = {id(entity) for entity in [*node._all_waitables(), *node.timers]}
            self._ready = deque(entity for entity in self._ready if id(entity) not in gone)
            if node.executor is self:
                node._set_executor(None)
        self.wake()

    def get_nodes(self) -> list[Node]:
        """Return its nodes."""
        with self._lock:
            return list(self._nodes)

    def create_task(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Run a function or coroutine in this executor; returns its future."""
        task = Task(callback, args, kwargs, executor=self)
        with self._lock:
            self._tasks.append(task)
        self.wake()
        return task

    # -- spinning

    def spin(self) -> None:
        """Run callbacks until the context or the executor is shut down.

        Raises:
            ExternalShutdownException: when the context is shut down by somebody else.
        """
        while self._context.ok() and not self._closed:
            self._spin(None)
        if not self._context.ok() and not self._closed:
            raise ExternalShutdownException

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback, waiting for it at most so long (None: for ever, 0: not at all)."""
        self._spin(timeout_sec)

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Run callbacks until a future is over, at most so long."""
        until = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self._context.ok() and not self._closed and not (future.done() or future.cancelled()):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            self.spin_once_until_future_complete(future, left)

    def spin_once_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Run one callback unless the future is over before."""

        def over(_: Future) -> None:
            self.wake()

        future.add_done_callback(over)
        try:
            self._spin(timeout_sec, lambda: future.done() or future.cancelled())
        finally:
            future.remove_done_callback(over)

    def _spin(self, timeout_sec: float | None, over: Callable[[], bool] = lambda: False) -> None:
        entity = self._next(timeout_sec, over)
        if entity is None:
            return
        if isinstance(entity, Task):
            self._run_task(entity)
            return
        group, item = entity.callback_group, None
        if group is not None and not group.beginning_execution(entity):
            return
        try:
            item = entity.take()
            if item is not None:
                self._run(entity, item)
        finally:
            if group is not None:
                group.ending_execution(entity)

    def _run(self, entity: Any, item: Any) -> None:
        outcome = entity.execute(item)
        if inspect.iscoroutine(outcome):
            self.create_task(lambda: outcome)

    def _run_task(self, task: Task) -> None:
        task()
        if task.done():
            error = task.exception()
            if error is not None:
                raise error
        elif not task.cancelled():
            with self._lock:
                self._tasks.append(task)

    # -- waiting

    def _next(self, timeout_sec: float | None, over: Callable[[], bool]) -> Any:
        """Return something that is ready, or None when the time is over, the executor is closed, or ``over()``."""
        until = None if timeout_sec is None or timeout_sec < 0 else time.monotonic_ns() + int(timeout_sec * 1e9)
        while True:
            while (entity := self._first()) is not None:
                if isinstance(entity, Task) or _free(entity):
                    return entity
            if self._closed or not self._context.ok() or over():
                return None
            if not self._look(until) and until is not None and time.monotonic_ns() >= until and not self._ready:
                return None

    def _first(self) -> Any:
        with self._lock:
            return self._ready.popleft() if self._ready else None

    def _look(self, until: int | None) -> bool:
        """Wait for something and put all that is ready in line; returns whether there is anything."""
        waitables, timers = self._entities()
        self._attach(waitables)
        waits = [w for w in (t.waits_ns() for t in timers) if w is not None]
        with self._lock:
            tasks = [task for task in self._tasks if task.ready() and not task.executing()]
        limit = _SLICE_NS if until is None else max(0, min(_SLICE_NS, until - time.monotonic_ns()))
        try:
            fired = self._waitset.wait(0 if tasks else min([limit, *waits]))
            self._guard.take()
        except DDSException:
            if not self._context.ok() or self._closed:
                return False
            raise
        ready = [t for t in timers if t.is_ready()]
        if fired:
            ready += [w for w in waitables if _triggered(self._conditions[id(w)][1])]
        with self._lock:
            for task in tasks:
                self._tasks.remove(task)
            self._ready += [*ready, *tasks]
            return bool(self._ready)

    def _entities(self) -> tuple[list[Any], list[Timer]]:
        """Return what to wait for: all whose callback may run now."""
        waitables: list[Any] = []
        timers: list[Timer] = []
        for node in self.get_nodes():
            timers += [t for t in list(node.timers) if _free(t)]
            waitables += [w for w in node._all_waitables() if _free(w)]
        return waitables, timers

    def _attach(self, waitables: list[Any]) -> None:
        wanted = {}
        for waitable in waitables:
            known = self._conditions.get(id(waitable))
            if known is None or known[0] is not waitable:
                condition = getattr(waitable, "condition", None)
                known = self._conditions[id(waitable)] = (waitable, anything(waitable.reader) if condition is None else condition)
            wanted[id(waitable)] = known[1]
        for key in [k for k in self._attached if self._attached[k] is not wanted.get(k)]:
            self._detach(self._attached.pop(key))
        for key, condition in wanted.items():
            if key not in self._attached:
                try:
                    self._waitset.attach(condition)
                except DDSException:  # destroyed by another thread meanwhile; the next look does not see it any more
                    continue
                self._attached[key] = condition
        if len(self._conditions) > 2 * len(wanted) + 16:
            self._conditions = {key: value for key, value in self._conditions.items() if key in wanted}

    def _detach(self, condition: Any) -> None:
        try:
            self._waitset.detach(condition)
        except DDSException:
            self._waitset.attached = [pair for pair in self._waitset.attached if pair[0] is not condition]

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End it: whoever spins returns; its nodes are free. Returns whether all callbacks are over."""
        self._closed = True
        self._context._forget(self._end)
        self.wake()
        for node in self.get_nodes():
            self.remove_node(node)
        return True

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *ended: object) -> None:
        self.shutdown()


def _wake(executor: weakref.ref[Executor]) -> None:
    there = executor()
    if there is not None:
        there.wake()


def _free(entity: Any) -> bool:
    group = getattr(entity, "callback_group", None)
    return group is None or group.can_execute(entity)


def _triggered(condition: Any) -> bool:
    try:
        if isinstance(condition, GuardCondition):
            return condition.read()
        return condition.triggered
    except DDSException:  # destroyed meanwhile
        return False


class SingleThreadedExecutor(Executor):
    """Runs callbacks one after the other, in the thread that spins."""


class MultiThreadedExecutor(Executor):
    """Runs callbacks in a pool of threads, as their groups allow.

    Args:
        num_threads: How many; None is the number of cores, at least 2.
        context: Context of the nodes; None is the default one.
    """

    def __init__(self, num_threads: int | None = None, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._pool = ThreadPoolExecutor(num_threads or max(2, os.cpu_count() or 2), thread_name_prefix="ros-callback")
        self._running: set[Any] = set()
        self._failed: deque[BaseException] = deque()

    def _spin(self, timeout_sec: float | None, over: Callable[[], bool] = lambda: False) -> None:
        entity = self._next(timeout_sec, lambda: over() or bool(self._failed))
        if self._failed:
            raise self._failed.popleft()
        if entity is None:
            return
        if isinstance(entity, Task):
            self._submit(self._run_task, entity)
            return
        group = entity.callback_group
        if group is not None and not group.beginning_execution(entity):
            return
        handed = False
        try:
            item = entity.take()  # here, so that its condition is quiet before the next look
            if item is not None:
                self._submit(self._run_in_group, entity, item)
                handed = True
        finally:
            if group is not None and not handed:
                group.ending_execution(entity)

    def _run_in_group(self, entity: Any, item: Any) -> None:
        try:
            self._run(entity, item)
        finally:
            if entity.callback_group is not None:
                entity.callback_group.ending_execution(entity)

    def _submit(self, function: Callable[..., None], *args: Any) -> None:
        running = self._pool.submit(function, *args)
        with self._lock:
            self._running.add(running)

        def over(done: Any) -> None:
            with self._lock:
                self._running.discard(done)
            error = done.exception()
            if error is not None:
                self._failed.append(error)  # raised where it is spun, as in one thread
            self.wake()

        running.add_done_callback(over)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End it; waits for running callbacks at most so long (None: until they are over). Returns whether they are."""
        super().shutdown()
        until = None if timeout_sec is None else time.monotonic() + timeout_sec
        while self._running and (until is None or time.monotonic() < until):
            time.sleep(0.002)
        over = not self._running
        self._pool.shutdown(wait=over)
        return over
