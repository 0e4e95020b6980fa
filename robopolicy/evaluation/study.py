"""A study: one recipe over tasks, numbers of demonstrations, policies and training seeds, each cell trained and evaluated.

Resumable: a cell is one line of ``results.jsonl`` in the study's folder, and a cell that has one is not run again. Every
cell runs in one process with one torch thread; ``workers`` of them run at once.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from policies.spec import InputError
from robopolicy.evaluation.seeds import REPORT, SELECTION
from robopolicy.evaluation.statistics import over_states, wilson
from robopolicy.worker_processes import worker_pool


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluation.

    Attributes:
        recipe: Name or path of the recipe.
        task: Registered task.
        demonstrations: How many of the data set's episodes are used.
        policy: Policy type.
        seed: Training seed.
        overrides: More ``key=value`` items.
        episodes: Initial states of the evaluation.
        selection: Evaluate on selection seeds (for tuning) instead of report seeds.
    """

    recipe: str
    task: str
    demonstrations: int
    policy: str
    seed: int
    overrides: tuple[str, ...] = ()
    episodes: int = 50
    selection: bool = False

    @property
    def name(self) -> str:
        """Folder of the run inside the study."""
        extra = "".join("-" + re.sub(r"[^\w.]+", "_", item.partition("=")[0].rpartition(".")[2] + item.partition("=")[2]) for item in self.overrides)
        return f"{self.task.replace('/', '-')}-{self.demonstrations}-{self.policy}-seed{self.seed}{extra}"

    @property
    def key(self) -> str:
        """What identifies the cell in ``results.jsonl``."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def grid(recipe: str, tasks: Sequence[str], demonstrations: Sequence[int], policies: Sequence[str], seeds: Iterable[int], episodes: int) -> list[Cell]:
    """Return the cells of a full grid, ordered so that each task is complete before the next begins."""
    return [Cell(recipe, t, d, p, s, episodes=episodes) for t, d, s, p in itertools.product(tasks, demonstrations, list(seeds), policies)]


def run_study(cells: Sequence[Cell], out: Path, workers: int = 2, progress: bool = True) -> list[dict[str, Any]]:
    """Run every cell that has no result yet and return all results, in the order of ``cells``.

    Args:
        cells: What to run.
        out: Folder of the study: ``data/``, ``runs/``, ``results.jsonl``.
        workers: Cells at once.
        progress: Show a bar with the time left.

    Raises:
        InputError: if a recipe is wrong or a cell's process dies; results so far stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = {row["key"]: row for row in read_results(out)}
    waiting = [cell for cell in cells if cell.key not in results]
    _collect(waiting, out, workers, progress)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar, _pool(workers) as pool:
        task = bar.add_task("study", total=len(cells), completed=len(cells) - len(waiting))
        pending = {pool.submit(run_cell, cell, str(out)): cell for cell in waiting}
        for done in concurrent.futures.as_completed(pending):
            try:
                row = json.loads(json.dumps({"key": pending[done].key, **done.result()}))  # as it will be read back
            except concurrent.futures.process.BrokenProcessPool as error:
                raise InputError(f"study: the process of cell {pending[done].name} died (out of memory?); run the same command to go on") from error
            append_result(out / "results.jsonl", row)
            results[row["key"]] = row
            bar.advance(task)
            bar.console.print(f"{row['name']}: {row['successes']}/{row['episodes']}")
    return [results[cell.key] for cell in cells]


