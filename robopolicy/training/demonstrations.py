"""The demonstrations of a recipe: found or collected, checked against the task's world, and drawn in windows."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from policies.normalize import Normalizer
from policies.registry import policy_class
from policies.spec import InputError, Spec
from policies.statistics import RunningStats, Stats
from real.calibration import changes
from robopolicy.conditioning import recipe_tasks
from robopolicy.data import layout
from robopolicy.data.dataset import Dataset
from robopolicy.data.goals import with_goals
from robopolicy.data.mixture import MixtureSampler
from robopolicy.data.windows import WindowSampler
from robopolicy.recipe import Note, Recipe, SetConfig

if TYPE_CHECKING:
    from robopolicy.training.task_sets import TaskDemonstrations

TAKEOVER = "takeover"  # field of a recording: a person chose this action


@dataclass
class Demonstrations:
    """A data set as one recipe uses it.

    Attributes:
        dataset: All of it.
        spec: What a policy for the recipe's task observes and commands.
        episodes: How many episodes are used.
        chosen: Which, (episodes,) int64; None: the first of the set.
        only_takeovers: Whether only what a person did who took over is imitated.
    """

    dataset: Dataset
    spec: Spec
    episodes: int
    chosen: np.ndarray | None = None
    only_takeovers: bool = False

    @property
    def name(self) -> str:
        """What a message calls it."""
        return str(self.dataset.path)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data set."""
        return self.dataset.fingerprint

    @property
    def frames(self) -> int:
        """Frames of the episodes in use."""
        lengths = np.diff(self.dataset.episode_starts)
        return int((lengths[: self.episodes] if self.chosen is None else lengths[self.chosen]).sum())

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it, JSON-ready."""
        return {"dataset": self.name, "dataset_fingerprint": self.fingerprint, "episodes": self.episodes}

    def require(self, spec: Spec, by: str) -> None:
        """Refuse the data for ``spec``, which ``by`` expects. Raises SpecMismatch."""
        spec.require(self.dataset.spec, by, f"data set {self.name}")

    def stats(self) -> Mapping[str, Stats]:
        """Return field -> statistics over the episodes in use: those that are not used must not shape the normaliser."""
        if self.episodes == self.dataset.num_episodes:
            return self.dataset.stats
        return stats_of([self])

    def sampler(self, recipe: Recipe, spec: Spec) -> WindowSampler:
        """Return the sampler of training batches with the observation fields of ``spec``."""
        observed, horizon, executed = policy_class(recipe.policy_type).window(recipe.policy)
        fields, marked = list(spec.observation.fields), None
        if self.only_takeovers:
            if TAKEOVER not in self.dataset.arrays:
                raise InputError(f"data set {self.name} has no field {TAKEOVER!r}: nobody took over in it; leave only_takeovers out")
            marked = np.asarray(self.dataset.field(TAKEOVER), bool).reshape(-1)
        used = self.episodes if self.chosen is None else self.chosen.tolist()
        if recipe.data.goals is not None:
            return goal_sampler(recipe, self.dataset, fields, used, marked)
        return WindowSampler(self.dataset, fields, observed, horizon, executed, recipe.training.batch_size, recipe.seed, used, marked=marked)

    def windows(self, recipe: Recipe, spec: Spec) -> Iterator[dict[str, torch.Tensor]]:
        """Yield every training window once, in batches, without images."""
        return every_window(self.sampler(recipe, spec.subset(spec.observation.state_names)))

    def fit_normalizer(self, recipe: Recipe, spec: Spec) -> Normalizer:
        """Return the normaliser that the recipe's policy needs, fitted to the episodes in use."""
        return policy_class(recipe.policy_type).fit_normalizer(recipe.policy, spec, self.stats(), self.windows(recipe, spec))


