"""Training batches: windows of observations and actions, every step reproducible without the ones before it.

A window at time t sees observations t-To+1 .. t and predicts actions t-To+1 .. t-To+Tp. Windows reach over the ends of
an episode by at most To-1 steps before and Ta-1 after; there the edge frame is repeated (Chi et al. 2023, "Diffusion
Policy", and its released sampler). Where only marked frames are imitated (what a person did who took over), a run of them counts
as an episode of its own, whose first observations reach back into what came before. Epoch e visits all windows in the order of
a hash of (seed, e, window), so batch n is a pure function of (data, seed, n): a resumed run, or any number of processes,
draws the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.spec import InputError
from robopolicy.data.batches import Batches
from robopolicy.data.dataset import Dataset
from robopolicy.data.shuffle import Shuffle

_ORDER = 0x0DDE5  # keeps the keys of the order apart from those of the noise


class WindowSampler(Batches):
    """Draws batches of windows from a data set.

    Args:
        dataset: Where from.
        fields: Observation fields that are wanted; ``action`` always comes along.
        n_obs_steps: To.
        horizon: Tp, actions predicted.
        n_action_steps: Ta, actions executed.
        batch_size: Windows in a batch, over all processes.
        seed: Of the order and of the row keys.
        episodes: Use only these, or the first N; None: all.
        buffers: A batch stays valid until this many more have been drawn: its arrays are used again.
        marked: (F,) bool: imitate only the actions of these frames; None: of all.

    Attributes:
        num_windows: Windows in an epoch.

    Raises:
        InputError: for an unknown field or episode, bad sizes, or episodes (runs of marked frames) that are all too short for one window.
    """

    def __init__(
        self,
        dataset: Dataset,
        fields: Sequence[str],
        n_obs_steps: int,
        horizon: int,
        n_action_steps: int,
        batch_size: int,
        seed: int,
        episodes: Sequence[int] | int | None = None,
        buffers: int = 4,
        marked: np.ndarray | None = None,
    ) -> None:
        """Lay out the windows of an epoch."""
        if not (n_obs_steps >= 1 and n_action_steps >= 1 and n_obs_steps - 1 + n_action_steps <= horizon):
            raise InputError(f"windows: n_obs_steps - 1 + n_action_steps <= horizon is needed, found {n_obs_steps} - 1 + {n_action_steps} and {horizon}")
        if batch_size < 1:
            raise InputError(f"windows: batch_size must be at least 1, found {batch_size}")
        super().__init__(batch_size, seed, buffers)
        self.dataset, self.n_obs_steps, self.horizon, self.n_action_steps = dataset, n_obs_steps, horizon, n_action_steps
        self._arrays = {name: dataset.field(name) for name in fields}
        self._actions = dataset.field("action")
        self._starts, self._lengths = self._episodes(episodes)
        self._before = np.zeros_like(self._starts)  # frames of the episode before a run of marked ones, which observations may reach back to
        if marked is not None:
            self._starts, self._lengths, self._before = _runs(np.asarray(marked, bool), self._starts, self._lengths)
            if not len(self._starts):
                raise InputError(f"data set {dataset.path}: no frame of the chosen episodes is marked, so nothing can be imitated")
        # windows of an episode of length L: t = 0 .. L - Tp + (Ta - 1) + (To - 1)
        counts = np.maximum(0, self._lengths - horizon + n_action_steps + n_obs_steps - 1)
        self._first = np.concatenate([[0], np.cumsum(counts)])  # (K + 1,): first window of every episode
        self.num_windows = int(self._first[-1])
        if not self.num_windows:
            need = horizon - n_action_steps - n_obs_steps + 2
            raise InputError(
                f"data set {dataset.path}: every episode is too short for a window: {need} frames are needed, the longest has {int(self._lengths.max())}"
            )
        self._short, self._parts = counts == 0, "episodes" if marked is None else "runs of marked frames"
        self._shuffle = Shuffle(self.seed, _ORDER, self.num_windows)

    def draw(self, positions: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """See base class."""
        self.fill(self.at(positions), out)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the windows (B,) int64 that positions (B,) of the endless order name, in any order."""
        return self._shuffle.at(positions)[0]

    def drawn_in_stretches(self, length: int) -> None:
        """Prepare for positions that come in any order from stretches of ``length``, which may be longer than an epoch."""
        self._shuffle.kept = -(-length // self.num_windows) + 1

    def fill(self, windows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Write ``windows`` (B,) into arrays of the shapes that :meth:`batch` returns."""
        episode = np.searchsorted(self._first, windows, side="right") - 1
        start, length, time = self._starts[episode], self._lengths[episode], windows - self._first[episode]
        begin = time - self.n_obs_steps + 1
        wanted = begin[:, None] + np.arange(self.horizon)
        frames = self._frames(start, length, wanted)
        np.take(self._actions, frames, axis=0, out=out["action"], mode="clip")
        np.logical_or(wanted < 0, wanted >= length[:, None], out=out["action_is_pad"])
        seen = np.ascontiguousarray(frames[:, : self.n_obs_steps])  # n_obs_steps <= horizon
        if (before := self._before[episode]).any():
            seen = np.maximum(wanted[:, : self.n_obs_steps], -before[:, None])
            seen = np.minimum(seen, length[:, None] - 1) + start[:, None]
        for name, array in self._arrays.items():
            np.take(array, seen, axis=0, out=out[name], mode="clip")

    def remarks(self) -> list[str]:
        """See base class: how much is too short for a window."""
        if not self._short.any():
            return []
        frames, need = int(self._lengths[self._short].sum()), self.horizon - self.n_action_steps - self.n_obs_steps + 2
        lost = f"{int(self._short.sum())} of {len(self._short)} {self._parts}, {frames} frames"
        return [f"data set {self.dataset.path}: {lost}, are shorter than the {need} frames that a window needs and are left out"]

    def locate(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (first frame of the episode, its length, t) of ``windows`` (B,), each (B,) int64."""
        episode = np.searchsorted(self._first, windows, side="right") - 1
        return self._starts[episode], self._lengths[episode], windows - self._first[episode]

    @staticmethod
    def _frames(start: np.ndarray, length: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        # the two ufuncs take a third of np.clip's time at this size
        inside = np.minimum(np.maximum(wanted, 0), length[:, None] - 1)
        inside += start[:, None]
        return inside

    def _episodes(self, episodes: Sequence[int] | int | None) -> tuple[np.ndarray, np.ndarray]:
        total = self.dataset.num_episodes
        if episodes is None:
            episodes = total
        chosen = np.arange(episodes) if isinstance(episodes, int) else np.asarray(episodes, np.int64)
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= total or len(np.unique(chosen)) != len(chosen):
            raise InputError(f"episodes {episodes!r}: data set {self.dataset.path} has {total} (0 to {total - 1}), each may be used once")
        starts = self.dataset.episode_starts
        return starts[chosen], starts[chosen + 1] - starts[chosen]

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """See base class; also for :meth:`fill`."""
        out = {n: np.empty((rows, self.n_obs_steps, *a.shape[1:]), a.dtype) for n, a in self._arrays.items()}
        out["action"] = np.empty((rows, self.horizon, *self._actions.shape[1:]), self._actions.dtype)
        out["action_is_pad"] = np.empty((rows, self.horizon), np.bool_)
        return out


def _runs(marked: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the runs of ``marked`` (F,) frames inside episodes (K,): first frame, length, frames of the episode before it; (R,) int64 each."""
    out: list[tuple[int, int, int]] = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], marked[start : start + length].astype(np.int8), [0]])))
        out += [(start + int(a), int(b - a), int(a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    first, size, before = np.array(out, np.int64).reshape(-1, 3).T
    return first, size, before
