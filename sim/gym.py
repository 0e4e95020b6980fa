"""Adapters both ways: every task here is ``gymnasium.make("robopolicy/NAME")``, any Gymnasium environment a BatchEnv.

Importing this module registers the tasks; ``gymnasium.make("sim.gym:robopolicy/NAME")`` imports it by itself (Gymnasium 1.0
dropped the entry points that did so unasked).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim import registry
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome
from sim.registry import ObservationMode


def register() -> None:
    """Register every task as ``robopolicy/NAME``, where NAME is its short name (Gymnasium allows one slash)."""
    for name in registry.names():
        identifier = f"robopolicy/{registry.entry(name).short_name}"
        if identifier not in gymnasium.registry:
            gymnasium.register(identifier, entry_point="sim.gym:TaskEnv", kwargs={"task": name})


def box(field: Field) -> spaces.Box:
    """Return the space of ``field``: its shape, dtype and limits, unbounded where it has none."""
    bottom, top = (0, 255) if field.is_image else (-np.inf, np.inf)
    low = np.full(field.shape, bottom) if field.low is None else np.reshape(field.low, field.shape)
    high = np.full(field.shape, top) if field.high is None else np.reshape(field.high, field.shape)
    dtype = np.dtype(field.dtype)
    return spaces.Box(low.astype(dtype), high.astype(dtype), field.shape, dtype.type)


class TaskEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """One world of a task as a Gymnasium environment; observations are a dict of the spec's fields.

    Args:
        task: Registered name.
        observations: As in :func:`sim.registry.make`.
        image_size: px.
        max_episode_steps: Time limit; None: the task's own. ``gymnasium.make`` keeps an argument of this name to itself, and its wrapper
            can only cut an episode short, unseen by a task that judges at the limit: make this class itself for another limit.
        render_mode: ``rgb_array`` or None.
        options: ``engine``, ``reward``, ``randomize`` as in :func:`sim.registry.make`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        task: str,
        observations: ObservationMode = "state",
        image_size: int = 96,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"render_mode {render_mode!r} of task {task!r}: expected None or 'rgb_array'")
        self.worlds = registry.make(task, 1, observations, image_size, max_episode_steps, **options)
        self.render_mode = render_mode
        self.__dict__["metadata"] = {**self.metadata, "render_fps": round(self.worlds.spec.action.rate_hz)}
        boxes: Any = spaces.Dict({n: box(f) for n, f in self.worlds.spec.observation.fields.items()})
        self.observation_space = boxes
        action = self.worlds.spec.action
        self.action_space = spaces.Box(action.low, action.high, (action.dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the episode of ``seed``, or of one drawn from the environment's generator. ``options`` are not used."""
        super().reset(seed=seed)
        number = seed if seed is not None else int(self.np_random.integers(2**62))
        return _row(self.worlds.reset(np.array([number], np.int64))), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advance by one control step; ``info`` has ``success`` and the task's other entries as numbers."""
        result = self.worlds.step(np.asarray(action, np.float32)[None])
        info = {name: values[0].item() for name, values in result.info.items()}
        return _row(result.next_obs), float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0]), info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return (H, W, 3) uint8, or None when no render mode was chosen or this machine cannot render."""
        pictures = self.worlds.render() if self.render_mode else None
        return None if pictures is None else pictures[0]

    def expert_action(self) -> np.ndarray:
        """Return the expert's action (Da,) float32. Raises InputError if the task has none."""
        return self.worlds.expert_action()[0]

    def close(self) -> None:
        """Release the world."""
        self.worlds.close()


def _row(observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in observation.items()}


