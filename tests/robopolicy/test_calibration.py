"""The solvers, on observations made by closed forms; boards drawn and found; delays of motion that is known."""

import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kinematics import Kinematics
from policies.spec import InputError
from robopolicy.calibration.board import Board, Corners
from robopolicy.calibration.hand_eye import METHODS, solve_hand_eye
from robopolicy.calibration.intrinsics import Intrinsics, solve_intrinsics
from robopolicy.calibration.joints import solve_joints, solve_touches
from robopolicy.calibration.latency import actuation_delay, delay_between
from robopolicy.calibration.poses import between, changed, from_dict, inverse, pose, quaternion, to_dict, turn
from tests.require import require

CAMERA = Intrinsics(640, 480, 590.0, 584.0, 331.0, 236.0, (-0.11, 0.06, 0.0012, -0.0008, 0.01))
BOARD = Board()


@pytest.fixture(autouse=True, scope="module")
def _opencv():
    require("libgl")


# ---- poses and the camera's model, against other implementations


@settings(max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_poses_agree_with_another_implementation(six, other):
    from scipy.spatial.transform import Rotation

    one, two = pose(turn(np.array(six[:3])), np.array(six[3:])), pose(turn(np.array(other[:3])), np.array(other[3:]))
    np.testing.assert_allclose(one[:3, :3], Rotation.from_rotvec(six[:3]).as_matrix(), atol=1e-12)
    back = from_dict(to_dict(one))
    np.testing.assert_allclose(back, one, atol=1e-9)
    np.testing.assert_allclose(one @ inverse(one), np.eye(4), atol=1e-12)
    angle = Rotation.from_matrix(one[:3, :3].T @ two[:3, :3]).magnitude()
    assert between(one, two) == pytest.approx((np.linalg.norm(np.subtract(six[3:], other[3:])), angle), abs=1e-7)
    assert quaternion(one[:3, :3])[0] >= 0
    np.testing.assert_allclose(changed(one, np.array(other)), one @ two, atol=1e-12)


def test_a_point_is_seen_where_opencv_sees_it():
    import cv2

    points = np.random.default_rng(0).uniform([-0.3, -0.25, 0.4], [0.3, 0.25, 1.0], (50, 3))
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), CAMERA.matrix, np.array(CAMERA.distortion))
    np.testing.assert_allclose(CAMERA.project(points), expected.reshape(-1, 2), atol=1e-9)
    assert Intrinsics.from_dict(CAMERA.to_dict()).project(points) == pytest.approx(CAMERA.project(points))
    with pytest.raises(InputError, match="not the intrinsics of a camera: KeyError: 'fy'"):
        Intrinsics.from_dict({"fx": 1})


# ---- boards


def test_a_board_in_true_size(tmp_path):
    import cv2

    board = Board.parse("6x4:25:18:4x4_50")
    assert Board.parse(board.text) == board and board.size_m == pytest.approx((0.15, 0.1))
    board.save(tmp_path / "b.png")
    raw = (tmp_path / "b.png").read_bytes()
    at = raw.index(b"pHYs")
    per_metre = int.from_bytes(raw[at + 4 : at + 8], "big")
    assert zlib.crc32(raw[at : at + 13]) == int.from_bytes(raw[at + 13 : at + 17], "big")
    picture = cv2.imread(str(tmp_path / "b.png"))
    side = 0.025 * per_metre
    assert picture.shape[1] / per_metre == pytest.approx(0.15 + 0.025, rel=1e-3), "half a square of margin on both sides"
    found = board.detect(picture)
    np.testing.assert_array_equal(found.ids, np.arange(15))
    np.testing.assert_allclose(found.points, board.corners[:, :2] / 0.025 * side + round(side) // 2 - 0.5, atol=0.3)
    board.save(tmp_path / "b.pdf")
    page = (tmp_path / "b.pdf").read_bytes()
    box = [float(v) for v in re.search(rb"/MediaBox \[([\d. ]+)\]", page).group(1).split()]
    assert [25.4 / 72 * v for v in box] == pytest.approx([0, 0, 170, 120], abs=0.01), "mm, with 10 of margin"
    table = page[int(re.search(rb"startxref\n(\d+)", page).group(1)) :].splitlines()
    for number, line in enumerate(table[3:9], 1):
        assert page[int(line.split()[0]) :].startswith(b"%d 0 obj" % number)
    drawn = zlib.decompress(page[page.index(b"stream", page.index(b"/Subtype /Image")) + 7 :].split(b"\nendstream")[0])
    assert len(board.detect(np.pad(np.frombuffer(drawn, np.uint8).reshape(400, 600), 40, constant_values=255)).ids) == 15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7x5", "expected COLUMNSxROWS:SQUARE:MARKER"),
        ("7x5:20:22", "do not fit into squares"),
        ("2x5:30:22", "at least 3x3"),
        ("7x5:30:22:9x9_1", "is unknown"),
    ],
)
def test_boards_that_cannot_be(text, words):
    with pytest.raises(InputError, match=re.escape(words)):
        Board.parse(text)


