"""Starting a drive in a process and a session of its own: it outlives whoever started it, to brake, hold and stop the robot."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from real.child import announced, environment, module_command
from real.drive import DriveOptions


class DriveProcess:
    """A drive that has been started here; a context manager that asks it to end.

    Args:
        robot: ``{"type": NAME, ...options of the driver}``.
        folder: For its log (``drive.log``) and the address that it announces.
        options: See ``real.drive.DriveOptions``.
        bind: Loopback address; port 0 takes any free one.
        linger_s: Once this process has gone, it ends by itself when no source has spoken for this long; None: only when asked.

    Attributes:
        process: The child; killing this process leaves it running.
        log: What it says.
    """

    def __init__(
        self, robot: Mapping[str, Any], folder: Path, options: DriveOptions = DriveOptions(), bind: str = "tcp://127.0.0.1:0", linger_s: float | None = 30.0
    ) -> None:
        self._file, self.log = folder / "drive.address", folder / "drive.log"
        self._file.unlink(missing_ok=True)
        command = [*module_command("real.drive_server"), json.dumps(dict(robot)), "--options", options.model_dump_json(exclude_defaults=True)]
        command += ["--bind", bind, "--announce", str(self._file), *([] if linger_s is None else ["--linger", str(linger_s), "--parent", str(os.getpid())])]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(), start_new_session=True)

    def address(self, timeout_s: float = 30.0) -> str:
        """Return the address once it is served. Raises InputError with the last line of its log if that never happens."""
        return announced(self._file, self.process, self.log, "the drive", timeout_s)

    def end(self, timeout_s: float = 15.0) -> None:
        """Ask it to end: it brakes, holds, requests the robot's stop. One that does not is killed; the robot does what silence does."""
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> DriveProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
