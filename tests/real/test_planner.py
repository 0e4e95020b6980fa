"""The planner's thread: never waited for, one request in flight, late answers unused, sub-goals that run out, bad ones refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from policies.base import State
from policies.hierarchy import Subgoal
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from real.planner import PlannerLevel
from real.robot import Observation
from robopolicy.beside import counted_beside

STATE, GOAL = "observation.state", "observation.goal"
SPEC = Spec(
    ObservationSpec({STATE: Field((2,)), GOAL: Field((2,), kind="goal")}, 10.0),
    ActionSpec({"xy": Field((2,), kind="position")}, 10.0),
)
READING = {STATE: np.array([1.0, 2.0], np.float32)}


class Gated:
    """Answers when its gate is open, with the time at which it was asked and how often."""

    kind, rate_hz = "state", 1.0
    reads = ObservationSpec({STATE: Field((2,))}, 10.0)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls, self.answer = 0, lambda now, times: Subgoal("state", np.stack([now, times + 0.0], 1), now, np.full(1, 2.5))

    def initial_state(self, batch: int) -> State:
        return {"times": np.zeros(batch, np.int64)}

    def plan(self, obs: Mapping[str, np.ndarray], state: State, now: np.ndarray) -> tuple[Any, State]:
        self.calls += 1
        assert obs[STATE].shape == (1, 2)
        assert self.gate.wait(30)
        return self.answer(now, state["times"]), {"times": state["times"] + 1}


class Time:
    """A clock that stands still unless it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def level(planner: Any, **options: Any) -> Iterator[PlannerLevel]:
    made = PlannerLevel(planner, SPEC, **options)
    try:
        yield made
    finally:
        planner.gate.set()
        made.close()


