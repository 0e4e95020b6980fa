"""Levels at different rates: a planner names sub-goals about once a second, a goal-conditioned policy pursues them.

A policy says which sub-goals it takes: its observation fields of kind ``goal``, and for each the entry ``goal:FIELD`` of
its spec's ``meta``, one of :data:`KINDS` (``state`` where there is none). The planner is never waited for: the last sub-goal
stands for as long as its planner said, then the policy is held. :class:`Hierarchy` makes one policy of both, which is
evaluated, served and run like any other; ``real.planner`` runs a planner beside the control loop. Torch-free.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from policies.base import Execution, Plan, Policy, State, select_rows
from policies.spec import InputError, ObservationSpec, Spec, suggest

#: What a sub-goal can be, all of them arrays: the state to be in (G,), a latent vector (L,), a path in the picture or the
#: plane (P, 2), a skill (its number or one-hot), text (UTF-8 bytes, padded with zeros: :func:`encode_text`).
KINDS = ("state", "latent", "path", "skill", "text")
META = "goal:"


@dataclass(frozen=True)
class Subgoal:
    """What B streams are to pursue.

    Attributes:
        kind: One of :data:`KINDS`.
        value: (B, *shape) of the goal field that takes it.
        issued: (B,) seconds on the caller's clock, the time of the observation that it was made of.
        valid_s: (B,) seconds from then for which it stands; 0 where the planner has none.
    """

    kind: str
    value: np.ndarray
    issued: np.ndarray
    valid_s: np.ndarray

    def __post_init__(self) -> None:
        """Check the kind. Raises InputError."""
        if self.kind not in KINDS:
            raise InputError(f"sub-goal: kind {self.kind!r} is unknown{suggest(self.kind, KINDS)}")


class Planner(Protocol):
    """Whatever names sub-goals: scripted, learnt, or a search. No hidden state.

    Attributes:
        reads: The observation fields that it reads.
        kind: Of its sub-goals, one of :data:`KINDS`.
        rate_hz: How often it is asked.
    """

    reads: ObservationSpec
    kind: str
    rate_hz: float

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams that have just begun; arrays with leading dim B."""
        ...

    def plan(self, obs: Mapping[str, np.ndarray], state: State, now: np.ndarray) -> tuple[Subgoal, State]:
        """Return sub-goals for B streams and the next state.

        Args:
            obs: field -> (B, *shape), the newest observation.
            state: What the previous call returned.
            now: (B,) seconds at which it was made.
        """
        ...


def goal_kinds(spec: Spec) -> dict[str, str]:
    """Return goal field -> the kind of sub-goal that it takes.

    Raises:
        InputError: for a kind that is unknown, or one of a field that is no goal.
    """
    out = {name: str(spec.meta.get(META + name, "state")) for name, f in spec.observation.fields.items() if f.kind == "goal"}
    for key, kind in spec.meta.items():
        if key.startswith(META) and key.removeprefix(META) not in out:
            raise InputError(f"spec: {key!r} names no observation field of kind 'goal'{suggest(key.removeprefix(META), out)}")
        if key.startswith(META) and kind not in KINDS:
            raise InputError(f"spec: {key!r}: sub-goals of kind {kind!r} are unknown{suggest(kind, KINDS)}")
    return out


def goal_field(spec: Spec, kind: str, who: str = "the policy") -> str:
    """Return the one field of ``spec`` that takes sub-goals of ``kind``. Raises InputError if there is none, or more than one."""
    kinds = goal_kinds(spec)
    fitting = [name for name, takes in kinds.items() if takes == kind]
    if len(fitting) != 1:
        takes = ", ".join(f"{name} ({takes})" for name, takes in kinds.items()) or "no goals at all"
        raise InputError(f"the planner names sub-goals of kind {kind!r}; {who} takes {takes}: expected one such field, found {len(fitting)}")
    return fitting[0]


def encode_text(text: str, length: int) -> np.ndarray:
    """Return ``text`` as UTF-8 in (length,) uint8, padded with zeros. Raises InputError if it is longer."""
    data = text.encode()
    if len(data) > length:
        raise InputError(f"sub-goal text of {len(data)} bytes: the goal field holds {length}")
    return np.frombuffer(data.ljust(length, b"\0"), np.uint8).copy()


