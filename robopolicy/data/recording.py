"""The recorder's end of a recording: messages of a run in, rows of a data set out, videos encoded meanwhile.

A policy step makes a row; its time is that at which the reading came from which the step began. Of every stream the row takes
the sample that ``recording_streams`` chooses; stamps and the row's own time (``capture_ns.action``) are kept, so that the skew
can be computed from the data set alone. A row is written when the next one has come: only then is known what its action led to.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from real.record_ring import Kind, RecordRing
from real.recorder import ACTION
from robopolicy.data import layout
from robopolicy.data.atomic import read_json, write_json
from robopolicy.data.recording_streams import RowClock, Sample, Skew, Synchroniser, missing_samples
from robopolicy.data.writer import DatasetWriter

REPORT = "meta/recording.json"  # what was counted in every episode, beside what the format itself keeps
_POLL_MS = 50
_LATE = 1.75  # of a row's interval: so long the leading stream is waited for


@dataclass(frozen=True)
class RecordingOptions:
    """How rows are made.

    Attributes:
        sync: ``before`` or ``nearest``, see ``recording_streams``.
        wait_s: Nearest: how long a row waits for samples later than itself.
        interval_s: Between two rows, where not every step makes one; 0: every step does.
        lead: Stream whose samples say when a row is due, where not every step makes one: a camera at the rate of the rows is
            then neither repeated nor skipped. Empty: the clock says.
        seeded: Whether the robot's episode numbers are seeds (a twin's).
    """

    sync: str = "before"
    wait_s: float = 0.1
    interval_s: float = 0.0
    lead: str = ""
    seeded: bool = False


@dataclass
class EpisodeReport:
    """What was counted in one episode.

    Attributes:
        episode: Index in the data set.
        frames: Rows.
        seconds: From the first row to the last.
        skew: Stream -> distance between rows and the samples that they took.
        dropped: Stream -> samples (``action``: steps) that did not reach the recorder, or that came before every stream had one.
        missing: Stream -> samples that the stream itself seems to have lost, from the gaps between its stamps.
        backwards: Stream -> samples with a stamp older than the one before; left out.
        repeated: Stream -> rows that took the same sample as the row before.
        lag_max_s: Largest age of a frame that was not encoded yet.
        takeover: Rows whose action a person chose.
        interrupted: Whether the run ended without saying so.
    """

    episode: int
    frames: int
    seconds: float
    skew: dict[str, Skew] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    backwards: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    lag_max_s: float = 0.0
    takeover: int = 0
    interrupted: bool = False

    def line(self) -> str:
        """Return it as one line."""
        worst = max(self.skew.items(), key=lambda item: item[1].p99_ms, default=None)
        skew = "" if worst is None else f", skew at most {worst[1].p99_ms:.1f} ms in 99 % of the rows ({worst[0]})"
        lost = {name: n for name, n in self.dropped.items() if n}
        dropped = ", nothing dropped" if not lost else ", DROPPED " + ", ".join(f"{n} of {name}" for name, n in lost.items())
        broken = ", the run ended without saying so" if self.interrupted else ""
        return f"episode {self.episode}: {self.frames} frames, {self.seconds:.1f} s{skew}{dropped}{broken}"


@dataclass
class _Row:
    time_ns: int
    action: np.ndarray
    taken: bool
    success: bool  # what the robot said when it began
    samples: dict[str, Sample] = field(default_factory=dict)


class Recording:
    """Makes a data set of the messages of one run.

    Args:
        ring: The memory that the run writes into.
        writer: Of the data set.
        options: See :class:`RecordingOptions`.
        say: Told what a person should know, in lines.
        clock_ns: Monotonic ns.
    """

    def __init__(self, ring: RecordRing, writer: DatasetWriter, options: RecordingOptions, say: Callable[[str], None], clock_ns: Callable[[], int]) -> None:
        self.ring, self.writer, self.options = ring, writer, options
        self._say, self._clock_ns = say, clock_ns
        half = max(ring.size.planes // 2, 2)  # of the images may wait in histories, the others for being read
        self._sync = Synchroniser(ring.streams, options.sync, round(1e9 * options.wait_s), dict.fromkeys(ring.cameras, half))
        self._last_plane = dict.fromkeys(ring.cameras, -1)
        self._saved_here = 0
        self.over = False
        self._clear()

    def _clear(self) -> None:
        self._open = False
        self._task = ""
        self._rows: deque[_Row] = deque()  # not brought together yet
        self._held: _Row | None = None  # brought together; what its action led to is not known yet
        self._row_times: list[int] = []
        self._unencoded: deque[int] = deque()  # times of rows that wait for an encoder
        self._taken_out = 0  # rows that were taken off ``_unencoded``
        self._clock = RowClock(round(1e9 * self.options.interval_s))
        self._due_ns: int | None = None  # time by which a row is made even if the leading stream has nothing new
        self._led_ns: int | None = None  # stamp of the leading stream that the last row was due with
        self._success = False
        self._seed: int | None = None
        self._begun_at = 0
        self._chosen: dict[str, list[int]] = {name: [] for name in self.ring.streams}
        self._takeovers = self._unsynchronised = 0
        self._lag_ns = self._lag_max_ns = 0
        self._sync.restart()

    # ---- the loop

    def run(self, pipe: int, stopped: Callable[[], bool]) -> None:
        """Take messages until the run has ended, said so or not; an episode that is open then is kept, its success not known."""
        poller = select.poll()
        poller.register(pipe, select.POLLIN | select.POLLHUP)
        gone = False
        while not self.over:
            if poller.poll(_POLL_MS):
                gone = not os.read(pipe, 1 << 16)
            self.drain()
            if gone or stopped():
                self.drain()
                break
        if self._open:
            try:
                self._save(None, {}, interrupted=True)
            except InputError as error:
                self._lose(error)
        self.ring.tell(self._saved_here, 0, 0)

    def drain(self) -> None:
        """Take every message that waits, and say how far this is."""
        while self.ring.waiting():
            self.take(self.ring.next())
            self.ring.done()
            self._tell()
        self._tell()

    def take(self, message: Any) -> None:
        """Take one message."""
        kind = int(message["kind"])
        try:
            if kind == Kind.READING:
                self._reading(message)
            elif kind == Kind.STEP:
                self._step(message)
            elif kind == Kind.BEGIN:
                self._begin(message)
            elif kind == Kind.SAVE:
                dropped = dict(zip((*self.ring.streams, ACTION), message["dropped"].tolist(), strict=True))
                self._save(None if int(message["success"]) < 0 else bool(message["success"]), dropped)
            elif kind == Kind.DISCARD:
                self._discard()
            elif kind == Kind.END:
                self.over = True
        except InputError as error:  # a full disk, a camera that changes its mind: this episode is lost, the next may fare better
            self._lose(error)

    # ---- messages

    def _begin(self, message: Any) -> None:
        if self._open:
            self._save(None, {})
        self._clear()
        self._release()
        self._open, self._begun_at = True, self.writer.num_episodes
        self._task = bytes(message["text"]).decode("utf-8", "replace")
        self.ring.tell_problem("")

    def _reading(self, message: Any) -> None:
        for index, camera in enumerate(self.ring.cameras):
            if (number := int(message["planes"][index])) >= 0:
                self._last_plane[camera] = number
        if not self._open:
            self._release()
            return
        self._sync.now_ns = int(message["time_ns"])
        self._success = bool(message["robot_success"])
        if self.options.seeded and self._seed is None:
            self._seed = int(message["episode"])
        for name, stamp in zip(self.ring.streams, message["stamps"].tolist(), strict=True):
            if name in self.ring.cameras:
                number = int(message["planes"][self.ring.cameras.index(name)])
                if number >= 0:
                    self._sync.histories[name].add(stamp, number)
            else:
                self._sync.histories[name].add(stamp, message[f"state.{name}"].copy())
        self._bring_together()

    def _step(self, message: Any) -> None:
        time_ns = int(message["time_ns"])
        if not self._open or not self._is_due(time_ns):
            return
        self._rows.append(_Row(time_ns, message["action"].copy(), bool(message["taken"]), self._success))
        self._bring_together()

    def _is_due(self, time_ns: int) -> bool:
        """Whether a step of this time makes a row."""
        interval = self._clock.interval_ns
        if not interval or not self.options.lead:
            return self._clock.due(time_ns)
        newest, led = self._sync.histories[self.options.lead].newest_ns, self._led_ns
        if led is not None and (newest or 0) - led < (1 - RowClock.EARLY) * interval and time_ns < (self._due_ns or 0):
            return False
        self._led_ns, self._due_ns = newest, time_ns + round(_LATE * interval)
        return True

    def _bring_together(self, all_of_them: bool = False) -> None:
        """Give every row whose samples have come what it takes of each stream, and free what no later row can take."""
        while self._rows and (all_of_them or self._sync.settled(self._rows[0].time_ns)):
            row = self._rows.popleft()
            samples = self._sync.choose(row.time_ns)
            if samples is None:  # a camera's first image found no room, for instance
                self._unsynchronised += 1
                continue
            self._write(row.success, done=False)
            row.samples, self._held = samples, row
        self._release()

    def _release(self) -> None:
        """Free images: those before the oldest that a row which waits, or one to come, may take."""
        time_ns = self._rows[0].time_ns if self._rows else self._sync.now_ns
        for camera in self.ring.cameras:
            kept = self._sync.histories[camera].forget(time_ns)
            held = self._held.samples[camera] if self._held else None
            if self._held and held and isinstance(held.value, int) and self._last_plane[camera] - held.value >= self.ring.size.planes // 4:
                self._held.samples[camera] = held = Sample(held.stamp_ns, self.ring.image(camera, held.value).copy())  # a long pause
            needed = [n for n in (kept, held.value if held else None) if isinstance(n, int)]
            self.ring.release(camera, min(needed) if self._open and needed else self._last_plane[camera] + 1)
        for name in self.ring.states:
            self._sync.histories[name].forget(time_ns)

    def _write(self, success: bool, done: bool) -> None:
        """Write the row that waits, if there is one; ``success``: what its action led to."""
        row, self._held = self._held, None
        if row is None:
            return
        observation = {n: self.ring.image(n, s.value) if isinstance(s.value, int) else s.value for n, s in row.samples.items()}
        capture = {name: sample.stamp_ns for name, sample in row.samples.items()} | {ACTION: row.time_ns}
        self.writer.add_frame(observation, row.action, capture, {"takeover": row.taken, "next.success": success, "next.done": done})
        self._row_times.append(row.time_ns)
        self._unencoded.append(row.time_ns)
        self._takeovers += row.taken
        for name, sample in row.samples.items():
            self._chosen[name].append(sample.stamp_ns)

    def _save(self, success: bool | None, dropped: dict[str, int], interrupted: bool = False) -> None:
        if not self._open:
            return
        self._bring_together(all_of_them=True)
        self._write(self._success if success is None else success, done=True)
        if not self.writer.frames:
            self._say("recording: an episode without a step is not kept")
        else:
            report = self._report(dropped, interrupted)
            self.writer.save_episode(success, self._seed, self._task or None)
            self._saved_here += 1
            self._keep(report)
            self._say(f"recording: {report.line()}")
        self._clear()
        self._release()

    def _lose(self, error: InputError) -> None:
        """Say why the open episode cannot be kept, and go on without it."""
        self._problem(str(error))
        self._discard()

    def _discard(self) -> None:
        self.writer.discard_episode()
        self._clear()
        self._release()

    # ---- what is counted

    def _report(self, dropped: dict[str, int], interrupted: bool) -> EpisodeReport:
        rows = np.array(self._row_times, np.int64)
        chosen = {name: np.array(stamps, np.int64) for name, stamps in self._chosen.items()}
        histories = self._sync.histories
        return EpisodeReport(
            self.writer.num_episodes,
            len(rows),
            1e-9 * float(rows[-1] - rows[0]),
            {name: Skew.of(rows, stamps) for name, stamps in chosen.items()},
            dropped | {ACTION: dropped.get(ACTION, 0) + self._unsynchronised},
            {name: missing_samples(np.array(history.stamps, np.int64)) for name, history in histories.items()},
            {name: history.backwards for name, history in histories.items()},
            {name: int((np.diff(stamps) == 0).sum()) for name, stamps in chosen.items()},
            1e-9 * self._lag_max_ns,
            self._takeovers,
            interrupted,
        )

    def _keep(self, report: EpisodeReport) -> None:
        try:
            keep_report(self.writer.root, report)
        except OSError as error:  # the episode itself is whole
            self._problem(f"{self.writer.root / REPORT}: cannot be written: {error.strerror}")

    def _tell(self) -> None:
        now, encoded = self._clock_ns(), self.writer.encoded
        while self._unencoded and self._taken_out < encoded:
            self._unencoded.popleft()
            self._taken_out += 1
        self._lag_ns = now - self._unencoded[0] if self._unencoded else 0
        self._lag_max_ns = max(self._lag_max_ns, self._lag_ns)
        self.ring.tell(self._saved_here, self.writer.frames, self._lag_ns)

    def _problem(self, line: str) -> None:
        self.ring.tell_problem(line)
        self._say(f"recording: {line}")


def keep_report(root: Path, report: EpisodeReport) -> None:
    """Add what was counted in an episode to ``meta/recording.json``, in the place of what stands there of that index."""
    kept = read_reports(root)
    entries = [entry for entry in kept if entry.get("episode", -1) < report.episode]
    write_json(root / REPORT, {"episodes": [*entries, asdict(report)]})


def read_reports(root: Path) -> list[dict[str, Any]]:
    """Return what ``meta/recording.json`` says of every episode; nothing for a set that was not recorded from a run."""
    if not (root / REPORT).is_file():
        return []
    try:
        found = read_json(root / REPORT)["episodes"]
        return [entry for entry in found if isinstance(entry, dict)]
    except (InputError, KeyError, TypeError):
        return []


def skews(arrays: Any) -> dict[str, Skew]:
    """Return stream -> skew of a data set's rows, from its arrays of stamps (F,); nothing where rows have no time of their own."""
    rows = arrays.get(layout.CAPTURE + ACTION)
    if rows is None or not len(rows):
        return {}
    names = [name for name in arrays if name.startswith(layout.CAPTURE) and name != layout.CAPTURE + ACTION]
    return {name.removeprefix(layout.CAPTURE): Skew.of(np.ravel(rows), np.ravel(arrays[name])) for name in names}
