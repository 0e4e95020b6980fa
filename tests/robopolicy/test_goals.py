"""Goals by hindsight: which frames they come from by hand and by distribution, batches that resume, and a policy that needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from policies.noise import row_keys
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.data.dataset import Dataset
from robopolicy.data.goal_windows import GoalSampler
from robopolicy.data.goals import GoalsConfig, goal_frames, with_goals
from robopolicy.data.mixture import MixtureSampler
from robopolicy.data.windows import WindowSampler
from robopolicy.data.writer import DatasetWriter
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome, hashed

STATE, GOAL = "observation.state", "observation.goal"
LENGTHS = [7, 1, 12]


def frames(config: GoalsConfig, time: int, length: int, count: int, start: int = 100, episodes: Any = None) -> np.ndarray:
    """Return ``count`` draws for one window."""
    keys, each = row_keys(3, np.arange(count)), np.ones(count, np.int64)
    return goal_frames(config, keys, start * each, length * each, time * each, episodes or (np.array([start]), np.array([length])))


def test_goals_by_hand() -> None:
    assert set(frames(GoalsConfig(), time=3, length=5, count=50)) == {104}  # one later frame: it is that
    assert set(frames(GoalsConfig(), time=4, length=5, count=50)) == {104}  # the last frame is its own goal
    assert set(frames(GoalsConfig(), time=0, length=4, count=200)) == {101, 102, 103}
    assert set(frames(GoalsConfig(distribution="geometric", discount=1e-12), time=2, length=9, count=50)) == {103}  # always the next
    assert set(frames(GoalsConfig(distribution="geometric", discount=1 - 1e-12), time=2, length=9, count=50)) == {108}  # always beyond: the end
    assert set(frames(GoalsConfig(current=1.0), time=2, length=9, count=50)) == {102}
    two = (np.array([10, 40]), np.array([2, 3]))
    assert set(frames(GoalsConfig(random=1.0), time=0, length=9, count=300, episodes=two)) == {10, 11, 40, 41, 42}


def test_distances_follow_the_geometric_distribution_cut_at_the_end() -> None:
    count, rest, discount = 20_000, 30, 0.95
    ahead = frames(GoalsConfig(distribution="geometric", discount=discount), time=4, length=5 + rest, count=count) - 104
    # what lies beyond the end falls on the last frame
    expected = np.append(stats.geom.pmf(np.arange(1, rest), 1 - discount), stats.geom.sf(rest - 1, 1 - discount)) * count
    assert stats.chisquare(np.bincount(ahead, minlength=rest + 1)[1:], expected).pvalue > 0.01
    uniform = frames(GoalsConfig(), time=4, length=5 + rest, count=count) - 104
    assert stats.chisquare(np.bincount(uniform, minlength=rest + 1)[1:]).pvalue > 0.01


def test_shares_of_present_and_random_goals() -> None:
    far = (np.array([10_000]), np.array([1000]))
    drawn = frames(GoalsConfig(current=0.2, random=0.3), time=4, length=50, count=20_000, episodes=far)
    counts = [(drawn == 104).sum(), (drawn >= 10_000).sum(), ((drawn > 104) & (drawn < 150)).sum()]
    assert sum(counts) == 20_000 and stats.chisquare(counts, [4000, 6000, 10_000]).pvalue > 0.01
    assert stats.kstest((drawn[drawn >= 10_000] - 10_000 + 0.5) / 1000, "uniform").pvalue > 0.01


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Episode e, frame t: state (e, t), action 100 e + t."""
    path = tmp_path_factory.mktemp("goals") / "set"
    spec = Spec(ObservationSpec({STATE: Field((2,))}), ActionSpec({"action": Field((1,))}))
    with DatasetWriter(path, spec, 10.0) as writer:
        for e, length in enumerate(LENGTHS):
            for t in range(length):
                writer.add_frame({STATE: np.array([e, t], np.float32)}, np.array([100 * e + t]))
            writer.save_episode()
    return Dataset.open(path)


def sampler(dataset: Dataset, fields: list[str], config: GoalsConfig | None = None, **changes: Any) -> WindowSampler:
    arguments = {"dataset": dataset, "fields": fields, "n_obs_steps": 2, "horizon": 3, "n_action_steps": 2, "batch_size": 8, "seed": 5, **changes}
    return WindowSampler(**arguments) if config is None else GoalSampler(config, **arguments)


