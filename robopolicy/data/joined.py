"""Several data sets laid end to end in one set of memory-mapped arrays, so that a batch over all of them is one gather.

The arrays are made once, in the cache, and named after the fingerprints of what they join. Only what training reads is in
them: the observation fields and the action.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from policies.spec import InputError
from robopolicy.data.atomic import no_space, read_json, write_json
from robopolicy.data.cache import Index, cache_folder
from robopolicy.data.dataset import Dataset
from robopolicy.data.progress import tracked

_FORMAT = 1
_CHUNK = 1 << 22  # numbers copied at once
_TABLE = ("length", "success", "seed")


def fingerprint_of(datasets: Sequence[Dataset]) -> str:
    """Return 16 hex digits that identify the contents of all ``datasets``, in their order."""
    return hashlib.sha256(" ".join(one.fingerprint for one in datasets).encode()).hexdigest()[:16]


def join(datasets: Sequence[Dataset], cache: str | Path | None = None, progress: bool = False) -> Dataset:
    """Return one data set with the episodes of all ``datasets`` in their order; its fields are those of their spec, and ``action``.

    Args:
        datasets: What to join, of one spec.
        cache: Folder for the arrays; None: where those of the first set are.
        progress: Whether to show a progress bar while the arrays are made.

    Raises:
        InputError: if there is no room for the arrays.
    """
    first, key = datasets[0], fingerprint_of(datasets)
    parent = cache_folder(first.path, cache)
    folder = parent / f"joined-{key}"
    if not (folder / "index.json").is_file():
        try:
            _build(datasets, parent, folder, progress)
        except OSError as error:
            why = "the disk is full" if no_space(error) else str(error.strerror or error)
            raise InputError(f"joined arrays of {len(datasets)} data sets cannot be written to {parent}: {why}; set data.cache to another folder") from error
    fields = {name: (str(first.field(name).dtype), first.field(name).shape[1:]) for name in _fields(first)}
    tasks = list(dict.fromkeys(task for one in datasets for task in one.tasks))
    index = Index(folder, fields, {}, tasks, [], key, first.spec, first.fps)
    return Dataset(first.path.parent, index)


def _fields(dataset: Dataset) -> list[str]:
    return [*dataset.spec.observation.fields, "action"]


def _build(datasets: Sequence[Dataset], parent: Path, folder: Path, progress: bool) -> None:
    """Copy every field; whoever builds the same at the same time makes the same, and the first to finish is kept."""
    paths = [str(one.path) for one in datasets]
    parent.mkdir(parents=True, exist_ok=True)
    _forget(parent, paths)
    work = parent / f"{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        total = sum(one.num_frames for one in datasets)
        for name in tracked(_fields(datasets[0]), "joining data sets", progress):
            like = datasets[0].field(name)
            out = open_memmap(work / f"{name}.npy", "w+", like.dtype, (total, *like.shape[1:]))
            at, rows = 0, max(1, _CHUNK // max(1, int(np.prod(like.shape[1:], dtype=np.int64))))
            for one in datasets:
                array = one.field(name)
                for start in range(0, len(array), rows):
                    part = array[start : start + rows]
                    out[at : at + len(part)] = part
                    at += len(part)
            out.flush()
        columns = [np.concatenate(table) for table in zip(*map(_table, datasets), strict=True)]
        for name, column in zip(_TABLE, columns, strict=True):
            np.save(work / f"episode.{name}.npy", column)
        write_json(work / "index.json", {"format": _FORMAT, "sets": paths})
        if not (folder / "index.json").is_file():
            work.replace(folder)
    except OSError:
        if not (folder / "index.json").is_file():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _table(dataset: Dataset) -> tuple[np.ndarray, ...]:
    return np.diff(dataset.episode_starts), dataset.success, dataset.seeds


def _forget(parent: Path, paths: list[str]) -> None:
    """Delete what an earlier state of the same sets left."""
    for old in parent.glob("joined-*/index.json"):
        if read_json(old).get("sets") == paths:
            shutil.rmtree(old.parent, ignore_errors=True)
