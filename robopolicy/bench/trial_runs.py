"""Trainings by trial of ours as cells of long benchmarks: speed of whole iterations, and curves of deterministic returns."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError


def speed(recipe: str, overrides: Sequence[str], iterations: int, folder: str, turn: int) -> dict[str, Any]:
    """Return environment steps, wall and CPU seconds of whole iterations (rollout and updates), the first two left out.

    Args:
        recipe: Of the on-policy loop.
        overrides: Of it.
        iterations: Rollouts in all.
        folder: The run's; what is in it is deleted.
        turn: Which repetition this is; the seed.
    """
    from robopolicy.recipe import load_recipe
    from robopolicy.training.trial import train

    plain = load_recipe(recipe, overrides, _silent).training
    steps = iterations * plain.worlds * plain.rollout
    told = [f"training.steps={steps}", "training.log_every=1", f"training.checkpoint_every={iterations}", f"seed={turn}", f"output={folder}"]
    shutil.rmtree(folder, ignore_errors=True)
    train(load_recipe(recipe, [*overrides, *told], _silent), progress=False, resume="never", note=_silent)
    rows = _rows(Path(folder))
    first, last = rows[1], rows[-1]
    shutil.rmtree(folder, ignore_errors=True)
    return {"steps": last["env_steps"] - first["env_steps"], "wall_s": last["wall_s"] - first["wall_s"], "cpu_s": last["cpu_s"] - first["cpu_s"]}


def curve(recipe: str, overrides: Sequence[str], environment: str, seed: int, steps: int, every: int, episodes: int, folder: str) -> dict[str, Any]:
    """Train, then judge every checkpoint by deterministic returns in Gymnasium's own environment; goes on where it was stopped.

    Args:
        recipe: Of learning by trial.
        overrides: Of it.
        environment: Gymnasium's name of the recipe's task.
        seed: Of training.
        steps: Environment steps.
        every: Environment steps between checkpoints.
        episodes: Of an evaluation.
        folder: The run's.
    """
    from robopolicy.bench.returns import EVALUATION_SEEDS, deterministic_returns, policy_act
    from robopolicy.recipe import load_recipe
    from robopolicy.training.run_folder import RunFolder
    from robopolicy.training.trial import train

    plain = load_recipe(recipe, overrides, _silent)
    between = max(1, every // (plain.training.worlds * plain.training.rollout)) if plain.loop == "on_policy" else every
    told = [f"training.steps={steps}", f"training.checkpoint_every={between}", "training.keep_checkpoints=1000", f"seed={seed}", f"output={folder}"]
    train(load_recipe(recipe, [*overrides, *told], _silent), progress=False, note=print)
    rows, run = _rows(Path(folder)), RunFolder(folder)
    at, wall, cpu = (np.array([row[name] for row in rows]) for name in ("env_steps", "wall_s", "cpu_s"))
    points = []
    for checkpoint in sorted(run.checkpoints.glob("step_*"), key=lambda path: int(path.name.partition("_")[2])):
        done = int(checkpoint.name.partition("_")[2])
        if done == 0:
            continue
        returns = deterministic_returns(environment, policy_act(checkpoint), EVALUATION_SEEDS[:episodes])
        seconds = {"wall_s": float(np.interp(done, at, wall)), "cpu_s": float(np.interp(done, at, cpu))}
        points.append({"steps": done, **seconds, "return": float(np.mean(returns))})
    return {"points": points}


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Return the training rows of a run, with seconds of all its calls together. Raises InputError where there are too few."""
    from robopolicy.evaluation.trials import accumulated
    from robopolicy.training.log import read_log

    rows = list(read_log(folder, "train"))
    if len(rows) < 2:
        raise InputError(f"{folder}: {len(rows)} training rows, expected at least 2: train for longer")
    wall, cpu = accumulated(rows, "wall_s"), accumulated(rows, "cpu_s")
    return [{**row, "wall_s": float(w), "cpu_s": float(c)} for row, w, c in zip(rows, wall, cpu, strict=True)]


def _silent(text: str) -> None:
    """Say nothing."""
