"""A camera beside any robot: the newest picture with the time at which it was taken, from a process that never makes one wait."""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import Any

from policies.spec import InputError
from real.camera_capture import CameraConfig
from real.camera_memory import COUNTS, Frame, FrameMemory
from real.child import environment, module_command

_HANGS_S = 10.0  # beyond a source's own patience: the process is then started anew
_AGAIN_S = 1.0  # between two starts of a process that keeps ending


class Camera:
    """Reads one source in a process of its own; a context manager.

    Args:
        config: The camera.
        name: What it is called in messages.

    Attributes:
        shape: (H, W, 3) of its pictures, as the first one had it; it stays.
        restarts: How often its process had to be started anew.

    Raises:
        InputError: one line: the source cannot be opened, has not taken an option, or no picture came in time.
    """

    def __init__(self, config: CameraConfig, name: str = "camera") -> None:
        self.config, self.name, self.restarts = config, name, 0
        self._memory = FrameMemory()
        self._seen: Frame | None = None
        self._started = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = self._start()
        try:
            self.shape = self._first()
        except BaseException:
            self.close()
            raise

    def newest(self) -> Frame:
        """Return the newest picture; the same one until there is a new one. Never waits; a dead or hanging process is replaced."""
        self._look_after()
        found = self._memory.newest(self._seen.number if self._seen else 0)
        if found is not None:
            self._seen = found
        assert self._seen is not None  # the first picture was there before the constructor returned
        return self._seen

    @property
    def fault(self) -> str:
        """Why there are no new pictures at present; empty: there are."""
        return self._memory.text

    @property
    def frozen(self) -> bool:
        """Whether the source repeats one picture."""
        return bool(self._memory["frozen"])

    def counts(self) -> dict[str, Any]:
        """Return what has been counted, JSON-ready.

        ``frames`` handed on, ``dropped`` by the source's own times, ``repeated`` ones, ``freezes``, ``connections``, ``losses``,
        ``reconnects``, ``restarts`` of the process, ``rate_hz`` as measured, ``fault``.
        """
        counted = {name: self._memory[name] for name in COUNTS}
        reconnects = max(counted["connections"] - 1, 0)
        return {**counted, "reconnects": reconnects, "restarts": self.restarts, "rate_hz": self._memory["rate_mhz"] / 1e3, "fault": self.fault}

    def close(self) -> None:
        """End the process; may be called twice."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._memory.file >= 0:
            os.close(self._memory.file)
            self._memory.file = -1

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        shape = [str(n) for n in self._memory.shape or ()]
        command = [*module_command("real.camera_process"), self.config.model_dump_json(), str(self._memory.file), *shape]
        self._memory["alive_ns"] = time.monotonic_ns()
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), pass_fds=(self._memory.file,),
            start_new_session=True,
        )  # fmt: skip

    def _first(self) -> tuple[int, int, int]:
        """Wait for the first picture and return its shape (H, W, 3)."""
        assert self._process is not None and self._process.stdout is not None
        until = time.monotonic() + self.config.connect_s
        while not select.select([self._process.stdout], [], [], 0.05)[0]:
            said = self._memory.text
            if said and self.config.kind != "address":  # a device or file is there at once or not at all
                raise InputError(f"camera {self.name!r}: {said}")
            if time.monotonic() > until:
                raise InputError(f"camera {self.name!r}: no picture after {self.config.connect_s:g} s{f': {said}' if said else ''}")
        words = self._process.stdout.readline().split()
        if len(words) != 3:
            raise InputError(f"camera {self.name!r}: {self._memory.text or 'its process has ended'}")
        shape = int(words[0]), int(words[1]), int(words[2])
        self._memory.open(shape)
        while (found := self._memory.newest()) is None:
            if time.monotonic() > until:
                raise InputError(f"camera {self.name!r}: no picture after {self.config.connect_s:g} s")
            time.sleep(0.002)
        self._seen = found
        return shape

    def _look_after(self) -> None:
        """Replace a process that has ended or hangs; between two starts some time passes."""
        now = time.monotonic()
        if self._process is None or now - self._started < _AGAIN_S:
            return
        ended = self._process.poll() is not None
        if not ended and now - 1e-9 * self._memory["alive_ns"] < self.config.stall_s + _HANGS_S:
            return
        if not ended:
            self._process.kill()
        _close_pipes(self._process)
        self._memory.text = f"{self.config.shown}: the camera's process {'has ended' if ended else 'hangs'}; started anew"
        self.restarts, self._started = self.restarts + 1, now
        self._process = self._start()


def _end(process: subprocess.Popen[bytes]) -> None:
    _close_pipes(process)
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
