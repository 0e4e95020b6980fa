"""The demonstrations of one policy for several tasks: a data set a task, joined, balanced, and told apart by a condition."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policies.normalize import Normalizer
from policies.registry import policy_class
from policies.spec import InputError, Spec
from policies.statistics import RunningStats
from robopolicy.conditioning import ConditionConfig, condition_field, condition_rows, unscaled, with_condition
from robopolicy.data.balanced import Shown, TaskSampler
from robopolicy.data.dataset import Dataset
from robopolicy.data.joined import fingerprint_of, join
from robopolicy.data.windows import WindowSampler
from robopolicy.recipe import Note, Recipe
from robopolicy.training.demonstrations import Demonstrations, every_window


@dataclass
class TaskDemonstrations:
    """Data sets of several tasks as one recipe uses them; see :class:`robopolicy.training.demonstrations.Demonstrations`.

    Attributes:
        tasks: Registered names.
        sets: The data of each.
        joined: All of them, one behind the other.
        condition: How the policy is told which task is wanted; None: it is not.
    """

    tasks: Sequence[str]
    sets: Sequence[Demonstrations]
    joined: Dataset
    condition: ConditionConfig | None

    @property
    def spec(self) -> Spec:
        """What the policy observes and commands, the condition with it."""
        return with_condition(self.sets[0].spec, self.condition)

    @property
    def episodes(self) -> int:
        """Episodes in use, of all tasks."""
        return sum(one.episodes for one in self.sets)

    @property
    def name(self) -> str:
        """What a message calls them."""
        first = self.sets[0].name
        return first if len(self.sets) == 1 else f"{first} and {len(self.sets) - 1} more"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all data sets, in their order."""
        return fingerprint_of([one.dataset for one in self.sets])

    @property
    def frames(self) -> int:
        """Frames of the episodes in use."""
        return sum(one.frames for one in self.sets)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of them, JSON-ready."""
        whole = {"dataset": self.name, "dataset_fingerprint": self.fingerprint, "episodes": self.episodes}
        return {**whole, "datasets": [{"task": task, **one.facts()} for task, one in zip(self.tasks, self.sets, strict=True)]}

    def require(self, spec: Spec, by: str) -> None:
        """Refuse the data for ``spec``, which ``by`` expects. Raises SpecMismatch."""
        spec.require(self.spec, by, f"data of {', '.join(self.tasks)}")

    def sampler(self, recipe: Recipe, spec: Spec) -> TaskSampler:
        """Return the sampler of training batches with the observation fields of ``spec``."""
        shown, fields = {}, list(spec.observation.fields)
        if self.condition is not None and (name := condition_field(self.condition)[0]) in fields:
            fields.remove(name)
            shown[name] = Shown.of([condition_rows(self.condition, task, "training") for task in self.tasks])
        window = policy_class(recipe.policy_type).window(recipe.policy)
        episodes, tasks = self._used()
        exponent, batch = recipe.data.balance, recipe.training.batch_size
        return TaskSampler(self.joined, fields, window, batch, recipe.seed, episodes, tasks, self.tasks, exponent, shown)

    def windows(self, recipe: Recipe, spec: Spec) -> Iterator[dict[str, torch.Tensor]]:
        """Yield every training window of every task once, in batches, without images and without the condition."""
        known = self.sets[0].spec.observation.fields
        names = [name for name in spec.observation.state_names if name in known]
        observed, horizon, executed = policy_class(recipe.policy_type).window(recipe.policy)
        yield from every_window(WindowSampler(self.joined, names, observed, horizon, executed, recipe.training.batch_size, recipe.seed, self._used()[0]))

    def fit_normalizer(self, recipe: Recipe, spec: Spec) -> Normalizer:
        """Return the normaliser that the recipe's policy needs, fitted to the episodes in use of all tasks; one-hot stays as it is."""
        stats: dict[str, Mapping[str, np.ndarray]] = {**unscaled(self.condition)}
        for name in (*self.sets[0].spec.observation.state_names, "action"):
            array, starts = self.joined.field(name), self.joined.episode_starts
            running = RunningStats(array.shape[1:])
            for e in self._used()[0]:
                running.update(np.asarray(array[starts[e] : starts[e + 1]]))
            stats[name] = running.result()
        return policy_class(recipe.policy_type).fit_normalizer(recipe.policy, spec, stats, self.windows(recipe, spec))

    def _used(self) -> tuple[list[int], np.ndarray]:
        """Return the episodes in use of the joined data, and the task of each (E,) int64."""
        first = np.cumsum([0, *(one.dataset.num_episodes for one in self.sets)])
        episodes = [int(begin) + e for begin, one in zip(first, self.sets, strict=False) for e in range(one.episodes)]
        return episodes, np.repeat(np.arange(len(self.sets)), [one.episodes for one in self.sets])


