"""Bullet against closed forms and against MuJoCo: the same robot under the same forces, friction, limits, contacts, refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ellipk

from policies.spec import InputError
from sim import bullet_model
from sim.engine import Engine, make_engine
from sim.suites import arm
from tests.require import require

GRAVITY = 9.81  # m/s^2
HOME = np.array(arm.HOME)


@pytest.fixture(autouse=True)
def _bullet() -> None:
    require("bullet")


def compiled(body: str, option: str = 'timestep="0.002"', rest: str = "") -> Any:
    import mujoco

    return mujoco.MjModel.from_xml_string(f"<mujoco><option {option}/><worldbody>{body}</worldbody>{rest}</mujoco>")


def started(name: str, model: Any, qpos: Any = None, qvel: Any = None, num_worlds: int = 1) -> Engine:
    made = make_engine(name, model, num_worlds)
    made.reset()
    if qpos is not None:
        made.bind("qpos")[:] = qpos
    if qvel is not None:
        made.bind("qvel")[:] = qvel
    return made


def rolled(made: Engine, ticks: int, act: Callable[[float], None] = lambda _: None) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (ticks, nq) and velocities (ticks, nv) of the first world."""
    qpos, qvel = made.bind("qpos"), made.bind("qvel")
    out = np.zeros((ticks, qpos.shape[1])), np.zeros((ticks, qvel.shape[1]))
    for t in range(ticks):
        act(t * made.model.opt.timestep)
        made.step(None, 1)
        out[0][t], out[1][t] = qpos[0], qvel[0]
    made.close()
    return out


# Closed forms --------------------------------------------------------------------------------------------------------

PENDULUM = """<body pos="0 0 1"><joint name="hinge" type="hinge" axis="0 1 0"/>
  <geom type="capsule" fromto="0 0 -0.3 0 0 -0.7" size="0.04" mass="1.7" contype="0" conaffinity="0"/></body>"""


@pytest.mark.parametrize("name", ["mujoco", "bullet"])
@pytest.mark.parametrize("amplitude", [0.05, 1.2])
def test_a_pendulum_keeps_its_period_and_its_energy(name: str, amplitude: float) -> None:
    """Period of a physical pendulum: 4 K(sin^2(a/2)) sqrt(I / (m g l)), K the complete elliptic integral of the first kind."""
    model, step = compiled(PENDULUM, 'timestep="0.001"'), 0.001
    mass, lever = float(model.body_mass[1]), 0.5
    inertia = float(model.body_inertia[1, 0]) + mass * lever**2
    period = 4 * ellipk(np.sin(amplitude / 2) ** 2) * np.sqrt(inertia / (mass * GRAVITY * lever))
    angle, speed = (array[:, 0] for array in rolled(started(name, model, amplitude), 4000))
    down = np.flatnonzero((angle[:-1] > 0) & (angle[1:] <= 0))
    crossed = (down + 1 + angle[down] / (angle[down] - angle[down + 1])) * step
    assert len(crossed) >= 2 and abs(np.diff(crossed).mean() / period - 1) < 1e-4
    energy = 0.5 * inertia * speed**2 - mass * GRAVITY * lever * np.cos(angle)
    scale = mass * GRAVITY * lever * (1 - np.cos(amplitude))
    assert np.abs(energy + mass * GRAVITY * lever * np.cos(amplitude)).max() < 5e-3 * scale


def test_a_block_slides_as_far_as_friction_allows() -> None:
    """v^2 / (2 mu g), in worlds with friction of their own; the floor's and the block's count by the larger."""
    body = """<geom type="plane" size="9 9 1" friction="0.1"/>
      <body pos="0 0 0.0999"><freejoint/><geom type="box" size="0.2 0.2 0.1" friction="0.4"/></body>"""
    made, speed = started("bullet", compiled(body), num_worlds=3), 2.0
    friction = made.expand("geom_friction")
    friction[1, 1, 0], friction[2, 0, 0] = 0.8, 0.6
    made.refresh()
    made.bind("qvel")[:, 0] = speed
    made.step(None, 800)
    far, expected = made.bind("qpos")[:, 0], speed**2 / (2 * np.array([0.4, 0.8, 0.6]) * GRAVITY)
    np.testing.assert_allclose(far, expected, rtol=0.03)
    assert np.abs(made.bind("qvel")).max() < 0.01
    made.close()


