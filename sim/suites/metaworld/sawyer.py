"""N worlds of a Meta-World task as one batch: the suite's episodes, its observations, rewards and successes, in array code.

How a task is written. Subclass :class:`SawyerTask` in a module ``tasks_<family>.py`` of this package, list the class in ``TASKS``
of that module, and say in array code over **all** N worlds (rows that have ended are computed and thrown away):

* ``suite_task``: the name without ``-v3``.
* ``kept``: attributes of the suite's object, copied when an episode begins into ``self.first[attribute]`` (N, ...); ``_target_pos``,
  ``init_tcp`` and ``obj_init_pos`` always are, as ``self.target``, ``self.init_tcp``, ``self.obj_init_pos``. None is kept as NaN.
  **Careful**: what the suite stores without copying out of its data (``data.body(..).xpos``, ``get_body_com(..)``,
  ``data.site(..).xpos``; not ``tcp_center``, ``_get_site_pos`` or anything added to) is a view that moves on with the world
  (``init_left_pad`` always does): bind it in ``prepare`` instead and read it at every step.
* ``prepare()``: bind what is needed: ``self.body(name)``, ``self.site(name)``, ``self.geom(name)`` are live positions (N, 3),
  ``self.body_quat(name)`` (N, 4), ``self.body_matrix(name)``, ``self.geom_matrix(name)`` (N, 9), ``self.joint(name)`` (N,).
* ``objects()``: one or two (position (N, 3), quaternion (N, 4) or a constant) as the suite observes them.
* ``goal()``: only where the goal moves (a view, see above).
* ``judge(action)``: (reward (N,) or :class:`~.vocabulary.Mixed`, success (N,) bool) at the present observation, ``action`` (N, 4)
  float32. At hand, live and as the suite's reward reads them: ``self.hand``, ``self.opening``, ``self.object``,
  ``self.object_quat``, ``self.object2`` (views of the clipped observation), ``self.tcp``, ``self.left_pad``, ``self.right_pad``,
  ``self.gripper`` (for the words of :mod:`.vocabulary`). Warnings of divisions are off.

Keep the suite's order of operations: sums and products in another order differ in the last bit. A number that comes of
``self.caging(..)`` or ``vocabulary.closing(..)`` may be ``Mixed``: combine it with ``+ - * /``, ``hamacher_product`` and
``choose`` only. ``x ** 2`` of the suite is ``vocabulary.square(x)``, ``np.linalg.norm`` is ``vocabulary.length``.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from policies.spec import InputError
from sim.drawn import DrawnBatch, View, require_pictures
from sim.engine import make_engine
from sim.env import Observation
from sim.episodes import Outcome
from sim.registry import Options
from sim.suites.metaworld import CAMERA, MAX_EPISODE_STEPS, make_spec
from sim.suites.metaworld.suite import SharedModel, spread
from sim.suites.metaworld.vocabulary import Gripper, Numbers, caging, length, plain

if TYPE_CHECKING:
    from sim.randomize import Randomizer

_ALWAYS_KEPT = ("_target_pos", "init_tcp", "obj_init_pos")  # (3,) each
_MOVED = ("body_pos", "site_pos")  # fields of the model that episodes change
_OPEN = 0.1  # m between the claws that counts as fully open


class SuiteTask(Protocol):
    """What a task says in array code about all its N worlds; see the module.

    Attributes:
        suite_task: Name without the suite's and without ``-v3``, e.g. ``push``.
        kept: What is kept of the suite's object when an episode begins.
        target: (N, 3) m, the goal when the episode began.
    """

    suite_task: ClassVar[str]
    kept: ClassVar[tuple[str, ...]] = ()
    target: np.ndarray

    def prepare(self) -> None:
        """Bind arrays and allocate what the task keeps; called once."""

    @abc.abstractmethod
    def objects(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return one or two (position (N, 3) m, quaternion (N, 4) or (4,)), as the suite observes them."""

    @abc.abstractmethod
    def judge(self, action: np.ndarray) -> tuple[Numbers, np.ndarray]:
        """Return the reward (N,) and success (N,) bool of the step with ``action`` (N, 4) float32 that led to the present observation."""

    def goal(self) -> np.ndarray:
        """Return the goal (N, 3) m as the suite observes it; by default where it was when the episode began."""
        return self.target


