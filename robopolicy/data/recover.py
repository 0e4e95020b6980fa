"""What an interrupted recording leaves behind: found, told, removed; committed episodes are never touched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.statistics import Stats, aggregate, stats_from_json, stats_to_json
from robopolicy.data import layout
from robopolicy.data.atomic import TEMPORARY, read_json, write_json
from robopolicy.data.episodes import EpisodeTable, read_episodes, read_tasks, row_stats, write_tasks
from robopolicy.data.lock import FolderLock


@dataclass(frozen=True)
class Recovery:
    """What was done.

    Attributes:
        removed: Files removed, relative to the data set.
        episodes: Committed episodes, all intact.
        stats_rewritten: Whether ``meta/stats.json`` had to be computed anew.
        tasks_removed: Tasks in ``meta/tasks.parquet`` that no committed episode has.
    """

    removed: tuple[str, ...]
    episodes: int
    stats_rewritten: bool
    tasks_removed: tuple[str, ...] = ()


def leftovers(root: Path, table: EpisodeTable) -> list[Path]:
    """Return files that belong to no committed episode: unfinished ones, and whole ones that were never committed."""
    committed = table.files(root)
    out = [p for p in layout.content_files(root) if p not in committed]
    for folder in ("data", "videos", "meta"):
        out += [p for p in (root / folder).rglob(f"*{TEMPORARY}") if p.is_file()]
    return sorted(out)


def aggregated_stats(rows: Sequence[Mapping[str, Any]]) -> dict[str, Stats]:
    """Combine the statistics of episode rows, one after the other as the recorder does (equal to the last bit); empty if one has none."""
    out: dict[str, Stats] | None = None
    for row in rows:
        part = row_stats(row)
        if not part:
            return {}
        out = part if out is None else {f: aggregate([out[f], part[f]]) for f in out if f in part}
    return out or {}


def stored_stats(root: Path, info: Mapping[str, Any]) -> dict[str, Stats] | None:
    """Return ``meta/stats.json`` if it counts exactly the committed frames, else None."""
    if not (root / layout.STATS).is_file():
        return None
    stats = stats_from_json(read_json(root / layout.STATS))
    counts = {int(s["count"][0]) for f, s in stats.items() if f in layout.FRAME_FEATURES and "count" in s}
    return stats if counts == {int(info["total_frames"])} else None


def uncounted_tasks(root: Path, info: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """Return those of ``tasks`` that an episode brought which was never committed: a commit adds its task before ``info.json`` counts it."""
    return list(tasks[int(info.get("total_tasks", len(tasks))) :]) if layout.read_own(root) is not None else []


def recover(path: str | Path) -> Recovery:
    """Remove what an interrupted recording left in the data set at ``path``.

    Raises:
        InputError: if committed episodes are damaged (nothing is removed then), or another process is recording.
    """
    root = Path(path)
    info = layout.read_info(root)
    lock = FolderLock(root)
    try:
        return clean(root, info)
    finally:
        lock.release()


def clean(root: Path, info: Mapping[str, Any]) -> Recovery:
    """Do :func:`recover`'s work; the caller holds the lock."""
    table = read_episodes(root, info)
    extra = leftovers(root, table)
    for path in extra:
        path.unlink(missing_ok=True)
        try:
            os.removedirs(path.parent)  # folders that only the open episode needed
        except OSError:
            continue
    rewritten = stored_stats(root, info) is None and len(table.rows) > 0
    if rewritten and (stats := aggregated_stats(read_episodes(root, info, stats=True).rows)):
        write_json(root / layout.STATS, stats_to_json(stats))
    tasks = read_tasks(root) if len(table.rows) else []
    if uncounted := uncounted_tasks(root, info, tasks):
        write_tasks(root, tasks[: -len(uncounted)])
    return Recovery(tuple(str(p.relative_to(root)) for p in extra), len(table.rows), rewritten, tuple(uncounted))
