"""LeRobot v2.0 and v2.1 sets brought into the v3 layout: the same parquet and MP4 files under new names.

Version 2 keeps one parquet and one MP4 an episode and its tables as JSON lines (``meta/episodes.jsonl``,
``meta/tasks.jsonl``, from v2.1 on ``meta/episodes_stats.jsonl``).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from policies.spec import InputError
from policies.statistics import stats_from_json
from robopolicy.data import layout
from robopolicy.data.atomic import read_json, write_json
from robopolicy.data.episodes import episode_row, with_stats, write_episodes, write_tasks

_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def is_version_2(source: Path) -> bool:
    """Whether ``source`` is a LeRobot set of version 2."""
    path = source / layout.INFO
    return path.is_file() and str(read_json(path).get("codebase_version", "")).startswith("v2.")


def upgrade(source: Path, dest: Path) -> None:
    """Lay the version 2 set at ``source`` out as version 3 in the new folder ``dest``; large files are linked if possible.

    Raises:
        InputError: naming the file or the line that is missing or damaged.
    """
    info = read_json(source / layout.INFO)
    episodes = sorted(_lines(source / "meta/episodes.jsonl", ("episode_index", "length", "tasks")), key=lambda e: e["episode_index"])
    tasks = sorted(_lines(source / "meta/tasks.jsonl", ("task_index", "task")), key=lambda t: t["task_index"])
    for rows, key, what in ((episodes, "episode_index", "episodes"), (tasks, "task_index", "tasks")):
        if [row[key] for row in rows] != list(range(len(rows))):
            raise InputError(f"{source}/meta/{what}.jsonl: {key} must count from 0 without gaps")
    if len(episodes) != int(info["total_episodes"]):
        raise InputError(f"{source}: info.json counts {info['total_episodes']} episodes, meta/episodes.jsonl has {len(episodes)}")
    stats_file = source / "meta/episodes_stats.jsonl"
    stats = {row["episode_index"]: row["stats"] for row in _lines(stats_file, ("episode_index", "stats"))} if stats_file.is_file() else {}
    features, fps = info["features"], float(info["fps"])
    cameras = [name for name, entry in features.items() if entry["dtype"] == "video"]
    rows, start = [], 0
    for episode in episodes:
        index, length = int(episode["episode_index"]), int(episode["length"])
        number = layout.file_number(index)
        where = {"episode_chunk": index // int(info.get("chunks_size") or layout.CHUNK_SIZE), "episode_index": index}
        _link(source / str(info.get("data_path") or _DATA).format(**where), layout.data_file(dest, number))
        for camera in cameras:
            _link(source / str(info.get("video_path") or _VIDEO).format(video_key=camera, **where), layout.video_file(dest, camera, number))
        row = episode_row(index, start, length, episode["tasks"], number, cameras, fps, None, None)
        rows.append(with_stats(row, stats_from_json(stats[index])) if index in stats else row)
        start += length
    for entry in features.values():  # version 2 says "video_info" where version 3 says "info"
        if "video_info" in entry:
            entry["info"] = entry.pop("video_info")
    # in one file: layout numbers of the frames are kept in the rows themselves
    write_episodes(layout.episodes_file(dest, (0, 0)), [r | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0} for r in rows])
    write_tasks(dest, [str(task["task"]) for task in tasks])
    write_json(dest / layout.INFO, layout.new_info(features, fps, str(info.get("robot_type") or "unknown"), len(episodes), start, len(tasks)))


def _lines(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} is missing; version 2 of the format needs it")
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path} line {number}: not valid JSON; the file is damaged") from error
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise InputError(f"{path} line {number}: expected {', '.join(keys)}")
        out.append(row)
    return out


def _link(source: Path, dest: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source} is missing")
    dest.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), dest)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, dest)
