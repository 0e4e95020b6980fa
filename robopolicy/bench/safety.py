"""The safety filter: time of one tick with 7 joints and 10 and 40 barriers, the verified stop included.

A seven-joint arm is driven for the whole time against its limits and barriers by targets that change side every second; its
targets are beyond the limits, so that no tick takes the short way of a motion that passes unchanged. Beside it a smooth
motion that does pass. Each tick is measured on the wall clock, and in CPU time of its thread: the difference is what else ran.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from robopolicy.bench.harness import Result, Row, measured

RATE_HZ, TARGET_US, WARM = 100.0, 250.0, 200


def robot(rows: int) -> tuple[str, dict[str, Any]]:
    """Return the arm's model and barriers: its table, a wall and, for 40 rows and more, its own body; 10 are without the upper arm."""
    from sim.suites.arm import robot_model

    model = robot_model()
    table = {"point": [0.0, 0.0, 0.0], "normal": [0.0, 0.0, 1.0], "name": "table"}
    wall = {"point": [0.0, 0.75, 0.0], "normal": [0.0, -1.0, 0.0], "name": "wall"}
    if rows <= 10:
        for link in ("link1", "link2", "link3"):
            model = model.replace(f'name="{link}" fromto', f'name="{link}" contype="0" conaffinity="0" fromto')
    return model, {"planes": [table, wall], "self_collision": rows > 10, "margin_m": 0.01}


def targets(ticks: int, unsafe: bool) -> np.ndarray:
    """Return joint positions (ticks, 7): steps between sides beyond the range, or a slow swing around the home pose."""
    from sim.suites.arm import HOME, motion_limits

    limits, rng, t = motion_limits(), np.random.default_rng(0), np.arange(ticks)[:, None] / RATE_HZ
    if not unsafe:
        begin = np.minimum(t / 2, 1)
        return np.array(HOME) + 0.1 * begin**4 * (35 - 84 * begin + 70 * begin**2 - 20 * begin**3) * np.sin(t * np.linspace(0.5, 1.5, 7))
    sides = np.where(rng.random((ticks // int(RATE_HZ) + 1, 7)) < 0.5, limits.low - 1, limits.high + 1)
    return np.repeat(sides, int(RATE_HZ), axis=0)[:ticks]


def ticks_s(rows: int, count: int, unsafe: bool) -> tuple[np.ndarray, int, dict[str, int]]:
    """Return durations of ticks in s (2, count), wall and CPU, the number of barriers, and how often each kind of intervention was made."""
    from policies.kinematics import Kinematics
    from real.safety.barriers import Barriers
    from real.safety.filter import SafetyFilter
    from sim.suites.arm import HOME, motion_limits

    model, workspace = robot(rows)
    barriers = Barriers(workspace, Kinematics(model))
    safety = SafetyFilter(motion_limits(), RATE_HZ, barriers)
    safety.start(np.array(HOME))
    durations = np.empty((2, count + WARM))
    for k, target in enumerate(targets(count + WARM, unsafe)):
        at = safety.reference.position
        busy, began = time.thread_time(), time.perf_counter()
        safety.step(target, at)
        durations[:, k] = time.perf_counter() - began, time.thread_time() - busy
    kinds: dict[str, int] = {}
    for cause, times in safety.interventions.items():
        kind = cause.partition(":")[0]
        kinds[kind] = kinds.get(kind, 0) + times
    return durations[:, WARM:], len(barriers.names), kinds


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes seconds."""
    return measure(3_000 if quick else 60_000)


def measure(count: int) -> Result:
    """Measure ``count`` ticks a figure."""
    result = Result()
    for rows in (10, 40):
        for unsafe, what in ((True, "against limits and barriers"), (False, "a motion that passes")):
            with measured() as took:
                durations, barriers, kinds = ticks_s(rows, count, unsafe)
            name = f"filter, 7 joints, {barriers} barriers, {what}"
            for clock, values in zip(("wall", "CPU"), durations, strict=True):
                for label, value in (("p50", np.quantile(values, 0.5)), ("p99", np.quantile(values, 0.99)), ("max", values.max())):
                    target = TARGET_US if (clock, label) == ("wall", "p99") else None
                    row = Row(f"{name}: {clock} {label}", 1e6 * float(value), "us", target=target, better="lower")
                    row.wall_s, row.cpu_s = took.wall_s, took.cpu_s
                    result.rows.append(row)
            told = ", ".join(f"{kind} {times}" for kind, times in sorted(kinds.items())) or "none"
            result.notes.append(f"{name}: {count} ticks, interventions: {told}")
    return result
