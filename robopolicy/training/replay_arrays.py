"""Where a replay keeps its numbers: arrays in memory, or files mapped into it that may be larger than memory.

A folder of mapped files holds ``layout.json`` (what the arrays are), ``NAME.bin`` for each of them, and ``position.bin``: two int64
that say which rows count. A row is written outside what they span, and then they are moved by one aligned store: whenever
the process dies, what they span is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.data.atomic import read_json, write_json

_FORMAT = "robopolicy replay 1"
_LAYOUT = "layout.json"


class ReplayArrays:
    """Named arrays that begin as zeros.

    Args:
        shapes: name -> (shape, dtype), the first dimension counts rows.
        folder: Where mapped files are, or are made; None: memory.
        layout: More that must be the same when a folder is opened again, JSON-ready.

    Attributes:
        position: (2,) int64, the oldest row that counts and the one after the newest.
        reopened: Whether the folder held a replay already.

    Raises:
        InputError: if the folder holds another replay, or there is no room for this one.
    """

    def __init__(self, shapes: Mapping[str, tuple[tuple[int, ...], str]], folder: Path | None, layout: Mapping[str, Any]) -> None:
        self._folder, self._shapes = folder, dict(shapes)
        self._files: dict[str, np.memmap] = {}
        self.reopened = folder is not None and (folder / _LAYOUT).is_file()
        self._require_room()
        if folder is not None:
            self._claim(folder, {"format": _FORMAT, **layout})
        self._arrays = {name: self._made(name, shape, dtype) for name, (shape, dtype) in self._shapes.items()}
        self.position = self._made("position", (2,), "int64")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def grow(self, name: str, rows: int) -> np.ndarray:
        """Give array ``name`` that many rows, those that it has as they are; nothing where it has them. Returns it."""
        old, dtype = self._arrays[name], self._shapes[name][1]
        if len(old) >= rows:
            return old
        self._shapes[name] = ((rows, *old.shape[1:]), dtype)
        if self._folder is None:
            self._arrays[name] = np.zeros((rows, *old.shape[1:]), dtype)
            self._arrays[name][: len(old)] = old
        else:
            self._arrays[name] = self._made(name, *self._shapes[name])
        return self._arrays[name]

    def flush(self) -> None:
        """Bring mapped files to the disk, the position last; nothing to do in memory."""
        if self._folder is None:
            return
        for name in sorted(self._files, key="position".__eq__):
            self._files[name].flush()

    def _made(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if self._folder is None:
            return np.zeros(shape, dtype)  # pages that are never written cost no memory
        self._files.pop(name, None)
        self._files[name] = _mapped(self._folder / f"{name.replace('/', '-')}.bin", shape, dtype)
        return self._files[name].view(np.ndarray)  # a map's own indexing is slower

    def _claim(self, folder: Path, layout: dict[str, Any]) -> None:
        """Create the folder, or refuse one that was made for other arrays."""
        if not self.reopened:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.bin"):  # of one that was never finished
                left.unlink()
            write_json(folder / _LAYOUT, layout)
            return
        found = read_json(folder / _LAYOUT)
        for key, wanted in layout.items():
            if found.get(key) != wanted:
                raise InputError(f"replay {folder}: {key} is {found.get(key)!r} there, {wanted!r} here; take another folder, or begin anew with --fresh")

    def _require_room(self) -> None:
        needed = sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for shape, dtype in self._shapes.values())
        if self._folder is None:
            there, what, remedy = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "memory", " or set training.replay.place=disk"
        elif self.reopened:
            return
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            there, what, remedy = shutil.disk_usage(self._folder).free, "free disk", ""
        if needed > there:
            raise InputError(
                f"training.replay.capacity: this replay takes {needed / 2**30:.1f} GiB, there is {there / 2**30:.1f} GiB of {what}; take a smaller one{remedy}"
            )


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """Map a file of zeros, or the one that is there, made longer if need be; what was never written takes no disk."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    try:
        with path.open("ab") as file:
            if file.tell() < size:
                file.truncate(size)
        return np.memmap(path, dtype, "r+", shape=shape)
    except OSError as error:
        raise InputError(f"replay {path}: cannot be written: {error.strerror or error}") from error
