"""The MuJoCo engine: what it hands out is live, states come back bit for bit, resets and forces are the library's own."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from policies.spec import InputError
from sim.batch import MujocoEngine
from sim.engine import Engine, make_engine

mj: Any = mujoco

WALKER = """
<mujoco>
  <option timestep="0.004" integrator="{integrator}"/>
  <worldbody>
    <geom type="plane" size="5 5 0.1"/>
    <body name="target" mocap="true" pos="0.3 0.2 0.9"/>
    <body name="trunk" pos="0 0 0.35">
      <freejoint/>
      <geom name="trunk" type="box" size="0.15 0.1 0.05" mass="2"/>
      <site name="nose" pos="0.2 0 0"/>
      <body pos="0.1 0 -0.05">
        <joint name="front" axis="0 1 0" damping="0.2" range="-1 1" limited="true"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.03" mass="0.3"/>
      </body>
      <body pos="-0.1 0 -0.05">
        <joint name="rear" axis="0 1 0" damping="0.2" range="-1 1" limited="true"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.03" mass="0.3"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="front" kp="20"/>
    <general joint="rear" dyntype="filter" dynprm="0.05" gainprm="20" biastype="affine" biasprm="0 -20 0"/>
  </actuator>
  <sensor><velocimeter site="nose"/><framepos objtype="site" objname="nose"/></sensor>
