"""The worlds of learning by trial: as the recipe says, and rewarded by success alone where it says so.

With ``training.reward: {sparse: true}`` a step is worth 1 if the world reports success after it, which ends the episode, and 0
otherwise. With ``{classifier: FOLDER}`` a reward classifier decides from images instead, as on a robot that cannot know; the world's
own success stays in ``info["success"]``, so that a run says both what was rewarded and what was true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError, Spec
from robopolicy.training.off_policy_config import RewardConfig
from robopolicy.training.reward_record import EpisodeRecord
from sim.env import BatchEnv, Observation, StepResult
from sim.episodes import hashed

if TYPE_CHECKING:
    from robopolicy.recipe_trial import TrialRecipe

#: Observation field -> (N, *shape) in, who has succeeded (N,) bool out.
Judge = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class JudgedWorlds:
    """Worlds in which success alone is rewarded and ends the episode; ended ones begin anew by themselves. See ``sim.env.BatchEnv``.

    Args:
        worlds: Without auto-reset; closed with this.
        judge: Who has succeeded, from what the worlds show; None: as they report themselves.
        shown: Observation fields that are passed on; the others are for the judge alone. None: all.
        record: Where all episodes are kept with what is true of them; closed with this. None: nowhere.

    Attributes:
        counts: Episodes in all, ``judged`` ended by the judge, ``wrong`` of these without the world's success at that step, and
            ``missed`` in which the world once reported success and the judge never did.
    """

    autoreset = True

    def __init__(self, worlds: BatchEnv, judge: Judge | None = None, shown: Spec | None = None, record: EpisodeRecord | None = None) -> None:
        if worlds.autoreset:
            raise ValueError("judged worlds need worlds without auto-reset")
        self.worlds, self.judge, self.spec, self.record = worlds, judge, shown or worlds.spec, record
        self.task, self.suite_version = worlds.task, worlds.suite_version
        self.num_worlds, self.max_episode_steps = worlds.num_worlds, worlds.max_episode_steps
        self.randomizer = getattr(worlds, "randomizer", None)  # its curriculum goes on with the run
        self.counts: Counter[str] = Counter()
        self._seeds, self._episode = np.zeros(self.num_worlds, np.int64), np.zeros(self.num_worlds, np.int64)
        self._succeeded = np.zeros(self.num_worlds, bool)  # in this episode, as the world says
        self._seen: Observation = {}

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """See ``sim.env.BatchEnv.reset``."""
        chosen = np.ones(self.num_worlds, bool) if mask is None else np.asarray(mask, bool)
        obs = self._acted_on(self.worlds.reset(seeds, chosen))
        if self.record is not None:
            self.record.begin(chosen)
        self._seeds[chosen], self._episode[chosen], self._succeeded[chosen] = np.asarray(seeds)[chosen], 0, False
        return self._shown(obs)

    def step(self, action: np.ndarray) -> StepResult:
        """See ``sim.env.BatchEnv.step``; ``info["judged"]`` (N,) bool is the success that was rewarded."""
        found = self.worlds.step(action)
        true = np.asarray(found.info["success"], bool)
        judged = true if self.judge is None else np.asarray(self.judge(found.next_obs), bool)
        terminated = found.terminated | judged
        truncated = found.truncated & ~terminated
        self._succeeded |= true
        ended = terminated | truncated
        self._count(ended, judged, true)
        if self.record is not None:
            self.record.add(self._seen, np.asarray(action), true, found.next_obs, ended)
            self._acted_on(found.next_obs)
        next_obs = self._shown(found.next_obs)
        info = {**found.info, "judged": judged}
        result = StepResult(next_obs, next_obs, judged.astype(np.float32), terminated, truncated, info)
        if ended.any():
            result.next_obs = {name: array.copy() for name, array in next_obs.items()}  # the worlds may use theirs again
            self._episode[ended] += 1
            self._succeeded[ended] = False
            seeds = hashed(self._seeds, np.arange(self.num_worlds), self._episode)
            result.obs = self._shown(self._acted_on(self.worlds.reset(seeds, ended)))
        return result

    def metrics(self) -> dict[str, float]:
        """Return the shares of episodes that were rewarded wrongly, and whose success was missed, so far."""
        episodes = max(self.counts["episodes"], 1)
        return {"judged_wrongly": self.counts["wrong"] / episodes, "success_missed": self.counts["missed"] / episodes}

    def counted(self) -> dict[str, int]:
        """Return what a training state keeps, so that a run that goes on counts on."""
        return dict(self.counts)

    def recount(self, counted: Mapping[str, int]) -> None:
        """Take over what :meth:`counted` returned."""
        self.counts = Counter(counted)

    def retire(self, mask: np.ndarray) -> None:
        """Refused: a world never stays ended here. Raises RuntimeError."""
        raise RuntimeError(f"task {self.task!r}: retire() is for worlds without auto-reset")

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """See ``sim.env.BatchEnv.render``."""
        return self.worlds.render(worlds)

    def expert_action(self) -> np.ndarray:
        """See ``sim.env.BatchEnv.expert_action``."""
        return self.worlds.expert_action()

    def close(self) -> None:
        """See ``sim.env.BatchEnv.close``."""
        if self.record is not None:
            self.record.close()
        self.worlds.close()

    def _acted_on(self, obs: Observation) -> Observation:
        """Keep what the next action is chosen from, cameras included, if it is recorded."""
        if self.record is not None:
            self._seen = {name: array.copy() for name, array in obs.items()}
        return obs

    def _shown(self, obs: Mapping[str, np.ndarray]) -> Observation:
        return {name: obs[name] for name in self.spec.observation.fields}

    def _count(self, ended: np.ndarray, judged: np.ndarray, true: np.ndarray) -> None:
        if ended.any():
            numbers = {"episodes": ended, "judged": judged, "wrong": judged & ~true, "missed": ended & self._succeeded & ~judged}
            self.counts.update({name: int(rows.sum()) for name, rows in numbers.items()})


def classifier_judge(folder: str, threshold: float) -> tuple[Judge, Spec, int]:
    """Return who judges by the classifier in ``folder``, the cameras that it reads, and the size of their pictures, px. Raises InputError."""
    from robopolicy.training.reward_model import load_classifier

    model = load_classifier(folder)
    return lambda obs: model.probability(obs) >= threshold, model.spec, model.image_size


def open_worlds(recipe: TrialRecipe, num_worlds: int) -> BatchEnv:
    """Make the worlds that ``recipe`` trains in, with auto-reset, rewarded as ``training.reward`` says; or connect to its robot.

    A classifier's cameras are rendered whether or not the policy sees them; fields that the recipe does not ask for stay hidden.

    Args:
        recipe: Says task, options and reward.
        num_worlds: N.

    Raises:
        InputError: if task or options cannot be, or a classifier reads what the worlds do not show.
    """
    from sim.registry import make

    robot = getattr(recipe.training, "robot", None)
    if robot is not None:
        from robopolicy.training.robot_worlds import open_robot_worlds

        if num_worlds != 1:
            raise InputError(f"training.robot: a robot is one world, expected training.worlds=1, found {num_worlds}")
        return open_robot_worlds(recipe, robot)
    if not reward_of(recipe).judged:
        return make(recipe.task, num_worlds, autoreset=True, **recipe.env.options())
    worlds, judge, shown = unjudged(recipe, num_worlds)
    path = reward_of(recipe).record
    record = None if path is None else EpisodeRecord(recipe.filled(path), worlds.spec, recipe.task, num_worlds)
    return JudgedWorlds(worlds, judge, shown, record)


def reward_of(recipe: TrialRecipe) -> RewardConfig:
    """Return who rewards in ``recipe``; loops that do not say have the worlds' own reward."""
    return getattr(recipe.training, "reward", None) or RewardConfig()


