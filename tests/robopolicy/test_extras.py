"""The core and every extra resolve from wheels alone, per Python version and machine; the core really installs and runs."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.require import interpreter, require

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "robopolicy" / "pins" / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

#: glibc 2.28 is Debian 10, RHEL 8 and all later; 2.34 is Ubuntu 22.04 with ROS 2 Humble and JetPack 6.
MACHINES = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_34")

#: (extra, Python, machine) -> distributions that a marker leaves out there, because they have no wheel.
LEFT_OUT = {
    ("sim", "*", "aarch64-manylinux_2_34"): {"gym-pusht", "pymunk"},
    ("ros", "*", "aarch64-manylinux_2_34"): {"cyclonedds"},
    ("dev", "*", "aarch64-manylinux_2_34"): {"ruckig"},
    ("bullet", "*", "aarch64-manylinux_2_34"): {"pybullet"},
    ("suites", "*", "aarch64-manylinux_2_34"): {"dm-control", "ogbench"},
    ("suites", "3.13", "*"): {"dm-control", "ogbench"},
    ("bullet", "3.12", "*"): {"pybullet"},
    ("bullet", "3.13", "*"): {"pybullet"},
}


def environment() -> dict[str, str]:
    """Return the environment for uv: the index that pip was told of, where uv was told none."""
    out = dict(os.environ)
    if "PIP_INDEX_URL" in out:
        out.setdefault("UV_DEFAULT_INDEX", out["PIP_INDEX_URL"])
    return out


def resolve(requirements: list[str], python: str, machine: str, pins: Path | None = None, cached: bool = False) -> set[str]:
    """Return the distributions that ``requirements`` bring on a machine, wheels alone; fails with uv's reason.

    ``cached``: try first with what earlier resolutions fetched, which asks no index whether it is still the newest.
    """
    command = [find_uv_bin(), "pip", "compile", "-q", "--no-header", "--no-annotate", "--only-binary", ":all:", "--no-python-downloads"]
    command += ["--python-version", python, "--python-platform", machine, *(["--constraint", str(pins)] if pins else []), "-"]
    for attempt in (["--offline"], []) if cached else ([],):
        done = subprocess.run([*command, *attempt], input="\n".join(requirements), capture_output=True, text=True, env=environment())
        if done.returncode == 0:
            break
    assert done.returncode == 0, f"{python} {machine}: {done.stderr.strip()[:1500]}"
    return {re.split(r"[=\s;\[]", line)[0].lower() for line in done.stdout.splitlines() if line.strip()}


def left_out(extra: str, python: str, machine: str) -> set[str]:
    """Return what the table above leaves out of an extra on one machine."""
    rows = (names for (e, p, m), names in LEFT_OUT.items() if e == extra and p in ("*", python) and m in ("*", machine))
    return set().union(*rows)


PYTHONS = ("3.11", "3.12", "3.13")
CASES = [(python, machine) for python in PYTHONS for machine in MACHINES]


@pytest.fixture(scope="module")
def together() -> list[set[str]]:
    """Every extra at once, for each of ``CASES``; what it fetches serves the tests of single extras."""
    require("network")
    everything = [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
    with ThreadPoolExecutor(len(CASES)) as pool:
        return list(pool.map(lambda case: resolve(everything, *case, PINS), CASES))


def test_all_extras_fit_together(together: list[set[str]]) -> None:
    for (python, machine), brought in zip(CASES, together, strict=True):
        missing = {name for texts in EXTRAS.values() for name in names_of(texts)} - brought
        assert missing == set().union(*(left_out(extra, python, machine) for extra in EXTRAS)), f"{python} {machine}"


def names_of(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements name."""
    return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower() for text in requirements}


@pytest.mark.parametrize("cases", [pytest.param(CASES[1:2], id="one"), pytest.param(CASES, id="all", marks=pytest.mark.soak)])
@pytest.mark.parametrize("extra", ["core", *EXTRAS])
def test_wheels_alone(extra: str, cases: list[tuple[str, str]], together: list[set[str]]) -> None:
    """One solution within the pins shows that the ranges have one; what has no wheel somewhere is left out there and only there."""
    own = EXTRAS.get(extra, [])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: resolve([*PROJECT["dependencies"], *own], *case, PINS, cached=True), cases))
    for (python, machine), brought in zip(cases, found, strict=True):
        assert names_of(own) - brought == left_out(extra, python, machine), f"{python} {machine}"
        assert brought <= together[CASES.index((python, machine))]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_core_resolves_on_python_3_10(machine: str) -> None:
    require("network")
    assert {"numpy", "pyzmq", "daqp"} <= resolve(PROJECT["dependencies"], "3.10", machine)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_are_all_that_make_setup_needs(python: str, together: list[set[str]]) -> None:
    """Everything but torch's own CUDA packages, which torch names exactly, has its version in the list."""
    makefile = (ROOT / "Makefile").read_text()
    wanted = re.search(r"^EXTRAS := (\S+)$", makefile, re.MULTILINE)
    assert wanted is not None
    requirements = [*PROJECT["dependencies"], *(r for extra in wanted[1].split(",") for r in EXTRAS[extra])]
    pinned = {line.partition("==")[0].lower() for line in PINS.read_text().splitlines() if "==" in line}
    assert pinned >= {"torch", "mujoco", "numpy"}
    unpinned = resolve(requirements, python, MACHINES[0], PINS, cached=True) - pinned
    assert {name for name in unpinned if not re.match(r"nvidia-|cuda-|triton$", name)} == set()


def size_mb(folder: Path) -> float:
    """Return the megabytes that the files in ``folder`` take."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_core_installs_small_and_runs(python: str, wheel: Path, tmp_path: Path) -> None:
    require("network")
    require(f"python{python}")
    folder = tmp_path / "environment"
    uv = find_uv_bin()
    subprocess.run([uv, "venv", "-q", "--python", str(interpreter(python)), str(folder)], check=True, env=environment())
    pins = ["--constraint", str(PINS)] if python != "3.10" else []
    command = [uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), "--only-binary", ":all:", *pins, str(wheel)]
    subprocess.run(command, check=True, env=environment())
    done = subprocess.run([folder / "bin" / "robopolicy", "run", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "robopolicy run" in done.stdout, done.stderr
    assert size_mb(folder) < 150
