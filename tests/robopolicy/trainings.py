"""Trainings in processes of their own, which tests kill."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.run_folder import RunFolder
from tests.robopolicy.forked import context


def changed(values: dict[str, Any], changes: dict[str, Any]) -> Any:
    """Return the recipe of ``values`` with ``changes``, which are keys of its training section, or whole sections."""
    for key, value in changes.items():
        section = values if key in ("task", "seed", "init", "data", "algo", "env", "policy", "evaluation") else values["training"]
        section[key] = {**section[key], **value} if isinstance(value, dict) and key in section else value
    return recipe_from_dict(values, "test")


def started(target: Callable[..., None], recipe: Any, *more: Any) -> BaseProcess:
    """Call ``target(values of the recipe, log, *more)`` in a process of its own; what it prints goes to ``OUTPUT.txt`` beside the run."""
    log = Path(f"{recipe.output}.txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context().Process(target=target, args=(recipe.to_dict(), str(log), *more), daemon=True)
    process.start()
    return process


def finished(process: BaseProcess, recipe: Any, timeout: float) -> None:
    """Wait until a training is done; fails with what it printed."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0, Path(f"{recipe.output}.txt").read_text()


@contextmanager
def printed(log: str) -> Iterator[None]:
    """Send this process's output to ``log``, and end it with the exit code of the command line, without a clean-up that a killed one would not get."""
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        except InputError as error:
            print(f"error: {error}", flush=True)
            os._exit(2)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)


def _logged(folder: RunFolder) -> int:
    return folder.log_file.stat().st_size if folder.log_file.is_file() else 0


def kill_at(start: Callable[[Any], BaseProcess], recipe: Any, seconds: float) -> int:
    """Start training, kill -9 it that long after its log begins, and return the step of the state it left (0: none)."""
    folder = RunFolder(recipe.output)
    before, process = _logged(folder), start(recipe)
    while process.is_alive() and _logged(folder) <= before:
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()  # SIGKILL; nothing if it was done before
    process.join()
    states = folder.states_newest_first()
    return states[0][0] if states else 0


def kill_often(start: Callable[[Any], BaseProcess], recipe: Any, kills: int, seconds: float, seed: int) -> list[int]:
    """Kill a training that takes ``seconds`` at so many random moments; returns the steps at which it can go on."""
    dice = random.Random(seed)
    return [kill_at(start, recipe, dice.uniform(0, 1.5 * seconds / kills)) for _ in range(kills)]
