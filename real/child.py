"""How a process of this package starts another: the modules of this installation, whatever lies in the working folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
