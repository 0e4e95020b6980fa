"""ROS 2 bags (rosbag2 with SQLite or MCAP storage, plain MCAP) as a data set, brought together by stamp as a recording is."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, Spec, SpecMismatch, suggest
from robopolicy.data.convert.bag_mapping import FILE, BagMapping, MappedField, read_mapping
from robopolicy.data.convert.bag_messages import COMPRESSED, IMAGE, STRING, image, is_known, stamp_ns, typestore, vector
from robopolicy.data.convert.progress import bar
from robopolicy.data.recording_streams import RowClock, Sample, Synchroniser
from robopolicy.data.writer import DatasetWriter

_CLOCK_ROW = "action"  # stream of the rows' own times
_HISTORY = 4096
_BEHIND_NS = 10 * 10**9  # a leading message may lie so much later in the bag than others that were captured after it
_LONGEST_GAP_NS = 3600 * 10**9  # between two rows by the clock: more are two clocks, and rows for ever
_EXTRA = "extra:"


def is_bag(path: Path) -> bool:
    """Whether ``path`` is a bag, or a folder of bags."""
    return bool(_found(path))


def bags(path: Path) -> list[Path]:
    """Return the bags at ``path``: one episode each, in the order of their names. Raises InputError if there are none."""
    found = _found(path)
    if not found:
        raise InputError(f"{path}: no bag: expected a rosbag2 folder (metadata.yaml), an MCAP file, or a folder of them")
    return found


def _found(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in (".mcap", ".db3") else []
    if (path / "metadata.yaml").is_file():
        return [path]
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return [p for p in inside if (p.is_dir() and (p / "metadata.yaml").is_file()) or (p.is_file() and p.suffix == ".mcap")]


def import_bags(
    path: Path, dest: Path, mapping_file: Path | None = None, task: str | None = None, fps: float | None = None, progress: bool = False
) -> list[str]:
    """Write the bags at ``path`` as a new data set, an episode for each.

    Args:
        path: A bag, or a folder of bags.
        dest: New folder.
        mapping_file: See :class:`BagMapping`; None: ``mapping.yaml`` beside the bags.
        task: In words, in the place of what bags and mapping say.
        fps: Rows a second, in the place of the mapping's.
        progress: Whether to show how far it is.

    Returns:
        Notes, one line each: messages that came too late or went backwards, rows left out.

    Raises:
        InputError: naming the bag and what is wrong: damaged, a topic that it does not have, messages that cannot be taken.
    """
    found = bags(path)
    mapping = _mapping(path, found[0], mapping_file)
    mapping = mapping.model_copy(update={"fps": fps}) if fps else mapping
    with _opened(found[0]) as reader:
        spec = mapping.spec(_first_values(reader, mapping, found[0]))
    notes: list[str] = []
    provenance = {"converted_from": str(path), "format": "rosbag2", "mapping": mapping.model_dump(mode="json", exclude_defaults=True)}
    with (
        DatasetWriter(dest, spec, mapping.fps, mapping.robot, task or mapping.task, provenance=provenance) as writer,
        bar(f"reading {path.name}", len(found), progress) as advance,
    ):
        for bag in found:
            try:
                with _opened(bag) as reader:
                    notes += _Episode(mapping, spec, reader, writer, bag, task).make()
            except SpecMismatch as error:
                raise InputError(f"{bag}: not as in {found[0].name}: {error}") from error
            advance()
    return notes


def _mapping(path: Path, first: Path, given: Path | None) -> BagMapping:
    file = given or next((f for f in (path / FILE, path.parent / FILE) if f.is_file()), None)
    if file is None:
        with _opened(first) as reader:
            topics = ", ".join(f"{c.topic} ({c.msgtype})" for c in reader.connections)
        raise InputError(f"{path}: which topic is which field? give --mapping FILE (docs/collect.md), or put {FILE} beside the bags; topics: {topics}")
    return read_mapping(file)


@contextmanager
def _opened(bag: Path) -> Iterator[Any]:
    """Yield the reader of a bag; whatever is wrong with the file becomes one line."""
    typestore()  # says what to install
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import TypesysError

    try:
        with AnyReader([bag], default_typestore=typestore()) as reader:
            yield reader
    except InputError:
        raise
    except (AnyReaderError, TypesysError, OSError, ValueError, KeyError, IndexError, AssertionError, TypeError, EOFError, MemoryError, RuntimeError) as error:
        raise InputError(f"{bag}: {_reason(bag, error)}") from error
    except Exception as error:  # the storage's own: struct.error, sqlite3.Error, zstd's
        raise InputError(f"{bag}: {_reason(bag, error)}") from error


def _reason(bag: Path, error: Exception) -> str:
    told = " ".join(str(error).split()) or type(error).__name__
    hint = f"; `robopolicy data recover {bag}` reads what is whole" if bag.suffix == ".mcap" else ""
    return f"not a whole bag: {told}{hint}"


def _connections(reader: Any, mapping: BagMapping, bag: Path) -> dict[str, Any]:
    """Return stream -> connection of every mapped topic. Raises InputError for one that is not there or cannot be taken."""
    by_topic = {connection.topic: connection for connection in reader.connections}
    wanted = {name: mapped.topic for name, mapped in mapping.fields().items()} | {f"{_EXTRA}{n}": t for n, t in mapping.extras.items()}
    out = {}
    for stream, topic in wanted.items():
        if topic not in by_topic:
            raise InputError(f"{bag}: {stream}: no topic {topic!r}{suggest(topic, by_topic)}")
        out[stream] = by_topic[topic]
        if not is_known(out[stream].msgtype):
            raise InputError(f"{bag}: {stream}: topic {topic} has {out[stream].msgtype}, of which no field can be made")
    if mapping.lead is not None and mapping.lead not in by_topic:
        raise InputError(f"{bag}: lead: no topic {mapping.lead!r}{suggest(mapping.lead, by_topic)}")
    return out


def _value(reader: Any, mapped: MappedField | None, kind: str, data: Any, where: str) -> np.ndarray:
    """Return the value of a message: (H, W, 3) uint8 of an image, else (n,) float64 or int64."""
    message = reader.deserialize(data, kind)
    try:
        if kind in (IMAGE, COMPRESSED):
            return image(message, kind)
        return vector(message, kind, mapped.value if mapped else "position", (mapped.select or mapped.names) if mapped else None)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _first_values(reader: Any, mapping: BagMapping, bag: Path) -> dict[str, np.ndarray]:
    """Return the first value of every stream."""
    out = {}
    fields = mapping.fields()
    for stream, connection in _connections(reader, mapping, bag).items():
        data = next((data for _, _, data in reader.messages([connection])), None)
        if data is None:
            raise InputError(f"{bag}: {stream}: topic {connection.topic} has no message")
        if stream in fields:
            out[stream] = _value(reader, fields[stream], connection.msgtype, data, f"{bag}: {connection.topic}")
    return out


class _Episode:
    """One bag as one episode."""

    def __init__(self, mapping: BagMapping, spec: Spec, reader: Any, writer: DatasetWriter, bag: Path, task: str | None) -> None:
        self._mapping, self._spec, self._reader, self._writer, self._bag = mapping, spec, reader, writer, bag
        self._task = task
        self._fields = mapping.fields()
        self._sources = _connections(reader, mapping, bag)
        self._sync = Synchroniser(self._sources, mapping.sync, round(1e9 * mapping.wait_s), dict.fromkeys(self._sources, _HISTORY), patient=True)
        self._rows: deque[int] = deque()
        self._clock = RowClock(round(1e9 / mapping.fps) if mapping.thin else 0)
        self._next_row: float | None = None  # time of the next row by the clock
        self._last_row = -1
        self._about: dict[str, Any] = {}
        self._left_out = 0

    def make(self) -> list[str]:
        """Write the episode; returns notes."""
        streams: dict[str, list[str]] = {}
        for stream, connection in self._sources.items():
            streams.setdefault(connection.topic, []).append(stream)
        headed = {c.topic: self._has_header(c.msgtype) for c in self._reader.connections}
        for connection, log_ns, data in self._reader.messages():
            topic = connection.topic
            if topic == self._mapping.episode and connection.msgtype == STRING:
                self._read_about(data)
            stamp = stamp_ns(data, log_ns, headed[topic] and self._mapping.stamps == "header")
            for stream in streams.get(topic, ()):
                self._sync.histories[stream].add(stamp, data)
            if topic in streams or topic == self._mapping.lead:
                self._sync.now_ns = max(self._sync.now_ns, stamp)
                self._make_rows(topic, stamp)
                self._settle(everything=False)
                if not self._rows:  # what no row to come can take need not wait for a topic that begins late
                    for history in self._sync.histories.values():
                        history.forget(self._sync.now_ns - self._sync.wait_ns - _BEHIND_NS)
        self._settle(everything=True)
        if not self._writer.frames:
            raise InputError(f"{self._bag}: no row: no moment at which every topic of the mapping had a message")
        success, seed = self._about.get("success"), self._about.get("seed")
        told = self._task or self._about.get("task")
        self._writer.save_episode(
            success if isinstance(success, bool) else None, seed if isinstance(seed, int) else None, told if isinstance(told, str) else None
        )
        return self._notes()

    def _has_header(self, kind: str) -> bool:
        fields = self._reader.typestore.fielddefs.get(kind, ((), ()))[1]
        return bool(fields) and fields[0][0] == "header"

    def _read_about(self, data: Any) -> None:
        try:
            found = json.loads(self._reader.deserialize(data, STRING).data)
        except ValueError as error:
            raise InputError(f"{self._bag}: {self._mapping.episode}: not JSON: {error}") from error
        self._about = found if isinstance(found, dict) else {}

    def _make_rows(self, topic: str, stamp: int) -> None:
        """Note the rows that this message makes: itself, if it leads; by the clock, those that are due by now."""
        if self._mapping.lead is not None:
            if topic == self._mapping.lead and stamp > self._last_row and self._clock.due(stamp):
                self._rows.append(stamp)
                self._last_row = stamp
            return
        if self._next_row is None:
            newest = [history.newest_ns for history in self._sync.histories.values()]
            if any(at is None for at in newest):
                return
            self._next_row = float(max(at for at in newest if at is not None))
        if self._sync.now_ns - self._next_row > _LONGEST_GAP_NS:
            jump = f"a stamp of {topic} is {(self._sync.now_ns - self._next_row) * 1e-9:.3g} s after all before it"
            raise InputError(f"{self._bag}: {jump}: clocks that differ, or a broken message; the bag's own times are taken with stamps: log")
        while self._next_row <= self._sync.now_ns:
            self._rows.append(round(self._next_row))
            self._next_row += 1e9 / self._mapping.fps

    def _settle(self, everything: bool) -> None:
        while self._rows and (everything or self._sync.settled(self._rows[0])):
            time_ns = self._rows.popleft()
            samples = self._sync.choose(time_ns)
            if samples is None:
                self._left_out += 1
            else:
                self._add(time_ns, samples)
            for history in self._sync.histories.values():
                history.forget(time_ns)

    def _add(self, time_ns: int, samples: Mapping[str, Sample]) -> None:
        values = {}
        for stream, sample in samples.items():
            where = f"{self._bag}: {self._sources[stream].topic} at {sample.stamp_ns} ns"
            values[stream] = _value(self._reader, self._fields.get(stream), self._sources[stream].msgtype, sample.value, where)
        observation = {}
        for name, field in self._spec.observation.fields.items():
            if values[name].size != field.size:
                raise InputError(f"{self._bag}: {name}: {values[name].size} numbers at {samples[name].stamp_ns} ns, expected {field.size}")
            observation[name] = values[name].astype(field.dtype).reshape(field.shape)
        action = np.concatenate([values[f"action:{name}"] for name in self._spec.action.fields]).astype(np.float32)
        capture = {name: samples[name].stamp_ns for name in observation} | {_CLOCK_ROW: time_ns}
        self._writer.add_frame(observation, action, capture, {name: self._extra(name, values) for name in self._mapping.extras})

    def _extra(self, name: str, values: Mapping[str, np.ndarray]) -> Any:
        number = values[f"{_EXTRA}{name}"].reshape(-1)[0]
        kind = self._sources[f"{_EXTRA}{name}"].msgtype.rpartition("/")[2]
        return bool(number) if kind == "Bool" else int(number) if kind.startswith("Int") else float(number)

    def _notes(self) -> list[str]:
        out = [f"{self._bag.name}: {self._left_out} rows left out, as some topic had no message yet"] if self._left_out else []
        for stream, history in self._sync.histories.items():
            if history.backwards:
                out.append(f"{self._bag.name}: {stream}: {history.backwards} messages with a stamp older than the one before, left out")
        return out
