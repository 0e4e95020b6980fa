"""The planner seam: whose sub-goals fit, when they are asked for, how long they stand, rows on their own; a tour by way-points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from policies.base import Execution, Plan, Policy, State, select_rows
from policies.hierarchy import Hierarchy, Subgoal, WaypointPlanner, encode_text, goal_field, goal_kinds
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec

RATE = 10.0
STATE, GOAL = "observation.state", "observation.goal"


def spec(meta: dict[str, str] | None = None, **goals: Field) -> Spec:
    fields = {STATE: Field((2,)), **(goals if goals else {GOAL: Field((2,), kind="goal")})}
    return Spec(ObservationSpec(fields, RATE), ActionSpec({"xy": Field((2,), kind="position")}, RATE), meta or {})


class Straight:
    """Goes half of the way to its goal in each of two steps; counts its calls in its state."""

    n_obs_steps, horizon, n_action_steps = 1, 2, 2

    def __init__(self, of: Spec) -> None:
        self.spec = of

    def initial_state(self, batch: int) -> State:
        return {"calls": np.zeros(batch, np.int64)}

    def reset(self, state: State, mask: Any) -> State:
        return select_rows(state, mask, self.initial_state(len(state["calls"])))

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        at, goal = obs[STATE][:, -1], obs[GOAL][:, -1]
        steps = [at + share * (goal - at) for share in (0.5, 1.0)]
        return Plan(np.stack(steps, 1), {"network_calls": np.ones(len(at))}), {"calls": state["calls"] + 1}


class Clock:
    """Names the time at which it was asked, in rows whose number is below ``working``; valid for ``valid_s``."""

    kind, rate_hz = "state", 1.0

    def __init__(self, valid_s: float = 2.5, dies_after: int = 99) -> None:
        self.reads, self.valid_s, self.dies_after = ObservationSpec({STATE: Field((2,))}, RATE), valid_s, dies_after
        self.asked: list[list[float]] = []

    def initial_state(self, batch: int) -> State:
        return {"times": np.zeros(batch, np.int64)}

    def plan(self, obs: Mapping[str, np.ndarray], state: State, now: np.ndarray) -> tuple[Subgoal, State]:
        self.asked.append(now.tolist())
        valid = np.where(state["times"] < self.dies_after, self.valid_s, 0.0)
        return Subgoal("state", np.stack([now, -now], 1), now, valid), {"times": state["times"] + 1}


def follow(policy: Policy, rows: int, calls: int) -> list[np.ndarray]:
    state, at, out = policy.initial_state(rows), np.zeros((rows, 2), np.float32), []
    for _ in range(calls):
        plan, state = policy.act({STATE: at[:, None]}, state, np.zeros(rows, np.int64))
        out.append(plan.actions)
        at = plan.actions[:, -1]
    return out


def test_it_is_a_policy_whose_spec_has_no_goal() -> None:
    both = Hierarchy(Clock(), Straight(spec({"goal:observation.goal": "state"})))
    assert isinstance(both, Policy)
    assert list(both.spec.observation.fields) == [STATE] and both.spec.meta == {}
    assert (both.n_obs_steps, both.horizon, both.n_action_steps, both.every) == (1, 2, 2, 10)


def test_the_planner_is_asked_at_its_own_rate_and_its_word_stands_in_between() -> None:
    planner = Clock()
    seen = follow(Hierarchy(planner, Straight(spec())), 1, 16)  # 32 steps of 0.1 s
    assert planner.asked == [[0.0], [1.0], [2.0], [3.0]]
    np.testing.assert_allclose([a[0, -1, 0] for a in seen], [0] * 5 + [1] * 5 + [2] * 5 + [3])


def test_steps_are_counted_as_they_were_executed() -> None:
    planner, obs = Clock(), {STATE: np.zeros((1, 1, 2), np.float32)}
    both = Hierarchy(planner, Straight(spec()))
    state = both.initial_state(1)
    for _ in range(5):
        _, state = both.act(obs, state, np.zeros(1, np.int64), Execution(elapsed=np.array([5])))
    assert planner.asked == [[0.0], [1.0], [2.0]]


def test_a_dead_planner_means_holding_after_its_last_word_has_run_out() -> None:
    both = Hierarchy(Clock(valid_s=2.5, dies_after=2), Straight(spec()))
    state, at, held, commands = both.initial_state(1), np.zeros((1, 2), np.float32), [], []
    for _ in range(25):
        plan, state = both.act({STATE: at[:, None]}, state, np.zeros(1, np.int64))
        at = plan.actions[:, -1]
        held.append(bool(plan.info["held"][0]))
        commands.append(at[0].tolist())
    # The second and last sub-goal was issued at 1 s and stands to 3.5 s: call 18 begins at 3.6 s.
    assert held == [False] * 18 + [True] * 7
    assert all(command == [1.0, -1.0] for command in commands[6:])


@pytest.mark.parametrize(("delay", "executed"), [(0, 0), (1, 1), (7, 1)])
def test_what_is_held_is_the_last_command_that_was_executed(delay: int, executed: int) -> None:
    """A plan is asked for after one step of the last one, and ``delay`` more are played until it comes."""
    both, obs = Hierarchy(Clock(valid_s=0.1, dies_after=1), Straight(spec())), {STATE: np.full((1, 1, 2), 4, np.float32)}
    first, state = both.act(obs, both.initial_state(1), np.zeros(1, np.int64), Execution(elapsed=np.array([1])))
    for _ in range(3):
        plan, state = both.act(obs, state, np.zeros(1, np.int64), Execution(delay=np.array([delay]), elapsed=np.array([1])))
        assert plan.info["held"][0] == 1 and (plan.actions[0] == first.actions[0, executed]).all()


def test_a_planner_with_nothing_to_say_leaves_nothing_to_execute() -> None:
    first = follow(Hierarchy(Clock(dies_after=0), Straight(spec())), 2, 1)[0]
    assert np.isnan(first).all()


def test_rows_are_their_own_and_can_begin_anew() -> None:
    both = Hierarchy(Clock(), Straight(spec()))
    state = both.initial_state(2)
    obs = {STATE: np.zeros((2, 1, 2), np.float32)}
    for _ in range(6):
        _, state = both.act(obs, state, np.zeros(2, np.int64))
    state = both.reset(state, np.array([False, True]))
    assert state["step"].tolist() == [12, 0] and state["policy.calls"].tolist() == [6, 0] and state["planner.times"].tolist() == [2, 0]
    plan, state = both.act(obs, state, np.zeros(2, np.int64))
    np.testing.assert_allclose(plan.actions[:, -1], [[1, -1], [0, 0]])
    assert state["planner.times"].tolist() == [2, 1]


def test_a_torch_policy_below_gets_tensors_and_gives_the_same() -> None:
    import torch

    class Torch(torch.nn.Module):
        n_obs_steps, horizon, n_action_steps = 1, 2, 2
        spec = spec()
        initial_state, reset = Straight.initial_state, Straight.reset

        def act(self, obs: Mapping[str, torch.Tensor], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
            assert isinstance(obs[GOAL], torch.Tensor) and noise.keys.shape == (1,)
            at, goal = obs[STATE][:, -1], obs[GOAL][:, -1]
            return Plan(torch.stack([at + 0.5 * (goal - at), goal], 1), {"network_calls": torch.ones(1)}), state

    torch_below = follow(Hierarchy(Clock(), Torch()), 1, 12)  # type: ignore[arg-type]
    for a, b in zip(torch_below, follow(Hierarchy(Clock(), Straight(spec())), 1, 12), strict=True):
        np.testing.assert_allclose(a, b)


def test_kinds_are_named_by_the_spec() -> None:
    named = spec(
        {"goal:g.path": "path", "goal:g.text": "text", "note": "other entries do not matter"},
        **{"g.path": Field((5, 2), kind="goal"), "g.text": Field((16,), "uint8", kind="goal"), "g.pose": Field((3,), kind="goal")},
    )
    assert goal_kinds(named) == {"g.path": "path", "g.text": "text", "g.pose": "state"}
    assert goal_field(named, "path") == "g.path" and goal_field(named, "state") == "g.pose"
    with pytest.raises(InputError, match=r"sub-goals of kind 'latent'; the policy takes g.path"):
        goal_field(named, "latent")
    with pytest.raises(InputError, match=r"kind 'pth' are unknown; did you mean 'path'"):
        goal_kinds(spec({"goal:observation.goal": "pth"}))
    with pytest.raises(InputError, match=r"names no observation field of kind 'goal'; did you mean 'observation.goal'"):
        goal_kinds(spec({"goal:observation.gaol": "path"}))
    with pytest.raises(InputError, match="kind 'sate' is unknown; did you mean 'state'"):
        Subgoal("sate", np.zeros(1), np.zeros(1), np.zeros(1))


def test_text_is_bytes() -> None:
    assert encode_text("gr\u00fcn", 6).tolist() == [103, 114, 195, 188, 110, 0]
    with pytest.raises(InputError, match="5 bytes: the goal field holds 4"):
        encode_text("gr\u00fcn", 4)


def test_what_does_not_fit_is_refused() -> None:
    fast = Clock()
    fast.rate_hz = 30.0
    with pytest.raises(InputError, match="30 Hz, is above the policy's, 10 Hz"):
        Hierarchy(fast, Straight(spec()))
    other = Clock()
    other.reads = ObservationSpec({STATE: Field((3,))}, RATE)
    with pytest.raises(InputError, match=r"field 'observation.state': the planner expects"):
        Hierarchy(other, Straight(spec()))


class TestWaypoints:
    """Goals in their order by distance."""

    GOALS = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])

    def planner(self, **options: Any) -> WaypointPlanner:
        return WaypointPlanner(ObservationSpec({STATE: Field((2,))}, RATE), (STATE, (0, 1)), 0.1, self.GOALS, **options)

    def test_in_order_and_the_last_stands(self) -> None:
        planner, seen = self.planner(), []
        state = planner.initial_state(1)
        for at in ([0, 0], [1, 1], [0.95, 0], [1, 1.2], [1, 1.05], [0, 1], [5, 5]):
            subgoal, state = planner.plan({STATE: np.array([at], np.float32)}, state, np.zeros(1))
            seen.append(subgoal.value[0].tolist())
        assert seen == [[1, 0], [1, 0], [1, 1], [1, 1], [0, 1], [0, 1], [0, 1]]
        assert state["reached"].tolist() == [3] and subgoal.valid_s.tolist() == [3.0]

    def test_goals_from_the_observation(self) -> None:
        fields = {STATE: Field((3,)), "observation.goals": Field((6,))}
        planner = WaypointPlanner(ObservationSpec(fields, RATE), (STATE, (2, 0)), 0.1, count=2)
        listed = np.array([[1, 2, 0, 3, 4, 1], [5, 6, 0, 7, 8, 0]], np.float32)
        at = np.array([[2, 9, 1], [0, 0, 0]], np.float32)  # row 0 stands at (1, 2), its first goal
        subgoal, _ = planner.plan({STATE: at, "observation.goals": listed}, planner.initial_state(2), np.zeros(2))
        assert subgoal.value.tolist() == [[3, 4], [5, 6]]

    def test_a_list_is_worked_off_by_a_hierarchy(self) -> None:
        both = Hierarchy(self.planner(rate_hz=5.0), Straight(spec()))
        ends = np.array([plan[0, -1] for plan in follow(both, 1, 4)])
        np.testing.assert_allclose(ends, [*self.GOALS, self.GOALS[-1]])

    def test_bad_lists_are_one_line(self) -> None:
        reads = ObservationSpec({STATE: Field((2,)), "observation.goals": Field((5,))}, RATE)
        with pytest.raises(InputError, match=r"expected finite goals of shape \(G, 2\)"):
            WaypointPlanner(reads, (STATE, (0, 1)), 0.1, np.zeros((3, 3)))
        with pytest.raises(InputError, match="of 5 numbers does not hold 2 goals of 2"):
            WaypointPlanner(reads, (STATE, (0, 1)), 0.1, count=2)
        with pytest.raises(InputError, match="expected some of 0 to 1"):
            WaypointPlanner(reads, (STATE, (0, 2)), 0.1, self.GOALS)
        with pytest.raises(InputError, match=r"'observation.stat' does not exist; did you mean"):
            WaypointPlanner(reads, ("observation.stat", (0, 1)), 0.1, self.GOALS)
