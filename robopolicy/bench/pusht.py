"""PushT in the published protocol: 500 planner demonstrations, mean of the last checkpoints, 50 initial states x 3 training seeds.

Flow, diffusion and regression from states at the size of a CPU, and real-time iteration at 3 network calls a plan beside the full
sampler. Some hours of one core, and resumable: run it again after a stop. ``--only flow`` and ``--only diffusion`` may run beside
each other on two cores, after ``--only demonstrations``. All is below ``runs/benchmarks/pusht``, evaluations with a ledger too.

The published figure is the largest reward of an episode, coverage / 0.95 cut at 1, with human demonstrations; here it is called score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row
from robopolicy.evaluation.records import Evaluation

FOLDER = Path("runs/benchmarks/pusht")
TASK, SET = "pusht", "pusht"
POLICIES = ("flow", "diffusion", "regression")
STEPS = 3  # network calls of a plan of real-time iteration
SOLVED = 0.95  # coverage from which the reward is 1
PUBLISHED = 0.91  # Chi et al. 2023, U-Net from states, mean of the last checkpoints; human demonstrations
TO_BEAT = {"success": 0.46, "coverage": 0.81}  # a plain perceptron, 500 planner demonstrations, 15 minutes on one core
_HERE = "robopolicy.bench.pusht"


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        demonstrations: Of the planner.
        seeds: Training seeds.
        states: Report states, the same for all.
        selection: Selection states on which each level is tried.
        levels: Of real-time iteration.
        checkpoints: Last ones that are evaluated.
        overrides: Of the recipe.
        limit: Time limit of an episode, control steps; None: the task's.
    """

    demonstrations: int = 500
    seeds: int = 3
    states: int = 50
    selection: int = 50
    levels: tuple[int, ...] = (2, 5, 10, 20, 40)
    checkpoints: int = 5
    overrides: tuple[str, ...] = ()
    limit: int | None = None


QUICK = Size(8, 1, 4, 2, (10,), 2, ("training.steps=40", "training.checkpoint_every=20", "training.optimizer.warmup_steps=5"), 40)


