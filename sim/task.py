"""A task of one's own: a class beside an MJCF file, in array code over all worlds.

Subclass :class:`MujocoTask`, fill in four methods, and list the class in ``TASKS`` of a module in ``sim/suites/<suite>/``:
``docs/simulation.md`` does it in ten minutes, ``sim/suites/classic/cartpole.py`` is the one to copy.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim import render
from sim.drawn import DrawnBatch, View, require_pictures
from sim.draws import Ahead, Draws
from sim.engine import Engine, make_engine
from sim.env import BatchEnv, Observation
from sim.episodes import Outcome
from sim.identity import identity, model_files
from sim.mirror import Mirror
from sim.registry import Entry, Options

if TYPE_CHECKING:
    from sim.randomize import Randomizer


class MujocoTask(DrawnBatch):
    """N worlds of a task on any engine (``sim/engine.py``).

    A subclass describes itself in the class attributes and computes for **all** N worlds at once; worlds that have ended keep
    what they had. ``fresh`` positions and sensors are those after the step, not of the tick before.

    Attributes:
        engine: The worlds.
        model: ``mujoco.MjModel``.
        reward_kind: ``dense`` or ``sparse``.
        randomizer: What differs from episode to episode, or None.
    """

    task_name: ClassVar[str]  #: e.g. ``classic/cartpole``
    description: ClassVar[str]  #: One line for people.
    success: ClassVar[str] = ""  #: When an episode counts as solved, one line for people; a part of the task's identity.
    tags: ClassVar[tuple[str, ...]] = ()  #: Beside the suite's name; ``expert`` if there is one.
    xml: ClassVar[str]  #: MJCF file beside the module of the class.
    rate_hz: ClassVar[float]  #: Of actions; the physics runs at the timestep of the file.
    time_limit_s: ClassVar[float]  #: Of an episode.
    version: ClassVar[int] = 1  #: Raised when a number of the task changes.
    camera: ClassVar[str] = ""  #: Of observation images and of pictures for people; empty: none.
    mirror: ClassVar[Mirror | None] = None  #: Its left-right symmetry, if it has one.
    rewards: ClassVar[tuple[str, ...]] = ("dense",)  #: Kinds that :meth:`judge` knows, the first by default.
    info_fields: ClassVar[Mapping[str, str]] = {}  #: name -> dtype of what :meth:`judge` reports beside ``success``
    fresh: ClassVar[bool] = True
    short: ClassVar[str] = ""  #: Name where a name has no slash; empty: the last segment of ``task_name``.
    requires: ClassVar[tuple[str, ...]] = ("mujoco",)  #: Modules that must be importable.
    engines: ClassVar[tuple[str, ...]] = ("mujoco", "warp", "bullet")  #: That can step it.

    def __init__(self, name: str, options: Options) -> None:
        require_pictures(name, options)
        render.configure()
        self.reward_kind = options.reward or self.rewards[0]
        self.model: Any = self.make_model()
        self._image_size = options.image_size if options.images else 0
        steps = options.max_episode_steps or self.max_steps()
        spec = self._make_spec(options)
        self.engine = self.make_worlds(options)
        version = f"{self.task_name.partition('/')[0]} {self.version}, {self.engine.version}"
        version += "" if self.reward_kind == self.rewards[0] else f", {self.reward_kind} reward"
        version = identity(version, self.success, model_files(*self.asset_paths()))
        super().__init__(name, version, spec, options.num_worlds, steps, options.autoreset, self.info_fields)
        self.ticks = round(1.0 / (self.rate_hz * self.model.opt.timestep))
        if abs(self.ticks * self.model.opt.timestep * self.rate_hz - 1.0) > 1e-9:
            raise InputError(f"task {name!r}: {self.rate_hz:g} actions a second are no whole number of physics steps of {self.model.opt.timestep:g} s")
        self.qpos, self.qvel, self.ctrl = (self.engine.bind(field) for field in ("qpos", "qvel", "ctrl"))  # (N, nq), (N, nv), (N, nu)
        self.view = View(self.model, self.camera) if self.camera else None
        self._ahead = Ahead(self.num_worlds, self.version)
        self._scratch: Observation = _empty(self._obs)
        self.prepare()
        self.randomizer = self._make_randomizer(options)

    # What a task fills in ----------------------------------------------------------------------------------------

    def make_model(self) -> Any:
        """Return the ``mujoco.MjModel``: of the file beside the class, unless a task builds on it (``mujoco.MjSpec``)."""
        import mujoco

        return mujoco.MjModel.from_xml_path(str(self.xml_path()))  # type: ignore[attr-defined]

    def make_worlds(self, options: Options) -> Engine:
        """Return the engine with ``options.num_worlds`` worlds of :attr:`model`."""
        return make_engine(options.engine, self.model, options.num_worlds, options.threads)

    @abc.abstractmethod
    def observation_fields(self) -> dict[str, Field]:
        """Return the observed fields but images, e.g. ``{"observation.state": Field((4,), names=...)}``."""

    @abc.abstractmethod
    def action_fields(self) -> dict[str, Field]:
        """Return the fields of the action, in the order in which :meth:`apply` gets them."""

    def prepare(self) -> None:
        """Bind arrays of the engine and allocate what the task keeps; called once."""

    @abc.abstractmethod
    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Write the first state of worlds ``rows`` (K,), which are as the model file says, with ``draws`` (K rows)."""

    def resume(self, rows: np.ndarray) -> None:
        """Begin anew, in worlds ``rows`` (K,), what the task keeps beside the physics (references, filters) from the state that stands there.

        For worlds that are put into a state by other means than an episode (``sim.identify``); nothing by default.
        """

    def apply(self, action: np.ndarray) -> None:
        """Write what ``action`` (N, Da) float32, clipped, means into the engine's controls; ``self.ctrl[:] = action`` by default.

        Called right before the worlds are stepped: also where a task keeps what was.
        """
        self.ctrl[:] = action

    def play(self, rows: np.ndarray | None, action: np.ndarray) -> None:
        """Carry out ``action`` (N, Da) in worlds ``rows`` (K,) (None: all) for one control step of ``self.ticks`` physics steps.

        One call of :meth:`apply` and one of the engine, unless a task has a faster loop of its own inside a control step.
        """
        self.apply(action)
        self.engine.step(rows, self.ticks, self.fresh)

    @abc.abstractmethod
    def judge(self, action: np.ndarray) -> Outcome:
        """Return what the step with ``action`` (N, Da) was worth to all N worlds; ``info`` holds ``success`` (N,) bool.

        The arrays are copied by the caller: they may be the task's own, or views of the engine's.
        """

    @abc.abstractmethod
    def observe(self, out: Observation) -> None:
        """Write the present observation of all N worlds into ``out``, field -> (N, *shape): every number of it, the arrays are new.

        Called after a step, and once more when worlds have begun anew in it; so it changes nothing that the task keeps.
        """

    # The worlds --------------------------------------------------------------------------------------------------

    @classmethod
    def xml_path(cls) -> Path:
        """Return the file of the model."""
        return Path(inspect.getfile(next(c for c in cls.__mro__ if "xml" in vars(c)))).with_name(cls.xml)

    @classmethod
    def asset_paths(cls) -> tuple[Path, ...]:
        """Return the files that the worlds are built from, what these refer to aside: that of the model, unless a task reads more or none."""
        return (cls.xml_path(),) if getattr(cls, "xml", "") else ()

    @classmethod
    def max_steps(cls) -> int:
        """Return the time limit in control steps."""
        return round(cls.time_limit_s * cls.rate_hz)

    @classmethod
    def entry(cls) -> Entry:
        """Return what the registry needs."""
        suite = cls.task_name.partition("/")[0]
        return Entry(
            name=cls.task_name,
            description=cls.description,
            tags=(suite, *cls.tags, *(("camera",) if cls.camera else ())),
            rate_hz=cls.rate_hz,
            max_episode_steps=cls.max_steps(),
            requires=cls.requires,
            install="`pip install 'robopolicy[sim]'`",
            factory=cls._make,
            short=cls.short,
            engines=cls.engines,
            rewards=cls.rewards,
            batched=True,
            success=cls.success,
        )

    @classmethod
    def _make(cls, name: str, options: Options) -> BatchEnv:
        return cls(name, options)

    def _make_spec(self, options: Options) -> Spec:
        fields = self.observation_fields()
        if not options.state:
            fields = {name: field for name, field in fields.items() if name != "observation.environment_state"}
        if self._image_size:
            fields[f"observation.images.{self.camera}"] = Field((self._image_size, self._image_size, 3), "uint8", kind="image")
        return Spec(ObservationSpec(fields, self.rate_hz), ActionSpec(self.action_fields(), self.rate_hz))

    def _make_randomizer(self, options: Options) -> Randomizer | None:
        if not options.randomize:
            return None
        from sim.randomize import Randomizer

        return Randomizer(options.randomize, self.engine, self.spec, self.num_worlds)

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        if self.randomizer is not None:
            self.randomizer.ended(rows[~self._running[rows] & (self._elapsed[rows] > 0)])
            self.randomizer.begin(rows, seeds)
        self.engine.reset(rows)  # a world's own fields say where it begins: after they were drawn
        self.lay_out(rows, self._ahead.draws(rows, seeds))
        self.engine.forward(rows)

    def _next_seeds(self, rows: np.ndarray) -> np.ndarray:
        return self._ahead.seeds(rows, self._root_seeds, self._episode_count, self.first_world)

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        if rows.size == self.num_worlds:
            self.play(None, self._sent(action))
            found = self.judge(action)
            if self.randomizer is not None:
                self.randomizer.judged(rows, found.info["success"])
            return found
        padded = np.zeros((self.num_worlds, action.shape[1]), np.float32)
        padded[rows] = action
        self.play(rows, self._sent(padded, rows))
        found = self.judge(padded)
        if self.randomizer is not None:
            self.randomizer.judged(rows, found.info["success"][rows])
        cut = None if found.truncated is None else found.truncated[rows]
        return Outcome(found.reward[rows], found.terminated[rows], {n: v[rows] for n, v in found.info.items()}, cut)

    def _sent(self, action: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Return what arrives at the actuators when ``action`` (N, Da) is sent in worlds ``rows`` (K,) (None: all); rewards are of what was sent."""
        return action if self.randomizer is None else self.randomizer.act(action, rows)

    def _observed(self, rows: np.ndarray) -> Observation:
        if rows.size == self.num_worlds:
            self._obs = _empty(self._obs)
            self._observe(rows, self._obs)
            return dict(self._obs)
        self._observe(rows, self._scratch)
        self._obs = {name: array.copy() for name, array in self._obs.items()}
        for name, array in self._scratch.items():
            self._obs[name][rows] = array[rows]
        return dict(self._obs)

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        """Write the observation of worlds ``rows`` (K,) into those rows of ``out``; the others' may be overwritten."""
        self.observe(out)
        if self.randomizer is not None:
            self.randomizer.sense(out, rows)
        if self._image_size:
            out[f"observation.images.{self.camera}"][rows] = self.pictures(rows, self._image_size)

    def scene(self, row: int) -> tuple[Any, Any]:
        """See :class:`sim.drawn.DrawnBatch`."""
        return self.engine.scene(row)

    def close(self) -> None:
        """Free cameras and worlds; may be called twice."""
        super().close()
        self.engine.close()


def _empty(like: Observation) -> Observation:
    return {name: np.empty(array.shape, array.dtype) for name, array in like.items()}
