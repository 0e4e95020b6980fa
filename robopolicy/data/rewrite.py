"""A new data set from episodes of others: frames and compressed video are copied, indices and statistics made anew.

Files are filled up to the sizes that the format recommends, so every rewriting also compacts. The new set appears under
its name only when it is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError, Spec, SpecMismatch
from policies.statistics import Stats, stats_to_json
from robopolicy.data import layout, video
from robopolicy.data.atomic import no_space, publish, temporary, write_json
from robopolicy.data.episodes import EpisodeTable, read_episodes, read_parquet, read_tasks, row_stats, with_stats, write_episodes, write_tasks
from robopolicy.data.frames import array_stats, column_array
from robopolicy.data.progress import tracked
from robopolicy.data.recording import REPORT, read_reports
from robopolicy.data.recover import aggregated_stats

if TYPE_CHECKING:
    import pyarrow as pa

DATA_BYTES, VIDEO_BYTES, ROWS = 100 << 20, 200 << 20, 5000  # a file is closed beyond these


@dataclass(frozen=True)
class Source:
    """A data set that episodes are taken from."""

    root: Path
    info: dict[str, Any]
    table: EpisodeTable
    spec: Spec
    tasks: list[str]

    @classmethod
    def open(cls, path: str | Path) -> Source:
        """Read the description of the set at ``path``. Raises InputError if it is damaged."""
        root = Path(path)
        info = layout.read_info(root)
        return cls(root, info, read_episodes(root, info, stats=True), layout.read_spec(root, info), read_tasks(root) if info["total_episodes"] else [])

    @property
    def cameras(self) -> list[str]:
        """Names of the video fields."""
        return list(self.table.video)


@dataclass(frozen=True)
class Pick:
    """One episode to copy; ``task`` and ``success`` replace what it has, unless None."""

    source: Source
    episode: int
    task: str | None = None
    success: bool | None = None


@dataclass
class _Output:
    """What has been written so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    frames: int = 0
    encoded_again: int = 0


def require_same_form(sources: Sequence[Source]) -> None:
    """Refuse sources that cannot lie in one set. Raises SpecMismatch naming the set and the field."""
    first = sources[0]
    for other in sources[1:]:
        first.spec.require(other.spec, f"data set {first.root}", f"data set {other.root}")
        other.spec.require(first.spec, f"data set {other.root}", f"data set {first.root}")
        if first.info["fps"] != other.info["fps"]:
            raise SpecMismatch(f"data set {other.root} has {other.info['fps']} frames a second, {first.root} has {first.info['fps']}")
        a, b = ({(n, f["dtype"], tuple(f["shape"])) for n, f in s.info["features"].items()} for s in (first, other))
        if a != b:
            raise SpecMismatch(f"data set {other.root} and {first.root} differ in the columns {sorted({n for n, _, _ in a ^ b})}")


def write_set(dest: str | Path, picks: Sequence[Pick], provenance: Mapping[str, Any], progress: bool = False, ours: bool = False) -> int:
    """Write the episodes ``picks`` as a new data set at ``dest``; all or nothing.

    A set of another program that stores fields as a recording does not (float64 actions, images one by one) stays one of another
    program, without ``meta/robopolicy.json``, unless ``ours`` says that the caller brings it into our form.

    Returns:
        The number of videos that had to be encoded again, because they were not cut at key frames.

    Raises:
        InputError: if ``dest`` exists, nothing is picked, a source is damaged, or the disk is full.
        SpecMismatch: if the sources differ in form.
    """
    root = Path(dest)
    if root.exists():
        raise InputError(f"{root} exists already; give a new name")
    if not picks:
        raise InputError(f"no episodes are left for {root}; a data set needs at least one")
    require_same_form(list({id(p.source): p.source for p in picks}.values()))
    work = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        again = _write(work, picks, provenance, progress, ours)
        work.replace(root)
    except OSError as error:
        why = "the disk is full" if no_space(error) else str(error.strerror or error)
        raise InputError(f"{root} could not be written: {why}; nothing was changed") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return again


