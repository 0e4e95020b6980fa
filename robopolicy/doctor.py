"""What this machine has and lacks, one line each, with the package that brings what is missing.

Nothing here may crash: libraries are probed with the loader, packages by looking for them, and OpenGL in a process of
its own. Imports only the core.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.install import installed_version, suite, suite_names

#: What each extra is for, and the modules it brings.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sim": ("simulated worlds", ("mujoco", "gymnasium", "scipy", "imageio", "cv2", "pygame", "shapely", "gym_pusht", "pymunk")),
    "train": ("training, evaluation, serving", ("torch", "safetensors", "accelerate", "tensorboard", "pyarrow", "matplotlib")),
    "video": ("camera data and videos", ("av", "cv2")),
    "suites": ("OGBench, Gymnasium-Robotics, dm_control", ("gymnasium_robotics", "dm_control", "ogbench")),
    "bullet": ("a second physics engine", ("pybullet",)),
    "warp": ("physics on the GPU", ("mujoco", "mujoco_warp", "warp")),
    "ros": ("ROS 2 without a ROS installation, bags", ("cyclonedds", "rosbags")),
    "teleop": ("the operator's page and devices", ("viser", "pygame", "websockets", "hid", "PIL")),
    "rerun": ("data sets for the Rerun viewer", ("rerun",)),
    "export": ("policies for robots without torch", ("onnx", "onnxruntime", "onnxscript")),
    "convert": ("other data formats", ("h5py", "zarr", "minari", "mcap", "rosbags", "pyarrow")),
    "ray": ("many machines", ("ray",)),
}

#: Modules that ``robopolicy install`` brings.
SUITE_MODULES = {"metaworld": "metaworld", "gym_aloha": "gym-aloha"}

#: Modules with no wheel on 64-bit Arm, or none from a version of Python on: their absence there is no lack.
_NOT_ON_AARCH64 = {"gym_pusht", "pymunk", "pybullet", "cyclonedds", "dm_control", "ogbench"}
_NOT_FROM_PYTHON = {"pybullet": (3, 12), "dm_control": (3, 13), "ogbench": (3, 13)}

#: Shared library -> the Debian packages that bring it.
LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libxcb.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libEGL.so.1": "libegl1 libegl-mesa0 libgl1-mesa-dri",
    "libOSMesa.so.8": "libosmesa6",
}

_WINGS = ("robopolicy", "sim", "real", "policies")

Level = Literal["ok", "lacks", "note"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        name: What was looked at.
        level: ``ok``, ``lacks`` (something that a job needs), or ``note`` (absent, and only some need it).
        found: What is there.
        fix: What brings it when it is missing, else empty.
    """

    name: str
    level: Level
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at this machine and environment; takes about two seconds, most of them for OpenGL."""
    return [*_machine(), *_gpu(), *_extras(), *_engines(), *_graphics(), *_suites(), *_robot(), *_shadows()]


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Return a JSON-ready mapping of all findings."""
    return {"findings": [asdict(f) for f in findings], "lacks": [f.name for f in findings if f.level == "lacks"]}


def missing_package_message(error: ImportError) -> str | None:
    """Return one line that says what brings the module or library that could not be imported, or None if it is not one of these."""
    text = str(error)
    for library, packages in LIBRARIES.items():
        if library in text:
            return f"the system library {library} is missing: apt-get install {packages}"
    module = (error.name or "").partition(".")[0]
    if module in SUITE_MODULES:
        return f"this needs {module}, which is not installed: robopolicy install {SUITE_MODULES[module]}"
    if error.name != module or not isinstance(error, ModuleNotFoundError):  # there, but broken: that is another story
        return None
    for extra, (_, modules) in EXTRAS.items():
        if module in modules:
            return f"this needs {module}, which is not installed: pip install 'robopolicy[{extra}]'"
    return None


