"""What touches a joint with a rotor: fixed points by closed forms, impacts, weights, friction, and gaits that hold in both engines."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from sim import registry
from sim.bullet_rotors import TRIES, rotor_inertia, settle
from sim.engine import Engine, make_engine
from tests.require import require

GRAVITY, STEP = 9.81, 0.002
ENGINES = ("mujoco", "bullet")


@pytest.fixture(autouse=True)
def _bullet() -> None:
    require("bullet")


def started(name: str, body: str, option: str = f'timestep="{STEP}" integrator="implicitfast"', rest: str = "") -> Engine:
    import mujoco

    mj: Any = mujoco
    made = make_engine(name, mj.MjModel.from_xml_string(f"<mujoco><option {option}/><worldbody>{body}</worldbody>{rest}</mujoco>"), 1)
    made.reset()
    return made


# The fixed point ------------------------------------------------------------------------------------------------------


@hypothesis.given(st.integers(0, 10_000), st.floats(0.01, 30.0))
@hypothesis.settings(max_examples=40, deadline=None)
def test_a_contact_meets_links_with_their_rotors(seed: int, heavy: float) -> None:
    """Two unilateral contacts that Bullet would hold for M: the tick that comes out is that of H, solved directly, unless tries ran out."""
    rng, n = np.random.default_rng(seed), 5
    root = rng.normal(size=(n, n))
    inertia, rotors = root @ root.T + 0.5 * np.eye(n), heavy * rng.uniform(0, 1, n)
    before, wanted, bias, touched = rng.normal(size=n), rng.normal(size=n), rng.normal(size=n), rng.normal(size=(2, n))
    seen: list[np.ndarray] = []

    def held(mass: np.ndarray, sent: np.ndarray) -> np.ndarray:
        """Velocities after a tick in which ``touched`` rows may not approach, by trying all four sets of contacts that hold."""
        loose, mobile = before + STEP * np.linalg.solve(mass, sent - bias), np.linalg.inv(mass)
        for rows in ([], [0], [1], [0, 1]):
            jacobian = touched[rows]
            push = np.linalg.solve(jacobian @ mobile @ jacobian.T, -jacobian @ loose) if rows else np.zeros(0)
            after = loose + mobile @ jacobian.T @ push
            if (push >= -1e-12).all() and (touched @ after >= -1e-9).all():
                return after
        raise AssertionError("a linear complementarity problem of a positive definite matrix has a solution")

    def tick(rows: np.ndarray, sent: np.ndarray) -> np.ndarray:
        assert rows.tolist() == [0]
        seen.append(held(inertia, sent[0]))
        return seen[-1][None]

    whole = inertia + np.diag(rotors)
    force = inertia @ wanted + bias  # so that without contacts it accelerates as wanted
    still = np.zeros((1, n))
    reaction = settle(tick, lambda rows: None, inertia[None], rotors[None], force[None], bias[None], before[None], still, STEP)[0]
    exact = held(whole, whole @ wanted + bias)
    moved = STEP * np.abs(np.linalg.solve(whole, reaction)).max()
    assert np.abs(seen[-1] - exact).max() < 0.02 + 0.1 * moved or len(seen) == TRIES
    if not rotors.any() or not reaction.any():
        assert len(seen) == 1


@pytest.mark.parametrize("task", ["arm/push", "locomotion/hopper", "locomotion/cheetah", "locomotion/quadruped", "classic/cartpole"])
def test_rotors_are_what_mujoco_adds_to_the_inertia(task: str) -> None:
    """H by MuJoCo's own steps: the change of acceleration with a small force on each joint in turn is its inverse."""
    import mujoco

    mj: Any = mujoco
    env: Any = registry.make(task)
    env.reset(np.array([3]))
    model, nv, stands = env.model, env.model.nv, env.qpos[0].copy()
    model.opt.disableflags |= int(mj.mjtDisableBit.mjDSBL_CONSTRAINT | mj.mjtDisableBit.mjDSBL_CONTACT)
    data, dense = mj.MjData(model), np.zeros((nv, nv))
    after = []
    for k in range(-1, nv):
        mj.mj_resetData(model, data)
        data.qpos[:] = stands
        for servo in np.flatnonzero(model.actuator_biastype):
            data.ctrl[servo] = data.qpos[model.jnt_qposadr[model.actuator_trnid[servo, 0]]]  # far from their limits of force
        data.qfrc_applied[:] = 0.01 * (np.arange(nv) == k)
        mj.mj_forward(model, data)
        mj.mj_fullM(model, data, dense)
        mj.mj_step(model, data)
        after.append(data.qvel.copy())
    inverse = (np.array(after[1:]) - after[0]).T / (0.01 * model.opt.timestep)
    fields = (np.asarray(getattr(model, name))[None] for name in ("dof_armature", "dof_damping", "actuator_biasprm", "actuator_gear"))
    found = dense - np.diag(model.dof_armature) + np.diag(rotor_inertia(model, *fields)[0])
    np.testing.assert_allclose(inverse @ found, np.eye(nv), atol=1e-4)
    env.close()


# Closed forms in both engines -------------------------------------------------------------------------------------------


def test_a_ball_that_meets_a_slider_shares_its_momentum_with_the_rotor() -> None:
    """Without bounce both go on with m v / (m + M + A), however far the rotor's inertia A is above the slider's mass M."""
    for rotor in (0.0, 2.0, 40.0):
        body = f"""<body pos="0.25 0 0"><joint type="slide" axis="1 0 0" armature="{rotor}"/><geom type="box" size="0.1 0.2 0.2" mass="0.5"/></body>
          <body><joint type="slide" axis="1 0 0"/><geom type="sphere" size="0.1" mass="1.5"/></body>"""
        made, speed = started("bullet", body, f'timestep="{STEP}" gravity="0 0 0"'), 2.0
        made.bind("qvel")[:, 1] = speed
        made.step(None, 60)
        np.testing.assert_allclose(made.bind("qvel")[0], 1.5 * speed / (1.5 + 0.5 + rotor), rtol=0.01, atol=0.01 * speed)  # settled to 1 % of what changes
        made.close()


