"""The arrays that training reads: every field of a data set as one memory-mapped ``.npy`` file, made once.

Parquet is decoded and video is decompressed a single time; opening again costs a directory listing. The cache is named
after that listing (names, sizes, modification times), so that any change of the set makes a new one. What it holds is
identified by :attr:`Index.fingerprint`, a hash of the contents that does not depend on how they are split into files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from policies.spec import InputError, Spec
from policies.statistics import RunningStats, Stats, stats_from_json, stats_to_json
from robopolicy.data import layout, video
from robopolicy.data.atomic import no_space, read_json, write_json
from robopolicy.data.episodes import EpisodeTable, read_episodes, read_parquet, read_tasks
from robopolicy.data.frames import column_array, image_arrays
from robopolicy.data.progress import tracked
from robopolicy.data.recover import leftovers

_FORMAT = 1
_CHUNK = 1 << 14  # frames handled at once when statistics and hashes are taken
_SKIPPED = ("index", "episode_index", "frame_index", "timestamp")  # follow from the episode lengths
_OURS = re.compile(r"[0-9a-f]{16}(\.tmp)?")
_TABLE = ("length", "success", "seed")


@dataclass(frozen=True)
class Index:
    """What a finished cache holds.

    Attributes:
        folder: Where it lies.
        fields: field -> (dtype, shape of one frame).
        stats: field -> statistics over all frames.
        tasks: Task strings.
        leftovers: Files in the set that belong to no committed episode.
        fingerprint: 16 hex digits that identify the contents.
        spec: What the frames mean.
        fps: Frames a second.
    """

    folder: Path
    fields: dict[str, tuple[str, tuple[int, ...]]]
    stats: dict[str, Stats]
    tasks: list[str]
    leftovers: list[str]
    fingerprint: str
    spec: Spec
    fps: float

    def array(self, name: str) -> np.ndarray:
        """Open the memory-mapped array (F, *shape) of field ``name``; a plain array class, whose indexing is quicker."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    def table(self, name: str) -> np.ndarray:
        """Return column ``name`` of the episode table (E,): length, success or seed."""
        return np.load(self.folder / f"episode.{name}.npy", allow_pickle=False)


def listing_key(root: Path) -> str:
    """Return a key that changes whenever a file of the set changes: a hash of names, sizes and modification times."""
    digest = hashlib.sha256(str(_FORMAT).encode())
    found = sorted(entry for name in ("data", "videos", "meta") if (root / name).is_dir() for entry in _walk(root / name, name))
    for path, size, modified in found:
        digest.update(f"{path}\0{size}\0{modified}\n".encode())
    return digest.hexdigest()[:16]


