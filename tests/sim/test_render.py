"""Rendering without a display: which library is chosen, that its absence breaks nothing, and that pictures are right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim import render
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]

#: A red half above a green half, seen by a camera that looks along y with z up; the ground far below is black.
MODEL = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <light pos="0 -2 4"/>
    <camera name="front" pos="0 -2 0" xyaxes="1 0 0 0 0 1" fovy="50"/>
    <body name="upper" pos="0 0 0.5"><joint name="lift" type="slide" axis="1 0 0"/><geom type="box" size="0.3 .1 .3" rgba="1 0 0 1"/></body>
    <geom type="box" size="2 .1 .3" pos="0 0 -.5" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""


def asked(environment: dict[str, str], before: str = "") -> str:
    """Return what a fresh process prints as backend and reason, after importing mujoco."""
    code = before + "from sim import render; render.configure(); import mujoco; print(render.backend(), '|', render.unavailable_reason())"
    clean = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


#: Hides shared libraries from the dynamic loader of one process, as on a machine that lacks them.
HIDE = """
import ctypes, ctypes.util
load, find = ctypes.CDLL.__init__, ctypes.util.find_library
hidden = ('EGL', 'OSMesa', 'libGL.', 'OpenGL')
def refuse(self, name, *args, **kwargs):
    if name and any(part in str(name) for part in hidden): raise OSError(f'{name}: cannot open shared object file')
    return load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = refuse
ctypes.util.find_library = lambda name: None if any(part in name or name == 'GL' for part in hidden) else find(name)
"""


@pytest.mark.parametrize("environment", [{}, {"MUJOCO_GL": "egl"}, {"MUJOCO_GL": "osmesa"}])
def test_a_machine_without_the_libraries_still_imports_mujoco(environment: dict[str, str]) -> None:
    backend, _, reason = asked(environment, HIDE).partition(" | ")
    assert backend == "None" and "apt-get install lib" in reason


def test_rendering_can_be_switched_off() -> None:
    assert asked({"MUJOCO_GL": "disabled"}) == "None | MUJOCO_GL=disabled switches rendering off"


def test_a_driver_that_gives_no_context_is_a_reason_not_a_crash() -> None:
    require("egl")
    answer = asked({"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent", "MUJOCO_GL": "egl"})
    assert answer.startswith("None | MUJOCO_GL=egl gives no OpenGL context (") and "apt-get install" in answer


def test_egl_is_found_and_used() -> None:
    require("egl")
    assert asked({}) in ("egl | None", "osmesa | None")


def test_egl_works_when_mujoco_was_imported_first() -> None:
    require("egl")
    assert asked({}, "import mujoco; ") in ("egl | None", "osmesa | None")


def test_a_camera_is_the_right_way_up_and_follows_the_data() -> None:
    require("egl")
    render.configure()
    import mujoco

    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = render.Camera(model, 40, 60, "front")
    picture = camera.picture(model, data)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    top, bottom = picture[8:14, 28:32].reshape(-1, 3), picture[26:32, 28:32].reshape(-1, 3)
    assert (top[:, 0] > 150).all() and (top[:, 1] < 60).all()
    assert (bottom[:, 1] > 150).all() and (bottom[:, 0] < 60).all()
    data.qpos[0] = 0.5  # along the camera's x axis: to the right
    mujoco.mj_forward(model, data)
    moved = camera.picture(model, data)
    red = [np.flatnonzero((p[8:14, :, 0] > 150).all(axis=0)).mean() for p in (picture, moved)]
    assert red[1] > red[0] + 5
    assert (picture[10, 30] != moved[10, 30]).any()
    again = render.Camera(model, 40, 60, "front")
    np.testing.assert_array_equal(again.picture(model, data), moved)
    for each in (camera, again):
        each.close()
        each.close()
    with pytest.raises(RuntimeError, match="closed"):
        camera.picture(model, data)
    assert model.vis.quality.offsamples == 4 and model.vis.global_.offwidth == 640  # the model is left as it was
