"""A browser as a device: keyboard, gamepad, touch and phone, through a page that a process of its own serves.

The page's process alone speaks with browsers and makes images; it joins this one through a socket in a private folder.
So nothing that a browser does costs the control loop more than reading a short message.
"""

from __future__ import annotations

import json
import math
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
import zmq

from policies.config import Config
from policies.spec import InputError, Spec
from real.child import announced, environment, module_command
from real.context import LinkContext
from real.robot import RobotInfo
from real.teleop.source import EVENTS, Input, Status

_START_S = 30.0  # that the page's process may take to be ready


class PageConfig(Config):
    """Where the page is, and who may use it.

    Attributes:
        bind: Address of this machine that it is served at; another than loopback lets other machines in, who have the key.
        port: 0: any free one.
        key: What lets a browser take the controls, at least 16 characters; None: a new one for every session.
        certificate: File with the certificate (PEM) for HTTPS; None: HTTP.
        certificate_key: File with its private key.
        announce: File that gets the page's address, key included, once it is served; None: none.
        stale_s: Age of what a browser says, its way here and back included, from which the clutch is open.
        image_rate_hz: Images a second and camera.
        quality: Of their JPEG.
    """

    bind: str = "127.0.0.1"
    port: Annotated[int, pydantic.Field(ge=0, le=65535)] = 8090
    key: Annotated[str, pydantic.Field(min_length=16, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    certificate: str | None = None
    certificate_key: str | None = None
    announce: str | None = None
    stale_s: Annotated[float, pydantic.Field(gt=0, le=2)] = 0.2
    image_rate_hz: Annotated[float, pydantic.Field(gt=0, le=60)] = 20.0
    quality: Annotated[int, pydantic.Field(ge=10, le=95)] = 75


class PageSource:
    """The run's end of the page; see :class:`real.teleop.source.Source`.

    Args:
        config: See :class:`PageConfig`.
        clock_ns: Monotonic nanoseconds, the machine's.

    Attributes:
        url: Where the page is opened, with its key.
        notes: Lines that the person who started it should read.
        browsers: How many browsers are connected.

    Raises:
        InputError: one line: the address cannot be served, no certificate for HTTPS, a package that is missing.
    """

    Config = PageConfig
    name = "page"
    help: Mapping[str, str] = {
        "W S A D": "forward, back, left, right",
        "R F": "up, down",
        "I K J L U O": "turn: pitch, yaw, roll",
        "E Q Space": "gripper: open, close, its other end",
        "+ -": "speed",
        "Enter": "record an episode",
        "Y N Backspace": "success, failure, discard",
        "T G": "take over, give back",
        "H C Z V": "home, frame, hold, resume",
        "Escape": "STOP",
    }

    def __init__(self, config: PageConfig = PageConfig(), clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.stale_s, self.browsers = config.stale_s, 0
        self._clock_ns = clock_ns
        self._input, self._proven_ns, self._seen, self._events = Input(), 0, 0, ()
        self._folder = tempfile.TemporaryDirectory(prefix="robopolicy-page-", ignore_cleanup_errors=True)
        self._context = LinkContext()
        self._link = self._context.socket(zmq.PAIR)
        for option, value in ((zmq.SNDHWM, 64), (zmq.RCVHWM, 256), (zmq.LINGER, 0), (zmq.MAXMSGSIZE, 1 << 16)):
            self._link.setsockopt(option, value)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.url, self.notes = self._start(config)
        except BaseException:
            self.close()
            raise

    def _start(self, config: PageConfig) -> tuple[str, tuple[str, ...]]:
        """Start the page's process and return the address and the lines that it announces."""
        folder = Path(self._folder.name)
        link = f"ipc://{folder}/link"
        self._link.bind(link)
        log, file = folder / "page.log", folder / "announced"
        asked = {"config": config.model_dump(), "key": config.key or secrets.token_urlsafe(16), "link": link, "announce": str(file)}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                module_command("real.teleop.page_process"), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=environment()
            )
        stream = self._process.stdin
        assert stream is not None
        try:  # not as an argument: arguments of processes are seen by everyone on the machine
            stream.write(json.dumps(asked).encode() + b"\n")
            stream.flush()  # it stays open: its end is how the page's process learns of ours
        except BrokenPipeError:
            raise InputError(f"the teleoperation page ended: {log.read_text(errors='replace')[-300:]}") from None
        found = json.loads(announced(file, self._process, log, "the teleoperation page", _START_S))
        return str(found["url"]), tuple(str(line) for line in found["notes"])

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`."""
        names = list(info.motion.names) if info.motion is not None else list(spec.action.names or ())
        fields = {name: list(field.names) for name, field in spec.observation.fields.items() if field.names}
        self._say({"robot": {"name": info.name, "joints": names if info.motion is not None else [], "actions": names, "fields": fields}})

    def join(self, telemetry: str, operator: str, token: str = "", latch: str = "") -> None:
        """Let the page show a run, and stop and hold it without this process.

        Args:
            telemetry: Address of the run's telemetry.
            operator: Address of its operator channel.
            token: Of the operator channel, for ``resume``.
            latch: File of the drive's latched stop, for a stop when the run does not answer.
        """
        self._say({"run": {"telemetry": telemetry, "operator": operator, "token": token, "latch": latch}})

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        while (data := self._heard()) is not None:
            self._take(data)
        events, self._events = self._events, ()
        age = 1e-9 * (self._clock_ns() - self._proven_ns) if self._proven_ns else math.inf
        now = self._input if age <= self.stale_s else Input(dial=self._input.dial)
        return Input(now.twist, now.joints, None, now.pose, now.grip, None, now.clutch, now.dial, events, age)

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`."""
        self._say({"cue": cue})

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`."""
        self._say({"status": asdict(status)})

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def _heard(self) -> bytes | None:
        try:
            return None if self._context.closed else self._link.recv(zmq.NOBLOCK)
        except zmq.ZMQError:
            return None

    def _say(self, message: dict[str, Any]) -> None:
        """Tell the page's process; one that does not listen misses it."""
        try:
            if not self._context.closed:
                self._link.send(json.dumps(message, default=str).encode(), zmq.NOBLOCK)
        except zmq.ZMQError:
            return

    def _take(self, data: bytes) -> None:
        """Take in what the page's process says, which has checked it."""
        said = json.loads(data)
        beat = said["beat"]
        self._proven_ns, self.browsers = said["proven_ns"], said["browsers"]
        joints = np.array(beat["joints"]) if beat["joints"] else None
        pose = matrix(beat["pose"]) if beat["pose"] else None
        self._input = Input(np.array(beat["axes"]), joints, None, pose, beat["gripper"], None, beat["clutch"], beat["dial"])
        for number, name in said["events"]:
            if number > self._seen and name in EVENTS:
                self._seen, self._events = number, (*self._events, name)


def matrix(pose: list[float]) -> np.ndarray:
    """Return the place (x, y, z) and the quaternion (w, x, y, z) of ``pose`` (7,) as a transform (4, 4)."""
    w, x, y, z = np.array(pose[3:]) / math.hypot(*pose[3:])
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = pose[:3]
    return out
