"""The replays of several actors are one replay to whoever learns from them: the same statistics, the same meaning of a weight."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from policies.noise import row_keys
from robopolicy.training.actor_learner_replays import ActorReplays
from robopolicy.training.off_policy_config import ReplayConfig
from tests.robopolicy.replay_worlds import SPEC

NUMBER = 1 << 48  # what the numbers of transitions of one actor are below


def filled(folder: Path, states: list[np.ndarray], **config: object) -> ActorReplays:
    """Return replays of actors of one world each, which saw ``states``, (T, 2) an actor, and one more at the end."""
    replays = ActorReplays(SPEC, len(states), 1, ReplayConfig.model_validate({"capacity": 100 * len(states), **config}), 0.9, folder)
    for part, seen in zip(replays.parts, states, strict=True):
        rows = [{"observation.state": state[None], "observation.images.eye": np.zeros((1, 2, 2, 3), np.uint8)} for state in (*seen, seen[-1])]
        for now, then in pairwise(rows):
            part.add(now, np.zeros((1, 2), np.float32), np.zeros(1, np.float32), then, np.zeros(1, bool), np.zeros(1, bool))
    return replays


def test_statistics_are_those_of_all_transitions_together(tmp_path: Path):
    """Also where one actor has seen one state only so far, or none: it says nothing of how much the states vary."""
    rng = np.random.default_rng(0)
    first = (np.array([0.3, 0.3]) + np.array([0.01, 0.0]) * rng.standard_normal((40, 2))).astype(np.float32)
    states = [first, np.array([[0.31, 0.3]], np.float32), np.tile(np.array([[0.29, 0.3]], np.float32), (5, 1))]
    replays = filled(tmp_path, states)
    mean, deviation = replays.mean_and_deviation("observation.state")
    seen = np.concatenate(states).astype(np.float64)
    assert mean == pytest.approx(seen.mean(0), abs=1e-9)
    assert deviation == pytest.approx([seen[:, 0].std(), 1.0], rel=1e-6)  # the second never varies


def test_weights_make_up_for_priorities_across_actors(tmp_path: Path):
    """At the end of training a weight is in inverse proportion to how often its transition is drawn, whichever actor it is of."""
    replays = filled(tmp_path, [np.zeros((20, 2), np.float32), np.zeros((60, 2), np.float32)], sampling="prioritized", alpha=1.0)
    priorities = [np.linspace(0.1, 4.0, 20), np.linspace(1.0, 1.5, 60)]
    for number, error in enumerate(priorities):
        replays.set_priorities(number * NUMBER + np.arange(len(error)), error)
    expected = {n * NUMBER + i: 1.0 / (len(error) * e / error.sum()) for n, error in enumerate(priorities) for i, e in enumerate(error)}
    for batch in replays.sample_several(row_keys(0, np.arange(3)[:, None], np.arange(32)), 1.0):
        wanted = np.array([expected[int(number)] for number in batch.index])
        assert {int(number) // NUMBER for number in batch.index} == {0, 1}
        assert batch.weight.numpy() == pytest.approx(wanted / wanted.max(), rel=1e-4)
