"""LeRobot v3 sets, rewritten without touching a number or a compressed image: files merged, our additions put in or left out.

Frames are copied column by column. Videos are merged packet by packet, so that an image decodes to the same pixels as
before; files are merged up to the sizes that the format uses (100 MB of frames, 200 MB of video).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError, Spec
from policies.statistics import stats_to_json
from robopolicy.data import layout, video
from robopolicy.data.atomic import publish, temporary, write_bytes, write_json
from robopolicy.data.convert.progress import bar
from robopolicy.data.episodes import EpisodeTable, read_episodes, read_parquet, write_episodes
from robopolicy.data.recover import aggregated_stats, stored_stats

if TYPE_CHECKING:
    import pyarrow as pa

DATA_BYTES, VIDEO_BYTES = 100 << 20, 200 << 20
_EXTRA_DTYPES = ("bool", "int64", "float32")
_ROW_PREFIXES = ("data/", "videos/", "stats/", "meta/episodes/")
_ROW_COLUMNS = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
_ROW_OURS = ("success", "seed")


def rewrite(source: Path, dest: Path, own: bool, progress: bool = False, name: str = "") -> list[str]:
    """Rewrite the LeRobot v3 set at ``source`` into the folder ``dest``.

    Args:
        source: The set; files of an interrupted recording are left out.
        dest: New folder, filled in place: the caller gives it its name when this returns.
        own: Whether the new set carries our additions (``meta/robopolicy.json``, capture times, success, seed), or is
            the format alone.
        progress: Whether to show a progress bar.
        name: Where the set comes from, for its provenance; empty: ``source``.

    Returns:
        One line for everything that was left out.

    Raises:
        InputError: if the source is damaged; names the file.
    """
    info = layout.read_info(source)
    table = read_episodes(source, info)
    if not len(table.length):
        raise InputError(f"{source}: the data set has no episodes")
    there = layout.read_own(source)
    features, notes = _features(info["features"], own, there)
    rows = [_row(row, features, own) for row in table.rows]
    unknown = sorted({n for r in table.rows for n, v in r.items() if v is not None} - {n for r in rows for n in r} - set(_ROW_OURS))
    notes += [f"episode column {name!r} was left out" for name in unknown if not name.startswith("stats/")]
    cameras = [n for n, f in features.items() if f["dtype"] == "video"]
    jobs = len(np.unique(table.data, axis=0)) + sum(len(np.unique(table.video[c], axis=0)) for c in cameras)
    with bar(f"rewriting {source.name}", jobs, progress) as advance:
        for episode, number in _merge_frames(source, dest, table, features, advance):
            rows[episode] |= {"data/chunk_index": number[0], "data/file_index": number[1]}
        for camera in cameras:
            for episode, number, offset in _merge_videos(source, dest, table, camera, float(info["fps"]), advance):
                key = f"videos/{camera}"
                rows[episode] |= {f"{key}/chunk_index": number[0], f"{key}/file_index": number[1]}
                rows[episode] |= {f"{key}/{end}_timestamp": float(table.rows[episode][f"{key}/{end}_timestamp"]) + offset for end in ("from", "to")}
    _write_meta(source, dest, info, table, features, rows)
    if own:
        write_json(dest / layout.OWN, there or _own(name or str(source), info, features))
    return notes


def _features(features: Mapping[str, Any], own: bool, there: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """Return the features that are kept, and what is said of the others."""
    kept, notes = {}, []
    for name, entry in features.items():
        reason = ""
        if not own and name.startswith(layout.CAPTURE):
            reason = "capture times are no part of the plain format"
        elif own and there is None and name != "action" and not name.startswith("observation.") and name not in layout.FRAME_FEATURES:
            plain = entry["dtype"] in _EXTRA_DTYPES and tuple(entry["shape"]) == (1,)
            reason = "" if plain else f"{entry['dtype']}{list(entry['shape'])} is not one number a frame"
        elif own and (entry["dtype"] == "string" or (entry.get("info") or {}).get("video.is_depth_map")):
            reason = "text and depth videos are not read"
        if reason:
            notes.append(f"{name!r} was left out: {reason}")
        else:
            kept[name] = dict(entry)
    if own and kept.get("action", {}).get("dtype") not in (None, "float32"):
        notes.append(f"'action' was {kept['action']['dtype']}, is float32 now")
        kept["action"]["dtype"] = "float32"
    return kept, notes


def _own(source: str, info: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``meta/robopolicy.json`` for a set that another program recorded."""
    spec: Spec = layout.spec_from_features(features, float(info["fps"]))
    known = {*spec.observation.fields, "action", *layout.FRAME_FEATURES}
    extras = {n: f["dtype"] for n, f in features.items() if n not in known and not n.startswith(layout.CAPTURE)}
    codecs = {(f.get("info") or {}).get("video.codec") for f in features.values() if f["dtype"] == "video"}
    encoder = next((name for name, (codec, _) in video.ENCODERS.items() if codec in codecs), "")
    streams = [n.removeprefix(layout.CAPTURE) for n in features if n.startswith(layout.CAPTURE)]
    provenance = {"converted_from": source, "format": f"lerobot {info['codebase_version']}"}
    return {"format": 1, "spec": spec.to_dict(), "streams": streams, "extras": extras, "encoder": encoder, "provenance": provenance}


