"""What OGBench's experts plan with: shortest ways against scipy, lights out against trying everything, cubes in an ideal world."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path

from sim.oracles.maze_path import MazePath, unit_step
from sim.oracles.ogbench_arm import lights_out, next_cube

MAZE = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]], bool)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_distances_are_those_of_dijkstra(seed: int) -> None:
    walls = np.pad(np.random.default_rng(seed).random((5, 6)) < 0.4, 1, constant_values=True)
    if walls.all():
        return
    path = MazePath(walls, 4.0, (-4.0, -4.0))
    beside = (np.abs(path.cells[:, None] - path.cells[None]).sum(-1) == 1).astype(float)
    expected = shortest_path(beside, unweighted=True)
    np.testing.assert_array_equal(path.distance, np.where(np.isinf(expected), -1, expected))
    ways = path.ways()
    here, goal = np.nonzero(path.distance > 0)
    assert (path.distance[ways[here, goal], goal] == path.distance[here, goal] - 1).all()
    lost = path.distance <= 0
    np.testing.assert_array_equal(ways[lost], np.nonzero(lost)[0])


def test_a_way_through_a_small_maze_by_hand() -> None:
    path = MazePath(MAZE, 2.0, (0.0, 0.0))
    assert path.cells.tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 3], [3, 1], [4, 3]]
    assert path.centre(np.array([4])).tolist() == [[6.0, 4.0]]  # row 2, column 3: y = 4, x = 6
    assert path.cell(np.array([[6.9, 3.1], [2.0, 5.5]])).tolist() == [4, 5]
    here, goals = np.array([[2.0, 6.0], [6.1, 4.2], [6.0, 8.0]]), np.array([[6.0, 4.0], [5.5, 4.5], [2.0, 2.0]])
    # up the passage; in the goal's cell straight to it; no way: stay
    assert path.next_point(here, goals).tolist() == [[2.0, 4.0], [5.5, 4.5], [6.0, 8.0]]
    assert path.cells[path.corners()].tolist() == [[1, 1], [1, 3], [2, 3], [3, 1], [4, 3]]  # passages at (1, 2) and (2, 1) are left out
    np.testing.assert_allclose(unit_step(np.zeros((2, 2)), np.array([[3.0, 4.0], [0.0, 0.1]]), reach=0.2), [[0.6, 0.8], [0, 0.5]])


@pytest.mark.parametrize("seed", range(8))
def test_lights_out_is_solved_with_the_fewest_presses(seed: int) -> None:
    rows, columns = 3, 3 if seed % 2 else 2
    wrong = np.random.default_rng(seed).random(rows * columns) < 0.5
    place = np.array(list(itertools.product(range(rows), range(columns))))
    effect = np.abs(place[:, None] - place[None]).sum(-1) <= 1
    tries = np.array(list(itertools.product([False, True], repeat=rows * columns)))
    fits = tries[((tries.astype(int) @ effect) % 2 == wrong).all(axis=1)]
    presses = lights_out(rows, columns, wrong)
    if len(fits):
        assert ((presses.astype(int) @ effect) % 2 == wrong).all() and presses.sum() == fits.sum(axis=1).min()
    else:
        assert not presses.any()


def test_lights_out_of_the_larger_board_has_solutions_that_are_not_unique() -> None:
    presses = lights_out(4, 4, np.ones(16, bool))
    assert presses.sum() == 4  # the known least for all sixteen lights
    corner = np.zeros(16, bool)
    corner[0] = True
    assert not lights_out(4, 4, corner).any()  # a single corner light cannot be reached


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans())
def test_moving_one_cube_after_the_other_ends_with_all_in_place(seed: int, count: int, stacked: bool) -> None:
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid([0.35, 0.5], [-0.2, -0.1, 0.0, 0.1, 0.2], indexing="ij"), -1).reshape(-1, 2)

    def scene(tower: bool) -> np.ndarray:
        chosen = places[rng.permutation(len(places))[:count]]
        levels = np.arange(count) if tower else np.zeros(count)
        return np.column_stack([chosen[[0] * count] if tower else chosen, 0.02 + 0.04 * levels])

    cubes, goals = scene(bool(seed % 2)), scene(stacked)
    for _ in range(4 * count):
        task = next_cube(cubes, goals)
        if task is None:
            break
        above = (np.linalg.norm(cubes[:, :2] - cubes[task.number, :2], axis=1) < 0.02) & (cubes[:, 2] > cubes[task.number, 2] + 0.01)
        assert not above.any(), "a cube is pulled out from under another one"
        others = np.delete(cubes, task.number, axis=0)
        assert not (np.linalg.norm(others - task.target, axis=1) < 0.039).any(), "two cubes in one place"
        cubes[task.number] = task.target
    np.testing.assert_allclose(cubes, goals, atol=0.031)