def _write(work: Path, picks: Sequence[Pick], provenance: Mapping[str, Any], progress: bool, ours: bool) -> int:
    first, out = picks[0].source, _Output()
    work.mkdir(parents=True)
    for pick in picks:
        row = pick.source.table.rows[pick.episode]
        tasks = [pick.task] if pick.task is not None else pick.source.table.tasks[pick.episode]
        out.tasks += [t for t in tasks if t not in out.tasks]
        success = row.get("success") if pick.success is None else pick.success
        out.rows.append(row | {"episode_index": len(out.rows), "tasks": list(tasks), "success": success, "seed": row.get("seed")})
    frames = _FrameFiles(work, first.info["features"])
    for row, pick in zip(out.rows, tracked(picks, "writing frames", progress), strict=True):
        frames.add(row, pick, out)
    frames.flush()
    for camera in first.cameras:
        _write_videos(work, camera, picks, out)
    for n, start in enumerate(range(0, len(out.rows), ROWS)):
        chunk, file = layout.file_number(n)
        rows = [r | {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file} for r in out.rows[start : start + ROWS]]
        path = layout.episodes_file(work, (chunk, file))
        write_episodes(path, [{k: r.get(k) for k in _columns(out.rows)} for r in rows])
    write_tasks(work, out.tasks)
    if stats := aggregated_stats(out.rows):
        write_json(work / layout.STATS, stats_to_json(stats))
    if ours or _recorded_alike(first):
        _write_own(work, first, provenance)
    _write_reports(work, picks)
    features = first.info["features"]
    write_json(
        work / layout.INFO, layout.new_info(features, first.info["fps"], first.info.get("robot_type") or "unknown", len(out.rows), out.frames, len(out.tasks))
    )
    return out.encoded_again


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _recorded_alike(source: Source) -> bool:
    """Whether further episodes could be recorded into what is made of ``source``."""
    if layout.read_own(source.root) is not None:
        return True
    try:
        return not layout.unlike(source.spec, source.info)
    except InputError:
        return False


def _write_own(work: Path, first: Source, provenance: Mapping[str, Any]) -> None:
    own = layout.read_own(first.root)
    if own is None:
        features = first.info["features"]
        known = set(layout.FRAME_FEATURES) | set(first.spec.observation.fields) | {"action"}
        streams = [n.removeprefix(layout.CAPTURE) for n in features if n.startswith(layout.CAPTURE)]
        extras = {n: f["dtype"] for n, f in features.items() if n not in known and not n.startswith(layout.CAPTURE)}
        own = {"format": 1, "spec": first.spec.to_dict(), "streams": streams, "extras": extras, "encoder": ""}
    write_json(work / layout.OWN, own | {"provenance": dict(provenance)})


def _write_reports(work: Path, picks: Sequence[Pick]) -> None:
    """Carry on what was counted while each episode was recorded, under its new number; sets that were not recorded from a run have nothing."""
    counted = {root: {entry.get("episode"): entry for entry in read_reports(root)} for root in dict.fromkeys(p.source.root for p in picks)}
    kept = [counted[p.source.root][p.episode] | {"episode": n} for n, p in enumerate(picks) if p.episode in counted[p.source.root]]
    if kept:
        write_json(work / REPORT, {"episodes": kept})


