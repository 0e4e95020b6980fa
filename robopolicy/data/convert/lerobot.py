"""LeRobot v3 sets, rewritten without touching a number or a compressed image: files merged, our additions put in or left out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError
from policies.statistics import stats_from_json, stats_to_json
from robopolicy.data import layout, video
from robopolicy.data.atomic import read_json, write_json
from robopolicy.data.episodes import read_parquet, write_parquet
from robopolicy.data.recording import REPORT
from robopolicy.data.rewrite import Pick, Source, write_set

if TYPE_CHECKING:
    import pyarrow as pa

_EXTRA_DTYPES = ("bool", "int64", "float32")
_ROW_PREFIXES = ("data/", "videos/", "stats/", "meta/episodes/")
_ROW_COLUMNS = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
_ROW_OURS = ("success", "seed", "randomized")


def rewrite(source: Path, dest: Path, own: bool, progress: bool = False, name: str = "") -> list[str]:
    """Rewrite the LeRobot v3 set at ``source`` into the new folder ``dest``.

    Args:
        source: The set; files of an interrupted recording are left out.
        dest: New folder.
        own: Whether the new set carries our additions (``meta/robopolicy.json``, capture times, success, seed), or is
            the format alone.
        progress: Whether to show a progress bar.
        name: Where the set comes from, for its provenance; empty: ``source``.

    Returns:
        One line for everything that was left out or changed.

    Raises:
        InputError: if the source is damaged; names the file.
    """
    opened = Source.open(source)
    if not opened.table.rows:
        raise InputError(f"{source}: the data set has no episodes")
    there = layout.read_own(source)
    opened, notes = _known_columns(opened)
    provenance = (there or {}).get("provenance") or {"converted_from": name or str(source), "format": f"lerobot {opened.info['codebase_version']}"}
    again = write_set(dest, [Pick(opened, e) for e in range(len(opened.table.rows))], provenance, progress, ours=True)
    if again:
        notes.append(f"{again} videos had to be encoded again: their parts are of different kinds or not cut at key frames")
    features, dropped = _features(opened.info["features"], own, there is not None)
    _keep(dest, features, own)
    return notes + dropped


def _known_columns(source: Source) -> tuple[Source, list[str]]:
    """Return ``source`` without episode columns whose meaning is not known, and what is said of them."""

    def known(column: str) -> bool:
        return column in (*_ROW_COLUMNS, *_ROW_OURS) or column.startswith(_ROW_PREFIXES)

    unknown = sorted({n for row in source.table.rows for n in row if not known(n)})
    rows = [{n: v for n, v in row.items() if known(n)} for row in source.table.rows]
    return replace(source, table=replace(source.table, rows=rows)), [f"episode column {n!r} was left out" for n in unknown]


def _features(features: Mapping[str, Any], own: bool, ours: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the features that are kept, and what is said of the others.

    The plain format keeps all but capture times. In our form, what another program recorded beside observations and
    action must be one number a frame, so that further episodes can be recorded.
    """
    kept, notes = {}, []
    for name, entry in features.items():
        reason = ""
        if not own and name.startswith(layout.CAPTURE):
            reason = "capture times are no part of the plain format"
        elif own and not ours and (entry["dtype"] in layout.TEXT_DTYPES or (entry.get("info") or {}).get("video.is_depth_map")):
            reason = "text and depth videos are not read"
        elif own and not ours and name != "action" and not name.startswith(("observation.", layout.CAPTURE)) and name not in layout.FRAME_FEATURES:
            one_number = entry["dtype"] in _EXTRA_DTYPES and tuple(entry["shape"]) == (1,)
            reason = "" if one_number else f"{entry['dtype']}{list(entry['shape'])} is not one number a frame"
        if reason:
            notes.append(f"{name!r} was left out: {reason}")
        else:
            kept[name] = dict(entry)
    if own and kept.get("action", {}).get("dtype") not in (None, "float32"):
        notes.append(f"'action' was {kept['action']['dtype']}, is float32 now")
        kept["action"]["dtype"] = "float32"
    for name, entry in kept.items() if own and not ours else ():
        if name.startswith("observation.") and entry["dtype"] == "video" and entry["shape"][0] == 3 and entry["shape"][-1] != 3:
            entry |= {"shape": [*entry["shape"][1:], 3], "names": ["height", "width", "channels"]}  # pictures in a video have no order of their own
        entry["shape"] = entry["shape"] or [1]
    return kept, notes


def _keep(root: Path, features: Mapping[str, Any], own: bool) -> None:
    """Reduce the set at ``root`` (whose files are ours alone) to ``features``, and to the plain format unless ``own``."""
    info = layout.read_info(root)
    columns = [n for n, f in features.items() if f["dtype"] != "video"]
    if features != info["features"]:
        for path in sorted((root / "data").glob("*/*.parquet")):
            write_parquet(path, _cast_action(read_parquet(path, columns), features["action"]))
        for name in set(info["features"]) - set(features):
            shutil.rmtree(root / "videos" / name, ignore_errors=True)
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        table = read_parquet(path)
        write_parquet(path, table.select([n for n in table.column_names if _is_kept(n, features, own)]))
    if (root / layout.STATS).is_file():
        stats = stats_from_json(read_json(root / layout.STATS))
        write_json(root / layout.STATS, stats_to_json({n: s for n, s in stats.items() if n in features}))
    videos = any(f["dtype"] == "video" for f in features.values())
    write_json(root / layout.INFO, info | {"features": dict(features), "video_path": layout.VIDEO_PATH if videos else None})
    if not own:
        (root / layout.OWN).unlink()
        (root / REPORT).unlink(missing_ok=True)
        return
    described = read_json(root / layout.OWN)
    codecs = {(f.get("info") or {}).get("video.codec") for f in features.values() if f["dtype"] == "video"}
    encoder = next((name for name, (codec, _) in video.ENCODERS.items() if codec in codecs), "")
    extras = {n: dtype for n, dtype in described["extras"].items() if n in features}
    write_json(root / layout.OWN, described | {"extras": extras, "encoder": described.get("encoder") or encoder})


def _is_kept(column: str, features: Mapping[str, Any], own: bool) -> bool:
    if column in _ROW_OURS:
        return own
    return not (column.startswith(("stats/", "videos/")) and column.split("/")[1] not in features)


def _cast_action(frames: pa.Table, entry: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    column = frames["action"]
    if entry["dtype"] != "float32" or "double" not in str(column.type):
        return frames
    size = int(np.prod(entry["shape"]))
    kind = pa.float32() if pa.types.is_floating(column.type) else pa.list_(pa.float32(), size)
    return frames.set_column(frames.column_names.index("action"), "action", column.cast(kind))
