"""What steps the physics: N copies of one MJCF model behind one interface, whatever library does the work.

``mujoco`` (``sim/batch.py``) is the engine that everything is measured and trained on; ``warp`` (``sim/warp.py``) is the same
physics on a GPU; ``bullet`` (``sim/bullet.py``) is another physics of the same robot. Tasks are written against this interface.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from policies.spec import InputError, suggest

#: Name -> (module of ``sim/``, class, modules that must be importable, what brings them).
ENGINES = {
    "mujoco": ("sim.batch", "MujocoEngine", ("mujoco",), "`pip install 'robopolicy[sim]'`"),
    "warp": ("sim.warp", "WarpEngine", ("mujoco", "mujoco_warp", "warp"), "`pip install 'robopolicy[warp]'`"),
    "bullet": ("sim.bullet", "BulletEngine", ("mujoco", "pybullet"), "`pip install 'robopolicy[bullet]'`"),
}


@runtime_checkable
class Engine(Protocol):
    """N worlds of one model. Arrays that it hands out are live: the same memory from the first call to the last.

    Attributes:
        name: Of the engine.
        version: Of its library, for the ledger.
        model: The ``mujoco.MjModel``: names, ids, sizes, timestep. Also where another library does the physics.
        num_worlds: N.
    """

    name: str
    version: str
    model: Any
    num_worlds: int

    def bind(self, field: str) -> np.ndarray:
        """Return the live (N, ...) float64 array of an ``MjData`` field.

        What the caller may write: ``qpos``, ``qvel``, ``act``, ``ctrl``, ``mocap_pos``, ``mocap_quat``, ``qfrc_applied``,
        ``xfrc_applied``. Everything else (``xpos``, ``site_xpos``, ``sensordata``, ...) is read only.

        Raises:
            InputError: if this engine does not compute the field.
        """
        ...

    def expand(self, field: str) -> np.ndarray:
        """Return the live (N, ...) values of a model field, one a world, to be written; :meth:`refresh` after that.

        Array fields are named as in ``MjModel``, options ``opt.<name>``.

        Raises:
            InputError: if this engine cannot vary the field; names the nearest that it can.
        """
        ...

    def refresh(self, rows: np.ndarray | None = None) -> None:
        """Derive again what follows from the expanded model fields of worlds ``rows`` (K,) (all by default)."""
        ...

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Put worlds ``rows`` (K,) into the model's initial state, controls and forces zero; computes nothing that follows from it."""
        ...

    def forward(self, rows: np.ndarray | None = None) -> None:
        """Compute what follows from the state that was written into worlds ``rows`` (K,)."""
        ...

    def step(self, rows: np.ndarray | None = None, ticks: int = 1, fresh: bool = True) -> None:
        """Advance worlds ``rows`` (K,) by ``ticks`` physics steps.

        ``fresh``: positions, velocities and sensors that depend on them then belong to the new state; without it they are those
        that ``mj_step`` leaves, of the state before the last tick.
        """
        ...

    def save(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the whole state (K, S) float64 of worlds ``rows``; :meth:`load` of it repeats what follows bit for bit."""
        ...

    def load(self, state: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put ``state`` (K, S) of :meth:`save` into worlds ``rows`` (K,); :meth:`forward` is the caller's."""
        ...

    def scene(self, row: int) -> tuple[Any, Any]:
        """Return (``MjModel``, ``MjData``) of one world, forward computed, for pictures; valid until the next call."""
        ...

    def close(self) -> None:
        """Release threads and memory; may be called twice."""
        ...


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Hold back what a library's compiled part writes to standard error meanwhile (banners, absent drivers)."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def follow(engine: Engine, controls: np.ndarray, ticks: int, rows: np.ndarray | None = None, fresh: bool = True) -> None:
    """Advance worlds under a series of controls that is known beforehand: the same as writing ``ctrl`` and stepping in turn.

    An engine that has a faster way offers it as a method ``follow(controls, ticks, rows, fresh)``.

    Args:
        engine: The worlds.
        controls: (K, T, nu), of which each is held for ``ticks`` physics steps.
        ticks: See ``controls``.
        rows: (K,) worlds; None: all.
        fresh: As in :meth:`Engine.step`, after the last.
    """
    fast = getattr(engine, "follow", None)
    if fast is not None:
        fast(controls, ticks, rows, fresh)
        return
    ctrl, chosen = engine.bind("ctrl"), slice(None) if rows is None else rows
    for k in range(controls.shape[1]):
        ctrl[chosen] = controls[:, k]
        engine.step(rows, ticks, fresh and k == controls.shape[1] - 1)


def make_engine(name: str, model: Any, num_worlds: int, threads: int = 1) -> Engine:
    """Make ``num_worlds`` worlds of ``model`` (a ``mujoco.MjModel``) on an engine of :data:`ENGINES`.

    Args:
        name: Of the engine.
        model: Compiled model.
        num_worlds: N.
        threads: Of the engine; results do not depend on it.

    Raises:
        InputError: one line, for an unknown engine or one whose library is not here.
    """
    if name not in ENGINES:
        raise InputError(f"engine {name!r} does not exist{suggest(name, ENGINES)}")
    module, cls, requires, install = ENGINES[name]
    missing = [wanted for wanted in requires if importlib.util.find_spec(wanted) is None]
    if missing:
        raise InputError(f"engine {name!r} needs {', '.join(missing)}, not installed here: run {install}")
    make: Callable[..., Engine] = getattr(importlib.import_module(module), cls)
    return make(model, num_worlds, threads)
