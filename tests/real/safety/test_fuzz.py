"""Policies that want to break the arm: nothing that leaves the filter breaks a limit, as an independent judge sees it."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from real.safety.filter import SafetyFilter
from sim.suites.arm import JOINTS, robot_model
from tests.real.judge import nearest_m, violations
from tests.real.safety.motions import POLICIES, RATE_HZ, START, TICK_S, barriers, limits, run

WITH_FLOOR = robot_model().replace("<worldbody>", '<worldbody><geom name="plane0" type="plane" size="3 3 1"/>')
TICKS = 6250  # each, in four policies with barriers and without: 50,000


def judged(policy: str, ticks: int, seed: int, near: bool, every: int) -> list[str]:
    """Return what the judge finds in a run of ``policy``, with or without barriers."""
    what = barriers() if near else None
    log = run(SafetyFilter(limits(), RATE_HZ, what), POLICIES[policy], ticks, seed)
    found = violations(log.commands, TICK_S, limits(), start=START, stopping=log.braking)
    if what is not None:
        pairs = [tuple(name.split(":")) for name in what.names]
        least = nearest_m(WITH_FLOOR, log.commands[::every], pairs, JOINTS)
        found += [f"{a} and {b} come within {d:.6f} m" for (a, b), d in least.items() if d < 0.01 - 1e-6]
    tried = {"motion", "velocity"} | ({"position"} if policy in ("bang_bang", "drifting") else set()) | ({"barrier"} if near else set())
    assert tried <= set(log.causes)
    return found


@pytest.mark.parametrize("near", [False, True], ids=["limits", "limits and barriers"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_breaks_a_limit(policy: str, near: bool) -> None:
    assert judged(policy, TICKS, 1, near, 7) == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("near", [False, True], ids=["limits", "limits and barriers"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_breaks_a_limit_in_a_million_ticks(policy: str, near: bool, seed: int) -> None:
    assert judged(policy, 25_000, 100 + seed, near, 11) == []


@pytest.mark.parametrize("policy", ["uniform", "bang_bang", "drifting"])
def test_a_clamp_in_the_filters_place_breaks_them(policy: str) -> None:
    motion, rng = limits(), np.random.default_rng(1)
    targets, at, commands = POLICIES[policy](rng, motion), START, []
    for _ in range(2000):
        step = np.clip(next(targets) - at, -motion.velocity * TICK_S, motion.velocity * TICK_S)
        at = np.clip(at + step, motion.low, motion.high)
        commands.append(at)
    found = violations(np.array(commands), TICK_S, motion, start=START)
    assert any(line.startswith("acceleration") for line in found) and any(line.startswith("jerk") for line in found)
    if policy != "uniform":  # which goes nowhere
        pairs = [tuple(name.split(":")) for name in barriers().names]
        least = nearest_m(WITH_FLOOR, np.array(commands)[::7], pairs, JOINTS)
        assert min(least.values()) < 0  # it has run into the table or itself


@pytest.mark.parametrize("seed", [3])
def test_an_adversary_still_covers_the_range_of_every_joint(seed: int) -> None:
    motion = limits()
    log = run(SafetyFilter(motion, RATE_HZ), POLICIES["bang_bang"], 6000, seed, faults=False)
    covered = (log.commands.max(axis=0) - log.commands.min(axis=0)) / (motion.high - motion.low)
    assert (covered >= 0.8).all(), covered
    assert (motion.high - log.commands.max(axis=0) < 0.01).all()  # up to the very end


@pytest.mark.parametrize("joint", range(7))
def test_an_adversary_covers_what_barriers_leave_of_a_joint(joint: int) -> None:
    motion, what = limits(), barriers()
    grid = np.linspace(motion.low[joint], motion.high[joint], 400)
    q = np.tile(START, (400, 1))
    q[:, joint] = grid
    free = (what.path(q) >= 0).all(axis=1)
    home = int(np.abs(grid - START[joint]).argmin())
    below, above = np.flatnonzero(~free[:home]), np.flatnonzero(~free[home:])
    low, high = grid[below[-1] + 1] if len(below) else grid[0], grid[home + above[0] - 1] if len(above) else grid[-1]
    safety = SafetyFilter(motion, RATE_HZ, what)
    safety.start(START)
    reached = []
    for tick in range(900):
        target = START.copy()
        target[joint] += 10 if (tick // 300) % 2 else -10
        reached.append(safety.step(target, safety.reference.position).command[joint])
    covered = (min(max(reached), high) - max(min(reached), low)) / (high - low)
    assert covered >= 0.8, f"{min(reached):.3f} to {max(reached):.3f} of {low:.3f} to {high:.3f}"


def test_the_judge_sees_each_kind_of_violation() -> None:
    motion, t = limits(), np.arange(400) * TICK_S
    still = np.tile(START, (400, 1))
    assert violations(still, TICK_S, motion) == []

    def kinds(moved: np.ndarray) -> set[str]:
        commands = still.copy()
        commands[:, 0] += moved
        return {line.split()[0] for line in violations(commands, TICK_S, motion)}

    assert kinds(np.where(t > 2, np.nan, 0)) == {"not"}
    assert kinds(np.where(t > 2, 6e-4, 0)) == {"jerk"}
    assert "velocity" in kinds(np.where(t > 1, 2.2 * (t - 1), 0))
    begin = np.minimum(t / 2, 1)
    begin = begin**4 * (35 - 84 * begin + 70 * begin**2 - 20 * begin**3)
    assert kinds(0.16 * begin * np.sin(9 * t)) == {"acceleration"}  # 13 of 12 rad/s^2, 1.4 of 2 rad/s, 117 of 400 rad/s^3
    slow = 2.9 * (t / 4) ** 4 * (35 - 84 * t / 4 + 70 * (t / 4) ** 2 - 20 * (t / 4) ** 3)
    assert kinds(slow) == {"position"}
    stop = violations(still + 0.12 * np.sin(9 * t)[:, None] * np.eye(7)[0], TICK_S, motion, start=START)
    assert any(line.startswith("acceleration") or line.startswith("jerk") for line in stop)


def test_the_judge_asks_mujoco() -> None:
    model = mujoco.MjModel.from_xml_string(WITH_FLOOR)
    assert model.geom("plane0").type == mujoco.mjtGeom.mjGEOM_PLANE
    q = np.tile(START, (2, 1))
    q[1, 1] += 1.2  # the upper arm leans forwards until the tool is in the table
    least = nearest_m(WITH_FLOOR, q, [("plane0", "tool"), ("base", "tool")], JOINTS)
    assert least["plane0", "tool"] < 0 < least["base", "tool"]
