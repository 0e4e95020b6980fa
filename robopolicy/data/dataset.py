"""A data set opened for training: memory-mapped arrays by field name, episode boundaries, spec and statistics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.data import layout
from robopolicy.data.cache import Index, open_cache

_log = logging.getLogger("robopolicy.data")


class Dataset:
    """Frames of all committed episodes, F in all, laid end to end; made by :meth:`open`.

    Attributes:
        path: Folder of the data set.
        spec: What the frames mean.
        fps: Frames a second.
        num_frames: F.
        num_episodes: E.
        episode_starts: (E + 1,) int64; episode e is frames ``episode_starts[e]`` to ``episode_starts[e + 1]``.
        success: (E,) int8, 1, 0 or -1 where it is not known.
        seeds: (E,) int64, what each episode was begun with, -1 where it is not known.
        tasks: Task strings; ``arrays["task_index"]`` points into them.
        arrays: field -> (F, *shape), memory-mapped, read-only. Observation fields, ``action``, ``task_index``,
            ``capture_ns.STREAM`` and extras such as ``next.reward``.
        stats: field -> statistic -> array, over all frames, in the form of LeRobot's ``stats.json``.
        fingerprint: 16 hex digits of the contents; the same however they are split into files.
        leftovers: Files of an interrupted recording that were ignored.
    """

    def __init__(self, path: Path, index: Index) -> None:
        """Wrap the arrays of ``index``; use :meth:`open`."""
        self.path, self.spec, self.fps = path, index.spec, index.fps
        lengths = index.table("length")
        self.episode_starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.num_episodes, self.num_frames = len(lengths), int(self.episode_starts[-1])
        self.success, self.seeds = index.table("success"), index.table("seed")
        self.tasks, self.stats, self.fingerprint, self.leftovers = index.tasks, index.stats, index.fingerprint, index.leftovers
        self.arrays: Mapping[str, np.ndarray] = {name: index.array(name) for name in index.fields}

    @classmethod
    def open(cls, path: str | Path, cache: str | Path | None = None, progress: bool = False) -> Dataset:
        """Open the data set at ``path``; the first time, its arrays are made (video is decoded once).

        Args:
            path: Folder in the LeRobot v3 layout, ours or another program's.
            cache: Folder for the arrays; None: ``.cache`` in the set, or the user's cache folder if that is read-only.
            progress: Whether to show a progress bar while the arrays are made.

        Raises:
            InputError: one line, if it is not a data set, has no episodes, or is damaged (naming the file and episode).
        """
        root = Path(path).expanduser()
        if not layout.is_dataset(root):
            layout.read_info(root)
        index = open_cache(root, cache, progress)
        if index.leftovers:
            _log.warning("%s: ignored %d files of an interrupted recording; `robopolicy data recover %s` removes them", root, len(index.leftovers), root)
        return cls(root, index)

    def field(self, name: str) -> np.ndarray:
        """Return the array of field ``name``. Raises InputError for an unknown one."""
        if name not in self.arrays:
            raise InputError(f"data set {self.path} has no field {name!r}{suggest(name, self.arrays)}")
        return self.arrays[name]

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Return field -> (T, *shape) of one episode, read-only. Raises InputError for an episode that does not exist."""
        if not 0 <= index < self.num_episodes:
            raise InputError(f"data set {self.path} has episodes 0 to {self.num_episodes - 1}, not {index}")
        start, stop = self.episode_starts[index : index + 2]
        return {name: array[start:stop] for name, array in self.arrays.items()}
