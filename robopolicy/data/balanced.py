"""Training batches over several tasks: how often each comes, one gather for all, and the field that says which task a row is of.

An epoch holds a fixed number of windows of every task, in an order that is a function of (seed, epoch); a task's own windows are
visited evenly, each once before any comes again. So batch n is a pure function of (data, balance, seed, n), as it is of one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.noise import row_keys
from policies.spec import InputError
from robopolicy.conditioning import shares
from robopolicy.data.dataset import Dataset
from robopolicy.data.shuffle import Shuffle
from robopolicy.data.windows import WindowSampler

_ORDER, _OWN, _WORDING = 0x7A5C5, 0x0E11, 0x30DD5  # keep the keys of orders and wordings apart from those of the noise

TASK_INDEX = "task_index"


@dataclass(frozen=True)
class Shown:
    """What a field shows of each of K tasks.

    Attributes:
        rows: (R, *shape) everything that it can show.
        first: (K,) the first row of each task.
        count: (K,) its rows; which one a window gets is a hash of the window.
    """

    rows: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, tasks: Sequence[np.ndarray]) -> Shown:
        """Build it from the rows (P, *shape) of each task."""
        counts = np.array([len(rows) for rows in tasks], np.int64)
        return cls(np.concatenate(tasks), np.cumsum(counts) - counts, counts)


class TaskSampler(WindowSampler):
    """Draws batches of windows from the joined data of several tasks; ``batch`` also holds ``task_index`` (B,) int64.

    Args:
        dataset: Episodes of all tasks.
        fields: Observation fields of the data that are wanted.
        window: (To, Tp, Ta), see :class:`robopolicy.data.windows.WindowSampler`.
        batch_size: Windows in a batch, over all processes.
        seed: Of the order and of the row keys.
        episodes: Which are used, those of one task side by side.
        tasks: (len(episodes),) which task each is of, rising from 0.
        names: What a message calls the tasks.
        exponent: A task with n windows comes in proportion to n^exponent: 0 all alike, 1 all windows alike.
        shown: Field -> what it shows of each task.
        buffers: A batch stays valid until this many more have been drawn.

    Attributes:
        counts: (K,) windows of each task in an epoch.

    Raises:
        InputError: if a task has no episode that is long enough for a window.
    """

    def __init__(
        self,
        dataset: Dataset,
        fields: Sequence[str],
        window: tuple[int, int, int],
        batch_size: int,
        seed: int,
        episodes: Sequence[int],
        tasks: np.ndarray,
        names: Sequence[str],
        exponent: float,
        shown: Mapping[str, Shown],
        buffers: int = 4,
    ) -> None:
        observed, horizon, executed = window
        super().__init__(dataset, fields, observed, horizon, executed, batch_size, seed, episodes, buffers)
        self._shown = dict(shown)
        edges = np.searchsorted(np.asarray(tasks), np.arange(len(names) + 1))  # first episode of each task
        self._task_first = self._first[edges]  # (K + 1,): first window of each task
        own = np.diff(self._task_first)
        if (own < 1).any():
            poor = names[int(np.flatnonzero(own < 1)[0])]
            raise InputError(f"task {poor!r}: every episode is too short for a window: {horizon - executed - observed + 2} frames are needed")
        self.counts = shares(own, exponent)
        self.num_windows = int(self.counts.sum())
        self._shuffle = _TaskShuffle(self.seed, self.counts, self._task_first)

    def task_of(self, windows: np.ndarray) -> np.ndarray:
        """Return the task of each of ``windows`` (B,), (B,) int64."""
        return np.searchsorted(self._task_first, windows, side="right") - 1

    def fill(self, windows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Write ``windows`` (B,) into arrays of the shapes that :meth:`batch` returns."""
        super().fill(windows, out)
        task = self.task_of(windows)
        out[TASK_INDEX][:] = task
        for name, shown in self._shown.items():
            choice = (row_keys(self.seed ^ _WORDING, windows) & 0x7FFFFFFF) % shown.count[task]
            out[name][:] = shown.rows[shown.first[task] + choice][:, None]

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Return arrays for :meth:`fill`: fields (rows, To, *shape), ``action`` (rows, Tp, Da), ``task_index`` (rows,)."""
        out = super().empty(rows)
        for name, shown in self._shown.items():
            out[name] = np.empty((rows, self.n_obs_steps, *shown.rows.shape[1:]), shown.rows.dtype)
        out[TASK_INDEX] = np.empty(rows, np.int64)
        return out


class _TaskShuffle(Shuffle):
    """An order in which every task comes as often as ``counts`` says, its own windows evenly.

    Args:
        seed: Of the orders.
        counts: (K,) windows of each task in an epoch.
        first: (K + 1,) first window of each task.
    """

    def __init__(self, seed: int, counts: np.ndarray, first: np.ndarray) -> None:
        super().__init__(seed, _ORDER, int(counts.sum()))
        self._counts, self._first, self._keys = counts, first, seed ^ _OWN

    def _made(self, epoch: int) -> np.ndarray:
        parts = [self._of_task(k, epoch * count, (epoch + 1) * count) for k, count in enumerate(self._counts.tolist())]
        return np.concatenate(parts)[super()._made(epoch)]

    def _of_task(self, task: int, begin: int, end: int) -> np.ndarray:
        """Return what stands at positions ``begin`` to ``end`` of the endless order of one task's own windows."""
        first, own = int(self._first[task]), int(self._first[task + 1] - self._first[task])
        rounds = []
        for turn in range(begin // own, -(-end // own)):
            order = np.argsort(row_keys(self._keys, turn, first + np.arange(own)), kind="stable")
            rounds.append(first + order[max(0, begin - turn * own) : end - turn * own])
        return np.concatenate(rounds)