def _row(row: Mapping[str, Any], features: Mapping[str, Any], own: bool) -> dict[str, Any]:
    out = {}
    for name, value in row.items():
        wanted = name in _ROW_COLUMNS or name.startswith(_ROW_PREFIXES) or (own and name in _ROW_OURS)
        if wanted and not (name.startswith(("stats/", "videos/")) and name.split("/")[1] not in features):
            out[name] = value
    return out | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _write_meta(source: Path, dest: Path, info: Mapping[str, Any], table: EpisodeTable, features: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    write_episodes(layout.episodes_file(dest, (0, 0)), rows)
    for name in (layout.TASKS, "meta/subtasks.parquet"):
        if (source / name).is_file():
            write_bytes(dest / name, (source / name).read_bytes())
    stats = stored_stats(source, info) or aggregated_stats(table.rows)
    if stats:
        write_json(dest / layout.STATS, stats_to_json({n: s for n, s in stats.items() if n in features}))
    videos = any(f["dtype"] == "video" for f in features.values())
    changed = {
        "codebase_version": layout.VERSION,
        "features": dict(features),
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH if videos else None,
    }
    write_json(dest / layout.INFO, dict(info) | changed)


# ---- frames


def _merge_frames(source: Path, dest: Path, table: EpisodeTable, features: Mapping[str, Any], advance: Any) -> Iterator[tuple[int, tuple[int, int]]]:
    """Write the frames; yields (episode, number of the file that holds it now)."""
    import pyarrow.parquet as pq

    columns = [n for n, f in features.items() if f["dtype"] != "video"]
    writer, size, files = None, 0, 0
    try:
        for number in _in_order(table.data):
            episodes = np.flatnonzero((table.data == number).all(1))
            frames = _committed(layout.data_file(source, number), table, episodes, columns, features)
            if writer is not None and (size + frames.nbytes > DATA_BYTES or not frames.schema.equals(writer.schema)):
                writer.close()
                publish(layout.data_file(dest, layout.file_number(files - 1)))
                writer = None
            if writer is None:
                path = layout.data_file(dest, layout.file_number(files))
                path.parent.mkdir(parents=True, exist_ok=True)
                writer, size, files = pq.ParquetWriter(temporary(path), frames.schema), 0, files + 1
            writer.write_table(frames)
            size += frames.nbytes
            yield from ((int(e), layout.file_number(files - 1)) for e in episodes)
            advance()
    finally:
        if writer is not None:
            writer.close()
    publish(layout.data_file(dest, layout.file_number(files - 1)))


def _in_order(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return the distinct (chunk, file) rows in the order in which episodes use them."""
    return list(dict.fromkeys((int(c), int(f)) for c, f in numbers))


def _committed(path: Path, table: EpisodeTable, episodes: np.ndarray, columns: list[str], features: Mapping[str, Any]) -> pa.Table:
    """Return the rows of committed episodes, in order, without the metadata of the program that wrote them."""
    import pyarrow as pa

    frames = read_parquet(path, columns).replace_schema_metadata(None)
    keep = np.isin(frames["episode_index"].to_numpy(), episodes)
    frames = frames if keep.all() else frames.filter(pa.array(keep))
    expected = np.concatenate([np.stack([np.full(n, e), np.arange(n)]) for e, n in zip(episodes, table.length[episodes], strict=True)], 1)
    found = np.stack([frames[name].to_numpy() for name in ("episode_index", "frame_index")])
    if found.shape != expected.shape or not np.array_equal(found, expected):
        raise InputError(f"{path}: frames are missing, doubled or out of order; `robopolicy data check` says which")
    if str(frames.schema.field("action").type).find("double") >= 0 and features["action"]["dtype"] == "float32":
        index = frames.schema.get_field_index("action")
        inner = pa.float32() if pa.types.is_floating(frames.schema.field("action").type) else pa.list_(pa.float32(), int(np.prod(features["action"]["shape"])))
        frames = frames.set_column(index, "action", frames["action"].cast(inner))
    return frames


# ---- videos


def _merge_videos(source: Path, dest: Path, table: EpisodeTable, camera: str, fps: float, advance: Any) -> Iterator[tuple[int, tuple[int, int], float]]:
    """Merge one camera's videos; yields (episode, number of the file that holds it now, s to add to its times)."""
    out: _Merged | None = None
    files = 0
    for number in _in_order(table.video[camera]):
        path = layout.video_file(source, camera, number)
        episodes = np.flatnonzero((table.video[camera] == number).all(1))
        if not path.is_file():
            raise InputError(f"{path} is missing; it holds the video of {len(episodes)} episodes from {episodes[0]} on")
        if out is not None and not out.takes(path):
            out.close()
            out = None
        if out is None:
            out, files = _Merged(layout.video_file(dest, camera, layout.file_number(files)), fps), files + 1
        offset = out.append(path)
        yield from ((int(e), layout.file_number(files - 1), offset) for e in episodes)
        advance()
    if out is not None:
        out.close()


class _Merged:
    """One MP4 file that grows by whole others of the same kind, without decoding."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.frames, self.bytes = path, 0, 0
        self._fps = Fraction(fps).limit_denominator(10000)
        self._kind: Any = None
        self._container: Any = None
        self._stream: Any = None

    def takes(self, path: Path) -> bool:
        """Whether ``path`` may follow: equal codec, size and codec header, and room."""
        return self.bytes + path.stat().st_size <= VIDEO_BYTES and _kind(path) == self._kind

    def append(self, path: Path) -> float:
        """Add every frame of ``path``; returns where it begins, s."""
        import av
        from av.error import FFmpegError

        begin = Fraction(self.frames) / self._fps
        if self._kind is None:
            self._begin(path)
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                for packet in container.demux(stream):
                    if not packet.size or packet.pts is None or packet.dts is None:
                        continue
                    shift = round(begin / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, self._stream
                    self._container.mux(packet)
                    self.frames += 1
        except (FFmpegError, IndexError) as error:
            raise InputError(f"{path}: cannot be merged as video: {type(error).__name__}: {error}") from error
        self.bytes += path.stat().st_size
        return float(begin)

    def close(self) -> None:
        """Finish the file. Raises InputError if it does not hold every frame."""
        if self._container is not None:
            self._container.close()
        found = video.count_frames(temporary(self.path))
        if found != self.frames:
            raise InputError(f"{self.path}: {found} frames after merging, expected {self.frames}")
        publish(self.path)

    def _begin(self, path: Path) -> None:
        """Begin a file of the kind of ``path``."""
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._kind = _kind(path)
        self._container = av.open(str(temporary(self.path)), "w", format="mp4")
        with av.open(str(path)) as container:
            self._stream = self._container.add_stream_from_template(container.streams.video[0])


def _kind(path: Path) -> tuple[Any, ...]:
    """Return what must agree for two videos to share a file. Raises InputError if ``path`` is not a video."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            return (context.name, context.width, context.height, context.pix_fmt, bytes(context.extradata or b""), stream.time_base)
    except (FFmpegError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as video: {type(error).__name__}: {error}") from error
