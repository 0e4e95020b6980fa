"""A replay: batches of transitions drawn from a ring of the past, with n-step returns, chunks of actions, by chance or by priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from policies.noise import NumpyNoise
from policies.spec import InputError, Spec
from robopolicy.algos.rule import Transitions
from robopolicy.training.off_policy_config import ReplayConfig
from robopolicy.training.replay_ring import ReplayRing
from robopolicy.training.replay_tree import SumTree

_TRIES = 6  # draws of a start by chance before the starts that can be are listed
_LEAST_ERROR = 1e-6  # added to an error, so that none is never drawn again (Schaul et al. 2016)
_CONSTANT = 1e-6  # a deviation below it is none
_PER_TRANSITION = ("action", "reward", "discount", "weight", "index")


class Replay(ReplayRing):
    """The newest transitions of N worlds, to be drawn from.

    Args:
        spec: Observation fields that are kept, and the length of actions.
        worlds: N.
        config: Capacity, place, sampling, n-step returns, chunks. With chunks, returns are over at least their length.
        gamma: Discount of one step.
        folder: Where the files of a replay on disk are, or are made; needed with ``place: disk``.

    Raises:
        InputError: if the capacity is too small for one sample, there is no room for it, or the folder holds another replay.
    """

    def __init__(self, spec: Spec, worlds: int, config: ReplayConfig, gamma: float, folder: Path | None = None) -> None:
        self.config, self.gamma, self.span = config, gamma, max(config.n_step, config.chunk)
        rows = config.capacity // worlds
        if rows < self.span:
            raise InputError(
                f"training.replay.capacity={config.capacity} is {rows} steps of {worlds} worlds: expected at least {self.span * worlds}"
                f" for samples of {self.span} steps"
            )
        if config.place == "disk" and folder is None:
            raise InputError("training.replay.place=disk: expected a folder")
        self._discounts = gamma ** np.arange(self.span + 1)
        self._tree: SumTree | None = None
        self._most = 1.0  # the largest priority so far, what new transitions get
        self._starts = 0  # transitions that a sample can begin with
        super().__init__(spec, worlds, rows, folder if config.place == "disk" else None)
        if config.sampling == "prioritized":
            self._tree = SumTree(self.length * worlds)
            self.recount()

    @property
    def ready(self) -> bool:
        """Whether there is anything to draw; with chunks, an episode must be long enough."""
        return self._starts > 0

    def sample(self, keys: np.ndarray, progress: float = 0.0) -> Transitions:
        """Draw B transitions, with replacement; a function of ``keys`` and of what is there.

        Args:
            keys: (B,) int64, see ``policies.noise.row_keys``.
            progress: How much of training is done, 0 to 1; with priorities, the correction is whole at 1.

        Raises:
            RuntimeError: if nothing can be drawn (see :attr:`ready`).
        """
        return self.sample_several(keys[None], progress)[0]

    def sample_several(self, keys: np.ndarray, progress: float = 0.0) -> list[Transitions]:
        """Draw G batches of B in one go; ``keys`` (G, B), otherwise see :meth:`sample`."""
        index, importance = self.draw(keys, progress)
        return self.gathered(index, at_most_one(importance))

    def draw(self, keys: np.ndarray, progress: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the transitions (G, B) that ``keys`` (G, B) choose, and the importance (G, B) float64 of each; otherwise see :meth:`sample`.

        Importance is (n p)^-beta of one of n transitions that is drawn with probability p: 1 with uniform sampling.
        """
        if not self.ready:
            raise RuntimeError("replay: nothing to draw from yet")
        (groups, batch), noise = keys.shape, NumpyNoise(keys.reshape(-1))
        if self._tree is None:
            return self._uniform(noise).reshape(keys.shape), np.ones(keys.shape)
        index, importance = self._prioritized(self._tree, noise, groups, batch, progress)
        return index.reshape(keys.shape), importance.reshape(keys.shape)

    def gathered(self, index: np.ndarray, weight: np.ndarray) -> list[Transitions]:
        """Return G batches of the transitions ``index`` (G, B), with their ``weight`` (G, B) float32."""
        groups, batch = index.shape
        whole = self._gathered(index.reshape(-1), weight.reshape(-1))
        return [whole] if groups == 1 else [_rows(whole, slice(g * batch, (g + 1) * batch)) for g in range(groups)]

    def set_priorities(self, index: np.ndarray, error: np.ndarray) -> None:
        """Give transitions ``index`` (B,) the priority of their absolute ``error`` (B,); those that are gone are passed over.

        Raises:
            InputError: for an error that is not finite.
        """
        if self._tree is None:
            return
        there = (index >= self.oldest * self.worlds) & (index < self.count * self.worlds)
        index, error = index[there], error[there]
        if not index.size:
            return
        weight = (np.abs(error.astype(np.float64)) + _LEAST_ERROR) ** self.config.alpha
        if not np.isfinite(weight).all():
            raise InputError("training.replay.sampling=prioritized: an error is not finite, the critic has diverged; a lower learning rate may help")
        self._most = max(self._most, float(weight.max()))
        self._tree.set(self.place(index), weight)

    def priorities(self) -> dict[str, torch.Tensor]:
        """Return what a training state needs beside the rows, a copy; nothing with uniform sampling."""
        return {} if self._tree is None else {"leaves": torch.from_numpy(self._tree.leaves.copy()), "most": torch.tensor(self._most, dtype=torch.float64)}

    def restore_priorities(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`priorities` returned of a replay with the same rows; those that a ring on disk has written over since have none."""
        if self._tree is not None:
            self._most = float(saved["most"])
            there, weights = self.place(self._all_starts()), np.zeros(self._tree.size)
            weights[there] = saved["leaves"].numpy()[there]
            self._tree.fill(weights)

    def mean_and_deviation(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (*shape), float64, of a field over all that is there; 1 where nothing varies."""
        mean, variance = self.mean_and_variance(name)
        return mean, deviation_of(variance)

    def mean_and_variance(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance (*shape), float64, of a field over all that is there; 0 where nothing varies."""
        rows = np.arange(self.oldest, self.count) % self.length
        seen = self.arrays[f"obs/{name}"][rows].reshape(self.size, *self.fields[name].shape).astype(np.float64)
        return seen.mean(0), seen.var(0)

    # Which samples there are -------------------------------------------------------------------------------------

    def appeared(self, row: int, ages: np.ndarray) -> None:
        """See base class, ``ages`` (N,): chunks that are whole with this row can be drawn."""
        begun = np.flatnonzero(ages >= self.config.chunk)
        self._starts += begun.size
        if self._tree is not None and begun.size:
            self._tree.set((row + 1 - self.config.chunk) % self.length * self.worlds + begun, self._most)

    def vanishing(self, row: int) -> None:
        """See base class: nothing begins there any more."""
        index = np.arange(row * self.worlds, (row + 1) * self.worlds)
        self._starts -= int(np.count_nonzero(self._whole(index)))
        if self._tree is not None:
            self._tree.set(self.place(index), 0.0)

    def recount(self) -> None:
        """See base class; priorities begin anew."""
        super().recount()
        whole = self._all_starts()
        self._starts = len(whole)
        if self._tree is not None:
            weights = np.zeros(self._tree.size)
            weights[self.place(whole)] = self._most
            self._tree.fill(weights)

    def _all_starts(self) -> np.ndarray:
        """Return the transitions (B,) that a sample can begin with."""
        index = np.arange(self.oldest * self.worlds, self.count * self.worlds)
        return index[self._whole(index)]

    def _whole(self, index: np.ndarray) -> np.ndarray:
        """Return where (B,) a chunk can begin: all its steps are there, and of one episode."""
        more = self.config.chunk - 1
        if not more:
            return np.ones(len(index), bool)
        row, world, ages = index // self.worlds, index % self.worlds, self.flat("age")
        grown = ages[(row + more) % self.length * self.worlds + world] - ages[row % self.length * self.worlds + world]
        return (row + more < self.count) & (grown == more)  # an episode that began after the start is younger than that

    # Drawing -----------------------------------------------------------------------------------------------------

    def _uniform(self, noise: NumpyNoise) -> np.ndarray:
        """Return starts (B,), all that can be equally likely."""
        first, there = self.oldest * self.worlds, self.size
        index = first + _below(noise, there)
        wrong = ~self._whole(index) if self.config.chunk > 1 else np.zeros(0, bool)
        for _ in range(_TRIES):
            if not wrong.any():
                return index
            index[wrong] = first + _below(noise, there)[wrong]
            wrong = ~self._whole(index)
        can_be = np.arange(first, first + there)
        can_be = can_be[self._whole(can_be)]
        index[wrong] = can_be[_below(noise, len(can_be))[wrong]]
        return index

    def _prioritized(self, tree: SumTree, noise: NumpyNoise, groups: int, batch: int, progress: float) -> tuple[np.ndarray, np.ndarray]:
        """Return starts (G B,), one from each of B equal parts of the sum of priorities, and their importance (G B,) float64."""
        part = np.tile(np.arange(batch), groups)
        uniform = (noise.bits(1)[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        leaf = tree.find((part + uniform) / batch * tree.total)
        beta = self.config.beta + (1.0 - self.config.beta) * min(progress, 1.0)  # the last step of many worlds may go beyond the run
        importance = (tree.leaves[leaf] / tree.total * self._starts) ** -beta
        row, world = leaf // self.worlds, leaf % self.worlds
        return (self.oldest + (row - self.oldest) % self.length) * self.worlds + world, importance

    def _gathered(self, index: np.ndarray, weight: np.ndarray) -> Transitions:
        """Return transitions ``index`` (B,): every array is read once for all of them."""
        row, world = index // self.worlds, index % self.worlds
        reward, discount, last = self._returns(row, world)
        place, after = self.place(index), (last + 1) % self.length * self.worlds + world
        slot = self.flat("successor")[last % self.length * self.worlds + world]
        ended = np.flatnonzero(slot >= 0)
        obs, next_obs = {}, {}
        for name in self.fields:
            flat = self.flat(f"obs/{name}")
            seen, following = flat.take(place, 0), flat.take(after, 0)
            if ended.size:
                following[ended] = self.arrays[f"end/{name}"][slot[ended]]
            obs[name], next_obs[name] = torch.from_numpy(seen), torch.from_numpy(following)
        own = (self._actions(row, world, place), reward, discount, weight, index)
        return Transitions(obs=obs, next_obs=next_obs, **{name: torch.from_numpy(array) for name, array in zip(_PER_TRANSITION, own, strict=True)})

    def _actions(self, row: np.ndarray, world: np.ndarray, place: np.ndarray) -> np.ndarray:
        flat, chunk = self.flat("action"), self.config.chunk
        if chunk == 1:
            return flat.take(place, 0)
        places = (row[:, None] + np.arange(chunk)) % self.length * self.worlds + world[:, None]
        return flat[places].reshape(len(row), -1)

    def _returns(self, row: np.ndarray, world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return summed rewards, the discount of what follows (both (B,) float32) and the last row (B,) of samples that begin in ``row``.

        A sample ends after ``span`` steps, with its episode, or with the newest row, whichever is first.
        """
        rewards, terminated = self.flat("reward"), self.flat("terminated")
        if self.span == 1:
            place = row % self.length * self.worlds + world
            return rewards[place], np.where(terminated[place], np.float32(0), np.float32(self.gamma)), row
        steps = row[:, None] + np.arange(self.span)
        places = steps % self.length * self.worlds + world[:, None]
        goes_on = (self.flat("successor")[places] < 0) & (steps + 1 < self.count)
        among = np.ones(places.shape, bool)
        np.logical_and.accumulate(goes_on[:, :-1], axis=1, out=among[:, 1:])
        length = among.sum(1)
        reward = (np.where(among, rewards[places], 0.0) * self._discounts[: self.span]).sum(1)
        last = row + length - 1
        ended = terminated[last % self.length * self.worlds + world]
        return reward.astype(np.float32), np.where(ended, 0.0, self._discounts[length]).astype(np.float32), last


def deviation_of(variance: np.ndarray) -> np.ndarray:
    """Return standard deviations (*shape) of variances (*shape); 1 where nothing varies."""
    deviation = np.sqrt(variance)
    return np.where(deviation < _CONSTANT, 1.0, deviation)


def at_most_one(importance: np.ndarray) -> np.ndarray:
    """Return the weights (G, B) float32 of G batches with that ``importance`` (G, B): 1 for the most important of each."""
    return (importance / importance.max(1, keepdims=True)).astype(np.float32)


def joined(parts: Sequence[Transitions]) -> Transitions:
    """Return the transitions of ``parts`` one after another."""
    if len(parts) == 1:
        return parts[0]
    own = {name: torch.cat([getattr(part, name) for part in parts]) for name in _PER_TRANSITION}
    obs = {name: torch.cat([part.obs[name] for part in parts]) for name in parts[0].obs}
    next_obs = {name: torch.cat([part.next_obs[name] for part in parts]) for name in parts[0].next_obs}
    return Transitions(obs=obs, next_obs=next_obs, **own)


def _rows(whole: Transitions, rows: slice) -> Transitions:
    obs, next_obs = ({name: tensor[rows] for name, tensor in side.items()} for side in (whole.obs, whole.next_obs))
    return Transitions(obs=obs, next_obs=next_obs, **{name: getattr(whole, name)[rows] for name in _PER_TRANSITION})


def _below(noise: NumpyNoise, high: int) -> np.ndarray:
    """Return (B,) int64, uniform in {0, ..., high - 1}, the next draw of every key."""
    return (noise.bits(1)[:, 0] >> np.uint64(11)).astype(np.int64) % high