def test_batches_gain_goals_and_change_in_nothing_else(dataset: Dataset) -> None:
    config = GoalsConfig()
    seen = with_goals(dataset, config)
    assert seen.spec.observation.fields[GOAL].kind == "goal" and GOAL not in dataset.spec.observation.fields
    np.testing.assert_array_equal(seen.stats[GOAL]["max"], dataset.stats[STATE]["max"])
    plain, goals = sampler(dataset, [STATE]), sampler(seen, [STATE, GOAL], config)
    drawn = []
    for step in range(12):
        (a, keys), (b, same) = plain.batch(step), goals.batch(step)
        np.testing.assert_array_equal(keys, same)
        for name in (STATE, "action", "action_is_pad"):
            np.testing.assert_array_equal(a[name], b[name])
        present, goal = b[STATE][:, -1].numpy(), b[GOAL].numpy()
        assert goal.shape == (8, 2, 2) and (goal[:, 0] == goal[:, 1]).all()  # every observed step sees the same goal
        assert (goal[:, 0, 0] == present[:, 0]).all(), "a goal of another episode"
        last = np.array(LENGTHS)[present[:, 0].astype(int)] - 1
        assert (goal[:, 0, 1] >= np.minimum(present[:, 1] + 1, last)).all() and (goal[:, 0, 1] <= last).all()
        drawn.append(goal.copy())
    for step in (7, 2):  # whatever came before
        np.testing.assert_array_equal(goals.batch(step)[0][GOAL], drawn[step])
        halves = [goals.batch(step, rank, 2)[0][GOAL].numpy().copy() for rank in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(halves), drawn[step])
    assert GOAL not in sampler(seen, [STATE], config).batch(0)[0]
    mixed = MixtureSampler([goals, sampler(seen, [STATE, GOAL], config)], [1.0, 1.0], seed=5).batch(0)[0]
    assert (mixed[GOAL][:, 0, 0] == mixed[STATE][:, -1, 0]).all() and len(np.unique(mixed[GOAL][:, 0, 1])) > 1


def test_what_cannot_be_a_goal_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"no field 'observation\.stat'.*did you mean 'observation\.state'"):
        with_goals(dataset, GoalsConfig(source="observation.stat"))
    with pytest.raises(InputError, match="expected an observation field"):
        with_goals(dataset, GoalsConfig(source="action"))
    values = {"task": "two-route", "policy": {"type": "flow"}, "data": {"goals": {"current": 0.7, "random": 0.6}}}
    with pytest.raises(InputError, match="at most 1 together"):
        recipe_from_dict(values, "test")
    values["data"] = {"goals": {"distribution": "geometrical"}}
    with pytest.raises(InputError, match="geometric"):
        recipe_from_dict(values, "test")


SPEC = Spec(
    ObservationSpec({STATE: Field((2,)), GOAL: Field((2,), kind="goal")}),
    ActionSpec({"step": Field((2,), low=-0.1, high=0.1, kind="delta")}),  # type: ignore[arg-type]
)
CORNERS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)


class CornerWorld(EpisodicBatch):
    """A point at the origin that must reach the corner that it is shown; where it stands says nothing of which."""

    def __init__(self, num_worlds: int) -> None:
        super().__init__("corners", "1", SPEC, num_worlds, 30, False)
        self._place, self._goal = np.zeros((num_worlds, 2)), np.zeros((num_worlds, 2))

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._place[rows], self._goal[rows] = 0.0, CORNERS[hashed(seeds) % 4]

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self._place[rows] += action
        success = np.linalg.norm(self._place[rows] - self._goal[rows], axis=1) < 0.25
        return Outcome(success.astype(float), success, {"success": success})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out[STATE][rows], out[GOAL][rows] = self._place[rows], self._goal[rows]


def corner_world(num_worlds: int) -> BatchEnv:
    return CornerWorld(num_worlds)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty walks to one of the corners, with noise; which one is nowhere in the data."""
    path, rng = tmp_path_factory.mktemp("walks") / "set", np.random.default_rng(0)
    spec = Spec(SPEC.observation.subset([STATE]), SPEC.action)
    with DatasetWriter(path, spec, 10.0) as writer:
        for walk in range(40):
            place = np.zeros(2)
            for _ in range(16):
                action = np.clip(0.4 * (CORNERS[walk % 4] - place), -0.08, 0.08) + rng.normal(0, 0.01, 2)
                writer.add_frame({STATE: place.astype(np.float32)}, action)
                place = place + np.clip(action, -0.1, 0.1)
            writer.save_episode()
    return path


def success(walks: Path, out: Path, policy: dict[str, Any]) -> float:
    training = {"steps": 300, "batch_size": 64, "checkpoint_every": 300, "optimizer": {"lr": 3e-3, "warmup_steps": 10}, "ema": {"enabled": False}}
    values = {"task": "corners", "output": str(out), "data": {"path": str(walks), "goals": {}}, "policy": policy, "training": training}
    trained = train(recipe_from_dict(values, "test"), progress=False, note=lambda text: None)
    return evaluate(str(trained.checkpoint), corner_world, episodes=40, block=40, latency_calls=0, progress=False).success_rate


SMALL = {"n_obs_steps": 1, "horizon": 4, "n_action_steps": 2, "mlp": {"width": 64, "blocks": 1}}


POLICIES = ({"type": "gaussian"}, {"type": "flow", **SMALL}, pytest.param({"type": "regression", **SMALL}, marks=pytest.mark.soak))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p["type"])
def test_cloning_with_goals_goes_where_it_is_told(policy: dict[str, Any], walks: Path, tmp_path: Path) -> None:
    assert success(walks, tmp_path / "run", policy) >= 0.9


def test_cloning_without_goals_cannot(walks: Path, tmp_path: Path) -> None:
    assert success(walks, tmp_path / "run", {"type": "gaussian", "observations": [STATE]}) <= 0.4  # one corner in four is chance
