"""``robopolicy doctor``: says what there is, never crashes, and names what brings each lack."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from robopolicy import doctor
from robopolicy.cli import main

ROOT = Path(__file__).resolve().parents[2]

#: Distributions whose module has another name.
MODULES = {"opencv-python": "cv2", "gym-pusht": "gym_pusht", "mujoco-warp": "mujoco_warp", "warp-lang": "warp"}
MODULES |= {"gymnasium-robotics": "gymnasium_robotics", "dm-control": "dm_control"}
MODULES |= {"hidapi": "hid", "rerun-sdk": "rerun", "pillow": "PIL"}


def test_every_lack_says_what_brings_it() -> None:
    findings = doctor.examine()
    expected = {"python", "cores", "disk", "GPU", "extra train", "engine mujoco", "rendering", "suite metaworld", "ROS 2", "cameras", "Chromium", "names"}
    assert expected <= {f.name for f in findings}
    assert all(f.fix for f in findings if f.level == "lacks")
    assert all("\n" not in f.found + f.fix for f in findings)
    assert doctor.as_json(findings)["lacks"] == [f.name for f in findings if f.level == "lacks"]


def test_the_command_prints_a_line_each_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "d.json").read_text())
    assert len(lines) == len(found["findings"])
    assert all(re.match(r"(ok|lacks|note) ", line) for line in lines)


def test_the_table_of_extras_is_the_project_file() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: [re.split(r"[^a-z0-9_.-]", text.lower())[0] for text in texts] for extra, texts in extras.items() if extra != "dev"}
    declared = {extra: {MODULES.get(name, name) for name in those} for extra, those in names.items()}
    assert {name: set(modules) for name, (_, modules) in doctor.EXTRAS.items()} == declared


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "pip install 'robopolicy[train]'"),
        (ModuleNotFoundError("No module named 'mujoco'", name="mujoco"), "pip install 'robopolicy[sim]'"),
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), "pip install 'robopolicy[convert]'"),
        (ModuleNotFoundError("No module named 'metaworld'", name="metaworld"), "robopolicy install metaworld"),
        (ModuleNotFoundError("No module named 'gym_aloha.env'", name="gym_aloha.env"), "robopolicy install gym-aloha"),
        (ImportError("libGL.so.1: cannot open shared object file: No such file or directory"), "apt-get install libgl1"),
        (ImportError("libEGL.so.1: cannot open shared object file"), "apt-get install libegl1"),
    ],
)
def test_an_import_that_fails_names_what_brings_it(error: ImportError, said: str) -> None:
    message = doctor.missing_package_message(error)
    assert message is not None and said in message and "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'policies.nothing'", name="policies.nothing"),  # a defect of ours: it must be seen
        ModuleNotFoundError("No module named 'torch.nothing'", name="torch.nothing"),
        ImportError("cannot import name 'gone' from 'torch'", name="torch"),
        ImportError("something else"),
    ],
)
def test_a_defect_is_not_taken_for_a_missing_package(error: ImportError) -> None:
    assert doctor.missing_package_message(error) is None


def test_a_missing_library_is_no_crash() -> None:
    assert doctor.loads("libno-such-library.so.99") is False
    assert doctor.loads("libc.so.6") is True


def test_a_foreign_package_on_the_path_is_named_and_not_used(tmp_path: Path) -> None:
    for name in ("policies", "sim"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign code was run')\n")
    code = "import sys; from robopolicy.cli import main; sys.exit(main(['doctor', '--json', '-']))"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    names = next(f for f in json.loads(done.stdout)["findings"] if f["name"] == "names")
    assert names["level"] == "note" and str(tmp_path / "policies") in names["found"] and str(tmp_path / "sim") in names["found"]


def test_a_foreign_package_imported_first_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "__init__.py").write_text("")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import real
sys.path.insert(0, {str(ROOT)!r})
try:
    import robopolicy
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    where = f"from {tmp_path}/real/__init__.py; remove that folder from the path"
    assert done.stdout.splitlines() == [f"a package 'real' that is not robopolicy's was imported first, {where}"]
