"""Joint impedance: by hand, and in a small world under gravity: passive, convergent, as stiff as it says."""

import numpy as np
import pytest

from policies.impedance import JointImpedance, critical_damping
from policies.spec import InputError
from tests.policies.arms import planar_arm

RATE = 1000.0
STIFFNESS = np.array([80.0, 40.0, 15.0])


def controller(damping: float = 4.0) -> JointImpedance:
    return JointImpedance(STIFFNESS, [damping, damping / 2, damping / 6], 200.0, 1e6, RATE)


def test_by_hand() -> None:
    joint = JointImpedance([10.0, 20.0], [1.0, 2.0], [100.0, 100.0], 1e9, RATE)
    zero = joint.start(np.zeros((1, 2)))
    torque, _ = joint.step(zero, np.array([[1.0, 0.5]]), np.array([[0.5, 1.0]]), np.array([[0.2, -0.1]]), np.array([[3.0, -1.0]]))
    np.testing.assert_allclose(torque, [[10 * 0.5 - 0.2 + 3, 20 * -0.5 + 0.2 - 1]])


def test_limits_and_rate_by_hand() -> None:
    joint = JointImpedance([100.0], [0.0], [30.0], [5000.0], RATE)  # 5 N m a tick
    state, seen = joint.start(np.array([[2.0]])), []
    for _ in range(8):
        torque, state = joint.step(state, np.ones((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)))
        seen.append(float(torque[0, 0]))
    assert seen == [7, 12, 17, 22, 27, 30, 30, 30]


def test_rows_do_not_know_of_each_other() -> None:
    rng, joint = np.random.default_rng(0), JointImpedance([10.0, 5.0, 7.0], 0.7, 9.0, 4000.0, RATE)
    state, *numbers = rng.standard_normal((5, 6, 3))
    together, _ = joint.step(state, *numbers)
    for row in range(6):
        alone, _ = joint.step(state[row : row + 1], *(a[row : row + 1] for a in numbers))
        assert (alone[0] == together[row]).all()


class World:
    """A three-link arm in the vertical plane with motors."""

    def __init__(self) -> None:
        import mujoco

        self.mj = mujoco
        self.model = mujoco.MjModel.from_xml_string(planar_arm(upright=True, motors=True))  # type: ignore[attr-defined]
        self.data = mujoco.MjData(self.model)  # type: ignore[attr-defined]
        self.mj.mj_forward(self.model, self.data)  # type: ignore[attr-defined]

    def place(self, q: list[float]) -> None:
        self.data.qpos[:] = q
        self.mj.mj_forward(self.model, self.data)  # type: ignore[attr-defined]

    def run(self, joint: JointImpedance, target: np.ndarray, seconds: float) -> np.ndarray:
        """Return kinetic energy plus that of the springs after every tick."""
        data, out = self.data, []
        state = joint.start(data.qfrc_bias[None])
        for _ in range(int(seconds * RATE)):
            torque, state = joint.step(state, target[None], data.qpos[None].copy(), data.qvel[None].copy(), data.qfrc_bias[None].copy())
            data.ctrl[:] = torque[0]
            self.mj.mj_step(self.model, data)  # type: ignore[attr-defined]
            inertia = np.zeros((3, 3))
            self.mj.mj_fullM(self.model, inertia, data.qM) if hasattr(data, "qM") else self.mj.mj_fullM(self.model, data, inertia)  # type: ignore[attr-defined]
            out.append(0.5 * data.qvel @ inertia @ data.qvel + 0.5 * (STIFFNESS * (target - data.qpos) ** 2).sum())
        return np.array(out)


def test_it_is_passive_and_converges_under_gravity() -> None:
    world = World()
    world.place([0.3, -0.5, 0.4])
    target = np.array([0.8, 0.2, -0.3])
    energy = world.run(controller(), target, 6.0)
    assert (np.diff(energy) <= 1e-4 * energy[0]).all()
    np.testing.assert_allclose(world.data.qpos, target, atol=1e-4)


def test_with_negative_damping_the_same_check_sees_energy_rise() -> None:
    world = World()
    world.place([0.3, -0.5, 0.4])
    active = controller()
    active.damping = -0.1 * active.damping
    energy = world.run(active, np.array([0.8, 0.2, -0.3]), 1.0)
    assert not (np.diff(energy) <= 1e-4 * energy[0]).all()


def test_it_gives_way_by_its_stiffness() -> None:
    """Under a force at the hand the joints yield by J^T F / K."""
    world, target = World(), np.array([0.5, 0.3, 0.2])
    world.place(list(target))
    force = np.array([6.0, 0.0, -9.0])
    site, body = world.model.site("hand").id, world.model.body("link3").id
    jacobian = np.zeros((3, 3))
    for _ in range(2):  # the second time at the settled configuration; the force acts on the hand's place
        world.mj.mj_jacSite(world.model, world.data, jacobian, None, site)  # type: ignore[attr-defined]
        world.data.qfrc_applied[:] = jacobian.T @ force
        assert body >= 0
        world.run(controller(), target, 3.0)
    yielded = world.data.qpos - target
    np.testing.assert_allclose(world.data.qfrc_applied / yielded, STIFFNESS, rtol=0.02)
    assert np.abs(yielded).max() > 0.02


def test_critical_damping_by_hand() -> None:
    np.testing.assert_allclose(critical_damping(np.array([100.0, 4.0]), np.array([0.25, 1.0])), [10.0, 4.0])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (([-1.0], [1.0], [1.0], [1.0], 10.0), "stiffness of joint 0: expected a number from 0, found -1"),
        (([1.0, 1.0], [1.0, np.nan], [1.0], [1.0], 10.0), "damping of joint 1"),
        (([1.0], [1.0], [0.0], [1.0], 10.0), "torque of joint 0: expected a number above 0, found 0"),
        (([1.0], [1.0], [1.0], [1.0], 0.0), "rate above 0"),
    ],
)
def test_bad_numbers_are_one_line(numbers: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        JointImpedance(*numbers)


def test_what_is_not_finite_never_becomes_a_torque() -> None:
    joint = JointImpedance([1.0, 1.0], 1.0, 1.0, 1.0, RATE)
    good = [np.zeros((1, 2)) for _ in range(5)]
    for place in range(1, 5):
        bad = [a.copy() for a in good]
        bad[place][0, 1] = np.nan
        with pytest.raises(ValueError, match="expected finite"):
            joint.step(*bad)
        bad[place] = np.zeros((1, 3))
        with pytest.raises(ValueError, match="expected shape"):
            joint.step(*bad)