class TaskLosses:
    """Mean loss of each of K tasks since it was last asked for (or since the run was taken up again).

    Args:
        tasks: Their names.
        device: Where losses are.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.tasks, self._sums = list(tasks), torch.zeros(2, len(tasks), dtype=torch.float64, device=device)

    def add(self, task: torch.Tensor, errors: torch.Tensor) -> None:
        """Count the errors (B,) of rows of tasks (B,) int64."""
        both = torch.stack([errors.double(), torch.ones_like(errors, dtype=torch.float64)])
        self._sums.index_add_(1, task, both)

    def take(self) -> dict[str, float]:
        """Return ``loss/TASK`` of this process's rows and begin anew; tasks that had none are left out."""
        sums, counts = self._sums.tolist()
        self._sums.zero_()
        return {f"loss/{task}": total / count for task, total, count in zip(self.tasks, sums, counts, strict=True) if count}


def open_task_sets(recipe: Recipe, tasks: Sequence[str], progress: bool, note: Note) -> TaskDemonstrations:
    """Open the data sets of a recipe for several ``tasks``; those that do not exist are collected if the recipe says how many episodes.

    Raises:
        InputError: if a data set is missing and cannot be collected, has fewer episodes than asked for, or the tasks cannot
            share a policy: SpecMismatch names the field that differs.
    """
    from robopolicy.training.demonstrations import open_demonstrations

    if len(tasks) > 1 and "{task}" not in recipe.data.path:
        raise InputError(f"data.path {recipe.data.path!r} is one folder for {len(tasks)} tasks: write {{task}} where the task's name is to stand")
    _require_alike(recipe, tasks)
    sets = []
    for task in tasks:
        path = recipe.data.path.format(**{**recipe.places(), "task": task.replace("/", "-")})
        data = recipe.data.model_copy(update={"path": path})
        env = recipe.env.model_copy(update={"condition": None})
        opened = open_demonstrations(recipe.model_copy(update={"task": task, "data": data, "env": env}), progress, note)
        assert isinstance(opened, Demonstrations)
        sets.append(opened)
    for task, one in zip(tasks[1:], sets[1:], strict=True):
        _require_same(sets[0].spec, one.spec, f"data of {tasks[0]}", f"data of {task}")
    return TaskDemonstrations(tasks, sets, join([one.dataset for one in sets], recipe.data.cache, progress), recipe.env.condition)


def _require_alike(recipe: Recipe, tasks: Sequence[str]) -> None:
    """Refuse tasks whose worlds differ in what is observed or commanded, before anything is collected. Raises SpecMismatch."""
    from sim.registry import make

    env, first = recipe.env, None
    for task in tasks:
        with contextlib.closing(make(task, 1, env.observations, env.image_size, env.max_episode_steps)) as world:
            first = first or world.spec
            _require_same(first, world.spec, f"task {tasks[0]}", f"task {task}")


def _require_same(first: Spec, other: Spec, by: str, found_in: str) -> None:
    first.require(other, by, found_in)
    other.require(first, found_in, by)  # and nothing that the first does not have
