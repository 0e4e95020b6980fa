"""Two tasks that look the same: go left, go right. Nothing but a condition can tell which one is wanted."""

from __future__ import annotations

import numpy as np
import pytest

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy import instructions
from sim import registry
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome, hashed

STEP, GOAL, LIMIT = 0.1, 0.5, 12  # m a step, m from the middle; no time to visit both sides
TASKS = ("toy/left", "toy/right")
_SAID = ("go SIDE", "move to the SIDE", "drive SIDE", "SIDE please", "turn SIDE now", "to the SIDE side", "the SIDE one")
_UNHEARD = ("please move SIDE", "now go to the SIDE", "drive to the SIDE side")
SAID = {f"toy/{s}": instructions.Instructions(*(tuple(t.replace("SIDE", s) for t in said) for said in (_SAID, _UNHEARD))) for s in ("left", "right")}


class Sides(EpisodicBatch):
    """N points on a line, begun near the middle; success is to be at the goal of the task."""

    def __init__(self, name: str, options: registry.Options) -> None:
        observed = {"observation.state": Field((1,), names=("x",)) if name != "toy/other" else Field((2,), names=("x", "y"))}
        action = {"velocity": Field((1,), low=(-1.0,), high=(1.0,), kind="velocity")}
        spec = Spec(ObservationSpec(observed, 10.0), ActionSpec(action, 10.0))
        super().__init__(name, "toy 1", spec, options.num_worlds, options.max_episode_steps or LIMIT, options.autoreset)
        self.goal, self.x = (GOAL if name == "toy/right" else -GOAL), np.zeros(options.num_worlds)

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.x[rows] = 0.1 * (hashed(seeds) * 2.0**-63 - 0.5)

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self.x[rows] += STEP * action[:, 0]
        return Outcome(-np.abs(self.x[rows] - self.goal), np.zeros(rows.size, bool), {"success": np.abs(self.x[rows] - self.goal) < 0.12})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows] = self.x[rows, None]

    def expert_action(self) -> np.ndarray:
        return np.clip((self.goal - self.x) / STEP, -1, 1).astype(np.float32)[:, None]


def make(name: str, options: registry.Options) -> BatchEnv:
    return Sides(name, options)


def register(patch: pytest.MonkeyPatch) -> None:
    """Register the tasks in this process until ``patch`` is undone: both under the tag ``sides``, and one of another spec."""
    known = dict(registry._entries())
    for name in (*TASKS, "toy/other"):
        tags = ("sides", "expert") if name in TASKS else ("expert",)
        known[name] = registry.Entry(name, "a toy", tags, 10.0, LIMIT, (), "", make)
    patch.setattr(registry, "_entries", lambda: known)
    lines = {**instructions._lines(), **SAID}
    patch.setattr(instructions, "_lines", lambda: lines)