class Hierarchy:
    """A planner over a goal-conditioned policy, as one policy.

    The planner is asked at its own rate, counted in control steps, with the newest observation; the goal field of the
    policy's window holds the sub-goal that stands. Rows in which none does hold the last command (before the first: NaN,
    which no runtime sends); ``plan.info["held"]`` (B,) says so.

    Args:
        planner: Names the sub-goals.
        policy: Takes them in one goal field.

    Attributes:
        spec: What both read, less the goal field unless the planner reads it; the policy's action.

    Raises:
        InputError: if the policy takes no such sub-goals, both read a field of different form, or the planner is the faster.
    """

    def __init__(self, planner: Planner, policy: Policy) -> None:
        self.planner, self.policy = planner, policy
        self.field = goal_field(policy.spec, planner.kind)
        self.every = round(policy.spec.action.rate_hz / planner.rate_hz)
        if self.every < 1:
            raise InputError(f"the planner's rate, {planner.rate_hz:g} Hz, is above the policy's, {policy.spec.action.rate_hz:g} Hz")
        own = {name: f for name, f in policy.spec.observation.fields.items() if name != self.field}
        for name, f in planner.reads.fields.items():
            if name in own and own[name] != f:
                raise InputError(f"observation field {name!r}: the planner expects {f.to_dict()}, the policy {own[name].to_dict()}")
        kept = {key: value for key, value in policy.spec.meta.items() if not key.startswith(META)}
        self.spec = Spec(ObservationSpec({**own, **planner.reads.fields}, policy.spec.observation.rate_hz), policy.spec.action, kept)
        self.n_obs_steps, self.horizon, self.n_action_steps = policy.n_obs_steps, policy.horizon, policy.n_action_steps

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams that have just begun."""
        goal = self.policy.spec.observation.fields[self.field]
        own = {
            "step": np.zeros(batch, np.int64),
            "due": np.zeros(batch, np.int64),  # step at which the planner is asked next
            "until": np.zeros(batch),  # s; to which the sub-goal stands
            "goal": np.zeros((batch, *goal.shape), goal.dtype),
            "last": np.full((batch, self.n_action_steps, self.spec.action.dim), np.nan, np.float32),  # plan
        }
        below, above = self.policy.initial_state(batch), self.planner.initial_state(batch)
        return {**own, **_prefixed("policy.", below), **_prefixed("planner.", above)}

    def reset(self, state: State, mask: Any) -> State:
        """Return ``state`` with the rows of ``mask`` (B,) begun anew."""
        fresh = self.initial_state(len(state["step"]))
        out = select_rows({k: v for k, v in state.items() if not k.startswith("policy.")}, np.asarray(mask), fresh)
        return {**out, **_prefixed("policy.", self.policy.reset(_of("policy.", state), mask))}

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See :class:`policies.base.Policy`; numpy arrays, whatever the policy below computes with."""
        seconds = 1.0 / self.spec.action.rate_hz
        state = self._planned(obs, dict(state), seconds)
        window = {name: np.asarray(obs[name]) for name in self.policy.spec.observation.fields if name != self.field}
        window[self.field] = np.repeat(state["goal"][:, None], self.n_obs_steps, axis=1)
        plan, below = act_below(self.policy, window, _of("policy.", state), noise, execution)
        held = ~(state["step"] * seconds < state["until"])
        steps = np.broadcast_to(np.asarray(self.n_action_steps if execution.elapsed is None else execution.elapsed), held.shape)
        # what will have been commanded last when this plan begins: what the last one says beyond that is never executed
        row = np.clip(steps + np.asarray(execution.delay) - 1, 0, self.n_action_steps - 1)
        commanded = state["last"][np.arange(len(held)), row]
        actions = np.where(held[:, None, None], self.spec.action.hold(commanded)[:, None], plan.actions).astype(np.float32)
        after = {**state, **_prefixed("policy.", below), "step": state["step"] + steps, "last": actions}
        return Plan(actions, {**plan.info, "held": held.astype(np.float32)}), after

    def _planned(self, obs: Mapping[str, Any], state: State, seconds: float) -> State:
        """Return ``state`` with new sub-goals in the rows that are due; rows where the planner has none keep the old one."""
        due = state["step"] >= state["due"]
        if not due.any():
            return state
        newest = {name: np.asarray(obs[name])[:, -1] for name in self.planner.reads.fields}
        above = _of("planner.", state)
        subgoal, planned = self.planner.plan(newest, above, state["step"] * seconds)
        new = due & (np.asarray(subgoal.valid_s) > 0)
        shaped = new.reshape((-1,) + (1,) * (state["goal"].ndim - 1))
        state["goal"] = np.where(shaped, subgoal.value, state["goal"]).astype(state["goal"].dtype)
        state["until"] = np.where(new, np.asarray(subgoal.issued) + subgoal.valid_s, state["until"])
        state["due"] = np.where(due, state["step"] + self.every, state["due"])
        return {**state, **_prefixed("planner.", select_rows(above, due, planned))}


