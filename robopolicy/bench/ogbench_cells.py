"""What one cell of ``robopolicy bench ogbench`` does, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.evaluation.records import Evaluation


def make_data(name: str, path: str, episodes: int, frames: int | None) -> dict[str, Any]:
    """Make a data set, with one process a core; return its number of episodes."""
    import os

    from robopolicy.data.ogbench import regenerate

    began = time.perf_counter()
    count = regenerate(name, path, episodes, workers=max(1, min(len(os.sched_getaffinity(0)), episodes)), progress=False, frames=frames)
    return {"count": count, "seconds": time.perf_counter() - began}


def measure_expert(task: str, out: str, episodes: int, env: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the expert on report seeds; return its row."""
    from robopolicy.evaluation.rollout import evaluate

    began = time.perf_counter()
    found = evaluate("expert", task, episodes=episodes, block=min(50, episodes), env=env, latency_calls=0, out=Path(out), label="expert", progress=False)
    return _row(found, began)


def measure(recipe: str, overrides: Sequence[str], label: str, out: str, episodes: int, env: Mapping[str, Any]) -> dict[str, Any]:
    """Train one policy, going on where an earlier try stopped, and measure its last checkpoint on report seeds; return its row."""
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    began = time.perf_counter()
    chosen = load_recipe(recipe, overrides, note=_silent)
    trained = train(chosen, progress=False, note=_silent)
    found = evaluate(
        str(trained.checkpoint),
        chosen.task,
        episodes=episodes,
        block=min(50, episodes),
        env={**chosen.env.options(), **env},
        latency_calls=0,
        out=Path(out),
        label=label,
        progress=False,
    )
    return _row(found, began)


def _row(found: Evaluation, began: float) -> dict[str, Any]:
    """Return successes and episodes in all and by goal, and the outcome on every state, JSON-ready."""
    goals: dict[str, list[int]] = {}
    for episode in found.episodes:
        count = goals.setdefault(f"{episode.info['goal']:.0f}", [0, 0])
        count[0] += episode.success
        count[1] += 1
    outcomes = [int(episode.success) for episode in found.episodes]
    return {"successes": found.successes, "episodes": len(outcomes), "outcomes": outcomes, "goals": goals, "seconds": time.perf_counter() - began}


def _silent(text: str) -> None:
    """Say nothing: the benchmark's own bar speaks."""
