"""What a data set holds, as tables for people and as JSON: fields, statistics, episodes, and how evenly frames were captured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.statistics import stats_to_json
from robopolicy.data import layout
from robopolicy.data.dataset import Dataset
from robopolicy.data.recording import read_reports, skews

if TYPE_CHECKING:
    from rich.console import RenderableType

_LATE = 1.5  # of the nominal interval: such a gap swallowed about a frame


@dataclass(frozen=True)
class Jitter:
    """How evenly one stream was captured, over all intervals between frames of an episode.

    Attributes:
        median_ms: Median interval.
        std_ms: Standard deviation of the intervals.
        max_ms: Longest interval.
        late: Share of intervals above 1.5 times 1 / fps.
        rate_hz: Mean rate that was really reached.
    """

    median_ms: float
    std_ms: float
    max_ms: float
    late: float
    rate_hz: float


def jitter(dataset: Dataset) -> dict[str, Jitter]:
    """Return stream -> jitter for every stream of capture times; streams of one frame an episode are left out."""
    out = {}
    inside = np.ones(max(0, dataset.num_frames - 1), bool)
    inside[dataset.episode_starts[1:-1] - 1] = False
    for name, array in dataset.arrays.items():
        if name.startswith(layout.CAPTURE) and inside.any():
            ms = np.diff(array.reshape(-1))[inside] / 1e6
            late, rate = float((ms > _LATE * 1e3 / dataset.fps).mean()), 1e3 / max(float(ms.mean()), 1e-9)
            out[name.removeprefix(layout.CAPTURE)] = Jitter(float(np.median(ms)), float(ms.std()), float(ms.max()), late, rate)
    return out


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return everything that :func:`tables` shows, JSON-ready."""
    lengths = np.diff(dataset.episode_starts)
    known = dataset.success[dataset.success >= 0]
    info = layout.read_info(dataset.path)
    files = layout.content_files(dataset.path)
    return {
        "path": str(dataset.path),
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "fps": dataset.fps,
        "duration_s": dataset.num_frames / dataset.fps,
        "robot_type": info.get("robot_type"),
        "fingerprint": dataset.fingerprint,
        "files": len(files),
        "bytes": sum(f.stat().st_size for f in files),
        "length": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "success": {"known": len(known), "succeeded": int((known == 1).sum())},
        "tasks": {t: int((np.asarray(dataset.arrays["task_index"]).reshape(-1)[dataset.episode_starts[:-1]] == i).sum()) for i, t in enumerate(dataset.tasks)},
        "spec": dataset.spec.to_dict(),
        "stats": stats_to_json(dataset.stats),
        "capture": {stream: vars(j) for stream, j in jitter(dataset).items()},
        "skew": {stream: vars(s) for stream, s in skews(dataset.arrays).items()},
        "recording": read_reports(dataset.path),
        "provenance": (layout.read_own(dataset.path) or {}).get("provenance", {}),
        "leftovers": dataset.leftovers,
    }


def tables(dataset: Dataset) -> list[RenderableType]:
    """Return what ``robopolicy data inspect`` prints."""
    from rich.table import Table

    about = describe(dataset)
    head = Table(show_header=False, box=None, title=f"{Path(about['path']).name}", title_justify="left", title_style="bold")
    size, length, success = about["bytes"] / 1e6, about["length"], about["success"]
    rows = {
        "episodes": f"{about['episodes']} ({length['min']} to {length['max']} frames, median {length['median']:g})",
        "frames": f"{about['frames']} at {about['fps']:g} Hz, {about['duration_s'] / 60:.1f} min",
        "success": f"{success['succeeded']} of {success['known']} episodes that say so" if success["known"] else "not known",
        "tasks": ", ".join(f"{t} ({n})" for t, n in about["tasks"].items()),
        "files": f"{about['files']}, {size:.1f} MB" + (" (robopolicy data compact merges them)" if about["files"] > 100 else ""),
        "fingerprint": about["fingerprint"],
    }
    for name, value in rows.items():
        head.add_row(name, value)
    out: list[RenderableType] = [head, _fields(dataset)]
    if about["capture"]:
        out.append(_capture(dataset))
    if about["skew"]:
        out.append(_skew(about))
    return out


def _fields(dataset: Dataset) -> RenderableType:
    from rich.table import Column, Table

    numbers = [Column(head, no_wrap=True) for head in ("min", "mean", "std", "max")]  # where it is narrow the names are broken, no number is cut
    table = Table(Column("field", overflow="fold"), "shape", "unit", Column("element", overflow="fold"), *numbers, title="fields", title_justify="left")
    fields = dataset.spec.observation.fields
    names = [*fields, "action", *(n for n in dataset.arrays if n not in fields and n not in ("action", "task_index") and not n.startswith(layout.CAPTURE))]
    for name in names:
        spec, stats = fields.get(name), dataset.stats[name]
        unit = spec.unit if spec else ", ".join(dict.fromkeys(f.unit for f in dataset.spec.action.fields.values())) if name == "action" else ""
        columns = [np.ravel(stats[k]) for k in ("min", "mean", "std", "max")]
        labels = ("red", "green", "blue") if spec and spec.is_image else spec.names if spec else dataset.spec.action.names if name == "action" else ()
        shown = min(len(columns[0]), 12)
        for i in range(shown):
            head = (name, "x".join(map(str, dataset.arrays[name].shape[1:])), unit) if i == 0 else ("", "", "")
            table.add_row(*head, labels[i] if i < len(labels) else str(i), *(f"{c[i]:.4g}" for c in columns))
        if len(columns[0]) > shown:
            table.add_row("", "", "", f"... {len(columns[0]) - shown} more", "", "", "", "")
    return table


def _capture(dataset: Dataset) -> RenderableType:
    from rich.table import Table

    title = f"capture times: intervals, nominal {1e3 / dataset.fps:.2f} ms"
    table = Table("stream", "median ms", "std ms", "max ms", "late", "rate Hz", title=title, title_justify="left")
    for stream, j in jitter(dataset).items():
        table.add_row(stream, f"{j.median_ms:.3f}", f"{j.std_ms:.3f}", f"{j.max_ms:.3f}", f"{j.late:.2%}", f"{j.rate_hz:.3f}")
    return table


def _skew(about: dict[str, Any]) -> RenderableType:
    """Return how far samples were from their rows, and what recording them has counted."""
    from rich.table import Table

    table = Table(
        "stream", "mean ms", "p99 ms", "max ms", "dropped", "missing", "repeated", title="skew: sample against the time of its row", title_justify="left"
    )
    counts = {kind: _summed(about["recording"], kind) for kind in ("dropped", "missing", "repeated")}
    for stream, skew in about["skew"].items():
        known = [str(counts[kind].get(stream, 0)) if about["recording"] else "" for kind in counts]
        table.add_row(stream, f"{skew['mean_ms']:.3f}", f"{skew['p99_ms']:.3f}", f"{skew['max_ms']:.3f}", *known)
    return table


def _summed(reports: list[dict[str, Any]], kind: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for report in reports:
        for stream, count in report.get(kind, {}).items():
            out[stream] = out.get(stream, 0) + int(count)
    return out
