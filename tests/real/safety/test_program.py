"""The quadratic program against another solver, and the stop's certificate against dense sampling."""

from __future__ import annotations

import numpy as np
import piqp
import pytest

from policies.kinematics import Kinematics
from real.safety.barriers import Barriers
from real.safety.brake import Brake
from real.safety.certify import Certifier
from real.safety.program import Program, SolverFailed
from tests.real.safety.motions import barriers, limits


def by_piqp(low: np.ndarray, high: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n = len(low)
    solver = piqp.DenseSolver()
    solver.settings.eps_abs, solver.settings.eps_rel = 1e-10, 1e-10
    solver.setup(np.eye(n), np.zeros(n), None, None, a, b, np.full(len(b), 1e30), low, high)
    assert solver.solve() == piqp.PIQP_SOLVED
    return solver.result.x


@pytest.mark.parametrize("rows", [10, 40])
def test_solutions_are_those_of_piqp(rows: int) -> None:
    rng, program, decided = np.random.default_rng(rows), Program(7, rows), 0
    for _ in range(300):
        low, high = -rng.uniform(0, 2, 7), rng.uniform(0, 2, 7)
        a, inside = rng.normal(size=(rows, 7)), rng.uniform(low, high)
        b = a @ inside - rng.exponential(1.0, rows)  # there is a point that keeps all rows
        found = program.nearest(low, high, a, b)
        np.testing.assert_allclose(found.x, by_piqp(low, high, a, b), atol=5e-4)  # a soft row yields a millionth of its price
        assert (a @ found.x >= b - 1e-3).all()
        decided += bool(found.active.any())
    assert decided > 200


def test_rows_that_cannot_hold_are_eased_and_the_box_is_not() -> None:
    program = Program(2, 2)
    found = program.nearest(np.full(2, -1.0), np.ones(2), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3.0, 0.5]))
    np.testing.assert_allclose(found.x, [1.0, 0.5], atol=1e-4)
    assert found.eased.tolist() == [True, False] and found.active.tolist() == [True, True]


def test_what_is_not_finite_is_refused() -> None:
    program, box = Program(2, 1), np.ones(2)
    for a, b in ((np.full((1, 2), np.nan), np.zeros(1)), (np.ones((1, 2)), np.full(1, np.nan))):
        with pytest.raises(SolverFailed, match="not finite"):
            program.nearest(-box, box, a, b)
    with pytest.raises(SolverFailed, match="status"):
        program.nearest(box, -box, np.ones((1, 2)), np.zeros(1))


def stops(what: Barriers, count: int) -> list[tuple[np.ndarray, Brake, float]]:
    """Return stops from configurations near barriers, with their least distance by dense sampling."""
    motion, rng, out = limits(), np.random.default_rng(4), []
    while len(out) < count:
        q = rng.uniform(motion.low, motion.high)
        if what.distances(q).min() < 0:
            continue
        v, a = motion.velocity * rng.uniform(-1, 1, 7) * rng.choice([0.1, 0.5, 1.0]), motion.acceleration * rng.uniform(-1, 1, 7)
        brake = Brake(v, a, motion.stop_acceleration, motion.stop_jerk)
        path = q + brake.sample(np.linspace(0, brake.duration.max(), 250)[:, None])[0]
        least = float(what.path(path).min())
        if least < 0.015 or len(out) < count / 2:
            out.append((q, brake, least))
    return out


def test_no_stop_that_is_certified_touches_a_barrier() -> None:
    what = barriers()
    certifier, seen = Certifier(what), {True: 0, False: 0}
    for q, brake, least in stops(what, 400):
        clear, here, there = certifier.clear(q, brake, np.zeros(len(what.names)), q + brake.displacement)
        assert not clear or least >= 0
        assert clear or least < 0.1  # it is not overcautious
        np.testing.assert_allclose(here, what.distances(q), atol=1e-9)
        np.testing.assert_allclose(there, what.distances(q + brake.displacement), atol=1e-9)
        seen[clear] += 1
    assert min(seen.values()) > 10


def test_a_path_that_touches_only_on_its_way_is_found() -> None:
    text = """<mujoco><compiler angle="radian"/><worldbody><body><joint name="a" axis="0 0 1" range="-3 3"/>
    <geom type="sphere" pos="1 0 0" size="0.01"/></body></worldbody></mujoco>"""
    what = Barriers({"spheres": [{"center": [np.cos(0.2), np.sin(0.2), 0], "radius": 0.02}], "margin_m": 0}, Kinematics(text))
    brake = Brake(np.array([2.0]), np.zeros(1), np.array([5.0]), np.array([1e4]))  # comes to rest at 0.4 rad
    assert brake.displacement[0] == pytest.approx(0.4, abs=2e-3)
    start = np.zeros(1)
    assert what.distances(start).min() > 0.1 and what.distances(brake.displacement).min() > 0.1
    assert not Certifier(what).clear(start, brake, np.zeros(1), start)[0]
    assert Certifier(what).clear(start, Brake(np.array([1.0]), np.zeros(1), np.array([5.0]), np.array([1e4])), np.zeros(1), start)[0]
