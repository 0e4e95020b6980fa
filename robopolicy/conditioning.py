"""Which task is wanted, as part of the observation: one-hot over a set of tasks, or an instruction in words.

One policy for several tasks must be told which one it is in: without that it can only do what all of them have in common.
In training the field is written into every batch (``robopolicy.data.balanced``), data sets on disk do not hold it; at
evaluation :func:`conditioned` adds it to the worlds. What was said of an episode is a function of (task, seed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import Field, InputError, ObservationSpec, Spec, suggest
from robopolicy.instructions import phrases
from sim.env import BatchEnv, Observation, StepResult
from sim.episodes import hashed

if TYPE_CHECKING:
    from robopolicy.recipe import Recipe

ONE_HOT, TEXT = "observation.task", "observation.text"
_WORDING = 0x7E87  # keeps the draw of a wording apart from what else hangs on a seed


class ConditionConfig(Config):
    """How the wanted task is observed. A word in its place is ``type``."""

    type: Literal["one_hot", "text"]
    tasks: list[str] | None = None  # one_hot: what its numbers stand for, in order; None: the tasks that the recipe is for
    length: pydantic.PositiveInt = 64  # text: bytes
    wording: Literal["plain", "training", "held_out"] = "plain"  # text, in worlds: what an episode is told, see robopolicy.instructions

    @pydantic.model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _of_its_type(self) -> ConditionConfig:
        for name in ("tasks",) if self.type == "text" else ("length", "wording"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"condition {self.type} has no {name}")
        return self


def task_set(task: str) -> tuple[str, ...]:
    """Return the registered tasks of a recipe's ``task`` that stands for several: a tag, or names with commas between; else nothing.

    Raises:
        InputError: if one of several names is no task, or a task is named twice.
    """
    from sim import registry

    try:
        registry.resolve(task)
        return ()  # a task comes before a tag of its name
    except InputError:
        if "," in task:
            names = [registry.resolve(name) for name in task.split(",")]
            if len(set(names)) < len(names):
                raise InputError(f"tasks {task!r}: every task can be named once") from None
            return tuple(names)
        return tuple(registry.names(task)) if task in registry.tags() else ()


def require_task_set(task: str) -> tuple[str, ...]:
    """Return the tasks of a tag, of names with commas between, or of one name. Raises InputError naming the nearest tag."""
    from sim import registry

    try:
        return task_set(task) or (registry.resolve(task),)
    except InputError:
        if "," in task:
            raise
        raise InputError(f"{task!r} is neither a tag nor a task{suggest(task, registry.tags())} (see: robopolicy list tasks)") from None


def recipe_tasks(recipe: Recipe) -> tuple[str, ...]:
    """Return the tasks of a recipe that trains one policy for several, or tells it which one it is in; else nothing."""
    own = task_set(recipe.task)
    return own or (require_task_set(recipe.task) if recipe.env.condition is not None else ())


def completed(condition: ConditionConfig | None, task: str) -> ConditionConfig | None:
    """Return ``condition`` with its tasks said, for a recipe's ``task``. Raises InputError for tasks that do not exist."""
    from sim import registry

    if condition is None or condition.type != "one_hot":
        return condition
    names = list(require_task_set(task)) if condition.tasks is None else [registry.resolve(name) for name in condition.tasks]
    return condition.model_copy(update={"tasks": names})


def condition_field(condition: ConditionConfig) -> tuple[str, Field]:
    """Return name and form of the observation field that says which task is wanted. Raises InputError without tasks to say."""
    if condition.type == "text":
        return TEXT, Field((condition.length,), "uint8", kind="text")
    if not condition.tasks:
        raise InputError("condition: one_hot needs its tasks, in order")
    return ONE_HOT, Field((len(condition.tasks),), names=tuple(condition.tasks), kind="goal")


def condition_rows(condition: ConditionConfig, task: str, wording: str) -> np.ndarray:
    """Return what the field can be while ``task`` is wanted, (P, *shape): one row, or one for each instruction.

    Raises:
        InputError: if the task is not among those of the condition, or an instruction does not fit.
    """
    if condition.type == "text":
        return np.stack([encoded(said, condition.length) for said in phrases(task, wording)])
    tasks = condition.tasks or []
    if task not in tasks:
        raise InputError(f"task {task!r} is none of those that the policy was told apart{suggest(task, tasks)}")
    return np.eye(len(tasks), dtype=np.float32)[[tasks.index(task)]]


def encoded(text: str, length: int) -> np.ndarray:
    """Return the bytes of ``text`` (length,) uint8, zeros behind them. Raises InputError if they are too many, or none."""
    body = text.strip().encode()
    if not 0 < len(body) <= length or 0 in body:
        raise InputError(f"instruction {text!r}: expected 1 to {length} bytes, found {len(body)}; see env.condition.length")
    out = np.zeros(length, np.uint8)
    out[: len(body)] = np.frombuffer(body, np.uint8)
    return out