@dataclass
class DemonstrationSets:
    """Several data sets as one recipe uses them; see :class:`Demonstrations`.

    Attributes:
        sets: Each of them.
        weights: How often its windows come in an epoch.
    """

    sets: Sequence[Demonstrations]
    weights: Sequence[float]

    @property
    def spec(self) -> Spec:
        """What a policy for the recipe's task observes and commands."""
        return self.sets[0].spec

    @property
    def episodes(self) -> int:
        """Episodes in use, of all sets."""
        return sum(one.episodes for one in self.sets)

    @property
    def name(self) -> str:
        """What a message calls them."""
        return ", ".join(one.name for one in self.sets)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all data sets, in their order."""
        return hashlib.sha256(" ".join(one.fingerprint for one in self.sets).encode()).hexdigest()[:16]

    @property
    def frames(self) -> int:
        """Frames of the episodes in use."""
        return sum(one.frames for one in self.sets)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of them, JSON-ready."""
        whole = {"dataset": self.name, "dataset_fingerprint": self.fingerprint, "episodes": self.episodes}
        return {**whole, "datasets": [one.facts() for one in self.sets]}

    def require(self, spec: Spec, by: str) -> None:
        """Refuse data for ``spec``, which ``by`` expects. Raises SpecMismatch."""
        for one in self.sets:
            one.require(spec, by)

    def sampler(self, recipe: Recipe, spec: Spec) -> MixtureSampler:
        """Return the sampler of training batches with the observation fields of ``spec``."""
        return MixtureSampler([one.sampler(recipe, spec) for one in self.sets], self.weights, recipe.seed)

    def windows(self, recipe: Recipe, spec: Spec) -> Iterator[dict[str, torch.Tensor]]:
        """Yield every training window of every set once, in batches, without images."""
        for one in self.sets:
            yield from one.windows(recipe, spec)

    def fit_normalizer(self, recipe: Recipe, spec: Spec) -> Normalizer:
        """Return the normaliser that the recipe's policy needs, fitted to the episodes in use of all sets."""
        return policy_class(recipe.policy_type).fit_normalizer(recipe.policy, spec, stats_of(self.sets), self.windows(recipe, spec))


def goal_sampler(recipe: Recipe, dataset: Dataset, fields: Sequence[str], episodes: Sequence[int] | int, marked: np.ndarray | None) -> WindowSampler:
    """Return the sampler of a recipe whose goals are drawn by hindsight; ``marked`` (F,) bool as in ``WindowSampler``."""
    from robopolicy.data.goal_windows import GoalSampler

    assert recipe.data.goals is not None
    sizes = dict(zip(("n_obs_steps", "horizon", "n_action_steps"), policy_class(recipe.policy_type).window(recipe.policy), strict=True))
    own = {"batch_size": recipe.training.batch_size, "seed": recipe.seed, "episodes": episodes, "marked": marked}
    return GoalSampler(recipe.data.goals, dataset=dataset, fields=fields, **sizes, **own)


def _opened(recipe: Recipe, path: Path, progress: bool) -> Dataset:
    """Open a data set, with a field for goals where the recipe draws them by hindsight."""
    dataset = Dataset.open(path, recipe.data.cache, progress)
    return dataset if recipe.data.goals is None else with_goals(dataset, recipe.data.goals)