def test_joint_friction_and_limits() -> None:
    """A spinning bar loses speed at loss / inertia and stops; a falling one is held by its limit."""
    bar = '<geom type="box" size="0.3 0.02 0.02" mass="2" contype="0" conaffinity="0"/>'
    body = f'<body><joint type="hinge" axis="0 0 1" frictionloss="0.05"/>{bar}</body>'
    body += f'<body pos="0 2 0"><joint type="hinge" axis="0 1 0" pos="-0.3 0 0" range="-20 35" limited="true"/>{bar}</body>'
    model = compiled(body)
    spin = 3.0
    angle, speed = rolled(started("bullet", model, qvel=[spin, 0.0]), 2000)
    slowing = 0.05 / float(model.body_inertia[1].max())  # rad/s^2: it stops after 3.6 s
    np.testing.assert_allclose(speed[99, 0], spin - slowing * 0.2, rtol=1e-3)
    np.testing.assert_allclose(angle[-1, 0], spin**2 / (2 * slowing), rtol=5e-3)
    assert abs(speed[-1, 0]) < 1e-6
    assert angle[:, 1].max() < np.radians(35) + 0.05 and abs(angle[-1, 1] - np.radians(35)) < 0.005 and abs(speed[-1, 1]) < 1e-3


def test_a_thrown_body_flies_a_parabola_and_keeps_its_spin() -> None:
    """Its centre of mass, which is beside its frame, falls freely; angular momentum stays, though the axis wanders."""
    geom = '<geom type="box" size="0.1 0.2 0.05" pos="0.1 0.05 0" euler="20 30 10" mass="2" contype="0" conaffinity="0"/>'
    model = compiled(f"<body><freejoint/>{geom}</body>", 'timestep="0.0005"')
    thrown = np.array([0.3, -0.2, 2.0, 1.5, -2.0, 0.7])  # m/s in the world, rad/s in the body
    made = started("bullet", model, qvel=thrown)
    made.bind("xipos"), made.forward()
    centre, spin, turned = made.bind("xipos"), made.bind("qvel"), made.bind("ximat")
    made.forward()
    own = model.body_iquat[1]
    start, lever = centre[0, 1].copy(), model.body_ipos[1]

    def momentum() -> np.ndarray:
        frame = turned[0, 1].reshape(3, 3)
        return frame @ (model.body_inertia[1] * bullet_model.rotated(bullet_model.inverse(own), spin[0, 3:]))

    first = momentum()
    made.step(None, 2000)
    velocity = thrown[:3] + np.cross(thrown[3:], lever)
    np.testing.assert_allclose(centre[0, 1], start + velocity - [0, 0, GRAVITY / 2], atol=5e-3)
    np.testing.assert_allclose(momentum(), first, atol=5e-3 * np.linalg.norm(first))
    assert np.abs(spin[0, 3:] - thrown[3:]).max() > 0.05
    made.close()


def test_a_ram_with_a_heavy_rotor_presses_with_its_own_force() -> None:
    """Armature five times the ram's mass: at rest the force on the floor is that of the motor and the weights, whoever carries it."""
    body = """<geom type="plane" size="5 5 0.1"/>
      <body pos="0 0 0.3"><joint name="ram" type="slide" axis="0 0 1" armature="5" damping="1"/><geom type="box" size="0.05 0.05 0.05" mass="1"/></body>
      <body pos="0 0 0.1"><freejoint/><geom type="box" size="0.1 0.1 0.1" mass="1"/></body>"""
    made = started("bullet", compiled(body, rest='<actuator><motor joint="ram"/></actuator>'))
    made.bind("ctrl")[:] = -20.0
    made.step(None, 1000)
    world = made._worlds[0]  # type: ignore[attr-defined]
    forces: dict[tuple[int, int], float] = {}
    for contact in world._p.getContactPoints(**world._c):
        forces[contact[1:3]] = forces.get(contact[1:3], 0.0) + contact[9]
    np.testing.assert_allclose(sorted(forces.values()), [20 + GRAVITY, 20 + 2 * GRAVITY], rtol=5e-3)
    made.close()


