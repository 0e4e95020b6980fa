"""Timers, guard conditions, tasks and futures; what may run at the same time, and what ends a spin."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import NEVER_S, PATIENCE_S, String, World, texts


def test_a_timer_fires_again_and_again_until_it_is_cancelled(world: World) -> None:
    beats: list[int] = []
    timer = world.node().create_timer(0.02, lambda: beats.append(1))
    assert timer.timer_period_ns == 20_000_000
    assert not timer.is_canceled()
    world.until(lambda: len(beats) >= 5)
    timer.cancel()
    assert timer.is_canceled()
    count = len(beats)
    world.pass_time()
    assert len(beats) == count
    timer.reset()
    world.until(lambda: len(beats) > count)


def test_a_timer_does_not_fire_before_its_period_and_tells_how_long_it_is_still(world: World) -> None:
    beats: list[float] = []
    start = time.monotonic()
    timer = world.node().create_timer(0.3, lambda: beats.append(time.monotonic()))
    assert 0 < timer.time_until_next_call() <= 300_000_000
    world.until(lambda: bool(beats))
    assert beats[0] - start >= 0.29


def test_a_timer_that_is_late_does_not_fire_in_a_burst(world: World) -> None:
    beats: list[int] = []
    world.node().create_timer(0.02, lambda: beats.append(1))
    time.sleep(0.5)
    start = time.monotonic()
    for _ in range(20):
        world.executor.spin_once(timeout_sec=0)
    assert 1 <= len(beats) <= 2 + (time.monotonic() - start) / 0.02


def test_a_destroyed_timer_never_fires(world: World) -> None:
    node = world.node()
    beats: list[int] = []
    timer = node.create_timer(0.01, lambda: beats.append(1))
    assert node.destroy_timer(timer)
    world.pass_time()
    assert beats == []


def test_a_guard_condition_runs_its_callback_once_a_trigger(world: World) -> None:
    node = world.node()
    runs: list[int] = []
    guard = node.create_guard_condition(lambda: runs.append(1))
    world.pass_time(0.1)
    assert runs == []
    guard.trigger()
    world.until(lambda: runs == [1])
    world.pass_time(0.1)
    assert runs == [1]
    assert node.destroy_guard_condition(guard)


def test_spin_once_comes_back_when_nothing_happens(world: World) -> None:
    world.node(start_parameter_services=False)
    start = time.monotonic()
    world.executor.spin_once(timeout_sec=0)
    world.executor.spin_once(timeout_sec=0.1)
    assert time.monotonic() - start < PATIENCE_S


def test_spin_until_future_complete_gives_up_after_its_time(world: World) -> None:
    world.node()
    future = ros.Future()
    world.executor.spin_until_future_complete(future, timeout_sec=0.1)
    assert not future.done()


def test_spin_until_future_complete_ends_when_a_callback_sets_the_result(world: World) -> None:
    node = world.node()
    future = ros.Future()
    node.create_timer(0.02, lambda: future.done() or future.set_result("beat"))
    assert world.result(future) == "beat"


def test_an_exception_of_a_callback_comes_out_of_the_spin(world: World) -> None:
    node = world.node()

    def fail() -> None:
        raise ValueError("out of here")

    node.create_timer(0.01, fail)
    with pytest.raises(ValueError, match="out of here"):
        world.pass_time(PATIENCE_S)


def test_a_node_is_added_once_and_can_be_removed(world: World) -> None:
    node = world.node(spins=False)
    beats: list[int] = []
    node.create_timer(0.01, lambda: beats.append(1))
    assert node.executor is None
    assert world.executor.add_node(node)
    assert not world.executor.add_node(node)
    assert node.executor is world.executor
    assert list(world.executor.get_nodes()) == [node]
    world.until(lambda: bool(beats))
    world.executor.remove_node(node)
    assert list(world.executor.get_nodes()) == []
    count = len(beats)
    world.pass_time()
    assert len(beats) == count


def test_callbacks_of_a_node_run_one_at_a_time_by_default(world: World) -> None:
    most, _ = concurrency(world, None, None, NEVER_S)
    assert most == 1


def test_callbacks_of_one_exclusive_group_run_one_at_a_time(world: World) -> None:
    group = ros.MutuallyExclusiveCallbackGroup()
    most, _ = concurrency(world, group, group, NEVER_S)
    assert most == 1


def test_callbacks_of_two_exclusive_groups_run_together(world: World) -> None:
    most, met = concurrency(world, ros.MutuallyExclusiveCallbackGroup(), ros.MutuallyExclusiveCallbackGroup(), PATIENCE_S)
    assert most == 2
    assert met


def test_callbacks_of_a_reentrant_group_run_together(world: World) -> None:
    group = ros.ReentrantCallbackGroup()
    most, met = concurrency(world, group, group, PATIENCE_S)
    assert most == 2
    assert met


def concurrency(world: World, first: Any, second: Any, wait_s: float) -> tuple[int, bool]:
    """Return (how many of two callbacks ran at once at most, whether they met) on four threads; each waits ``wait_s`` for the other."""
    executor = ros.MultiThreadedExecutor(num_threads=4, context=world.context)
    node = world.node(spins=False)
    executor.add_node(node)
    lock, running, most, rounds = threading.Lock(), [0], [0], [0]
    meeting = threading.Barrier(2)
    met: list[bool] = []

    def run(timer: list[Any]) -> None:
        timer[0].cancel()
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            meeting.wait(timeout=wait_s)
            met.append(True)
        except threading.BrokenBarrierError:
            pass
        with lock:
            running[0] -= 1
            rounds[0] += 1

    for group in (first, second):
        made: list[Any] = []
        made.append(node.create_timer(0.05, lambda made=made: run(made), callback_group=group))
    with world.spinning(executor):
        end = time.monotonic() + 2 * PATIENCE_S
        while rounds[0] < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
    executor.shutdown(timeout_sec=PATIENCE_S)
    return most[0], bool(met)


def test_a_task_runs_in_the_executor(world: World) -> None:
    world.node()
    threads: list[str] = []
    task = world.executor.create_task(lambda a, b: threads.append(threading.current_thread().name) or a + b, 1, 2)
    assert world.result(task) == 3
    assert threads == [threading.current_thread().name]


def test_a_coroutine_awaits_a_future_of_another_callback(world: World) -> None:
    node = world.node()
    future = ros.Future()

    async def wait() -> str:
        return "got " + await future

    task = world.executor.create_task(wait)
    world.pass_time(0.1)
    assert not task.done()
    node.create_timer(0.02, lambda: future.done() or future.set_result("it"))
    assert world.result(task) == "got it"


def test_a_subscription_s_callback_may_be_a_coroutine(world: World) -> None:
    node = world.node()
    future, heard = ros.Future(), []

    async def callback(message: Any) -> None:
        heard.append((message.data, await future))

    node.create_subscription(String, "chatter", callback, 10)
    publisher = node.create_publisher(String, "chatter", 10)
    world.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(String(data="first"))
    world.pass_time(0.2)
    assert heard == []
    future.set_result("then")
    world.until(lambda: heard == [("first", "then")])


def test_a_future_holds_a_result_or_an_exception(world: World) -> None:
    future = ros.Future()
    assert not future.done()
    assert not future.cancelled()
    assert future.result() is None
    seen: list[Any] = []
    future.add_done_callback(lambda f: seen.append(f.result()))
    future.set_result(5)
    assert future.done()
    assert future.result() == 5
    assert future.exception() is None
    future.add_done_callback(lambda f: seen.append("at once"))
    assert seen == [5, "at once"]
    failed = ros.Future()
    failed.set_exception(KeyError("k"))
    assert failed.done()
    assert isinstance(failed.exception(), KeyError)
    with pytest.raises(KeyError):
        failed.result()


def test_a_future_can_be_cancelled(world: World) -> None:
    future = ros.Future()
    seen: list[bool] = []
    future.add_done_callback(lambda f: seen.append(f.cancelled()))
    future.cancel()
    assert future.cancelled()
    assert seen == [True]
    world.executor.spin_until_future_complete(future, timeout_sec=PATIENCE_S)


def test_a_slow_topic_is_not_starved_by_a_fast_one(world: World) -> None:
    node = world.node()
    fast = node.create_publisher(String, "fast", 100)
    heard_fast = texts(world, node, "fast", 100)
    heard_slow = texts(world, node, "slow", 100)
    slow = node.create_publisher(String, "slow", 100)
    world.until(lambda: fast.get_subscription_count() == 1 and slow.get_subscription_count() == 1)
    for k in range(80):
        fast.publish(String(data=str(k)))
    slow.publish(String(data="slow"))
    assert slow.wait_for_all_acked(ros.Duration(seconds=30))
    assert fast.wait_for_all_acked(ros.Duration(seconds=30))
    for _ in range(40):
        world.executor.spin_once(timeout_sec=NEVER_S)
    assert heard_slow == ["slow"]
    assert heard_fast