class SawyerTask(DrawnBatch, SuiteTask):
    """N worlds of one task on ``mujoco.batch``; see the module for how one is written.

    Attributes:
        engine: The worlds.
        observation: (N, 39), the suite's own: the present 18 numbers, those of the step before, the goal; clipped as the suite does.
        randomizer: What differs from episode to episode besides what the suite draws, or None.
        first: Attribute of the suite's object -> (N, ...), as it was when the episode began; filled by the first reset.
    """

    def __init__(self, name: str, options: Options) -> None:
        require_pictures(name, options)
        self._shared: SharedModel | None = SharedModel(name)
        steps = options.max_episode_steps or MAX_EPISODE_STEPS
        super().__init__(name, self._shared.version(), make_spec(options), options.num_worlds, steps, options.autoreset)
        n, template = options.num_worlds, self._shared.template
        self.engine = make_engine(options.engine, self._shared.model, n, options.threads)
        self.randomizer = self._make_randomizer(options)
        self._image_size = options.image_size if options.images else 0
        self.view = View(self._shared.model, CAMERA, turned=True)  # the suite hangs it upside down
        self._scratch: Any = None  # where episodes begin
        self._own: dict[str, np.ndarray] = {}
        self._step_size, self.ticks = template.action_scale, template.frame_skip
        self._reach = template.mocap_low.astype(np.float64), template.mocap_high.astype(np.float64)
        self._action = np.zeros((n, 4), np.float32)
        self.observation = np.zeros((n, 39))
        self.first: dict[str, np.ndarray] = {key: np.zeros((n, 3)) for key in _ALWAYS_KEPT}
        self._bind()
        self.prepare()

    def _make_randomizer(self, options: Options) -> Randomizer | None:
        if not options.randomize:
            return None
        from sim.randomize import Randomizer
        from sim.randomize_fields import select

        randomizer = Randomizer(options.randomize, self.engine, self.spec, self.num_worlds)
        for key in randomizer.config.model:
            if select(key, self.engine.model).named.field in _MOVED:
                raise InputError(f"randomize.model: {key!r}: the episodes of task {self.task!r} place bodies and sites themselves")
        return randomizer

    def _bind(self) -> None:
        """Bind what every task reads and writes."""
        self._mocap_pos, self._mocap_quat, self._ctrl = (self.engine.bind(field) for field in ("mocap_pos", "mocap_quat", "ctrl"))
        self._hand, self._left_claw, self._right_claw = (self.body(name) for name in ("hand", "leftclaw", "rightclaw"))
        self._left_tip, self._right_tip = self.site("leftEndEffector"), self.site("rightEndEffector")
        self.left_pad, self.right_pad = self.body("leftpad"), self.body("rightpad")
        self.tcp = np.zeros((self.num_worlds, 3))
        self.target, self.init_tcp, self.obj_init_pos = (self.first[key] for key in _ALWAYS_KEPT)
        self.gripper = Gripper(self.tcp, self.init_tcp, self.left_pad, self.right_pad)
        self.hand, self.opening = self.observation[:, :3], self.observation[:, 3]
        self.object, self.object_quat = self.observation[:, 4:7], self.observation[:, 7:11]
        self.object2 = self.observation[:, 11:14]

    # For tasks ---------------------------------------------------------------------------------------------------

    def body(self, name: str) -> np.ndarray:
        """Return the live position (N, 3) of a body, m."""
        return self.engine.bind("xpos")[:, self.engine.model.body(name).id]

    def body_quat(self, name: str) -> np.ndarray:
        """Return the live quaternion (N, 4), w x y z, of a body."""
        return self.engine.bind("xquat")[:, self.engine.model.body(name).id]

    def body_matrix(self, name: str) -> np.ndarray:
        """Return the live rotation matrix (N, 9) of a body."""
        return self.engine.bind("xmat")[:, self.engine.model.body(name).id]

    def site(self, name: str) -> np.ndarray:
        """Return the live position (N, 3) of a site, m."""
        return self.engine.bind("site_xpos")[:, self.engine.model.site(name).id]

    def geom(self, name: str) -> np.ndarray:
        """Return the live position (N, 3) of a geom, m."""
        return self.engine.bind("geom_xpos")[:, self.engine.model.geom(name).id]

    def geom_matrix(self, name: str) -> np.ndarray:
        """Return the live rotation matrix (N, 9) of a geom."""
        return self.engine.bind("geom_xmat")[:, self.engine.model.geom(name).id]

    def joint(self, name: str) -> np.ndarray:
        """Return the live position (N,) of a hinge or slide joint, rad or m."""
        return self.engine.bind("qpos")[:, int(self.engine.model.joint(name).qposadr[0])]

    def caging(self, action: np.ndarray, obj: np.ndarray, radius: float, pad: float, xz: float, **more: Any) -> Numbers:
        """Return :func:`.vocabulary.caging` of ``obj`` (N, 3) by this gripper since the episode began."""
        return caging(self.gripper, action, obj, self.obj_init_pos, radius, pad, xz, **more)

    # The worlds --------------------------------------------------------------------------------------------------

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        import mujoco

        assert self._shared is not None
        model, whole = self._shared.model, mujoco.mjtState.mjSTATE_INTEGRATION.value
        if self._scratch is None:
            self._scratch = mujoco.MjData(model)
        states = np.zeros((rows.size, mujoco.mj_stateSize(model, whole)))
        for k, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            env, self.observation[row] = self._shared.begin(self._scratch, int(seed), twice=False)
            mujoco.mj_getState(model, self._scratch, states[k], whole)
            for field in _MOVED:
                self._place(field, row)
            for key in (*_ALWAYS_KEPT, *self.kept):
                value = getattr(env, key)
                if key not in self.first:
                    self.first[key] = np.zeros((self.num_worlds, *np.shape(value)))
                self.first[key][row] = np.nan if value is None else value
        if self.randomizer is not None:
            self.randomizer.ended(rows[~self._running[rows] & (self._elapsed[rows] > 0)])
            self.randomizer.begin(rows, seeds)
        self.engine.load(states, rows)

    def _place(self, field: str, row: int) -> None:
        """Give world ``row`` what its episode changed in the model; worlds share a field until an episode changes it."""
        clean, now = getattr(self._shared, field), getattr(self.engine.model, field)
        if field not in self._own and (now != clean).any():
            self._own[field] = self.engine.expand(field)  # constants of the model are not derived anew: the suite does not either
        if field in self._own:
            self._own[field][row] = now

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        every = rows.size == self.num_worlds
        where: Any = slice(None) if every else rows
        self._action[where] = action
        sent = (self._action if self.randomizer is None else self.randomizer.act(self._action, None if every else rows))[where]
        # the increment is rounded to float32, as the suite's is
        self._mocap_pos[where, 0] = np.clip(self._mocap_pos[where, 0] + sent[:, :3] * self._step_size, *self._reach)
        self._mocap_quat[where, 0] = (1, 0, 1, 0)
        self._ctrl[where, 0], self._ctrl[where, 1] = sent[:, 3], -sent[:, 3]
        self.engine.step(None if every else rows, self.ticks)
        with np.errstate(all="ignore"):
            self._look()
            reward, success = self.judge(self._action)
        reward = plain(reward)
        if not every:
            reward, success = reward[rows], success[rows]
        if self.randomizer is not None:
            self.randomizer.judged(rows, success)
        return Outcome(reward, np.zeros(rows.size, bool), {"success": success})

    def _look(self) -> None:
        """Write the present observation of all N worlds."""
        assert self._shared is not None
        now = self.observation
        now[:, 18:36] = now[:, :18]
        now[:, :3] = self._hand
        now[:, 3] = np.clip(length(self._right_claw - self._left_claw) / _OPEN, 0.0, 1.0)
        for first, (position, quaternion) in zip((4, 11), self.objects(), strict=False):
            now[:, first : first + 3], now[:, first + 3 : first + 7] = position, quaternion
        np.divide(self._right_tip + self._left_tip, 2.0, out=self.tcp)
        now[:, 36:] = self.goal()
        np.clip(now, *self._shared.clip, out=now)

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        spread(self.observation, rows, out)
        if self.randomizer is not None:
            self.randomizer.sense(out, rows)
        if self._image_size:
            out[f"observation.images.{CAMERA}"][rows] = self.pictures(rows, self._image_size)

    def scene(self, row: int) -> tuple[Any, Any]:
        """See :class:`sim.drawn.DrawnBatch`."""
        return self.engine.scene(row)

    def expert_action(self) -> np.ndarray:
        """Return the suite's scripted action (N, 4) float32, clipped to [-1, 1]."""
        assert self._shared is not None
        return self._shared.expert_actions(self.observation, np.flatnonzero(self._running))

    def close(self) -> None:
        """Free cameras, worlds and the model; may be called twice."""
        super().close()
        self.engine.close()
        self._shared, self._scratch = None, None
