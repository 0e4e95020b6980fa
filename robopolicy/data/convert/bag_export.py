"""A data set as ROS 2 bags: one bag an episode, every sample once with its own stamp, and the mapping that reads them back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import Field, InputError, suggest
from robopolicy.data import layout
from robopolicy.data.atomic import write_bytes
from robopolicy.data.convert.bag_mapping import FILE, mapped_field, to_yaml
from robopolicy.data.convert.bag_messages import (
    BOOL,
    COMPRESSED,
    FLOAT32,
    IMAGE,
    INT64,
    JOINT_STATE,
    STRING,
    image_message,
    joint_state,
    typestore,
)
from robopolicy.data.convert.progress import bar
from robopolicy.data.dataset import Dataset

#: Targets of ``data convert --to``, and how each is stored.
BAGS = {"rosbag2": ".db3", "mcap": ".mcap"}
IMAGES = ("jpeg", "png", "raw")
_EPISODE, _ACTION = "/episode", "/action"
_IMAGE_PREFIX = "observation.images."


def topics(dataset: Dataset, images: str) -> dict[str, str]:
    """Return field -> topic of the observation; joints and cameras as ROS calls them."""
    out: dict[str, str] = {}
    for name, field in dataset.spec.observation.fields.items():
        if field.is_image:
            topic = f"/camera/{_plain(name.removeprefix(_IMAGE_PREFIX))}/image_raw" + ("" if images == "raw" else "/compressed")
        else:
            topic = "/joint_states" if name == "observation.state" else f"/state/{_plain(name.removeprefix('observation.'))}"
        while topic in out.values():
            topic += "_"
        out[name] = topic
    return out


def _plain(name: str) -> str:
    """Return ``name`` as a part of a topic: letters, digits and underscores, no digit first."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"_{found}" if found[:1].isdigit() else found


def export(path: str | Path, out: Path, target: str, images: str = "jpeg", progress: bool = False) -> list[Path]:
    """Write every episode of the data set at ``path`` as a bag into the new folder ``out``.

    Args:
        path: Data set.
        out: Folder; ``episode_NNNNNN`` (rosbag2: a folder with metadata.yaml and SQLite storage; mcap: one file each) and ``mapping.yaml``.
        target: One of ``BAGS``.
        images: ``raw`` (sensor_msgs/Image), ``jpeg`` or ``png`` (CompressedImage).
        progress: Whether to show how far it is.

    Returns:
        The bags.

    Raises:
        InputError: for a data set that cannot be read, or a stamp that does not fit a message.
    """
    if images not in IMAGES:
        raise InputError(f"images: {images!r} is unknown{suggest(images, IMAGES)}")
    dataset, store = Dataset.open(path, progress=progress), typestore()
    named = topics(dataset, images)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / FILE, to_yaml(_mapping(dataset, named)).encode())
    done = []
    with bar(f"writing {target}", dataset.num_episodes, progress) as advance:
        for episode in range(dataset.num_episodes):
            done.append(_write(dataset, episode, out / f"episode_{episode:06d}", target, _Messages(dataset, named, images, store)))
            advance()
    return done


