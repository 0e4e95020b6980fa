"""Imitation: success of three policies on six Meta-World tasks and PushT, 10 and 25 demonstrations, three training seeds.

Hours on two cores, and resumable: run it again after a stop. Everything is in ``runs/benchmarks/imitation``, the table
of docs/benchmarks.md in ``results.md`` there. All policies share backbone, chunk, data and number of updates; the
baseline's learning rate is the best of 3e-4, 1e-3, 3e-3 and 1e-2 on selection seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robopolicy.bench.harness import Result, Row
from robopolicy.evaluation.study import Cell, by_setting, markdown, run_study, success

FOLDER = Path("runs/benchmarks/imitation")
TASKS = tuple(f"metaworld/{name}" for name in ("peg-insert-side", "stick-pull", "basketball", "disassemble", "pick-place", "push"))
POLICIES = ("flow", "diffusion", "regression")
DEMONSTRATIONS = (10, 25)
BASELINE = ("regression", "training.optimizer.lr=0.0003")
QUICK = ("training.steps=50", "training.checkpoint_every=50")


def cells(quick: bool) -> list[Cell]:
    """Return what is run, one training seed of everything before the next."""
    out = []
    for seed in range(1 if quick else 3):
        for task in TASKS[: 2 if quick else None]:
            for demonstrations in DEMONSTRATIONS[: 1 if quick else None]:
                for policy in POLICIES:
                    tuned = (BASELINE[1],) if policy == BASELINE[0] else ()
                    own = (*tuned, *(QUICK if quick else ()))
                    out.append(Cell("imitation/metaworld", task, demonstrations, policy, seed, own, episodes=10 if quick else 50))
        if not quick:
            out += [Cell("imitation/pusht", "pusht", 200, policy, seed) for policy in POLICIES]
    return out


def run(quick: bool) -> Result:
    """Train and evaluate what has no result yet; one row for each task, number of demonstrations and policy."""
    folder = FOLDER.with_name("imitation-quick") if quick else FOLDER
    results = run_study(cells(quick), folder, workers=2)
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")
    rows = [_row(name, group) for name, group in by_setting(results).items()]
    return Result(rows, notes=[f"success with 95 % intervals: {folder / 'results.md'}"])


def _row(name: tuple[str, int, str], group: list[dict[str, Any]]) -> Row:
    rate, low, high = success(group)
    task, demonstrations, policy = name
    label = f"{task}, {demonstrations} demonstrations, {policy} [{low:.2f}, {high:.2f}]"
    return Row(label, rate, "success", cpu_s=sum(r["train_seconds"] + r["evaluation_seconds"] for r in group))