class _FrameFiles:
    """Copies frames, episode by episode, into files of about ``DATA_BYTES``."""

    def __init__(self, work: Path, features: Mapping[str, Any]) -> None:
        self.work, self.features = work, features
        self.columns = [n for n, f in features.items() if f["dtype"] != "video"]
        self.tables: list[pa.Table] = []
        self.size = self.files = 0
        self._held: tuple[Path, pa.Table] | None = None  # the source file read last: the next episode often lies in it too

    def add(self, row: dict[str, Any], pick: Pick, out: _Output) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        source, e = pick.source, pick.episode
        path = layout.data_file(source.root, (int(source.table.data[e, 0]), int(source.table.data[e, 1])))
        if self._held is None or self._held[0] != path:
            self._held = (path, read_parquet(path, self.columns, f" (episode {e})"))
        chosen = pc.equal(self._held[1]["episode_index"], e)  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
        table = self._held[1].filter(chosen).sort_by("frame_index")
        length = table.num_rows
        if length != int(source.table.length[e]):
            raise InputError(f"{path}: {length} frames of episode {e}, expected {int(source.table.length[e])}; see `robopolicy data check`")
        new = {"episode_index": np.full(length, row["episode_index"]), "index": np.arange(length) + out.frames}
        if pick.task is not None:
            new["task_index"] = np.full(length, out.tasks.index(pick.task))
        else:
            new["task_index"] = _task_numbers(source, table, out.tasks)
        for name, values in new.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
        chunk, file = layout.file_number(self.files)
        row |= {"length": length, "dataset_from_index": out.frames, "dataset_to_index": out.frames + length, "data/chunk_index": chunk, "data/file_index": file}
        stats = row_stats(row) or self._stats(table, path)
        row |= with_stats({}, stats | {n: array_stats(v) for n, v in new.items()})
        out.frames += length
        if self.tables and table.schema != self.tables[0].schema:
            table = table.cast(self.tables[0].schema)
        self.tables.append(table)
        self.size += table.nbytes
        if self.size >= DATA_BYTES:
            self.flush()

    def _stats(self, table: pa.Table, path: Path) -> dict[str, Stats]:
        numbers = {n: f for n, f in self.features.items() if f["dtype"] not in ("video", "image", *layout.TEXT_DTYPES)}
        return {n: array_stats(column_array(table, n, f, path), tuple(f["shape"]) or (1,)) for n, f in numbers.items()}

    def flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.tables:
            path = layout.data_file(self.work, layout.file_number(self.files))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables(self.tables), temporary(path))
            publish(path)
            self.tables, self.size, self.files = [], 0, self.files + 1


def _task_numbers(source: Source, table: pa.Table, tasks: list[str]) -> np.ndarray:
    """Return the task of every frame (T,) as a number of ``tasks``, to which those are added that the row of the episode does not name."""
    old = source.tasks
    numbers = table["task_index"].to_numpy()
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(old):
        raise InputError(f"{source.root}: a task_index lies outside tasks.parquet; see `robopolicy data check`")
    tasks += [old[n] for n in np.unique(numbers) if old[n] not in tasks]
    return np.array([tasks.index(old[n]) for n in numbers], np.int64)


def _write_videos(work: Path, camera: str, picks: Sequence[Pick], out: _Output) -> None:
    """Join the videos of ``camera`` into files of about ``VIDEO_BYTES`` and say in the rows where each lies."""
    groups: list[list[int]] = [[]]
    size = 0
    for i, pick in enumerate(picks):
        file = _video_of(pick, camera)
        shared = int((pick.source.table.video[camera] == pick.source.table.video[camera][pick.episode]).all(1).sum())
        size += file.stat().st_size // shared if file.is_file() else 0
        groups[-1].append(i)
        if size >= VIDEO_BYTES and i + 1 < len(picks):
            groups.append([])
            size = 0
    fps = float(picks[0].source.info["fps"])
    for n, group in enumerate(groups):
        chunk, file = layout.file_number(n)
        path = layout.video_file(work, camera, (chunk, file))
        path.parent.mkdir(parents=True, exist_ok=True)
        begin, pieces = 0, []
        for i in group:
            pick, length = picks[i], int(out.rows[i]["length"])
            if not _video_of(pick, camera).is_file():
                raise InputError(f"{_video_of(pick, camera)} is missing; it holds the video of episode {pick.episode}")
            pieces.append((_video_of(pick, camera), round(float(pick.source.table.video_start[camera][pick.episode]) * fps), length))
            out.rows[i] |= {f"videos/{camera}/chunk_index": chunk, f"videos/{camera}/file_index": file}
            out.rows[i] |= {f"videos/{camera}/from_timestamp": begin / fps, f"videos/{camera}/to_timestamp": (begin + length) / fps}
            begin += length
        out.encoded_again += not video.join(pieces, path, fps)


def _video_of(pick: Pick, camera: str) -> Path:
    chunk, file = pick.source.table.video[camera][pick.episode]
    return layout.video_file(pick.source.root, camera, (int(chunk), int(file)))