class WaypointPlanner:
    """Goes through goals in their order, to the next when the present one is near enough; the last stands.

    Args:
        reads: Fields ``position`` and, unless ``goals`` are given, ``goals_field``.
        position: Field, and indices (D,) in it, of what is brought to the goals.
        reach: Distance at which a goal counts as reached.
        goals: (G, D), the same for every stream; None: read from ``goals_field``.
        goals_field: Field (G * K,) of G goals, the first D of K numbers each.
        count: G of that field.
        rate_hz: How often it is asked.
        valid_s: For how long a sub-goal stands if it is not asked again; None: three periods.

    Raises:
        InputError: if a field is missing or the shapes do not fit.
    """

    kind = "state"

    def __init__(
        self, reads: ObservationSpec, position: tuple[str, tuple[int, ...]], reach: float, goals: np.ndarray | None = None, *,
        goals_field: str = "observation.goals", count: int = 0, rate_hz: float = 1.0, valid_s: float | None = None,
    ) -> None:  # fmt: skip
        needed = [position[0]] if goals is not None else [position[0], goals_field]
        self.reads, self.rate_hz = reads.subset(needed), float(rate_hz)
        if not (rate_hz > 0 and reach > 0 and math.isfinite(reach)):
            raise InputError(f"waypoints: expected a rate and a reach above 0, found {rate_hz:g} Hz and {reach:g}")
        self._field, self._indices = position[0], np.array(position[1], np.intp)
        size, dims = self.reads.fields[self._field].size, len(self._indices)
        if not dims or self._indices.min() < 0 or self._indices.max() >= size:
            raise InputError(f"waypoints: indices of {self._field!r}: expected some of 0 to {size - 1}, found {list(position[1])}")
        self._goals_field, self._count, self._goals = goals_field, count, None
        if goals is not None:
            self._goals = np.array(goals, np.float64)
            if self._goals.ndim != 2 or self._goals.shape[1] != dims or not len(self._goals) or not np.isfinite(self._goals).all():
                raise InputError(f"waypoints: expected finite goals of shape (G, {dims}), found {self._goals.shape}")
            self._count = len(self._goals)
        elif count < 1 or self.reads.fields[goals_field].size % count or self.reads.fields[goals_field].size // count < dims:
            raise InputError(f"waypoints: {goals_field!r} of {self.reads.fields[goals_field].size} numbers does not hold {count} goals of {dims}")
        self.reach, self.valid_s = float(reach), 3.0 / rate_hz if valid_s is None else float(valid_s)

    def initial_state(self, batch: int) -> State:
        """Return that no goal has been reached."""
        return {"reached": np.zeros(batch, np.int64)}

    def plan(self, obs: Mapping[str, np.ndarray], state: State, now: np.ndarray) -> tuple[Subgoal, State]:
        """See :class:`Planner`; sub-goals (B, D)."""
        at = obs[self._field].reshape(len(now), -1)[:, self._indices].astype(np.float64)
        if self._goals is not None:
            goals = np.broadcast_to(self._goals, (len(now), *self._goals.shape))
        else:
            goals = obs[self._goals_field].reshape(len(now), self._count, -1)[:, :, : len(self._indices)].astype(np.float64)
        reached, rows = state["reached"], np.arange(len(now))
        present = goals[rows, np.minimum(reached, self._count - 1)]
        reached = np.minimum(reached + (np.linalg.norm(at - present, axis=1) < self.reach), self._count)
        value = goals[rows, np.minimum(reached, self._count - 1)]
        return Subgoal(self.kind, value, now, np.full(len(now), self.valid_s)), {"reached": reached}


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def _of(prefix: str, state: State) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def act_below(policy: Policy, obs: dict[str, np.ndarray], state: State, noise: Any, execution: Execution) -> tuple[Plan, State]:
    """Call a policy that computes with numpy or with torch on obs, field -> (B, To, *shape); its plan comes back in numpy, its state as it is."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(policy, torch.nn.Module):
        return policy.act(obs, state, noise, execution)
    from policies.noise import Noise

    module: Any = policy
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    tensors = {name: torch.tensor(array, device=device) for name, array in obs.items()}
    keys = noise if isinstance(noise, Noise) else Noise(np.asarray(noise, np.int64), device)
    with torch.no_grad():
        plan, after = policy.act(tensors, state, keys, execution)
    info = {name: np.asarray(torch.as_tensor(value).detach().cpu()) for name, value in plan.info.items()}
    return Plan(plan.actions.detach().cpu().numpy(), info), after
