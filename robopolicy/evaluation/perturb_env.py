"""A batch of worlds with perturbations: the same contract, around or inside the worlds that it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.perturb import Perturbation
from robopolicy.evaluation.perturb_signals import ActionPath, SensorPath
from robopolicy.evaluation.perturb_worlds import ChangedModels, Pushes, require
from sim.env import BatchEnv, Observation, StepResult


class PerturbedWorlds:
    """N worlds in which something is wrong; see :class:`sim.env.BatchEnv`.

    What goes through a signal is counted in ``info``: ``frames_dropped``, ``commands_lost`` and ``pushes`` (N,) of the present
    episodes. The scripted expert reads the true state unless a perturbation says otherwise. Rewards and success are those of
    the true world. Anything else is asked of the worlds inside.

    Args:
        world: Auto-reset off.
        perturbations: None of them neutral.

    Raises:
        InputError: one line, for a kind that these worlds cannot have.
    """

    def __init__(self, world: BatchEnv, perturbations: Sequence[Perturbation]) -> None:
        if world.autoreset:
            raise InputError(f"perturbations are for worlds without auto-reset (task {world.task!r})")
        require(world, perturbations)
        self.world, self.perturbations = world, tuple(perturbations)
        self.task, self.suite_version, self.spec = world.task, world.suite_version, world.spec
        self.num_worlds, self.max_episode_steps, self.autoreset = world.num_worlds, world.max_episode_steps, False
        sides = {side: [p for p in perturbations if p.about.side == side] for side in ("sensors", "actions", "world", "pictures")}
        pushes = [p for p in sides["world"] if p.kind == "push"]
        self._models = ChangedModels(world, [p for p in (*sides["world"], *sides["pictures"]) if p.kind != "push"])
        self._sensors = SensorPath(world.spec, world.num_worlds, sides["sensors"]) if sides["sensors"] else None
        self._actions = ActionPath(world.spec, world.num_worlds, sides["actions"]) if sides["actions"] else None
        self._pushes = [Pushes(world, p) for p in pushes]
        self._running = np.zeros(world.num_worlds, bool)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "world":
            raise AttributeError(name)
        return getattr(self.world, name)

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin episodes with ``seeds`` (N,) where ``mask`` (N,) is set; see :meth:`sim.env.BatchEnv.reset`."""
        rows = np.arange(self.num_worlds) if mask is None else np.flatnonzero(np.asarray(mask, bool))
        self._models.before_reset(rows)
        true = self.world.reset(seeds, mask)
        begun = np.asarray(seeds, np.int64)[rows]
        if self._models.by_row:
            self._models.after_reset(rows, begun)
            true = self._seen_again(rows, true)
        self._running[rows] = True
        for part in (self._sensors, self._actions):
            if part is not None:
                part.begin(rows, begun, true)
        for push in self._pushes:
            push.begin(rows, begun)
        return self._delivered(true)

    def _seen_again(self, rows: np.ndarray, true: Observation) -> Observation:
        """Return the observation of all worlds with that of ``rows`` (K,) taken anew: their models have changed."""
        observe = getattr(self.world, "_observe", None)
        if observe is not None:
            observe(rows, true)
        return true

    def step(self, action: np.ndarray) -> StepResult:
        """Send ``action`` (N, Da) on its way for one control step; see :meth:`sim.env.BatchEnv.step`."""
        rows = np.flatnonzero(self._running)
        if self._actions is not None:
            action = self._actions.send(rows, action)
        for push in self._pushes:
            push.apply(rows)
        result = self.world.step(action)
        for push in self._pushes:
            push.release()
        if self._sensors is not None:
            self._sensors.deliver(rows, result.next_obs)
        self._running &= ~(result.terminated | result.truncated)
        seen = self._delivered(result.next_obs)
        return dataclasses.replace(result, obs=seen, next_obs=seen, info={**result.info, **self._counts()})

    def _counts(self) -> dict[str, np.ndarray]:
        """Return name -> (N,) int64 of what was counted in the present episodes."""
        kinds = {p.kind for p in self.perturbations}
        out: dict[str, np.ndarray] = {}
        if self._sensors is not None and "drops" in kinds:
            out["frames_dropped"] = self._sensors.dropped.copy()
        if self._actions is not None and "lost_commands" in kinds:
            out["commands_lost"] = self._actions.lost.copy()
        if self._pushes:
            out["pushes"] = np.sum([push.count for push in self._pushes], axis=0)
        return out

    def _delivered(self, true: Observation) -> Observation:
        return true if self._sensors is None else {name: array.copy() for name, array in self._sensors.out.items()}

    def retire(self, mask: np.ndarray) -> None:
        """End the episodes where ``mask`` (N,) bool is set."""
        self.world.retire(mask)
        self._running &= ~np.asarray(mask, bool)

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return pictures for people (len(worlds), H, W, 3) uint8 of the true worlds, or None."""
        return self.world.render(worlds)

    def expert_action(self) -> np.ndarray:
        """Return the expert's action (N, Da) for the true state, or for the delivered frames where a perturbation says so."""
        action = self.world.expert_action()
        if self._sensors is None or not self._sensors.expert:
            return action
        return self._sensors.expert_action(np.flatnonzero(self._running), action)

    def close(self) -> None:
        """Close the worlds; may be called twice."""
        self.world.close()
