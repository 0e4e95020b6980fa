"""Batches of worlds that MuJoCo draws: pictures for policies and for people, one view at any size."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from policies.spec import InputError
from sim import render
from sim.episodes import EpisodicBatch
from sim.registry import Options

PICTURE_SIZE = 256  # px, pictures for people


def require_pictures(task: str, options: Options) -> None:
    """Refuse images on a machine that cannot render. Raises InputError."""
    if options.images and not render.available():
        raise InputError(f"task {task!r} cannot show images on this machine: {render.unavailable_reason()}; use observations=state")


class View:
    """One camera on a model at any picture size; the context of a size is made when it is first asked for.

    Args:
        model: ``mujoco.MjModel``.
        camera: Name of one of its cameras, or an ``mujoco.MjvCamera``.
        turned: Whether the camera hangs upside down: pictures are turned by half a turn (a flip would mirror).
    """

    def __init__(self, model: Any, camera: Any, turned: bool = False) -> None:
        self._model, self._camera, self._turned = model, camera, turned
        self._open: dict[int, render.Camera] = {}

    def camera(self, size: int) -> render.Camera:
        """Return the camera whose pictures are ``size`` px high and wide. Raises RuntimeError if this machine cannot render."""
        if size not in self._open:
            self._open[size] = render.Camera(self._model, size, size, self._camera)
        return self._open[size]

    def picture(self, size: int, model: Any, data: Any) -> np.ndarray:
        """Return (size, size, 3) uint8 of the state in ``data``; see :meth:`sim.render.Camera.picture`."""
        drawn = self.camera(size).picture(model, data)
        return drawn[::-1, ::-1] if self._turned else drawn

    def close(self) -> None:
        """Free the contexts; may be called twice."""
        for camera in self._open.values():
            camera.close()
        self._open, self._model = {}, None


class DrawnBatch(EpisodicBatch):
    """N worlds of one task, each of which MuJoCo can draw. A suite sets ``view`` once its worlds are built; None: nothing is drawn."""

    view: View | None = None

    @abc.abstractmethod
    def scene(self, row: int) -> tuple[Any, Any]:
        """Return the ``mujoco.MjModel`` and ``mujoco.MjData`` to draw world ``row`` from, its kinematics computed."""

    def picture(self, row: int, size: int) -> np.ndarray:
        """Return (size, size, 3) uint8 of world ``row``."""
        assert self.view is not None
        return self.view.picture(size, *self.scene(row))

    def pictures(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Return (K, size, size, 3) uint8 of worlds ``rows`` (K,)."""
        out = np.zeros((len(rows), size, size, 3), np.uint8)
        for k, row in enumerate(rows):
            out[k] = self.picture(int(row), size)
        return out

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return (len(worlds), 256, 256, 3) uint8, or None when this machine cannot render or the task has no camera."""
        if self.view is None or not render.available():
            return None
        return self.pictures(np.arange(self.num_worlds) if worlds is None else np.asarray(worlds), PICTURE_SIZE)

    def close(self) -> None:
        """Free cameras and worlds; may be called twice."""
        super().close()
        if self.view is not None:
            self.view.close()


__all__ = ["PICTURE_SIZE", "DrawnBatch", "View", "require_pictures"]