def with_condition(spec: Spec, condition: ConditionConfig | None) -> Spec:
    """Return ``spec`` with the field of ``condition`` behind its observation fields."""
    if condition is None:
        return spec
    name, field = condition_field(condition)
    return Spec(ObservationSpec({**spec.observation.fields, name: field}, spec.observation.rate_hz), spec.action, spec.meta)


def unscaled(condition: ConditionConfig | None) -> dict[str, dict[str, np.ndarray]]:
    """Return statistics of the condition's field by which every normalisation leaves it as it is; nothing for a text, arrays (K,)."""
    if condition is None or condition.type == "text":
        return {}
    name, field = condition_field(condition)
    zero, one = np.zeros(field.shape), np.ones(field.shape)
    return {name: {"min": -one, "max": one, "mean": zero, "std": one, "q01": -one, "q99": one}}


def conditioned(worlds: BatchEnv, condition: ConditionConfig | Mapping[str, Any] | str) -> BatchEnv:
    """Return ``worlds`` of one task with the field that says so. Raises InputError if the condition does not know their task."""
    if not isinstance(condition, ConditionConfig):
        from robopolicy.config import validate

        condition = validate(ConditionConfig, {"type": condition} if isinstance(condition, str) else condition, "env.condition")
    return ConditionedWorlds(worlds, condition)


class ConditionedWorlds:
    """Worlds whose observation says which task is wanted; all else is theirs, and shapes are as in :class:`sim.env.BatchEnv`.

    Args:
        worlds: N worlds of one task.
        condition: How it is said.
    """

    def __init__(self, worlds: BatchEnv, condition: ConditionConfig) -> None:
        self.worlds, self.condition = worlds, condition
        self.task, self.suite_version, self.spec = worlds.task, worlds.suite_version, with_condition(worlds.spec, condition)
        self.num_worlds, self.max_episode_steps, self.autoreset = worlds.num_worlds, worlds.max_episode_steps, worlds.autoreset
        self._name = condition_field(condition)[0]
        self._rows = condition_rows(condition, worlds.task, condition.wording)
        self._shown = self._rows[np.zeros(worlds.num_worlds, np.int64)]

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """See :meth:`sim.env.BatchEnv.reset`; seeds (N,). An episode's wording hangs on its seed, later ones of an auto-reset keep it."""
        obs = self.worlds.reset(seeds, mask)
        rows = np.arange(self.num_worlds) if mask is None else np.flatnonzero(mask)
        self._shown = self._shown.copy()
        self._shown[rows] = self._rows[hashed(np.asarray(seeds, np.int64)[rows], _WORDING) % len(self._rows)]
        return self._added(obs)

    def step(self, action: np.ndarray) -> StepResult:
        """See :meth:`sim.env.BatchEnv.step`; action (N, Da)."""
        result = self.worlds.step(action)
        same = result.obs is result.next_obs
        result.next_obs = self._added(result.next_obs)
        result.obs = result.next_obs if same else self._added(result.obs)
        return result

    def retire(self, mask: np.ndarray) -> None:
        """See :meth:`sim.env.BatchEnv.retire`; mask (N,)."""
        self.worlds.retire(mask)

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """See :meth:`sim.env.BatchEnv.render`; pictures (len(worlds), H, W, 3)."""
        return self.worlds.render(worlds)

    def expert_action(self) -> np.ndarray:
        """See :meth:`sim.env.BatchEnv.expert_action`; (N, Da)."""
        return self.worlds.expert_action()

    def close(self) -> None:
        """See :meth:`sim.env.BatchEnv.close`."""
        self.worlds.close()

    def __getattr__(self, name: str) -> Any:
        """Return what the worlds have beyond the contract, e.g. their engine."""
        if name == "worlds":
            raise AttributeError(name)  # not made yet: pickling asks before there is anything
        return getattr(self.worlds, name)

    def _added(self, obs: Observation) -> Observation:
        return {**obs, self._name: self._shown}


def balance_exponent(value: Any) -> Any:
    """Return the exponent that ``tasks`` (0), ``frames`` (1) or ``{alpha: x}`` stands for; anything else as it is.

    A task with n windows is visited in proportion to n^alpha.
    """
    if isinstance(value, Mapping) and list(value) == ["alpha"]:
        return value["alpha"]
    if isinstance(value, str) and value not in ("tasks", "frames"):
        raise ValueError(f"expected tasks, frames or {{alpha: 0 to 1}}, found {value!r}")
    return {"tasks": 0.0, "frames": 1.0}.get(value, value) if isinstance(value, str) else value


def shares(counts: Sequence[int] | np.ndarray, exponent: float) -> np.ndarray:
    """Return how many windows of each task an epoch holds, (K,) int64: in proportion to counts^exponent, at least 1, as many in all (rounded)."""
    n = np.asarray(counts, np.float64)
    wanted = n**exponent
    return np.maximum(1, np.rint(n.sum() * wanted / wanted.sum())).astype(np.int64)
