"""The LeRobot v3 layout: where files lie, what ``meta/info.json`` says, and how a Spec becomes features and back.

The format (github.com/huggingface/lerobot, dataset v3.0): ``data/`` holds the frames as parquet, ``videos/`` one folder
per camera of MP4 files, ``meta/`` the description. Every file may hold one episode or many. Beside it,
``meta/robopolicy.json`` keeps what the format has no place for: units, limits and kinds, and how the set was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, suggest
from robopolicy.data.atomic import read_json

VERSION = "v3.0"
CHUNK_SIZE = 1000  # files in one folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, OWN, STATS, TASKS = "meta/info.json", "meta/robopolicy.json", "meta/stats.json", "meta/tasks.parquet"
#: Columns of every frame that the format itself defines.
FRAME_FEATURES = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
CAPTURE = "capture_ns."
_NUMBERS = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64")
#: Features that are no numbers: text, and LeRobot's annotations in words (lists of what was said when).
TEXT_DTYPES = ("string", "large_string", "language")


def data_file(root: Path, number: tuple[int, int]) -> Path:
    """Return the parquet file of frames with (chunk, file) ``number``."""
    return root / DATA_PATH.format(chunk_index=number[0], file_index=number[1])


def video_file(root: Path, key: str, number: tuple[int, int]) -> Path:
    """Return the MP4 file of camera field ``key`` with (chunk, file) ``number``."""
    return root / VIDEO_PATH.format(video_key=key, chunk_index=number[0], file_index=number[1])


def episodes_file(root: Path, number: tuple[int, int]) -> Path:
    """Return the parquet file of episode rows with (chunk, file) ``number``."""
    return root / EPISODES_PATH.format(chunk_index=number[0], file_index=number[1])


def file_number(count: int) -> tuple[int, int]:
    """Return (chunk, file) of the file that comes after ``count`` others."""
    return divmod(count, CHUNK_SIZE)


def content_files(root: Path) -> list[Path]:
    """Return every finished file of frames, videos and episode rows, sorted."""
    patterns = ("data/*/*.parquet", "videos/*/*/*.mp4", "meta/episodes/*/*.parquet")
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def next_count(root: Path) -> int:
    """Return a count such that ``file_number(count)`` is free for frames, videos and episode rows alike."""
    taken = [-1]
    for path in content_files(root):
        chunk, number = path.parent.name.rpartition("-")[2], path.stem.rpartition("-")[2]
        if chunk.isdigit() and number.isdigit():
            taken.append(int(chunk) * CHUNK_SIZE + int(number))
    return max(taken) + 1


def is_dataset(root: Path) -> bool:
    """Whether ``root`` holds a data set of this layout."""
    return (root / INFO).is_file()


def read_info(root: Path) -> dict[str, Any]:
    """Read ``meta/info.json``.

    Raises:
        InputError: if it is missing, damaged, or of another version of the format.
    """
    if not (root / INFO).is_file():
        near = sorted(p.name for p in root.parent.iterdir() if is_dataset(p)) if root.parent.is_dir() else []
        what = "is not a data set: it has no meta/info.json" if root.exists() else "does not exist"
        raise InputError(f"data set {root} {what}{suggest(root.name, near) if near else ''}")
    info = read_json(root / INFO)
    if not isinstance(info, dict) or not {"codebase_version", "fps", "features", "total_episodes", "total_frames"} <= info.keys():
        raise InputError(f"{root / INFO}: not a LeRobot info file: codebase_version, fps, features and totals are expected")
    if not str(info["codebase_version"]).startswith("v3."):
        raise InputError(f"{root}: LeRobot format {info['codebase_version']} found, {VERSION} expected; convert it with `robopolicy data convert`")
    for key in ("total_episodes", "total_frames", "total_tasks"):
        if type(count := info.get(key, 0)) is not int or count < 0:
            raise InputError(f"{root / INFO}: {key} is {count!r}, expected a whole number from 0")
    if type(fps := info["fps"]) not in (int, float) or not 0 < fps < math.inf:
        raise InputError(f"{root / INFO}: fps is {fps!r}, expected a positive number")
    _require_features(root / INFO, info["features"])
    return info


def _require_features(path: Path, features: Any) -> None:
    """Refuse ``features`` in which one has no dtype that is read, or no shape. Raises InputError naming it."""
    if not isinstance(features, dict):
        raise InputError(f"{path}: features: expected a mapping of names, found {features!r}")
    for name, entry in features.items():
        if not isinstance(entry, dict) or not {"dtype", "shape"} <= entry.keys():
            raise InputError(f"{path}: feature {name!r}: expected dtype and shape, found {entry!r}")
        dtype, shape = entry["dtype"], entry["shape"]
        if dtype in TEXT_DTYPES:
            continue
        if dtype not in (*_NUMBERS, "image", "video"):
            raise InputError(f"{path}: feature {name!r}: dtype {dtype!r} is not read{suggest(str(dtype), (*_NUMBERS, *TEXT_DTYPES, 'image', 'video'))}")
        if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape) or (dtype in ("image", "video") and not shape):
            raise InputError(f"{path}: feature {name!r}: shape is {shape!r}, expected a list of sizes")


def new_info(features: Mapping[str, Any], fps: float, robot_type: str, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """Return the contents of ``meta/info.json``."""
    videos = any(f["dtype"] == "video" for f in features.values())
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if float(fps).is_integer() else float(fps),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "features": dict(features),
    }


def feature(dtype: str, shape: Sequence[int], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return one entry of ``features``."""
    return {"dtype": dtype, "shape": list(shape), "names": list(names) if names else None}


