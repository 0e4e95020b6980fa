"""Recording: one parquet file and one MP4 per camera and episode, committed by renaming the metadata last.

An episode exists from the moment ``meta/info.json`` is replaced. Until then its files have temporary names or are
not counted; a process that is killed at any point loses at most the episode that was open, and the next writer (or
``robopolicy data recover``) removes what it left.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, Spec, SpecMismatch
from policies.statistics import Stats, aggregate, stats_to_json
from real.calibration import require_one
from robopolicy.data import layout, video
from robopolicy.data.atomic import no_space, publish, temporary, write_json
from robopolicy.data.episodes import episode_row, read_episodes, read_tasks, with_stats, write_episodes, write_tasks
from robopolicy.data.frames import array_stats, column_order, frame_columns, to_table
from robopolicy.data.lock import FolderLock
from robopolicy.data.recover import aggregated_stats, clean, stored_stats

_log = logging.getLogger("robopolicy.data")
_EXTRA_DTYPES = {"b": "bool", "i": "int64", "u": "int64", "f": "float32"}
#: Extras that LeRobot knows; a reward of 0 is a float all the same.
_KNOWN_EXTRAS = {"next.reward": "float32", "next.success": "bool", "next.done": "bool"}


class DatasetWriter:
    """Records episodes into a new data set, or appends to one with the same spec. Use it as a context manager.

    Args:
        path: Folder of the data set.
        spec: What is recorded; every frame is checked against it.
        fps: Frames a second; ``timestamp`` is frame_index / fps (true capture times are kept beside it).
        robot_type: Name of the robot, free text.
        task: What is being done, in words; an episode may say otherwise.
        encoder: Video encoder, see ``robopolicy.data.video.ENCODERS``; None takes the first that is installed.
        provenance: How the set is made, kept in ``meta/robopolicy.json`` (JSON-ready).
        codec: Options of the encoder, see ``robopolicy.data.video.codec_options``; None: its own, or those of the set.

    Raises:
        InputError: if the folder holds something else, or is being changed by another process.
        SpecMismatch: if the set that is there has another spec or rate.
    """

    def __init__(
        self,
        path: str | Path,
        spec: Spec,
        fps: float,
        robot_type: str = "unknown",
        task: str = "",
        encoder: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        codec: Mapping[str, Any] | None = None,
    ) -> None:
        """Open or begin the data set; it is locked until :meth:`close`."""
        self.root, self.spec, self.fps, self.robot_type, self.task = Path(path).expanduser(), spec, float(fps), robot_type, task
        if not self.fps > 0:
            raise InputError(f"fps: expected a positive number, found {fps}")
        self._provenance = dict(provenance or {})
        self._cameras = spec.observation.image_names
        self._encoder = video.choose_encoder(encoder) if self._cameras else ""
        self._codec = dict(codec or {})
        self._options = video.codec_options(self._encoder, self._codec) if self._cameras else {}
        self._user_features: dict[str, Any] | None = None  # with streams and extras: known at the first frame
        self._streams: tuple[str, ...] = ()
        self._extras: dict[str, str] = {}
        self.num_episodes = self.num_frames = 0
        self._tasks: list[str] = []
        self._stats: dict[str, Stats] = {}
        self._count = 0  # files taken so far, in every folder
        self._lock: FolderLock | None = None
        self._open_folder()
        self._begin()

    def __enter__(self) -> DatasetWriter:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop an episode that was not saved, and free the data set."""
        self.close()

    def close(self) -> None:
        """Drop an episode that was not saved, and free the data set; may be called twice."""
        self.discard_episode()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def frames(self) -> int:
        """Frames of the open episode."""
        return len(self._actions)

    @property
    def encoded(self) -> int:
        """Frames of the open episode that every camera's encoder has encoded."""
        return min((encoder.encoded for encoder in self._encoders.values()), default=self.frames)

    def add_frame(
        self,
        observation: Mapping[str, np.ndarray],
        action: np.ndarray,
        capture_ns: Mapping[str, int] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one frame to the open episode; arrays are copied.

        Args:
            observation: field -> array of its shape, exactly the fields of the spec.
            action: (Da,) in robot units, what was commanded at this frame.
            capture_ns: stream -> capture time, ns on one monotonic clock; the same streams in every frame.
            extras: name -> number, e.g. ``next.reward``, ``next.success``, ``next.done``; the same in every frame.

        Raises:
            SpecMismatch: naming the field, what was expected and found.
            InputError: for a number that is not finite, a capture time that goes backwards, or a full disk.
        """
        self.spec.observation.validate(observation)
        action = np.asarray(action, np.float32)
        if action.shape != (self.spec.action.dim,):
            raise SpecMismatch(f"action: expected shape {(self.spec.action.dim,)}, found {action.shape}")
        where = f"frame {self.frames} of episode {self.num_episodes}"
        for name, array in [("action", action), *((n, observation[n]) for n in self.spec.observation.state_names)]:
            if not np.all(np.isfinite(array)):
                raise InputError(f"{where}: {name} holds {np.asarray(array)[~np.isfinite(array)].flat[0]}, expected finite numbers")
        self._fix_columns({k: int(v) for k, v in (capture_ns or {}).items()}, dict(extras or {}), where)
        for stream, stamp in (capture_ns or {}).items():
            column = self._columns.setdefault(layout.CAPTURE + stream, [])
            if column and int(stamp) < column[-1]:
                raise InputError(f"{where}: capture time of {stream!r} goes back from {column[-1]} to {int(stamp)} ns")
        try:
            for camera in self._cameras:
                self._video(camera).put(observation[camera])
        except OSError as error:
            self._fail(error)
        for name in self.spec.observation.state_names:
            self._columns.setdefault(name, []).append(np.array(observation[name]))
        for stream, stamp in (capture_ns or {}).items():
            self._columns[layout.CAPTURE + stream].append(int(stamp))
        for name, value in (extras or {}).items():
            self._columns.setdefault(name, []).append(value)
        self._actions.append(action.copy())

    def save_episode(self, success: bool | None = None, seed: int | None = None, task: str | None = None, randomized: Mapping[str, Any] | None = None) -> int:
        """Commit the open episode and return its index. It is on the disk when this returns.

        Args:
            success: How it ended, if known.
            seed: What it was begun with, if anything.
            task: What was done, if not the writer's task.
            randomized: What its world drew, JSON-ready; in all episodes of a set or in none.

        Raises:
            InputError: if it has no frames, or the disk is full (the episode is dropped, earlier ones are intact).
        """
        if not self.frames:
            raise InputError(f"episode {self.num_episodes} of {self.root} has no frames; nothing to save")
        committed = False
        try:
            stats = {camera: encoder.close() for camera, encoder in self._encoders.items()}
            committed = self._commit(stats, success, seed, self.task if task is None else task, randomized)
        except OSError as error:
            self._fail(error)
        finally:
            if not committed:
                self._remove_open()
        self._begin()
        return self.num_episodes - 1

    def discard_episode(self) -> None:
        """Drop the open episode and its files."""
        for encoder in self._encoders.values():
            encoder.abort()
        self._begin()

    # ---- opening

    def _open_folder(self) -> None:
        if layout.is_dataset(self.root):
            self._lock = FolderLock(self.root)
            try:
                self._append()
            except BaseException:
                self._lock.release()
                raise
            return
        if self.root.exists() and (not self.root.is_dir() or any(p.name != "meta" for p in self.root.iterdir())):
            raise InputError(f"{self.root} exists and is not a data set; give a new folder or an empty one")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.root}: a data set cannot be begun here: {error.strerror or error}") from error
        self._lock = FolderLock(self.root)
        try:
            self._write_own()
            write_json(self.root / layout.INFO, self._info({}, 0, 0, 0))
        except OSError as error:
            self._lock.release()
            raise InputError(f"{self.root}: a data set cannot be begun here: {error.strerror or error}") from error

    def _append(self) -> None:
        info, own = layout.read_info(self.root), layout.read_own(self.root)
        if own is None:
            raise InputError(f"{self.root} was recorded by another program; convert it with `robopolicy data convert` before adding episodes")
        if not int(info["total_episodes"]):  # whoever records the first episode says what the set holds
            self._sweep(info)
            self._write_own()
            write_json(self.root / layout.INFO, self._info({}, 0, 0, 0))
            return
        there = Spec.from_dict(own["spec"])
        there.require(self.spec, f"data set {self.root}", "the recording")
        self.spec.require(there, "the recording", f"data set {self.root}")
        require_one(there, self.spec, f"data set {self.root}")
        if float(info["fps"]) != self.fps:
            raise SpecMismatch(f"data set {self.root} has {info['fps']:g} frames a second, the recording {self.fps:g}")
        if own.get("encoder"):
            self._encoder, self._codec = video.choose_encoder(own["encoder"]) if self._cameras else "", dict(own.get("codec", {}))
            self._options = video.codec_options(self._encoder, self._codec) if self._cameras else {}
        self._sweep(info)
        self._provenance, self.robot_type = own.get("provenance", {}), info.get("robot_type") or self.robot_type
        self.num_episodes, self.num_frames = int(info["total_episodes"]), int(info["total_frames"])
        self._streams, self._extras = tuple(own["streams"]), dict(own["extras"])
        self._user_features = {k: v for k, v in info["features"].items() if k not in layout.FRAME_FEATURES}
        self._tasks = read_tasks(self.root)
        self._stats = stored_stats(self.root, info) or aggregated_stats(read_episodes(self.root, info, stats=True).rows)

    def _sweep(self, info: Mapping[str, Any]) -> None:
        """Remove what an interrupted recording left, and go on counting behind what is there."""
        done = clean(self.root, info)
        if done.removed:
            _log.warning("%s: removed %d files of an interrupted recording; %d episodes are intact", self.root, len(done.removed), done.episodes)
        self._count = layout.next_count(self.root)

    # ---- the open episode

    def _begin(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._actions: list[np.ndarray] = []
        self._encoders: dict[str, video.VideoEncoder] = {}

    def _video(self, camera: str) -> video.VideoEncoder:
        if camera not in self._encoders:
            path = temporary(layout.video_file(self.root, camera, layout.file_number(self._count)))
            self._encoders[camera] = video.VideoEncoder(path, self.fps, self.spec.observation.fields[camera].shape, self._encoder, self._options)
        return self._encoders[camera]

    def _fix_columns(self, capture: dict[str, int], extras: dict[str, Any], where: str) -> None:
        """Settle capture streams and extras at the very first frame; refuse others afterwards."""
        kinds = {name: np.asarray(value).dtype.kind for name, value in extras.items()}
        for name, kind in kinds.items():
            if kind not in _EXTRA_DTYPES or np.size(extras[name]) != 1:
                raise InputError(f"{where}: extra {name!r} is {type(extras[name]).__name__}, expected one number or bool")
            if name in self.spec.observation.fields or name == "action" or name in layout.FRAME_FEATURES or "/" in name:
                raise InputError(f"{where}: extra {name!r} has a name that is taken or contains '/'")
            if not np.isfinite(extras[name]):
                raise InputError(f"{where}: {name} is {extras[name]}, expected a finite number")
        dtypes = {name: _KNOWN_EXTRAS.get(name, _EXTRA_DTYPES[kind]) for name, kind in kinds.items()}
        if self._user_features is None and self.frames == 0:
            self._streams, self._extras = tuple(capture), dtypes
        if set(capture) != set(self._streams):
            raise SpecMismatch(f"{where}: capture times of {sorted(capture)}, expected {sorted(self._streams)} as in the frames before")
        if dtypes != self._extras:
            raise SpecMismatch(f"{where}: extras {dtypes}, expected {self._extras} as in the frames before")

    # ---- committing

    def _features(self) -> dict[str, Any]:
        if self._user_features is None:
            said = {c: video.describe(self._encoder, *self.spec.observation.fields[c].shape[:2], options=self._options) for c in self._cameras}
            out = layout.spec_features(self.spec, self.fps, said)
            out |= {name: layout.feature(dtype, (1,)) for name, dtype in self._extras.items()}
            out |= {layout.CAPTURE + stream: layout.feature("int64", (1,)) for stream in self._streams}
            return column_order(out | layout.frame_features())
        return column_order(self._user_features | layout.frame_features())

    def _info(self, features: Mapping[str, Any], episodes: int, frames: int, tasks: int) -> dict[str, Any]:
        return layout.new_info(features or self._features(), self.fps, self.robot_type, episodes, frames, tasks)

    def _write_own(self) -> None:
        own = {"format": 1, "spec": self.spec.to_dict(), "streams": list(self._streams), "extras": self._extras}
        own |= {"codec": self._codec} if self._codec else {}
        write_json(self.root / layout.OWN, own | {"encoder": self._encoder, "provenance": self._provenance})

    def _arrays(self, features: Mapping[str, Any], task_index: int) -> dict[str, np.ndarray]:
        columns = {n: np.asarray(v, features[n]["dtype"]) for n, v in self._columns.items()}
        columns["action"] = np.stack(self._actions)
        return columns | frame_columns(self.num_episodes, self.num_frames, self.frames, self.fps, task_index)

    def _commit(self, stats: dict[str, Stats], success: bool | None, seed: int | None, task: str, randomized: Mapping[str, Any] | None) -> bool:
        import pyarrow.parquet as pq

        features, number, length = self._features(), layout.file_number(self._count), self.frames
        tasks = self._tasks if task in self._tasks else [*self._tasks, task]
        columns = self._arrays(features, tasks.index(task))
        stats = {n: stats[n] if f["dtype"] == "video" else array_stats(columns[n], tuple(f["shape"])) for n, f in features.items()}
        merged = {n: aggregate([self._stats[n], s]) if n in self._stats else s for n, s in stats.items()}

        data = layout.data_file(self.root, number)
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(columns, features), temporary(data))
        publish(data)
        for camera in self._cameras:
            publish(layout.video_file(self.root, camera, number))
        row = episode_row(self.num_episodes, self.num_frames, length, [task], number, self._cameras, self.fps, success, seed, randomized)
        write_episodes(layout.episodes_file(self.root, number), [with_stats(row, stats)])
        if tasks is not self._tasks:
            write_tasks(self.root, tasks)
        if self._user_features is None:
            self._write_own()
        write_json(self.root / layout.STATS, stats_to_json(merged))
        write_json(self.root / layout.INFO, self._info(features, self.num_episodes + 1, self.num_frames + length, len(tasks)))
        self._user_features = {k: v for k, v in features.items() if k not in layout.FRAME_FEATURES}
        self._tasks, self._stats = tasks, merged
        self.num_episodes, self.num_frames, self._count = self.num_episodes + 1, self.num_frames + length, self._count + 1
        return True

    def _remove_open(self) -> None:
        """Remove every file of the open episode, unless info.json already counts it."""
        for encoder in self._encoders.values():
            encoder.abort()
        if int(layout.read_info(self.root)["total_episodes"]) > self.num_episodes:
            return
        number = layout.file_number(self._count)
        paths = [layout.data_file(self.root, number), layout.episodes_file(self.root, number)]
        for path in [*paths, *(layout.video_file(self.root, c, number) for c in self._cameras)]:
            path.unlink(missing_ok=True)
            temporary(path).unlink(missing_ok=True)
        if self._stats and (self.root / layout.STATS).exists():
            try:
                write_json(self.root / layout.STATS, stats_to_json(self._stats))
            except OSError as error:
                _log.warning("%s: stats.json could not be restored (%s); `robopolicy data recover` does", self.root, error)

    def _fail(self, error: OSError) -> None:
        length = self.frames
        self._remove_open()
        self._begin()
        why = "the disk is full (or a quota or file size limit is reached)" if no_space(error) else f"writing failed: {error.strerror or error}"
        raise InputError(f"{self.root}: {why}; the open episode ({length} frames) was dropped, {self.num_episodes} earlier episodes are intact") from error
