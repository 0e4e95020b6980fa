"""Every promise of a data set, verified file by file; all damage is listed, not just the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, Spec
from robopolicy.data import layout, video
from robopolicy.data.episodes import EpisodeTable, read_episodes, read_parquet, read_tasks
from robopolicy.data.frames import column_array
from robopolicy.data.progress import tracked
from robopolicy.data.recover import leftovers, stored_stats, uncounted_tasks

_TIME_TOLERANCE = 1e-4  # s, LeRobot's own


@dataclass
class CheckReport:
    """What was found.

    Attributes:
        episodes: Committed episodes.
        frames: Their frames.
        problems: Broken promises, one line each; the set should not be used as it is.
        notes: What is worth knowing but harms nothing.
        damaged: Episodes that a problem names.
    """

    episodes: int = 0
    frames: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems

    def add(self, message: str, *episodes: int) -> None:
        """Record a problem of ``episodes``."""
        self.problems.append(message.partition("; `robopolicy data check`")[0])
        self.damaged.update(episodes)


def check(path: str | Path, progress: bool = False) -> CheckReport:
    """Verify the data set at ``path``: counts, indices, times, capture times, finite values, videos, spec.

    Raises:
        InputError: if it is not a data set of this format at all.
    """
    root, report = Path(path), CheckReport()
    info = layout.read_info(root)
    try:
        table, tasks, spec = read_episodes(root, info), read_tasks(root) if info["total_episodes"] else [], layout.read_spec(root, info)
    except InputError as error:
        report.add(str(error))
        return report
    report.episodes, report.frames = len(table.length), int(table.length.sum())
    _counts(root, info, table, tasks, spec, report)
    if lacking := [name for name in (*layout.FRAME_FEATURES, "action") if name not in info["features"]]:
        report.add(f"{root / layout.INFO}: features lack {', '.join(lacking)}, which every frame has")
        return report
    jobs = [(None, n) for n in np.unique(table.data, axis=0)] if len(table.data) else []
    jobs += [(camera, n) for camera, numbers in table.video.items() for n in np.unique(numbers, axis=0)]
    for camera, number in tracked(jobs, "checking", progress):
        pair = (int(number[0]), int(number[1]))
        try:
            if camera is None:
                _data_file(root, info, table, spec, len(tasks), pair, report)
            else:
                _video_file(root, info, table, camera, pair, report)
        except InputError as error:
            held = np.flatnonzero(((table.data if camera is None else table.video[camera]) == number).all(1))
            report.add(str(error), *map(int, held))
    if extra := leftovers(root, table):
        report.notes.append(f"{len(extra)} files of an interrupted recording, ignored when the set is read; `robopolicy data recover {root}` removes them")
    return report


def _counts(root: Path, info: Mapping[str, Any], table: EpisodeTable, tasks: list[str], spec: Spec, report: CheckReport) -> None:
    if report.frames != int(info["total_frames"]):
        report.add(f"{root / layout.INFO}: counts {info['total_frames']} frames, the episodes have {report.frames}")
    if uncounted := uncounted_tasks(root, info, tasks):
        report.notes.append(
            f"tasks.parquet has {len(uncounted)} more than info.json counts, of an interrupted recording; `robopolicy data recover {root}` removes it"
        )
    elif len(tasks) != int(info.get("total_tasks", len(tasks))):
        report.add(f"{root / layout.INFO}: counts {info['total_tasks']} tasks, tasks.parquet has {len(tasks)}")
    for e, row in enumerate(table.rows):
        expected, said = (int(table.starts[e]), int(table.starts[e + 1])), (row.get("dataset_from_index"), row.get("dataset_to_index"))
        if said != expected:
            report.add(f"episode {e}: says that it is frames {said[0]} to {said[1]}, expected {expected[0]} to {expected[1]}", e)
        if table.length[e] < 1:
            report.add(f"episode {e}: has {table.length[e]} frames, expected at least 1", e)
        for task in table.tasks[e]:
            if task not in tasks:
                report.add(f"episode {e}: task {task!r} is not in tasks.parquet", e)
    if layout.read_own(root) is not None:
        for name, wanted in layout.unlike(spec, info).items():
            report.add(f"{root / layout.INFO}: feature {name!r} does not agree with the stored spec ({wanted})")
    if table.rows and stored_stats(root, info) is None:
        report.notes.append(f"meta/stats.json does not count the committed frames; `robopolicy data recover {root}` computes it anew")


def _data_file(root: Path, info: Mapping[str, Any], table: EpisodeTable, spec: Spec, tasks: int, number: tuple[int, int], report: CheckReport) -> None:
    path = layout.data_file(root, number)
    mine = np.flatnonzero((table.data == number).all(1))
    what = f" (episode {mine[0]})" if len(mine) == 1 else f" (episodes {mine[0]} to {mine[-1]})"
    features = {n: f for n, f in info["features"].items() if f["dtype"] not in ("video", "image", *layout.TEXT_DTYPES)}
    frames = read_parquet(path, list(features), what)
    columns = {name: column_array(frames, name, entry, path) for name, entry in features.items()}
    if foreign := set(np.unique(columns["episode_index"])) - set(mine):
        report.add(f"{path}: holds frames of episodes {sorted(map(int, foreign))}, which lie elsewhere", *map(int, foreign))
    for e in mine:
        rows = {name: array[columns["episode_index"] == e] for name, array in columns.items()}
        for message in _episode(rows, table, int(e), float(info["fps"]), tasks):
            report.add(f"{path}: episode {e}: {message}", int(e))
        action = rows["action"].reshape(len(rows["action"]), -1)
        if action.shape[1] != spec.action.dim:  # told already: the feature does not agree with the spec
            continue
        if beyond := int(((action < spec.action.low) | (action > spec.action.high)).any(1).sum()):
            report.notes.append(f"episode {e}: {beyond} actions lie beyond the limits of the spec")


def _episode(rows: dict[str, np.ndarray], table: EpisodeTable, e: int, fps: float, tasks: int) -> Iterator[str]:
    length = int(table.length[e])
    steps = np.arange(length)
    if len(rows["frame_index"]) != length:
        yield f"has {len(rows['frame_index'])} frames, expected {length}"
        return
    if not np.array_equal(rows["frame_index"], steps):
        yield f"frame_index is not 0 to {length - 1} in order"
    if not np.array_equal(rows["index"], steps + table.starts[e]):
        yield f"index is not {table.starts[e]} to {table.starts[e + 1] - 1} in order"
    wrong = np.abs(rows["timestamp"] - steps / fps) > _TIME_TOLERANCE + 1e-6 * steps / fps
    if wrong.any():
        yield f"timestamp of frame {int(wrong.argmax())} is {rows['timestamp'][wrong.argmax()]:g} s, expected {wrong.argmax() / fps:g} s (frame_index / fps)"
    if ((rows["task_index"] < 0) | (rows["task_index"] >= tasks)).any():
        yield f"task_index lies outside 0 to {tasks - 1}"
    for name, array in rows.items():
        if name.startswith(layout.CAPTURE) and (np.diff(array) < 0).any():
            at = int((np.diff(array) < 0).argmax()) + 1
            yield f"{name} goes back from {array[at - 1]} to {array[at]} ns at frame {at}"
        bad = ~np.isfinite(array.reshape(length, -1)).all(1)
        if bad.any():
            yield f"{name} is not finite in {int(bad.sum())} frames, the first is {int(bad.argmax())}"


def _video_file(root: Path, info: Mapping[str, Any], table: EpisodeTable, camera: str, number: tuple[int, int], report: CheckReport) -> None:
    path, fps = layout.video_file(root, camera, number), float(info["fps"])
    mine = np.flatnonzero((table.video[camera] == number).all(1))
    if not path.is_file():
        report.add(f"{path} is missing; it holds the video of episode {mine[0]}{f' to {mine[-1]}' if len(mine) > 1 else ''}", *map(int, mine))
        return
    shape = tuple(info["features"][camera]["shape"])
    shape = (*shape[1:], 3) if shape[0] == 3 and shape[-1] != 3 else shape
    present = set()
    for position, image in video.decode(path, fps):
        present.add(position)
        if image.shape != shape:
            report.add(f"{path}: frame {position} is {image.shape}, expected {shape}", *map(int, mine))
            return
    for e in mine:
        begin = round(float(table.video_start[camera][e]) * fps)
        missing = [i for i in range(int(table.length[e])) if begin + i not in present]
        if missing:
            report.add(f"{path}: episode {e} lacks {len(missing)} images, the first is frame {missing[0]} of {table.length[e]}", int(e))
    if len(present) > int(table.length[mine].sum()):
        report.notes.append(f"{path.relative_to(root)}: {len(present)} images for {int(table.length[mine].sum())} frames; the rest is not used")
