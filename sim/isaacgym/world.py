"""The simulation behind a ``Sim`` handle: environments while they are made, N batched worlds once it is stepped."""

# pyright: reportAttributeAccessIssue=false
# (mujoco is compiled and comes without stubs)
from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from policies.spec import InputError
from sim.engine import Engine, make_engine
from sim.isaacgym.actors import Actor, Env, agreed_kinds
from sim.isaacgym.constants import SimType, UpAxis
from sim.isaacgym.layout import Layout, Needs
from sim.isaacgym.parameters import SimParams
from sim.isaacgym.properties import Properties
from sim.isaacgym.structures import Vec3
from sim.isaacgym.tensor import Tensor
from sim.isaacgym.terrain import Terrain

#: Fills a buffer (N, ...) with the present state of a simulation.
Reader = Callable[["Sim", np.ndarray], None]


#: What belongs to the tick that was computed last, so that nothing has to be computed again after it.
_OF_THE_TICK = {"sensordata", "qfrc_actuator"}


class Sim:
    """All environments of a simulation.

    Attributes:
        params: As given to ``create_sim``.
        envs: Environments, N of them.
        terrain: What lies under them.
        time: Simulated seconds.
        frames: Calls of ``simulate``.
    """

    def __init__(self, kind: int, params: SimParams) -> None:
        if kind != SimType.SIM_PHYSX:
            raise InputError("create_sim: SIM_FLEX is not covered: pass gymapi.SIM_PHYSX; MuJoCo stands in for it")
        if params.use_gpu_pipeline:
            raise InputError("create_sim: sim_params.use_gpu_pipeline is on, but these worlds are on the CPU: set it to False, devices to 'cpu'")
        if params.substeps < 1 or not params.dt > 0:
            raise InputError(f"create_sim: dt {params.dt:g} s in {params.substeps} substeps: both must be positive")
        self.params = replace(params, physx=replace(params.physx))
        self.envs: list[Env] = []
        self.terrain = Terrain()
        self.time, self.frames = 0.0, 0
        self.viewed = False
        self._engine: Engine | None = None
        self._needs = Needs()
        self._stale = np.zeros(0, bool)
        self._derived: dict[str, np.ndarray] = {}
        self._written: dict[str, np.ndarray] = {}
        self._changed = False
        self._buffers: dict[str, tuple[np.ndarray, Reader]] = {}

    # Making ------------------------------------------------------------------------------------------------------

    def add_env(self, lower: Vec3, upper: Vec3, per_row: int) -> Env:
        """Add an environment on a grid of ``per_row`` columns, cells as large as the box from ``lower`` to ``upper``."""
        self.refuse_when_made("create_env")
        row, column = divmod(len(self.envs), max(1, per_row))
        size = upper - lower
        deep = Vec3(0, row * size.y, 0) if self.params.up_axis == UpAxis.UP_AXIS_Z else Vec3(0, 0, row * size.z)
        env = Env(self, len(self.envs), Vec3(column * size.x) + deep)
        self.envs.append(env)
        return env

    def add_actor(self, env: Env, actor: Actor) -> int:
        """Add an actor to an environment; returns its handle."""
        self.refuse_when_made("create_actor")
        env.actors.append(actor)
        return len(env.actors) - 1

    def refuse_when_made(self, call: str) -> None:
        """Raise InputError, naming ``call``, once the worlds exist."""
        if self._engine is not None:
            raise InputError(f"{call}: the worlds are made already; create everything before prepare_sim and the first simulate")

    def need(self, **wanted: bool) -> None:
        """Make the worlds offer what ``wanted`` names (``sim.isaacgym.layout.Needs``), from now on."""
        needs = replace(self._needs, **wanted)
        if needs != self._needs:
            self._needs = needs
            if self._engine is not None:
                self._remake()

    @property
    def engine(self) -> Engine:
        """The worlds; made when first used."""
        if self._engine is None:
            self._make()
        assert self._engine is not None
        return self._engine

    @property
    def made(self) -> bool:
        """Whether the worlds exist."""
        return self._engine is not None

    def engine_layout(self) -> Layout:
        """Return the layout of the worlds; makes them when first used."""
        if self._engine is None:
            self._make()
        return self.layout

    def dofs_of(self, actor: int) -> slice:
        """Return where an actor's degrees of freedom stand among those of an environment."""
        start = self.engine_layout().dof_start
        return slice(int(start[actor]), int(start[actor + 1]))

    # Buffers -----------------------------------------------------------------------------------------------------

    def buffer(self, name: str, shape: tuple[int, ...], read: Reader, flat: int = 0) -> Tensor:
        """Return the live buffer ``name`` of (N, *shape) float32, filled by ``read``; ``flat`` merges N with the next dimension."""
        if name not in self._buffers:
            self._buffers[name] = np.zeros((self.num_envs, *shape), np.float32), read
            read(self, self._buffers[name][0])
        array = self._buffers[name][0]
        return Tensor(array.reshape(-1, *shape[1:]) if flat else array)

    def refresh(self, name: str) -> bool:
        """Fill the buffers whose names begin with ``name``; returns whether there are any."""
        found = [entry for key, entry in self._buffers.items() if key == name or (name.endswith("/") and key.startswith(name))]
        for array, read in found:
            read(self, array)
        return bool(found)

    @property
    def num_envs(self) -> int:
        """N."""
        return len(self.envs)

    def _layout(self) -> Layout:
        return Layout(agreed_kinds(self.envs), self.terrain, self.params, self._needs)

    def _make(self) -> None:
        self.layout = self._layout()
        self.properties = Properties(self.layout, self.num_envs)
        if any(b for env in self.envs for actor in env.actors for b in actor.bodies):
            self._apply_bodies()
            if self.properties.centres_moved() and not self._needs.centres:
                self._needs = replace(self._needs, centres=True)
                self.layout = self._layout()
        self._apply_the_rest()
        dofs, shape = self.layout.dof_start[-1], (self.num_envs, int(self.layout.dof_start[-1]))
        self.position_targets, self.velocity_targets, self.efforts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._find_shift()
        poses = self._root_poses()
        self._make_engine()
        self._place_roots(poses)
        self.position_targets[:] = self.qpos[:, self.layout.qpos_ids] if dofs else 0.0
        self.touch(None)

    def _apply_bodies(self) -> None:
        for env in self.envs:
            for actor, start in zip(env.actors, self.layout.body_start, strict=False):
                for properties, recompute in actor.bodies:
                    self.properties.set_bodies(env.index, int(start), properties, recompute)

    def _apply_the_rest(self) -> None:
        layout, bouncing = self.layout, False
        for env in self.envs:
            for a, actor in enumerate(env.actors):
                if actor.dofs is not None:
                    self.properties.dofs[env.index, layout.dof_start[a] : layout.dof_start[a + 1]] = actor.dofs
                if actor.shapes is not actor.asset.shape_properties:
                    self.properties.set_shapes(env.index, int(layout.shape_start[a]), actor.shapes)
                bouncing |= any(shape.restitution > 0 for shape in actor.shapes)
        if bouncing:
            warnings.warn("restitution of shapes has no counterpart in these physics and is left out", stacklevel=4)

    def _make_engine(self) -> None:
        import mujoco

        model, varying = self.layout.model, {}
        for name, values in self.properties.fields(self.layout, self.terrain.friction).items():
            if (values == values[:1]).all():
                getattr(model, name)[:] = values[0]
            else:
                varying[name] = values
        mujoco.mj_setConst(model, mujoco.MjData(model))
        threads = min(max(1, self.params.physx.num_threads), os.cpu_count() or 1)
        self._engine = engine = make_engine("mujoco", model, self.num_envs, threads)
        self._written = {}
        for name, values in varying.items():
            self.write_field(name, values)
        engine.refresh()
        self.qpos, self.qvel, self.ctrl = (engine.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._gains = self.properties.gains()
        self._stale, self._pushed, self._derived = np.ones(self.num_envs, bool), False, {}

    def write_field(self, name: str, values: np.ndarray) -> None:
        """Set a model field of all worlds to ``values`` (N, ...); :meth:`Engine.refresh` is the caller's."""
        if name not in self._written:
            self._written[name] = self.engine.expand(name)
        self._written[name][:] = values

    def _remake(self) -> None:
        """Make the worlds anew, for what they have to offer now, in the state that they are in."""
        old = self._engine
        assert old is not None
        state = {name: old.bind(name).copy() for name in ("qpos", "qvel", "ctrl", "qacc_warmstart", "xfrc_applied")}
        poses = {name: self._written[name].copy() for name in ("body_pos", "body_quat") if name in self._written}
        placed = self.layout.model.body_pos.copy(), self.layout.model.body_quat.copy()
        old.close()
        pushed = self._pushed
        self.layout = self._layout()
        self.layout.model.body_pos[:], self.layout.model.body_quat[:] = placed
        self._make_engine()
        for name, values in poses.items():
            self.write_field(name, values)
        for name, values in state.items():
            self.engine.bind(name)[:] = values
        self._pushed = pushed

    # Poses -------------------------------------------------------------------------------------------------------

    def _find_shift(self) -> None:
        """Set what has to be added to positions of an environment for those of its world: ``shift`` (N, 3), zero without terrain.

        Tensors hold positions in the environment's frame. Without terrain, so do the worlds; with one, which all
        environments share, the worlds lie where their environments do.
        """
        origins = np.stack([env.origin.array() for env in self.envs])
        self.shift = origins if self.terrain.grids else np.zeros_like(origins)

    def _root_poses(self) -> np.ndarray:
        """Return where actors were created, in their worlds, (N, A, 7), w first; fixed ones that agree are put into the model."""
        poses = np.array([[[*a.pose.p.array(), *np.roll(a.pose.r.normalize().array(), 1)] for a in env.actors] for env in self.envs])
        poses[:, :, :3] += self.shift[:, None]
        model, agreed = self.layout.model, self.layout.fixed[(poses[:, self.layout.fixed] == poses[:1, self.layout.fixed]).all(axis=(0, 2))]
        model.body_pos[self.layout.root_ids[agreed]], model.body_quat[self.layout.root_ids[agreed]] = poses[0, agreed, :3], poses[0, agreed, 3:]
        return poses

    def _place_roots(self, poses: np.ndarray) -> None:
        layout = self.layout
        self.qpos[:, layout.free_qpos[:, None] + np.arange(7)] = poses[:, layout.free]
        if layout.fixed.size:
            self.move_fixed(None, layout.fixed, poses[:, layout.fixed])

    def move_fixed(self, rows: np.ndarray | None, actors: np.ndarray, poses: np.ndarray) -> None:
        """Place fixed ``actors`` (X,) of worlds ``rows`` (K,) (all by default) at ``poses`` (K, X, 7), w first."""
        layout, model = self.layout, self.layout.model
        bodies = layout.root_ids[actors]
        for name, values in (("body_pos", poses[..., :3]), ("body_quat", poses[..., 3:])):
            field_now = self._written.get(name)
            if field_now is None:
                if np.array_equal(values, np.broadcast_to(getattr(model, name)[bodies], values.shape)):
                    continue  # every world still has the model's
                field_now = self._written[name] = self.engine.expand(name)
            if rows is None:
                field_now[:, bodies] = values
            else:
                field_now[rows[:, None], bodies] = values

    # Stepping ----------------------------------------------------------------------------------------------------

    def touch(self, rows: np.ndarray | None) -> None:
        """Note that the state of worlds ``rows`` (K,) was written, so that what follows from it is computed before it is read."""
        self._stale[slice(None) if rows is None else rows] = True

    def derived(self, *names: str) -> list[np.ndarray]:
        """Return live (N, ...) fields that follow from the state, computed for the present one."""
        self.write_properties()
        engine = self.engine
        for name in names:
            if name not in self._derived:
                self._derived[name] = engine.bind(name)
                self.touch(None)  # a field is computed from the call after it was bound
        self.settle()
        return [self._derived[name] for name in names]

    def settle(self) -> None:
        """Compute what follows from states and properties that were written since the last step."""
        engine = self.engine
        self.write_properties()
        if self._stale.any():
            engine.forward(None if self._stale.all() else np.flatnonzero(self._stale))
            self._stale[:] = False

    def push(self) -> np.ndarray:
        """Return the (N, nbody, 6) forces and torques at the centres of mass, world frame, that the next step adds; then they are gone."""
        self._pushed = True
        return self.engine.bind("xfrc_applied")

    def properties_changed(self) -> None:
        """Note that properties of worlds that exist already were changed."""
        self._changed = True

    def set_params(self, params: SimParams) -> None:
        """Change gravity; the rest of the parameters cannot change any more.

        Raises:
            InputError: if the time step is another one.
        """
        if (params.dt, params.substeps) != (self.params.dt, self.params.substeps):
            raise InputError("set_sim_params: dt and substeps cannot change once the simulation exists; gravity can")
        self.params = replace(params, physx=replace(params.physx))
        if self._engine is not None:
            self.write_field("opt.gravity", np.broadcast_to(params.gravity.array(), (self.num_envs, 3)))
            self.touch(None)

    def write_properties(self) -> None:
        """Write properties that were changed since the last call into the worlds."""
        if not self._changed:
            return
        self._changed = False
        if self.properties.centres_moved() and not self._needs.centres:
            self.need(centres=True)
            return
        for name, values in self.properties.fields(self.layout, self.terrain.friction).items():
            if name in self._written or not (values == getattr(self.layout.model, name)).all():
                self.write_field(name, values)
        self._gains = self.properties.gains()
        self.engine.refresh()
        self.touch(None)

    def simulate(self) -> None:
        """Advance all worlds by ``params.dt`` with the present targets, efforts and pushes."""
        engine = self.engine
        if self._changed:
            self.write_properties()
            engine = self.engine
        stiffness, damping = self._gains
        np.multiply(stiffness, self.position_targets, out=self.ctrl)
        self.ctrl += damping * self.velocity_targets
        self.ctrl += self.efforts
        engine.step(None, self.params.substeps, fresh=not self._derived.keys() <= _OF_THE_TICK)
        self._stale[:] = False
        if self._pushed:
            engine.bind("xfrc_applied")[:] = 0.0
            self._pushed = False
        self.time += self.params.dt
        self.frames += 1

    def written_or_model(self, name: str) -> np.ndarray:
        """Return a model field, (N, ...) where worlds differ in it, else (1, ...)."""
        return self._written[name] if name in self._written else getattr(self.layout.model, name)[None]

    def body_centres(self) -> np.ndarray:
        """Return the centres of mass of the interface bodies in their frames, (1 or N, B, 3) m."""
        return self.written_or_model("body_ipos")[:, self.layout.body_ids]

    def close(self) -> None:
        """Release the worlds; may be called twice."""
        if self._engine is not None:
            self._engine.close()
