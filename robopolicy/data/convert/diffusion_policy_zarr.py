"""Diffusion Policy's zarr stores: all frames end to end in ``data/KEY``, episode boundaries in ``meta/episode_ends``.

``data/state`` becomes ``observation.state``, arrays (N, H, W, 3) become cameras, ``data/timestamp`` (s) the capture
times, every other array ``observation.KEY``. Folders and ``.zarr.zip`` files, zarr formats 2 and 3.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.data.convert import source

#: What reading a damaged chunk raises, by store and compressor.
_DAMAGE = (OSError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile)


class DiffusionPolicyZarrSource:
    """An opened zarr store; the attributes are :class:`robopolicy.data.convert.source.Source`'s."""

    def __init__(self, path: Path, options: source.SourceOptions) -> None:
        """Open ``path``. Raises InputError if it is not such a store, or the rate is neither known nor given."""
        import zarr
        from zarr.storage import ZipStore

        self.path, self.robot_type = path, "unknown"
        self.notes: list[str] = []
        self._zip = None
        if path.is_file() and not zipfile.is_zipfile(path):
            raise InputError(f"{path}: cannot be read as a zarr store: neither a folder nor a whole zip file")
        try:
            self._zip = ZipStore(path, mode="r") if path.is_file() else None
            self._root: Any = zarr.open_group(self._zip if self._zip is not None else path, mode="r")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            self.close()
            raise InputError(f"{path}: cannot be read as a zarr store ({_reason(error)})") from error
        try:
            self._open(options)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the store."""
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def episodes(self) -> Iterator[source.SourceEpisode]:
        """Yield every episode in order. Raises InputError naming the one that is damaged."""
        for index in range(self.num_episodes):
            rows = slice(int(self._starts[index]), int(self._starts[index + 1]))
            where = f"{self.path}: episode {index}"
            arrays = {key: self._read(key, rows, where) for one in self._observed for key in one.keys}
            action = self._read("action", rows, where).astype(np.float32).reshape(rows.stop - rows.start, -1)
            capture = {}
            if self._stamped:
                seconds = self._read("timestamp", rows, where).astype(np.float64).ravel()
                capture["observation"] = np.rint(seconds * 1e9).astype(np.int64)
            try:
                observation = {one.name: one.gather(arrays) for one in self._observed}
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            yield source.SourceEpisode(f"episode {index}", observation, action, capture_ns=capture)

    def _open(self, options: source.SourceOptions) -> None:
        if options.subset is not None:
            raise InputError(f"{self.path}: subset {options.subset!r}: zarr stores of Diffusion Policy have no subsets")
        for name in ("data", "meta/episode_ends", "data/action"):
            if name not in self._root:
                raise InputError(f"{self.path}: not a Diffusion Policy store: {name!r} is missing, found {sorted(self._root)}")
        self._data = {key: self._root[f"data/{key}"] for key in sorted(self._root["data"])}
        ends = self._read_ends()
        self._starts = np.concatenate([[0], ends])
        self.num_episodes = len(ends)
        source.require_lengths(str(self.path), {k: a.shape[0] for k, a in self._data.items()}, self._data["action"].shape[0])
        if ends[-1] != self._data["action"].shape[0]:
            raise InputError(f"{self.path}: episodes end at frame {ends[-1]} but actions have {self._data['action'].shape[0]}; the store is truncated")
        self.fps = source.require_rate(self.path, options.fps, None, "e.g. --fps 10 for PushT")
        self.task = options.task or self.path.name.partition(".")[0]
        self._stamped = "timestamp" in self._data
        self._observed = self._fields(options)
        action = Field((int(np.prod(self._data["action"].shape[1:])),), kind="position")
        self.spec = Spec(ObservationSpec({one.name: one.field for one in self._observed}, self.fps), ActionSpec({"action": action}, self.fps))
        for key, array in self._data.items():
            absent = array.nchunks - array.nchunks_initialized
            if absent:
                self.notes.append(f"{key!r}: {absent} of {array.nchunks} chunks are not stored; by the format they read as {array.fill_value}")

    def _read_ends(self) -> np.ndarray:
        try:
            ends = np.asarray(self._root["meta/episode_ends"][:]).astype(np.int64)
        except _DAMAGE as error:
            raise InputError(f"{self.path}: meta/episode_ends cannot be read: {_reason(error)}") from error
        if not ends.size or np.any(np.diff(np.concatenate([[0], ends])) <= 0):
            raise InputError(f"{self.path}: meta/episode_ends must rise from one episode to the next, found {ends[:8].tolist()}")
        return ends

    def _fields(self, options: source.SourceOptions) -> list[source.Observed]:
        out = []
        available = [k for k in self._data if k not in ("action", "timestamp")]
        for key in source.choose_keys(available, options.keys, f"{self.path}: data"):
            shape = tuple(int(n) for n in self._data[key].shape[1:])
            if source.is_image_shape(shape):
                out.append(source.Observed(source.camera_name(key), (key,), source.image_field(shape)))
            elif self._data[key].dtype.kind in "fiub":
                out.append(source.Observed(f"observation.{source.clean_name(key)}", (key,), Field(shape or (1,))))
            else:
                self.notes.append(f"{key!r} was left out: {self._data[key].dtype} is not a number")
        if not out:
            raise InputError(f"{self.path}: no observation can be stored; found {sorted(self._data)}")
        return out

    def _read(self, key: str, rows: slice, where: str) -> np.ndarray:
        try:
            return np.asarray(self._data[key][rows])
        except _DAMAGE as error:
            raise InputError(f"{where}: {key!r} cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