def unjudged(recipe: TrialRecipe, num_worlds: int, **more: Any) -> tuple[BatchEnv, Judge | None, Spec]:
    """Return worlds without auto-reset, who judges success in them (None: they themselves), and what the policy is shown of them.

    Args:
        recipe: Says task, options and reward.
        num_worlds: N.
        **more: Options of ``sim.registry.make`` that go before the recipe's.

    Raises:
        InputError: as :func:`open_worlds`.
    """
    from sim.registry import make

    reward, options = reward_of(recipe), {**recipe.env.options(), **more}
    if reward.classifier is None:
        worlds = make(recipe.task, num_worlds, **options)
        return worlds, None, worlds.spec
    judge, reads, size = classifier_judge(reward.classifier, reward.threshold)
    own = options.get("observations", "state")
    if "image" in own and options.get("image_size", size) != size:
        raise InputError(f"training.reward.classifier {reward.classifier}: reads pictures of {size} px, env.image_size is {options['image_size']}")
    worlds = make(recipe.task, num_worlds, **{**options, "observations": "image" if own == "image" else "state+image", "image_size": size})
    try:
        _require_cameras(reads, worlds.spec, reward.classifier, recipe.task)
    except InputError:
        worlds.close()
        raise
    hidden = () if "image" in own else worlds.spec.observation.image_names
    return worlds, judge, worlds.spec.subset([name for name in worlds.spec.observation.fields if name not in hidden])


def _require_cameras(reads: Spec, offered: Spec, folder: str, task: str) -> None:
    """Refuse a classifier of other cameras. Raises InputError."""
    for name, field in reads.observation.fields.items():
        found = offered.observation.fields.get(name)
        if found is None or found.shape != field.shape:
            shown = "no such field" if found is None else f"pictures of {list(found.shape)}"
            raise InputError(f"training.reward.classifier {folder}: reads {name!r} {list(field.shape)}, task {task!r} has {shown}")


def demonstrated_rewards(config: RewardConfig, rewards: np.ndarray, successes: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return what a demonstrated episode of T frames is worth to learning with ``config``.

    Success is as it was recorded: a person who demonstrates knows it, no classifier has to guess.

    Args:
        config: Who rewards.
        rewards: (T,) as recorded.
        successes: (T,) bool, whether there was success after each step.

    Returns:
        Reward (T,) float32 and termination (T,) bool of each step, and how many of the T frames count: with success alone
        rewarded the episode ends at the first.
    """
    rewards, successes = np.asarray(rewards, np.float32).reshape(-1), np.asarray(successes, bool).reshape(-1)
    if not config.judged:
        return rewards, np.zeros(len(rewards), bool), len(rewards)
    length = int(np.argmax(successes)) + 1 if successes.any() else len(successes)
    return successes.astype(np.float32), successes.copy(), length
