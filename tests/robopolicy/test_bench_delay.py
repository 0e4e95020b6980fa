"""The benchmark of late plans: its task against its own formulas, its rows complete."""

import numpy as np
import pytest

from robopolicy.bench import catch, delay, harness


def test_the_demonstrated_plan_catches():
    """Followed from the start to the end, whatever the swing: kappa 0, and as far out as demonstrators go."""
    for kappa in (0.0, -1.0, 1.0, 2.0):
        world = catch.Catch(np.arange(50))
        world._gusts[:] = 0
        furthest = np.zeros(50)
        start = world.state[:, 0].copy()
        while not world.over:
            obs = world.observation()
            centre, swing = catch.plans(obs["observation.state"][:, 0].astype(float), obs["observation.environment_state"][:, 0].astype(float))
            for row in (centre + kappa * swing)[:, :2].transpose(1, 0, 2):
                world.advance(row)
            direct = start + (world.ball - start) * world.step / catch.STEPS
            furthest = np.maximum(furthest, np.abs(world.state[:, 0] - direct))
        assert world.caught().all()
        assert np.abs(world.state[:, 0] - world.ball).max() < 0.05
    assert furthest.max() > 1.5 * catch.SWING


def test_swings_end_at_rest():
    at_end = catch.swing(np.array([0, catch.STEPS // 2, catch.STEPS]))
    assert all(np.allclose(value, 0, atol=1e-9) for value in at_end)
    step, small = np.array([7.0]), 1e-4
    rise = (catch.swing(step + small)[0] - catch.swing(step - small)[0]) / (2 * small * catch.DT)
    assert rise == pytest.approx(catch.swing(step)[1], rel=1e-6)


def test_rows():
    result = delay.measure(20, 4, ("flow",), 2)
    names = [row.name for row in result.rows]
    assert "delay" in harness.names() and "catch" not in harness.names()
    for method in ("naive switching", "rtc vjp", "rtc vjp, deviation 0.3, beta 20", "rtc identity", "bid"):
        for late in delay.DELAYS:
            assert f"flow, {method}: caught, delay {late}" in names
        assert f"flow, {method}: one plan, batch 1, p50" in names
    compared = [row for row in result.rows if row.peer]
    assert len(compared) == 4 * (len(delay.DELAYS) + 3)
    assert all(np.isfinite(row.value) for row in result.rows)
    assert harness.to_json("delay", result, harness.machine())["rows"]
