"""The words of Meta-World's rewards against the suite's scalar functions, to the last bit."""

from __future__ import annotations

import types

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sim.suites import metaworld_shim
from sim.suites.metaworld import vocabulary as words
from sim.suites.metaworld.vocabulary import Gripper, Mixed, plain

N = 6
finite = st.floats(-2, 2, width=64)
grades = st.floats(0, 1)
unit = arrays(np.float64, N, elements=grades)
points = arrays(np.float64, (N, 3), elements=st.floats(-0.3, 0.3))
some = settings(max_examples=30, deadline=None)


@pytest.fixture(autouse=True)
def no_warnings():
    with np.errstate(all="ignore"):
        yield


def suite():
    """Return the suite's reward functions."""
    metaworld_shim.load()
    from metaworld.utils import reward_utils

    return reward_utils


@some
@given(arrays(np.float64, (N, 4), elements=finite))
def test_lengths_are_numpys_norms(vectors: np.ndarray) -> None:
    assert words.length(vectors).tolist() == [np.linalg.norm(v) for v in vectors]
    assert words.length(vectors[:, :2]).tolist() == [np.linalg.norm(v[:2]) for v in vectors]
    assert words.length(vectors[:, 0]).tolist() == [np.linalg.norm(v[0]) for v in vectors]
    flat = vectors[:, 0:4:2]
    assert words.length(flat).tolist() == [np.linalg.norm(v[[0, 2]]) for v in vectors]


@some
@given(arrays(np.float64, N, elements=finite))
def test_squares_are_scalar_powers(x: np.ndarray) -> None:
    assert words.square(x).tolist() == [v**2 for v in x] == [float(v) ** 2 for v in x]


def test_a_square_is_not_always_a_product() -> None:
    x = np.random.default_rng(0).uniform(0, 5, 20_000)
    assert words.square(x).tolist() == [v**2 for v in x]
    # on this C library some differ; either way the words follow the scalars


@some
@given(arrays(np.float64, N, elements=finite), st.floats(-0.5, 0.5), st.floats(0, 1), arrays(np.float64, N, elements=st.floats(0, 2)))
@pytest.mark.parametrize("tail", [words.long_tail, words.gaussian])
def test_tolerance(tail, x: np.ndarray, low: float, width: float, margin: np.ndarray) -> None:
    expected = [suite().tolerance(v, bounds=(low, low + width), margin=m, sigmoid=tail.__name__) for v, m in zip(x, margin, strict=True)]
    assert words.tolerance(x, low, low + width, margin, tail).tolist() == expected


@some
@given(unit, unit)
def test_hamacher_product(a: np.ndarray, b: np.ndarray) -> None:
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert plain(words.hamacher_product(a, b)).tolist() == [suite().hamacher_product(x, y) for x, y in pairs]


@some
@given(unit, unit, unit, arrays(np.float32, N, elements=st.floats(-1, 1, width=32)), st.sampled_from([1.0, 0.7]))
def test_where_the_action_enters_single_precision_stays(a, b, c, effort, full) -> None:
    """The numbers of the last suite in scalars: a Python 0 or 1 outside of the range of the effort, a float32 inside."""
    action = np.zeros((N, 4), np.float32)
    action[:, 3] = effort
    held = (words.hamacher_product(a, words.closing(action, full)) + a) / 2
    reward = 2.0 * words.hamacher_product(held, b) + np.where(b > 0.5, 1.0 + 5.0 * c, 0.0)
    reward = plain(words.choose(c > 0.9, 10.0, reward * b))
    product = suite().hamacher_product
    for i in range(N):
        x, y, z = float(a[i]), float(b[i]), float(c[i])
        grip = min(max(0, effort[i]), full) / full
        expected = 2.0 * product((product(x, grip) + x) / 2, y)
        if y > 0.5:
            expected += 1.0 + 5.0 * z
        expected = 10.0 if z > 0.9 else expected * y
        assert plain(reward)[i] == expected, (x, y, z, grip)


def test_mixed_numbers_meet_each_other() -> None:
    narrow = np.array([True, False, True])
    third = np.full(3, 1 / 3)
    a = Mixed(third, third.astype(np.float32), narrow)
    other = Mixed(third, third.astype(np.float32), np.array([False, False, True]))
    got = plain(1.0 - a * other)
    f = np.float32(1 / 3)
    assert got.tolist() == [1 - f * np.float32(1 / 3), 1 - (1 / 3) * (1 / 3), 1 - f * f]
    assert plain(words.choose(np.array([True, True, False]), a, third)).tolist() == [float(f), 1 / 3, 1 / 3]


class Body(types.SimpleNamespace):
    """What the suite's caging functions read of an environment, for one world."""

    def get_body_com(self, name: str) -> np.ndarray:
        return {"leftpad": self.left, "rightpad": self.right}[name]

    @property
    def tcp_center(self) -> np.ndarray:
        return self.tcp