class GymBatch(EpisodicBatch):
    """N copies of a Gymnasium environment behind the BatchEnv contract.

    A box observation becomes ``observation.state``, or ``observation.images.main`` if it is a picture; a dict becomes
    ``observation.KEY`` and ``observation.images.KEY``. Boolean ``is_success`` or ``success`` of the environment's info is
    passed on. Episodes are reproducible as far as the environment's own ``reset(seed)`` is.

    Args:
        make: Makes one environment; called N times.
        num_worlds: N.
        name: Task name for the ledger; None: the environment's id.
        action_kind: What its actions mean, one of ``policies.spec.ACTION_KINDS``: decides how a command is held.
        rate_hz: Control rate; None: the environment's ``render_fps``, else 10.
        max_episode_steps: Time limit; None: the environment's registered one, else 1000.
        autoreset: Whether an ended world begins anew by itself.

    Raises:
        InputError: if a space is not a box or a flat dict of boxes, or a number is not positive.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_worlds: int = 1,
        name: str | None = None,
        action_kind: str = "position",
        rate_hz: float | None = None,
        max_episode_steps: int | None = None,
        autoreset: bool = False,
    ) -> None:
        for what, number in (("num_worlds", num_worlds), ("rate_hz", rate_hz), ("max_episode_steps", max_episode_steps)):
            if number is not None and not number > 0:
                raise InputError(f"{what} of task {name or 'gymnasium'!r}: expected more than 0, found {number}")
        self._envs = [make() for _ in range(num_worlds)]
        first = self._envs[0]
        registered = first.spec
        task = name or (registered.id if registered else type(first.unwrapped).__name__)
        rate = rate_hz or float(first.metadata.get("render_fps") or 10)
        self._fields = _observation_fields(task, first.observation_space)
        observation = ObservationSpec({field: value for field, (_, value) in self._fields.items()}, rate)
        spec = Spec(observation, ActionSpec({"action": _action_field(task, first.action_space, action_kind)}, rate))
        limit = max_episode_steps or (registered.max_episode_steps if registered else None) or 1000
        super().__init__(task, f"gymnasium {gymnasium.__version__}, {task}", spec, num_worlds, limit, autoreset)
        self._shape = first.action_space.shape
        self._latest: list[Any] = [None] * num_worlds

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            self._latest[row], _ = self._envs[row].reset(seed=int(seed))

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward = np.zeros(rows.size)
        terminated, truncated, success = (np.zeros(rows.size, bool) for _ in range(3))
        for k, row in enumerate(rows):
            command = action[k].reshape(self._shape).astype(self._envs[row].action_space.dtype)
            self._latest[row], reward[k], terminated[k], truncated[k], info = self._envs[row].step(command)
            success[k] = bool(info.get("is_success", info.get("success", False)))
        return Outcome(reward, terminated, {"success": success}, truncated)

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        for name, (key, _) in self._fields.items():
            for row in rows:
                out[name][row] = self._latest[row] if key is None else self._latest[row][key]

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return pictures (len(worlds), H, W, 3) uint8 of environments made with ``render_mode="rgb_array"``, else None."""
        if self._envs[0].render_mode != "rgb_array":
            return None
        rows = np.arange(self.num_worlds) if worlds is None else np.asarray(worlds)
        return np.stack([np.asarray(self._envs[row].render(), np.uint8) for row in rows])

    def close(self) -> None:
        """Close the environments; may be called twice."""
        super().close()
        for env in self._envs:
            env.close()
        self._envs = []


def _observation_fields(task: str, space: spaces.Space) -> dict[str, tuple[str | None, Field]]:
    """Return field name -> (key in the environment's dict or None, field)."""
    if isinstance(space, spaces.Dict):
        parts = {str(key): part for key, part in space.items()}
    else:
        parts = {"": space}
    out: dict[str, tuple[str | None, Field]] = {}
    for key, part in parts.items():
        if not isinstance(part, spaces.Box):
            raise InputError(f"task {task!r}: observation {key or 'space'} is a {type(part).__name__}, expected a box of numbers")
        picture = part.dtype == np.uint8 and len(part.shape) == 3 and part.shape[2] == 3
        if picture:
            field = Field(part.shape, "uint8", kind="image")
        else:
            field = Field(part.shape, low=_limit(part.low), high=_limit(part.high))
        out[f"observation.images.{key or 'main'}" if picture else f"observation.{key or 'state'}"] = (key or None, field)
    return out


def _action_field(task: str, space: spaces.Space, kind: str) -> Field:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise InputError(f"task {task!r}: the action space is {space}, expected a box of real numbers")
    return Field((int(np.prod(space.shape)),), low=_limit(space.low.ravel()), high=_limit(space.high.ravel()), kind=kind)


def _limit(values: np.ndarray) -> tuple[float, ...] | None:
    """Return limits, or None unless all are finite (a field is bounded as a whole or not at all)."""
    return tuple(float(v) for v in values.ravel()) if np.isfinite(values).all() else None


def as_batch(env_id: str, num_worlds: int = 1, **options: Any) -> BatchEnv:
    """Return ``num_worlds`` of a registered Gymnasium environment as a BatchEnv; options as in :class:`GymBatch`."""
    limit = options.get("max_episode_steps")  # else the registered one would cut a longer episode
    return GymBatch(lambda: gymnasium.make(env_id, max_episode_steps=limit, disable_env_checker=True), num_worlds, **options)


register()
