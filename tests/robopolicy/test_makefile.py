"""``make setup``: one line when something is missing, nothing at all to do when the environment is complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = getattr(sys, "_base_executable", sys.executable)


def make(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository with a bare environment."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **more}
    return subprocess.run([shutil.which("make") or "make", *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def wrapper(folder: Path, test: str) -> Path:
    """Write an interpreter that behaves as ``test`` (a line of shell) says, and otherwise is this one."""
    path = folder / "python3"
    path.write_text(f'#!/bin/sh\n{test}\nexec {PYTHON} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ('case "$2" in *ensurepip*) exit 1;; esac', r"cannot make environments \(no ensurepip\): apt-get install python3\.\d+-venv"),
        ('case "$2" in *version_info*) exit 1;; esac', r"needs Python 3\.11 to 3\.13, and .*python3 is none: apt-get install python3\.11"),
    ],
)
def test_what_is_missing_is_one_line_with_its_package(test: str, said: str, tmp_path: Path) -> None:
    done = make("setup", f"PYTHON={wrapper(tmp_path, test)}", f"VENV={tmp_path / 'environment'}")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.returncode != 0 and len(lines) == 1 and re.search(said, lines[0])
    assert not (tmp_path / "environment").exists()


def test_no_python_at_all_is_one_line(tmp_path: Path) -> None:
    done = make("setup", "PYTHON=", f"VENV={tmp_path / 'environment'}")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if "apt-get install python3.11" in line]


@pytest.mark.parametrize("target", ["demo", "test", "soak", "check", "bench"])
def test_every_target_sets_up_first_and_only_once(target: str, tmp_path: Path) -> None:
    words = [target, f"PYTHON={PYTHON}", f"VENV={tmp_path}", "--dry-run"]
    first = make(*words).stdout
    assert "pip install" in first and "install metaworld" in first
    stamp = re.search(rf"touch ({re.escape(str(tmp_path))}/\.complete-\d+)", first)
    assert stamp is not None
    Path(stamp[1]).touch()
    again = make(*words).stdout
    assert "install metaworld" not in again and "-m venv" not in again
    assert f"{tmp_path}/bin/" in again  # what the target itself runs


def test_other_pins_mean_another_environment(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "robopolicy" / "pins", tmp_path / "robopolicy" / "pins")

    def stamp() -> str:
        words = ["make", "-C", str(tmp_path), "setup", f"PYTHON={PYTHON}", "--dry-run"]
        found = re.search(r"\.complete-(\d+)\n", subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        assert found is not None
        return found[1]

    before = stamp()
    assert stamp() == before
    with (tmp_path / "robopolicy" / "pins" / "metaworld.txt").open("a") as pins:
        pins.write("six==1.17.0\n")
    assert stamp() != before


def test_the_script_of_ci_is_valid_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