def spec_features(spec: Spec, fps: float, video: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``features`` of every observation field and of the action.

    Args:
        spec: What is recorded.
        fps: Frames a second.
        video: camera -> what its encoder says of itself: ``video.codec``, ``video.pix_fmt``.

    Raises:
        InputError: for a field that the format cannot hold.
    """
    out: dict[str, Any] = {}
    for name, f in spec.observation.fields.items():
        if "/" in name or not f.shape:
            raise InputError(f"observation field {name!r} with shape {f.shape} cannot be stored: expected no '/' in the name and at least one dimension")
        if f.is_image:
            if len(f.shape) != 3 or f.shape[2] != 3 or f.dtype != "uint8":
                raise InputError(f"image field {name!r}: expected (H, W, 3) uint8, found {f.shape} {f.dtype}")
            height, width, channels = f.shape
            out[name] = feature("video", f.shape, ("height", "width", "channels"))
            out[name]["info"] = {
                "video.height": height,
                "video.width": width,
                "video.channels": channels,
                "video.fps": int(fps) if float(fps).is_integer() else float(fps),
                "video.is_depth_map": False,
                "has_audio": False,
                **video.get(name, {}),
            }
        else:
            out[name] = feature(f.dtype, f.shape, f.names)
    out["action"] = feature("float32", (spec.action.dim,), spec.action.names)
    return out


def unlike(spec: Spec, info: Mapping[str, Any]) -> dict[str, str]:
    """Return the features of ``info`` that are not stored as a recording stores the fields of ``spec``, and how that would be.

    Raises:
        InputError: for a field that the format cannot hold.
    """
    out = {}
    for name, wanted in spec_features(spec, float(info["fps"]), {}).items():
        stored = info["features"].get(name)
        if stored is None or (stored["dtype"], list(stored["shape"])) != (wanted["dtype"], wanted["shape"]):
            out[name] = f"{wanted['dtype']}{wanted['shape']}"
    return out


def frame_features() -> dict[str, Any]:
    """Return ``features`` of the columns that the format itself defines."""
    return {name: feature(dtype, (1,)) for name, dtype in FRAME_FEATURES.items()}


def _flat_names(names: Any, size: int) -> tuple[str, ...]:
    if isinstance(names, Mapping):
        names = [n for group in names.values() if isinstance(group, Iterable) for n in group]
    names = tuple(str(n) for n in names or ())
    return names if len(names) == size else ()


def spec_from_features(features: Mapping[str, Any], fps: float) -> Spec:
    """Rebuild a Spec from the features of a set that says nothing of units and limits (unit 1, unbounded, absolute action).

    Depth videos are left out. Raises InputError if there is no action or a dtype is not supported.
    """
    observation: dict[str, Field] = {}
    action: dict[str, Field] = {}
    for name, entry in features.items():
        if not (name == "action" or name.startswith("observation.")):
            continue
        shape = tuple(entry["shape"]) or (1,)
        if entry["dtype"] in ("video", "image"):
            if (entry.get("info") or {}).get("video.is_depth_map"):
                continue
            if shape[0] == 3 and shape[-1] != 3:  # some sets declare channels first
                shape = (*shape[1:], 3)
            observation[name] = Field(shape, "uint8", "px", kind="image")
        elif entry["dtype"] not in TEXT_DTYPES:
            names = _flat_names(entry.get("names"), int(np.prod(shape)))
            if name == "action":
                action[name] = Field(shape, "float32", kind="position", names=names)
            else:
                observation[name] = Field(shape, entry["dtype"], names=names)
    if not action:
        raise InputError(f"the data set has no feature 'action'{suggest('action', features)}")
    return Spec(ObservationSpec(observation, float(fps)), ActionSpec(action, float(fps)))


def read_own(root: Path) -> dict[str, Any] | None:
    """Return ``meta/robopolicy.json``, or None for a set that another program recorded. Raises InputError if it is damaged."""
    if not (root / OWN).is_file():
        return None
    own = read_json(root / OWN)
    if not isinstance(own, dict) or "spec" not in own:
        raise InputError(f"{root / OWN}: expected a mapping with a spec; the file is damaged")
    return own


def read_spec(root: Path, info: Mapping[str, Any] | None = None) -> Spec:
    """Return the spec of the data set at ``root``: the stored one, or what its features tell."""
    info = info or read_info(root)
    own = read_own(root)
    if own is None:
        return spec_from_features(info["features"], float(info["fps"]))
    try:
        return Spec.from_dict(own["spec"])
    except InputError as error:
        raise InputError(f"{root / OWN}: {error}") from error
