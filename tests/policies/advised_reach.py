"""A family of reaching problems with a sphere in the way, and an advisor learnt from solved ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from policies.base import Execution, Plan, State
from policies.kinematics import Kinematics
from policies.mpc import MpcOptions, MpcPolicy
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim.oracles.arm_expert import TipServo
from sim.suites.arm import HOME, JOINTS, motion_limits, robot_model

STATE, GOAL = "observation.state", "observation.environment_state"
OBSTACLE = (0.5, 0.0, 0.25, 0.06)
OPTIONS = MpcOptions(obstacle=OBSTACLE, collision=30.0, clearance=0.03)

SPEC = Spec(
    ObservationSpec({STATE: Field((14,), names=(*JOINTS, *(f"{name}.velocity" for name in JOINTS))), GOAL: Field((3,), unit="m", kind="goal")}, 20.0),
    ActionSpec({"joint_position": Field((7,), unit="rad", kind="position", names=JOINTS)}, 20.0),
)


@functools.cache
def arm() -> Kinematics:
    return Kinematics(robot_model())


def problems(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states (count, 14) with the hand on one side of the obstacle, at rest, and goals (count, 3) on the other."""
    rng = np.random.default_rng(seed)
    states, goals = np.zeros((count, 14)), np.zeros((count, 3))
    for k in range(count):
        side = 1 - 2 * int(rng.integers(2))
        begin, goals[k] = (np.array([rng.uniform(0.45, 0.55), s * rng.uniform(0.22, 0.28), rng.uniform(0.2, 0.3)]) for s in (side, -side))
        states[k, :7] = joints_at(begin)
    return states, goals


def observation(states: np.ndarray, goals: np.ndarray) -> dict[str, np.ndarray]:
    """Return the window (B, 1, *shape) of states (B, 14) and goals (B, 3)."""
    return {STATE: states[:, None].astype(np.float32), GOAL: goals[:, None].astype(np.float32)}


def mpc(iterations: int, advisor: Any = None, **changes: Any) -> MpcPolicy:
    return MpcPolicy(SPEC, arm(), motion_limits(), advisor, replace(OPTIONS, iterations=iterations, **changes))


class Remembered:
    """The plan that solved the nearest problem it has learnt, moved to where the arm is now: a policy without weights."""

    n_obs_steps, spec = 1, SPEC

    def __init__(self, states: np.ndarray, goals: np.ndarray, plans: np.ndarray) -> None:
        self.horizon = self.n_action_steps = plans.shape[1]
        self._known, self._moves = np.concatenate([states[:, :7], 3 * goals], axis=1), plans - states[:, None, :7]

    def initial_state(self, batch: int) -> State:
        return {"calls": np.zeros(batch, np.int64)}

    def reset(self, state: State, mask: Any) -> State:
        return {"calls": np.where(mask, 0, state["calls"])}

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        asked = np.concatenate([obs[STATE][:, -1, :7], 3 * obs[GOAL][:, -1]], axis=1)
        nearest = np.linalg.norm(self._known[None] - asked[:, None], axis=2).argmin(1)
        actions = obs[STATE][:, -1, None, :7] + self._moves[nearest]
        return Plan(actions.astype(np.float32), {"network_calls": np.ones(len(asked))}), {"calls": state["calls"] + 1}


def joints_at(point: np.ndarray) -> np.ndarray:
    """Return joint positions (7,) whose hand is at ``point`` (3,), m."""
    servo, q = TipServo(robot_model(), np.array(HOME)), np.array(HOME)
    for _ in range(150):
        q = servo.target(q, point, speed=2.0, approach=5.0)
    return q


def teach(state: np.ndarray, goal: np.ndarray, iterations: int) -> np.ndarray:
    """Return the best plan (H, 7) found from several detours: over the obstacle, below it, on its near and far side."""
    teacher, q = mpc(iterations), state[:7]
    share = np.linspace(0, 1, OPTIONS.horizon + 1)[1:, None]
    straight = q + share * (joints_at(goal) - q)
    bumps = [np.zeros(7), *(sign * 0.5 * np.eye(7)[joint] for joint in (1, 3) for sign in (-1, 1))]
    tried = [teacher.optimise(q, state[7:], goal, [straight + np.sin(np.pi * share) * bump]) for bump in bumps]
    return min(tried, key=lambda found: found[1])[0]


@functools.cache
def advisor(count: int = 24, iterations: int = 8) -> Remembered:
    """Learn from ``count`` problems, solved without hurry."""
    states, goals = problems(1000, count)
    return Remembered(states, goals, np.array([teach(*each, iterations) for each in zip(states, goals, strict=True)]))
