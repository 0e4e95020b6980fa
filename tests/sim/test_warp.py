"""The Warp engine: where it runs, what it compiles into, its agreement with MuJoCo in single precision, room for contacts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from sim import registry
from sim.engine import Engine, make_engine
from sim.suites import arm, classic
from tests.require import require

CARTPOLE = Path(classic.__file__).with_name("cartpole.xml")
BOXES = """<mujoco><option timestep="0.005"/><worldbody><geom type="plane" size="5 5 0.1"/>
  <body pos="0 0 0.12"><freejoint/><geom type="box" size="0.1 0.1 0.1"/></body><body pos="0 0 0.34"><freejoint/><geom type="box" size="0.1 0.1 0.1"/></body>
  </worldbody></mujoco>"""


@pytest.fixture(autouse=True)
def _warp() -> None:
    require("warp")


def pair(model: Any, num_worlds: int = 2, **options: Any) -> tuple[Engine, Engine]:
    from sim.warp import WarpEngine

    engines = WarpEngine(model, num_worlds, **options), make_engine("mujoco", model, num_worlds)
    for one in engines:
        one.reset()
    return engines


def difference(engines: tuple[Engine, Engine], steps: int, scale: float, seed: int = 0) -> float:
    """Return the largest difference of qpos over ``steps`` steps under random controls."""
    rng, worst = np.random.default_rng(seed), 0.0
    for _ in range(steps):
        ctrl = rng.uniform(-scale, scale, engines[0].bind("ctrl").shape)
        for one in engines:
            one.bind("ctrl")[:] = ctrl
            one.step(None, 1)
        worst = max(worst, float(np.abs(engines[0].bind("qpos") - engines[1].bind("qpos")).max()))
    return worst


def test_fifty_steps_agree_with_mujoco() -> None:
    """Seen: 1e-7."""
    import mujoco

    engines = pair(mujoco.MjModel.from_xml_path(str(CARTPOLE)), 3)
    for one in engines:
        one.bind("qpos")[:] = [[0.1, 0.3], [0.0, -0.5], [-0.2, 2.0]]
    assert 0 < difference(engines, 50, 1.0) < 1e-4
    for one in engines:
        one.close()


def test_derived_constants_follow_the_fields() -> None:
    """A world with another pole: its inverse weights on the device are those that MuJoCo derives; the others keep theirs."""
    import mujoco

    (made, reference) = pair(mujoco.MjModel.from_xml_path(str(CARTPOLE)), 3)
    for one in (made, reference):
        one.expand("body_mass")[1, 2] *= 5
        one.refresh()
    for field in ("dof_invweight0", "body_invweight0", "body_subtreemass"):
        device, host = getattr(made._model, field).numpy(), reference.expand(field)  # type: ignore[attr-defined]
        np.testing.assert_allclose(device.reshape(host.shape), host, rtol=1e-6)
        assert (host[1] != host[0]).any() and (host[2] == host[0]).all()
    with pytest.raises(InputError, match=r"'opt.density'.*zero everywhere"):
        made.expand("opt.density")
    made.close(), reference.close()


def test_it_is_quiet_and_names_its_device() -> None:
    """Nothing is printed; kernels are kept where the environment says, or in the user's cache folder."""
    code = "import mujoco, sys; from sim.engine import make_engine; e = make_engine('warp', mujoco.MjModel.from_xml_path(sys.argv[1]), 1); print(e.version)"
    done = subprocess.run([sys.executable, "-c", code, str(CARTPOLE)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    (line,) = done.stdout.splitlines()
    assert done.stderr == "" and line.startswith("mujoco-warp 3.") and line.endswith((" on cpu", " on cuda"))
    env = registry.make("classic/cartpole", engine="warp")
    assert line in env.suite_version
    env.close()


def test_devices_and_features_that_are_not_there_are_refused() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_path(str(CARTPOLE))
    with pytest.raises(InputError, match=r"expected a device of .*cpu.*, found 'cuda:7'"):
        pair(model, device="cuda:7")
    model.opt.solver = mujoco.mjtSolver.mjSOL_PGS
    with pytest.raises(InputError, match=r"engine 'warp' cannot step this model: .*PGS.*; use engine=mujoco"):
        make_engine("warp", model, 1)


@pytest.mark.soak
def test_contacts_and_the_arm_agree_with_mujoco() -> None:
    """Fifty steps of two stacked boxes and of the arm's servos; compiles kernels of their own for a minute."""
    import mujoco

    boxes = pair(mujoco.MjModel.from_xml_string(BOXES))
    assert difference(boxes, 50, 0.0) < 1e-4
    servos = pair(mujoco.MjModel.from_xml_string(arm.robot_model()))
    for one in servos:
        one.bind("qpos")[:] = arm.HOME
    assert difference(servos, 50, 0.5) < 1e-4


@pytest.mark.soak
def test_too_many_contacts_are_refused() -> None:
    import mujoco

    made, reference = pair(mujoco.MjModel.from_xml_string(BOXES), contacts=2)
    with pytest.raises(InputError, match="world 0 has more contacts than the 2 that there is room for"):
        made.step(None, 60)
    made.close(), reference.close()
