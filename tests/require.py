"""What a test needs from the system: ``require("egl")`` says in one line what is absent and what brings it.

Without it the test is skipped and listed at the end; with ``REQUIRE_ALL=1`` it fails. What no package brings (a GPU, the
right to mount) is listed only. This is the only place that skips.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

#: (test, what was absent) in the order met; printed at the end of the session.
absent: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Need:
    """One thing of the system: how to look for it, what it is, and what brings it (empty: no package does)."""

    present: Callable[[], bool]
    what: str
    brings: str


def require(name: str) -> None:
    """Return when the system has ``name``; otherwise skip the test, or fail it with ``REQUIRE_ALL=1``.

    Raises:
        KeyError: if ``name`` is not in ``NEEDS``.
    """
    if not present(name):
        _refuse(NEEDS[name].what, NEEDS[name].brings)


def require_task(name: str) -> None:
    """Return when what a registered task needs is installed; otherwise as :func:`require`. Raises InputError for no task."""
    from sim import registry

    entry = registry.entry(name)
    if entry.missing:
        _refuse(f"{', '.join(entry.missing)} for task {entry.name}", entry.install.strip("`"))


def _refuse(what: str, brings: str) -> None:
    """Skip the running test, or fail it where everything is required, for want of ``what``."""
    reason = f"needs {what}" + (f": {brings}" if brings else "")
    absent.append((os.environ.get("PYTEST_CURRENT_TEST", "?").partition(" ")[0], reason))
    if brings and os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"REQUIRE_ALL=1 and this machine lacks it: {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def present(name: str) -> bool:
    """Whether the system has ``name``; looked for once a session."""
    return NEEDS[name].present()


def _opens(module: str) -> bool:
    """Whether a module really imports; asked in a process of its own, since a failure may leave traces."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, timeout=120).returncode == 0


def _renders() -> bool:
    """Whether MuJoCo really draws; asked in a process of its own, since a broken driver may end the process."""
    code = "import robopolicy, sim.render, sys; sys.exit(sim.render.unavailable_reason() is not None)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parent.parent, timeout=120).returncode == 0


def _index_answers() -> bool:
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple/"
    try:
        with urllib.request.urlopen(f"{index.rstrip('/')}/pip/", timeout=20) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _on_path(*names: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(name) for name in names)


def _python(version: str) -> Callable[[], bool]:
    return lambda: interpreter(version) is not None


@functools.cache
def interpreter(version: str) -> str | None:
    """Return the path of a Python of ``version`` (``3.10``) that really starts, or None."""
    if sys.version_info[:2] == tuple(int(part) for part in version.split(".")):
        return sys.executable
    candidates = [shutil.which(f"python{version}")]
    if os.environ.get("PYENV_ROOT"):  # pyenv's command of that name may refuse: it answers for the versions that are switched on
        candidates += [str(p) for p in Path(os.environ["PYENV_ROOT"]).glob(f"versions/{version}.*/bin/python{version}")]
    if uv := shutil.which("uv") or next((str(p) for p in [Path(sys.executable).with_name("uv")] if p.is_file()), None):
        found = subprocess.run([uv, "python", "find", "--no-python-downloads", "--no-project", version], capture_output=True, text=True)
        candidates.append(found.stdout.strip())
    for command in filter(None, candidates):
        done = subprocess.run([command, "-c", "import ensurepip, sys; print(sys.executable)"], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def _builds(*needed: str) -> Callable[[], bool]:
    """Whether commands and headers of ``needed`` (a name, or a path under the include folder) are there."""
    include = Path("/usr/include")
    return lambda: all((include / name).exists() if "/" in name else shutil.which(name) is not None for name in needed)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _small_disk() -> bool:
    """Whether a file system of a given size can be mounted here (root, and not forbidden by a sandbox)."""
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("mount") is None or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
            return False
        return subprocess.run(["umount", folder], capture_output=True).returncode == 0


NEEDS = {
    "egl": Need(_renders, "rendering without a display", "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"),
    "libgl": Need(lambda: _opens("cv2"), "the libraries of OpenCV", "apt-get install libgl1 libglib2.0-0"),
    "chromium": Need(_on_path("chromium", "chromium-browser", "google-chrome"), "a headless browser", "apt-get install chromium"),
    "faketime": Need(_on_path("faketime"), "a wall clock that can be set for one process", "apt-get install faketime"),
    "openssl": Need(_on_path("openssl"), "a maker of certificates", "apt-get install openssl"),
    "git": Need(_on_path("git"), "git", "apt-get install git"),
    "network": Need(_index_answers, "a package index that answers", "a network connection"),
    "metaworld": Need(_module("metaworld"), "Meta-World", "robopolicy install metaworld"),
    "robotics": Need(_module("gymnasium_robotics"), "Gymnasium-Robotics", "pip install 'robopolicy[suites]'"),
    "dmcontrol": Need(_module("dm_control"), "dm_control", "pip install 'robopolicy[suites]'"),
    "bullet": Need(_module("pybullet"), "the second physics engine", "pip install 'robopolicy[bullet]'"),
    "warp": Need(lambda: _module("mujoco_warp")() and _module("warp")(), "physics on Warp", "pip install 'robopolicy[warp]'"),
    "ray": Need(_module("ray"), "a cluster engine", "pip install 'robopolicy[ray]'"),
    "fastdds": Need(_builds("g++", "fastdds/dds/domain/DomainParticipant.hpp"), "Fast DDS and a compiler", "apt-get install g++ libfastrtps-dev"),
    "cyclonedds-c": Need(_builds("gcc", "idlc", "dds/dds.h"), "Cyclone DDS in C and a compiler", "apt-get install gcc cyclonedds-dev cyclonedds-tools"),
    "rerun": Need(_module("rerun"), "the library of the Rerun viewer", "pip install 'robopolicy[rerun]'"),
    "gpu": Need(_gpu, "a CUDA GPU", ""),
    "small-disk": Need(_small_disk, "the right to mount a small file system", ""),
    "python3.10": Need(_python("3.10"), "a Python 3.10", "uv python install 3.10, or pyenv"),
    "python3.11": Need(_python("3.11"), "a Python 3.11", "apt-get install python3.11-venv"),
    "python3.12": Need(_python("3.12"), "a Python 3.12", "uv python install 3.12, or pyenv"),
    "python3.13": Need(_python("3.13"), "a Python 3.13", "uv python install 3.13, or pyenv"),
}
