"""Trainings by trial of ours as cells of long benchmarks: speed of whole iterations, and curves of deterministic returns."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError


def speed(recipe: str, overrides: Sequence[str], iterations: int, folder: str, turn: int, planned: str = "") -> dict[str, Any]:
    """Return environment steps, wall and CPU seconds of whole iterations (rollout and updates), the first two left out.

    Args:
        recipe: Of the on-policy loop.
        overrides: Of it.
        iterations: Rollouts in all.
        folder: The run's; what is in it is deleted.
        turn: Which repetition this is; the seed.
        planned: Of :func:`digest`.
    """
    from robopolicy.recipe import load_recipe
    from robopolicy.training.trial import train

    plain = load_recipe(recipe, overrides, _silent).training
    _require_planned(recipe, overrides, planned)
    steps = iterations * plain.worlds * plain.rollout
    told = [f"training.steps={steps}", "training.log_every=1", f"training.checkpoint_every={iterations}", f"seed={turn}", f"output={folder}"]
    shutil.rmtree(folder, ignore_errors=True)
    train(load_recipe(recipe, [*overrides, *told], _silent), progress=False, resume="never", note=_silent)
    rows = _rows(Path(folder))
    first, last = rows[1], rows[-1]
    shutil.rmtree(folder, ignore_errors=True)
    return {"steps": last["env_steps"] - first["env_steps"], "wall_s": last["wall_s"] - first["wall_s"], "cpu_s": last["cpu_s"] - first["cpu_s"]}


def curve(
    recipe: str, overrides: Sequence[str], environment: str, seed: int, steps: int, every: int, episodes: int, folder: str,
    entry: Mapping[str, Any] | None = None, planned: str = "",
) -> dict[str, Any]:  # fmt: skip
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
        entry: Of :class:`robopolicy.bench.entered.Entry`: the last checkpoint enters a ledger, too.
        planned: Of :func:`digest`.
    """
    from robopolicy.bench.entered import Entry
    from robopolicy.bench.returns import EVALUATION_SEEDS, deterministic_returns, policy_act
    from robopolicy.recipe import load_recipe
    from robopolicy.training.run_folder import RunFolder, find_checkpoint
    from robopolicy.training.trial import train

    plain = load_recipe(recipe, overrides, _silent)
    _require_planned(recipe, overrides, planned)
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
    return {"points": points} if entry is None else {"points": points, "report_return": Entry(**entry).enter(find_checkpoint(folder))}


def overestimate(folder: str, episodes: int) -> dict[str, Any]:
    """Return what the critics of a finished off-policy run promise beyond what comes, and its standard error.

    Args:
        folder: The run's.
        episodes: Monte Carlo ones, see ``robopolicy.algos.overestimation``.
    """
    from policies.checkpoint import load
    from robopolicy.algos.overestimation import overestimation
    from robopolicy.algos.registry import rule_class
    from robopolicy.config import read_yaml
    from robopolicy.recipe import recipe_from_dict
    from robopolicy.training import trial_state
    from robopolicy.training.run_folder import RunFolder, find_checkpoint
    from sim.registry import make

    run = RunFolder(folder)
    recipe = recipe_from_dict(read_yaml(run.recipe_file), str(run.recipe_file))
    with contextlib.closing(make(recipe.task, num_worlds=episodes, **recipe.env.options())) as env:
        kind: Any = rule_class(recipe.algo_type)
        rule = kind(recipe.algo, env.spec, load(find_checkpoint(folder)))
        trial_state.load(run.states_newest_first()[0][1], {"rule": rule})
        gap, error = overestimation(rule, env, episodes, recipe.training.gamma, seed=90_000)
    return {"gap": gap, "error": error}


def success(recipe: str, overrides: Sequence[str], seed: int, steps: int, episodes: int, folder: str) -> dict[str, Any]:
    """Train, then return how many report states the last checkpoint solves, and the seconds of training.

    Args:
        recipe: Of learning by trial.
        overrides: Of it.
        seed: Of training.
        steps: Environment steps.
        episodes: Of the evaluation, on report seeds.
        folder: The run's.
    """
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.evaluation.seeds import REPORT
    from robopolicy.recipe import load_recipe
    from robopolicy.training.trial import train

    told = [f"training.steps={steps}", f"seed={seed}", f"output={folder}"]
    wanted = load_recipe(recipe, [*overrides, *told], _silent)
    trained = train(wanted, progress=False, note=print)
    last = _rows(Path(folder))[-1]
    result = evaluate(trained.checkpoint, wanted.task, episodes=episodes, seed0=REPORT, block=min(50, episodes), env=wanted.env.options(), progress=False)
    outcomes = [int(e.success) for e in result.episodes]
    return {"successes": sum(outcomes), "episodes": episodes, "outcomes": outcomes, "wall_s": last["wall_s"], "cpu_s": last["cpu_s"]}


def digest(recipe: str, overrides: Sequence[str]) -> str:
    """Return 12 hex digits of what a recipe says now: a result of what it said before is not this one's."""
    from robopolicy.bench.entered import settings_hash
    from robopolicy.recipe import load_recipe

    return settings_hash(load_recipe(recipe, overrides, _silent).to_dict())


def _require_planned(recipe: str, overrides: Sequence[str], planned: str) -> None:
    if planned and planned != digest(recipe, overrides):
        raise InputError(f"recipe {recipe} has changed since the benchmark was begun: run the same command again")


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Return the training rows of a run, with seconds of all its calls together. Raises InputError where there are too few."""
    from robopolicy.reporting.trials import accumulated
    from robopolicy.training.log import read_log

    rows = [row for row in read_log(folder) if row["event"] in ("train", "resume")]
    wall, cpu = accumulated(rows, "wall_s"), accumulated(rows, "cpu_s")
    trained = [{**row, "wall_s": float(w), "cpu_s": float(c)} for row, w, c in zip(rows, wall, cpu, strict=True) if row["event"] == "train"]
    if len(trained) < 2:
        raise InputError(f"{folder}: {len(trained)} training rows, expected at least 2: train for longer")
    return trained


def _silent(text: str) -> None:
    """Say nothing."""
