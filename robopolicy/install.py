"""Benchmark suites whose pins clash with ours, installed without their dependencies from a pinned list in the wheel.

``robopolicy/pins/SUITE.txt`` holds ``name==version`` lines: the first is the suite itself, exact; the others are what it
imports, added only where missing. pip does it, or uv where the environment has no pip.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from policies.spec import InputError, suggest

_PINS = Path(__file__).resolve().parent / "pins"

#: Modules that every suite stands on and that are not in its list: the ``sim`` extra brings them.
_FOUNDATION = ("mujoco", "gymnasium")

_OFFLINE = re.compile(
    r"name resolution|NewConnectionError|ConnectError|Failed to establish|Network is unreachable|dns error|error sending request"
    r"|connection error|Connection refused|ProxyError|ConnectTimeout|Max retries|network was disabled|timed out",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Suite:
    """One suite that ``robopolicy install`` brings.

    Attributes:
        name: As on the command line, e.g. ``metaworld``.
        version: The exact version that is installed.
        pins: ``(distribution, version)`` in the order of the list; the first is the suite itself.
    """

    name: str
    version: str
    pins: tuple[tuple[str, str], ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """What pip has to install, ``name==version``: the suite unless it is exact, the rest unless present at any version."""
        out = []
        for index, (name, version) in enumerate(self.pins):
            found = installed_version(name)
            if found is None or (index == 0 and found != version):
                out.append(f"{name}=={version}")
        return tuple(out)

    @property
    def installed(self) -> bool:
        """Whether the suite and all that it imports are there."""
        return not self.missing


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def suite_names() -> list[str]:
    """Return the suites that can be installed, by name."""
    return sorted(p.stem for p in _PINS.glob("*.txt") if p.stem != "constraints")


def read_pins(text: str) -> tuple[tuple[str, str], ...]:
    """Return ``(distribution, version)`` of every ``name==version`` line; comments and blank lines are left out."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if line)
    return tuple((name.strip(), version.strip()) for name, version in pairs)


def suite(name: str) -> Suite:
    """Return a suite by name, upper or lower case, ``_`` for ``-``.

    Raises:
        InputError: if there is no such suite; names the nearest.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in suite_names():
        raise InputError(f"suite {name!r} is not one that can be installed{suggest(wanted, suite_names())}")
    pins = read_pins((_PINS / f"{wanted}.txt").read_text(encoding="utf-8"))
    return Suite(wanted, pins[0][1], pins)


def installer(requirements: Iterable[str]) -> list[str]:
    """Return the command that installs ``requirements`` into this environment, without their dependencies.

    Raises:
        InputError: if the environment has neither pip nor uv.
    """
    wanted = list(requirements)
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--no-deps", "--retries", "1", "--disable-pip-version-check", *wanted]
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") is not None else [shutil.which("uv") or ""]
    if not uv[0]:
        raise InputError(f"installing needs pip or uv and {sys.prefix} has neither: python -m ensurepip, or apt-get install python3-venv")
    return [*uv, "pip", "install", "--python", sys.executable, "--no-deps", *wanted]


def install(name: str) -> tuple[str, ...]:
    """Install a suite; returns what was installed, nothing when it was there already.

    Raises:
        InputError: one line: an unknown suite, no ``sim`` extra, no installer, no package index, or what pip said.
    """
    wanted = suite(name)
    if wanted.installed:
        return ()
    absent = [module for module in _FOUNDATION if importlib.util.find_spec(module) is None]
    if absent:
        raise InputError(f"{wanted.name} stands on {', '.join(absent)}, which the sim extra brings: pip install 'robopolicy[sim]'")
    missing = wanted.missing
    done = subprocess.run(installer(missing), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise InputError(_why(wanted, done.stdout + done.stderr))
    importlib.invalidate_caches()
    return missing


def _why(wanted: Suite, output: str) -> str:
    """Return one line that says why pip or uv failed."""
    if _OFFLINE.search(output):
        return (
            f"{wanted.name} {wanted.version} could not be installed: the package index cannot be reached; "
            "connect, or name a folder of wheels with PIP_FIND_LINKS (uv: UV_FIND_LINKS)"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return f"{wanted.name} {wanted.version} could not be installed: {(errors or lines or ['no output'])[0]}"