def every_window(sampler: WindowSampler) -> Iterator[dict[str, torch.Tensor]]:
    """Yield every window of ``sampler`` once, in batches."""
    for first in range(0, sampler.num_windows, sampler.batch_size):
        batch, _ = sampler.batch(first // sampler.batch_size)
        yield {name: rows[: sampler.num_windows - first] for name, rows in batch.items()}  # the rest is of the next epoch


def stats_of(sets: Sequence[Demonstrations]) -> Mapping[str, Stats]:
    """Return field -> statistics over the episodes in use of all ``sets``, of states and action."""
    out = {}
    for name in (*sets[0].spec.observation.state_names, "action"):
        running = RunningStats(sets[0].dataset.field(name).shape[1:])
        for one in sets:
            array, starts = one.dataset.field(name), one.dataset.episode_starts
            if one.chosen is None:
                running.update(np.asarray(array[: starts[one.episodes]]))
            else:
                for e in one.chosen.tolist():
                    running.update(np.asarray(array[starts[e] : starts[e + 1]]))
        out[name] = running.result()
    return out


def open_demonstrations(recipe: Recipe, progress: bool, note: Note) -> Demonstrations | DemonstrationSets | TaskDemonstrations:
    """Open the recipe's data set, or several; collect it first if it does not exist and the recipe says how many episodes.

    Raises:
        InputError: if there is no data set and none can be collected, or it has fewer episodes than the recipe asks for.
        SpecMismatch: if the data sets and the task's world do not fit each other.
    """
    if tasks := recipe_tasks(recipe):
        from robopolicy.training.task_sets import open_task_sets

        return open_task_sets(recipe, tasks, progress, note)
    if recipe.data.sets is not None:
        sets = [_open_set(recipe, one, k, progress, note) for k, one in enumerate(recipe.data.sets)]
        for other in sets[1:]:
            other.require(sets[0].spec, f"data set {sets[0].name}")
            if changed := changes(sets[0].spec, other.dataset.spec):
                note(f"data set {other.name} was recorded with another calibration than {sets[0].name}: {'; '.join(changed)}")
        return sets[0] if len(sets) == 1 else DemonstrationSets(sets, [one.weight for one in recipe.data.sets])
    path = Path(recipe.filled(recipe.data.path))
    if not path.exists() or begun_collection(path, recipe.data.collect):
        _collect(recipe, path, progress, note)
    dataset = _opened(recipe, path, progress)
    episodes = recipe.data.episodes or dataset.num_episodes
    if episodes > dataset.num_episodes:
        raise InputError(f"data.episodes={episodes}: data set {path} has {dataset.num_episodes} episodes; collect more with: robopolicy collect")
    return Demonstrations(dataset, _task_spec(recipe, dataset, note), episodes)


def _open_set(recipe: Recipe, config: SetConfig, number: int, progress: bool, note: Note) -> Demonstrations:
    """Open one of several data sets. Raises InputError."""
    path, key = Path(recipe.filled(config.path)), f"data.sets[{number}]"
    dataset = _opened(recipe, path, progress)
    episodes = config.episodes or dataset.num_episodes
    if episodes > dataset.num_episodes:
        raise InputError(f"{key}.episodes={episodes}: data set {path} has {dataset.num_episodes} episodes")
    chosen = None
    if config.only_success:
        chosen = np.flatnonzero(dataset.success[:episodes] == 1)
        if not chosen.size:
            raise InputError(f"{key}.only_success: no episode of data set {path} is known to have succeeded")
        episodes = len(chosen)
    spec = _task_spec(recipe, dataset, note if number == 0 else lambda text: None)
    return Demonstrations(dataset, spec, episodes, chosen, config.only_takeovers)


def begun_collection(path: Path, wanted: int | None) -> bool:
    """Whether ``path`` is a collection that was interrupted before it had ``wanted`` episodes; recordings are used as they are."""
    if not wanted or not layout.is_dataset(path):
        return False
    made = (layout.read_own(path) or {}).get("provenance") or {}
    return bool({"collect", "ogbench"} & set(made)) and int(layout.read_info(path)["total_episodes"]) < wanted


def _collect(recipe: Recipe, path: Path, progress: bool, note: Note) -> None:
    from sim.registry import entry

    episodes = recipe.data.collect
    if episodes is None:
        raise InputError(f"data set {path} does not exist; set data.path, or data.collect=25 to collect 25 demonstrations with the expert")
    found = entry(recipe.task)
    if recipe.data.kind is not None:
        from robopolicy.data.ogbench import regenerate

        note(f"making {episodes} episodes of {found.name}, kind {recipe.data.kind}, into {path}")
        regenerate(f"{found.name}-{recipe.data.kind}", path, episodes, recipe.data.workers, progress)
        return
    if not found.has_expert:
        raise InputError(f"data set {path} does not exist, and task {found.name!r} ships no expert to collect it with; record it first")
    from robopolicy.data.collect import collect

    note(f"collecting {episodes} demonstrations of {found.name} into {path}")
    env = recipe.env
    collect(
        found.name,
        path,
        episodes=episodes,
        workers=recipe.data.workers,
        observations=env.observations,
        image_size=env.image_size,
        progress=progress,
        randomize=env.randomize,
        engine=env.engine,
        reward=env.reward,
    )


def _task_spec(recipe: Recipe, dataset: Dataset, note: Note) -> Spec:
    """Return the spec of the task's world, which the data set must offer; without such a world, of the data set."""
    from sim.registry import entry, make

    try:
        found = entry(recipe.task)
    except InputError as error:
        if recipe.training.evaluate_every:
            raise InputError(f"training.evaluate_every needs a simulated task: {error}") from None
        names = _observed(dataset.spec, recipe.env.observations)
        note(f"task {recipe.task!r} is not simulated here; the policy sees what the data set holds: {', '.join(names)}")
        return dataset.spec.subset(names)
    env = recipe.env
    with contextlib.closing(make(found.name, 1, env.observations, env.image_size, env.max_episode_steps)) as world:
        world.spec.require(dataset.spec, f"task {found.name!r}", f"data set {dataset.path}")
        return dataset.spec.subset(list(world.spec.observation.fields))


def _observed(spec: Spec, observations: str) -> list[str]:
    hidden = {"state": spec.observation.image_names, "image": ("observation.environment_state",), "state+image": ()}[observations]
    return [name for name in spec.observation.fields if name not in hidden]
