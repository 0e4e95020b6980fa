"""The drive process: a ZeroMQ ROUTER around one :class:`real.drive.Drive`, ticking at the robot's rate in real time.

One source of commands at a time holds the lease; ``hold``, ``stop`` and ``status`` are anyone's. No message ends the process:
what is malformed or not allowed costs its sender an error. ``python -m real.drive_server`` runs it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pydantic
import zmq

from policies.motion import Reference
from policies.spec import InputError
from real.camera_robot import attach, own_options
from real.drive import Drive, DriveOptions, DriveReading, kind_of
from real.drive_wire import info_to_dict, reading_message
from real.latency import Latency
from real.lines import Lines
from real.robot import RobotGone
from real.robots import robot_class
from real.router import bound_router
from real.ticks import Grid
from real.wire import Limits, Message, WireError, decode, receive, send

_BETWEEN_LINES_S = 0.1  # of the log: what flickers is not worth a disk
_MAX_REST_S = 10.0  # at the end: for the brake
_MOST_AT_ONCE = 64  # messages between two looks at the clock: who floods the socket costs nobody a tick


class Refused(ValueError):
    """A request that is not granted; ``code`` says which kind of no."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class DriveServer:
    """Serves a drive: hello, command, hold, stop, resume, alive, reset, report, status, bye.

    Args:
        drive: The drive of the robot.
        bind: Loopback address; port 0 takes any free one.
        linger_s: End by itself when no source has spoken for this long; None: never.
        log: Where lines go.
        orphaned: Asked then whether nobody is left who might still speak.

    Attributes:
        address: Where it listens.
        counts: Messages refused, by kind of refusal; ``unread`` readings; ``leases``.
        lateness: How long after their point of the grid ticks began.
        work: What ticks took.

    Raises:
        InputError: if the robot only moves in lock-step, or ``bind`` is not loopback or cannot be bound.
    """

    def __init__(
        self, drive: Drive, bind: str, linger_s: float | None = None, log: Callable[[str], None] = print, orphaned: Callable[[], bool] = lambda: True
    ) -> None:
        if drive.info.lockstep:
            raise InputError(f"robot {drive.info.name!r} is in lock-step: it is driven inside the runtime's process, without a drive of its own")
        self.drive, self._log, self._linger_s, self._orphaned = drive, log, linger_s, orphaned
        self._limits = Limits.of_actions(drive.spec.action)
        self._session, self._identity, self._sequence, self._who = 0, b"", 0, ""
        self._heard = time.monotonic()
        self._spoken = self._heard  # when any source last spoke
        self.counts: Counter[str] = Counter()
        self.lateness, self.work = Latency(), Latency()
        self._told, self._quiet_until, self._ending = ("", ""), 0.0, False
        self._ticker = _Ticker(drive)
        self._context, self._socket, self.address = bound_router(bind, self._limits)

    def serve(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Tick and answer until ``stopped()``, asked at every tick; then brake, hold, request the robot's own stop and close.

        Whatever is raised here, the robot is brought to rest before it goes on to the caller.
        """
        grid = Grid(self.drive.info.rate_hz, time.monotonic())
        try:
            while not stopped() and not self._deserted():
                self.step(grid)
            self._come_to_rest(lambda: self.step(grid))
        except BaseException:
            self._come_to_rest(lambda: self._tick(grid))
            raise
        finally:
            self.close()

    def _come_to_rest(self, step: Callable[[], object]) -> None:
        self._ending = True  # from here on nobody undoes the hold
        self.drive.hold("the drive, which is ending")
        until = time.monotonic() + _MAX_REST_S
        while not self.drive.settled and time.monotonic() < until:
            step()
        self.drive.request_stop()

    def step(self, grid: Grid) -> None:
        """Answer until the next point of ``grid``, then do its tick and publish the reading."""
        while (left := grid.due - time.monotonic()) > 0.001:  # finer than poll waits
            self._socket.poll(int(1e3 * left))
            self._answer_all()
        if left > 0:
            time.sleep(left)
        self._answer_all()
        self._publish(self._tick(grid))

    def _tick(self, grid: Grid) -> DriveReading:
        """Do the tick of the next point of ``grid``, which is waited for."""
        time.sleep(max(grid.due - time.monotonic(), 0.0))
        now = time.monotonic()
        self.lateness.add(now - grid.due)
        reading = self._ticker.tick(now, grid.begin(now))
        self.work.add(time.monotonic() - now)
        return reading

    def close(self) -> None:
        """Let go of address and robot; may be called twice."""
        self._context.destroy(linger=100)
        self._ticker.close()

    def _deserted(self) -> bool:
        return self._linger_s is not None and time.monotonic() - self._spoken > self._linger_s and self.drive.settled and self._orphaned()

    def _publish(self, reading: DriveReading) -> None:
        """Send a reading to the source of commands; one that does not read loses it."""
        said, now = (reading.state, kind_of(reading.cause)), time.monotonic()
        if said != self._told and (reading.state == "stopped" or now >= self._quiet_until):
            self._told, self._quiet_until = said, now + _BETWEEN_LINES_S
            self._log(f"tick {reading.tick}: {reading.state}{f' ({reading.cause})' if reading.cause else ''}")
        if not self._session:
            return
        gone = reading.observation is None
        message = Message("error", meta={"code": "gone", "text": reading.cause}) if gone else reading_message(reading)
        message.session = self._session
        if not send(self._socket, message, self._identity):
            self.counts["unread"] += 1

    def _answer_all(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            if (frames := receive(self._socket, self._limits)) is None:
                return
            self._answer(frames)

    def _answer(self, frames: list[zmq.Frame]) -> None:
        identity, session, sequence = frames[0].bytes, 0, 0
        try:
            message = decode(frames[1:], self._limits)
            session, sequence = message.session, message.sequence
            reply = self._obey(identity, message)
        except WireError as error:
            self.counts["malformed"] += 1
            reply = Message("error", meta={"code": "wire", "text": str(error)})
        except Refused as error:
            self.counts[error.code] += 1
            reply = Message("error", meta={"code": error.code, "text": str(error), "lease_s": self.drive.options.lease_s})
        except Exception as error:  # nothing that a message does may end the process that has a robot to stop
            self.counts["failed"] += 1
            reply = Message("error", meta={"code": "failed", "text": f"{type(error).__name__}: {error}"[:500]})
        if reply is not None:
            reply.session, reply.sequence = reply.session or session, sequence
            send(self._socket, reply, identity)  # a client that has gone gets none

    def _obey(self, identity: bytes, message: Message) -> Message | None:
        """Do what a message asks for, if its sender may; returns the answer, None where the next reading says it."""
        kind, mine = message.kind, self._is_source(identity, message)
        if kind == "status":
            return Message("status", meta=self._status())
        if kind == "hello":
            return self._lease(identity, message)
        if kind == "stop":
            self.drive.stop(_text(message, "cause", "asked"), _text(message, "who", "an operator"))
            return Message("stopped", meta={"cause": self.drive.refusal[:500]})
        if kind == "hold" and not mine:
            self.drive.hold(_text(message, "who", "an operator"))
            return Message("held")
        if not mine:
            owner = "another source commands this robot" if self._session else "nobody's lease; greet first"
            raise Refused("lease", owner)
        if message.sequence <= self._sequence:
            raise Refused("sequence", f"sequence {message.sequence}: expected more than {self._sequence}")
        self._sequence, self._heard = message.sequence, time.monotonic()
        self._spoken = self._heard
        return self._serve_source(kind, message)

    def _is_source(self, identity: bytes, message: Message) -> bool:
        return bool(self._session) and message.session == self._session and identity == self._identity

    def _serve_source(self, kind: str, message: Message) -> Message | None:
        """Do what the holder of the lease asks for."""
        drive = self.drive
        if kind == "command":
            self._command(message)
        elif kind == "hold":
            drive.hold()
        elif kind == "resume":
            if self._ending:
                raise Refused("ending", "the drive is ending: it takes no more commands")
            drive.resume()
        elif kind == "alive":
            drive.alive()
        elif kind == "bye":
            self._session = 0
            drive.hold()
        elif kind == "reset":
            try:
                drive.reset(message.value("episode", int) if "episode" in message.meta else None)
            except InputError as error:
                raise Refused("reset", str(error)) from error
            return Message("done")
        elif kind == "report":
            timing = {"lateness_ms": self.lateness.to_dict(), "work_ms": self.work.to_dict()}
            return Message("report", meta={"report": json.dumps({**drive.report(), **self.counts, **timing})})
        else:
            raise Refused("kind", f"kind {kind!r}: a drive answers hello, command, hold, stop, resume, alive, reset, report, status and bye")
        return None

    def _lease(self, identity: bytes, message: Message) -> Message:
        now = time.monotonic()
        if self._session and identity != self._identity and now - self._heard < self.drive.options.lease_s:
            raise Refused("busy", f"another source commands this robot ({self._who})")
        if self._session and identity != self._identity:
            send(self._socket, Message("error", self._session, meta={"code": "lease", "text": "another source has taken over"}), self._identity)
        self._session, self._identity, self._sequence = secrets.randbits(63) or 1, identity, message.sequence
        self._who, self._heard, self._spoken = _text(message, "who", "unnamed"), now, now
        self.counts["leases"] += 1
        self.drive.hold()  # nothing of the source before is executed any more; what an operator holds stays held
        self._log(f"source: {self._who}")
        meta = {"spec": json.dumps(self.drive.spec.to_dict()), "info": json.dumps(info_to_dict(self.drive.info)), "latch": str(self.drive.latch.path)}
        return Message("ready", self._session, fingerprint=self.drive.spec.fingerprint(), meta=meta)

    def _command(self, message: Message) -> None:
        command, rows = message.arrays.get("command"), message.arrays.get("reference")
        if command is None or command.dtype.kind != "f" or not (rows is None or (rows.dtype == np.float64 and rows.ndim == 2 and len(rows) == 3)):
            raise WireError("command message: expected the floats 'command', and 'reference' float64 of shape (3, n) or none")
        self.drive.offer(command, None if rows is None else Reference(rows[0], rows[1], rows[2]), message.value("tick", int))

    def _status(self) -> dict[str, Any]:
        reading, silent = self.drive.reading, time.monotonic() - self._heard
        return {
            "robot": self.drive.info.name,
            "tick": reading.tick,
            "state": reading.state,
            "cause": reading.cause[:500],
            "source": self._who if self._session else "",
            "silent_s": silent if self._session else 0.0,
            "counts": json.dumps({**self.drive.tally(), **self.counts}),
        }


class _Ticker:
    """Ticks the drive in a thread of its own: a robot that blocks does not keep the process from saying so."""

    def __init__(self, drive: Drive) -> None:
        self._drive, self._blocked = drive, False
        self._asked: SimpleQueue[tuple[float, int] | None] = SimpleQueue()
        self._done: SimpleQueue[DriveReading] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="drive ticks", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._done.put(self._drive.tick(*asked))

    def tick(self, now: float, missed: int) -> DriveReading:
        """Return the reading of a tick; of a robot that does not come back in time, that it is gone."""
        if not self._blocked:
            self._asked.put((now, missed))
            try:
                return self._done.get(timeout=self._drive.options.blocked_s)
            except Empty:
                self._blocked = True
        self._drive.lose(f"robot gone: it has not answered within {self._drive.options.blocked_s:g} s")
        return self._drive.reading

    def close(self) -> None:
        """Let go of the robot, unless it is that which does not return."""
        self._asked.put(None)
        if not self._blocked:
            self._thread.join(1.0)
            self._drive.close()


def _text(message: Message, name: str, default: str) -> str:
    found = message.meta.get(name, default)
    return " ".join(found.split())[:500] if isinstance(found, str) else default


def open_driver(robot: dict[str, Any]) -> Any:
    """Return the driver of ``{"type": NAME, ...options}``, with the cameras of its section. Raises InputError."""
    kind = robot.get("type") if isinstance(robot, dict) else None
    if not isinstance(kind, str):
        raise InputError("robot: expected a type, e.g. robot.type=twin")
    driver: Any = robot_class(kind)
    try:
        return attach(driver(driver.Config(**own_options(robot))), robot)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"robot {kind!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def run_drive(
    driver: Any, options: DriveOptions, bind: str, announce: Path | None = None, linger_s: float | None = None, log: Callable[[str], None] = print,
    parent: int | None = None,
) -> None:  # fmt: skip
    """Drive a robot until SIGTERM, SIGINT or SIGHUP: then it brakes, holds and is asked for its own stop.

    Args:
        driver: The robot's.
        options: See :class:`DriveOptions`.
        bind: Loopback address.
        announce: File that gets the bound address once the drive is ready.
        linger_s: End when no source has spoken for this long; None: never.
        log: Where lines go; it may fail or wait, the drive goes on.
        parent: Process that started this one and may still be getting ready: while it lives, silence ends nothing; None: it does.

    Raises:
        InputError: one line, before anything moves.
    """
    caught: list[int] = []
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last one of a terminal that is closed
    before = {s: signal.signal(s, lambda number, frame: caught.append(number)) for s in ending}
    lines = Lines(log)
    try:
        server = DriveServer(Drive(driver, options), bind, linger_s, lines, lambda: parent is None or os.getppid() != parent)
        if announce is not None:
            part = announce.with_name(f"{announce.name}.part")
            part.write_text(server.address)
            part.replace(announce)
        lines(f"ready: {driver.info.name} at {server.address}, {driver.info.rate_hz:g} Hz; e-stop: {server.drive.latch.path}")
        gc.freeze()  # what exists now lives on: collections need not walk it
        server.serve(lambda: bool(caught))
    finally:
        gc.unfreeze()
        lines.close()
        for s, handler in before.items():
            signal.signal(s, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a drive from the command line, with nothing but what the robot needs; ``robopolicy drive`` is the comfortable way.

    Returns:
        Exit code: 0 ended as asked, 1 the robot went as it was asked for its stop, 2 bad input, of which one line tells.
    """
    parser = argparse.ArgumentParser(prog="python -m real.drive_server", description="Drive a robot: check every command, brake when none comes.")
    parser.add_argument("robot", help="the driver and its options as JSON: {'type': 'twin', 'address': 'tcp://127.0.0.1:5556'}")
    parser.add_argument("--options", default="{}", help="of the drive, as JSON (see real.drive.DriveOptions)")
    parser.add_argument("--bind", default="tcp://127.0.0.1:0", help="loopback address; port 0 takes any free one")
    parser.add_argument("--announce", type=Path, help="file that gets the bound address once the drive is ready")
    parser.add_argument("--linger", type=float, help="end when no source has spoken for so many seconds")
    parser.add_argument("--parent", type=int, help="process that started this one: it ends by silence only when that has gone")
    given = parser.parse_args(argv)
    try:
        options = DriveOptions.model_validate_json(given.options)
        run_drive(open_driver(json.loads(given.robot)), options, given.bind, given.announce, given.linger, _say, given.parent)
    except (InputError, json.JSONDecodeError, pydantic.ValidationError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RobotGone as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
