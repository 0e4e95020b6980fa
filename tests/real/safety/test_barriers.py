"""Distances against MuJoCo's own, gradients by finite differences, bounds by sampling, on the seven-joint arm and a URDF."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from policies.kinematics import Kinematics
from policies.spec import InputError
from real.safety.barriers import BarrierConfig, Barriers
from sim.suites.arm import HOME, motion_limits, robot_model

CONFIG = {
    "planes": [{"point": [0, 0, 0.05], "normal": [0, 0, 2]}, {"point": [0, 0.6, 0], "normal": [0, -1, 0.2], "name": "wall"}],
    "spheres": [{"center": [0.5, 0.3, 0.4], "radius": 0.1}],
    "self_collision": True,
    "margin_m": 0.01,
}

SHAPES = """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1"/>
    <body name="a" pos="0 0 1"><joint name="lift" type="slide" axis="0 0 1" range="-0.2 0.2"/><geom name="box" type="box" size="0.1 0.02 0.03"/>
      <body name="b" pos="0.3 0 0"><joint name="turn" axis="0 1 0" pos="0 0 0.02" range="-2 2"/>
        <geom name="egg" type="ellipsoid" size="0.04 0.09 0.05" euler="0.3 0 1"/>
        <body name="c" pos="0.3 0 0"><joint name="bend" axis="0 0 1" range="-3 3"/>
          <geom name="can" type="cylinder" size="0.05 0.1" pos="0.1 0 0" euler="0 1 0"/></body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