# The same robot -------------------------------------------------------------------------------------------------------


def arm_model(motors: bool) -> Any:
    import mujoco

    spec = mujoco.MjSpec.from_string(arm.robot_model())
    if motors:
        for actuator in list(spec.actuators):
            spec.delete(actuator)
        for joint in arm.JOINTS:
            spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    return spec.compile()


def test_bullet_and_mujoco_have_the_same_inertia() -> None:
    """Bullet's own inverse dynamics of the arm against MuJoCo's, less the armature, which Bullet does not know."""
    import mujoco

    model = arm_model(motors=True)
    made = started("bullet", model)
    world, data = made._worlds[0], mujoco.MjData(model)  # type: ignore[attr-defined]
    (links, _, _), tree = world.joints[0], world._trees[0]
    rng, dense = np.random.default_rng(0), np.zeros((model.nv, model.nv))
    for _ in range(10):
        data.qpos[:], data.qvel[:] = HOME + rng.normal(0, 0.5, 7), rng.normal(0, 1, 7)
        mujoco.mj_forward(model, data)
        mujoco.mj_fullM(model, data, dense)
        np.testing.assert_allclose(world._p.calculateMassMatrix(tree, data.qpos.tolist(), **world._c), dense - np.diag(model.dof_armature), atol=1e-9)
        bias = world._p.calculateInverseDynamics(tree, data.qpos.tolist(), data.qvel.tolist(), [0.0] * len(links), **world._c)
        np.testing.assert_allclose(bias, data.qfrc_bias, atol=1e-8)
    made.close()


@pytest.mark.parametrize("motors", [True, False])
def test_the_arm_moves_alike_in_both_engines(motors: bool) -> None:
    """One second of gentle torques, and of its position servos: within 1e-6 rad (the two integrate free joints alike; seen: 1e-14)."""
    model, phase, paths = arm_model(motors), np.arange(7.0), []
    for name in ("mujoco", "bullet"):
        made = started(name, model, HOME)
        ctrl = made.bind("ctrl")

        def act(time: float, ctrl: np.ndarray = ctrl) -> None:
            ctrl[:] = np.array([3, 3, 2, 2, 1, 1, 0.5]) * np.sin(4 * time + phase) if motors else HOME + 0.3 * np.sin(2 * time + phase)

        paths.append(rolled(made, 500, act)[0])
    assert np.ptp(paths[0], axis=0).min() > 0.01
    np.testing.assert_allclose(paths[1], paths[0], atol=1e-6)


def test_a_floating_tree_moves_alike_in_both_engines() -> None:
    """Three joints of one body that do not meet in a point, on a body that floats: within 5 mm and 5 mrad over a second."""
    free = 'contype="0" conaffinity="0"'
    body = f"""<body pos="0 0 1"><freejoint/><geom type="box" size="0.1 0.2 0.05" pos="0.1 0.05 0" euler="20 30 10" mass="2" {free}/>
      <body pos="0.2 0 0"><joint type="hinge" axis="0 1 0" pos="0.05 0 0.02"/><joint type="slide" axis="1 0 1"/><joint axis="0 0 1" damping="0.01"/>
        <geom type="capsule" fromto="0 0 0 0 0.1 0.3" size="0.03" mass="0.5" {free}/>
        <body pos="0 0.1 0.3"><geom type="sphere" size="0.05" mass="0.3" {free}/></body></body></body>"""
    speed = np.array([0.1, 0.2, 1.0, 1.0, -2.0, 0.5, 0.3, 0.1, -0.4])
    one, two = (rolled(started(name, compiled(body), qvel=speed), 500)[0] for name in ("mujoco", "bullet"))
    assert np.abs(two[-1] - two[0]).max() > 0.5
    np.testing.assert_allclose(two, one, atol=5e-3)


