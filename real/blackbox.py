"""The black box's recorder: a process of its own that writes what telemetry says into a ring on the disk.

``python -m real.blackbox --address tcp://127.0.0.1:5600 --folder runs/blackbox``: the control loop hands its messages
to a socket and never waits for a disk. What the recorder does not take in time is dropped by the publisher and counted
here. ``robopolicy data recover FOLDER`` reads the ring, after a kill -9 too.
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policies.spec import InputError
from real.blackbox_format import Encoder, json_bytes
from real.blackbox_ring import Ring, RingLimits
from real.child import environment, module_command
from real.telemetry import Record, Subscription, Telemetry

_LATEST_NS = 2**63 - 1  # that a stamp can be
_DRAIN_S = 1.0  # what is still on its way at the end is taken for so long


class Recorder:
    """Writes the messages of one telemetry into one ring.

    Args:
        address: Of the telemetry.
        folder: Of the ring.
        limits: See :class:`real.blackbox_ring.RingLimits`.
        jpeg: Quality of JPEG images; 0: images stay as they are.
        image_rate_hz: Images a second and camera; None: all.
        say: Told what a person should know.

    Attributes:
        malformed: Messages that could not be written as what they claim to be.

    Raises:
        InputError: for an address or a folder that cannot be used.
    """

    def __init__(
        self, address: str, folder: Path, limits: RingLimits = RingLimits(), *, jpeg: int = 0, image_rate_hz: float | None = None,
        say: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        if not 0 <= jpeg <= 100:
            raise InputError(f"black box: jpeg: expected a quality from 1 to 100, or 0 for images as they are, found {jpeg}")
        self.malformed = 0
        self._encoder = Encoder(jpeg)
        self.ring = Ring(folder, limits, say)
        self._info: Record | None = None
        self._at = 0  # log time of the newest record
        self._told = (0, 0, 0)  # losses that are on record
        try:
            self.subscription = Subscription(address, image_rate_hz=image_rate_hz)
        except BaseException:
            self.ring.close()
            raise

    def run(self, stopped: Callable[[], bool], orphaned: Callable[[], bool] = lambda: False) -> None:
        """Record until ``stopped``, or until ``orphaned`` and silent."""
        heard = time.monotonic()
        while not stopped():
            record = self.subscription.poll(min(0.1, self.ring.limits.flush_s))
            if record is not None:
                heard = time.monotonic()
                self.take(record)
            elif orphaned() and time.monotonic() - heard > _DRAIN_S:
                break
            self.ring.due()
            self._tell_losses()  # also when the disk has room again and nobody speaks any more
        until = time.monotonic() + _DRAIN_S
        while time.monotonic() < until and (record := self.subscription.poll(0.1)) is not None:
            self.take(record)  # the end of a run is what one wants to see

    def take(self, record: Record) -> None:
        """Write one record. A new run begins a segment; every segment begins with what the run is made of."""
        if record.kind == "info":
            if self._info is not None and record.run != self._info.run:
                self.ring.end_segment()
            self._info = record
        elif self._info is not None and self.ring.segment_begins:
            self._write(self._info)
        self._write(record)
        self._at = min(max(record.stamp_ns + self._encoder.offset_ns, 0), _LATEST_NS)  # a run may claim any offset

    def _tell_losses(self) -> None:
        """Put on record what was lost since that was last done, unless the disk refuses."""
        losses = (self.subscription.lost, self.ring.lost, self.subscription.malformed + self.malformed)
        if losses != self._told and self._at and not self.ring.refused:
            self._told = losses
            values: dict[str, Any] = {"lost_on_the_way": losses[0], "lost_on_disk": losses[1], "malformed": losses[2]}
            self.ring.add(self._encoder.json_channel("/recorder", values), self._at, [json_bytes(values)])

    def _write(self, record: Record) -> None:
        try:
            channel, at, parts = self._encoder.encode(record)
            struct.pack("<Q", at)  # a time before 1970, or after all time, is none
        except (InputError, ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error):
            self.malformed += 1
            return
        self.ring.add(channel, at, parts, record.sequence)

    def close(self) -> None:
        """Write what is left and end."""
        self.ring.flush()
        self._tell_losses()
        self.subscription.close()
        self.ring.close()


def start(address: str, folder: Path, limits: RingLimits = RingLimits(), *, jpeg: int = 0, image_rate_hz: float | None = None) -> subprocess.Popen[bytes]:
    """Start a recorder in a process of its own; it ends by SIGTERM, or a second of silence after this process has gone."""
    command = [*module_command("real.blackbox"), "--address", address, "--folder", str(folder), "--minutes", str(limits.minutes)]
    command += ["--max-bytes", str(limits.max_bytes), "--segment-seconds", str(limits.segment_s), "--flush-seconds", str(limits.flush_s)]
    command += ["--jpeg", str(jpeg), "--with-parent"]
    command += [] if image_rate_hz is None else ["--image-rate", str(image_rate_hz)]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C is the run's alone


def await_start(process: subprocess.Popen[bytes], telemetry: Telemetry, timeout_s: float = 20.0) -> None:
    """Wait until the recorder reads, so that the first tick of a run is on record too.

    Raises:
        InputError: if it has ended (its own line on standard error says why), or takes too long.
    """
    until = time.monotonic() + timeout_s
    while not telemetry.await_reader(0.1):
        if process.poll() is not None:
            raise InputError(f"black box: the recorder ended with exit code {process.returncode}")
        if time.monotonic() > until:
            raise InputError(f"black box: the recorder is not ready after {timeout_s:g} s")


class Watch:
    """Looks after a recorder that a run has started: the run goes on without it, but says so at once.

    Args:
        process: Of :func:`start`.
        say: Told, once, that it has ended.

    Attributes:
        ended: What it ended with before the run did; empty while it records.
    """

    def __init__(self, process: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
        self._process, self._say, self._due, self.ended = process, say, 0.0, ""

    def look(self) -> None:
        """Ask, once a second at most, whether it is there; between times this costs nothing."""
        if self.ended or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + 1.0
        if (code := self._process.poll()) is not None:
            self.ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._say(f"black box: the recorder has ended ({self.ended}); from here on nothing of this run is recorded")


def main(arguments: list[str] | None = None) -> int:
    """Run the recorder; returns the exit code: 0 ended as asked, 2 bad input (one line said why)."""
    parser = argparse.ArgumentParser(prog="python -m real.blackbox", description="Write telemetry into a ring of MCAP segments.")
    parser.add_argument("--address", required=True, help="of the telemetry, e.g. tcp://127.0.0.1:5600 or ipc://PATH")
    parser.add_argument("--folder", required=True, type=Path, help="of the ring")
    parser.add_argument("--minutes", type=float, default=10.0, help="recorded minutes to keep (10)")
    parser.add_argument("--max-bytes", type=float, default=2 << 30, help="of all segments together (2 GiB); the oldest go first")
    parser.add_argument("--segment-seconds", type=float, default=30.0, help="length of a segment (30)")
    parser.add_argument("--flush-seconds", type=float, default=1.0, help="at most so much is lost by kill -9 (1)")
    parser.add_argument("--jpeg", type=int, default=0, metavar="QUALITY", help="store images as JPEG; 0: as they are (0)")
    parser.add_argument("--image-rate", type=float, default=None, metavar="HZ", help="images a second and camera; all if not given")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one has gone")
    options = parser.parse_args(arguments)
    caught: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: caught.append(number))
    parent = os.getppid()
    try:
        limits = RingLimits(options.minutes, int(options.max_bytes), options.segment_seconds, options.flush_seconds)
        recorder = Recorder(options.address, options.folder, limits, jpeg=options.jpeg, image_rate_hz=options.image_rate, say=_say)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _say(f"black box: recording {options.address} into {options.folder}")
    try:
        recorder.run(lambda: bool(caught), lambda: options.with_parent and os.getppid() != parent)
    finally:
        recorder.close()
    ring, heard = recorder.ring, recorder.subscription
    malformed = heard.malformed + recorder.malformed
    _say(f"black box: {ring.written} messages written, {heard.lost} lost on the way, {ring.lost} refused by the disk, {malformed} malformed")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
