"""The twin's server: who commands the world, and what it is told, over ZeroMQ."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import zmq

from real.router import bound_router
from real.server import Refusal
from real.wire import Limits, Message, WireError, decode, receive, send
from robopolicy.twin.world import TwinEpisode, World

_LEASE_S = 5.0  # a session that is silent for longer can be taken over


class TwinServer:
    """Serves a world as a robot: hello, read, write, hold, stop, clear, reset, report, bye.

    Only one session commands at a time; it begins with the first episode. ``stop`` is latched until ``clear`` or a new session.

    Args:
        world: The world.
        bind: Loopback address; port 0 takes any free one. See :attr:`address`.
        log: Where lines go.

    Raises:
        InputError: if ``bind`` is not loopback or cannot be bound.
    """

    def __init__(self, world: World, bind: str, log: Callable[[str], None] = print) -> None:
        self.world, self._log = world, log
        self._limits = Limits.of_actions(world.env.spec.action)
        self._session, self._identity, self._sequence, self._heard = 0, b"", 0, -math.inf
        self._stopped, self._told = False, 0
        self._context, self._socket, self.address = bound_router(bind, self._limits)

    def serve(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run the world and answer until ``stopped()``, looked at every 0.1 s; then close."""
        try:
            while not stopped():
                self.step(0.1)
        finally:
            self.close()

    def step(self, wait_s: float) -> None:
        """Wait for a message or the next step of the world, and do what there is to do."""
        until_step = self.world.advance(time.monotonic())
        if until_step < 0.001:  # finer than poll waits
            time.sleep(until_step)
            wait_s = 0.0
        self._socket.poll(int(1e3 * min(wait_s, until_step)))
        while (frames := receive(self._socket, self._limits)) is not None:
            self._answer(frames)
        self._tell()

    def close(self) -> None:
        """Release the address and the world; may be called twice."""
        self._context.destroy(linger=0)
        self.world.env.close()

    def _tell(self) -> None:
        """Say how episodes ended, one line each."""
        finished = self.world.finished()
        for record in finished[self._told :]:
            self._log(record.line())
        self._told = len(finished)

    def _answer(self, frames: list[zmq.Frame]) -> None:
        identity, session, sequence, quiet = frames[0].bytes, 0, 0, False
        try:
            message = decode(frames[1:], self._limits)
            session, sequence, quiet = message.session, message.sequence, message.meta.get("quiet") is True
            if message.kind == "hello":
                reply = self._open(identity, message)
                session = self._session
            else:
                reply = self._obey(identity, message)
        except WireError as error:
            reply = Message("error", meta={"code": "wire", "text": str(error)})
        except Refusal as error:
            reply = Message("error", meta={"code": error.code, "text": str(error)})
        if reply is not None and (reply.kind == "error" or not quiet):  # a commander in a hurry wants to hear of refusals alone
            reply.session, reply.sequence = session, sequence
            sent = send(self._socket, reply, identity)  # a client that has gone gets none
            self.world.delivered |= sent and reply.meta.get("ended") is True

    def _open(self, identity: bytes, message: Message) -> Message:
        now, world = time.monotonic(), self.world
        if self._session and identity != self._identity and now - self._heard < _LEASE_S:
            raise Refusal("busy", "another session commands this robot")
        self._session, self._identity, self._sequence, self._heard = secrets.randbits(63) or 1, identity, message.sequence, now
        self._stopped, self._told = False, 0
        if world.record.length or world.record.index or world.ended:
            world.restart()
        self._log("session opened")
        meta: dict[str, Any] = {
            "robot_spec": json.dumps(world.env.spec.to_dict()),
            "name": f"twin of {world.env.task}",
            "rate_hz": world.rate_hz,
            "on_silence": "holds",
            "silence_s": world.silence_s,
            "lockstep": world.lockstep,
            "episodes": world.episodes,
        }
        if world.joints is not None:
            meta["substeps"], meta["model"] = world.substeps, world.joints.robot_model
            for name, value in (("motion", world.joints.motion.to_dict()), ("barriers", dict(world.joints.barriers)), ("home", list(world.joints.home))):
                meta[name] = json.dumps(value, allow_nan=False)
        return Message("ready", fingerprint=world.env.spec.fingerprint(), meta=meta)

    def _obey(self, identity: bytes, message: Message) -> Message | None:
        """Do what the session's owner asks and return the newest observation."""
        now, world = time.monotonic(), self.world
        if message.session != self._session or identity != self._identity or not self._session:
            raise Refusal("session", "this session does not command the robot; greet again")
        if message.sequence <= self._sequence:
            raise Refusal("sequence", f"sequence {message.sequence}: expected more than {self._sequence}")
        self._sequence, self._heard = message.sequence, now
        if message.kind == "bye":
            world.write(None, now)
            self._session = 0
            return None
        if message.kind == "report":
            return Message("report", meta={"records": json.dumps([asdict(r) for r in world.finished()]), "slips": world.slips})
        if message.kind == "write":
            self._write(message, now)
        elif message.kind in ("hold", "stop"):
            world.event(message.kind, message.sequence)
            self._stopped |= message.kind == "stop"
            world.write(None, now)
        elif message.kind == "clear":
            self._stopped = False
        elif message.kind == "reset":
            if message.meta.get("episode", world.record.seed) == world.record.seed:  # else the next has begun by itself
                world.ended = world.delivered = True
                world.write(None, now)
        elif message.kind != "read":
            raise Refusal("kind", f"kind {message.kind!r}: a robot answers hello, read, write, hold, stop, clear, reset, report and bye")
        observation, age = world.reading(time.monotonic())
        meta = {"episode": world.record.seed, "ended": world.ended, "success": world.record.success}
        return Message("observation", ages_s=dict.fromkeys(observation, age), meta=meta, arrays=dict(observation))

    def _write(self, message: Message, now: float) -> None:
        """Log the command of a write and do it, unless it was meant for an episode that is over. Raises Refusal when the drive would not take it."""
        world, command, meant = self.world, message.arrays.get("action"), message.meta.get("episode")
        late = world.joints is not None and isinstance(meant, int) and meant != world.record.seed
        reason = self._objection(command)
        numeric = command if command is not None and command.dtype.kind in "fiu" else None
        world.event("write", message.sequence, numeric, reason[0] or ("episode" if late else ""), meant if isinstance(meant, int) else None)
        if reason[0]:
            raise Refusal(*reason)
        if not late:
            assert command is not None
            action = world.env.spec.action
            world.write(action.clip(command) if world.joints is None else np.clip(command, action.low, action.high, dtype=np.float64), now)

    def _objection(self, command: np.ndarray | None) -> tuple[str, str]:
        """Return why the drive does not take a command, as code and text; empty: it does."""
        if self._stopped:
            return "stopped", "the robot was stopped; `clear` or a new session ends that"
        dim = self.world.env.spec.action.dim
        if command is None or command.shape != (dim,) or not np.isfinite(command).all():
            return "command", f"command: expected {dim} finite numbers"
        return "", ""


def records_json(task: str, records: list[TwinEpisode]) -> dict[str, Any]:
    """Return the records of a run, JSON-ready."""
    return {"task": task, "successes": sum(r.success for r in records), "episodes": [asdict(r) for r in records]}