def loads(library: str) -> bool:
    """Whether the loader finds a shared library, e.g. ``libEGL.so.1``."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    where = f"{version} ({platform.system()} {platform.machine()}), {sys.prefix}"
    if sys.version_info < (3, 11):
        yield Finding("python", "note", where, "3.10 runs the robot's side only; everything else needs 3.11 to 3.13")
    elif sys.version_info >= (3, 14):
        yield Finding("python", "note", where, "tested on 3.11 to 3.13")
    else:
        yield Finding("python", "ok", where)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", "ok", f"{cores} usable")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding("disk", "ok" if free > 5 else "lacks", f"{free:.0f} GB free in {Path.cwd()}", "" if free > 5 else "recording and training want 5 GB or more")
    if not _has("ensurepip"):
        here = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        yield Finding("ensurepip", "note", "this Python cannot make environments", f"apt-get install {here}")


def _gpu() -> Iterator[Finding]:
    names = _nvidia()
    torch = installed_version("torch")
    if names:
        yield Finding("GPU", "ok", ", ".join(names))
    else:
        yield Finding("GPU", "note", "none that nvidia-smi knows: training runs on the CPU")
    if torch is None:
        return
    built_for = _torch_cuda()
    found = f"{torch} ({'CUDA ' + built_for if built_for else 'CPU build'})"
    if names and not built_for:
        yield Finding("torch", "lacks", found, "the GPU is unused: pip install --force-reinstall torch from an index with CUDA builds")
    else:
        yield Finding("torch", "ok", found)


def _nvidia() -> list[str]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run([command, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _torch_cuda() -> str | None:
    """Return the CUDA version torch was built for, read from its version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return found[1] if found else None


def _extras() -> Iterator[Finding]:
    for extra, (purpose, modules) in EXTRAS.items():
        expected = [m for m in modules if not (m in _NOT_ON_AARCH64 and platform.machine() == "aarch64")]
        expected = [m for m in expected if sys.version_info < _NOT_FROM_PYTHON.get(m, (4,))]
        missing = [m for m in expected if not _has(m)]
        name = f"extra {extra}"
        if not expected:
            yield Finding(name, "note", f"{purpose}: no wheels for this Python and machine")
        elif not missing:
            yield Finding(name, "ok", purpose)
        else:
            level: Level = "lacks" if extra in ("sim", "train", "video") else "note"
            yield Finding(name, level, f"{purpose}: {', '.join(missing)} missing", f"pip install 'robopolicy[{extra}]'")


def _engines() -> Iterator[Finding]:
    """Yield what can step the physics here, with the versions and, for Warp, on what."""
    from sim.engine import ENGINES

    packages = {"mujoco": "mujoco", "mujoco_warp": "mujoco-warp", "warp": "warp-lang", "pybullet": "pybullet"}
    for name, (_, _, modules, install) in ENGINES.items():
        missing = [module for module in modules if not _has(module)]
        if missing:
            level: Level = "lacks" if name == "mujoco" else "note"
            wheels = name == "bullet" and (sys.version_info >= (3, 12) or platform.machine() == "aarch64")
            fix = "no wheel for this Python and machine" if wheels else install.strip("`")
            yield Finding(f"engine {name}", level, f"{', '.join(missing)} missing", fix)
            continue
        versions = ", ".join(f"{packages[module]} {installed_version(packages[module])}" for module in modules)
        where = (", on the GPU" if _nvidia() else ", on the CPU: right, but slow") if name == "warp" else ""
        yield Finding(f"engine {name}", "ok", versions + where)


def _graphics() -> Iterator[Finding]:
    if sys.platform.startswith("linux"):
        for library in ("libGL.so.1", "libxcb.so.1", "libglib-2.0.so.0"):
            if not loads(library):
                yield Finding("OpenCV", "lacks", f"import cv2 fails without {library}", f"apt-get install {LIBRARIES[library]}")
                break
        else:
            yield Finding("OpenCV", "ok", "libGL and glib are there")
    if not _has("mujoco"):
        yield Finding("rendering", "note", "mujoco is not installed", "pip install 'robopolicy[sim]'")
        return
    code = "import sim.render as r; reason = r.unavailable_reason(); print(r.configure() or '', reason or '', sep='\\t')"
    try:
        command, home = [sys.executable, "-c", f"import robopolicy; {code}"], Path(__file__).resolve().parent.parent
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=home)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("rendering", "lacks", f"OpenGL did not answer: {type(error).__name__}", f"apt-get install {LIBRARIES['libEGL.so.1']}")
        return
    backend, _, reason = done.stdout.strip("\n").partition("\t")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        yield Finding("rendering", "lacks", f"OpenGL fails: {last}", f"apt-get install {LIBRARIES['libEGL.so.1']}")
    elif reason:
        cause = reason.partition(": apt-get")[0].partition(" (")[0]
        yield Finding("rendering", "lacks", cause, f"apt-get install {LIBRARIES['libEGL.so.1']} (or: {LIBRARIES['libOSMesa.so.8']})")
    else:
        yield Finding("rendering", "ok", f"MuJoCo draws with {backend}, no display needed")


