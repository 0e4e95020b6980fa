"""MPC through the runtime's own joint level: interpolation and safety filter stand between every plan and the robot."""

from __future__ import annotations

import numpy as np

from policies.base import Policy
from policies.motion import Reference
from real.levels import JointLevel
from real.robot import Observation, RobotInfo
from real.safety.barriers import Barriers
from sim.suites.arm import motion_limits, robot_model
from tests.policies.advised_reach import GOAL, OBSTACLE, SPEC, STATE, advisor, arm, mpc, problems

MARGIN = 0.01
BARRIERS = {"spheres": [{"center": OBSTACLE[:3], "radius": OBSTACLE[3]}], "margin_m": MARGIN}
INFO = RobotInfo("arm", 100.0, "brakes", 0.1, substeps=5, motion=motion_limits(), model=robot_model(), barriers=BARRIERS)


def run(policy: Policy, state: np.ndarray, goal: np.ndarray, steps: int = 60) -> tuple[np.ndarray, float, int]:
    """Return the commands (T, 7) of a perfect robot from ``state`` (14,), the hand's least distance to ``goal``, m, and barrier interventions."""
    level, q = JointLevel(SPEC.observation, INFO), state[:7].copy()
    now, streams, queue, sent = Reference.at_rest(q), policy.initial_state(1), [], [q]
    nearest, action = np.inf, None
    for _ in range(5 * steps):
        fields = {STATE: np.concatenate([now.position, now.velocity]).astype(np.float32), GOAL: goal.astype(np.float32)}
        if level.due:
            if not queue:
                plan, streams = policy.act({name: value[None, None] for name, value in fields.items()}, streams, np.zeros(1, np.int64))
                queue = list(plan.actions[0])
            action = queue.pop(0)
        command = level.step(action, Observation(fields, {}, reference=now))
        if command is not None and command.reference is not None:
            now = command.reference
        sent.append(now.position)
        arm().forward(now.position)
        nearest = min(nearest, float(np.linalg.norm(arm().pose("hand")[0] - goal)))
    return np.array(sent), nearest, sum(times for cause, times in level.filter.interventions.items() if cause.startswith("barrier"))


def judge(sent: np.ndarray) -> None:
    """Judge commands (T, 7) by their differences and by the distances of the arm, not by what the filter says."""
    limits, barriers = motion_limits(), Barriers(BARRIERS, arm())
    assert np.isfinite(sent).all() and (barriers.path(sent) >= -1e-6).all()
    still = np.concatenate([np.repeat(sent[:1], 3, axis=0), sent])
    for order, bound in ((1, limits.velocity), (2, limits.stop_acceleration), (3, limits.stop_jerk)):
        assert (np.abs(np.diff(still, order, axis=0)) * 100**order <= bound * (1 + 1e-6)).all(), order
    assert (sent >= limits.low - 1e-9).all() and (sent <= limits.high + 1e-9).all()


def test_advised_it_goes_round_where_alone_it_is_stuck() -> None:
    """At two iterations a plan, closed loop, on the same problems; the filter has its word on every command."""
    states, goals = problems(5, 4)
    near = {"advised": [], "alone": []}
    for name, policy in (("advised", mpc(2, advisor())), ("alone", mpc(2))):
        for state, goal in zip(states, goals, strict=True):
            sent, nearest, _ = run(policy, state, goal, 40)
            judge(sent)
            near[name].append(nearest < 0.025)
    assert sum(near["advised"]) >= sum(near["alone"]) + 2


def test_a_plan_through_the_obstacle_is_turned_aside_by_the_filter() -> None:
    states, goals = problems(5, 3)
    for state, goal in zip(states, goals, strict=True):
        sent, _, interventions = run(mpc(2, obstacle=None), state, goal, 40)
        judge(sent)
        assert interventions > 0
