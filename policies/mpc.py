"""Model-predictive control of a reaching arm, warm-started by the plan of another policy, its advisor.

Gauss-Newton with Levenberg's damping over the joint positions of the next H control steps: the hand to its goal, clear of a
sphere, smooth and within the joints' speeds. It begins at the cheapest of what it knows: standing still, its last plan one
turn on, and what the advisor, learnt or not, proposes; few iterations are then enough. It is a policy like any other, so that every
command it plans passes the same runtime and safety filter. Torch-free (the advisor may not be).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Execution, Plan, Policy, State, select_rows
from policies.hierarchy import act_below, goal_field
from policies.kinematics import Kinematics
from policies.motion import MotionLimits
from policies.spec import InputError, ObservationSpec, Spec

STATE = "observation.state"
_SHARES = (1.0, 0.5, 0.2)  # of a Gauss-Newton step, that are tried


@dataclass(frozen=True)
class MpcOptions:
    """What is minimised, and for how long.

    Attributes:
        horizon: H, control steps looked ahead.
        n_action_steps: Ta of a plan.
        iterations: Gauss-Newton steps per plan.
        frame: Site or body that is brought to the goal.
        links: Frames along the arm; they, and the points midway between neighbours, keep clear of the obstacle.
        link_radius: Their radius, m.
        clearance: Further distance kept, m.
        obstacle: Centre x, y, z and radius of a sphere, m; None: there is none.
        goal: Weight of a squared distance of 0.1 m to the goal at one step; the last step counts ``last`` times.
        last: See ``goal``.
        speed: Weight of all joints at their largest velocity for one step.
        effort: The same for their acceleration.
        collision: Weight of 1 cm inside the clearance, for a point and step.
    """

    horizon: int = 10
    n_action_steps: int = 4
    iterations: int = 3
    frame: str = "hand"
    links: tuple[str, ...] = ("link4", "link5", "link7", "hand")
    link_radius: float = 0.05
    clearance: float = 0.02
    obstacle: tuple[float, float, float, float] | None = None
    goal: float = 1.0
    last: float = 5.0
    speed: float = 0.3
    effort: float = 0.03
    collision: float = 3.0


class MpcPolicy:
    """Plans joint positions towards a goal of kind ``state``, the hand's position (3,), m.

    ``plan.info``: ``cost`` (B,) of the plan, ``advised`` (B,) whether it began at the advisor's, ``network_calls`` of the advisor.

    Args:
        spec: ``observation.state`` begins with the n joint positions and velocities; one goal field (3,); joint position actions.
        kinematics: Of the arm; moved by every call.
        limits: Of the joints.
        advisor: Proposes a plan for the same action; None: nobody.
        options: See :class:`MpcOptions`.

    Raises:
        InputError: if the spec, the arm or the advisor do not fit.
    """

    n_obs_steps = 1

    def __init__(self, spec: Spec, kinematics: Kinematics, limits: MotionLimits, advisor: Policy | None = None, options: MpcOptions = MpcOptions()) -> None:
        self.goal = goal_field(spec, "state", "the task")
        n = kinematics.n
        if spec.action.dim != n or spec.observation.fields[STATE].size < 2 * n or spec.observation.fields[self.goal].shape != (3,):
            raise InputError(f"MPC: expected {n} joint actions, a state of at least {2 * n} and a goal of 3 numbers")
        if not 1 <= options.n_action_steps <= options.horizon or options.iterations < 0:
            raise InputError(f"MPC: {options.n_action_steps} action steps of a horizon of {options.horizon}, {options.iterations} iterations: cannot be")
        if advisor is not None:
            advisor.spec.require(Spec(spec.observation, spec.action), "the advisor", "the task")
        names = {STATE, self.goal, *(advisor.spec.observation.fields if advisor is not None else ())}
        observation = ObservationSpec({name: f for name, f in spec.observation.fields.items() if name in names}, spec.observation.rate_hz)
        self.spec, self.advisor, self.options, self.limits = Spec(observation, spec.action, spec.meta), advisor, options, limits
        self.horizon, self.n_action_steps = options.horizon, options.n_action_steps
        self.n_obs_steps = 1 if advisor is None else advisor.n_obs_steps
        self._arm, self._tick = kinematics, 1.0 / spec.action.rate_hz
        for frame in (options.frame, *options.links):
            kinematics.pose(frame)
        self._low, self._high = np.maximum(limits.low, kinematics.low), np.minimum(limits.high, kinematics.high)
        self._weights = np.full(options.horizon, options.goal / 0.01)
        self._weights[-1] *= options.last
        # Smoothness is quadratic in the plan: q_t - q_(t-1) and q_t - 2 q_(t-1) + q_(t-2), with the present state before q_1.
        rows = np.eye(options.horizon) - np.eye(options.horizon, k=-1)
        self._speed = math.sqrt(options.speed / n) * rows
        self._effort = math.sqrt(options.effort / n) * (rows @ rows)
        self._v_scale, self._a_scale = limits.velocity * self._tick, limits.acceleration * self._tick**2

    def initial_state(self, batch: int) -> State:
        """Return that nothing has been planned yet; arrays with leading dim B."""
        own = {"plan": np.zeros((batch, self.horizon, self._arm.n)), "planned": np.zeros(batch, bool)}
        below = {} if self.advisor is None else self.advisor.initial_state(batch)
        return {**own, **{f"advisor.{name}": value for name, value in below.items()}}

    def reset(self, state: State, mask: Any) -> State:
        """Return ``state`` with the rows of ``mask`` (B,) begun anew."""
        out = select_rows({k: v for k, v in state.items() if not k.startswith("advisor.")}, np.asarray(mask), self.initial_state(len(state["planned"])))
        if self.advisor is None:
            return out
        below = self.advisor.reset(_advisors(state), mask)
        return {**out, **{f"advisor.{name}": value for name, value in below.items()}}

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See :class:`policies.base.Policy`."""
        newest = {name: np.asarray(obs[name])[:, -1].astype(np.float64) for name in (STATE, self.goal)}
        batch, n = len(newest[STATE]), self._arm.n
        proposals, calls, below = None, np.zeros(batch), {}
        if self.advisor is not None:
            window = {name: np.asarray(obs[name]) for name in self.advisor.spec.observation.fields}
            advice, after = act_below(self.advisor, window, _advisors(state), noise, execution)
            proposals, below = self._extended(np.asarray(advice.actions, np.float64)), {f"advisor.{k}": v for k, v in after.items()}
            calls = np.broadcast_to(np.asarray(advice.info["network_calls"], np.float64), (batch,))
        done = np.broadcast_to(np.asarray(self.n_action_steps if execution.elapsed is None else execution.elapsed), (batch,))
        plans, costs, advised = np.zeros((batch, self.horizon, n)), np.zeros(batch), np.zeros(batch)
        for row in range(batch):
            q, v = newest[STATE][row, :n], newest[STATE][row, n : 2 * n]
            guesses = [np.repeat(q[None], self.horizon, axis=0)]
            if state["planned"][row]:
                guesses.append(self._extended(state["plan"][row][min(int(done[row]), self.horizon - 1) :]))
            usable = proposals is not None and bool(np.isfinite(proposals[row]).all())
            if proposals is not None and usable:
                guesses.append(proposals[row])
            plans[row], costs[row], best = self.optimise(q, v, newest[self.goal][row], guesses)
            advised[row] = usable and best == len(guesses) - 1
        actions = plans[:, : self.n_action_steps].astype(np.float32)
        info = {"network_calls": calls, "cost": costs, "advised": advised}
        return Plan(actions, info), {"plan": plans, "planned": np.ones(batch, bool), **below}

    def optimise(self, q: np.ndarray, v: np.ndarray, goal: np.ndarray, guesses: list[np.ndarray]) -> tuple[np.ndarray, float, int]:
        """Return a plan (H, n), its cost, and the number of the guess at which it began, the cheapest.

        Args:
            q: Joint positions (n,) now, rad.
            v: Joint velocities (n,) now, rad/s.
            goal: Of the hand (3,), m.
            guesses: Plans (H, n).
        """
        guesses = [self._feasible(q, guess) for guess in guesses]
        costs = [self.cost(q, v, goal, guess) for guess in guesses]
        best = int(np.argmin(costs))
        plan, cost, damping = guesses[best], costs[best], 1e-2
        for _ in range(self.options.iterations):
            gradient, curvature = self._model(q, v, goal, plan)
            scale = damping * np.trace(curvature) / len(curvature)
            step = np.linalg.solve(curvature + scale * np.eye(len(curvature)), -gradient).reshape(plan.shape)
            tried = [self._feasible(q, plan + share * step) for share in _SHARES]
            prices = [self.cost(q, v, goal, each) for each in tried]
            if min(prices) < cost:
                cost = min(prices)
                plan = tried[prices.index(cost)]
                damping /= 10 if cost == prices[0] else 1
            else:
                damping *= 10
        return plan, cost, best

    def cost(self, q: np.ndarray, v: np.ndarray, goal: np.ndarray, plan: np.ndarray) -> float:
        """Return what ``plan`` (H, n) costs from joints ``q`` (n,) at ``v`` (n,) towards ``goal`` (3,)."""
        speed, effort = self._smoothness(q, v, plan)
        total = float((speed**2).sum() + (effort**2).sum())
        for weight, joints in zip(self._weights, plan, strict=True):
            self._arm.forward(joints)
            total += weight * float(((self._arm.pose(self.options.frame)[0] - goal) ** 2).sum())
            total += self.options.collision * float((self._inside(self._points()) ** 2).sum())
        return total

    def _model(self, q: np.ndarray, v: np.ndarray, goal: np.ndarray, plan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient (H n,) and Gauss-Newton curvature (H n, H n) of half the cost at ``plan`` (H, n)."""
        count, n = plan.shape
        speed, effort = self._smoothness(q, v, plan)
        gradient = self._speed.T @ speed / self._v_scale + self._effort.T @ effort / self._a_scale
        blocks = np.zeros((count, n, count, n))
        joints = np.arange(n)
        blocks[:, joints, :, joints] = (
            (self._speed.T @ self._speed)[None] / self._v_scale[:, None, None] ** 2
            + (self._effort.T @ self._effort)[None] / self._a_scale[:, None, None] ** 2
        )  # fmt: skip
        for t, (weight, here) in enumerate(zip(self._weights, plan, strict=True)):
            self._arm.forward(here)
            jacobian = self._arm.jacobian(self.options.frame)[:3]
            gradient[t] += weight * jacobian.T @ (self._arm.pose(self.options.frame)[0] - goal)
            blocks[t, :, t, :] += weight * jacobian.T @ jacobian
            points = self._points()
            inside = self._inside(points)
            if inside.any():
                slope = self._outward(points)[inside > 0] / 0.01  # of the intrusion, in cm, with the joints, sign reversed
                gradient[t] -= self.options.collision * slope.T @ inside[inside > 0]
                blocks[t, :, t, :] += self.options.collision * slope.T @ slope
        return gradient.ravel(), blocks.reshape(count * n, count * n)

    def _smoothness(self, q: np.ndarray, v: np.ndarray, plan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return residuals (H, n) of speed and of acceleration, relative to the limits; the present state enters the first rows."""
        speed, effort = self._speed @ plan, self._effort @ plan
        speed[0] += (self._speed[0, 0]) * -q
        effort[0] += self._effort[0, 0] * (-2 * q + (q - self._tick * v))
        if len(plan) > 1:
            effort[1] += self._effort[0, 0] * q
        return speed / self._v_scale, effort / self._a_scale

    def _points(self) -> np.ndarray:
        """Return the points (P, 3) of the arm as it stands that keep clear: frames and midpoints."""
        if self.options.obstacle is None:
            return np.zeros((0, 3))
        ends = np.array([self._arm.pose(frame)[0] for frame in self.options.links])
        return np.concatenate([ends, 0.5 * (ends[1:] + ends[:-1])])

    def _inside(self, points: np.ndarray) -> np.ndarray:
        """Return by how many cm points (P, 3) are nearer to the obstacle than they may be; 0: clear."""
        if self.options.obstacle is None:
            return np.zeros(0)
        *centre, radius = self.options.obstacle
        kept = radius + self.options.link_radius + self.options.clearance
        return np.maximum(kept - np.linalg.norm(points - centre, axis=1), 0.0) / 0.01

    def _outward(self, points: np.ndarray) -> np.ndarray:
        """Return how the points' (P, 3) distances to the obstacle's centre change with the joints, (P, n)."""
        assert self.options.obstacle is not None
        ends = np.array([self._arm.jacobian(frame)[:3] for frame in self.options.links])
        jacobians = np.concatenate([ends, 0.5 * (ends[1:] + ends[:-1])])
        away = points - self.options.obstacle[:3]
        return np.einsum("pi,pij->pj", away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9), jacobians)

    def _feasible(self, q: np.ndarray, plan: np.ndarray) -> np.ndarray:
        """Return ``plan`` (H, n) cut to the ranges, and to the largest velocity from step to step."""
        out, last = np.empty_like(plan), np.clip(q, self._low, self._high)
        for t, joints in enumerate(plan):
            out[t] = last = np.clip(np.clip(joints, last - self._v_scale, last + self._v_scale), self._low, self._high)
        return out

    def _extended(self, plan: np.ndarray) -> np.ndarray:
        """Return ``plan`` (..., T, n) cut to H steps, or its last row repeated up to them."""
        missing = self.horizon - plan.shape[-2]
        return plan[..., : self.horizon, :] if missing <= 0 else np.concatenate([plan, np.repeat(plan[..., -1:, :], missing, axis=-2)], axis=-2)


def _advisors(state: State) -> State:
    return {name.removeprefix("advisor."): value for name, value in state.items() if name.startswith("advisor.")}