def run(quick: bool, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure what has no result yet; ``quick`` takes under two minutes on policies that have hardly been trained."""
    size = QUICK if quick else Size()
    size = size if seeds is None else replace(size, seeds=seeds)
    return measure(folder or FOLDER.with_name("pusht-quick" if quick else FOLDER.name), size, only)


def measure(folder: Path, size: Size, only: str | None = None, policies: Sequence[str] = POLICIES, progress: bool = True) -> Result:
    """Return success, coverage and score of every policy and execution, over checkpoints, states and training seeds."""
    demonstrations = demonstrations_cell(folder, size)
    runs = [(policy, seed) for seed in range(size.seeds) for policy in policies]
    trained = {each: training_cell(folder, size, *each) for each in runs}
    generative = [each for each in runs if each[0] != "regression"]
    chosen = {each: _cell("RTI level", "level", folder, size, *each, {"levels": list(size.levels), "states": size.selection}, 400) for each in generative}
    before = [demonstrations, *trained.values(), *chosen.values()]
    names = [f"{policy} seed {seed} evaluation {how}" for policy, seed in runs for how in _methods(policy, size.levels)]
    first = run_cells(before, folder, progress, only, names)
    levels = {policy: _level([row for s in range(size.seeds) if (row := first.get(chosen[policy, s]))], size) for policy in policies if policy != "regression"}
    evaluated: dict[tuple[str, str], list[Cell]] = {}
    for policy, seed in runs:
        for method in _methods(policy, levels.get(policy, [])) if first.get(trained[policy, seed]) else []:
            evaluated.setdefault((policy, method.partition(":")[0]), []).append(evaluation_cell(folder, size, policy, seed, method))
    every = [cell for group in evaluated.values() for cell in group]
    second = run_cells(every, folder, progress, only, [*(cell.name for cell in before), *names]) if every else Cells({}, [])
    result = Result(missing=[*first.failed, *second.failed])
    for (policy, method), group in evaluated.items():
        add_rows(result, policy if method == "none" else f"{policy} + RTI, {STEPS} calls", [row for cell in group if (row := second.get(cell))], size)
    seconds = {f"{policy} seed {seed}": round(found["seconds"]) for (policy, seed), cell in trained.items() if (found := first.get(cell))}
    result.notes += [
        f"level of RTI, one for all training seeds, chosen on {size.selection} selection states: {levels}",
        f"seconds of training, one thread: {seconds}",
    ]
    result.notes.append(f"published score {PUBLISHED}: human demonstrations, and a network a hundred times the size; the planner itself scores 1.00")
    return result


def _level(tried: Sequence[dict[str, Any]], size: Size) -> list[int]:
    """Return the level of real-time iteration of a policy: the best by coverage over all training seeds; none before all were tried."""
    if len(tried) < size.seeds:
        return []
    return [size.levels[int(np.argmax(np.mean([row["coverage"] for row in tried], 0)))]]


def _methods(policy: str, levels: Sequence[int]) -> list[str]:
    """Return the executions of a policy that are evaluated, real-time iteration at each of ``levels``."""
    return ["none", *(f"rti:level={level},steps={STEPS}" for level in levels if policy != "regression")]


def demonstrations_cell(folder: Path, size: Size) -> Cell:
    """Return what collects the planner's demonstrations, once for all policies."""
    return Cell("demonstrations", f"{_HERE}:collected", {"folder": str(folder), "episodes": size.demonstrations}, seconds=150)


def training_cell(folder: Path, size: Size, policy: str, seed: int) -> Cell:
    """Return what trains one policy."""
    return _cell("training", "trained", folder, size, policy, seed, {"overrides": list(size.overrides), "demonstrations": size.demonstrations})


def evaluation_cell(folder: Path, size: Size, policy: str, seed: int, method: str) -> Cell:
    """Return what evaluates its last checkpoints, executed by ``method``."""
    settings = {"method": method, "states": size.states, "checkpoints": size.checkpoints, "selection": size.selection, "tried": len(size.levels)}
    return _cell("evaluation", "evaluated", folder, size, policy, seed, settings, 300)


def _cell(what: str, function: str, folder: Path, size: Size, policy: str, seed: int, more: dict[str, Any], seconds: float = 1300) -> Cell:
    settings = {"folder": str(folder), "policy": policy, "seed": seed, "limit": size.limit, **more}
    how = f" {more['method']}" if "method" in more else ""
    return Cell(f"{policy} seed {seed} {what}{how}", f"{_HERE}:{function}", settings, seconds=seconds)


def add_rows(result: Result, name: str, rows: Sequence[dict[str, Any]], size: Size) -> None:
    """Add one execution of one policy: mean over its training seeds, checkpoints and states, and a note with the intervals."""
    if not rows:
        return
    coverage = np.array([row["coverage"] for row in rows], np.float64)  # (seeds, checkpoints, states)
    success = np.array([row["success"] for row in rows], np.float64)
    score, said = np.minimum(coverage / SOLVED, 1.0), []
    for what, values in (("success", success), ("coverage", coverage), ("score", score)):
        mean, half = _mean(values)
        peer = {"peer": "published, human demonstrations", "peer_value": PUBLISHED} if what == "score" else {}
        result.rows.append(Row(f"{name}: {what}", mean, "1", target=TO_BEAT.get(what), **peer))
        by_seed = ", ".join(f"{v:.2f}" for v in values.mean((1, 2)))
        said.append(f"{what} {mean:.3f} +- {half:.3f} ({by_seed})")
    calls = sum(row["calls"] for row in rows) / sum(row["steps"] for row in rows)
    result.rows.append(Row(f"{name}: network calls a control step", calls, "1", better="lower"))
    result.notes.append(f"{name}: {'; '.join(said)}; 95 % of the mean over states and training seeds, {size.checkpoints} last checkpoints averaged first")


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of (seeds, checkpoints, states) and half its 95 % interval, over new training seeds and new states.

    Checkpoints of one run are averaged first. Training seeds share their states, so the variance is that of the states' means and that of
    the seeds' means, less what is counted in both (two-way clustering: Cameron, Gelbach and Miller 2011), and never less than either.
    """
    each = values.mean(1)
    parts = [float(x.var(ddof=1)) / len(x) if len(x) > 1 else 0.0 for x in (each.mean(0), each.mean(1), each.ravel())]
    return float(each.mean()), 1.96 * math.sqrt(max(parts[0] + parts[1] - parts[2], *parts))


def collected(folder: str, episodes: int, workers: int = 2) -> dict[str, Any]:
    """Collect the planner's demonstrations; a cell."""
    from robopolicy.data.collect import collect

    done = collect(TASK, Path(folder) / "data", episodes, workers=workers, progress=False)
    return {"episodes": done.episodes, "frames": done.frames, "attempts": done.attempts}


def _run_folder(folder: str, policy: str, seed: int) -> Path:
    return Path(folder) / "runs" / f"{policy}-seed{seed}"


def trained(folder: str, policy: str, seed: int, limit: int | None, overrides: Sequence[str], demonstrations: int) -> dict[str, Any]:
    """Train one policy, going on where it was stopped; a cell."""
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    recipe = "pusht_diffusion" if policy == "diffusion" else "pusht_flow"
    own = [f"policy={policy}", f"seed={seed}", f"data.path={folder}/data", f"data.collect={demonstrations}", f"output={_run_folder(folder, policy, seed)}"]
    own += [] if limit is None else [f"env.max_episode_steps={limit}"]
    done = train(load_recipe(f"imitation/{recipe}", [*own, *overrides], note=lambda text: None), progress=False)
    return {"steps": done.steps, "seconds": done.seconds}


def checkpoints(folder: str, policy: str, seed: int, count: int) -> list[Path]:
    """Return the last ``count`` checkpoints of a run, the oldest first."""
    return sorted((_run_folder(folder, policy, seed) / "checkpoints").glob("step_*"))[-count:]


def level(folder: str, policy: str, seed: int, limit: int | None, levels: Sequence[int], states: int) -> dict[str, Any]:
    """Return the coverage at every level of real-time iteration, on selection states; a cell."""
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.evaluation.seeds import SELECTION

    (last,), tried = checkpoints(folder, policy, seed, 1), {}
    for each in levels:
        env = {} if limit is None else {"max_episode_steps": limit}
        method = f"rti:level={each},steps={STEPS}"
        found = evaluate(str(last), TASK, episodes=states, seed0=SELECTION, block=states, env=env, latency_calls=0, progress=False, method=method)
        tried[each] = found.score or 0.0
    return {"coverage": [tried[each] for each in levels]}


def evaluated(folder: str, policy: str, seed: int, limit: int | None, method: str, states: int, checkpoints: int, selection: int, tried: int) -> dict[str, Any]:
    """Evaluate the last checkpoints on the report states; a cell."""
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.evaluation.seeds import SELECTION

    found = []
    env = {} if limit is None else {"max_episode_steps": limit}
    chosen = [] if method == "none" else [{"what": "level of RTI", "seed0": SELECTION, "episodes": selection, "trials": tried}]
    for checkpoint in _last(folder, policy, seed, checkpoints):
        found.append(evaluate(
            str(checkpoint), TASK, episodes=states, block=states, env=env, latency_calls=20, progress=False, method=method,
            out=Path(folder) / "evaluations", label=f"{policy}{'' if method == 'none' else '+rti'}", set_name=SET, chosen=chosen,
        ))  # fmt: skip
    return sums(found)


def sums(found: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the result of a cell: ``success`` and ``coverage`` (checkpoints, states), and ``calls`` of the network and ``steps`` of all episodes."""
    return {
        "success": [[int(e.success) for e in one.episodes] for one in found],
        "coverage": [[float(e.score or 0.0) for e in one.episodes] for one in found],
        "calls": float(sum(e.network_calls for one in found for e in one.episodes)),
        "steps": sum(e.length for one in found for e in one.episodes),
    }


_last = checkpoints  # under a name that no argument hides