def by_setting(results: Iterable[dict[str, Any]]) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """Return (task, demonstrations, policy) -> the results of its training seeds."""
    out: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in results:
        out.setdefault((row["task"], row["demonstrations"], row["policy"]), []).append(row)
    return out


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown: a line a task and number of demonstrations, a column a policy, success with its interval.

    A cell gives the percentage over all training seeds with its 95 % interval (:func:`success`), and the seeds one by one.
    """
    policies = list(dict.fromkeys(row["policy"] for row in results))
    settings = list(dict.fromkeys((row["task"], row["demonstrations"]) for row in results))
    groups = by_setting(results)
    lines = ["| task | demonstrations | " + " | ".join(policies) + " |", "|---|---|" + "---|" * len(policies)]
    for task, count in settings:
        shown = [_cell(groups.get((task, count, policy), [])) for policy in policies]
        lines.append(f"| {task} | {count} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def success(group: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Return the success of training seeds with its 95 % interval (rate, low, high): Wilson's, for what the states tell that they share."""
    outcomes = [r.get("outcomes") or () for r in group]
    if all(outcomes) and len(set(map(len, outcomes))) == 1:
        return over_states(np.array(outcomes, np.float64))
    successes, episodes = sum(r["successes"] for r in group), sum(r["episodes"] for r in group)  # a result from before they were kept
    return successes / episodes, *wilson(successes, episodes)


def _cell(group: list[dict[str, Any]]) -> str:
    if not group:
        return ""
    rate, low, high = success(group)
    each = ", ".join(f"{100 * r['successes'] / r['episodes']:.0f}" for r in group)
    score = [r["score"] for r in group if r["score"] is not None]
    more = f"; coverage {sum(score) / len(score):.2f}" if score else ""
    return f"{100 * rate:.0f}% [{100 * low:.0f}, {100 * high:.0f}] ({each}{more})"


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return the results so far; a last line that a kill cut short is left out."""
    rows, file = [], out / "results.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def run_cell(cell: Cell, out: str) -> dict[str, Any]:
    """Train and evaluate one cell; returns its row."""
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    folder = Path(out)
    recipe = load_recipe(cell.recipe, _overrides(cell, folder), note=_silent)
    trained = train(recipe, progress=False, note=_silent)
    evaluation = evaluate(
        str(trained.checkpoint),
        recipe.task,
        episodes=cell.episodes,
        seed0=int(SELECTION if cell.selection else REPORT),
        block=min(recipe.evaluation.block, cell.episodes),
        threads=recipe.evaluation.threads,
        env=recipe.env.model_dump(exclude_none=True),
        latency_calls=20,
        progress=False,
    )
    low, high = wilson(evaluation.successes, len(evaluation.episodes))
    return {
        "name": cell.name,
        **dataclasses.asdict(cell),
        "task": recipe.task,
        "successes": evaluation.successes,
        "low": low,
        "high": high,
        "outcomes": [int(e.success) for e in evaluation.episodes],
        "score": evaluation.score,
        "network_calls": evaluation.network_calls_per_chunk,
        "ms_per_chunk": evaluation.ms_per_chunk,
        "train_seconds": trained.seconds,
        "evaluation_seconds": evaluation.seconds,
    }


def _overrides(cell: Cell, out: Path) -> list[str]:
    own = [f"task={cell.task}", f"policy={cell.policy}", f"seed={cell.seed}", f"data.episodes={cell.demonstrations}"]
    return [*own, f"data.path={out}/data/{{task}}", f"output={out}/runs/{cell.name}", *cell.overrides]


def _collect(cells: Sequence[Cell], out: Path, workers: int, progress: bool) -> None:
    """Collect each task's demonstrations once, before cells that share them run beside each other."""
    from robopolicy.data.collect import collect
    from robopolicy.recipe import load_recipe

    for recipe_name, task in dict.fromkeys((c.recipe, c.task) for c in cells):
        most = max(c.demonstrations for c in cells if c.task == task)
        recipe = load_recipe(recipe_name, [f"task={task}", f"data.path={out}/data/{{task}}"], note=_silent)
        episodes = max(most, recipe.data.collect or 0)
        path = Path(recipe.filled(recipe.data.path))
        collect(
            recipe.task, path, episodes=episodes, workers=workers, observations=recipe.env.observations, image_size=recipe.env.image_size, progress=progress
        )


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers, before they import torch
    return worker_pool(workers, True)


def append_result(file: Path, row: dict[str, Any]) -> None:
    """Add one line of JSON and sync it."""
    torn = file.is_file() and not file.read_bytes().endswith(b"\n")  # by a kill: the next row begins on a line of its own
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\n" * torn + json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _silent(text: str) -> None:
    """Say nothing: the study's own bar speaks."""