@pytest.mark.parametrize("name", ENGINES)
def test_a_sliding_block_slows_down_by_friction_times_gravity(name: str) -> None:
    body = '<geom type="plane" size="9 9 1" friction="0.3"/><body pos="0 0 0.0999"><freejoint/><geom type="box" size="0.2 0.2 0.1" friction="0.3"/></body>'
    made = started(name, body, f'timestep="{STEP}" cone="elliptic" impratio="10"')
    speed = made.bind("qvel")
    made.step(None, 100)  # it settles
    speed[0, 0] = 4.0
    made.step(None, 150)  # and sways when it begins to slide
    first = speed[0].copy()
    made.step(None, 350)
    gained = (speed[0] - first) / (350 * STEP)
    np.testing.assert_allclose(-gained[0], 0.3 * (GRAVITY + gained[2]), rtol=3e-3)  # what presses is the weight, and what its small hops take
    np.testing.assert_allclose(-gained[0], 0.3 * GRAVITY, rtol=0.05)
    made.close()


LEG = """<geom type="plane" size="5 5 1"/><body pos="0 0 0.6"><joint name="z" type="slide" axis="0 0 1"/><geom type="box" size="0.1 0.1 0.05" mass="4"/>
  <body><joint name="hip" axis="0 1 0" armature="0.1" damping="1"/><geom type="capsule" fromto="0 0 0 0 0 -0.3" size="0.03" mass="0.5" contype="0"/>
    <body pos="0 0 -0.3"><joint name="knee" axis="0 1 0" armature="0.1" damping="1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.27" size="0.03" mass="0.3" contype="0" conaffinity="0"/>
      <geom type="sphere" pos="0 0 -0.27" size="0.03" mass="0.1"/>
    </body></body></body>"""


@pytest.mark.parametrize("name", ENGINES)
def test_a_standing_leg_presses_with_its_weight(name: str) -> None:
    """With servos at both joints: 4.9 kg on one foot, in both engines; and nothing of it once it is lifted."""
    rest = '<actuator><position joint="hip" kp="500" kv="10"/><position joint="knee" kp="500" kv="10"/></actuator>'
    made = started(name, LEG, rest=rest)
    made.bind("ctrl")[:] = 0.4, -0.8
    made.step(None, 1500)
    assert np.abs(made.bind("qvel")).max() < 0.01
    np.testing.assert_allclose(pressed(made), 4.9 * GRAVITY, rtol=0.01)
    made.bind("qpos")[:, 0] += 0.5
    made.forward()
    made.step(None, 1)
    assert pressed(made) == 0.0
    made.close()


def pressed(made: Engine) -> float:
    """Return the sum of all normal contact forces of the last tick, N."""
    if made.name == "bullet":
        world = made._worlds[0]  # type: ignore[attr-defined]
        return float(sum(contact[9] for contact in world._p.getContactPoints(**world._c)))
    import mujoco

    mj: Any = mujoco
    model, data = made.scene(0)
    force, total = np.zeros(6), 0.0
    for k in range(data.ncon):
        mj.mj_contactForce(model, data, k, force)
        total += force[0]
    return total


# Tasks ------------------------------------------------------------------------------------------------------------------


def run(task: str, engine: str, steps: int, num_worlds: int) -> Any:
    env = registry.make(task, num_worlds, engine=engine)
    env.reset(np.arange(num_worlds) + 40)
    result = None
    for _ in range(steps):
        result = env.step(env.expert_action())
    env.close()
    return result


def test_gaits_made_in_mujoco_hold_in_bullet() -> None:
    """The hopper's comes as far, within a sixth; contacts without rotors leave it stumbling after two seconds at 1 to 10 m."""
    far = {engine: run("locomotion/hopper", engine, 150, 2).info["distance"].mean() for engine in ENGINES}
    assert far["mujoco"] > 1.2 and abs(far["bullet"] / far["mujoco"] - 1) < 1 / 6
    walked = run("locomotion/quadruped", "bullet", 60, 1)
    assert not walked.terminated.any()


@pytest.mark.parametrize("task", ["arm/push", "locomotion/hopper"])
def test_worlds_of_both_engines_are_one_task(task: str) -> None:
    """The same spec, limits, first observations and rewards of a step in the air; pictures of both worlds are the same."""
    require("egl")
    one, two = (registry.make(task, 2, engine=engine) for engine in ENGINES)
    assert one.spec == two.spec and one.max_episode_steps == two.max_episode_steps and one.suite_version != two.suite_version
    seeds = np.array([7, 8])
    first = [env.reset(seeds) for env in (one, two)]
    for name, values in first[0].items():
        np.testing.assert_array_equal(values, first[1][name])
    pictures = [env.render(np.array([1])) for env in (one, two)]
    assert pictures[0] is not None and pictures[1] is not None and np.abs(pictures[0].astype(int) - pictures[1].astype(int)).mean() < 0.5
    steps = [env.step(env.expert_action()) for env in (one, two)]
    np.testing.assert_allclose(steps[0].reward, steps[1].reward, atol=2e-3)
    assert steps[0].info.keys() == steps[1].info.keys()
    one.close()
    two.close()