def _walk(folder: Path, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield (path inside the set, size, modification time in ns) of every file below ``folder``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{name}/{entry.name}")
            elif entry.name.endswith((".parquet", ".mp4", ".json")):
                yield f"{name}/{entry.name}", entry.stat().st_size, entry.stat().st_mtime_ns


def cache_folder(root: Path, cache: str | Path | None) -> Path:
    """Return the folder of this set's arrays: in ``cache``, else ``.cache`` in the set, else the user's cache folder if that is read-only."""
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    if cache is not None:
        return Path(cache).expanduser() / f"robopolicy-{name}"
    if os.access(root, os.W_OK) and (not (root / ".cache").exists() or os.access(root / ".cache", os.W_OK)):
        return root / ".cache"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "robopolicy" / "datasets" / name


def open_cache(root: Path, cache: str | Path | None = None, progress: bool = False) -> Index:
    """Return the arrays of the data set at ``root``, making them if they are not there.

    Raises:
        InputError: one line, if the set is damaged, has no episodes, or there is no room for the arrays.
    """
    parent = cache_folder(root, cache)
    key = listing_key(root)
    if (index := _read_index(parent / key)) is not None:
        return index
    info = layout.read_info(root)
    if not int(info["total_episodes"]):
        raise InputError(f"data set {root} has no episodes yet; record some, e.g. with `robopolicy collect`")
    try:
        with _building(parent):
            return _read_index(parent / key) or _build(root, info, parent, key, progress)
    except OSError as error:
        why = "the disk is full" if no_space(error) else str(error.strerror or error)
        raise InputError(f"arrays of data set {root} cannot be written to {parent}: {why}; free some room or set data.cache to another folder") from error


@contextmanager
def _building(parent: Path) -> Iterator[None]:
    """Let one process build at a time; the others wait and find it done."""
    parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(parent / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read_index(folder: Path) -> Index | None:
    if not (folder / "index.json").is_file():
        return None
    value = read_json(folder / "index.json")
    fields = {name: (dtype, tuple(shape)) for name, (dtype, shape) in value["fields"].items()}
    spec = Spec.from_dict(value["spec"])
    return Index(folder, fields, stats_from_json(value["stats"]), value["tasks"], value["leftovers"], value["fingerprint"], spec, value["fps"])


def _build(root: Path, info: Mapping[str, Any], parent: Path, key: str, progress: bool) -> Index:
    for old in parent.iterdir():  # of an earlier state of this set, or of a build that was killed
        if old.is_dir() and _OURS.fullmatch(old.name):
            shutil.rmtree(old, ignore_errors=True)
    work = parent / f"{key}.tmp"
    work.mkdir()
    try:
        table, spec = read_episodes(root, info), layout.read_spec(root, info)
        filler = _Filler(root, info, table, work, progress)
        fields = filler.fill()
        stats, content = _summarise(work, fields)
        digest = hashlib.sha256(f"{spec.fingerprint()} {info['fps']} {table.length.tolist()} {content}".encode())
        digest.update("\n".join([*filler.tasks, *(d.hexdigest() for d in filler.video_digests.values())]).encode())
        for name in _TABLE:
            np.save(work / f"episode.{name}.npy", getattr(table, name))
        value = {
            "fields": fields,
            "stats": stats_to_json(stats),
            "tasks": filler.tasks,
            "leftovers": [str(p.relative_to(root)) for p in leftovers(root, table)],
            "fingerprint": digest.hexdigest()[:16],
            "spec": spec.to_dict(),
            "fps": float(info["fps"]),
        }
        write_json(work / "index.json", value)
        work.replace(parent / key)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    index = _read_index(parent / key)
    if index is None:
        raise InputError(f"{parent / key}: the arrays disappeared while they were made; open the data set again")
    return index


class _Filler:
    """Decodes every file of a data set into the arrays, one file at a time."""

    def __init__(self, root: Path, info: Mapping[str, Any], table: EpisodeTable, work: Path, progress: bool) -> None:
        self.root, self.info, self.table, self.progress = root, info, table, progress
        self.tasks = read_tasks(root)
        self.starts = table.starts
        self.total = int(self.starts[-1])
        self.work = work
        self.video_digests: dict[str, Any] = {}
        if self.total != int(info["total_frames"]):
            raise InputError(f"{root}: info.json counts {info['total_frames']} frames but the episodes have {self.total}; see `robopolicy data check`")

    def fill(self) -> dict[str, tuple[str, list[int]]]:
        plain, images, cameras = {}, {}, {}
        for name, entry in self.info["features"].items():
            if name in _SKIPPED or entry["dtype"] in layout.TEXT_DTYPES or (entry.get("info") or {}).get("video.is_depth_map"):
                continue
            {"video": cameras, "image": images}.get(entry["dtype"], plain)[name] = entry
        fields: dict[str, tuple[str, list[int]]] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, entry in (plain | images | cameras).items():
            shape = list(entry["shape"])
            if name not in plain and shape[0] == 3 and shape[-1] != 3:
                shape = [*shape[1:], 3]
            dtype = entry["dtype"] if name in plain else "uint8"
            fields[name] = ("float32" if name == "action" else dtype, shape or [1])
            arrays[name] = open_memmap(self.work / f"{name}.npy", "w+", np.dtype(fields[name][0]), (self.total, *fields[name][1]))
        jobs = [("data", n) for n in np.unique(self.table.data, axis=0)]
        jobs += [(c, n) for c in cameras for n in np.unique(self.table.video[c], axis=0)]
        for kind, number in tracked(jobs, "decoding the data set", self.progress):
            if kind == "data":
                self._data(arrays, plain, images, (int(number[0]), int(number[1])))
            else:
                self._video(arrays[kind], kind, (int(number[0]), int(number[1])))
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        return fields

    def _who(self, episodes: np.ndarray) -> str:
        return f"episode {episodes[0]}" if len(episodes) == 1 else f"episodes {episodes[0]} to {episodes[-1]}"

    def _data(self, arrays: dict[str, np.ndarray], plain: Mapping[str, Any], images: Mapping[str, Any], number: tuple[int, int]) -> None:
        path = layout.data_file(self.root, number)
        mine = np.flatnonzero((self.table.data == number).all(1))
        table = read_parquet(path, ["episode_index", "frame_index", *plain, *images], f" ({self._who(mine)})")
        one = {"dtype": "int64", "shape": [1]}
        episode, frame = (column_array(table, n, one, path) for n in ("episode_index", "frame_index"))
        keep = np.flatnonzero(np.isin(episode, mine))
        if len(keep) != int(self.table.length[mine].sum()):
            raise InputError(f"{path}: {len(keep)} frames of {self._who(mine)}, expected {int(self.table.length[mine].sum())}")
        if np.any(frame[keep] < 0) or np.any(frame[keep] >= self.table.length[episode[keep]]):
            raise InputError(f"{path}: a frame_index lies outside its episode; see `robopolicy data check`")
        target = self.starts[episode[keep]] + frame[keep]
        if len(target) and np.bincount(target - target.min()).max() > 1:
            raise InputError(f"{path}: two frames of {self._who(mine)} have the same frame_index")
        for name, entry in plain.items():
            values = column_array(table, name, entry, path)[keep]
            arrays[name][target] = values.reshape(len(target), *arrays[name].shape[1:])
        for name in images:
            for position, image in zip(target, image_arrays(table.take(keep), name, path), strict=True):
                self._place(arrays[name], int(position), image, path)

    def _video(self, array: np.ndarray, camera: str, number: tuple[int, int]) -> None:
        path, fps = layout.video_file(self.root, camera, number), float(self.info["fps"])
        mine = np.flatnonzero((self.table.video[camera] == number).all(1))
        if not path.is_file():
            raise InputError(f"{path} is missing; it holds the video of {self._who(mine)}")
        begins = np.round(self.table.video_start[camera][mine] * fps).astype(np.int64)
        # frame number in the video -> frame of the data set
        wanted = {int(b) + i: int(self.starts[e]) + i for e, b in zip(mine, begins, strict=True) for i in range(int(self.table.length[e]))}
        digest = self.video_digests.setdefault(camera, hashlib.sha256())
        for position, image in video.decode(path, fps, digest):
            if (target := wanted.pop(position, None)) is not None:
                self._place(array, target, image, path)
        if wanted:
            first = int(np.searchsorted(self.starts, min(wanted.values()), side="right")) - 1
            raise InputError(f"{path}: {len(wanted)} frames are missing, the first in episode {first}; expected one image per frame")

    @staticmethod
    def _place(array: np.ndarray, position: int, image: np.ndarray, path: Path) -> None:
        if image.shape != array.shape[1:]:
            raise InputError(f"{path}: an image of shape {image.shape}, expected {array.shape[1:]}")
        array[position] = image


def _summarise(work: Path, fields: Mapping[str, tuple[str, list[int]]]) -> tuple[dict[str, Stats], str]:
    """Return statistics of every field, and a hash of all that are not images (those are hashed as compressed)."""
    digest, stats = hashlib.sha256(), {}
    for name, (dtype, shape) in sorted(fields.items()):
        array = np.load(work / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        image = dtype == "uint8" and len(shape) == 3
        running = RunningStats(tuple(shape), image=image)
        step = max(1, _CHUNK // (256 if image else 1))
        for start in range(0, len(array), step):
            rows = np.ascontiguousarray(array[start : start + step])
            if not image:
                digest.update(rows.data.cast("B"))
            try:
                running.update(rows)
            except InputError as error:
                raise InputError(f"field {name!r}, frames from {start} on: {error}") from error
        stats[name] = running.result()
    return stats, digest.hexdigest()
