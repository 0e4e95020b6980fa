"""Steps a second of batches of worlds, beside the physics library alone in the same states and beside vectors of environments.

Both sides take turns in short blocks, and the best block of each counts: a machine that does other things meanwhile hurts both
alike. CPU time is that of all threads and of worker processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.env import BatchEnv

WARM_STEPS, WARM_TOTAL = 30, 4000  # control steps before anything counts: falls and resets have begun; at most so many over all worlds
ROUNDS = 12  # blocks of each side, fewer where a few steps take longer than there is time
STATES_KEPT = 48 << 20  # bytes of recorded states at a time


@dataclass
class Side:
    """What one of two competitors has done so far.

    Attributes:
        best: Steps a second of wall time, of the best block.
        best_cpu: Steps a second of CPU time, of the best block; of all blocks where CPU time is read from a coarse clock.
        wall_s: Wall time of all blocks, s.
        cpu_s: CPU time of all blocks, s.
        steps: Of all blocks.
    """

    best: float = 0.0
    best_cpu: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    steps: int = 0

    def add(self, steps: int, wall_s: float, cpu_s: float, coarse: bool = False) -> None:
        """Count a block."""
        self.wall_s, self.cpu_s, self.steps = self.wall_s + wall_s, self.cpu_s + cpu_s, self.steps + steps
        self.best = max(self.best, steps / max(wall_s, 1e-9))
        self.best_cpu = self.steps / max(self.cpu_s, 1e-2) if coarse else max(self.best_cpu, steps / max(cpu_s, 1e-9))

    def to_list(self) -> list[float]:
        """Return what is stored."""
        return [self.best, self.best_cpu, self.wall_s, self.cpu_s]

    @classmethod
    def from_list(cls, stored: list[float]) -> Side:
        """Return the side that was stored."""
        best, best_cpu, wall_s, cpu_s = stored
        return cls(best, best_cpu, wall_s, cpu_s)


@dataclass(frozen=True)
class _Call:
    """One call that steps the physics: the state (N, S) before it, physics steps, and controls (N, T, nu) that follow each other, if so."""

    state: np.ndarray
    ticks: int
    controls: np.ndarray | None = None


def random_actions(env: BatchEnv, count: int = 32, seed: int = 0) -> np.ndarray:
    """Return actions (count, N, Da) float32, uniform within the limits."""
    low, high = env.spec.action.low, env.spec.action.high
    return np.random.default_rng(seed).uniform(low, high, (count, env.num_worlds, low.size)).astype(np.float32)


def make_worlds(task: str, worlds: int, threads: int, **options: Any) -> tuple[BatchEnv, np.ndarray]:
    """Return worlds of ``task`` that have run for a while with auto-reset, and actions (32, N, Da) for them."""
    from sim import registry

    env = registry.make(task, worlds, autoreset=True, threads=threads, **options)
    env.reset(np.arange(worlds, dtype=np.int64))
    actions = random_actions(env)
    for k in range(max(5, min(WARM_STEPS, WARM_TOTAL // worlds))):
        env.step(actions[k % len(actions)])
    return env, actions


def block(step: Callable[[np.ndarray], Any], actions: np.ndarray, steps: int, worlds: int, side: Side, children: bool = False) -> None:
    """Time ``steps`` calls of ``step`` with one of ``actions`` (32, N, Da) each, and count them for ``side``, maybe with child processes."""
    cpu = tree_cpu_s if children else time.process_time
    busy, began = cpu(), time.perf_counter()
    for k in range(steps):
        step(actions[k % len(actions)])
    side.add(steps * worlds, time.perf_counter() - began, cpu() - busy, children)


def steps_for(step: Callable[[np.ndarray], Any], actions: np.ndarray, seconds: float) -> int:
    """Return how many steps take about ``seconds``; ``actions`` (32, N, Da)."""
    began, done = time.perf_counter(), 0
    while done < 3 or time.perf_counter() - began < 0.02:
        step(actions[done % len(actions)])
        done += 1
    return max(3, round(seconds * done / (time.perf_counter() - began)))


def against_raw(task: str, worlds: int, threads: int, seconds: float) -> tuple[Side, Side]:
    """Return ours and ``mujoco.batch`` alone: the same model, threads, number of worlds, states, controls and ticks.

    Ours is the whole step: action, physics, observation, reward, auto-reset. The library's is its stepping call alone, from the
    very states in which a step of ours found the worlds, replayed one by one.
    """
    from mujoco import batch

    env, actions = make_worlds(task, worlds, threads)
    engine: Any = env.engine  # type: ignore[attr-defined]
    raw = batch.Batch(engine.model, worlds, nthread=threads)
    ours, library = Side(), Side()
    steps = steps_for(env.step, actions, seconds / 3)
    rounds = min(ROUNDS, max(2, steps // 5))
    steps = max(3, steps // rounds)
    recorded = max(3, min(steps, STATES_KEPT // (8 * raw.state.size)))
    for _ in range(rounds):
        block(env.step, actions, steps, worlds, ours)
        _replay(raw, _record(env, engine, actions, recorded), recorded * worlds, library)
    env.close()
    return ours, library


def _record(env: BatchEnv, engine: Any, actions: np.ndarray, steps: int) -> list[_Call]:
    """Return every call that steps the physics in ``steps`` steps of ``env``, with the state of all worlds before it."""
    calls: list[_Call] = []
    plain_step, plain_follow = engine.step, getattr(engine, "follow", None)
    inside = False  # the engine's own follow() steps too

    def step(rows: np.ndarray | None = None, ticks: int = 1, fresh: bool = True) -> None:
        if not inside:
            calls.append(_Call(engine.save(), ticks))
        plain_step(rows, ticks, fresh)

    def follow(controls: np.ndarray, ticks: int, *more: Any, **named: Any) -> None:
        nonlocal inside
        calls.append(_Call(engine.save(), ticks, controls.copy()))
        inside = True
        assert plain_follow is not None
        plain_follow(controls, ticks, *more, **named)
        inside = False

    engine.step = step
    if plain_follow is not None:
        engine.follow = follow
    try:
        for k in range(steps):
            env.step(actions[k % len(actions)])
    finally:
        vars(engine).pop("step")
        vars(engine).pop("follow", None)
    return calls


def _replay(raw: Any, calls: list[_Call], steps: int, side: Side) -> None:
    wall = busy = 0.0
    for call in calls:
        raw.state[:] = call.state
        before = None if call.controls is None else np.repeat(call.controls[:, :-1], call.ticks, axis=1)
        cpu, began = time.process_time(), time.perf_counter()
        if before is not None and call.controls is not None:
            raw.rollout(before.shape[1], before, record=())
            raw.ctrl = call.controls[:, -1]
        raw.step(None, call.ticks)
        wall += time.perf_counter() - began
        busy += time.process_time() - cpu
    side.add(steps, wall, busy)


def tree_cpu_s() -> float:
    """Return the CPU time of this process and of its children, s; that of living ones in ticks of the system's clock. It never falls.

    What an ended child has used is the system's own account of those that were waited for, which asking for the living ones does.
    """
    import multiprocessing
    import resource

    living = multiprocessing.active_children()  # first: it waits for those that have ended
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    for child in living:
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.is_file():
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick
    return total
