"""The replays of several actors as one: each has a ring of its own, so that the steps of its worlds stay one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from policies.noise import NumpyNoise
from policies.spec import InputError, Spec
from robopolicy.algos.rule import Transitions
from robopolicy.training.off_policy_config import ReplayConfig
from robopolicy.training.replay import Replay, at_most_one, deviation_of, joined

_OWN = 1 << 48  # numbers of transitions of one actor
_CHOICE = 0x5EED  # keeps the choice of replays apart from that of transitions


class ActorReplays:
    """Replays on disk, one an actor; for a ``Learner`` they are one replay, drawn from in proportion to what is in them.

    Args:
        spec: See :class:`robopolicy.training.replay.Replay`.
        actors: How many.
        worlds: Of each actor.
        config: Its capacity is shared evenly.
        gamma: Discount.
        folder: Where the replays' folders are, or are made.

    Attributes:
        parts: The replays.

    Raises:
        InputError: see :class:`robopolicy.training.replay.Replay`.
    """

    def __init__(self, spec: Spec, actors: int, worlds: int, config: ReplayConfig, gamma: float, folder: Path) -> None:
        own = config.model_copy(update={"capacity": max(1, config.capacity // actors), "place": "disk"})
        self.spec, self.parts = spec, [Replay(spec, worlds, own, gamma, folder / f"actor-{index:03d}") for index in range(actors)]

    @property
    def counts(self) -> list[int]:
        """Control steps ever added, per actor."""
        return [part.count for part in self.parts]

    @property
    def total(self) -> int:
        """Environment steps ever added."""
        return sum(part.count * part.worlds for part in self.parts)

    @property
    def size(self) -> int:
        """Transitions that are there."""
        return sum(part.size for part in self.parts)

    @property
    def ready(self) -> bool:
        """Whether there is anything to draw."""
        return any(part.ready for part in self.parts)

    def sample_several(self, keys: np.ndarray, progress: float = 0.0) -> list[Transitions]:
        """Draw G batches of B transitions; ``keys`` (G, B). Each replay gets its share of every batch, up to rounding by chance."""
        filled = [(number, part) for number, part in enumerate(self.parts) if part.ready]
        shares = np.cumsum([part.size for _, part in filled], dtype=np.float64)
        groups, batch = keys.shape
        offset = float(NumpyNoise(keys[:1, 0] ^ _CHOICE).uniform(1)[0, 0])
        ends = [int(np.floor(batch * share / shares[-1] + offset)) for share in shares[:-1]]
        edges = [0, *(min(max(end, 0), batch) for end in ends), batch]
        shared = [(*one, slice(*ends)) for one, ends in zip(filled, pairwise(edges), strict=True) if ends[1] > ends[0]]
        chosen = [part.draw(keys[:, rows], progress) for _, part, rows in shared]
        weight = at_most_one(np.concatenate([importance for _, importance in chosen], 1))  # of whole batches: one measure for all replays
        drawn: list[list[Transitions]] = [[] for _ in range(groups)]
        for (number, part, rows), (index, _) in zip(shared, chosen, strict=True):
            for group, own in enumerate(part.gathered(index, weight[:, rows])):
                own.index.add_(number * _OWN)
                drawn[group].append(own)
        return [joined(parts) for parts in drawn]

    def set_priorities(self, index: np.ndarray, error: np.ndarray) -> None:
        """See :meth:`robopolicy.training.replay.Replay.set_priorities`; (B,) each."""
        for number, part in enumerate(self.parts):
            own = index // _OWN == number
            if own.any():
                part.set_priorities(index[own] - number * _OWN, error[own])

    def priorities(self) -> dict[str, torch.Tensor]:
        """Return nothing: rows came after the mark, and those priorities begin anew."""
        return {}

    def restore_priorities(self, saved: Mapping[str, torch.Tensor]) -> None:
        """There are none, see :meth:`priorities`."""

    def mean_and_deviation(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (*shape) of a field over all replays, float64; 1 where nothing varies."""
        there = [part for part in self.parts if part.size]
        sizes = np.array([part.size for part in there], np.float64)
        moments = [part.mean_and_variance(name) for part in there]  # a part in which nothing varies says 0 of how much it does
        means = np.stack([mean for mean, _ in moments])
        weight = (sizes / sizes.sum()).reshape(-1, *[1] * (means.ndim - 1))
        mean = (weight * means).sum(0)
        spread = np.stack([variance for _, variance in moments]) + (means - mean) ** 2
        return mean, deviation_of((weight * spread).sum(0))

    def flush(self) -> None:
        """Bring them to the disk."""
        for part in self.parts:
            part.flush()

    def require_kept(self, rows: Sequence[int]) -> None:
        """Raise InputError if a replay has fewer control steps than the (actors,) ``rows`` it had before."""
        for number, (part, wanted) in enumerate(zip(self.parts, rows, strict=True)):
            if part.count < wanted:
                raise InputError(f"replay of actor {number} holds {part.count} control steps, expected {wanted} or more: its files were removed or changed")
