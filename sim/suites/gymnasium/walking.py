"""What Gymnasium's walking robots share: where the model comes from, how an episode begins, what moving forward is worth.

Derived quantities (positions and velocities of bodies, actuator forces) are, as in Gymnasium, those that the physics computed
on its way through the last tick, not those of the state it arrived at. Gymnasium's episodes begin with noise from a generator
of its own; ours follows the same distribution.
"""

from __future__ import annotations

import abc
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.registry import Options
from sim.task import MujocoTask

_FREE, _BALL = 0, 1  # mjtJoint
_SUFFIXES = {
    _FREE: ((".x", ".y", ".z", ".qw", ".qx", ".qy", ".qz"), (".vx", ".vy", ".vz", ".wx", ".wy", ".wz")),
    _BALL: ((".qw", ".qx", ".qy", ".qz"), (".wx", ".wy", ".wz")),
}


class WalkingTask(MujocoTask):
    """N walking robots. ``observation.state`` is what Gymnasium observes, action the normalised torque of every joint.

    ``success`` is judged at the time limit: alive, and on average faster forward than ``target_speed``. Where Gymnasium registers a
    return at which a task counts as solved, that is the speed which gives it in 1,000 steps (less the reward for being alive);
    elsewhere it is our choice. It is never earlier, since an evaluation ends with the first success and these tasks are about returns.

    Attributes:
        dt: Seconds of a control step.
        reward: (N,) float64, of the last step, before it is cast.
    """

    environment: ClassVar[str]  #: Gymnasium's name of it.
    target_speed: ClassVar[float]  #: m/s
    skipped: ClassVar[int] = 1  #: Leading positions that are not observed: where the robot is on the floor.
    place_size: ClassVar[int] = 1  #: Numbers of :meth:`place`.
    forward_weight: ClassVar[float] = 1.0
    control_weight: ClassVar[float]
    healthy_reward: ClassVar[float] = 0.0
    reset_noise: ClassVar[float]
    normal_velocities: ClassVar[bool] = False  #: Whether first velocities are normal with std ``reset_noise``, else uniform.

    tags = ("locomotion",)
    camera = "track"
    fresh = False
    requires = ("mujoco", "gymnasium")
    engines = ("mujoco", "warp")

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self.suite_version += f", gymnasium {importlib.metadata.version('gymnasium')}"

    @classmethod
    def xml_path(cls) -> Path:
        """Return the model file in the installed package, which is not imported."""
        found = importlib.util.find_spec("gymnasium")
        assert found is not None and found.submodule_search_locations, "the registry asks for the package first"
        return Path(found.submodule_search_locations[0]) / "envs" / "mujoco" / "assets" / cls.xml

    def make_model(self) -> Any:
        """Return the ``mujoco.MjModel`` of the file; its total mass is set after compiling, or every model would begin with a warning."""
        import mujoco

        library: Any = mujoco
        parts = library.MjSpec.from_file(str(self.xml_path()))
        mass, parts.compiler.settotalmass = parts.compiler.settotalmass, -1.0
        model = parts.compile()
        if mass > 0.0:
            library.mj_setTotalmass(model, mass)
            library.mj_setConst(model, library.MjData(model))
        return model

    def observation_fields(self) -> dict[str, Field]:
        """Return positions, velocities and what a robot observes besides, named after joints and bodies."""
        positions, velocities = coordinate_names(self.model)
        names = (*positions[self.skipped :], *velocities, *self.further_names())
        return {"observation.state": Field((len(names),), unit="m, rad, m/s, rad/s", names=names)}

    def further_names(self) -> tuple[str, ...]:
        """Return the names of what is observed beside positions and velocities."""
        return ()

    def action_fields(self) -> dict[str, Field]:
        """Return one torque a motor, as a share of what its gear makes of it."""
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        names = tuple(self.model.actuator(i).name or self.model.joint(self.model.actuator_trnid[i, 0]).name for i in range(self.model.nu))
        return {"torque": Field((self.model.nu,), unit="1", low=tuple(low), high=tuple(high), kind="effort", names=names)}

    def prepare(self) -> None:
        """Allocate what was before a step."""
        self.dt = self.model.opt.timestep * self.ticks
        self.reward = np.zeros(self.num_worlds)
        self._before = np.zeros((self.num_worlds, self.place_size))
        self._velocity = np.zeros((self.num_worlds, self.place_size))
        self._run, self._steps = np.zeros(self.num_worlds), np.zeros(self.num_worlds, np.int64)  # sum of forward speeds of an episode, steps
        self._squares = np.zeros((self.num_worlds, self.model.nu))
        self._nq, self._nv, self._pose = self.model.nq, self.model.nv, self.model.qpos0.copy()
        self._observed_positions = self.qpos[:, self.skipped :]  # arrays of the engine are live, so are views of them
        self._positions_end = self._nq - self.skipped
        self._velocities_end = self._positions_end + self._nv

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Begin near the pose of the model file, with noise on all positions and velocities."""
        self._run[rows], self._steps[rows] = 0.0, 0
        if self.normal_velocities:
            self.qpos[rows] = self._pose + draws.uniform(-self.reset_noise, self.reset_noise, (self._nq,))
            self.qvel[rows] = draws.normal(0.0, self.reset_noise, (self._nv,))
        else:
            noise = draws.uniform(-self.reset_noise, self.reset_noise, (self._nq + self._nv,))
            self.qpos[rows], self.qvel[rows] = self._pose + noise[:, : self._nq], noise[:, self._nq :]

    def apply(self, action: np.ndarray) -> None:
        """Set the torques (N, nu), and keep where the robots are."""
        self.ctrl[:] = action
        self._before[:] = self.place()

    def place(self) -> np.ndarray:
        """Return the coordinates (N, place_size), m, whose change a second is the velocity; x first."""
        return self.qpos[:, :1]

    def moved(self) -> np.ndarray:
        """Return the mean velocity (N, place_size) of the step, m/s; valid until the next step."""
        np.subtract(self.place(), self._before, out=self._velocity)
        self._velocity /= self.dt
        return self._velocity

    def succeeded(self, speed: np.ndarray) -> np.ndarray:
        """Return ``success`` (N,) bool of a step with the forward ``speed`` (N,), m/s, for robots that are alive; call it once a step."""
        self._run += speed
        self._steps += 1
        return (self._elapsed + 1 >= self.max_episode_steps) & (self._run > self.target_speed * self._steps)

    def control_reward(self, action: np.ndarray) -> np.ndarray:
        """Return what ``action`` (N, nu) costs (N,), not above 0."""
        np.multiply(action, action, out=self._squares, dtype=np.float64)
        return np.add.reduce(self._squares, 1) * -self.control_weight

    @abc.abstractmethod
    def fill(self, out: np.ndarray) -> None:
        """Write the observation (N, D) into ``out`` of any floating type."""

    def observe(self, out: Observation) -> None:
        """Write ``observation.state``."""
        self.fill(out["observation.state"])


def coordinate_names(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of positions (nq) and of velocities (nv) of a ``mujoco.MjModel``, after its joints."""
    positions: list[str] = []
    velocities: list[str] = []
    for i in range(model.njnt):
        of_position, of_velocity = _SUFFIXES.get(int(model.jnt_type[i]), (("",), (".v",)))
        positions += [model.joint(i).name + suffix for suffix in of_position]
        velocities += [model.joint(i).name + suffix for suffix in of_velocity]
    return tuple(positions), tuple(velocities)