def test_boxes_come_to_rest_alike_and_a_mocap_body_pushes_them() -> None:
    body = """<geom type="plane" size="5 5 0.1"/><body pos="0 0 0.3"><freejoint/><geom type="box" size="0.1 0.1 0.1" mass="1"/></body>
      <body name="hand" mocap="true" pos="-0.4 0 0.1" quat="1 0 0 0"><body pos="0.1 0 0"><geom type="box" size="0.05 0.2 0.05"/></body></body>"""
    ends = []
    for name in ("mujoco", "bullet"):
        made = started(name, compiled(body))
        hand = made.bind("mocap_pos")

        def act(time: float, hand: np.ndarray = hand) -> None:
            hand[0, 0, 0] = -0.4 + 0.3 * min(max(time - 0.6, 0.0), 1.0)

        path = rolled(made, 900, act)[0]
        ends.append([path[290, 2], path[290, 0], path[-1, 0]])
    np.testing.assert_allclose(ends[1], ends[0], atol=0.01)
    assert abs(ends[1][0] - 0.1) < 2e-3 and abs(ends[1][1]) < 1e-3 and ends[1][2] > 0.03


def test_contacts_of_the_past_leave_no_trace() -> None:
    body = """<geom type="plane" size="5 5 0.1"/><body pos="0 0 0.3"><freejoint/><geom type="capsule" size="0.1 0.2" mass="1"/></body>
      <body pos="0.1 0 0.6"><freejoint/><geom type="cylinder" size="0.1 0.1" mass="1"/></body>"""
    made = started("bullet", compiled(body), num_worlds=2)
    made.step(None, 200)
    first, middle = made.bind("qpos").copy(), made.save()
    made.step(None, 100)
    expected = made.save()
    made.load(middle)
    made.step(None, 100)
    np.testing.assert_array_equal(made.save(), expected)
    made.reset()
    made.step(None, 200)
    np.testing.assert_array_equal(made.bind("qpos"), first)
    np.testing.assert_array_equal(first[0], first[1])
    made.close()


def test_ellipsoids_meshes_and_height_fields_carry_like_in_mujoco() -> None:
    """A pebble dropped into the trough of a height field and a slab on its slope come to rest as high as MuJoCo's."""
    import mujoco

    corners = " ".join(f"{x} {y} {z}" for x in (-0.1, 0.1) for y in (-0.1, 0.1) for z in (-0.05, 0.05))
    assets = f'<asset><hfield name="land" nrow="5" ncol="9" size="2 1 0.5 0.1"/><mesh name="slab" vertex="{corners}"/></asset>'
    dropped = '<body pos="{} {} 0.42"><freejoint/><geom {} friction="1"/></body>'
    body = '<geom type="hfield" hfield="land" pos="0.1 0 0.2" friction="1"/>' + dropped.format(0.1, 0.1, 'type="ellipsoid" size="0.1 0.1 0.06"')
    model = compiled(body + dropped.format(-0.6, -0.3, 'type="mesh" mesh="slab"'), rest=assets)
    heights = np.tile([1.0, 0.6, 0.4, 0.2, 0.2, 0.2, 0.4, 0.6, 1.0], (5, 1))
    heights[4] = 1.0  # what lies at large y is higher
    model.hfield_data[:] = heights.ravel()
    found = [rolled(started(name, model), 1000)[0][-1] for name in ("mujoco", "bullet")]
    np.testing.assert_allclose(found[1][[2, 9]], found[0][[2, 9]], atol=0.01)
    assert mujoco.mjtGeom.mjGEOM_HFIELD in model.geom_type.tolist() and abs(found[1][2] - 0.36) < 5e-3 and found[1][9] > 0.38


# The translation ------------------------------------------------------------------------------------------------------


