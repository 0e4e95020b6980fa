"""The wheel: four packages and the recipes, which run from a fresh environment with the core alone, wherever one stands."""

from __future__ import annotations

import email
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
WINGS = {"robopolicy", "sim", "real", "policies"}
CORE = {"numpy", "pyzmq", "msgpack", "pydantic", "pyyaml", "typer", "rich", "daqp"}


def metadata(wheel: Path) -> Message:
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def closure(requirements: list[Requirement]) -> set[str]:
    """Return the distributions that the requirements bring here, by following what is installed."""
    found: set[str] = set()
    todo = [(r.name, frozenset(r.extras)) for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    while todo:
        name, extras = todo.pop()
        if name.lower() in found:
            continue
        found.add(name.lower())
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((need.name, frozenset(need.extras)))
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel and the core, nothing else; made without a network.

    pip installs the wheel; the core's distributions are copied, file by file as their records list them, from here.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)],
        check=True,
    )
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in closure([Requirement(text) for text in metadata(wheel).get_all("Requires-Dist", [])]):
        for file in importlib.metadata.files(name) or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / Path(*file.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), target)
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as users have them: with policies/, sim/__init__.py, real.py and configs/ of their own."""
    for name in ("policies", "sim"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign code was run')\n")
    (tmp_path / "real.py").write_text("raise SystemExit('foreign code was run')\n")
    (tmp_path / "configs" / "imitation").mkdir(parents=True)
    (tmp_path / "configs" / "imitation" / "mine.yaml").write_text("task: mine\n")
    return tmp_path


def run(environment: Path, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in ``folder``, with nothing of this process's paths."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return subprocess.run([str(environment / "bin" / words[0]), *words[1:]], cwd=folder, env={**kept, **more}, capture_output=True, text=True)


def test_the_top_level_is_exactly_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == WINGS


def test_every_file_of_the_wings_and_every_recipe_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {p.relative_to(ROOT).as_posix() for wing in WINGS for p in (ROOT / wing).rglob("*") if p.is_file() and p.suffix != ".pyc"}
    expected |= {f"robopolicy/recipes/{p.relative_to(ROOT / 'configs').as_posix()}" for p in (ROOT / "configs").rglob("*") if p.is_file()}
    assert {name for name in inside if ".dist-info/" not in name} == expected


def test_the_metadata_names_core_extras_licence_and_command(wheel: Path) -> None:
    found = metadata(wheel)
    requirements = [Requirement(text) for text in found.get_all("Requires-Dist", [])]
    assert {r.name for r in requirements if r.marker is None} == CORE
    extras = {"sim", "suites", "train", "video", "bullet", "warp", "ros", "teleop", "rerun", "export", "convert", "ray", "dev"}
    assert set(found.get_all("Provides-Extra", [])) == extras
    assert found["Requires-Python"] == ">=3.10" and found["License-Expression"] == "Apache-2.0"
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "licenses/LICENSE" in names
        assert "robopolicy = robopolicy.__main__:main" in archive.read(names["entry_points.txt"]).decode()


def test_the_command_runs_from_the_core_alone(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "robopolicy", "run", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout and "robopolicy run" in done.stdout
    code = "from importlib.util import find_spec; print([name for name in ('torch', 'mujoco', 'pyarrow', 'cv2') if find_spec(name)])"
    assert run(environment, tmp_path, "python", "-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["robopolicy"], ["python", "-m", "robopolicy"]], ids=["script", "module"])
@pytest.mark.parametrize("path", ["", "."], ids=["plain", "on-pythonpath"])
def test_it_runs_in_a_folder_of_foreign_packages(environment: Path, foreign: Path, command: list[str], path: str) -> None:
    more = {"PYTHONPATH": str(foreign)} if path else {}
    done = run(environment, foreign, *command, "run", "--help", **more)
    assert done.returncode == 0, done.stderr
    done = run(environment, foreign, *command, "list", "recipes", "--json", "-", **more)
    assert done.returncode == 0, done.stderr
    expected = sorted(p.relative_to(ROOT / "configs").with_suffix("").as_posix() for p in (ROOT / "configs").rglob("*.yaml"))
    assert [row["name"] for row in json.loads(done.stdout)] == expected


def test_a_recipe_of_the_folder_comes_before_an_installed_one(environment: Path, foreign: Path) -> None:
    code = "from robopolicy.config import find_recipe; print(find_recipe('configs/imitation/mine.yaml')); print(find_recipe('imitation/demo'))"
    done = run(environment, foreign, "python", "-c", f"import robopolicy; {code}")
    mine, installed = done.stdout.splitlines()
    assert mine == "configs/imitation/mine.yaml" and installed.endswith("robopolicy/recipes/imitation/demo.yaml")


@pytest.mark.parametrize("kind", ["tasks", "policies", "robots"])
def test_what_exists_can_be_listed_from_the_core(environment: Path, tmp_path: Path, kind: str) -> None:
    done = run(environment, tmp_path, "robopolicy", "list", kind)
    assert done.returncode == 0 and done.stdout.count("\n") >= 2, done.stderr


def test_the_doctor_and_the_suites_answer_from_the_core(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "robopolicy", "doctor", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert "extra train" in json.loads(done.stdout)["lacks"]
    done = run(environment, tmp_path, "robopolicy", "install", "metaworld")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "pip install 'robopolicy[sim]'" in done.stderr


def test_what_needs_an_extra_says_which(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "robopolicy", "train", "imitation/demo")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "pip install 'robopolicy[" in done.stderr


@pytest.mark.parametrize("mode", [["--lockstep"], []], ids=["lock-step", "real-time"])
def test_a_policy_elsewhere_drives_a_robot_from_the_core_alone(environment: Path, tmp_path: Path, mode: list[str]) -> None:
    """No torch, no MuJoCo on this side: client, runtime, filter and, in real time, a drive process of its own."""
    from tests.real.toy import Process

    with Process(tmp_path, "serve") as server, Process(tmp_path, "twin", "--episodes", 2, *mode) as twin:
        words = ["robopolicy", "run", "robot=twin", f"robot.address={twin.address}", f"policy={server.address}", "episodes=2", "json=run.json"]
        done = run(environment, tmp_path, *words, ROBOPOLICY_STATE=str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "run.json").read_text())
    assert counts["ended"] == "2 episodes done" and counts["plans"] >= 2 and counts["drive"]["commands"] >= 2


def test_joints_are_brought_home_from_the_core_alone(environment: Path, tmp_path: Path) -> None:
    from tests.real.jointed import Running

    with Running(tmp_path, "twin", "twin", "--log", tmp_path / "log") as twin:
        words = ["robopolicy", "home", "robot=twin", f"robot.address={twin.ready()}", "--pose", "0.3,-0.2,0.1"]
        done = run(environment, tmp_path, *words, ROBOPOLICY_STATE=str(tmp_path / "state"))
    assert done.returncode == 0 and done.stdout.startswith("at the pose"), done.stderr