def by_mujoco(model: mujoco.MjModel, q: np.ndarray, a: str, b: str) -> float:
    """Return the distance of two shapes, m."""
    data = mujoco.MjData(model)
    data.qpos[:] = q
    mujoco.mj_kinematics(model, data)
    return mujoco.mj_geomDistance(model, data, model.geom(a).id, model.geom(b).id, 10.0, None)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Return joint positions (count, 7) inside the limits."""
    limits = motion_limits()
    return np.random.default_rng(seed).uniform(limits.low, limits.high, (count, 7))


@pytest.fixture(scope="module")
def barriers() -> Barriers:
    return Barriers(CONFIG, Kinematics(robot_model()))


def test_distances_are_those_of_mujoco(barriers: Barriers) -> None:
    model = mujoco.MjModel.from_xml_string(robot_model())
    data = mujoco.MjData(model)
    for q in samples(60):
        h = dict(zip(barriers.names, barriers.distances(q) + 0.01, strict=True))
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        for name, d in h.items():
            first, second = name.split(":")
            g = model.geom(second).id
            ends = data.geom_xpos[g][:, None] + np.outer(data.geom_xmat[g].reshape(3, 3)[:, 2], model.geom_size[g][1] * np.array([-1, 1]))
            if first == "plane0":
                expected = ends[2].min() - 0.05 - model.geom_size[g][0]
            elif first == "wall":
                expected = ((ends - np.array([[0], [0.6], [0]])) * np.array([[0], [-1], [0.2]])).sum(0).min() / np.hypot(1, 0.2) - model.geom_size[g][0]
            elif first == "sphere0":
                line = ends[:, 0][:, None] + (ends[:, 1] - ends[:, 0])[:, None] * np.linspace(0, 1, 4001)
                expected = np.linalg.norm(line - np.array([[0.5], [0.3], [0.4]]), axis=0).min() - 0.1 - model.geom_size[g][0]
            else:
                expected = by_mujoco(model, q, first, second)
                if expected < 0:  # deep inside, the two measure penetration differently
                    assert d <= 1e-9
                    continue
            assert d == pytest.approx(expected, abs=1e-6), name


def test_gradients_are_those_of_finite_differences(barriers: Barriers) -> None:
    step, worst = 1e-6, 0
    for q in samples(40, 1):
        h, gradient = barriers.rows(q)
        np.testing.assert_allclose(h, barriers.distances(q), atol=1e-15)
        moved = (barriers.path(q + step * np.eye(7)) - barriers.path(q - step * np.eye(7))).T / (2 * step)
        smooth = np.abs(barriers.path(q + step * np.eye(7)) + barriers.path(q - step * np.eye(7)) - 2 * h).max(0) < 1e-8  # no kink there
        smooth &= h > -0.01  # where segments cut each other, there is no direction away
        np.testing.assert_allclose(gradient[smooth], moved[smooth], atol=1e-4)
        worst += int((~smooth).sum())
    assert worst < 0.1 * 40 * len(barriers.names)


def test_lever_arms_bound_every_gradient(barriers: Barriers) -> None:
    largest = np.zeros_like(barriers.lever_arms)
    for q in samples(300, 2):
        largest = np.maximum(largest, np.abs(barriers.rows(q)[1]))
    assert (largest <= barriers.lever_arms + 1e-9).all()
    assert (barriers.lever_arms < 1.5).all()
    table = [k for k, name in enumerate(barriers.names) if name.startswith("plane0")]
    np.testing.assert_allclose(barriers.lever_arms[table, 0], 0, atol=1e-9)  # the upright first axis does not lower anything


def test_what_is_kept_apart_and_what_is_not(barriers: Barriers) -> None:
    assert "link3:tool" in barriers.names and "base:link5" in barriers.names and "sphere0:link7" in barriers.names
    assert not any(name.endswith(":base") for name in barriers.names)  # a plane needs no answer from what never moves
    text = "\n".join(barriers.excluded)
    assert "link4:link5: one body, neighbours" in text and "base:link2: one body" in text and "link7:tool: one body" in text
    assert len(barriers.names) == len(barriers.distances(np.array(HOME))) == len(barriers.lever_arms)
    assert (barriers.distances(np.array(HOME)) > 0).all()


def test_other_shapes_are_enclosed() -> None:
    kinematics = Kinematics(SHAPES)
    barriers = Barriers({"self_collision": True, "planes": [{"point": [0, 0, 0], "normal": [0, 0, 1]}], "margin_m": 0}, kinematics)
    assert barriers.names == ("plane0:box", "plane0:egg", "plane0:can", "box:can")
    model = mujoco.MjModel.from_xml_string(SHAPES)
    rng, step = np.random.default_rng(0), 1e-6
    largest = np.zeros((4, 3))
    for q in rng.uniform(kinematics.low, kinematics.high, (100, 3)):
        h, gradient = barriers.rows(q)
        assert h[3] <= max(by_mujoco(model, q, "box", "can"), 0) + 1e-6
        for k, name in enumerate(("box", "egg", "can")):
            assert h[k] <= by_mujoco(model, q, "floor", name) + 1e-6
        moved = (barriers.path(q + step * np.eye(3)) - barriers.path(q - step * np.eye(3))).T / (2 * step)
        np.testing.assert_allclose(gradient, moved, atol=2e-3)
        largest = np.maximum(largest, np.abs(gradient))
    assert (largest <= barriers.lever_arms + 1e-9).all()


def test_a_configuration_that_cannot_be_used_is_said_in_one_line() -> None:
    for value, told in (
        ({"plane": []}, "unknown key 'plane'; did you mean 'planes'"),
        ({"planes": [{"point": [0, 0, 0], "norm": [0, 0, 1]}]}, "planes.0.norm"),
        ({"planes": [{"point": [0, 0, 0], "normal": [0, 0, 0]}]}, "a normal has a direction"),
        ({"margin_m": -1}, "margin_m: .* found -1"),
        ({"spheres": [{"center": [0, 0], "radius": 1}]}, "spheres.0.center"),
    ):
        with pytest.raises(InputError, match=told) as error:
            BarrierConfig.parse(value)
        assert "\n" not in str(error.value)


def test_no_barrier_is_no_row() -> None:
    barriers = Barriers({}, Kinematics(robot_model()))
    h, gradient = barriers.rows(np.zeros(7))
    assert h.shape == (0,) and gradient.shape == (0, 7) and barriers.names == ()
