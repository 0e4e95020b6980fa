"""What the runtime holds of a robot: a handle to its drive, in another process or in this one.

Readings come from the drive, at its rate; every command is for the tick after the newest reading, and what the drive did
with it is told with the next one. A drive in this process serves worlds in lock-step (they step when commanded) and tests.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zmq

from policies.motion import Reference
from policies.spec import InputError, Spec
from real.context import LinkContext
from real.drive import Drive
from real.drive_wire import info_from_dict, observation_of
from real.latch import stop_all
from real.robot import Observation, RobotGone, RobotInfo
from real.ticks import Grid
from real.wire import Limits, Message, WireError, checked_connect, configure, decode, receive, send

_CONNECT_S = 10.0
_REPLY_S = 5.0
_LATCHED = "stopped by the drive's latch instead"
_GREETING = Limits(frame_bytes=1 << 20, header_bytes=1 << 22)  # a robot's model and its meshes' names travel in the greeting


class DriveHandle:
    """A robot as the runtime sees it.

    Args:
        drive: Address of a drive process (``robopolicy drive``), or a drive in this process.
        connect_s: How long to wait for the process, s.
        clock: Monotonic seconds, for a drive in this process that is not in lock-step.
        sleep: Waits for some seconds.

    Attributes:
        spec: The robot's.
        info: What its driver declares.
        latch: File of the latched stop that the drive looks at.

    Raises:
        InputError: if nothing answers at the address, it is no drive, or another source commands the robot.
    """

    def __init__(
        self, drive: str | Drive, connect_s: float = _CONNECT_S, *,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._link: _Link = _Local(drive, clock, sleep) if isinstance(drive, Drive) else _Remote(drive, connect_s)
        self.spec, self.info, self.latch = self._link.spec, self._link.info, self._link.latch
        self._newest = -1
        self._episode: int | None = None

    def read(self, timeout_s: float = 1.0) -> Observation:
        """Return the reading of a tick that has not been returned before; of several that wait, the newest (the end of an episode is kept).

        Raises:
            RobotGone: one line: no reading within ``timeout_s``, the robot is gone, or another source has taken over.
        """
        reading = self._link.read(timeout_s)
        self._newest, self._episode = reading.tick, reading.episode
        return reading

    def write(self, command: np.ndarray, reference: Reference | None = None) -> None:
        """Offer a command (Da,) for the tick after the newest reading; the drive checks it again and may brake instead.

        Args:
            command: In robot units.
            reference: The motion that it leads to; for robots of joints.
        """
        self._link.command(self._newest + 1, np.asarray(command), reference)

    def hold(self) -> None:
        """Brake and hold in the next tick."""
        self._link.tell("hold")

    def stop(self, cause: str = "the runtime asked") -> None:
        """Emergency stop, latched: only ``robopolicy estop --clear`` ends it. Raises RobotGone if the drive did not confirm it; then it is latched here."""
        self._link.stop(cause)

    def resume(self) -> None:
        """Take commands again after an operator's hold."""
        self._link.tell("resume")

    def alive(self) -> None:
        """Pass on a fresh signal of the operator's deadman."""
        self._link.tell("alive")

    def reset(self) -> None:
        """Give up the episode that was read last and begin the next, unless that has begun by itself (twins). Raises RobotGone."""
        self._link.reset(self._episode)

    def report(self) -> dict[str, Any]:
        """Return what the drive has counted (``real.drive.DriveCounts``), ``skipped`` readings of this handle, and ``robot``.

        ``robot`` is the driver's own report: the records of a twin's episodes, None for others. A drive process adds what
        it counted of messages, and the histograms ``lateness_ms`` and ``work_ms`` of its ticks. Raises RobotGone.
        """
        return {**self._link.report(), "skipped": self._link.skipped}

    def close(self) -> None:
        """Give the lease back: the robot brakes and holds. May be called twice."""
        self._link.close()

    def __enter__(self) -> DriveHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Link(Protocol):
    """How a handle reaches its drive."""

    spec: Spec
    info: RobotInfo
    latch: Path
    skipped: int

    def read(self, timeout_s: float) -> Observation: ...

    def command(self, tick: int, command: np.ndarray, reference: Reference | None) -> None: ...

    def tell(self, kind: str) -> None: ...

    def stop(self, cause: str) -> None: ...

    def reset(self, episode: int | None) -> None: ...

    def report(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class _Remote:
    """A drive process.

    Args:
        address: Loopback.
        connect_s: How long to wait for its greeting, s.
    """

    def __init__(self, address: str, connect_s: float) -> None:
        self.address, self.skipped = address, 0
        self._limits, self._session, self._sequence = _GREETING, 0, 0
        self._newest = -1  # tick of the last reading taken
        self._readings: deque[Observation] = deque()  # the newest that has not been returned, and ends of episodes before it
        self._fault = ""  # why there will be no more readings
        self._context = LinkContext()
        self._socket = self._context.socket(zmq.DEALER)
        try:
            configure(self._socket, Limits(frame_bytes=1 << 26))
            checked_connect(self._socket, address)
            self._greet(time.monotonic() + connect_s)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _greet(self, until: float) -> None:
        """Say hello until the drive answers; while another source holds the lease, as long as that may take to run out."""
        patience = until
        while True:
            if not self._socket.poll(50, zmq.POLLOUT):
                if time.monotonic() > until:
                    raise InputError(f"drive {self.address}: no answer; start one with: robopolicy drive robot.type=... --bind {self.address}")
                continue
            try:
                reply = self._ask("hello", {"who": f"process {os.getpid()}"}, max(until - time.monotonic(), 0.1))
            except RobotGone as error:
                raise InputError(str(error)) from error
            if reply.kind == "ready":
                break
            if reply.meta.get("code") != "busy" or time.monotonic() > patience:
                raise InputError(f"drive {self.address}: {reply.meta.get('text', 'refused')}")
            patience = min(patience, time.monotonic() + 1.5 * float(reply.meta.get("lease_s", 0)))
            time.sleep(0.1)
        try:
            self.spec = Spec.from_dict(json.loads(reply.value("spec", str)))
            self.info = info_from_dict(json.loads(reply.value("info", str)))
            self.latch = Path(reply.value("latch", str))
        except (WireError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"drive {self.address}: not a drive's greeting: {error}") from error
        self._session = reply.session
        sizes = Limits.of_observations(self.spec.observation)
        self._limits = Limits(sizes.frames, max(sizes.frame_bytes, 1 << 16), 1 << 20)

    def read(self, timeout_s: float) -> Observation:
        until = time.monotonic() + timeout_s
        while True:
            while (message := self._receive()) is not None:
                self._take(message)
            if self._readings:
                return self._readings.popleft()
            if self._fault:
                raise RobotGone(self._fault)
            left = until - time.monotonic()
            if left <= 0:
                raise RobotGone(f"drive {self.address}: no reading for {timeout_s:g} s")
            self._socket.poll(math.ceil(1e3 * left))

    def _take(self, message: Message) -> None:
        """Keep a reading in place of the one that waits, unless that is the end of an episode; note why there will be no more."""
        if message.kind == "error" and message.meta.get("code") in ("gone", "lease"):
            self._fault = f"drive {self.address}: {message.meta.get('text', 'the robot is gone')}"
        if message.kind != "reading" or message.session != self._session:
            return
        try:
            found = observation_of(message)
        except (WireError, KeyError) as error:
            raise RobotGone(f"drive {self.address} sent a malformed reading: {error}") from error
        if found.tick <= self._newest:
            return
        self._newest = found.tick
        if self._readings and not (self._readings[-1].ended and found.episode != self._readings[-1].episode):
            self._readings.pop()
            self.skipped += 1
        self._readings.append(found)

    def command(self, tick: int, command: np.ndarray, reference: Reference | None) -> None:
        arrays = {"command": command if command.dtype == np.float32 else np.asarray(command, np.float64)}
        if reference is not None:
            arrays["reference"] = np.stack([reference.position, reference.velocity, reference.acceleration])
        self._say("command", {"tick": tick}, arrays)

    def tell(self, kind: str) -> None:
        self._say(kind, {})

    def stop(self, cause: str) -> None:
        who = f"process {os.getpid()}"
        try:
            reply = self._ask("stop", {"cause": cause[:500], "who": who}, _REPLY_S)
            failed = "" if reply.kind == "stopped" else f"drive {self.address}: the stop was refused: {reply.meta.get('text', reply.kind)}"
        except RobotGone as error:
            failed = str(error)
        if failed:  # a drive that is deaf, or comes back later, still looks at its latch
            _, unlatched = stop_all([self.latch.parent], cause, who)
            raise RobotGone(f"{failed}; {unlatched[0] if unlatched else _LATCHED}")

    def reset(self, episode: int | None) -> None:
        reply = self._ask("reset", {} if episode is None else {"episode": episode}, _REPLY_S)
        if reply.kind == "error":
            raise RobotGone(f"drive {self.address}: {reply.meta.get('text', 'reset refused')}")
        self.skipped += len(self._readings)
        self._readings.clear()  # they came before the answer, and are of the episode before

    def report(self) -> dict[str, Any]:
        try:
            return json.loads(self._ask("report", {}, _REPLY_S).value("report", str))
        except (WireError, ValueError) as error:
            raise RobotGone(f"drive {self.address}: no report: {error}") from error

    def close(self) -> None:
        if self._session:
            self._say("bye", {})
            self._session = 0
        self._context.destroy(linger=100)

    def _say(self, kind: str, meta: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> bool:
        """Send without waiting: what cannot go now would come too late, and the drive brakes by itself."""
        self._sequence += 1
        return send(self._socket, Message(kind, self._session, self._sequence, meta=meta, arrays=arrays or {}))

    def _ask(self, kind: str, meta: dict[str, Any], timeout_s: float) -> Message:
        """Send and wait for the answer to exactly this; readings that come in between are kept for :meth:`read`."""
        until = time.monotonic() + timeout_s
        while not self._say(kind, meta):
            if time.monotonic() > until or not self._socket.poll(math.ceil(1e3 * (until - time.monotonic())), zmq.POLLOUT):
                raise RobotGone(f"drive {self.address}: the connection is gone")
        asked = self._sequence
        while (left := until - time.monotonic()) > 0:
            self._socket.poll(math.ceil(1e3 * left))
            while (message := self._receive()) is not None:
                if message.kind != "reading" and message.sequence == asked:
                    return message
                self._take(message)
        raise RobotGone(f"drive {self.address}: no answer within {timeout_s:g} s")

    def _receive(self) -> Message | None:
        frames = receive(self._socket, self._limits)
        if frames is None:
            return None
        try:
            return decode(frames, self._limits)
        except WireError as error:
            raise RobotGone(f"drive {self.address}: {error}") from error


class _Local:
    """A drive in this process: in lock-step it ticks with every command or hold, else when the next reading is asked for."""

    skipped = 0

    def __init__(self, drive: Drive, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.spec, self.info, self.latch, self._drive = drive.spec, drive.info, drive.latch.path, drive
        self._clock, self._sleep = clock, sleep
        self._lockstep = drive.info.lockstep
        self._grid: Grid | None = None
        self._closed = False

    def read(self, timeout_s: float) -> Observation:
        if not self._lockstep:
            self._wait()
        elif self._drive.reading.tick < 0:
            self._drive.tick()  # the first reading; later ones come with the commands, which alone let time pass
        if self._drive.reading.observation is None:
            raise RobotGone(self._drive.reading.cause)
        return self._drive.reading.observation

    def _wait(self) -> None:
        """Tick at the next point of the grid."""
        if self._grid is None:
            self._grid = Grid(self.info.rate_hz, self._clock())
        left = self._grid.due - self._clock()
        if left > 0:
            self._sleep(left)
        now = self._clock()
        self._drive.tick(now, self._grid.begin(now))

    def command(self, tick: int, command: np.ndarray, reference: Reference | None) -> None:
        self._drive.offer(command, reference, tick)
        if self._lockstep:
            self._drive.tick()

    def tell(self, kind: str) -> None:
        {"hold": self._drive.hold, "resume": self._drive.resume, "alive": self._drive.alive}[kind]()
        if kind == "hold" and self._lockstep:
            self._drive.tick()

    def stop(self, cause: str) -> None:
        self._drive.stop(cause, "the runtime")
        self._come_to_rest()

    def reset(self, episode: int | None) -> None:
        self._drive.reset(episode)

    def report(self) -> dict[str, Any]:
        return self._drive.report()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._drive.hold("closing")
            if self._drive.reading.state == "active":
                self._drive.tick()  # what has no brake is held, too
            self._come_to_rest()
            self._drive.close()

    def _come_to_rest(self) -> None:
        """Tick until nothing moves: nobody else gives this drive its ticks."""
        while self._drive.reading.observation is not None and not self._drive.settled:
            self._drive.tick() if self._lockstep else self._wait()
