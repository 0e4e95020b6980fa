"""Pictures of MuJoCo worlds without a display: which GL library this machine has, and a camera on it.

``import mujoco`` crashes when ``MUJOCO_GL`` names a library that is not there, so :func:`configure` looks first and runs
before every import of mujoco in ``sim/``. Observation cameras draw neither shadows nor reflections and take one sample a
pixel: on a software renderer shadows, not pixels, are the cost (20 against 243 pictures a second at 96 px).
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
import weakref
from typing import Any

import numpy as np

#: Backends that need no display: MUJOCO_GL value -> shared library, and what brings it.
_HEADLESS = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
_REMEDY = {"egl": "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri", "osmesa": "apt-get install libosmesa6"}
_OFF = ("disable", "disabled", "off", "false", "0")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@functools.cache
def _choice() -> tuple[str | None, str]:
    """Set ``MUJOCO_GL`` and return (backend, ""), or (None, why there is none) with rendering switched off."""
    if sys.platform != "linux":  # macOS and Windows bring their own
        return os.environ.get("MUJOCO_GL") or "system", ""
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in _OFF:
        return None, f"MUJOCO_GL={wanted} switches rendering off"
    if wanted in ("glfw", "glx"):  # somebody wants their display
        return wanted, ""
    for name in [wanted] if wanted in _HEADLESS else list(_HEADLESS):
        if _loads(_HEADLESS[name]):
            os.environ["MUJOCO_GL"] = name
            return name, ""
    os.environ["MUJOCO_GL"] = "disabled"
    if wanted in _HEADLESS:
        return None, f"MUJOCO_GL={wanted}, but {_HEADLESS[wanted]} is not there: {_REMEDY[wanted]}"
    return None, f"neither libEGL nor libOSMesa was found: {_REMEDY['egl']}"


def configure() -> str | None:
    """Choose the GL backend before mujoco is imported, and return its name, or None when there is none.

    Sets ``MUJOCO_GL`` to ``egl`` or ``osmesa`` once the library is found. A value that is already set is kept unless its
    library is missing, in which case rendering is switched off so that ``import mujoco`` still works.
    """
    return _choice()[0]


def backend() -> str | None:
    """Return the GL backend in use (``egl``, ``osmesa``, ``glfw``, ...), or None when pictures cannot be drawn."""
    return None if unavailable_reason() else configure()


@functools.cache
def unavailable_reason() -> str | None:
    """Return None when MuJoCo pictures can be drawn here, else one line that says what is missing and what brings it."""
    name, why_not = _choice()
    if name is None:
        return why_not
    try:
        context = _gl_context(16, 16)
        context.make_current()
        context.free()
    except Exception as error:  # each GL binding raises its own kinds
        told = " ".join(str(error).split()).partition(". ")[0]
        return f"MUJOCO_GL={name} gives no OpenGL context ({type(error).__name__}: {told}): {_REMEDY.get(name, _REMEDY['egl'])}"
    return None


def available() -> bool:
    """Return whether MuJoCo pictures can be drawn on this machine."""
    return unavailable_reason() is None


def _gl_context(width: int, height: int) -> Any:
    """Return a GL context from the chosen backend, also when mujoco was imported before it was chosen."""
    name = configure()
    if name == "egl":
        from mujoco.egl import GLContext
    elif name == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.gl_context import GLContext
    return GLContext(width, height)


_open_cameras: weakref.WeakSet[Camera] = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Free contexts before the GL binding's own exit handler ends the display under them (handlers run last in, first out)."""

    def close_all() -> None:
        for camera in list(_open_cameras):
            camera.close()

    atexit.register(close_all)


class Camera:
    """An off-screen camera on one MuJoCo model, for any number of worlds that share the model's geometry.

    Args:
        model: ``mujoco.MjModel``.
        height: Picture height in px.
        width: Picture width in px.
        camera: Name of a camera of the model, or an ``mujoco.MjvCamera`` (a view of its own).
        shadows: Draw shadows and reflections (slow on software renderers).

    Raises:
        RuntimeError: if this machine cannot render; the message says why.
    """

    def __init__(self, model: Any, height: int, width: int, camera: Any, shadows: bool = False) -> None:
        reason = unavailable_reason()
        if reason:
            raise RuntimeError(reason)
        import mujoco

        self._mj = mujoco
        self._gl = _gl_context(width, height)
        self._gl.make_current()
        look = model.vis
        kept = look.quality.offsamples, look.quality.shadowsize, look.global_.offwidth, look.global_.offheight
        look.quality.offsamples, look.global_.offwidth, look.global_.offheight = (4 if shadows else 0), width, height
        look.quality.shadowsize = kept[1] if shadows else 0  # a map that is never drawn into takes longest to make
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        look.quality.offsamples, look.quality.shadowsize, look.global_.offwidth, look.global_.offheight = kept
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = shadows
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._view = mujoco.MjvCamera() if isinstance(camera, str) else camera
        if isinstance(camera, str):
            self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._view.fixedcamid = model.camera(camera).id
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        _close_at_exit()
        _open_cameras.add(self)

    def picture(self, model: Any, data: Any) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, top row first, of the state in ``data`` (kinematics computed)."""
        if self._gl is None:
            raise RuntimeError("the camera is closed")
        mj = self._mj
        self._gl.make_current()
        mj.mjv_updateScene(model, data, self._option, self._perturb, self._view, mj.mjtCatBit.mjCAT_ALL.value, self._scene)
        mj.mjr_render(self._rect, self._scene, self._context)
        mj.mjr_readPixels(self._pixels, None, self._rect, self._context)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the context and its buffers; may be called twice."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