def scene(draw: tuple[np.ndarray, ...]) -> tuple[Gripper, np.ndarray, np.ndarray, list[Body]]:
    obj_init, offset, tcp, init_tcp = draw
    obj = obj_init * 0.2 + offset * 0.05
    left, right = obj + [0, 0.03, 0] + offset * 0.06, obj - [0, 0.03, 0] + offset[:, ::-1] * 0.06
    tips = obj + tcp * 0.02
    init_tcp = init_tcp + [1.0, 0, 1.0]  # far: the suite refuses negative margins
    gripper = Gripper(tips, init_tcp, left, right)
    bodies = [
        Body(left=left[i], right=right[i], tcp=tips[i], init_tcp=init_tcp[i], obj_init_pos=obj_init[i], init_left_pad=left[i], init_right_pad=right[i])
        for i in range(N)
    ]
    return gripper, obj, obj_init, bodies


efforts = arrays(np.float32, (N, 4), elements=st.floats(-1, 1, width=32))
draws = st.tuples(points, points, points, points)


@some
@given(draws, efforts, st.sampled_from([1.0, 0.7]), st.booleans(), st.sampled_from([(0.015, 0.05, 0.005), (0.02, 0.05, 0.05)]))
def test_caging(draw, action, effort, dense, sizes) -> None:
    metaworld_shim.load()
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    gripper, obj, obj_init, bodies = scene(draw)
    radius, pad, xz = sizes
    got = plain(words.caging(gripper, action, obj, obj_init, radius, pad, xz, effort=effort, reach=None if dense else 0.04))
    options = {"high_density": dense, "medium_density": not dense, "desired_gripper_effort": effort}
    for i, body in enumerate(bodies):
        expected = SawyerXYZEnv._gripper_caging_reward(body, action[i], obj[i], radius, pad, 0.04, xz, **options)  # type: ignore[arg-type]
        assert got[i] == expected


@some
@given(draws, efforts)
def test_straddling_and_pinching(draw, action) -> None:
    metaworld_shim.load()
    from metaworld.envs.sawyer_pick_place_v3 import SawyerPickPlaceEnvV3
    from metaworld.envs.sawyer_push_back_v3 import SawyerPushBackEnvV3
    from metaworld.envs.sawyer_sweep_v3 import SawyerSweepEnvV3

    gripper, obj, obj_init, bodies = scene(draw)
    straddled = plain(words.straddling(gripper, action, obj, obj_init))
    back = words.pinching(gripper, obj, obj_init, 0.007, 0.003, 0.01)
    swept = words.pinching(gripper, obj, obj_init, 0.02, 0.01, 0.005)
    for i, body in enumerate(bodies):
        assert straddled[i] == SawyerPickPlaceEnvV3._gripper_caging_reward(body, action[i], obj[i])  # type: ignore[arg-type]
        assert back[i] == SawyerPushBackEnvV3._gripper_caging_reward(body, action[i], obj[i], 0.007)  # type: ignore[arg-type]
        assert swept[i] == SawyerSweepEnvV3._gripper_caging_reward(body, action[i], obj[i], 0.02)  # type: ignore[arg-type]


@some
@given(points, points, points)
def test_within_box(point, zero, one) -> None:
    one = np.where(one == zero, one + 0.1, one)
    expected = [suite().rect_prism_tolerance(curr=p, zero=z, one=o) for p, z, o in zip(point, zero, one, strict=True)]
    assert words.within_box(point, zero, one).tolist() == expected


@some
@given(arrays(np.float64, (N, 4), elements=st.floats(-1, 1)))
@example(np.array([[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, -0.5, 0.5, -0.5]]))
def test_quaternions_are_scipys_of_each_matrix(q: np.ndarray) -> None:
    from scipy.spatial.transform import Rotation

    q[np.linalg.norm(q, axis=1) < 0.1] = 0.5
    matrices = Rotation.from_quat(q).as_matrix()
    got = words.quaternions(matrices.reshape(N, 9))
    np.testing.assert_array_equal(got, [Rotation.from_matrix(m).as_quat() for m in matrices])


def test_funnel_and_snapping() -> None:
    floor = words.funnel(np.array([0.01, 0.02, 0.05]), 0.02, 0.04, 0.4)
    assert floor.tolist() == [0.0, 0.0, 0.04 * np.log(0.05 - 0.02) + 0.4]
    x, y = np.array([[0.10, 1, 2], [0.10, 1, 2]]), np.array([[0.105, 5, 5], [0.2, 5, 5]])
    assert words.snapped(x, y, 0.01).tolist() == [[0.105, 1, 2], [0.10, 1, 2]] and x[0, 0] == 0.10
    q = np.array([[0.707, 0, 0, 0.707], [1.0, 0, 0, 0]])
    assert words.upright(q, q[0], 0.4).tolist() == [1.0, max(1.0 - np.linalg.norm(q[1] - q[0]) / 0.4, 0.0)]
