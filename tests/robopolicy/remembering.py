"""A task that cannot be done without a memory: a sign is shown at the first step of an episode and asked for at the last."""

from __future__ import annotations

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim import registry
from sim.env import Observation
from sim.episodes import EpisodicBatch, Outcome, hashed
from sim.registry import Entry, Options

TASK = "toy/recall"
STEPS = 6

SPEC = Spec(
    ObservationSpec(
        {
            "observation.state": Field((2,), names=("shown.sign", "clock")),
            "observation.environment_state": Field((1,), names=("hidden.sign",)),
        }
    ),
    ActionSpec({"answer": Field((1,), low=(-2.0,), high=(2.0,), kind="effort", names=("answer",))}),
)


class Recall(EpisodicBatch):
    """``observation.state``: the sign at the first step, 0 later; how much of the episode is over. Answers count at the last step.

    ``observation.environment_state``, which a critic or a teacher may read: the sign, at every step. The reward of the last step is
    1 - (answer - sign)^2, so that whoever does not know the sign gets 0 at best. The ``windy`` reward has the sign itself on top at
    every step, which nothing can change and only who sees it can foresee.
    """

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, "toy 1", SPEC, options.num_worlds, options.max_episode_steps or STEPS, options.autoreset)
        self.sign, self.wind = np.zeros(self.num_worlds), 1.0 if options.reward == "windy" else 0.0

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.sign[rows] = np.where(hashed(seeds, 5) % 2 == 0, 1.0, -1.0)

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        last = self._elapsed[rows] + 1 >= self.max_episode_steps
        error = np.abs(action[:, 0] - self.sign[rows])
        reward = np.where(last, 1.0 - error**2, 0.0) + self.wind * self.sign[rows]
        return Outcome(reward, last, {"success": last & (error < 0.5)})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        elapsed = self._elapsed[rows]
        out["observation.state"][rows, 0] = np.where(elapsed == 0, self.sign[rows], 0.0)
        out["observation.state"][rows, 1] = elapsed / self.max_episode_steps
        out["observation.environment_state"][rows, 0] = self.sign[rows]


def entry() -> Entry:
    """Return what the registry needs."""
    return Entry(TASK, "recall a sign", ("toy",), 10.0, STEPS, (), "", Recall, rewards=("dense", "windy"))


def register(monkeypatch) -> None:
    """Let ``toy/recall`` be known while a test runs."""
    monkeypatch.setitem(registry._entries(), TASK, entry())