def _suites() -> Iterator[Finding]:
    for name in suite_names():
        one = suite(name)
        if one.installed:
            yield Finding(f"suite {name}", "ok", one.version)
        else:
            yield Finding(f"suite {name}", "note", "not installed", f"robopolicy install {name}")


def _robot() -> Iterator[Finding]:
    yield from _ros()
    cameras = sorted(p.name for p in Path("/dev").glob("video*"))
    yield Finding("cameras", "ok" if cameras else "note", ", ".join(cameras) or "none in /dev/video*")
    browser = chromium()
    yield Finding("Chromium", "ok" if browser else "note", browser or "none: only the tests of pages need it", "" if browser else "apt-get install chromium")


def _ros() -> Iterator[Finding]:
    """Yield the back end of ROS 2 and why it is this one, whose messages, how far DDS reaches, and what the kernel grants it."""
    unsourced = sorted(p.name for p in Path("/opt/ros").iterdir()) if Path("/opt/ros").is_dir() and not os.environ.get("ROS_DISTRO") else []
    fix = f"source /opt/ros/{unsourced[0]}/setup.bash" if unsourced else ""
    code = "from real.ros.backend import BACKEND, WHY; from real.ros.messages import distro; print(BACKEND, WHY, distro(), sep='\\t')"
    try:  # in a process of its own: an rclpy of another Python may do anything while it is imported
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parent.parent)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("ROS 2", "note", f"rclpy did not answer: {type(error).__name__}", "ROBOPOLICY_ROS=dds")
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"importing rclpy ended with signal {-done.returncode}"])[-1]
        yield Finding("ROS 2", "note", last.rpartition("InputError: ")[2], "ROBOPOLICY_ROS=dds")
        return
    backend, why, distro = done.stdout.strip().split("\t")
    if backend == "rclpy":
        yield Finding("ROS 2", "ok", why)
        return
    missing = [module for module in ("cyclonedds", "rosbags") if not _has(module)]
    if missing:
        yield Finding("ROS 2", "note", f"{why}; {', '.join(missing)} missing", fix or "a ROS 2 installation, or pip install 'robopolicy[ros]'")
        return
    yield Finding("ROS 2", "ok", f"over Cyclone DDS {installed_version('cyclonedds')}, messages of {distro} ({why})", fix)
    yield from _dds()


def _dds() -> Iterator[Finding]:
    from policies.spec import InputError
    from real.ros.settings import receive_buffer, receive_buffer_advice, settings

    try:
        chosen = settings(os.environ.get("ROBOPOLICY_ROS_INTERFACE", ""))
        yield Finding("DDS", "ok", f"{chosen.profile}: {chosen.said}")
    except InputError as error:
        yield Finding("DDS", "note", str(error))
    granted, advice = receive_buffer(), receive_buffer_advice()
    if granted is not None:
        found = f"net.core.rmem_max is {granted}" + (": cameras over a network may lose images (loopback does not)" if advice else "")
        yield Finding("DDS buffer", "note" if advice else "ok", found, advice)


def chromium() -> str | None:
    """Return the path of a Chromium that can be run headless, or None."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        found = shutil.which(name)
        if found:
            return found
    return None


def _shadows() -> Iterator[Finding]:
    """Yield packages of our names that are not ours: on the path, or written over ours by another distribution."""
    home = Path(__file__).resolve().parent.parent
    problems = []
    for entry in dict.fromkeys(["", *sys.path]):
        folder = Path(entry or Path.cwd()).resolve()
        if folder != home:
            problems += [str(folder / wing) for wing in _WINGS if (folder / wing / "__init__.py").is_file()]
    owners = importlib.metadata.packages_distributions()
    for wing in _WINGS:
        others = sorted({owner for owner in owners.get(wing, []) if owner.lower() != "robopolicy"})
        problems += [f"{wing}, also installed by {owner}" for owner in others]
    if problems:
        found = f"foreign packages: {'; '.join(dict.fromkeys(problems))}"
        yield Finding("names", "note", found, "the command imports its own; a script that imports these names may get the others")
    else:
        yield Finding("names", "ok", f"robopolicy, sim, real and policies are those in {home}")
