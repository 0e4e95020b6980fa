"""What a collection of demonstrations is: the settings that decide its contents, and the episodes that come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.disturb import Recovery

EXTRA_STEPS = 10  # recorded after the first success, where nothing is said


@dataclass(frozen=True)
class Collection:
    """What is collected; kept in the data set, and what a rerun must match.

    Attributes:
        task: Registered name.
        observations: ``state``, ``image`` or ``state+image``.
        image_size: px.
        noise: Standard deviation of the Gaussian noise on executed actions, as a share of half the action range (robot
            units where unbounded). The recorded action stays the expert's own: its correction (Laskey et al. 2017, DART).
        only_success: Whether failed episodes are dropped.
        extra_steps: Steps recorded after the first success, unless the task ends before; None: to the end.
        max_episode_steps: Time limit; None: the task's own.
        seed0: First seed; episode attempts take consecutive ones.
        randomize: What differs from episode to episode (``sim.randomize``), kept with each; None: nothing.
        engine: What steps the worlds (``sim.engine.ENGINES``); None: MuJoCo.
        reward: Kind of reward; None: the task's first.
        recovery: How episodes are disturbed; None: not at all.
        expert: Who demonstrates: policy, hash and way of acting of a checkpoint; None: the task's scripted expert.
        min_return: Least sum of rewards of an episode that is kept; None: any.
    """

    task: str
    observations: str = "state"
    image_size: int = 96
    noise: float = 0.0
    only_success: bool = True
    extra_steps: int | None = EXTRA_STEPS
    max_episode_steps: int | None = None
    seed0: int = 0
    randomize: Mapping[str, Any] | None = None
    engine: str | None = None
    reward: str | None = None
    recovery: Recovery | None = None
    expert: Mapping[str, Any] | None = None
    min_return: float | None = None

    def keeps(self, episode: Episode) -> bool:
        """Whether an episode belongs into the data set."""
        if not len(episode.actions) or (self.only_success and not episode.success):
            return False
        return self.min_return is None or episode.return_ >= self.min_return


@dataclass
class Episode:
    """One simulated episode, of which T frames are recorded.

    Attributes:
        seed: What it was begun with.
        success: Whether it ever succeeded in a recorded frame.
        observations: field -> (T, *shape).
        actions: (T, Da), the expert's.
        rewards: (T,).
        successes: (T,) bool, after each step.
        return_: Sum of all rewards, also of frames that are not recorded.
        extras: Further column -> (T,).
        randomized: What its world drew, None where nothing is drawn.
    """

    seed: int
    success: bool
    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    successes: np.ndarray
    return_: float = 0.0
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    randomized: dict[str, Any] | None = None


@dataclass(frozen=True)
class CollectSummary:
    """What a collection holds, in all its runs.

    Attributes:
        path: The data set.
        episodes: Episodes kept.
        frames: Their frames.
        attempts: Seeds tried.
        failures: Attempts that are not in the data set as successes.
    """

    path: Path
    episodes: int
    frames: int
    attempts: int
    failures: int

    @property
    def success_rate(self) -> float:
        """Share of the attempts that succeeded."""
        return 1.0 - self.failures / max(1, self.attempts)


def provenance_of(root: Path) -> dict[str, Any] | None:
    """Return the settings that a collected data set keeps, None for a set that was made otherwise."""
    return ((layout.read_own(root) or {}).get("provenance") or {}).get("collect")


def is_begun(root: Path) -> bool:
    """Whether a data set lies at ``root`` that holds an episode; one without any becomes what the next collection is."""
    return layout.is_dataset(root) and int(layout.read_info(root)["total_episodes"]) > 0


def require_same(root: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse to continue a data set that was collected with other settings. Raises InputError naming the first that differs."""
    if not is_begun(root):
        return
    found = provenance_of(root)
    if found is None:
        raise InputError(f"{root} holds a data set that was not made by `robopolicy collect`; give another folder")
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(f"{root} was collected with {key} {found.get(key)!r}, not {value!r}; give another folder or the same settings")


def summary(root: Path) -> CollectSummary:
    """Count what a collected data set holds. Raises InputError if it was not collected."""
    from robopolicy.data.episodes import read_episodes

    info, recipe = layout.read_info(root), provenance_of(root)
    if recipe is None:
        raise InputError(f"{root} was not made by `robopolicy collect`")
    table = read_episodes(root, info)
    attempts = int(table.seed[-1]) - int(recipe["seed0"]) + 1 if len(table.seed) else 0
    return CollectSummary(root, len(table.seed), int(info["total_frames"]), attempts, attempts - int((table.success == 1).sum()))
