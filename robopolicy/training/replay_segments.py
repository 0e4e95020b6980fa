"""A replay in memory, kept beside the training state: at every checkpoint the rows since the last one, in a file of their own.

So every row is written once, a file is whole or absent, and any training state that is kept finds all the rows it had.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from policies.spec import InputError
from robopolicy.data.atomic import publish, temporary
from robopolicy.training.replay_ring import ReplayRing

_NAME = re.compile(r"rows_(\d+)_(\d+)\.safetensors")


class Segments:
    """Files of rows of one replay.

    Args:
        folder: Where they are.
        replay: Whose rows they are.
    """

    def __init__(self, folder: Path, replay: ReplayRing) -> None:
        self.folder, self.replay, self._saved = folder, replay, replay.count

    def save(self) -> None:
        """Write the rows that were added since the last call, as a whole or not at all.

        Raises:
            InputError: if the disk is full or not writable.
        """
        first, stop = max(self._saved, self.replay.oldest), self.replay.count
        if first == stop:
            return
        path = self.folder / f"rows_{first:09d}_{stop:09d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(self.replay.stored(first, stop), temporary(path))
            publish(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"replay {path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
        finally:
            temporary(path).unlink(missing_ok=True)
        self._saved = stop

    def load(self, count: int) -> None:
        """Fill the replay with what it held when ``count`` rows had been added, and delete what was written after that.

        Raises:
            InputError: if files are missing or damaged.
        """
        replay = self.replay
        wanted = max(replay.count, count - replay.rows)
        for first, stop, path in self._files():
            if stop > count:  # of a part of the run that is done again
                path.unlink()
            elif stop > wanted:
                self._append(path, first, max(first, wanted), stop)
        if replay.count != count or replay.oldest > max(0, count - replay.rows):
            raise InputError(f"replay {self.folder}: steps {wanted} to {count} are not all there; begin anew with --fresh")
        replay.recount()
        self._saved = count

    def prune(self, count: int) -> None:
        """Delete the files that a training state of ``count`` rows, the oldest that is kept, does not need."""
        for _, stop, path in self._files():
            if stop <= count - self.replay.rows:
                path.unlink()

    def _append(self, path: Path, first: int, begin: int, stop: int) -> None:
        try:
            saved = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"replay {path}: damaged: {error}") from error
        skip = begin - first
        ends = int(np.count_nonzero(saved["ended"][:skip]))
        cut = {name: array if name.startswith("last/") else array[ends if name.startswith("end/") else skip :] for name, array in saved.items()}
        self._fit(path, cut, stop - begin)
        self.replay.append_stored(begin, cut)

    def _fit(self, path: Path, saved: dict[str, np.ndarray], rows: int) -> None:
        """Refuse a file of another replay. Raises InputError."""
        for name, array in saved.items():
            if name.startswith(("obs/", "action", "reward")):
                wanted = (rows, *self.replay.arrays[name].shape[1:]) if name in self.replay.arrays else None
                if array.shape != wanted:
                    raise InputError(f"replay {path}: {name} is {array.shape}, expected {wanted}: it is of another run")

    def _files(self) -> list[tuple[int, int, Path]]:
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("rows_*.safetensors"))
        return sorted((int(match[1]), int(match[2]), path) for match, path in found if match)
