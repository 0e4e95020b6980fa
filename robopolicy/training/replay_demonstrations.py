"""Demonstrations as transitions: a data set, or what somebody does who takes over, in a replay that batches are partly drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies.normalize import Normalizer, limits_normalizer
from policies.spec import InputError, Spec
from robopolicy.data import layout
from robopolicy.data.dataset import Dataset
from robopolicy.recipe import Note
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.demonstrations import begun_collection
from robopolicy.training.off_policy_config import OffPolicyTraining
from robopolicy.training.replay import Replay
from robopolicy.training.trial_worlds import demonstrated_rewards

_REWARD, _SUCCESS = "next.reward", "next.success"


def open_demonstrated(recipe: TrialRecipe, spec: Spec, progress: bool, note: Note, normalizer: Normalizer | None = None) -> Replay | None:
    """Return a replay of one world with the recipe's demonstrations in it, and room for those of who takes over; None if there can be none.

    Collects them first if they do not exist and the recipe says how many.

    Args:
        recipe: Says which, and what they are worth.
        spec: What the worlds offer.
        progress: Show progress bars.
        note: Told what a person should know.
        normalizer: Of the policy that learns: its units of actions; None: where the limits are -1 and 1.

    Raises:
        InputError: if there is no data set and none can be collected, or it cannot be learnt from; SpecMismatch if it does not fit the worlds.
    """
    training: Any = recipe.training
    steps = list(_transitions(recipe, training, spec, progress, note, normalizer or limits_normalizer(spec))) if training.demonstrations.path else []
    if not steps and training.takeover.source == "none":
        return None
    room = training.steps if training.takeover.source != "none" else 0
    config = training.replay.model_copy(update={"capacity": len(steps) + room + training.replay.n_step + training.replay.chunk})
    replay = Replay(spec, 1, config.model_copy(update={"place": "memory", "sampling": "uniform"}), training.gamma)
    for step in steps:
        replay.add(*step)
    if steps and not replay.ready:
        raise InputError(f"training.demonstrations.path: no episode is as long as a chunk of {training.replay.chunk} actions")
    return replay


def ensure_collected(recipe: TrialRecipe, progress: bool, note: Note) -> Path:
    """Return where the recipe's demonstrations are; collects them, or what an interrupted collection lacks, if the recipe says how many.

    Args:
        recipe: With a path of demonstrations.
        progress: Show progress bars.
        note: Told when there is something to collect.

    Raises:
        InputError: if there is no data set and none can be collected.
    """
    training: Any = recipe.training
    config = training.demonstrations
    path = Path(recipe.filled(config.path))
    if not path.exists() or begun_collection(path, config.collect):
        _collect(recipe, config.collect, path, progress, note)
    return path


def _transitions(
    recipe: TrialRecipe, training: OffPolicyTraining, spec: Spec, progress: bool, note: Note, normalizer: Normalizer
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """Yield the arguments of ``Replay.add`` for every demonstrated transition."""
    config, path = training.demonstrations, ensure_collected(recipe, progress, note)
    dataset = Dataset.open(path, None, progress)
    spec.require(dataset.spec, f"task {recipe.task!r}", f"demonstrations {path}")
    episodes = config.episodes or dataset.num_episodes
    if episodes > dataset.num_episodes:
        raise InputError(f"training.demonstrations.episodes={episodes}: data set {path} has {dataset.num_episodes} episodes")
    made = ((layout.read_own(path) or {}).get("provenance") or {}).get("collect") or {}
    _require_usable(recipe, training, path, made)
    if _REWARD not in dataset.arrays and not training.reward.judged:
        note(f"demonstrations {path} hold no rewards: the last step of an episode that succeeded is worth 1, all others 0")
    for episode in range(episodes):
        frames = dataset.episode(episode)
        rewards, successes = _judged(frames, bool(dataset.success[episode] == 1))
        rewards, terminated, length = demonstrated_rewards(training.reward, rewards, successes)
        terminated[length - 1] |= _ended_by_itself(recipe.task, made, successes) if made else _REWARD not in frames and bool(successes[-1])
        wanted = torch.from_numpy(np.array(frames["action"], np.float32)).to(next(normalizer.buffers()).device)
        normalised = normalizer.normalize("action", wanted).clamp(-1.0, 1.0).cpu().numpy()
        # what followed the last frame was not recorded: that step counts only where nothing had to follow
        count = length if terminated[length - 1] else length - 1
        for t in range(count):
            after = min(t + 1, len(rewards) - 1)
            obs, next_obs = ({name: frames[name][i : i + 1] for name in spec.observation.fields} for i in (t, after))
            last = t == count - 1
            yield obs, normalised[t : t + 1], rewards[t : t + 1], next_obs, terminated[t : t + 1], np.array([last and not terminated[t]])


def _judged(frames: dict[str, np.ndarray], succeeded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards (T,) and successes (T,) as recorded, or 1 and true at the end of an episode that succeeded."""
    count = len(frames["action"])
    end = np.zeros(count, bool)
    end[-1] = succeeded
    successes = frames[_SUCCESS].reshape(count).astype(bool) if _SUCCESS in frames else end
    rewards = frames[_REWARD].reshape(count).astype(np.float32) if _REWARD in frames else end.astype(np.float32)
    return rewards, successes


def _ended_by_itself(task: str, made: Mapping[str, Any], successes: np.ndarray) -> bool:
    """Whether the world ended a collected episode, with ``successes`` (T,): neither the time limit did, nor the steps recorded after success."""
    from sim.registry import entry

    first = int(np.argmax(successes)) if successes.any() else len(successes)
    limit = made.get("max_episode_steps") or entry(task).max_episode_steps
    return len(successes) < limit and len(successes) - 1 - first < made.get("extra_steps", 0)


def _require_usable(recipe: TrialRecipe, training: OffPolicyTraining, path: Path, made: Mapping[str, Any]) -> None:
    """Refuse a collection whose actions are not those that were executed, or whose rewards are of another kind. Raises InputError."""
    if made.get("noise"):
        raise InputError(
            f"demonstrations {path} were collected with noise {made['noise']:g}, which their actions lack: what followed is not theirs; collect without noise"
        )
    found, wanted = made.get("reward") or "", recipe.env.reward
    if made and found != wanted and not training.reward.judged:
        raise InputError(
            f"demonstrations {path} were collected with reward {found or 'of the task'!r}, env.reward is {wanted or 'of the task'!r}; collect anew"
        )


def _collect(recipe: TrialRecipe, episodes: int | None, path: Path, progress: bool, note: Note) -> None:
    from robopolicy.data.collect import collect
    from sim.registry import entry

    found = entry(recipe.task)
    if episodes is None or not found.has_expert:
        remedy = "set training.demonstrations.collect=20 to collect 20 with the expert" if found.has_expert else f"task {found.name!r} ships no expert"
        raise InputError(f"demonstrations {path} do not exist; {remedy}")
    note(f"collecting {episodes} demonstrations of {found.name} into {path}")
    env = recipe.env
    collect(
        found.name,
        path,
        episodes=episodes,
        workers=1,
        observations=env.observations,
        image_size=env.image_size,
        progress=progress,
        max_episode_steps=env.max_episode_steps,
        randomize=env.randomize,
        engine=env.engine,
        reward=env.reward,
    )
