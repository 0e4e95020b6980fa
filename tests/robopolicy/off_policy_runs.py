"""Small off-policy runs for tests: a point that is pushed to the origin, recipes that train in a second, processes to kill."""

from __future__ import annotations

import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.recipe import recipe_from_dict
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import find_checkpoint
from sim.env import Observation
from sim.episodes import EpisodicBatch, Outcome
from tests.robopolicy.trainings import changed, printed, started

#: Columns of a training row that say how fast it was, or when.
_SPEEDS = ("time", "wall_s", "cpu_s", "env_steps_per_s", "updates_per_s")


class Point(EpisodicBatch):
    """A point on a line within [-2, 2], pushed by up to 0.6 a step (robot units) towards the origin; reward -x^2, or always 1.

    Args:
        worlds: N.
        steps: Time limit.
        pixels: Height and width of a picture of it; 0: none.
        constant: Whether every step is worth 1.
    """

    def __init__(self, worlds: int, steps: int = 10, pixels: int = 0, constant: bool = False) -> None:
        fields = {"observation.state": Field((1,))}
        if pixels:
            fields["observation.images.side"] = Field((pixels, pixels, 3), "uint8", kind="image")
        spec = Spec(ObservationSpec(fields), ActionSpec({"push": Field((1,), low=(-0.6,), high=(0.6,), kind="delta")}))
        super().__init__("point", "test 1", spec, worlds, steps, True)
        self.x, self.pixels, self.constant = np.zeros(worlds), pixels, constant

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.x[rows] = (seeds % 4001) / 1000.0 - 2.0

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self.x[rows] = np.clip(self.x[rows] + action[:, 0], -2.0, 2.0)
        reward = np.ones(len(rows)) if self.constant else -(self.x[rows] ** 2)
        return Outcome(reward, np.zeros(len(rows), bool), {"success": np.abs(self.x[rows]) < 0.3})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows, 0] = self.x[rows]
        if self.pixels:
            column = ((self.x[rows] + 2.0) / 4.0 * (self.pixels - 1)).round().astype(int)
            out["observation.images.side"][rows] = 0
            out["observation.images.side"][rows, :, column] = 255


def recipe(output: Path, /, **changes: Any) -> TrialRecipe:
    """Return a recipe that writes to ``output``; ``changes`` are keys of its training section, or whole sections."""
    training = {"steps": 240, "worlds": 2, "random_steps": 24, "batch_size": 16, "log_every": 17, "checkpoint_every": 40, "threads": 1}
    values: dict[str, Any] = {
        "task": "classic/cartpole",
        "seed": 3,
        "output": str(output),
        "algo": {"type": "sac", "hidden": [8]},
        "policy": {"hidden": [8]},
        "env": {"max_episode_steps": 15},
        "training": training,
    }
    return changed(values, changes)


def _train(values: dict[str, Any], log: str, killed_at: int | None) -> None:
    with printed(log):
        from robopolicy.training.off_policy import train
        from robopolicy.training.off_policy_actor import Actor

        whole = Actor.step

        def step(self: Actor, cut: bool = False) -> Any:
            if self.steps == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(self, cut)

        Actor.step = step  # type: ignore[method-assign]
        train(recipe_from_dict(values, "test"), progress=False)


def start(recipe: TrialRecipe, killed_at: int | None = None) -> BaseProcess:
    """Train in a process of its own, which kills itself after so many control steps."""
    return started(_train, recipe, killed_at)


def outcome(run: Path) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Return everything that must be equal when two runs are: weights, training state, and the logged numbers."""
    weights = (find_checkpoint(run) / "weights.safetensors").read_bytes()
    state = max((run / "state").glob("step_*.safetensors")).read_bytes()
    rows = [{key: value for key, value in row.items() if key not in _SPEEDS} for row in read_log(run, "train")]
    return weights, state, rows