def test_nothing_is_found_where_nothing_is():
    assert BOARD.detect(np.full((100, 100, 3), 128, np.uint8)) is None
    with pytest.raises(InputError, match=r"board was found in 3 pictures, expected at least 8"):
        solve_intrinsics(BOARD, [Corners(np.arange(24), np.zeros((24, 2)))] * 3, 640, 480)


# ---- hand-eye and zeros, on exact observations


def arm() -> Kinematics:
    from sim.suites.arm import robot_model

    return Kinematics(robot_model())


def observed(eye: str, count: int = 12, noise_px: float = 0.0, seed: int = 1):
    """Mounting, place of the board, hands and corners: how the board is seen is drawn, the hand is then where that says."""
    generator = np.random.default_rng(seed)
    mount = pose(turn(np.array([0.2, -0.1, 1.3])), np.array([0.05, 0.02, -0.1]))
    place = pose(turn(np.array([0.3, 2.8, 0.1])), np.array([0.5, 0.1, 0.0]))
    hands, seen = [], []
    for _ in range(count):
        sight = pose(turn(generator.uniform(-0.5, 0.5, 3)), np.array([-0.1, -0.07, 0.35]) + generator.uniform(-0.03, 0.03, 3))
        hands.append(place @ inverse(sight) @ inverse(mount) if eye == "in-hand" else mount @ sight @ inverse(place))
        points = (np.c_[BOARD.corners, np.ones(24)] @ sight.T)[:, :3]
        seen.append(Corners(np.arange(24), CAMERA.project(points) + noise_px * generator.standard_normal((24, 2))))
    return mount, place, hands, seen


@pytest.mark.parametrize("eye", ["in-hand", "to-hand"])
@pytest.mark.parametrize("method", METHODS)
def test_an_exact_mounting_is_found_exactly(eye, method):
    mount, place, hands, seen = observed(eye)
    found = solve_hand_eye(BOARD, CAMERA, seen, hands, eye, method)
    assert between(found.mount, mount) == pytest.approx((0, 0), abs=1e-6) and between(found.board, place) == pytest.approx((0, 0), abs=1e-6)
    assert found.rms_px < 1e-4 and found.left_out == ()


def test_noise_is_reported_and_a_picture_of_a_moving_arm_is_left_out():
    mount, _, hands, seen = observed("in-hand", 14, noise_px=0.2)
    clean = solve_hand_eye(BOARD, CAMERA, seen, hands)
    assert clean.rms_px == pytest.approx(0.2 * np.sqrt(2), rel=0.15)
    distance, angle = between(clean.mount, mount)
    assert distance < 4 * np.linalg.norm(clean.errors[3:]) < 2e-3 and angle < 4 * np.linalg.norm(clean.errors[:3]) < 5e-3
    hands[5] = changed(hands[5], np.array([0.0, 0.15, 0.0, 0.05, 0.0, 0.0]))
    found = solve_hand_eye(BOARD, CAMERA, seen, hands)
    assert found.left_out == (5,) and len(found.view_rms_px) == 13 and found.rms_px == pytest.approx(clean.rms_px, rel=0.2)


def test_a_hand_that_was_not_turned_is_refused():
    _, _, hands, seen = observed("in-hand")
    straight = [pose(turn(np.array([0.0, 0.0, 0.1 * k])), np.array([0.1 * k, 0.0, 0.5])) for k in range(12)]
    with pytest.raises(InputError, match="about one axis only"):
        solve_hand_eye(BOARD, CAMERA, seen, straight)
    with pytest.raises(InputError, match="found in 3 pictures with a known pose, expected at least 5"):
        solve_hand_eye(BOARD, CAMERA, seen[:3], hands[:3])
    with pytest.raises(InputError, match="method 'tsay' is unknown; did you mean 'tsai'"):
        solve_hand_eye(BOARD, CAMERA, seen, hands, method="tsay")


