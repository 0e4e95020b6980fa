"""Walking: how well PPO's quadruped follows velocity commands, beside the untrained policy and the scripted trot.

Trains ``rl/quadruped`` (an hour or two on two cores, resumable: run it again after a stop), then runs 64 episodes of 20 s from
report seeds. Errors are of the velocity averaged over a stride, 1.5 s after each new command; who has fallen misses it all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policies.learnt import LearntPolicy
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.evaluation.tracking import Tracking, track

FOLDER = Path("runs/benchmarks/walk")
RECIPE, EPISODES = "rl/quadruped", 64
QUICK = ("training.steps=24_576", "training.worlds=128", "env.max_episode_steps=200")
UNTRAINED = "untrained policy"


def run(quick: bool) -> Result:
    """Train what is not trained yet and measure; ``quick`` takes under two minutes and learns next to nothing."""
    return measure(FOLDER.with_name("walk-quick"), QUICK, 16) if quick else measure(FOLDER, (), EPISODES)


def measure(folder: Path, overrides: Sequence[str], episodes: int) -> Result:
    """Return errors, falls and successes of the policy that ``folder`` holds, or gets, trained with ``overrides`` of the recipe."""
    from policies.checkpoint import load
    from robopolicy.recipe import load_recipe
    from robopolicy.training.trial import train

    recipe = load_recipe(RECIPE, [*overrides, f"output={folder / 'run'}"])
    with measured() as took:
        trained = train(recipe)
    env = recipe.env.options()
    ours, before, trot = (track(who, recipe.task, episodes, env=env) for who in (load(trained.checkpoint), untrained(recipe), "expert"))
    result = Result(_rows(ours, before))
    result.rows[0].wall_s, result.rows[0].cpu_s = took.wall_s, took.cpu_s
    result.notes += [_line(name, found) for name, found in (("PPO", ours), (UNTRAINED, before), ("scripted trot", trot))]
    result.notes.append(f"checkpoint: {trained.checkpoint}")
    return result


def untrained(recipe: Any) -> LearntPolicy:
    """Return the recipe's policy as it is before training."""
    import torch

    from policies import registry
    from policies.normalize import limits_normalizer
    from sim.registry import make

    with contextlib.closing(make(recipe.task, **recipe.env.options())) as env:
        spec = env.spec
    torch.manual_seed(recipe.seed)
    own = registry.policy_class(recipe.policy_type).observed(recipe.policy, spec)
    return registry.create(recipe.policy_type, recipe.policy, own, limits_normalizer(own)).eval()


def _rows(ours: Tracking, before: Tracking) -> list[Row]:
    def row(what: str, name: str, unit: str, better: Any, target: float | None) -> Row:
        return Row(what, ours.mean(name), unit, UNTRAINED, before.mean(name), target, better)

    return [
        row("distance from the commanded velocity", "linear", "m/s", "lower", 0.5),
        row("distance from the commanded yaw rate", "yaw", "rad/s", "lower", 0.5),
        row("episodes that end in a fall", "fallen", "share", "lower", None),
        row("episodes in which commands were followed", "success", "share", "higher", None),
        row("return of an episode", "return_", "reward", "higher", None),
    ]


def _line(name: str, t: Tracking) -> str:
    errors = f"{t.mean('linear'):.3f} +- {t.half_width('linear'):.3f} m/s and {t.mean('yaw'):.3f} +- {t.half_width('yaw'):.3f} rad/s"
    still = f"standing still {t.mean('linear_still'):.3f} and {t.mean('yaw_still'):.3f}"
    return f"{name}: off by {errors} ({still}), {t.mean('fallen'):.0%} fell, success {t.mean('success'):.0%}"