</mujoco>
"""
TICKS = 5


def model_of(integrator: str = "implicitfast") -> Any:
    return mj.MjModel.from_xml_string(WALKER.format(integrator=integrator))


def make(num_worlds: int, threads: int = 1, integrator: str = "implicitfast", persistent: bool = False) -> MujocoEngine:
    engine = MujocoEngine(model_of(integrator), num_worlds, threads, persistent)
    engine.bind("qvel")[:, 0] = np.linspace(0.1, 0.5, num_worlds)
    engine.forward()
    return engine


def controls(steps: int, num_worlds: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, num_worlds, 2))


def run(engine: MujocoEngine, commands: np.ndarray, fresh: bool = True) -> None:
    ctrl = engine.bind("ctrl")
    for command in commands:
        ctrl[:] = command
        engine.step(None, TICKS, fresh)


def test_it_is_an_engine() -> None:
    engine = make_engine("mujoco", model_of(), 2)
    assert isinstance(engine, Engine) and engine.num_worlds == 2
    engine.close()
    engine.close()


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("integrator", ["implicitfast", "RK4"])
@pytest.mark.parametrize("persistent", [True, False])
def test_every_world_is_the_librarys_own_loop(integrator: str, fresh: bool, persistent: bool) -> None:
    engine, commands = make(5, 2, integrator, persistent), controls(40, 5)
    data = [mj.MjData(engine.model) for _ in range(5)]
    for row, d in enumerate(data):
        d.qvel[:] = engine.bind("qvel")[row]
        mj.mj_forward(engine.model, d)
    bound = {name: engine.bind(name) for name in ("qpos", "qvel", "act", "site_xpos", "sensordata", "xpos")}
    for k in range(40):
        run(engine, commands[k : k + 1], fresh)
        for row, d in enumerate(data):
            d.ctrl[:] = commands[k, row]
            mj.mj_step(engine.model, d, TICKS)
            if fresh and k == 39:  # (on its own data: the stages are computed once more before the next step)
                mj.mj_step1(engine.model, d)
            for name, array in bound.items():
                if fresh and k < 39 and name in ("site_xpos", "sensordata", "xpos"):
                    continue
                np.testing.assert_array_equal(array[row], getattr(d, name), err_msg=f"{name} at {k}")
    assert engine.bind("qpos")[:, 2].min() < 0.34  # they stand on the ground: contacts are among what was compared
    engine.close()


@pytest.mark.parametrize("integrator", ["implicitfast", "RK4"])
def test_a_state_comes_back_bit_for_bit_also_in_other_worlds(integrator: str) -> None:
    engine, commands = make(4, 1, integrator), controls(50, 4)
    run(engine, commands[:20])
    kept = engine.save()
    some = engine.save(np.array([1, 3]))
    np.testing.assert_array_equal(some, kept[[1, 3]])
    run(engine, commands[20:])
    expected = engine.save()
    engine.load(kept)
    run(engine, commands[20:])
    np.testing.assert_array_equal(engine.save(), expected)
    other = make(3, 2, integrator)
    run(other, controls(7, 3, seed=9))
    other.load(some, np.array([0, 2]))
    run(other, commands[20:, [1, 0, 3]])
    np.testing.assert_array_equal(other.save(np.array([0, 2])), expected[[1, 3]])
    assert (kept[0] != expected[0]).any()
    engine.close(), other.close()


def test_what_was_saved_is_a_copy() -> None:
    engine = make(2)
    kept = engine.save()
    before = kept.copy()
    run(engine, controls(3, 2))
    np.testing.assert_array_equal(kept, before)
    engine.close()


@pytest.mark.parametrize("expanded", [False, True])
def test_a_reset_world_is_as_the_model_says(expanded: bool) -> None:
    engine = make(3)
    if expanded:
        engine.expand("body_mass")[:, 2] = (1.0, 2.0, 3.0)
        engine.refresh()
    run(engine, controls(30, 3))
    others = engine.save(np.array([0, 2]))
    engine.bind("mocap_pos")[1], engine.bind("xfrc_applied")[1] = 5.0, 1.0
    engine.reset(np.array([1]))
    clean = mj.MjData(engine.model)
    for name in ("qpos", "qvel", "act", "ctrl", "mocap_pos", "mocap_quat", "qfrc_applied", "xfrc_applied", "qacc_warmstart", "time"):
        np.testing.assert_array_equal(engine.bind(name)[1], getattr(clean, name), err_msg=name)
    np.testing.assert_array_equal(engine.save(np.array([0, 2])), others)
    engine.forward(np.array([1]))
    mj.mj_forward(engine.model, clean)
    np.testing.assert_array_equal(engine.bind("site_xpos")[1], clean.site_xpos)
    engine.reset()
    np.testing.assert_array_equal(engine.save()[0], engine.save()[1])
    engine.close()


def test_where_a_world_begins_follows_its_own_model_fields() -> None:
    engine = make(2)
    engine.expand("qpos0")[1, 2] = 0.8
    engine.reset()
    np.testing.assert_array_equal(engine.bind("qpos")[:, 2], [0.35, 0.8])
    engine.close()


def test_steps_of_some_worlds_leave_the_others_alone() -> None:
    engine, alone = make(3), make(3)
    rows = np.array([0, 2])
    before = engine.save(np.array([1]))
    commands = controls(10, 3)
    for command in commands:
        engine.bind("ctrl")[:] = command
        engine.step(rows, TICKS)
    run(alone, commands)
    np.testing.assert_array_equal(engine.bind("qpos")[rows], alone.bind("qpos")[rows])
    np.testing.assert_array_equal(engine.bind("qpos")[1], before[0, 1 : 1 + engine.model.nq])
    engine.close(), alone.close()


def test_contact_forces_are_those_of_the_last_tick() -> None:
    engine, commands = make(3, 2, persistent=True), controls(40, 3)
    forces = np.zeros((3, engine.model.nbody, 6))
    data = mj.MjData(engine.model)
    data.qvel[:] = engine.bind("qvel")[1]
    mj.mj_forward(engine.model, data)
    largest = 0.0
    for command in commands:
        run(engine, command[None], fresh=False)
        data.ctrl[:] = command[1]
        mj.mj_step(engine.model, data, TICKS)
        engine.contact_forces(forces)
        mj.mj_rnePostConstraint(engine.model, data)
        np.testing.assert_array_equal(forces[1], data.cfrc_ext)
        largest = max(largest, float(np.abs(forces[1]).max()))
    assert largest > 20.0
    engine.close()


def test_a_scene_is_one_world_with_its_own_fields() -> None:
    engine = make(2)
    engine.expand("geom_size")[1, 1] = (0.3, 0.2, 0.1)
    run(engine, controls(5, 2))
    model, data = engine.scene(1)
    np.testing.assert_array_equal(model.geom_size[1], (0.3, 0.2, 0.1))
    np.testing.assert_array_equal(data.qpos, engine.bind("qpos")[1])
    fresh = mj.MjData(model)
    fresh.qpos[:] = data.qpos
    mj.mj_kinematics(model, fresh)
    np.testing.assert_allclose(data.site_xpos, fresh.site_xpos, atol=1e-12)
    assert engine.scene(0)[0].geom_size[1].tolist() == [0.15, 0.1, 0.05]
    engine.close()


@pytest.mark.parametrize(("call", "hint"), [("bind", "did you mean 'site_xpos'?"), ("expand", "did you mean 'body_mass'?")])
def test_an_unknown_field_is_refused_in_one_line(call: str, hint: str) -> None:
    engine = make(1)
    wrong = {"bind": "site_xpoz", "expand": "body_mas"}[call]
    with pytest.raises(InputError, match=wrong) as caught:
        getattr(engine, call)(wrong)
    assert hint in str(caught.value) and "\n" not in str(caught.value)
    engine.close()


def test_a_field_bound_late_is_that_of_the_present_state() -> None:
    early, late = make(3), make(3)
    nose = early.bind("site_xpos")
    commands = controls(30, 3)
    run(early, commands[:15]), run(late, commands[:15])
    np.testing.assert_array_equal(late.bind("site_xpos"), nose)
    run(early, commands[15:]), run(late, commands[15:])
    np.testing.assert_array_equal(late.bind("site_xpos"), nose)
    np.testing.assert_array_equal(late.save(), early.save())
    early.close(), late.close()