def test_zeros_from_touching_points_in_several_postures():
    kinematics, planted = arm(), np.array([0.0, 0.012, -0.018, 0.015, 0.01, -0.014, 0.0])
    generator, postures = np.random.default_rng(4), []
    for target in ([0.5, 0.1, 0.2], [0.45, -0.15, 0.3], [0.55, 0.0, 0.1]):
        rows = []
        while len(rows) < 5:
            q = kinematics.home + generator.uniform(-0.8, 0.8, 7) + np.array([0, 0, 0, -2.0, 0, 1.1, 0])
            for _ in range(60):
                kinematics.forward(q)
                away = np.array(target) - kinematics.pose("hand")[0]
                jacobian = kinematics.jacobian("hand")[:3]
                q = np.clip(q + jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-6 * np.eye(3), away), kinematics.low, kinematics.high)
            kinematics.forward(q)
            if np.linalg.norm(kinematics.pose("hand")[0] - target) < 1e-9:
                rows.append(q - planted)
        postures.append(np.array(rows))
    found = solve_touches(kinematics, "hand", postures)
    assert found.held == ("joint1", "joint7"), "turning the world, or the tip about itself, changes no touch"
    assert found.offsets == pytest.approx({f"joint{k + 1}": planted[k] for k in range(1, 6)}, abs=1e-6)
    assert found.before > 1e-3 and found.after < 1e-8 and found.unit == "m"
    with pytest.raises(InputError, match="touched in two postures or more"):
        solve_touches(kinematics, "hand", [postures[0][:1]])


def test_zeros_need_a_hand_that_was_turned():
    _, _, _, seen = observed("in-hand")
    with pytest.raises(InputError, match="hardly turned"):
        solve_joints(BOARD, CAMERA, seen, arm(), "hand", np.zeros((12, 7)))


# ---- delays


def swing(t: np.ndarray) -> np.ndarray:
    return np.stack([0.3 * np.sin(2 * np.pi * 0.7 * t), 0.2 * np.sin(2 * np.pi * 1.1 * t + 1)], axis=1)


@settings(max_examples=20)
@given(st.floats(-0.05, 0.3), st.integers(0, 2**16))
def test_a_known_delay_is_found_between_the_samples(delay, seed):
    generator = np.random.default_rng(seed)
    lead, seen = np.arange(0, 6, 0.01), np.sort(generator.uniform(0.6, 5.8, 150))
    mixed = swing(seen - delay) @ np.array([[120.0, -40.0], [30.0, 90.0]]) + np.array([300.0, 200.0])
    found = delay_between(lead, swing(lead), seen, mixed + generator.normal(0, 0.5, mixed.shape))
    assert found.seconds == pytest.approx(delay, abs=2e-3) and found.correlation > 0.99
    assert abs(found.seconds - delay) < 6 * found.error + 1e-4 and found.error < 1e-3


def test_what_does_not_follow_has_no_delay():
    t, generator = np.arange(0, 6, 0.01), np.random.default_rng(0)
    with pytest.raises(InputError, match=r"explains \d+ % of the other only"):
        delay_between(t, swing(t), t, generator.normal(size=(600, 2)))
    with pytest.raises(InputError, match="no joint was commanded to move"):
        actuation_delay(t, np.zeros((600, 2)), t, swing(t))
    with pytest.raises(InputError, match="does not move"):
        delay_between(t, swing(t), t, np.ones((600, 2)))
    with pytest.raises(InputError, match=r"no delay between -0\.1 and 0\.2 s"):
        delay_between(t, swing(t), t, swing(t - 0.3), longest_s=0.2)
    with pytest.raises(InputError, match="expected 30 or more"):
        delay_between(t, swing(t), t[:40], swing(t[:40]))


def test_a_planted_delay_adds_to_that_of_simulated_servos():
    """Physics: the arm's own servos lag; commands that travel 40 ms longer make exactly that much more of it."""
    from sim.registry import make

    found = []
    for late in (0, 4):
        with_env = make("arm/reach", 1)
        try:
            state = with_env.reset(np.array([3], np.int64))["observation.state"][0]
            start, ticks = state[:7].astype(np.float64), np.arange(300)
            commands = start + np.sin(2 * np.pi * 0.8 * ticks / 100)[:, None] * np.array([0.1, 0.05, 0.1, 0.05, 0.1, 0.1, 0.1])
            measured = [with_env.control_step(commands[max(k - late, 0)][None]).next_obs["observation.state"][0, :7].astype(np.float64) for k in ticks]
        finally:
            with_env.close()
        # a command is applied during the tick whose end is measured
        found.append(actuation_delay(ticks / 100, commands, (ticks + 1) / 100, np.array(measured)))
    assert found[1].seconds - found[0].seconds == pytest.approx(0.04, abs=0.002) and 0 < found[0].seconds < 0.06
