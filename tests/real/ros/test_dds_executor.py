"""Executors: everybody in turn, no busy loop, groups that exclude each other, futures and coroutines, errors where they are spun."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from real.ros import api as ros
from tests.real.ros.spinning import LONG_S, Place, place

String = ros.message("std_msgs/msg/String")


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


def test_waiting_costs_no_processor_time(here: Place) -> None:
    here.node("idle").create_subscription(String, "t", lambda _: None, 10)
    here.executor.spin_once(0.05)
    before, start = time.thread_time(), time.monotonic()
    here.executor.spin_once(0.5)
    assert time.monotonic() - start >= 0.5
    assert time.thread_time() - before < 0.1


def test_spin_once_returns_in_time_or_at_once(here: Place) -> None:
    here.node("idle")
    for _ in range(20):
        here.executor.spin_once(0)
    start = time.monotonic()
    here.executor.spin_once(0)
    assert time.monotonic() - start < LONG_S
    start = time.monotonic()
    here.executor.spin_once(0.05)
    assert time.monotonic() - start >= 0.05


def test_a_topic_that_never_falls_silent_starves_no_other(here: Place) -> None:
    """A callback publishes on its own topic again and again; timer and other topic get every second turn all the same."""
    node, loud, quiet, beats = here.node("fair"), [], [], []
    again = node.create_publisher(String, "loud", 10)
    other = node.create_publisher(String, "quiet", 10)

    def shout(message: object) -> None:
        loud.append(message)
        again.publish(String(data="x"))

    node.create_subscription(String, "loud", shout, 10)
    node.create_subscription(String, "quiet", quiet.append, 100)
    node.create_timer(0.001, lambda: beats.append(1))
    assert here.until(lambda: again.get_subscription_count() == 1 and other.get_subscription_count() == 1)
    for _ in range(10):
        other.publish(String(data="y"))
    again.publish(String(data="x"))
    for _ in range(60):
        here.executor.spin_once(LONG_S)
    assert len(quiet) == 10 and len(loud) >= 10
    assert here.until(lambda: len(beats) > 10)


def test_an_error_in_a_callback_is_raised_where_it_is_spun(here: Place) -> None:
    node = here.node("failing")

    def fail() -> None:
        raise ValueError("in the callback")

    timer = node.create_timer(0.001, fail)
    with pytest.raises(ValueError, match="in the callback"):
        here.executor.spin_once(LONG_S)
    timer.cancel()
    ran = []
    node.create_timer(0.001, lambda: ran.append(1))
    assert here.until(lambda: ran)  # it can be spun on


def test_futures_tasks_and_coroutines(here: Place) -> None:
    node, order = here.node("async"), []
    future = ros.Future()

    async def wait() -> int:
        order.append("before")
        value = await future
        order.append("after")
        return value + 1

    task = here.executor.create_task(wait)
    assert here.until(lambda: order == ["before"])
    node.create_timer(0.01, lambda: future.set_result(41))
    here.executor.spin_until_future_complete(task, LONG_S)
    assert task.result() == 42 and order == ["before", "after"]
    start = time.monotonic()
    here.executor.spin_until_future_complete(ros.Future(), 0.05)
    assert time.monotonic() - start >= 0.05
    late = ros.Future()
    threading.Timer(0.05, late.set_result, [7]).start()
    here.executor.spin_until_future_complete(late, LONG_S)
    assert late.result() == 7


def test_spin_ends_with_the_context_or_the_executor(here: Place) -> None:
    here.node("spun")
    ended = []

    def spin() -> None:
        try:
            here.executor.spin()
            ended.append("executor")
        except ros.ExternalShutdownException:
            ended.append("context")

    thread = threading.Thread(target=spin)
    thread.start()
    time.sleep(0.05)
    here.context.shutdown()
    thread.join(LONG_S)
    assert ended == ["context"]


def test_threads_run_side_by_side_unless_their_group_excludes_it() -> None:
    with place() as here:
        node = here.node("parallel")
        executor = ros.MultiThreadedExecutor(4, context=here.context)
        executor.add_node(node)
        both, alone = threading.Barrier(2, timeout=LONG_S), ros.MutuallyExclusiveCallbackGroup()
        met, inside, worst, runs = [], [], [], []

        def meet() -> None:
            both.wait()
            met.append(1)

        def exclude() -> None:
            inside.append(1)
            worst.append(len(inside))
            time.sleep(0.01)
            inside.pop()
            runs.append(1)

        free = ros.ReentrantCallbackGroup()
        timers = [node.create_timer(0.01, meet, callback_group=free) for _ in range(2)]
        for _ in range(3):
            node.create_timer(0.005, exclude, callback_group=alone)
        end = time.monotonic() + LONG_S
        while (len(met) < 2 or len(runs) < 10) and time.monotonic() < end:
            executor.spin_once(0.05)
        for timer in timers:
            timer.cancel()
        both.abort()
        assert len(met) >= 2 and len(runs) >= 10 and max(worst) == 1
        node.destroy_node()
        try:
            while executor._failed:
                executor._failed.popleft()
        finally:
            assert executor.shutdown(LONG_S)


def test_a_blocking_call_in_one_group_waits_for_a_service_in_another() -> None:
    """The reason for groups: a callback asks a service of the same node and waits, and the answer comes."""
    with place() as here:
        node, answers = here.node("self_asking"), []
        executor = ros.MultiThreadedExecutor(3, context=here.context)
        executor.add_node(node)
        trigger = ros.service("std_srvs/srv/Trigger")

        def answer(_: object, response: object) -> object:
            response.message = "heard"  # type: ignore[attr-defined]
            return response

        node.create_service(trigger, "ask", answer, callback_group=ros.MutuallyExclusiveCallbackGroup())
        client = node.create_client(trigger, "ask", callback_group=ros.MutuallyExclusiveCallbackGroup())
        assert client.wait_for_service(LONG_S)

        def ask() -> None:
            timer.cancel()
            answers.append(client.call(trigger.Request(), LONG_S).message)

        timer = node.create_timer(0.001, ask)
        end = time.monotonic() + LONG_S
        while not answers and time.monotonic() < end:
            executor.spin_once(0.05)
        assert answers == ["heard"]
        assert executor.shutdown(LONG_S)


def test_subscriptions_may_be_destroyed_while_another_thread_spins(here: Place) -> None:
    node = here.node("changing")
    publisher = node.create_publisher(String, "t", 10)
    thread = threading.Thread(target=lambda: here.until(lambda: done, LONG_S))
    done: list[int] = []
    thread.start()
    for _ in range(100):
        made = node.create_subscription(String, "t", lambda _: None, 10)
        publisher.publish(String(data="x"))
        made.destroy()
    done.append(1)
    here.executor.wake()
    thread.join(LONG_S)
    assert not thread.is_alive() and not list(node.subscriptions)


def test_what_was_ready_of_a_node_that_is_taken_out_does_not_run(here: Place) -> None:
    first, second, ran = here.node("first"), here.node("second"), []
    first.create_timer(0.001, lambda: ran.append("first"))
    second.create_timer(0.001, lambda: ran.append("second"))
    assert here.until(lambda: len(set(ran)) == 2)
    here.executor.remove_node(second)
    ran.clear()
    assert here.until(lambda: len(ran) > 20) and set(ran) == {"first"}


def test_executors_that_are_over_are_forgotten(here: Place) -> None:
    there = []
    for _ in range(20):
        executor = ros.SingleThreadedExecutor(context=here.context)
        executor.spin_until_future_complete(ros.Future(), 0.001)
        executor.shutdown()
        there.append(weakref.ref(executor))
        del executor
    gc.collect()
    assert [one() for one in there] == [None] * 20 and len(here.context._ended) < 5


def test_functions_of_the_default_context() -> None:
    from tests.real.ros.domains import free_domain

    with free_domain() as domain:
        ros.init(args=[], domain_id=domain)
        try:
            node, ran = ros.create_node("plain"), []
            node.create_timer(0.005, lambda: ran.append(1))
            ros.spin_once(node, timeout_sec=LONG_S)
            assert ran and ros.ok() and node.executor is None
            future = ros.get_global_executor().create_task(lambda: 5)
            ros.spin_until_future_complete(node, future, timeout_sec=LONG_S)
            assert future.result() == 5
            assert "loopback" in ros.said()
        finally:
            ros.shutdown()
        assert not ros.ok()
