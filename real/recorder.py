"""The run's end of a recording: readings and steps go into shared memory, a process of its own makes a data set of them.

Nothing here waits: what does not fit is let go of and counted by stream. The recorder's process may hang, fail or be killed;
the run goes on and says so. Only a world in lock-step, whose time stands still meanwhile, is kept waiting for room.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from policies.spec import InputError
from real.record_ring import TEXT_BYTES, Kind, RecordRing
from real.robot import Observation

ACTION = "action"  # the stream of steps
_LOOK_S = 0.5  # between two looks at the recorder's process
_PATIENCE_S = 30.0  # for room, in lock-step


@dataclass(frozen=True)
class RecorderStatus:
    """Where a recording stands.

    Attributes:
        state: ``idle``, ``recording``, ``deciding`` (the robot's episode is over, somebody has to save or discard it) or
            ``ended`` (the recorder's process has gone; nothing is recorded any more).
        episodes: Saved so far in this run.
        frames: Of the open episode, handed to the encoders.
        seconds: Since the open episode began.
        lag_s: Age of the oldest frame that is not encoded yet.
        success: What the robot says of the open episode; None: it does not know.
        dropped: Stream -> samples of this run that found no room in the memory between run and recorder.
        problem: One line; empty: none.
    """

    state: str = "idle"
    episodes: int = 0
    frames: int = 0
    seconds: float = 0.0
    lag_s: float = 0.0
    success: bool | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything JSON-ready."""
        return asdict(self)


class Recorder:
    """Hands what a run sees and does to a recorder process; see ``real.beside.StepRecorder``.

    Args:
        ring: The memory, made here.
        command: Starts the process; the descriptors of memory and pipe are appended as two numbers.
        manual: Whether a person says when an episode begins and how it ended; otherwise it begins with its first step and
            is saved when the robot says that it is over, or at :meth:`close`.
        tells_success: Whether the robot knows of success (a twin); otherwise its "no" means that it does not know.
        lockstep: Whether the world stands still while one waits.
        environment: Of the process; None: this one's.
        say: Told, once, that the process has gone.
        clock_ns: Monotonic ns.

    Raises:
        InputError: if the process cannot be started.
    """

    def __init__(
        self, ring: RecordRing, command: Sequence[str], *, manual: bool = False, tells_success: bool = False, lockstep: bool = False,
        environment: dict[str, str] | None = None, say: Callable[[str], None] = print, clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self._ring, self._manual, self._tells_success, self._lockstep = ring, manual, tells_success, lockstep
        self._say, self._clock_ns = say, clock_ns
        self._state, self._ended_with, self._malformed = "idle", "", ""
        self._task = ""
        self._begun_ns = 0
        self._episode: int | None = None  # the robot's number of the open episode; None: no reading of it yet
        self._tick: int | None = None  # of the last reading handed over
        self._read_ns = 0  # when it came: the time of a step that begins from it
        self._seen: dict[str, int] = {}  # camera -> stamp of the last image handed over
        self._success: bool | None = None
        self._dropped = dict.fromkeys((*ring.streams, ACTION), 0)
        self._dropped_before = dict(self._dropped)  # when the open episode began
        self._look_at = 0.0
        read_end, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self.process = subprocess.Popen(
                [*command, str(ring.file), str(read_end)], pass_fds=(ring.file, read_end), env=environment,
                stdin=subprocess.DEVNULL, start_new_session=True,  # Ctrl-C is the run's alone
            )  # fmt: skip
        except OSError as error:
            os.close(self._pipe)
            raise InputError(f"recording: the recorder cannot be started: {error.strerror}") from error
        finally:
            os.close(read_end)

    def await_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the process reads. Raises InputError if it has ended (what it says tells why) or takes too long."""
        until = time.monotonic() + timeout_s
        while not self._ring.ready:
            if (code := self.process.poll()) is not None:
                raise InputError(self._ring.problem or f"recording: the recorder ended with exit code {code}")
            if time.monotonic() > until:
                raise InputError(f"recording: the recorder is not ready after {timeout_s:g} s")
            time.sleep(0.01)

    # ---- what the runtime says

    def reading(self, reading: Observation) -> None:
        """Take a reading at the drive's rate."""
        self._look()
        if self._state == "recording" and self._same_episode(reading) and reading.tick != self._tick:
            self._hand_over(reading)

    def step(self, reading: Observation, action: np.ndarray, taken: bool) -> None:
        """Take a policy step: the action (Da,) begun from ``reading``."""
        if self._state == "recording" and not self._same_episode(reading):  # its end came while nobody read
            self._break_off()
            self._over()
        if self._state == "idle" and not self._manual:
            self.begin()
        if self._state != "recording":
            return
        if reading.tick != self._tick:
            self._hand_over(reading)
        slot = self._slot(Kind.STEP)
        if slot is None:
            self._dropped[ACTION] += 1
            return
        slot["time_ns"], slot["tick"], slot["taken"] = self._read_ns, reading.tick, taken
        slot["action"] = action
        self._publish()

    def ended(self, reading: Observation) -> None:
        """Note that the robot's episode is over."""
        if self._state != "recording" or not self._same_episode(reading):
            return
        if reading.tick != self._tick:
            self._hand_over(reading)
        self._over()

    # ---- what a person says

    def begin(self, task: str | None = None) -> None:
        """Begin an episode; one that is open is saved first. ``task`` are its words, None: those of the recording."""
        if self._state == "ended":
            return
        self._break_off()
        self.save()
        self._tick, self._episode, self._success, self._seen = None, None, None, {}
        self._begun_ns, self._dropped_before = self._clock_ns(), dict(self._dropped)
        if self._word(Kind.BEGIN, text=task or ""):
            self._state = "recording"

    def save(self, success: bool | None = None) -> None:
        """End the open episode and keep it, marked with ``success``; None: as the robot says, if it knows."""
        if self._state in ("recording", "deciding"):
            self._word(Kind.SAVE, success=self._success if success is None else success)
            self._state = "idle"

    def discard(self) -> None:
        """End the open episode and drop it."""
        if self._state in ("recording", "deciding"):
            self._word(Kind.DISCARD)
            self._state = "idle"

    def status(self) -> RecorderStatus:
        """Return where the recording stands."""
        episodes, frames, lag_ns = self._ring.told
        is_open = self._state in ("recording", "deciding")
        problem = f"recording: the recorder has ended ({self._ended_with})" if self._ended_with else self._malformed or self._ring.problem
        return RecorderStatus(
            self._state, episodes, frames if is_open else 0, 1e-9 * (self._clock_ns() - self._begun_ns) if is_open else 0.0,
            1e-9 * lag_ns, self._success if is_open else None, dict(self._dropped), problem,
        )  # fmt: skip

    def close(self, timeout_s: float = 120.0) -> None:
        """End the recording and wait until everything is on the disk; an open episode is saved. May be called twice."""
        if self._pipe < 0:
            return
        self._break_off()
        self.save()
        if self._state != "ended":
            self._word(Kind.END)
        os.close(self._pipe)  # whatever became of the word: the end of the pipe says it, too
        self._pipe = -1
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code and not self._ended_with:
            self._ended_with = _ending(code)
            self._say(f"recording: the recorder has ended ({self._ended_with}); `robopolicy data recover` looks after what it left")
        self._ring.close()

    # ---- inside

    def _same_episode(self, reading: Observation) -> bool:
        if self._episode is None:
            self._episode = reading.episode
        return reading.episode == self._episode

    def _break_off(self) -> None:
        """Whoever is stopped on the way has not failed: of an episode whose end nobody saw only a success is known."""
        if self._state == "recording":
            self._success = self._success or None

    def _over(self) -> None:
        """The robot's episode is over: automatically it is saved, else somebody has to decide."""
        if self._manual:
            self._state = "deciding"
        else:
            self.save()

    def _hand_over(self, reading: Observation) -> None:
        """Write a reading into the memory; images that were handed over before are not written again."""
        self._tick, self._episode, self._read_ns = reading.tick, reading.episode, self._clock_ns()
        if self._tells_success:
            self._success = bool(self._success or reading.success)
        slot = self._slot(Kind.READING)
        if slot is None:
            self._count_dropped(reading)
            return
        try:
            self._fill(slot, reading)
        except (ValueError, TypeError, KeyError) as error:  # a driver that does not keep to its spec must not end the run
            self._malformed = f"recording: a reading does not fit the robot's spec: {error}"
            self._count_dropped(reading)
            return
        self._publish()

    def _fill(self, slot: Any, reading: Observation) -> None:
        ring = self._ring
        slot["time_ns"], slot["tick"], slot["episode"], slot["robot_success"] = self._read_ns, reading.tick, reading.episode, reading.success
        for name in ring.streams:
            if np.shape(reading.fields[name]) != ring.spec.observation.fields[name].shape:
                raise ValueError(f"{name} of shape {np.shape(reading.fields[name])}")
        for name in ring.states:
            slot[f"state.{name}"] = reading.fields[name]
        slot["stamps"] = [reading.capture_ns[name] for name in ring.streams]
        for index, camera in enumerate(ring.cameras):
            slot["planes"][index] = -1
            stamp = reading.capture_ns[camera]
            if stamp == self._seen.get(camera):
                continue
            place = self._room(lambda camera=camera: ring.plane(camera))
            if place is None:
                self._dropped[camera] += 1
                self._seen[camera] = stamp
                continue
            np.copyto(place[1], reading.fields[camera], casting="no")
            slot["planes"][index] = place[0]
            self._seen[camera] = stamp
            ring.took(camera)

    def _count_dropped(self, reading: Observation) -> None:
        for name in self._ring.streams:
            stamp = reading.capture_ns.get(name)
            if name in self._ring.cameras:
                self._dropped[name] += stamp != self._seen.get(name)
                self._seen[name] = stamp if stamp is not None else -1
            else:
                self._dropped[name] += 1

    def _word(self, kind: Kind, success: bool | None = None, text: str = "") -> bool:
        slot = self._slot(kind)
        if slot is None:
            self._malformed = "recording: the recorder does not answer; what was asked of the episode did not reach it"
            return False
        slot["time_ns"], slot["success"] = self._clock_ns(), -1 if success is None else int(success)
        slot["text"] = text.encode("utf-8", "replace")[:TEXT_BYTES]
        slot["dropped"] = [self._dropped[name] - self._dropped_before[name] for name in (*self._ring.streams, ACTION)]
        self._publish()
        return True

    def _slot(self, kind: Kind) -> Any:
        return self._room(lambda: self._ring.message(kind))

    def _room(self, ask: Callable[[], Any]) -> Any:
        """Return what ``ask`` gives; in lock-step wait until it gives something."""
        found = ask()
        if found is not None or not self._lockstep or self._state == "ended":
            return found
        until = time.monotonic() + _PATIENCE_S
        while found is None and time.monotonic() < until and self.process.poll() is None:
            time.sleep(0.001)
            found = ask()
        return found

    def _publish(self) -> None:
        self._ring.publish()
        try:
            os.write(self._pipe, b"\0")
        except BlockingIOError:  # it is behind, and has enough to be woken by
            return
        except OSError:  # it has gone; the next look says so
            self._look_at = 0.0

    def _look(self) -> None:
        """Ask twice a second whether the process is there."""
        if self._state == "ended" or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        code = self.process.poll()
        if code is not None:
            self._state, self._ended_with = "ended", _ending(code)
            self._say(f"recording: the recorder has ended ({self._ended_with}); from here on nothing is recorded, the run goes on")


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
