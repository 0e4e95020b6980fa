"""How well a mobile base follows velocity commands: errors in m/s and rad/s, over whole episodes.

What is held against a command is the velocity averaged over about one stride, once the base has had time to follow
(``sim/suites/locomotion/commands.py``). A base that has fallen moves no more: from then on it misses all that is commanded.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Policy
from policies.spec import InputError
from robopolicy.evaluation.blocks import ExpertPlanner, History, PolicyPlanner
from robopolicy.evaluation.rollout import make_world
from robopolicy.evaluation.seeds import REPORT, purpose_of, seeds
from robopolicy.evaluation.subject import EXPERT
from sim.suites.locomotion.commands import VelocityCommands, sizes


@dataclass(frozen=True)
class Tracking:
    """What E episodes missed of their commands; arrays are (E,), one number an episode.

    Attributes:
        linear: Mean distance of the velocity in the plane from the commanded one, m/s.
        yaw: Mean distance of the yaw rate from the commanded one, rad/s.
        linear_still: What standing still would have missed, m/s.
        yaw_still: The same, rad/s.
        fallen: bool, whether the episode ended before its time.
        success: bool, as the task has it.
        return_: Sum of rewards.
    """

    linear: np.ndarray
    yaw: np.ndarray
    linear_still: np.ndarray
    yaw_still: np.ndarray
    fallen: np.ndarray
    success: np.ndarray
    return_: np.ndarray

    def mean(self, name: str) -> float:
        """Return the mean of a field over the episodes."""
        return float(np.mean(getattr(self, name)))

    def half_width(self, name: str) -> float:
        """Return half of the 95 % interval of that mean (normal approximation)."""
        values = np.asarray(getattr(self, name), np.float64)
        return float(1.96 * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")

    def summary(self) -> dict[str, float]:
        """Return the mean of every field, by name, and ``episodes``."""
        return {**{f.name: self.mean(f.name) for f in dataclasses.fields(self)}, "episodes": float(len(self.linear))}


def track(
    policy: Policy | str,
    task: str,
    episodes: int = 64,
    seed0: int = REPORT,
    env: Mapping[str, Any] | None = None,
    noise_seed: int = 0,
) -> Tracking:
    """Run ``episodes`` episodes at once and measure how ``policy`` follows the commands of ``task``.

    Args:
        policy: A policy, or ``"expert"`` for the task's scripted expert.
        task: A registered task of locomotion whose worlds have velocity commands.
        episodes: E; episode i is reset with ``seed0 + i``.
        seed0: First seed; all lie in one range of ``robopolicy.evaluation.seeds``, by default that of reports.
        env: Options of ``sim.registry.make``.
        noise_seed: Key of the policy's own noise.

    Raises:
        InputError: if the task has no velocity commands, or checkpoint and world do not fit.
    """
    purpose = purpose_of(seed0)
    all_seeds = seeds(purpose, episodes, seed0 - int(purpose))
    with contextlib.closing(make_world(task, env or {}, episodes)) as worlds:
        commands = getattr(worlds, "commands", None)
        if not isinstance(commands, VelocityCommands):
            raise InputError(f"task {worlds.task!r} commands no velocities: there is nothing to track; e.g. locomotion/quadruped")
        if isinstance(policy, str):
            if policy != EXPERT:
                raise InputError(f"policy {policy!r}: expected a policy, or {EXPERT!r}")
            planner: Any = ExpertPlanner(worlds)
        else:
            policy.spec.require(worlds.spec, f"policy {type(policy).__name__}", f"task {worlds.task!r}")
            planner = PolicyPlanner(policy, noise_seed)
        return _run(planner, worlds, commands, all_seeds)


def _run(planner: Any, worlds: Any, commands: VelocityCommands, all_seeds: np.ndarray) -> Tracking:
    """Step ``worlds`` until the time limit; those that fell stay as they are."""
    rows = len(all_seeds)
    history = History(worlds.reset(all_seeds), planner.n_obs_steps)
    planner.begin(all_seeds)
    missed, still, judged = np.zeros((rows, 2)), np.zeros((rows, 2)), np.zeros(rows)
    on, success, returns = np.ones(rows, bool), np.zeros(rows, bool), np.zeros(rows)
    step = 0
    while step < worlds.max_episode_steps:
        actions, _ = planner.plan(history.window, step)
        for action in np.moveaxis(actions, 1, 0)[: worlds.max_episode_steps - step]:
            elapsed = np.full(rows, step)
            asked, counts = sizes(commands.at(elapsed)), commands.judges(elapsed)
            result = worlds.step(action)
            on &= ~result.terminated
            errors = np.stack([result.info["linear_error"], result.info["yaw_error"]], axis=1)
            missed += np.where(on[:, None], errors, asked) * counts[:, None]
            still += asked * counts[:, None]
            judged += counts
            success |= on & np.asarray(result.info["success"], bool)
            returns += result.reward
            history.push(result.obs)
            step += 1
    if not judged.all():
        raise InputError(f"task {worlds.task!r}: {worlds.max_episode_steps} steps end before anything is judged; take a longer env.max_episode_steps")
    errors, stands = missed / judged[:, None], still / judged[:, None]
    return Tracking(errors[:, 0], errors[:, 1], stands[:, 0], stands[:, 1], ~on, success, returns)