def settle(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    assert condition()


def test_a_subgoal_is_asked_for_at_the_planners_rate_and_stands_in_between() -> None:
    planner = Gated()
    with level(planner, deadline_s=20) as planning:
        seen = [planning.goal(READING, 0.1 * k, wait_s=20) for k in range(25)]
    goals = [None if filled is None else filled[GOAL].tolist() for filled in seen]
    expected = [[0, 0]] * 10 + [[1, 1]] * 10 + [[2, 2]] * 5
    np.testing.assert_allclose(goals, expected, atol=1e-6)  # type: ignore[arg-type]
    assert seen[0] is not None and seen[0][GOAL].dtype == np.float32 and list(seen[0]) == [GOAL]
    assert planning.counts == {"asked": 3, "answered": 3}


def test_the_loop_never_waits_for_a_planner_that_hangs() -> None:
    planner, clock = Gated(), Time()
    with level(planner, deadline_s=1.0, clock=clock) as planning:
        assert planning.goal(READING, 0.0, wait_s=0) is None or planner.calls == 1
        settle(lambda: planning.goal(READING, 0.0) is not None)
        planner.gate.clear()
        held = []
        for k in range(1, 60):
            clock.now = 0.1 * k
            held.append(planning.goal(READING, 0.1 * k) is None)
            if k == 10:
                settle(lambda: planner.calls == 2)
        # the sub-goal of 0 s stands for 2.5 s; the request of 1 s is late at 2 s and keeps the planner busy
        assert held == [False] * 24 + [True] * 35
        assert planning.counts == {"asked": 2, "answered": 1, "late": 1}
        planner.gate.set()
        settle(lambda: not planning._busy)  # its late answer came, and is not used
        assert planning.goal(READING, 6.0) is None
        settle(lambda: planning.goal(READING, 6.0) is not None)
        assert planner.calls == 3


def test_an_answer_for_the_last_episode_is_not_used_in_this_one() -> None:
    planner = Gated()
    planner.gate.clear()
    with level(planner, deadline_s=20) as planning:
        assert planning.goal(READING, 0.0) is None
        settle(lambda: planner.calls == 1)
        planning.begin()
        planner.gate.set()
        settle(lambda: not planning._busy)
        assert planning.goal(READING, 50.0) is None
        settle(lambda: planning.goal(READING, 50.0) is not None)
        filled = planning.goal(READING, 50.0)
        assert filled is not None and filled[GOAL].tolist() == [50.0, 0.0]  # with the state of a stream that has just begun


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda now, times: Subgoal("state", np.array([[np.nan, 0.0]]), now, np.ones(1)), "not finite"),
        (lambda now, times: Subgoal("state", np.zeros((1, 3)), now, np.ones(1)), r"expected shape \(1, 2\), found \(1, 3\)"),
        (lambda now, times: Subgoal("latent", np.zeros((1, 2)), now, np.ones(1)), "no sub-goal of kind 'state'"),
        (lambda now, times: Subgoal("state", np.zeros((1, 2)), now, np.full(1, np.inf)), "not finite"),
        (lambda now, times: None, "no sub-goal of kind 'state'"),
        (lambda now, times: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_bad_subgoals_never_reach_the_policy(answer: Any, message: str) -> None:
    planner = Gated()
    planner.answer = answer
    with level(planner, deadline_s=20) as planning:
        assert planning.goal(READING, 0.0, wait_s=20) is None
        assert planning.counts == {"asked": 1, "failed": 1}
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(planning.error)


def test_a_planner_with_nothing_to_say_is_counted() -> None:
    planner = Gated()
    planner.answer = lambda now, times: Subgoal("state", np.zeros((1, 2)), now, np.zeros(1))
    with level(planner, deadline_s=20) as planning:
        assert planning.goal(READING, 0.0, wait_s=20) is None and planning.counts == {"asked": 1, "empty": 1}


def test_bad_readings_are_not_planned_on() -> None:
    planner = Gated()
    with level(planner, deadline_s=20) as planning:
        for bad in ({}, {STATE: np.zeros(3, np.float32)}, {STATE: np.array([np.nan, 0], np.float32)}):
            assert planning.goal(bad, 0.0, wait_s=20) is None
    assert planner.calls == 0 and planning.error


def test_a_policy_without_such_goals_is_refused() -> None:
    flat = Spec(ObservationSpec({STATE: Field((2,))}, 10.0), SPEC.action)
    with pytest.raises(InputError, match="takes no goals at all"):
        PlannerLevel(Gated(), flat)


def test_lock_step_counts_time_in_ticks_and_every_episode_begins_anew() -> None:
    planner = Gated()
    with level(planner, deadline_s=20, lockstep_hz=20.0) as planning:
        seen = []
        for episode in (7, 8):
            for tick in range(45):
                goal = planning.update(Observation(dict(READING), {}, episode=episode, tick=tick), now=1e6)
                assert goal is not None
                seen.append(goal[GOAL].tolist())
    np.testing.assert_allclose(seen, ([[0, 0]] * 20 + [[1, 1]] * 20 + [[2, 2]] * 5) * 2)


def test_what_a_planner_gets_wrong_is_in_the_counts_of_a_run() -> None:
    planner = Gated()
    planner.answer = lambda now, times: 1 / 0
    with level(planner, deadline_s=20) as planning:
        assert planning.goal(READING, 0.0, wait_s=20) is None
        counted = counted_beside(None, None, planning, None)
    assert counted == {"planner": {"asked": 1, "failed": 1, "error": "ZeroDivisionError: division by zero"}}
    assert counted_beside(None, None, None, None) == {}


def test_an_answer_of_another_form_is_no_subgoal_and_no_exception() -> None:
    for answer in (3, (1, 2, 3), (Subgoal("state", np.array([["a", "b"]]), np.zeros(1), np.ones(1)), {})):
        planner = Gated()
        planner.plan = lambda obs, state, now, answer=answer: answer  # type: ignore[method-assign]
        with level(planner, deadline_s=20) as planning:
            assert planning.goal(READING, 0.0, wait_s=20) is None and planning.counts == {"asked": 1, "failed": 1}
