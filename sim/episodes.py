"""Episode bookkeeping shared by every batch of worlds: seeds, time limits, auto-reset, finished rows as padding.

A suite subclasses :class:`EpisodicBatch` and fills in how rows begin, advance and are observed; that an ended world
stays as it was, that the true successor survives an auto-reset, and that seeds depend on nothing but (seed, world,
episode count) is settled here once for all suites.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from policies.spec import InputError, Spec
from sim.env import Observation, StepResult

_MIX1, _MIX2, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)
_ONE, _SHIFTS = np.uint64(1), (np.uint64(30), np.uint64(27), np.uint64(31))


def hashed(*parts: np.ndarray | int) -> np.ndarray:
    """Hash integers, each a number or (N,), into (N,) int64 in [0, 2^63): the seeds of auto-reset episodes, noise by counter.

    The mixing is SplitMix64's finaliser (Steele et al. 2014, "Fast splittable pseudorandom number generators").
    """
    h = np.zeros(1, np.uint64)
    for part in parts:
        h = mixed(h, part)
    return (h >> _ONE).view(np.int64)


def mixed(state: np.ndarray, part: np.ndarray | int) -> np.ndarray:
    """Mix integers ``part``, a number or an array, into the running hash ``state`` (K,) uint64; shapes broadcast to that of the result.

    :func:`hashed` is this over all its parts from 0, without the last bit.
    """
    h = state ^ np.atleast_1d(np.asarray(part, np.int64)).view(np.uint64)
    h += _GOLDEN
    h ^= h >> _SHIFTS[0]
    h *= _MIX1
    h ^= h >> _SHIFTS[1]
    h *= _MIX2
    h ^= h >> _SHIFTS[2]
    return h


def hashed_normals(*parts: np.ndarray | int) -> np.ndarray:
    """Return two standard normals (N, 2) for each row of hashed integers (Box and Muller 1958)."""
    radius, angle = (hashed(*parts, lane).astype(np.float64) * 2.0**-63 for lane in (0, 1))
    length = np.sqrt(-2.0 * np.log1p(-radius))
    return length[:, None] * np.stack([np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)], axis=1)


class Outcome(NamedTuple):
    """What advancing K rows by one control step gave.

    Attributes:
        reward: (K,) float.
        terminated: (K,) bool.
        info: name -> (K,), the names declared by the batch.
        truncated: (K,) bool where the world itself cuts the episode short, or None; the time limit is added by the caller.
    """

    reward: np.ndarray
    terminated: np.ndarray
    info: dict[str, np.ndarray]
    truncated: np.ndarray | None = None


class EpisodicBatch(abc.ABC):
    """N worlds of one task behind the :class:`sim.env.BatchEnv` contract.

    Args:
        task: Registered name.
        suite_version: What defines the task beyond its name, for the evaluation ledger.
        spec: Fields of observations and actions.
        num_worlds: N.
        max_episode_steps: Steps after which an episode is truncated.
        autoreset: Whether an ended world begins anew by itself.
        info: Name and dtype of every info entry beside ``success``.
    """

    def __init__(
        self,
        task: str,
        suite_version: str,
        spec: Spec,
        num_worlds: int,
        max_episode_steps: int,
        autoreset: bool,
        info: Mapping[str, str] | None = None,
    ) -> None:
        if num_worlds < 1:
            raise InputError(f"num_worlds of task {task!r}: expected at least 1, found {num_worlds}")
        if max_episode_steps < 1:
            raise InputError(f"max_episode_steps of task {task!r}: expected at least 1, found {max_episode_steps}")
        self.task, self.suite_version, self.spec = task, suite_version, spec
        self.num_worlds, self.max_episode_steps, self.autoreset = num_worlds, max_episode_steps, autoreset
        self._low, self._high = (np.asarray(side, np.float32) for side in (spec.action.low, spec.action.high))
        self._all = np.arange(num_worlds)
        self.first_world = 0  # index of the first of them, where they are a part of more: seeds of auto-resets are of the whole
        self._obs: Observation = {n: np.zeros((num_worlds, *f.shape), f.dtype) for n, f in spec.observation.fields.items()}
        self._info = {n: np.zeros(num_worlds, dtype) for n, dtype in {"success": "bool", **(info or {})}.items()}
        self._running = np.zeros(num_worlds, bool)
        self._terminated = np.ones(num_worlds, bool)  # a world that was never begun is padding
        self._truncated, self._none = np.zeros(num_worlds, bool), np.zeros(num_worlds, bool)
        self._elapsed = np.zeros(num_worlds, np.int64)
        self._root_seeds = np.zeros(num_worlds, np.int64)
        self._episode_count = np.zeros(num_worlds, np.int64)
        self._begun = False
        self._ever = np.zeros(num_worlds, bool)  # worlds that were begun at all
        self._flags_lent = False  # whether the caller holds the arrays of flags and info themselves

    # What a suite fills in ---------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        """Begin an episode in worlds ``rows`` (K,) with ``seeds`` (K,), whatever they did before."""

    @abc.abstractmethod
    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        """Apply finite, clipped ``action`` (K, Da) float32 for one control step in worlds ``rows`` (K,)."""

    @abc.abstractmethod
    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        """Write the present observation of worlds ``rows`` (K,) into those rows of ``out``, field -> (N, *shape)."""

    # The contract ------------------------------------------------------------------------------------------------

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin episodes with ``seeds`` (N,) int64 where ``mask`` (N,) bool is set; see :meth:`sim.env.BatchEnv.reset`.

        Raises:
            ValueError: if a shape does not fit or a seed in use is negative.
        """
        seeds = np.asarray(seeds)
        chosen = np.ones(self.num_worlds, bool) if mask is None else np.asarray(mask, bool)
        if seeds.shape != (self.num_worlds,) or not np.issubdtype(seeds.dtype, np.integer):
            raise ValueError(f"seeds: expected {self.num_worlds} integers, found {seeds.dtype} of shape {seeds.shape}")
        if chosen.shape != (self.num_worlds,):
            raise ValueError(f"mask: expected shape ({self.num_worlds},), found {chosen.shape}")
        rows = np.flatnonzero(chosen)
        picked = seeds[rows].astype(np.int64)
        if (picked < 0).any():
            raise ValueError(f"seeds: expected numbers from 0, found {int(picked.min())}")
        self._root_seeds[rows], self._episode_count[rows] = picked, 0
        self._keep_own_flags()
        self._begun, self._ever[rows] = True, True
        if not rows.size:
            return _copied(self._obs)
        self._start(rows, picked)
        return self._observed(rows)

    def step(self, action: np.ndarray) -> StepResult:
        """Apply ``action`` (N, Da) in robot units, clipped to the limits; see :meth:`sim.env.BatchEnv.step`.

        Raises:
            RuntimeError: if no world was ever reset.
            ValueError: if the shape does not fit, or the action of a world that has not ended is not finite.
        """
        rows, chosen = self._checked(action)
        if not rows.size:
            return self._settled(rows, None)
        outcome = self._advance(rows, chosen)
        return self._settled(rows, outcome)

    def _settled(self, rows: np.ndarray, outcome: Outcome | None) -> StepResult:
        """Count the control step that gave worlds ``rows`` (K,) this ``outcome`` (None: no rows) and return its result for all worlds."""
        if outcome is not None and rows.size == self.num_worlds:
            return self._all_settled(outcome)
        self._keep_own_flags()
        reward = np.zeros(self.num_worlds, np.float32)
        if outcome is not None:
            self._elapsed[rows] += 1
            late = self._elapsed[rows] >= self.max_episode_steps
            cut = late if outcome.truncated is None else late | outcome.truncated
            reward[rows] = outcome.reward
            self._terminated[rows] = outcome.terminated
            self._truncated[rows] = cut & ~outcome.terminated
            self._running[rows] = ~(cut | outcome.terminated)
            for name, values in outcome.info.items():
                self._info[name][rows] = values
        next_obs = _copied(self._obs) if outcome is None else self._observed(rows)
        result = StepResult(next_obs, next_obs, reward, self._terminated.copy(), self._truncated.copy(), _copied(self._info))
        ended = np.flatnonzero(self._ever & ~self._running)  # a world that was never begun waits for its first reset
        if self.autoreset and ended.size:
            self._episode_count[ended] += 1
            self._start(ended, self._next_seeds(ended))
            result.obs = self._observed(ended)
        return result

    def _all_settled(self, outcome: Outcome) -> StepResult:
        """Do what :meth:`_settled` does where every world was running, in as few array calls as can be."""
        terminated = np.array(outcome.terminated, bool)
        self._elapsed += 1
        cut = self._elapsed >= self.max_episode_steps
        if outcome.truncated is not None:
            cut |= outcome.truncated
        ended = cut | terminated
        self._terminated, self._truncated = terminated, np.greater(cut, terminated)  # cut and not terminated
        info = dict(self._info)
        for name, values in outcome.info.items():
            info[name] = np.array(values, info[name].dtype)
        self._info, self._flags_lent = info, True
        reward, next_obs = np.array(outcome.reward, np.float32), self._observed(self._all)
        result = StepResult(next_obs, next_obs, reward, terminated, self._truncated, dict(info))
        if np.count_nonzero(ended):
            np.logical_not(ended, out=self._running)
            if self.autoreset:
                result.obs = self._begun_again(ended.nonzero()[0])
        return result

    def _begun_again(self, ended: np.ndarray) -> Observation:
        """Begin the next episode of worlds ``ended`` (K,), all that have ended, and return the observation of all."""
        self._episode_count[ended] += 1
        self._begin(ended, self._next_seeds(ended))
        self._elapsed[ended] = 0
        self._running.fill(True)
        self._terminated = self._truncated = self._none  # info is written anew by the next step of all worlds
        self._flags_lent = True
        return self._observed(ended)

    def _next_seeds(self, rows: np.ndarray) -> np.ndarray:
        """Return the seeds (K,) of the episodes that worlds ``rows`` (K,) begin by themselves."""
        return hashed(self._root_seeds[rows], rows + self.first_world, self._episode_count[rows])

    def _observed(self, rows: np.ndarray) -> Observation:
        """Return the observation of all worlds, that of ``rows`` (K,) new, in arrays that are not written again."""
        self._observe(rows, self._obs)
        return _copied(self._obs)

    def _keep_own_flags(self) -> None:
        """Part flags and info from the arrays that the last step returned: those belong to the caller, these are about to change."""
        if not self._flags_lent:
            return
        self._flags_lent = False
        self._terminated, self._truncated, self._info = self._terminated.copy(), self._truncated.copy(), _copied(self._info)

    def retire(self, mask: np.ndarray) -> None:
        """End the episodes where ``mask`` (N,) bool is set; see :meth:`sim.env.BatchEnv.retire`.

        Raises:
            RuntimeError: with auto-reset, where a world never stays ended.
        """
        if self.autoreset:
            raise RuntimeError(f"task {self.task!r}: retire() is for worlds without auto-reset")
        ended = self._running & np.asarray(mask, bool)
        self._keep_own_flags()
        self._truncated |= ended
        self._running &= ~ended

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return pictures for people (len(worlds), H, W, 3) uint8, or None when this machine cannot render."""
        return None

    def expert_action(self) -> np.ndarray:
        """Return the expert's action (N, Da) float32 for the present state. Raises InputError if there is none."""
        raise InputError(f"task {self.task!r} ships no scripted expert")

    def close(self) -> None:
        """End every episode and release what the worlds hold; may be called twice."""
        self._running[:], self._begun = False, False

    # Inside ------------------------------------------------------------------------------------------------------

    def _checked(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the running rows (K,) and their clipped actions (K, Da)."""
        if not self._begun:
            raise RuntimeError(f"task {self.task!r}: step() before the first reset()")
        action = np.asarray(action, np.float32)
        if action.shape != (self.num_worlds, self._low.size):
            raise ValueError(f"action: expected shape ({self.num_worlds}, {self._low.size}), found {action.shape}")
        rows = self._all if np.count_nonzero(self._running) == self.num_worlds else np.flatnonzero(self._running)
        chosen = action if rows is self._all else action[rows]
        # one number tells whether all are finite: a NaN or an infinity spreads into the sum of squares (which may also overflow)
        if not math.isfinite(np.vdot(chosen, chosen)) and not np.isfinite(chosen).all():
            bad = rows[~np.isfinite(chosen).all(axis=1)][0]
            raise ValueError(f"action of world {bad} is not finite: {action[bad].tolist()}")
        clipped = np.maximum(chosen, self._low)
        return rows, np.minimum(clipped, self._high, out=clipped)

    def _start(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._begin(rows, seeds)
        self._elapsed[rows] = 0
        self._running[rows], self._terminated[rows], self._truncated[rows] = True, False, False
        for values in self._info.values():
            values[rows] = 0


def _copied(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in arrays.items()}
