"""The demonstrations of a recipe: found or collected, checked against the task's world, and drawn in windows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from policies.normalize import Normalizer
from policies.registry import policy_class
from policies.spec import InputError, Spec
from policies.statistics import RunningStats, Stats
from robopolicy.data import layout
from robopolicy.data.dataset import Dataset
from robopolicy.data.windows import WindowSampler
from robopolicy.recipe import Note, Recipe


@dataclass
class Demonstrations:
    """A data set as one recipe uses it.

    Attributes:
        dataset: All of it.
        spec: What a policy for the recipe's task observes and commands.
        episodes: How many episodes are used, the first of the set.
    """

    dataset: Dataset
    spec: Spec
    episodes: int

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data set."""
        return self.dataset.fingerprint

    @property
    def frames(self) -> int:
        """Frames of the episodes in use."""
        return int(self.dataset.episode_starts[self.episodes])

    def stats(self) -> Mapping[str, Stats]:
        """Return field -> statistics over the episodes in use: those that are not used must not shape the normaliser."""
        if self.episodes == self.dataset.num_episodes:
            return self.dataset.stats
        out = {}
        for name in (*self.spec.observation.state_names, "action"):
            array = self.dataset.field(name)
            running = RunningStats(array.shape[1:])
            running.update(np.asarray(array[: self.frames]))
            out[name] = running.result()
        return out

    def sampler(self, recipe: Recipe, spec: Spec) -> WindowSampler:
        """Return the sampler of training batches with the observation fields of ``spec``."""
        observed, horizon, executed = policy_class(recipe.policy_type).window(recipe.policy)
        fields = list(spec.observation.fields)
        return WindowSampler(self.dataset, fields, observed, horizon, executed, recipe.training.batch_size, recipe.seed, self.episodes)

    def windows(self, recipe: Recipe, spec: Spec) -> Iterator[dict[str, torch.Tensor]]:
        """Yield every training window once, in batches, without images."""
        sampler = self.sampler(recipe, spec.subset(spec.observation.state_names))
        for first in range(0, sampler.num_windows, sampler.batch_size):
            batch, _ = sampler.batch(first // sampler.batch_size)
            yield {name: rows[: sampler.num_windows - first] for name, rows in batch.items()}  # the rest is of the next epoch

    def fit_normalizer(self, recipe: Recipe, spec: Spec) -> Normalizer:
        """Return the normaliser that the recipe's policy needs, fitted to the episodes in use."""
        return policy_class(recipe.policy_type).fit_normalizer(recipe.policy, spec, self.stats(), self.windows(recipe, spec))


def open_demonstrations(recipe: Recipe, progress: bool, note: Note) -> Demonstrations:
    """Open the recipe's data set; collect it first if it does not exist and the recipe says how many episodes.

    Raises:
        InputError: if there is no data set and none can be collected, or it has fewer episodes than the recipe asks for.
        SpecMismatch: if the data set and the task's world do not fit each other.
    """
    path = Path(recipe.filled(recipe.data.path))
    if not path.exists() or _begun_collection(path, recipe.data.collect):
        _collect(recipe, path, progress, note)
    dataset = Dataset.open(path, recipe.data.cache, progress)
    episodes = recipe.data.episodes or dataset.num_episodes
    if episodes > dataset.num_episodes:
        raise InputError(f"data.episodes={episodes}: data set {path} has {dataset.num_episodes} episodes; collect more with: robopolicy collect")
    return Demonstrations(dataset, _task_spec(recipe, dataset, note), episodes)


def _begun_collection(path: Path, wanted: int | None) -> bool:
    """Whether ``path`` is a collection that was interrupted before it had ``wanted`` episodes; recordings are used as they are."""
    if not wanted or not layout.is_dataset(path):
        return False
    made = (layout.read_own(path) or {}).get("provenance") or {}
    return "collect" in made and int(layout.read_info(path)["total_episodes"]) < wanted


def _collect(recipe: Recipe, path: Path, progress: bool, note: Note) -> None:
    from sim.registry import entry

    episodes = recipe.data.collect
    if episodes is None:
        raise InputError(f"data set {path} does not exist; set data.path, or data.collect=25 to collect 25 demonstrations with the expert")
    found = entry(recipe.task)
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
