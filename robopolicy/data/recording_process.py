"""The recorder's process: started by a run with the memory and the pipe that they share, ended by either's end."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from policies.spec import InputError, Spec, SpecMismatch
from real.record_ring import RecordRing, RingSize
from real.recorder import ACTION
from robopolicy.data import layout
from robopolicy.data.recording import Recording, RecordingOptions
from robopolicy.data.writer import DatasetWriter
from robopolicy.processes import stop_signals

EXTRAS = {"takeover": "bool", "next.success": "bool", "next.done": "bool"}


@dataclass(frozen=True)
class ProcessOptions:
    """What the process is told on its command line, as JSON.

    Attributes:
        path: Of the data set.
        spec: ``Spec.to_dict`` of what is recorded.
        messages, planes: See ``real.record_ring.RingSize``.
        fps: Rows a second.
        robot_type: Name of the robot.
        task: In words.
        encoder: Video encoder; None: the first installed.
        codec: Its options.
        nice: Added to the priority number of this process, so that the control loop goes first.
        recording: Fields of ``RecordingOptions``.
        provenance: Kept with the data set.
    """

    path: str
    spec: dict[str, Any]
    messages: int
    planes: int
    fps: float
    robot_type: str = "unknown"
    task: str = ""
    encoder: str | None = None
    codec: dict[str, Any] = field(default_factory=dict)
    nice: int = 5
    recording: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(asdict(self))


def open_writer(options: ProcessOptions) -> DatasetWriter:
    """Begin or continue the data set. Raises InputError, before anything moves, if it cannot be."""
    writer = DatasetWriter(
        options.path, Spec.from_dict(options.spec), options.fps, options.robot_type, options.task, options.encoder, options.provenance, options.codec
    )
    try:
        own = layout.read_own(writer.root)
        if own is not None and writer.num_episodes:
            expected = {*Spec.from_dict(options.spec).observation.fields, ACTION}
            if own["extras"] != EXTRAS or set(own["streams"]) != expected:
                raise SpecMismatch(f"{writer.root} was not recorded from a run: it has other columns; give a new folder")
    except BaseException:
        writer.close()
        raise
    return writer


def main(arguments: list[str]) -> int:
    """Record until the run ends; returns the exit code: 0, or 2 for bad input, told in the shared memory."""
    options = ProcessOptions(**json.loads(arguments[0]))
    memory, pipe = int(arguments[1]), int(arguments[2])
    ring = RecordRing(memory, Spec.from_dict(options.spec), RingSize(options.messages, options.planes))
    os.nice(options.nice)
    try:
        writer = open_writer(options)
    except (InputError, OSError) as error:
        ring.tell_problem(str(error))
        return 2
    import pyarrow.parquet  # noqa: F401  -- not while the first episode is being saved

    with writer, stop_signals() as stopped:
        recording = Recording(ring, writer, RecordingOptions(**options.recording), _say, time.monotonic_ns)
        ring.tell_ready()
        recording.run(pipe, stopped)
    return 0


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:  # who listened has gone; what is recorded is still wanted
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
