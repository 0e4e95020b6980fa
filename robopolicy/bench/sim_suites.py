"""Meta-World's batched worlds beside the suite's own environment, and pictures a second."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robopolicy.bench.sim_speed import Side

SUITE_WORLDS, SUITE_STEPS = 64, 60  # of an episode, from its beginning: where the expert approaches and touches
PICTURE_TASKS = ("gymnasium/half-cheetah", "locomotion/quadruped", "arm/reach", "metaworld/push")
PICTURE_WORLDS = 8


@functools.cache
def batched_metaworld() -> tuple[str, ...]:
    """Return the Meta-World tasks whose worlds are stepped together, where the suite is installed."""
    from sim import registry

    names = registry.names("metaworld") if "metaworld" in registry.tags() else []
    if not names or registry.entry(names[0]).missing:
        return ()
    from sim.suites import metaworld

    return tuple(name for name in names if name.rpartition("/")[2] in metaworld.batched())


def against_suite(task: str, threads: int, seconds: float) -> tuple[Side, Side]:
    """Return ours with 64 worlds and the suite's own environment, both driven by the scripted expert from the beginning of episodes.

    Only stepping counts, not the experts' own time and not how episodes begin; the suite's step is what a user calls: action in,
    observation, reward, success out.
    """
    import mujoco

    from sim import registry
    from sim.suites.metaworld.suite import SharedModel

    env: Any = registry.make(task, SUITE_WORLDS, threads=threads)
    suite = SharedModel(task)
    data: Any = mujoco.MjData(suite.model)  # type: ignore[attr-defined]
    ours, theirs, ends = Side(), Side(), time.perf_counter() + seconds
    seed = 0
    while seed < 3 or time.perf_counter() < ends:
        own, observation = suite.begin(data, seed, twice=False)
        _timed(theirs, 1, functools.partial(_expert, suite.expert, observation), own.step)
        if seed % 3 == 0:  # 64 worlds take as long as many episodes of one
            env.reset(np.arange(SUITE_WORLDS))
            _timed(ours, SUITE_WORLDS, lambda _: env.expert_action(), env.step)
        seed += 1
    env.close()
    return ours, theirs


def _expert(expert: Any, first: np.ndarray, found: Any) -> np.ndarray:
    """Return the suite's scripted action (4,) after what its step returned (None: none yet)."""
    return np.clip(expert.get_action(first if found is None else found[0]), -1.0, 1.0)


def _timed(side: Side, worlds: int, act: Callable[[Any], np.ndarray], step: Callable[[np.ndarray], Any]) -> None:
    """Count ``SUITE_STEPS`` steps for ``side``; ``act`` chooses the action by what the last step returned."""
    wall, busy, found = 0.0, 0.0, None
    for _ in range(SUITE_STEPS):
        action = act(found)
        cpu, began = time.process_time(), time.perf_counter()
        found = step(action)
        wall, busy = wall + time.perf_counter() - began, busy + time.process_time() - cpu
    side.add(SUITE_STEPS * worlds, wall, busy)


def pictures(task: str, size: int, seconds: float) -> Side:
    """Return pictures a second of worlds that observe a camera: stepping them is included."""
    from sim import registry

    env = registry.make(task, PICTURE_WORLDS, observations="state+image", image_size=size, autoreset=True)
    env.reset(np.arange(PICTURE_WORLDS))
    action = np.zeros((PICTURE_WORLDS, env.spec.action.dim), np.float32)
    env.step(action)
    side, ends = Side(), time.perf_counter() + seconds
    while side.wall_s == 0.0 or time.perf_counter() < ends:
        cpu, began = time.process_time(), time.perf_counter()
        env.step(action)
        side.add(PICTURE_WORLDS, time.perf_counter() - began, time.process_time() - cpu)
    env.close()
    return side
