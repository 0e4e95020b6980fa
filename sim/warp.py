"""The Warp engine: MuJoCo's equations on a GPU (``mujoco-warp``), in single precision, all worlds in one launch.

Where there is no GPU it runs on Warp's CPU device: right, but slow, and every kernel is compiled once a machine (seconds to
minutes, kept in Warp's cache folder). State lives on the host, as in every engine: it is uploaded before the physics runs and
downloaded after it, so a world that is not stepped keeps what it had.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (compiled functions without stubs)
from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from sim.batch import MujocoEngine
from sim.engine import muted

#: State that the physics reads, and of that what it writes.
_INPUTS = ("time", "qpos", "qvel", "act", "history", "qacc_warmstart", "ctrl", "qfrc_applied", "xfrc_applied", "eq_active", "mocap_pos", "mocap_quat")
_ADVANCED = ("time", "qpos", "qvel", "act", "history", "qacc_warmstart")

#: What follows from the state and is computed in every step.
_OUTPUTS = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat"),
    *("light_xpos", "light_xdir", "subtree_com", "cinert", "ten_length", "ten_velocity", "actuator_length", "actuator_velocity", "cvel"),
    *("actuator_force", "act_dot", "qacc", "qacc_smooth", "qfrc_bias", "qfrc_passive", "qfrc_spring", "qfrc_damper", "qfrc_gravcomp"),
    *("qfrc_actuator", "qfrc_smooth", "qfrc_constraint", "sensordata", "solver_niter"),
)
#: Forces between bodies: computed once somebody has asked.
_BODY_FORCES = ("cacc", "cfrc_int", "cfrc_ext")

#: Model fields that the library does not look at where the model has none of them.
_SWITCHES = ("tendon_stiffness", "tendon_stiffnesspoly", "tendon_damping", "tendon_dampingpoly", "opt.density", "opt.viscosity", "opt.wind")

#: Constants that follow from other model fields (``mj_setConst``).
_DERIVED = (
    *("body_subtreemass", "body_invweight0", "dof_invweight0", "tendon_length0", "tendon_invweight0", "actuator_acc0", "geom_rbound", "geom_aabb"),
    *("cam_pos0", "cam_poscom0", "cam_mat0", "light_pos0", "light_poscom0", "light_dir0", "eq_data"),
)
_ROWS_OF_CONTACT = {1: 1, 3: 4, 4: 6, 6: 10}  # constraint rows by condim, pyramidal cones


class WarpEngine:
    """N worlds on ``mujoco_warp``; see :class:`sim.engine.Engine`.

    Args:
        model: ``mujoco.MjModel``.
        num_worlds: N.
        threads: Of what happens on the host; results do not depend on it.
        device: Warp's name, e.g. ``cuda:0``; None: the first GPU, or ``cpu``.
        contacts: Room for them in a world; None: by the model.
        deterministic: Whether sums are added up in one order, so that equal states go on alike, bit for bit; costs speed on a GPU.

    Raises:
        InputError: if the library lacks something that the model uses, or there is no such device.
    """

    name = "warp"

    def __init__(
        self, model: Any, num_worlds: int, threads: int = 1, device: str | None = None, contacts: int | None = None, deterministic: bool = True
    ) -> None:
        self._host = MujocoEngine(model, num_worlds, threads)
        self._wp, self._mjw = _library()
        self._device = _device(self._wp, device)
        self.version = f"mujoco-warp {self._mjw.__version__}, warp {self._wp.__version__} on {'cpu' if self._device.is_cpu else 'cuda'}"
        self.model, self.num_worlds, self.threads = model, num_worlds, threads
        self._contacts, rows = _room(model, contacts)
        try:
            with self._wp.ScopedDevice(self._device):
                self._model: Any = self._mjw.put_model(model)
                self._data: Any = self._mjw.make_data(model, num_worlds, nconmax=self._contacts, njmax=rows)
        except (RuntimeError, ValueError) as error:  # what the library does not implement is a RuntimeError of its own kind
            raise InputError(f"engine 'warp' cannot step this model: {str(error).rstrip('.')}; use engine=mujoco") from None
        self._model.opt.deterministic, self._model.opt.warn_overflow = deterministic, False
        self._inputs = {field: self._host.bind(field) for field in _INPUTS if self._host.bind(field).size}
        self._formats: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}  # of device arrays, by field
        self._outputs: dict[str, np.ndarray] = {}
        self._expanded: dict[str, np.ndarray] = {}
        self._graphs: dict[str, Any] = {}
        self._late_sensors = _late_sensors(model)

    # Arrays ------------------------------------------------------------------------------------------------------

    def bind(self, field: str) -> np.ndarray:
        """Return the live (N, ...) float64 array of an ``MjData`` field; state as in ``mujoco``, the rest read only. Raises InputError."""
        if field in _INPUTS or field == "userdata":
            return self._host.bind(field)
        known = (*_OUTPUTS, *_BODY_FORCES)
        if field not in known:
            raise InputError(f"engine 'warp' computes no field {field!r}{suggest(field, (*_INPUTS, *known))}")
        if field in _BODY_FORCES:
            self._model.opt.run_rne_postconstraint = True
            self._graphs = {}
        if field not in self._outputs:
            import mujoco

            self._outputs[field] = np.zeros((self.num_worlds, *np.shape(getattr(mujoco.MjData(self.model), field))))
        live = self._outputs[field].view()
        live.flags.writeable = False
        return live

    def expand(self, field: str) -> np.ndarray:
        """Return the live (N, ...) values of a model field, taken over by :meth:`refresh`. Raises InputError for one that is shared by all worlds."""
        holder, name = (self._model.opt, field[4:]) if field.startswith("opt.") else (self._model, field)
        if not _batched(holder, name):
            options = [f"opt.{name}" for name in type(self._model.opt).__annotations__ if _batched(self._model.opt, name)]
            fields = [name for name in type(self._model).__annotations__ if _batched(self._model, name)]
            raise InputError(f"engine 'warp' has one value of model field {field!r} for all worlds{suggest(field, [*fields, *options])}")
        if field in _SWITCHES and not np.any(getattr(holder, name).numpy()):
            raise InputError(f"engine 'warp' leaves out {field!r} in a model where it is zero everywhere: give it a value in the model first")
        if field not in self._expanded:
            self._expanded[field] = self._host.expand(field)
        return self._expanded[field]

    def refresh(self, rows: np.ndarray | None = None) -> None:
        """Derive the constants of worlds ``rows`` (K,) from their fields, by MuJoCo itself, and upload all of them."""
        if not self._expanded:
            return
        self._host.refresh(rows)
        derived = [name for name in _DERIVED if np.size(getattr(self.model, name, ())) and _batched(self._model, name)]
        values = {**{name: self._host.expand(name) for name in derived}, **self._expanded}
        for field, value in values.items():
            holder, name = (self._model.opt, field[4:]) if field.startswith("opt.") else (self._model, field)
            old = getattr(holder, name)
            if old.shape[0] == self.num_worlds and self.num_worlds > 1:
                old.assign(self._packed(field, value, old))
            else:
                shape = (self.num_worlds, *old.shape[1:])
                setattr(holder, name, self._wp.array(self._packed(field, value, old), dtype=old.dtype, shape=shape, device=self._device))
                self._graphs = {}

    # Physics -----------------------------------------------------------------------------------------------------

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Put worlds ``rows`` (K,) into the initial state without computing what follows from it."""
        self._host.reset(rows)

    def forward(self, rows: np.ndarray | None = None) -> None:
        """Compute what follows from the state of worlds ``rows`` (K,)."""
        with self._wp.ScopedDevice(self._device):
            self._upload()
            self._launch("forward")
            self._download(rows, ())

    def step(self, rows: np.ndarray | None = None, ticks: int = 1, fresh: bool = True) -> None:
        """Advance worlds ``rows`` (K,) by ``ticks`` physics steps; all are computed, the others keep what they had.

        Raises:
            InputError: if a world has more contacts than there is room for.
        """
        with self._wp.ScopedDevice(self._device):
            self._upload()
            for _ in range(ticks):
                self._launch("step")
            late = self._data.sensordata.numpy()[:, self._late_sensors].copy() if fresh and self._late_sensors.size else None
            if fresh:
                self._launch("step1")
            self._download(rows, _ADVANCED)
        if late is not None and "sensordata" in self._outputs:
            picked = np.arange(self.num_worlds) if rows is None else rows
            self._outputs["sensordata"][picked[:, None], self._late_sensors] = late[picked]

    def save(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the integration state (K, S) of worlds ``rows`` (all by default)."""
        return self._host.save(rows)

    def load(self, state: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put ``state`` (K, S) into worlds ``rows`` (K,)."""
        self._host.load(state, rows)

    def scene(self, row: int) -> tuple[Any, Any]:
        """Return (model, data) of world ``row``, computed by MuJoCo on the host; valid until the next call."""
        return self._host.scene(row)

    def close(self) -> None:
        """Release the worlds."""
        self._host.close()
        self._model, self._data, self._graphs, self._inputs, self._outputs, self._expanded = None, None, {}, {}, {}, {}

    def _upload(self) -> None:
        for field, values in self._inputs.items():
            array = getattr(self._data, field)
            array.assign(self._packed(field, values, array))
        self._data.overflow.zero_()

    def _packed(self, field: str, values: np.ndarray, like: Any) -> np.ndarray:
        """Return ``values`` (N, ...) as the device array ``like`` takes them: its number format, inner shapes flattened into its own."""
        if field not in self._formats:
            there = like.numpy()
            self._formats[field] = there.dtype, there.shape[1:]
        kind, inner = self._formats[field]
        return np.ascontiguousarray(values, kind).reshape(len(values), *inner)

    def _download(self, rows: np.ndarray | None, state: tuple[str, ...]) -> None:
        picked = slice(None) if rows is None else rows
        self._require_room(picked)
        for field in state:
            if field in self._inputs:
                live = self._inputs[field]
                live[picked] = getattr(self._data, field).numpy().reshape(live.shape)[picked]
        for field, values in self._outputs.items():
            values[picked] = getattr(self._data, field).numpy().reshape(values.shape)[picked]

    def _launch(self, function: str) -> None:
        """Run a function of the library; on a GPU as a graph that is recorded the first time, since it is hundreds of launches."""
        run = getattr(self._mjw, function)
        if self._device.is_cuda and function in self._graphs:
            self._wp.capture_launch(self._graphs[function])
            return
        run(self._model, self._data)  # loads the kernels, which a recording cannot
        if self._device.is_cuda:
            with self._wp.ScopedCapture() as capture:
                run(self._model, self._data)
            self._graphs[function] = capture.graph

    def _require_room(self, picked: slice | np.ndarray) -> None:
        kinds = self._mjw.OverflowType
        full = self._data.overflow.numpy() & int(kinds.NEFC | kinds.NJMAX_NNZ | kinds.BROADPHASE | kinds.NARROWPHASE)
        if full[picked].any():
            world = int(np.arange(self.num_worlds)[picked][np.flatnonzero(full[picked])[0]])
            raise InputError(f"engine 'warp': world {world} has more contacts than the {self._contacts} that there is room for")


def _library() -> tuple[Any, Any]:
    """Import Warp and ``mujoco_warp``, quiet, with a cache of compiled kernels that belongs to this user."""
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING  # no banner, no line for every kernel
    with contextlib.nullcontext() if Path("/dev/nvidiactl").exists() else muted():  # where there is no GPU, its driver is not missed
        wp.init()
    cache = wp.config.kernel_cache_dir  # in the user's cache folder, unless WARP_CACHE_PATH says otherwise
    if cache is None or not os.access(cache, os.W_OK):
        wp.config.kernel_cache_dir = tempfile.mkdtemp(prefix="warp-")  # of this process alone: what lies in it is executed
    import mujoco_warp as mjw

    return wp, mjw


def _device(wp: Any, name: str | None) -> Any:
    names = [str(device) for device in wp.get_devices()]
    chosen = name or ("cuda:0" if "cuda:0" in names else "cpu")
    if chosen not in names:
        raise InputError(f"engine 'warp': expected a device of {', '.join(names)}, found {chosen!r}")
    return wp.get_device(chosen)


def _room(model: Any, contacts: int | None) -> tuple[int, int]:
    """Return how many contacts and constraint rows a world has room for."""
    colliding = int(np.count_nonzero(model.geom_contype | model.geom_conaffinity))
    contacts = contacts or max(48, 4 * colliding)
    condim = max([1, *model.geom_condim.tolist(), *model.pair_dim.tolist()])
    limits = int(model.jnt_limited.sum()) * 2 + int(model.tendon_limited.sum()) * 2
    return contacts, contacts * _ROWS_OF_CONTACT[condim] + limits + model.nv + model.ntendon + 6 * model.neq


def _batched(holder: Any, name: str) -> bool:
    """Whether a field of the library's model (or of its options) can have one value a world."""
    annotation = getattr(type(holder), "__dataclass_fields__", {}).get(name)
    shape = getattr(annotation.type, "shape", ()) if annotation is not None else ()
    return bool(shape) and shape[0] == "*"


def _late_sensors(model: Any) -> np.ndarray:
    """Return (k,) columns of ``sensordata`` that depend on accelerations and forces, which a new state does not have yet."""
    import mujoco

    needs = zip(model.sensor_adr, model.sensor_dim, model.sensor_needstage, strict=True)
    return np.array([a + k for a, size, stage in needs if stage == int(mujoco.mjtStage.mjSTAGE_ACC) for k in range(size)], np.int64)
