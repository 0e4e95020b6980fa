"""Small training runs for tests: a data set of two-route demonstrations, recipes that train in a second, processes to kill."""

from __future__ import annotations

import functools
import os
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from robopolicy.recipe import Recipe, recipe_from_dict
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import find_checkpoint
from tests.robopolicy.trainings import changed, finished, printed, started

#: No dropout: the same losses for any number of processes. Big enough to learn, small enough for 500 steps a second.
MLP = {"backbone": "mlp", "mlp": {"width": 32, "blocks": 1}}
#: With dropout, whose random numbers must survive a kill.
TRANSFORMER = {"backbone": "transformer", "transformer": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.2}}


@functools.cache
def demonstrations() -> Path:
    """Ten demonstrations of the two-route task, made once for all tests of a session."""
    from robopolicy.data.collect import collect

    path = Path(tempfile.mkdtemp(prefix="robopolicy-test-")) / "two-route"
    collect("two-route", path, episodes=10, workers=1, progress=False)
    return path


def recipe(output: Path, policy: dict[str, Any] | None = None, /, **changes: Any) -> Recipe:
    """Return a recipe that writes to ``output``; ``changes`` are keys of its training section, or whole sections."""
    training = {"steps": 60, "batch_size": 16, "log_every": 5, "checkpoint_every": 7, "optimizer": {"lr": 1e-3, "warmup_steps": 10}}
    values: dict[str, Any] = {
        "task": "two-route",
        "seed": 3,
        "output": str(output),
        "data": {"path": str(demonstrations())},
        "policy": {"type": "flow", **(policy or MLP)},
        "training": training,
    }
    return changed(values, changes)


def _train(values: dict[str, Any], log: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with printed(log):
        from robopolicy.training.imitation import train

        train(recipe_from_dict(values, "test"), progress=False)


def start(recipe: Recipe, environment: dict[str, str] | None = None) -> BaseProcess:
    """Train in a process of its own; see :func:`tests.robopolicy.trainings.started`."""
    return started(_train, recipe, environment or {})


def finish(recipe: Recipe, timeout: float = 60) -> None:
    """Train in a process of its own until it is done."""
    finished(start(recipe), recipe, timeout)


def outcome(run: Path) -> tuple[bytes, bytes, list[tuple[Any, ...]]]:
    """Return everything that must be equal when two runs are: weights, training state, and the logged numbers."""
    weights = (find_checkpoint(run) / "weights.safetensors").read_bytes()
    state = max((run / "state").iterdir()).read_bytes()
    rows = [(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in read_log(run, "train")]
    return weights, state, rows
