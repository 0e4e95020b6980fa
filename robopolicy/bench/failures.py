"""Rare failures: the estimator of `robopolicy failures` 200 times on a trained policy, against 20,000 plain rollouts.

A flow policy of pick-place (25 demonstrations, 3,000 updates) that fails in one to three episodes of a hundred. All 20,000 report
seeds are rolled out once; outcomes are functions of the seed, so rolling out again is looking up, and the estimator can be repeated
with other draws, and again with what 600 selection states showed of the checkpoint after a third of the updates. Bias is against the
rate of the 20,000, which is known then; variance is against that of as many plain rollouts.
A quarter of an hour of two cores and resumable: finished thousands are kept below ``runs/benchmarks/failures``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.bench.cells import Cell, run_cells
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.evaluation.failures import EXPERIENCED, Design, Experience, Outcomes, Predict, estimate_failure_rate
from robopolicy.evaluation.statistics import wilson

FOLDER = Path("runs/benchmarks/failures")
TASK, RECIPE, SET = "metaworld/pick-place", "imitation/metaworld", "failures"
TARGET = 1 / 3  # of the variance of plain Monte Carlo
_HERE = "robopolicy.bench.failures"


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        table: Plain rollouts, which are the pool too.
        cell: Of them in one cell.
        rollouts: That an estimate may spend, each a row.
        repetitions: Of the estimator.
        overrides: Of the recipe.
        limit: Time limit of an episode, control steps.
        workers: Processes.
        lessons: Selection states on which the first checkpoint that was written is evaluated.
    """

    table: int = 20_000
    cell: int = 1000
    rollouts: tuple[int, ...] = (1000, 2000)
    repetitions: int = 200
    overrides: tuple[str, ...] = ("data.episodes=25",)
    limit: int = 300
    workers: int = 2
    lessons: int = 600


QUICK = Size(1000, 500, (250,), 20, ("data.episodes=10", "training.steps=300", "training.checkpoint_every=100"), 70, 1, 100)


def run(quick: bool, folder: Path | None = None, only: str | None = None) -> Result:
    """Measure what has no result yet; ``quick`` takes under two minutes on a policy that has hardly been trained and fails often."""
    return measure(folder or FOLDER.with_name("failures-quick" if quick else FOLDER.name), QUICK if quick else Size(), only)


def planned(folder: Path, size: Size) -> list[Cell]:
    """Return the cells: training, then the plain rollouts, so many a cell."""
    about = {"folder": str(folder), "overrides": list(size.overrides), "limit": size.limit}
    more = [{**about, "first": i, "count": size.cell, "workers": size.workers} for i in range(0, size.table, size.cell)]
    rolling = [Cell(f"rollouts from {settings['first']}", f"{_HERE}:rolled", settings, seconds=30) for settings in more]
    early = Cell("rollouts of an earlier checkpoint", f"{_HERE}:rolled_early", {**about, "count": size.lessons, "workers": size.workers}, seconds=20)
    return [Cell("training", f"{_HERE}:trained", about, seconds=60), *rolling, early]


def measure(folder: Path, size: Size, only: str | None = None, progress: bool = True) -> Result:
    """Make the table and repeat the estimator on it, with the learnt predictor and with one that says the opposite."""
    wanted = planned(folder, size)
    cells, rolled = run_cells(wanted, folder, progress, only), wanted[1:-1]
    rows = [row for cell in rolled if (row := cells.get(cell))]
    result = Result(missing=list(cells.failed))
    if len(rows) < len(rolled):
        result.notes.append(f"{len(rows)} of {len(rolled)} cells of plain rollouts are there: run it again")
        return result
    failed = np.concatenate([np.array(row["failed"], bool) for row in rows])
    margins = np.concatenate([np.array(row["margins"], np.float64) for row in rows])
    features = np.concatenate([np.array(row["features"], np.float64) for row in rows])
    low, high = wilson(int(failed.sum()), len(failed))
    wall, cpu = (sum(row[key] for row in rows) for key in ("wall_s", "cpu_s"))
    result.rows.append(Row(f"failure rate of {len(failed):,} plain rollouts", float(failed.mean()), "1", better="lower", wall_s=wall, cpu_s=cpu))
    result.notes.append(f"plain: {int(failed.sum())} failures of {len(failed)}, 95 % Wilson interval [{100 * low:.2f}, {100 * high:.2f}] %")
    share = sum(row["reset_cpu_s"] for row in rows) / max(cpu, 1e-9)
    result.notes.append(f"looking at the pool, once for all policies of a task, takes {100 * share:.0f} % of the CPU time of rolling it out")
    table = Outcomes(failed, margins)
    for rollouts in size.rollouts:
        _repeat(result, f"{rollouts} rollouts", features, table, rollouts, size.repetitions)
    if early := cells.get(wanted[-1]):
        lessons = Experience(np.array(early["features"], np.float64), Outcomes(np.array(early["failed"], bool), np.array(early["margins"], np.float64)))
        result.notes.append(f"earlier checkpoint: {int(lessons.outcomes.failed.sum())} failures of {len(lessons.features)}; in no count of rollouts below")
        for rollouts in size.rollouts:
            _repeat(result, f"{rollouts} rollouts after an earlier checkpoint's", features, table, rollouts, size.repetitions, experience=lessons)
    _repeat(result, f"{size.rollouts[0]} rollouts, told the opposite", features, table, size.rollouts[0], size.repetitions, _opposite)
    return result


def _opposite(features: np.ndarray, places: np.ndarray, known: Outcomes) -> np.ndarray:
    """Return the predictor's odds turned round."""
    from robopolicy.evaluation.failures_predictor import predict

    return 1.0 - predict(features, places, known)


