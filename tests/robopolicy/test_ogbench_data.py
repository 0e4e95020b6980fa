"""OGBench's data sets made here: the same for any number of processes and after a stop, with the published recipe's facts in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.bench import ogbench as bench
from robopolicy.bench.cells import Cells
from robopolicy.bench.ogbench_cells import measure_expert
from robopolicy.data.dataset import Dataset
from robopolicy.data.ogbench import PUBLISHED, regenerate
from robopolicy.data.ogbench_episodes import MazeSimulator, PlaySimulator
from robopolicy.data.writer import DatasetWriter
from robopolicy.evaluation.ledger import read
from robopolicy.recipe import load_recipe
from sim.suites.ogbench import make_spec

NAVIGATE = "ogbench/pointmaze-medium-navigate"


def test_a_set_does_not_depend_on_processes_or_stops(tmp_path: Path) -> None:
    assert regenerate(NAVIGATE, tmp_path / "one", 3, workers=1, progress=False, frames=40) == 3
    assert regenerate(NAVIGATE, tmp_path / "two", 1, workers=1, progress=False, frames=40) == 1  # stopped
    assert regenerate(NAVIGATE, tmp_path / "two", 3, workers=2, progress=False, frames=40) == 3
    one, two = (Dataset.open(tmp_path / name) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint and one.seeds.tolist() == [0, 1, 2]
    assert one.num_frames == 120 and list(one.spec.observation.fields) == ["observation.state"]
    with pytest.raises(InputError, match=r"was made with frames 40, not 50"):
        regenerate(NAVIGATE, tmp_path / "one", 4, workers=1, progress=False, frames=50)
    with pytest.raises(InputError, match="did you mean 'ogbench/pointmaze-medium-navigate'"):
        regenerate("ogbench/pointmaze-medium-navigat", tmp_path / "three", 1)


def test_navigation_follows_shortest_ways_with_the_published_noise() -> None:
    simulator = MazeSimulator("ogbench/pointmaze-medium", "navigate", 300)
    runs = [simulator.run(seed) for seed in range(4)]
    np.testing.assert_array_equal(simulator.run(1).actions, runs[1].actions)  # whatever ran before
    states, actions = (np.concatenate([getattr(run, name) for run in runs]) for name in ("states", "actions"))
    assert not (runs[0].states[0] == runs[1].states[0]).any() and np.abs(actions).max() == 1.0
    # actions are a unit step and noise of 0.5, cut to [-1, 1]: across the way, where the step is 0, nearly all of it is left
    free = np.abs(actions)[np.abs(actions).max(axis=1) == 1.0].min(axis=1)
    assert 0.2 < np.median(free) < 0.45  # the median of |N(0, 0.5)| is 0.34
    moved = [np.linalg.norm(run.states[-1] - run.states[0]) for run in runs]
    cells = {tuple(np.rint(state / 4).astype(int)) for state in states}
    assert len(cells) >= 12 and max(moved) > 4  # it visits a good part of the 26 open cells, one corner after the other


def test_stitching_ends_four_cells_away() -> None:
    simulator = MazeSimulator("ogbench/pointmaze-large", "stitch", 200)
    path, steps = simulator._path, []
    for seed in range(6):
        run = simulator.run(seed)
        first, last = path.cell(run.states[[0, -1]])
        steps.append(int(path.distance[first, last]))
    assert Counter(steps).most_common(1)[0][0] == 4 and max(steps) <= 5


def test_playing_moves_the_cube_again_and_again() -> None:
    simulator = PlaySimulator("ogbench/cube-single", 220)
    second = simulator.run(1)
    simulator.run(0)
    again = simulator.run(1)
    np.testing.assert_array_equal(again.states, second.states)
    np.testing.assert_array_equal(again.actions, second.actions)
    assert second.states.shape == (220, 28) and second.actions.shape == (220, 5) and np.abs(second.actions).max() <= 1.0
    height = second.states[:, 21] / 10  # m, of the cube
    lifted = np.flatnonzero(np.diff((height > 0.05).astype(int)) == 1)
    assert len(lifted) >= 2, "one task after the other"


def test_recipes_make_the_published_sets() -> None:
    for name, kind in (("ogbench_cube", "play"), ("ogbench_pointmaze", "navigate")):
        recipe = load_recipe(name)
        one = PUBLISHED[f"{recipe.task}-{kind}"]
        assert (recipe.data.kind, recipe.data.collect) == (kind, one.episodes) == (kind, 1000) and one.frames == 1001
        assert recipe.data.goals.distribution == "uniform"
    assert [bed.episodes for bed in bench.BEDS] == [PUBLISHED[f"{bed.task}-{bed.kind}"].episodes for bed in bench.BEDS]


def test_the_benchmark_pools_training_seeds_beside_the_published_figure(tmp_path: Path) -> None:
    plan = list(bench.cells(bench.BEDS[1:2], tmp_path, quick=False, steps=1000, seeds=2))
    names = [cell.name for _, _, cell in plan]
    assert names[:2] == ["pointmaze-large: data", "pointmaze-large: expert"] and len(names) == len(set(names)) == 2 + 3 * 2
    found = Cells({}, [])
    for _, way, cell in plan[1:]:
        won = 10 if way is None else 30 if way.goals else 0
        count = 10 if way is None else 50
        found.rows[cell.key] = {"successes": won, "episodes": count, "goals": {"1": [won, count]}, "seconds": 1.0}
    rows = {row.name.partition(" [")[0]: row for row in bench.rows(plan, found)}
    assert rows["pointmaze-large: GCBC, 2 seeds"].value == 0.6 and rows["pointmaze-large: GCBC, 2 seeds"].peer_value == 0.29
    assert "[0.502, 0.691]" in next(row.name for row in rows.values() if "GCBC, " in row.name)  # Wilson, 60 of 100
    assert rows["pointmaze-large: BC without goal, 2 seeds"].peer is None and rows["pointmaze-large: expert"].value == 1.0
    for _, way, cell in plan:
        if way is not None:
            load_recipe(cell.settings["recipe"], cell.settings["overrides"], note=lambda text: None)  # every override is understood


def test_a_cell_leaves_a_ledger_and_counts_by_goal(tmp_path: Path) -> None:
    row = measure_expert("ogbench/pointmaze-medium", str(tmp_path), 5, {})
    assert row["successes"] == 5 and row["goals"] == {str(goal): [1, 1] for goal in range(1, 6)}
    (line,) = read(tmp_path / "ledger.jsonl")
    assert line["task"] == "ogbench/pointmaze-medium" and line["purpose"] == "report" and (tmp_path / line["results"]).is_file()


@pytest.mark.soak
def test_the_benchmark_runs_through_in_its_quick_form(tmp_path: Path) -> None:
    result = bench.run(quick=True, folder=tmp_path)
    assert not result.missing and len(result.rows) == 3 * 4
    again = bench.run(quick=True, folder=tmp_path)
    assert [row.value for row in again.rows] == [row.value for row in result.rows]


def test_a_set_without_an_episode_does_not_bind_the_next_one(tmp_path: Path) -> None:
    whole = make_spec("ogbench/pointmaze-medium")
    DatasetWriter(tmp_path / "set", whole, whole.action.rate_hz, provenance={"ogbench": {"frames": 7}}).close()
    assert regenerate("ogbench/pointmaze-medium-stitch", tmp_path / "set", 1, workers=1, progress=False, frames=5) == 1
    with pytest.raises(InputError, match="was made with frames 5, not 6"):
        regenerate("ogbench/pointmaze-medium-stitch", tmp_path / "set", 2, workers=1, progress=False, frames=6)
