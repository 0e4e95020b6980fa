"""Processes of a run: commands that serve an address in the background, the signals that end one, and how an address is told."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from real.child import announced


def end(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End a process: SIGTERM, and SIGKILL after ``patience_s``."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child calls so that killing this process kills it too (Linux prctl); None where that does not exist."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    set_parent_death_signal = 1
    return None if prctl is None else lambda: prctl(set_parent_death_signal, signal.SIGKILL)


@contextmanager
def stop_signals(with_parent: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM has come (a second one interrupts).

    Args:
        with_parent: Also stop when the process that started this one has gone.
    """
    caught: list[int] = []
    parent = os.getppid()

    def note(number: int, frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught) or (with_parent and os.getppid() != parent)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def announce(path: str | None, address: str) -> None:
    """Write ``address`` to the file ``path``, whole or not at all: who waits for it knows that it is served."""
    if path:
        part = Path(f"{path}.part")
        part.write_text(address)
        part.replace(path)


class Background:
    """A ``robopolicy`` command that serves an address, in a process of its own; a context manager.

    Args:
        arguments: Command and options without ``--bind`` and ``--announce``.
        folder: For its log and the announced address.
        name: Of these files.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, name: str) -> None:
        self._file, self.log = folder / f"{name}.address", folder / f"{name}.log"
        root = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        command = [sys.executable, "-m", "robopolicy", *arguments, "--bind", "tcp://127.0.0.1:0", "--announce", str(self._file), "--with-parent"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL)

    def __enter__(self) -> Background:
        """Return this process."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process: SIGTERM, and SIGKILL after 5 s."""
        end(self.process)

    def address(self, timeout_s: float = 120.0) -> str:
        """Return the address once it is served. Raises InputError with the last line of its log if that never happens."""
        return announced(self._file, self.process, self.log, " ".join(self.process.args[2:5]), timeout_s)  # type: ignore[index]