def _write(dataset: Dataset, episode: int, folder: Path, target: str, messages: _Messages) -> Path:
    """Write one bag; a bag that is plain MCAP is the storage file alone."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    plugin = StoragePlugin.SQLITE3 if target == "rosbag2" else StoragePlugin.MCAP
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=messages.store) for topic, kind in messages.kinds.items()}
        for topic, log_ns, message in messages.of(episode):
            writer.write(connections[topic], log_ns, messages.store.serialize_cdr(message, messages.kinds[topic]))
    if target == "rosbag2":
        return folder
    (stored,) = folder.glob("*.mcap")
    plain = folder.with_suffix(".mcap")
    stored.rename(plain)
    (folder / "metadata.yaml").unlink()
    folder.rmdir()
    return plain


class _Messages:
    """The messages of a data set.

    Args:
        dataset: What is written.
        named: Field -> topic.
        images: See :func:`export`.
        store: Message types.

    Attributes:
        kinds: Topic -> message type.
    """

    def __init__(self, dataset: Dataset, named: Mapping[str, str], images: str, store: Any) -> None:
        self.dataset, self.named, self.images, self.store = dataset, named, images, store
        self._fields = dataset.spec.observation.fields
        self._extras = extras(dataset)
        picture = IMAGE if images == "raw" else COMPRESSED
        self.kinds = {topic: picture if self._fields[name].is_image else JOINT_STATE for name, topic in named.items()}
        self.kinds |= {_ACTION: JOINT_STATE, _EPISODE: STRING, **dict(self._extras.values())}

    def of(self, episode: int) -> Iterator[tuple[str, int, Any]]:
        """Yield topic, time in the bag (ns) and message: of each row the samples that are new, the action, the other columns."""
        frames = self.dataset.episode(episode)
        rows, stamps = row_times(self.dataset, frames), {name: field_stamps(self.dataset, frames, name) for name in self._fields}
        types = self.store.types
        for t, now in enumerate(rows.tolist()):
            if t == 0:
                yield _EPISODE, now, types[STRING](data=json.dumps(self._about(episode, frames)))
            for name, field in self._fields.items():
                stamp = int(stamps[name][t])
                if t == 0 or stamp != stamps[name][t - 1]:
                    yield self.named[name], now, self._sample(name, field, stamp, frames[name][t])
            yield _ACTION, now, joint_state(self.store, now, self.dataset.spec.action.names, frames["action"][t])
            for name, (topic, kind) in self._extras.items():
                value = np.asarray(frames[name][t]).reshape(-1)[0].item()
                yield topic, now, types[kind](data=value)

    def _sample(self, name: str, field: Field, stamp: int, value: np.ndarray) -> Any:
        if field.is_image:
            return image_message(self.store, stamp, _plain(name.removeprefix(_IMAGE_PREFIX)), np.asarray(value), self.images)
        return joint_state(self.store, stamp, labels(name, field), np.asarray(value))

    def _about(self, episode: int, frames: Mapping[str, np.ndarray]) -> dict[str, Any]:
        success, seed = int(self.dataset.success[episode]), int(self.dataset.seeds[episode])
        task = self.dataset.tasks[int(np.ravel(frames["task_index"])[0])]
        return {"episode": episode, "task": task, "success": None if success < 0 else bool(success), "seed": None if seed < 0 else seed}


def labels(name: str, field: Field) -> list[str]:
    """Return a name for every element of a field: a JointState has one for each."""
    return list(field.names) or [f"{name.removeprefix('observation.')}.{i}" for i in range(field.size)]


def extras(dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Return column -> topic and message type of the numbers beside observation and action."""
    kinds = {"b": BOOL, "i": INT64, "u": INT64, "f": FLOAT32}
    known = {*dataset.spec.observation.fields, "action", "task_index"}
    names = [n for n, a in dataset.arrays.items() if n not in known and not n.startswith(layout.CAPTURE) and a[0].size == 1 and a.dtype.kind in kinds]
    out: dict[str, tuple[str, str]] = {}
    for name in names:
        topic = f"/column/{_plain(name)}"
        while topic in (other for other, _ in out.values()):  # two names that differ in what a topic may not hold
            topic += "_"
        out[name] = topic, kinds[dataset.arrays[name].dtype.kind]
    return out


def row_times(dataset: Dataset, frames: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the time of every row (T,), ns: the action's own, the latest capture time of the row, or frame number over rate."""
    if layout.CAPTURE + "action" in frames:
        return np.ravel(frames[layout.CAPTURE + "action"])
    captured = [np.ravel(array) for name, array in frames.items() if name.startswith(layout.CAPTURE)]
    times = np.max(captured, axis=0) if captured else np.rint(np.arange(len(frames["action"])) * 1e9 / dataset.fps).astype(np.int64)
    return times if (np.diff(times) > 0).all() else times[0] + np.rint(np.arange(len(times)) * 1e9 / dataset.fps).astype(np.int64)


def field_stamps(dataset: Dataset, frames: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return when the samples (T,) of a field were captured, ns; where the set does not say, the time of their row."""
    for stream in (name, "observation"):
        if layout.CAPTURE + stream in frames:
            return np.ravel(frames[layout.CAPTURE + stream])
    return row_times(dataset, frames)


def _mapping(dataset: Dataset, named: Mapping[str, str]) -> dict[str, Any]:
    told = (layout.read_own(dataset.path) or {}).get("provenance", {})
    action: dict[str, Any] = {}
    for name, field in dataset.spec.action.fields.items():
        span = list(dataset.spec.action.names)[dataset.spec.action.slices[name]]
        action[name] = mapped_field(_ACTION, field) | {"select": span}
    return {
        "fps": float(dataset.fps),
        "robot": str(layout.read_info(dataset.path).get("robot_type") or "unknown"),
        "task": dataset.tasks[0] if dataset.tasks else "",
        "lead": _ACTION,
        "sync": told.get("recorded", {}).get("sync", "before"),
        "episode": _EPISODE,
        "observation": {name: mapped_field(named[name], field) for name, field in dataset.spec.observation.fields.items()},
        "action": action,
        "extras": {name: topic for name, (topic, _) in extras(dataset).items()},
    }
