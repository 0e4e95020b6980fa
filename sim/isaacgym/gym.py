"""``Gym``: the one object whose calls are the interface, and the viewer that shows nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.isaacgym.actors import Env
from sim.isaacgym.constants import SimType
from sim.isaacgym.gym_actors import ActorCalls
from sim.isaacgym.gym_assets import AssetCalls
from sim.isaacgym.gym_states import StateCalls
from sim.isaacgym.gym_tensors import TensorCalls
from sim.isaacgym.parameters import CameraProperties, HeightFieldParams, PlaneParams, SimParams, TriangleMeshParams
from sim.isaacgym.refusal import refuse
from sim.isaacgym.structures import Vec3
from sim.isaacgym.world import Sim


class Viewer:
    """A window that is never opened: nothing is drawn in it, nothing is pressed in it, it is never closed."""


class ViewerCalls:
    """``Gym`` calls about graphics. All of them exist, so that task code runs on; none of them shows anything."""

    def create_viewer(self, sim: Sim, props: CameraProperties | None = None) -> Viewer:
        """Return a handle for the other viewer calls; no window is opened."""
        return Viewer()

    def destroy_viewer(self, viewer: Viewer | None) -> None:
        """Do nothing."""

    def query_viewer_has_closed(self, viewer: Viewer | None) -> bool:
        """Return False."""
        return False

    def query_viewer_action_events(self, viewer: Viewer | None) -> list[Any]:
        """Return no events."""
        return []

    def poll_viewer_events(self, viewer: Viewer | None) -> None:
        """Do nothing."""

    def subscribe_viewer_keyboard_event(self, viewer: Viewer | None, key: int, action: str) -> None:
        """Do nothing: no key will be pressed."""

    def subscribe_viewer_mouse_event(self, viewer: Viewer | None, button: int, action: str) -> None:
        """Do nothing: no button will be pressed."""

    def viewer_camera_look_at(self, viewer: Viewer | None, env: Env | None, position: Vec3, target: Vec3) -> None:
        """Do nothing."""

    def step_graphics(self, sim: Sim) -> None:
        """Do nothing."""

    def draw_viewer(self, viewer: Viewer | None, sim: Sim, render_collision: bool = False) -> None:
        """Do nothing."""

    def sync_frame_time(self, sim: Sim) -> None:
        """Do nothing: without a window there is no reason to wait for the clock."""

    def add_lines(self, viewer: Viewer | None, env: Env | None, count: int, vertices: np.ndarray, colors: np.ndarray) -> None:
        """Do nothing with lines of vertices (2 count, 3)."""

    def clear_lines(self, viewer: Viewer | None) -> None:
        """Do nothing."""

    def set_light_parameters(self, sim: Sim, light: int, intensity: Vec3, ambient: Vec3, direction: Vec3) -> None:
        """Do nothing."""


class Gym(AssetCalls, ActorCalls, StateCalls, TensorCalls, ViewerCalls):
    """The interface. A call that is not here raises an error that names it and the nearest one that is."""

    def __getattr__(self, name: str) -> Any:
        raise refuse("gym", name, [known for known in dir(type(self)) if not known.startswith("_")])

    def create_sim(
        self,
        compute_device: int = 0,
        graphics_device: int = 0,
        type: SimType = SimType.SIM_PHYSX,
        params: SimParams | None = None,
    ) -> Sim:
        """Begin a simulation; devices are ignored, everything is on the CPU.

        Raises:
            InputError: for FleX, for the GPU pipeline, for a time step that is not positive.
        """
        return Sim(type, params or SimParams())

    def destroy_sim(self, sim: Sim) -> None:
        """End a simulation and release its worlds."""
        sim.close()

    def get_sim_params(self, sim: Sim) -> SimParams:
        """Return a copy of the parameters."""
        return replace(sim.params, physx=replace(sim.params.physx), gravity=Vec3(*sim.params.gravity.array()))

    def set_sim_params(self, sim: Sim, params: SimParams) -> None:
        """Change gravity. Raises InputError if the time step is another one."""
        sim.set_params(params)

    # Ground ------------------------------------------------------------------------------------------------------

    def add_ground(self, sim: Sim, params: PlaneParams) -> None:
        """Add an infinite plane that everything collides with."""
        sim.refuse_when_made("add_ground")
        sim.terrain.add_plane(params)

    def add_heightfield(self, sim: Sim, samples: np.ndarray, params: HeightFieldParams) -> None:
        """Add a height field of ``samples`` (nbRows * nbColumns,) int16."""
        sim.refuse_when_made("add_heightfield")
        sim.terrain.add_heights(samples, params)

    def add_triangle_mesh(self, sim: Sim, vertices: np.ndarray, triangles: np.ndarray, params: TriangleMeshParams) -> None:
        """Add the upper side of a mesh as a height field: ``vertices`` (3 V,) m, ``triangles`` (3 T,) indices."""
        sim.refuse_when_made("add_triangle_mesh")
        sim.terrain.add_mesh(vertices, triangles, params)

    # Stepping ----------------------------------------------------------------------------------------------------

    def prepare_sim(self, sim: Sim) -> bool:
        """Make the worlds of all environments. Raises InputError if these differ in more than poses and properties."""
        sim.engine_layout()
        return True

    def simulate(self, sim: Sim) -> None:
        """Advance all environments by ``SimParams.dt``, in one batched call."""
        sim.simulate()

    def fetch_results(self, sim: Sim, wait_for_latest_sim_step: bool = True) -> None:
        """Do nothing: ``simulate`` returns when it is done."""

    def get_sim_time(self, sim: Sim) -> float:
        """Return the simulated time, s."""
        return sim.time

    get_elapsed_time = get_sim_time

    def get_frame_count(self, sim: Sim) -> int:
        """Return the number of calls of ``simulate``."""
        return sim.frames


_made: list[Gym] = []
_making = threading.Lock()


def acquire_gym(*unused: Any) -> Gym:
    """Return the one ``Gym``."""
    if unused:
        raise InputError("acquire_gym takes no arguments")
    with _making:
        if not _made:
            _made.append(Gym())
    return _made[0]
