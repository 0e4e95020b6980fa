"""Driver of the twin: a simulated world in another process (``robopolicy twin TASK``) behind the robot interface."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic
import zmq

from policies.config import Config
from policies.motion import MotionLimits
from policies.spec import InputError, Spec
from real.context import LinkContext
from real.robot import Observation, RobotGone, RobotInfo
from real.wire import Limits, Message, WireError, checked_connect, configure, decode, receive, send


class TwinConfig(Config):
    """Where the twin listens, and how long to wait for it, s."""

    address: str = "tcp://127.0.0.1:5556"
    timeout_s: pydantic.PositiveFloat = 2.0
    connect_s: pydantic.PositiveFloat = 10.0


class TwinRobot:
    """Client of ``robopolicy.twin.server.TwinServer``; see ``real.robot.Robot``.

    In lock-step :meth:`write` and :meth:`hold` step the world once and bring back the reading that :meth:`read` returns.

    Raises:
        InputError: if the address is not one, no twin answers, or another session commands it.
    """

    Config = TwinConfig

    def __init__(self, config: TwinConfig) -> None:
        self.config = config
        self._limits = Limits()
        self._session = self._sequence = 0
        self._held: Observation | None = None
        self._seen: int | None = None  # the episode that was read last: what a reset is meant for
        self._episode: int | None = None  # of the newest reading: what the next command is meant for
        self._context = LinkContext()
        self._socket = self._context.socket(zmq.DEALER)
        try:
            self._connect()
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _connect(self) -> None:
        """Greet until the twin answers; making a simulated world takes its time."""
        until, address = time.monotonic() + self.config.connect_s, self.config.address
        configure(self._socket, Limits(frame_bytes=1 << 26))
        checked_connect(self._socket, address)
        while not self._socket.poll(50, zmq.POLLOUT):
            if time.monotonic() > until:
                raise InputError(f"twin {address}: no answer within {self.config.connect_s:g} s; start one with: robopolicy twin TASK --bind {address}")
        try:
            ready = self._call("hello", timeout_s=max(until - time.monotonic(), 0.1))
            self.spec = Spec.from_dict(json.loads(ready.value("robot_spec", str)))
            episodes = ready.meta.get("episodes")
            self.info = RobotInfo(
                name=ready.value("name", str),
                rate_hz=ready.value("rate_hz", float),
                on_silence=ready.value("on_silence", str),
                silence_s=ready.value("silence_s", float),
                lockstep=ready.value("lockstep", bool),
                episodes=ready.value("episodes", int) if episodes is not None else None,
                **_joint_driven(ready),
            )
        except (RobotGone, WireError, json.JSONDecodeError) as error:
            raise InputError(f"twin {address}: {error}") from error
        self._session = ready.session
        self._limits = Limits.of_observations(self.spec.observation)

    def read(self) -> Observation:
        """Return the newest reading. Raises RobotGone when the twin does not answer."""
        held, self._held = self._held, None
        reading = held if held is not None else self._observe("read")
        self._seen = reading.episode
        return reading

    def write(self, command: np.ndarray) -> None:
        """Send one command (Da,); in lock-step the world steps. Raises RobotGone.

        Joint positions go as float64: float32 at 100 Hz would add a jerk of its own, and the log shall show what was sent.
        """
        self._command("write", {"action": np.ascontiguousarray(command, np.float64 if self.info.motion else np.float32)})

    def hold(self) -> None:
        """Keep the pose; in lock-step the world steps. Raises RobotGone."""
        self._command("hold", {})

    def stop(self) -> None:
        """Hold, and take no command until :meth:`clear` or a new session. Raises RobotGone."""
        self._command("stop", {})

    def clear(self) -> None:
        """Take commands again; in lock-step the world does not step. Raises RobotGone."""
        self._command("clear", {})

    def reset(self) -> None:
        """Give up the episode that was read last and begin the next, unless that has begun by itself. Raises RobotGone."""
        self._command("reset", {}, self._seen)

    def report(self) -> list[dict[str, Any]]:
        """Return the twin's own record of the finished episodes: index, seed, success, length, score, repeated, silent."""
        try:
            return json.loads(self._call("report").value("records", str))
        except (WireError, json.JSONDecodeError) as error:
            raise RobotGone(f"twin {self.config.address}: {error}") from error

    def close(self) -> None:
        """End the session; may be called twice."""
        if self._session:
            self._sequence += 1
            send(self._socket, Message("bye", self._session, self._sequence))
            self._session = 0
        self._context.destroy(linger=100)

    def _command(self, kind: str, arrays: Mapping[str, np.ndarray], episode: int | None = None) -> None:
        """In lock-step wait for the world's step; in real time only send, a refusal comes with the next reading."""
        meant = self._episode if episode is None else episode
        meta = {} if meant is None else {"episode": meant}
        if self.info.lockstep:
            self._held = self._observe(kind, arrays, meta)
        else:
            self._send(kind, arrays, self.config.timeout_s, {"quiet": True, **meta})

    def _observe(self, kind: str, arrays: Mapping[str, np.ndarray] | None = None, meta: dict[str, Any] | None = None) -> Observation:
        asked_ns = time.monotonic_ns()
        reply = self._call(kind, arrays, meta=meta)
        try:
            # The age is as of the reply, which left after we asked: counting from then, a reading is never held younger than it is
            stamps = {name: asked_ns - int(1e9 * reply.ages_s[name]) for name in reply.arrays}
            self._episode = reply.value("episode", int)
            return Observation(dict(reply.arrays), stamps, self._episode, reply.value("ended", bool), reply.value("success", bool))
        except (WireError, KeyError) as error:
            raise RobotGone(f"twin {self.config.address} sent a malformed reading: {error}") from error

    def _send(self, kind: str, arrays: Mapping[str, np.ndarray] | None, timeout_s: float, meta: dict[str, Any] | None = None) -> None:
        self._sequence += 1
        message = Message(kind, self._session, self._sequence, timeout_s, meta=meta or {}, arrays=dict(arrays or {}))
        if not send(self._socket, message) and not (self._socket.poll(math.ceil(1e3 * timeout_s), zmq.POLLOUT) and send(self._socket, message)):
            raise RobotGone(f"twin {self.config.address}: the connection is gone")

    def _call(self, kind: str, arrays: Mapping[str, np.ndarray] | None = None, timeout_s: float | None = None, meta: dict[str, Any] | None = None) -> Message:
        """Ask and wait for the answer to exactly this message; a refusal of an earlier command is raised here."""
        timeout_s = timeout_s or self.config.timeout_s
        until = time.monotonic() + timeout_s
        self._send(kind, arrays, timeout_s, meta)
        while (left := until - time.monotonic()) > 0:
            self._socket.poll(math.ceil(1e3 * left))
            frames = receive(self._socket, self._limits)
            if frames is None:
                continue
            try:
                reply = decode(frames, self._limits)
                if self._session and reply.session != self._session:
                    continue
                if reply.kind == "error":
                    raise RobotGone(f"twin {self.config.address} refused: {reply.value('text', str)}")
                if reply.sequence == self._sequence:
                    return reply
            except WireError as error:
                raise RobotGone(f"twin {self.config.address}: {error}") from error
        raise RobotGone(f"twin {self.config.address}: no answer within {timeout_s:g} s")


def _joint_driven(ready: Message) -> dict[str, Any]:
    """Return what a twin of a joint-driven robot says of it, for :class:`RobotInfo`; others say nothing. Raises WireError, InputError."""
    if "motion" not in ready.meta:
        return {}
    return {
        "substeps": ready.value("substeps", int),
        "motion": MotionLimits.from_dict(json.loads(ready.value("motion", str))),
        "model": ready.value("model", str),
        "barriers": json.loads(ready.value("barriers", str)),
        "home": tuple(float(v) for v in json.loads(ready.value("home", str))),
    }
