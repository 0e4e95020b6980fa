"""How a process of this package starts another: the modules of this installation, whatever lies in the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from policies.spec import InputError

_ROOT = str(Path(__file__).resolve().parent.parent)


def module_command(module: str) -> list[str]:
    """Return the command that runs ``module`` as ``python -m`` does, but without the working folder on its path.

    A folder of a user's may hold a ``real`` or a ``policies`` of its own; of these nothing must run as a robot's drive.
    """
    code = f"import runpy, sys; sys.path[0] = {_ROOT!r}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", code]


def environment() -> dict[str, str]:
    """Return this process's environment, without folders for modules that are relative to wherever one stands."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in given if path and Path(path).is_absolute()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, *kept])}


def announced(file: Path, process: subprocess.Popen[bytes], log: Path, who: str, timeout_s: float) -> str:
    """Return the address that ``process`` writes to ``file`` once it is served.

    Args:
        file: Written whole or not at all.
        process: Which says in ``log`` why it ends.
        log: Its output.
        who: What it is called in the message.
        timeout_s: How long to wait.

    Raises:
        InputError: with the last line of the log, if it has ended or is not ready in time.
    """
    until = time.monotonic() + timeout_s
    while not file.exists():
        if process.poll() is not None or time.monotonic() > until:
            why = "ended" if process.poll() is not None else f"is not ready after {timeout_s:g} s"
            lines = log.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
            raise InputError(f"{who} {why}: {last.strip().removeprefix('error: ')}")
        time.sleep(0.02)
    return file.read_text()
