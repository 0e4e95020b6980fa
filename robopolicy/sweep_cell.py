"""One cell of a sweep: trained, evaluated, its numbers; in this process, or in one of its own (``python -m robopolicy.sweep_cell``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.processes import die_with_parent
from robopolicy.recipe import Recipe, load_recipe
from robopolicy.sweep import Cell

_CURVE = 400  # points of a learning curve that are kept, at most


def run_cell(cell: Cell, out: Path) -> dict[str, Any]:
    """Train and evaluate ``cell``; returns what its line of results holds. Raises InputError."""
    recipe = load_recipe(cell.recipe, cell.overrides(out), note=_silent)
    if isinstance(recipe, Recipe):
        from robopolicy.training.imitation import train
    else:
        from robopolicy.training.trial import train
    any_recipe: Any = recipe
    trained = train(any_recipe, progress=False, note=_silent)
    row = {
        "task": recipe.task,
        "steps": trained.steps,
        "seconds": round(trained_seconds(trained.run), 3),
        "run": str(trained.run),
        "checkpoint": str(trained.checkpoint),
    }
    row |= _learnt(trained.run)
    return {**row, **(_evaluated(cell, recipe, trained.checkpoint) if cell.evaluate else {})}


def trained_seconds(run: Path) -> float:
    """Return the seconds that training ``run`` took, all calls together: those of each that came to its end, of one that was stopped what its log spans."""
    from robopolicy.training.log import read_log

    calls: list[list[dict[str, Any]]] = []
    for row in read_log(run):
        if row["event"] in ("begin", "resume") or not calls:
            calls.append([])
        calls[-1].append(row)
    return float(sum(call[-1]["seconds"] if call[-1]["event"] == "end" else max(0.0, call[-1]["time"] - call[0]["time"]) for call in calls))


def _learnt(run: Path) -> dict[str, Any]:
    """Return the last numbers of a run's log, and its curve: imitation's loss, or the return of trial."""
    from robopolicy.training.log import read_log

    rows = list(read_log(run, "train"))
    measure = "return" if any("return" in row for row in rows) else "loss"
    points = [(row["step"], row[measure]) for row in rows if row.get(measure) is not None]
    thinned = points[:: max(1, -(-len(points) // _CURVE))]
    if points and thinned[-1] != points[-1]:
        thinned.append(points[-1])
    return {measure: points[-1][1] if points else None, "measure": measure, "curve": thinned}


def _evaluated(cell: Cell, recipe: Any, checkpoint: Path) -> dict[str, Any]:
    """Return success with its interval on selection seeds, of several tasks their mean: a sweep is there to choose."""
    from robopolicy.conditioning import task_set
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.evaluation.seeds import SELECTION
    from robopolicy.evaluation.statistics import wilson
    from robopolicy.evaluation.suite import evaluate_suite

    e = recipe.evaluation
    how: dict[str, Any] = {
        "episodes": cell.evaluate,
        "seed0": SELECTION + e.seed,
        "block": min(e.block, cell.evaluate),
        "threads": e.threads,
        "env": recipe.env.options(),
        "noise_seed": e.seed,
        "latency_calls": 0,
        "progress": False,
    }
    if tasks := task_set(recipe.task):
        suite = evaluate_suite(str(checkpoint), tasks, name=recipe.task, **how)
        rate, low, high = suite.mean
        returns = [episode.return_ for one in suite.evaluations for episode in one.episodes]
        return {"success": rate, "low": low, "high": high, "episodes": len(returns), "evaluated_return": sum(returns) / len(returns), "score": None}
    found = evaluate(str(checkpoint), recipe.task, **how)
    low, high = wilson(found.successes, cell.evaluate)
    mean = sum(episode.return_ for episode in found.episodes) / cell.evaluate
    return {"success": found.successes / cell.evaluate, "low": low, "high": high, "episodes": cell.evaluate, "evaluated_return": mean, "score": found.score}


def begin() -> Callable[[tuple[Cell, str]], dict[str, Any] | str]:
    """Return what a worker of a cluster works off cells with: a row, or one line that says why there is none."""
    return lambda item: _outcome(item[0], Path(item[1]))


def _outcome(cell: Cell, out: Path) -> dict[str, Any] | str:
    try:
        return run_cell(cell, out)
    except InputError as error:
        return str(error)


class CellProcess:
    """A cell in a process of its own; what it says goes to ``logs/CELL.txt``.

    Args:
        cell: Which.
        out: Folder of the sweep.
    """

    def __init__(self, cell: Cell, out: Path) -> None:
        self.cell, self.log = cell, out / "logs" / f"{cell.name}.txt"
        self._result = self.log.with_suffix(".json")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._result.unlink(missing_ok=True)
        root = str(Path(__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}
        told = json.dumps([cell.recipe, cell.settings, cell.fixed, cell.evaluate])
        command = [sys.executable, "-m", "robopolicy.sweep_cell", told, str(out), str(self._result)]
        with self.log.open("w", encoding="utf-8") as said:
            self._process = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                preexec_fn=die_with_parent(),
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def outcome(self) -> dict[str, Any] | str:
        """Return the row, or one line that says why there is none."""
        code = self._process.wait()
        if code == 0 and self._result.is_file():
            row = json.loads(self._result.read_text(encoding="utf-8"))
            self._result.unlink()
            return row
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        why = lines[-1] if lines else "it said nothing"
        return why if code == 2 else f"{why} ({f'killed by signal {-code}' if code < 0 else f'exit code {code}'}, {self.log})"

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if not self.ended:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> None:
        """Wait for its end. Raises TimeoutError."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(self.cell.name) from error

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


def main(arguments: Sequence[str]) -> int:
    """Run one cell; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    from robopolicy.data.atomic import write_json

    recipe, settings, fixed, evaluate = json.loads(arguments[0])
    try:
        row = run_cell(Cell(recipe, tuple(settings), tuple(fixed), evaluate), Path(arguments[1]))
    except InputError as error:
        print(" ".join(str(error).split()), flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    write_json(Path(arguments[2]), row)
    return 0


def _silent(text: str) -> None:
    """Say nothing: the sweep's own bar speaks."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