def test_the_same_pairs_collide_as_in_mujoco() -> None:
    """MuJoCo's own contacts of overlapping spheres: masks, neighbours, welded bodies, excluded and listed pairs."""
    import mujoco

    ball, joint = '<geom name="{}" type="sphere" size="0.3" {}/>', '<joint axis="0 {} 1"/>'
    body = f"""{ball.format("ground", "")}
      <body name="a">{joint.format(1)}{ball.format("a", "")}{ball.format("a2", 'contype="2" conaffinity="2"')}
        <body name="b">{joint.format(2)}{ball.format("b", "")}<body name="b2">{ball.format("b2", 'conaffinity="3"')}
          <body name="c">{joint.format(3)}{ball.format("c", 'contype="0" conaffinity="1"')}</body></body></body>
        <body name="d">{joint.format(4)}{ball.format("d", "")}</body></body>
      <body name="e"><freejoint/>{ball.format("e", "")}</body><body name="m" mocap="true">{ball.format("m", "")}</body>"""
    rest = '<contact><exclude body1="a" body2="e"/><pair geom1="a2" geom2="d"/></contact>'
    model = compiled(body, rest=rest)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    found = np.zeros((model.ngeom, model.ngeom), bool)
    for contact in data.contact:
        found[tuple(contact.geom)] = found[tuple(contact.geom)[::-1]] = True
    np.testing.assert_array_equal(bullet_model.collisions(model), found)
    assert 10 < found.sum() < found.size
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    assert not bullet_model.collisions(model).any()


def test_friction_factors_give_the_larger_of_two() -> None:
    body = """<geom type="plane" size="9 9 1" friction="0.9"/><body><freejoint/><geom type="sphere" size="0.1" friction="0.4"/></body>
      <body pos="1 0 0"><freejoint/><geom type="sphere" size="0.1" friction="0.4"/></body>"""
    model = compiled(body)
    found = bullet_model.friction_factors(model, bullet_model.translate(model), model.geom_friction)
    np.testing.assert_allclose([found[0] * found[1], found[0] * found[2], found[1] * found[2]], [0.9, 0.9, 0.4], rtol=1e-9)


REFUSED = {
    "a ball joint": ('<body><joint name="hip" type="ball"/><geom size="1"/></body>', "", "'hip'"),
    "a weld": ('<body name="b"><freejoint/><geom size="1"/></body>', '<equality><weld name="tie" body1="b"/></equality>', "'tie'"),
    "a limited tendon": (
        '<body><joint name="j"/><geom size="1"/></body>',
        '<tendon><fixed name="rope" limited="true" range="0 1"><joint joint="j" coef="1"/></fixed></tendon>',
        "'rope'",
    ),
    "a joint on a mocap body": ('<body name="hand" mocap="true"><body name="finger"><joint/><geom size="1"/></body></body>', "", "'finger'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_bullet_cannot_do_is_named(what: str) -> None:
    body, rest, name = REFUSED[what]
    with pytest.raises(InputError, match=name) as error:
        make_engine("bullet", compiled(body, rest=rest), 1)
    assert str(error.value).startswith("engine 'bullet'") and "\n" not in str(error.value)


def test_more_worlds_than_it_holds_are_refused_before_they_are_made() -> None:
    with pytest.raises(InputError, match=r"^engine 'bullet' has room for 1024 worlds, found 1025; use engine=mujoco$"):
        make_engine("bullet", compiled(PENDULUM), 1025)


def test_it_prints_nothing() -> None:
    code = "from sim import registry; env = registry.make('classic/cartpole', engine='bullet'); print(env.suite_version); env.close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines() == [done.stdout.strip()] and "pybullet 3." in done.stdout and not done.stderr


def test_forces_that_bullet_does_not_report_are_refused() -> None:
    body = '<body><freejoint/><geom size="1"/><site name="s"/></body>'
    made = make_engine("bullet", compiled(body, rest='<sensor><force name="wrist" site="s"/></sensor>'), 1)
    with pytest.raises(InputError, match="sensor 'wrist'"):
        made.bind("sensordata")
    with pytest.raises(InputError, match="'cfrc_ext'"):
        made.bind("cfrc_ext")
    with pytest.raises(InputError, match="model field 'geom_size' for all worlds"):
        made.expand("geom_size")
    made.close()