def _repeat(
    result: Result,
    name: str,
    features: np.ndarray,
    table: Outcomes,
    rollouts: int,
    repetitions: int,
    predict: Predict | None = None,
    experience: Experience | None = None,
) -> None:
    """Add bias, variance and coverage of ``repetitions`` estimates from a table of outcomes."""
    gains = Design(rollouts).gains if experience is None else EXPERIENCED
    with measured() as took:
        found = [
            estimate_failure_rate(Design(rollouts, gains=gains, seed=i), features, lambda p: Outcomes(table.failed[p], table.margins[p]), predict, experience)
            for i in range(repetitions)
        ]
    truth, rates = float(table.failed.mean()), np.array([e.rate for e in found])
    deviation = float(rates.std(ddof=1))
    pool = truth * (1 - truth) / len(features)
    plain = truth * (1 - truth) / rollouts
    ratio = (deviation**2 + pool) / plain
    low, high = ((deviation**2 * q + pool) / plain for q in _variance_ends(repetitions))
    error = deviation / math.sqrt(repetitions)
    covered = sum(e.low <= truth <= e.high for e in found)
    ends = wilson(covered, repetitions)
    bias = float(rates.mean()) - truth
    result.rows += [
        Row(f"{name}: bias in standard errors of {repetitions} repetitions", abs(bias) / error if error else 0.0, "1", target=3.0, better="lower"),
        Row(f"{name}: variance, of plain Monte Carlo's", ratio, "1", target=TARGET if predict is None else None, better="lower", **vars(took)),
        Row(f"{name}: coverage of the 95 % interval", covered / repetitions, "1"),
        Row(f"{name}: width of the interval", float(np.mean([e.high - e.low for e in found])), "1", "plain", _plain_width(table, rollouts), better="lower"),
    ]
    result.notes.append(
        f"{name}: mean {100 * float(rates.mean()):.3f} % against {100 * truth:.3f} %, bias {100 * bias:+.4f} points "
        f"[{100 * (bias - 1.96 * error):+.4f}, {100 * (bias + 1.96 * error):+.4f}]; variance ratio {ratio:.3f} [{low:.3f}, {high:.3f}], the first even "
        f"round and the pool's own sampling included; coverage {covered}/{repetitions} [{ends[0]:.3f}, {ends[1]:.3f}]; "
        f"{np.mean([e.failures for e in found]):.0f} failures an estimate, {truth * rollouts:.0f} plainly"
    )


def _plain_width(table: Outcomes, rollouts: int) -> float:
    """Return the mean width of Wilson's interval over consecutive pieces of the table."""
    pieces = np.array_split(table.failed, max(1, len(table.failed) // rollouts))
    return float(np.mean([high - low for piece in pieces for low, high in [wilson(int(piece.sum()), len(piece))]]))


def _variance_ends(n: int) -> tuple[float, float]:
    """Return the factors that make a sample variance of ``n`` its 95 % interval, if estimates are normal."""
    from scipy.stats import chi2

    return (n - 1) / float(chi2.ppf(0.975, n - 1)), (n - 1) / float(chi2.ppf(0.025, n - 1))


def trained(folder: str, overrides: list[str], limit: int) -> dict[str, Any]:
    """Train the policy, going on where it was stopped; a cell."""
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    own = [f"task={TASK}", "policy=flow", "seed=0", f"data.path={folder}/data", f"output={folder}/run", f"env.max_episode_steps={limit}"]
    done = train(load_recipe(RECIPE, [*own, *overrides], note=lambda text: None), progress=False)
    return {"checkpoint": str(done.checkpoint), "seconds": done.seconds}


def rolled(folder: str, overrides: list[str], limit: int, first: int, count: int, workers: int) -> dict[str, Any]:
    """Roll out ``count`` report seeds plainly and look at their first states; a cell, and an evaluation with its row in the ledger."""
    from robopolicy.evaluation.seeds import REPORT
    from robopolicy.training.run_folder import find_checkpoint

    return _rolled(folder, str(find_checkpoint(f"{folder}/run")), REPORT + first, count, limit, workers, "flow")


def rolled_early(folder: str, overrides: list[str], limit: int, count: int, workers: int) -> dict[str, Any]:
    """Do the same on selection seeds with the first checkpoint of the run that is there; a cell."""
    from robopolicy.evaluation.seeds import SELECTION

    early = min(Path(folder, "run", "checkpoints").glob("step_*"))
    return _rolled(folder, str(early), int(SELECTION), count, limit, workers, f"flow after {int(early.name.removeprefix('step_'))} updates")


def _rolled(folder: str, checkpoint: str, seed0: int, count: int, limit: int, workers: int, label: str) -> dict[str, Any]:
    from robopolicy.evaluation.rollout import evaluate, make_world

    env, block = {"max_episode_steps": limit}, 100
    with measured() as took:
        found = evaluate(
            checkpoint, TASK, episodes=count, seed0=seed0, block=block, workers=workers, env=env, latency_calls=0,
            progress=False, out=Path(folder) / "evaluations", label=label, set_name=SET,
        )  # fmt: skip
    with measured() as looked:
        world, features = make_world(TASK, env, block), []
        for begin in range(seed0, seed0 + count, block):
            seen = world.reset(np.arange(begin, begin + block, dtype=np.int64))
            features += np.concatenate([seen[name].reshape(block, -1) for name in sorted(seen)], 1)[: seed0 + count - begin].tolist()
        world.close()
    return {
        "failed": [int(not e.success) for e in found.episodes],
        "margins": [[e.length, round(e.return_, 4)] for e in found.episodes],
        "features": features,
        "wall_s": took.wall_s,
        "cpu_s": took.cpu_s,
        "reset_cpu_s": looked.cpu_s,
    }
