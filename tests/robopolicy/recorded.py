"""A robot that only says what it is, readings made by hand, and a recorder read in the same process, for tests of recording.

As a program it records until it is killed: ``python recorded.py PATH``; the first episode is saved, the second stays open.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.record_ring import RecordRing, RingSize
from real.recorder import Recorder
from real.robot import Observation, RobotInfo
from robopolicy.data.recording import Recording, RecordingOptions
from robopolicy.data.recording_process import EXTRAS  # noqa: F401  -- tests compare with it
from robopolicy.data.writer import DatasetWriter

STATE, CAMERA, SIDE, MS = "observation.state", "observation.images.top", 32, 10**6
ASLEEP = [sys.executable, "-c", "import sys, time; time.sleep(600)"]


def make_spec(images: bool = True, rate_hz: float = 50.0) -> Spec:
    fields = {STATE: Field((3,), unit="rad", names=("a", "b", "c"))}
    if images:
        fields[CAMERA] = Field((SIDE, SIDE, 3), "uint8", "px", kind="image")
    return Spec(ObservationSpec(fields, rate_hz), ActionSpec({"action": Field((2,), kind="position")}, rate_hz), {"serial": "7"})


def robot(spec: Spec | None = None, name: str = "arm", rate_hz: float = 50.0, lockstep: bool = False) -> SimpleNamespace:
    """Return what ``open_recorder`` reads of a drive handle."""
    return SimpleNamespace(spec=spec or make_spec(), info=RobotInfo(name, rate_hz, "holds", 0.1, lockstep=lockstep))


def reading(tick: int, state_ns: int, image_ns: int | None = None, episode: int = 0, **more: object) -> Observation:
    """Return a reading whose joints and image tell their stamps, in ms."""
    fields = {STATE: np.array([tick, state_ns / MS, 0], np.float32)}
    stamps = {STATE: state_ns}
    if image_ns is not None:
        fields[CAMERA] = np.full((SIDE, SIDE, 3), 2 * (image_ns // MS) % 250, np.uint8)
        stamps[CAMERA] = image_ns
    return Observation(fields, stamps, episode, tick=tick, **more)  # type: ignore[arg-type]


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.ns = 10**9

    def __call__(self) -> int:
        return self.ns


class Pair:
    """A recorder and the reading end of its memory, both in this process; the process that it starts only sleeps."""

    def __init__(
        self, folder: Path, spec: Spec | None = None, size: RingSize = RingSize(256, 16), options: RecordingOptions = RecordingOptions(), **more: object
    ) -> None:
        self.clock, self.said = Clock(), []
        self.spec = spec or make_spec()
        self.ring = RecordRing.create(self.spec, size)
        self.recorder = Recorder(self.ring, ASLEEP, clock_ns=self.clock, say=self.said.append, **more)  # type: ignore[arg-type]
        self.writer = DatasetWriter(folder, self.spec, self.spec.action.rate_hz, task="test")
        self.recording = Recording(self.ring, self.writer, options, self.said.append, self.clock)

    def at(self, ms: float, observed: Observation, action: tuple[float, float] | None = None, taken: bool = False) -> None:
        """Give the recorder a reading at a time, and the step begun from it if there is an ``action``."""
        self.clock.ns = round(ms * MS)
        self.recorder.reading(observed)
        if action is not None:
            self.recorder.step(observed, np.array(action, np.float32), taken)

    def close(self) -> None:
        self.recorder.process.kill()
        self.recorder.close(5)
        self.writer.close()


@contextmanager
def pair(folder: Path, **more: object):
    both = Pair(folder, **more)  # type: ignore[arg-type]
    try:
        yield both
    finally:
        both.close()


def main(path: str) -> None:
    """Record one episode of 20 steps and save it, then another without end."""
    from robopolicy.recording import RecordConfig, open_recorder

    with ExitStack() as stack:
        recorder = open_recorder(RecordConfig(path=path), robot(), stack, manual=True)  # type: ignore[arg-type]
        recorder.begin()
        tick = 0
        while True:
            now = time.monotonic_ns()
            seen = reading(tick, now, now)
            recorder.reading(seen)
            recorder.step(seen, np.zeros(2, np.float32), False)
            tick += 1
            if tick == 20:
                recorder.save(True)
                recorder.begin()
            if recorder.status().episodes == 1 and recorder.status().frames >= 10:
                print("open", recorder.process.pid, flush=True)
            time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1])
