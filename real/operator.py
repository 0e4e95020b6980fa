"""The operator's channel: hold, stop, resume, deadman, speed and commands, given by other processes of this machine.

Anybody on the machine may make the robot safer: hold it, stop it, slow it down. What lets it move (resume, the deadman,
a higher speed, commands) needs the token, which lies in a file that only this user can read. Requests carry the time at which
they were made, on the monotonic clock that all processes of a machine share: a resume or a heartbeat that waited in a
queue is stale and refused, a stop never is. The runtime asks without waiting, every tick.

A person who takes over from a policy sends commands (:meth:`OperatorClient.command`); what they stand for is up to who listens,
and they pass the same filter as the policy's. They hold for as long as a heartbeat does: silence gives the policy back.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from policies.spec import InputError
from real.context import LinkContext
from real.router import bound_router
from real.wire import Limits, Message, WireError, checked_connect, configure, decode, receive, send

KINDS = ("hold", "stop", "resume", "deadman", "speed", "command")
FILE_NAME = "operator.json"
_LIMITS = Limits(frames=0, frame_bytes=4096, header_bytes=4096)
_STALE_NS = 1_000_000_000  # a resume that waited longer is not carried out
_BEAT_NS = 200_000_000  # a heartbeat or a command that waited longer is none
_ELEMENTS = 64  # numbers in a command, at most
_HOLDERS = 8  # deadmen at once, at most
_PER_POLL = 16  # a flood of messages costs the loop no more than that


class OperatorRefused(InputError):
    """The runtime did not do what was asked for, or did not answer; one line says why."""


class Request(NamedTuple):
    """What an operator asks for, already allowed: ``hold``, ``stop``, ``resume``, ``deadman`` (held) or ``speed`` and its number."""

    kind: str
    value: float = 0.0


class OperatorChannel:
    """The runtime's end; no method waits.

    Args:
        bind: Loopback address, ``tcp://127.0.0.1:PORT`` (port 0: any free one) or ``ipc://PATH``.
        folder: Where ``operator.json`` (0600: address and token) is left for page and command line; None: nowhere.
        telemetry: Address of the run's telemetry, left there too.
        latch: File of the latched stop of the run's drive, left there too: for a stop when the runtime does not answer.
        clock_ns: Monotonic nanoseconds, the machine's.

    Attributes:
        address: Where it is bound.
        token: What lets a robot move.
        speed: The speed in force: set it when it changes otherwise; without the token it can only be lowered.
        refused: Cause -> requests that were refused.

    Raises:
        InputError: for an address that is not loopback or cannot be bound, or a folder that cannot be written.
    """

    def __init__(
        self, bind: str = "tcp://127.0.0.1:0", folder: Path | None = None, telemetry: str = "", latch: str = "", *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self.token, self.speed, self.refused = secrets.token_hex(16), 1.0, Counter[str]()
        self.file = None if folder is None else folder / FILE_NAME
        self._clock_ns = clock_ns
        self._held: dict[bytes, int] = {}  # who holds a deadman -> when that was said
        self._commanded: tuple[int, tuple[float, ...]] | None = None  # when the newest command was given, and what
        self._context, self._socket, self.address = bound_router(bind, _LIMITS, options={zmq.RCVHWM: 64})
        try:
            if self.file is not None:
                _write_private(self.file, {"address": self.address, "telemetry": telemetry, "latch": latch, "token": self.token, "pid": os.getpid()})
        except BaseException:
            self._context.destroy(linger=0)
            raise

    @property
    def deadman_age_s(self) -> float:
        """Seconds since somebody with the token last said that the deadman is held; infinity if nobody holds it."""
        return 1e-9 * (self._clock_ns() - max(self._held.values())) if self._held else math.inf

    @property
    def command(self) -> tuple[float, ...] | None:
        """The numbers of the newest command, of whoever has the token, for as long as it is fresh; None: nobody has taken over."""
        if self._commanded is None or self._clock_ns() - self._commanded[0] > _BEAT_NS:
            return None
        return self._commanded[1]

    def poll(self) -> list[Request]:
        """Return what has been asked for and is allowed, stops first; the rest is refused, counted and told to the sender."""
        out = []
        for _ in range(_PER_POLL):
            frames = receive(self._socket, _LIMITS)
            if frames is None:
                break
            identity, sequence = frames[0].bytes, 0
            try:
                message = decode(frames[1:], _LIMITS)
                sequence = message.sequence
                request = self._allowed(identity, message)
                if request.kind != "command" and (request.kind != "deadman" or request.value):  # a deadman let go is one no longer said to be held
                    out.append(request)
                answer = Message("ok", sequence=sequence)
            except (WireError, OperatorRefused) as error:
                self.refused[error.args[1] if isinstance(error, OperatorRefused) else "malformed"] += 1
                answer = Message("error", sequence=sequence, meta={"error": str(error.args[0])[:500]})
            send(self._socket, answer, identity)
        return sorted(out, key=lambda request: request.kind != "stop")

    def close(self) -> None:
        """Take no more requests; the file goes too, unless another runtime has written its own."""
        if self.file is not None and not self._context.closed:
            try:
                if json.loads(self.file.read_text(encoding="utf-8")).get("token") == self.token:
                    self.file.unlink()
            except (OSError, ValueError):
                self.refused["file gone"] += 0  # somebody removed it: nothing is left to do
        self._context.destroy(linger=0)

    def _allowed(self, identity: bytes, message: Message) -> Request:
        """Return the request of a message. Raises WireError or OperatorRefused (text, cause)."""
        kind, value = message.kind, message.meta.get("value")
        if kind not in KINDS:
            raise OperatorRefused(f"request {kind[:40]!r} is none; expected one of {', '.join(KINDS)}", "unknown request")
        if kind in ("deadman", "speed"):
            value = message.value("value", float)
            if not 0 <= value <= 1:
                raise OperatorRefused(f"{kind}: expected a number from 0 to 1, found {value:g}", "bad value")
        elif value is not None:
            raise OperatorRefused(f"{kind}: takes no value", "bad value")
        if kind == "command":
            self._take(message)
        if kind == "resume" or (kind == "deadman" and value) or (kind == "speed" and value is not None and value > self.speed):
            self._authorise(kind, message)
        if kind == "deadman":
            self._note(identity, bool(value), message)
        if kind == "speed":
            self.speed = float(value or 0.0)
        return Request(kind, float(value or 0.0))

    def _authorise(self, kind: str, message: Message) -> None:
        if not hmac.compare_digest(message.value("token", str).encode(), self.token.encode()):
            raise OperatorRefused(f"{kind}: needs the token of this run ({FILE_NAME})", "no token")
        age_ns = self._clock_ns() - message.value("sent_ns", int)
        if not -1_000_000 <= age_ns <= (_BEAT_NS if kind in ("deadman", "command") else _STALE_NS):
            raise OperatorRefused(f"{kind}: was asked for {1e-9 * age_ns:.2f} s ago", "stale")

    def _take(self, message: Message) -> None:
        """Keep the numbers of a command; none of them gives back what was taken over."""
        values = message.value("values", list)
        good = len(values) <= _ELEMENTS and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        if not good:
            raise OperatorRefused(f"command: expected up to {_ELEMENTS} finite numbers", "bad value")
        self._authorise("command", message)
        self._commanded = (message.value("sent_ns", int), tuple(float(v) for v in values)) if values else None

    def _note(self, identity: bytes, held: bool, message: Message) -> None:
        now = self._clock_ns()
        self._held = {who: at for who, at in self._held.items() if now - at <= _STALE_NS}
        if not held:
            self._held.pop(identity, None)
        elif identity in self._held or len(self._held) < _HOLDERS:
            self._held[identity] = message.value("sent_ns", int)
        else:
            raise OperatorRefused(f"deadman: {_HOLDERS} hold it already", "too many")


class OperatorClient:
    """The other end: page and command line.

    Args:
        address: Of the channel.
        token: Of the run; empty: only hold, stop and a lower speed are possible.
        timeout_s: How long an answer is waited for.

    Raises:
        InputError: for an address that is not loopback.
    """

    def __init__(self, address: str, token: str = "", *, timeout_s: float = 2.0) -> None:
        self.address, self.token, self._timeout_s, self._sequence = address, token, timeout_s, 0
        self._context = LinkContext()
        self._socket = self._context.socket(zmq.DEALER)
        configure(self._socket, _LIMITS)
        try:
            checked_connect(self._socket, address)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    @classmethod
    def from_file(cls, file: Path, **options: Any) -> OperatorClient:
        """Connect to the run whose ``operator.json`` this is. Raises InputError."""
        found = read_file(file)
        return cls(found["address"], found["token"], **options)

    def request(self, kind: str, value: float | None = None) -> None:
        """Ask and wait for the answer.

        Raises:
            OperatorRefused: if it is refused, or nobody answers in time.
        """
        until = time.monotonic() + self._timeout_s
        while not self._say(kind, value):
            if time.monotonic() > until:
                raise OperatorRefused(f"{kind}: nobody listens at {self.address}")
            time.sleep(0.005)
        sequence = self._sequence
        while (left := until - time.monotonic()) > 0:
            self._socket.poll(int(1e3 * left) + 1)
            answer = self._answer()
            if answer is not None and answer.sequence == sequence:
                if answer.kind == "error":
                    raise OperatorRefused(str(answer.meta.get("error", "refused")))
                return
        raise OperatorRefused(f"{kind}: no answer from {self.address} in {self._timeout_s:g} s; the request may still be heard")

    def heartbeat(self, held: bool = True) -> bool:
        """Say that the deadman is held (or let go) without waiting for an answer; returns whether it could be sent."""
        while self._answer() is not None:
            continue
        return self._say("deadman", 1.0 if held else 0.0)

    def command(self, values: Sequence[float]) -> bool:
        """Take over from the policy with a command, or give back with none, without waiting for an answer; returns whether it could be sent.

        Args:
            values: (Da,) the action in robot units; it has to be said again within 0.2 s to go on. Empty: the policy goes on.
        """
        while self._answer() is not None:
            continue
        return self._say("command", values=[float(v) for v in values])

    def close(self) -> None:
        """Let go of the connection."""
        self._context.destroy(linger=100)

    def _say(self, kind: str, value: float | None = None, **more: Any) -> bool:
        self._sequence += 1
        meta: dict[str, Any] = {"token": self.token, "sent_ns": time.monotonic_ns(), **more}
        return send(self._socket, Message(kind, sequence=self._sequence, meta=meta if value is None else {**meta, "value": float(value)}))

    def _answer(self) -> Message | None:
        """Return the next answer that is one, None when there is none."""
        while (frames := receive(self._socket, _LIMITS)) is not None:
            try:
                return decode(frames, _LIMITS)
            except WireError:
                continue
        return None


def read_file(file: Path) -> dict[str, Any]:
    """Return address, telemetry, latch, token and pid of a run. Raises InputError if the file says none, or others could read it."""
    try:
        if file.stat().st_mode & 0o077:
            raise InputError(f"{file}: others on this machine can read the token; expected mode 0600")
        found = json.loads(file.read_text(encoding="utf-8"))
        texts = {key: str(found[key]) for key in ("address", "telemetry", "latch", "token")}
        return {**texts, "pid": int(found["pid"])}
    except FileNotFoundError:
        raise InputError(f"{file}: no runtime has left its address there; is one running? Else give --operator ADDRESS") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not what a runtime writes: {error}") from error


def _write_private(file: Path, value: dict[str, Any]) -> None:
    """Write JSON that only this user can read, as a whole or not at all. Raises InputError."""
    part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(value, out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from error
