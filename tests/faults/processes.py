"""A process of the stack: started, waited for until it is ready, killed, stopped, gone on with, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.faults.frames import peak_bytes

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # a guard on a loaded machine, never a measure


class Process:
    """One command in a process of its own; a context manager.

    Args:
        name: What it is; its output goes to NAME-0.out, that of the next of that name to NAME-1.out.
        command: Words after the interpreter.
        folder: Where its files go.
        announces: File that it writes once it is ready; None: it is ready when it runs.
        environment: Added to that of the tests.
    """

    def __init__(self, name: str, command: Sequence[object], folder: Path, announces: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.name, self.command, self.announces, self.out = (
            name,
            [str(word) for word in command],
            announces,
            folder / f"{name}-{len(list(folder.glob(f'{name}-*.out')))}.out",
        )
        self._environment = dict(environment or {})
        self.start()

    def start(self) -> None:
        """Start it (again)."""
        self.killed = False
        if self.announces is not None:
            self.announces.unlink(missing_ok=True)
        path = os.pathsep.join(filter(None, [self._environment.get("PYTHONPATH"), str(ROOT)]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self._environment, "PYTHONPATH": path}
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *self.command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        """End it whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.out.read_text(errors="replace")

    @property
    def peak_bytes(self) -> int:
        """Most memory it has had resident."""
        return peak_bytes(self.pid)

    def ready(self) -> str:
        """Wait until it has announced its address, and return that."""
        assert self.announces is not None
        file = self.announces
        wait_until(file.exists, lambda: f"{self.name} is not ready, {self.process.poll()}: {self.said[-2000:]}", lambda: self.alive)
        return file.read_text()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP: it stands still and knows nothing of it."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """SIGINT, and return the exit status."""
        self.killed = True
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


def wait_until(
    condition: Callable[[], object], why: Callable[[], str] = lambda: "", possible: Callable[[], bool] = lambda: True, patience_s: float = PATIENCE_S
) -> None:
    """Wait until ``condition`` holds; fail when it is no longer possible or after ``patience_s``."""
    until = time.monotonic() + patience_s
    while not condition():
        assert possible() and time.monotonic() < until, why()
        time.sleep(0.03)
