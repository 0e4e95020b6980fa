"""The MuJoCo engine: N worlds stepped by the library's own threads (``mujoco.batch.Batch``).

No Python per world: controls are written into one array, one call steps all worlds, and what it computed lies in arrays.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import copy
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from sim import render


class MujocoEngine:
    """N worlds on ``mujoco.batch``; see :class:`sim.engine.Engine`.

    Args:
        model: ``mujoco.MjModel``; copied.
        num_worlds: N.
        threads: Of the library; results do not depend on it.
        persistent: Keep all that the library computed of every world, which :meth:`contact_forces` needs. It costs up to a sixth of
            the speed: what thousands of worlds computed does not fit into a cache.
    """

    name = "mujoco"

    def __init__(self, model: Any, num_worlds: int, threads: int = 1, persistent: bool = False) -> None:
        render.configure()
        import mujoco
        import mujoco.batch

        self._mj: Any = mujoco
        self.version = f"mujoco {mujoco.__version__}"
        self.model, self.num_worlds, self.threads = model, num_worlds, threads
        self._worlds: Any = mujoco.batch.Batch(model, num_worlds, nthread=threads, persistent=persistent)
        self._worlds.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self._initial: np.ndarray = self._worlds.state[0].copy()
        self._scene: tuple[Any, Any] | None = None
        self._spare: tuple[Any, Any] | None = None
        self._expanded: dict[str, np.ndarray] = {}
        self._bound: set[str] = set()
        self._derived, self._computed = False, False
        self._by_hand: np.ndarray | None = None  # not looked for yet

    def bind(self, field: str) -> np.ndarray:
        """Return the live (N, ...) array of an ``MjData`` field. Raises InputError for an unknown one.

        Fields are computed where they are bound: bound late, a field is computed for the present state.
        """
        from mujoco import batch

        if field not in batch.DATA_FIELDS:
            raise InputError(f"mujoco computes no field {field!r} for a batch of worlds{suggest(field, batch.DATA_FIELDS)}")
        array = self._worlds.bind(field)
        if self._computed and not array.flags.writeable and field not in self._bound:
            state = self._worlds.state.copy()
            self._worlds.forward()
            self._worlds.state[:] = state  # what forward() leaves for the next step would change it by a bit
        self._bound.add(field)
        return array

    def expand(self, field: str) -> np.ndarray:
        """Return the live (N, ...) values of a model field. Raises InputError for an unknown one."""
        from mujoco import batch

        if field not in batch.MODEL_FIELDS and not hasattr(self.model.opt, field.removeprefix("opt.")):
            raise InputError(f"the model has no field {field!r}{suggest(field, batch.MODEL_FIELDS)}")
        if field not in self._expanded:
            self._expanded[field] = self._worlds.expand(field)
            derives = field.startswith("opt.") or field in self._mj.MjModel._setconst_inputs
            self._derived |= derives
        return self._expanded[field]

    def refresh(self, rows: np.ndarray | None = None) -> None:
        """Derive the constants of worlds ``rows`` (K,) from their fields (``mj_setConst``); equality constraints that were set by hand stay."""
        if not self._derived:
            return
        if self._by_hand is None:
            self._by_hand = _set_by_hand(self.model)
        if not self._by_hand.size:
            self._worlds.set_const(rows)
            return
        chosen = np.arange(self.num_worlds) if rows is None else np.asarray(rows)
        places, data = np.ix_(chosen, self._by_hand), self._worlds.expand("eq_data")
        before = data[places]
        self._worlds.set_const(rows)
        data[places] = before

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Put worlds ``rows`` (K,) into the initial state without computing what follows from it."""
        if self._expanded:  # a world's own fields may decide where it begins
            self._worlds.reset(rows, stage=self._mj.mjtStage.mjSTAGE_NONE.value)
        else:
            self._worlds.state[slice(None) if rows is None else rows] = self._initial

    def forward(self, rows: np.ndarray | None = None) -> None:
        """Compute what follows from the state of worlds ``rows`` (K,)."""
        self._computed = True
        self._worlds.forward(rows)

    def step(self, rows: np.ndarray | None = None, ticks: int = 1, fresh: bool = True) -> None:
        """Advance worlds ``rows`` (K,) by ``ticks`` physics steps; see :meth:`sim.engine.Engine.step`."""
        self._computed = True
        stages = self._mj.mjtStage
        self._worlds.step(rows, ticks, stages.mjSTAGE_VEL.value if fresh else stages.mjSTAGE_NONE.value)

    def follow(self, controls: np.ndarray, ticks: int, rows: np.ndarray | None = None, fresh: bool = True) -> None:
        """Advance worlds ``rows`` (K,) under ``controls`` (K, T, nu), each for ``ticks`` physics steps; see :func:`sim.engine.follow`.

        All but the last in one call of the library, so that a world stays in the cache.
        """
        before, chosen = np.repeat(controls[:, :-1], ticks, axis=1), slice(None) if rows is None else rows
        if before.shape[1]:
            self._worlds.rollout(before.shape[1], before, record=(), ids=rows)
        self._worlds.bind("ctrl")[chosen] = controls[:, -1]
        self.step(rows, ticks, fresh)

    def save(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the integration state (K, S) of worlds ``rows`` (all by default)."""
        return self._worlds.state.copy() if rows is None else self._worlds.state[rows]

    def load(self, state: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put ``state`` (K, S) into worlds ``rows`` (K,)."""
        self._worlds.state[slice(None) if rows is None else rows] = state

    def contact_forces(self, out: np.ndarray) -> None:
        """Write the forces that contacts put on every body in the last tick into ``out`` (N, nbody, 6), N and Nm, world by world.

        ``mj_rnePostConstraint`` on a copy of each world: as slow as a loop over worlds is; no call does it for all. The engine must
        be persistent.
        """
        assert self._worlds.persistent, "only a persistent engine keeps contacts"
        if self._spare is None:
            self._spare = self._worlds.get_model(0), self._mj.MjData(self.model)
        model, data = self._spare
        for row in range(self.num_worlds):
            if self._expanded:
                self._worlds.get_model(row, model)
            self._worlds.get_data(row, data)
            self._mj.mj_rnePostConstraint(model, data)
            out[row] = data.cfrc_ext

    def scene(self, row: int) -> tuple[Any, Any]:
        """Return (model, data) of world ``row`` with its own model fields, forward computed; valid until the next call."""
        if self._scene is None:
            self._scene = self._worlds.get_model(row), self._mj.MjData(self.model)
        model, data = self._scene
        if self._expanded:
            self._worlds.get_model(row, model)
        self._worlds.get_data(row, data)
        self._mj.mj_forward(model, data)
        return model, data

    def close(self) -> None:
        """Release the worlds."""
        self._worlds, self._scene, self._spare, self._expanded = None, None, None, {}


def _set_by_hand(model: Any) -> np.ndarray:
    """Return the equality constraints (n,) whose data is not what ``mj_setConst`` makes of the initial pose: a hand welded to its mocap body, say."""
    import mujoco

    derived = copy.deepcopy(model)
    mujoco.mj_setConst(derived, mujoco.MjData(derived))
    return np.flatnonzero(np.abs(derived.eq_data - model.eq_data).max(axis=1, initial=0.0) > 1e-6)
