"""The two-route task: geometry by hand, routes half and half, ambiguous where the decision falls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import registry
from sim.suites import two_route

coordinate = st.floats(-2, 2)


def drive(actions: np.ndarray, seed: int = 0):
    """Play ``actions`` (T, 2) in one world until it ends; returns the last result and the positions (T + 1, 2)."""
    env = registry.make("two-route")
    path = [env.reset(np.array([seed]))["observation.state"][0]]
    for action in actions:
        result = env.step(action[None])
        path.append(result.obs["observation.state"][0])
        if result.terminated[0] or result.truncated[0]:
            break
    return result, np.array(path)


def test_the_mean_of_both_routes_collides() -> None:
    result, path = drive(np.tile([[0.0, 0.5]], (40, 1)))
    assert result.terminated[0] and result.info["collision"][0] and not result.info["success"][0]
    assert result.info["route"][0] == 0 and result.reward[0] == -1
    assert len(path) - 1 == pytest.approx((0.8 - two_route.DISC_RADIUS) / 0.05, abs=1)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_detour_by_hand_succeeds(side: int) -> None:
    result, _ = drive(np.array([[side * 1.0, 0.0]] * 5 + [[0.0, 0.8]] * 20 + [[-side * 1.0, 0.0]] * 5))
    assert result.info["success"][0] and result.info["route"][0] == side and result.reward[0] == 1


def test_a_fast_point_does_not_jump_over_the_disc() -> None:
    start, end = np.array([[-0.5, 0.0]]), np.array([[0.5, 0.1]])
    assert two_route.distance_to_segment(np.zeros(2), start, end)[0] < two_route.DISC_RADIUS


@given(coordinate, coordinate, coordinate, coordinate)
def test_the_distance_to_a_segment_is_the_smallest_over_its_points(ax: float, ay: float, bx: float, by: float) -> None:
    a, b = np.array([ax, ay]), np.array([bx, by])
    points = a + np.linspace(0, 1, 2001)[:, None] * (b - a)
    sampled = np.linalg.norm(points, axis=1).min()
    exact = two_route.distance_to_segment(np.zeros(2), a[None], b[None])[0]
    assert exact <= sampled + 1e-9 and sampled <= exact + np.linalg.norm(b - a) / 2000 + 1e-9


def test_the_slope_of_the_route_is_its_derivative() -> None:
    y = np.linspace(-0.9, 0.9, 73)
    x, slope = two_route.route_offset(y)
    h = 1e-6
    numeric = (two_route.route_offset(y + h)[0] - two_route.route_offset(y - h)[0]) / (2 * h)
    np.testing.assert_allclose(slope, numeric, atol=1e-4)
    assert x.max() == two_route.PASS_AT and (x[np.abs(y) > 0.6] == 0).all()


@pytest.fixture(scope="module")
def demonstrations() -> dict[str, np.ndarray]:
    n = 1000
    env = registry.make("two-route", n)
    path = [env.reset(np.arange(n))["observation.state"]]
    for _ in range(two_route.MAX_EPISODE_STEPS):
        result = env.step(env.expert_action())
        path.append(result.obs["observation.state"])
        if (result.terminated | result.truncated).all():
            break
    return {"path": np.stack(path, axis=1), "side": env.expert_route, **result.info}  # type: ignore[attr-defined]


def test_the_expert_always_succeeds_with_room_to_spare(demonstrations: dict[str, np.ndarray]) -> None:
    assert demonstrations["success"].all() and not demonstrations["collision"].any()
    clearance = np.linalg.norm(demonstrations["path"], axis=2).min() - two_route.DISC_RADIUS
    assert clearance > 0.15
    assert demonstrations["path"].shape[1] < 50


def test_the_routes_are_half_and_half_and_told_by_the_seed(demonstrations: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(demonstrations["route"], demonstrations["side"])
    assert abs((demonstrations["side"] == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)


def test_nothing_before_the_split_tells_the_route(demonstrations: dict[str, np.ndarray]) -> None:
    stem = demonstrations["path"][:, :4]  # the first 0.15 m
    assert stem[..., 1].max() < two_route.LEAVE_AT + 0.02
    for step in range(4):
        for axis in (0, 1):
            told = np.corrcoef(stem[:, step, axis], demonstrations["side"])[0, 1]
            assert abs(told) < 4 / np.sqrt(1000)


def test_a_chunk_from_the_start_is_bimodal(demonstrations: dict[str, np.ndarray]) -> None:
    eighth = demonstrations["path"][:, 9, 0]  # where a plan of 8 actions leads
    assert (np.abs(eighth) > 0.1).all() and abs(eighth.mean()) < 0.03


def test_many_worlds_are_fast() -> None:
    import time

    env = registry.make("two-route", 2000)
    env.reset(np.arange(2000))
    action = env.expert_action()
    best = 0.0
    for _ in range(5):  # the best of five: other work on this machine only ever takes away
        start = time.process_time()
        for _ in range(20):
            env.step(action)
        best = max(best, 40_000 / (time.process_time() - start))
    assert best > 100_000  # world steps a second; a loop over worlds would give a tenth


@pytest.mark.parametrize("first", [np.array([0, 1]), np.array([1, 0])])
def test_a_new_episode_knows_no_route_of_the_last_one(first: np.ndarray) -> None:
    """The seeds take different routes; by themselves worlds begin anew as after a reset."""
    env = registry.make("two-route", 2, autoreset=True, max_episode_steps=30)
    env.reset(first)
    routes = [env.step(env.expert_action()).info["route"].tolist() for _ in range(33)]
    assert sorted(routes[29]) == [-1, 1] and routes[30:] == [[0, 0]] * 3
