"""A task's identity: what changes it, what does not, and that it is the same in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from sim import registry
from sim.identity import definition, identity, model_files, package_folder, source, versions

ROOT = Path(__file__).resolve().parents[2]
MAIN = '<mujoco><compiler meshdir="m"/><include file="parts/arm.xml"/><asset><mesh file="a.stl"/></asset></mujoco>'
PART = '<mujocoinclude><geom type="mesh" mesh="a"/><texture file="../t.png"/></mujocoinclude>'


def model(folder: Path) -> Path:
    """Write a model of five files (one that nothing refers to) and return the main one."""
    for name, content in (("main.xml", MAIN), ("parts/arm.xml", PART), ("m/a.stl", "mesh"), ("t.png", "picture"), ("other.stl", "not named")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder / "main.xml"


def digest(folder: Path) -> str:
    definition.cache_clear(), model_files.cache_clear()
    for cached in (value for name, value in vars(sys.modules["sim.identity"]).items() if hasattr(value, "cache_clear")):
        cached.cache_clear()
    return definition("solved", model_files(folder / "main.xml"))


def test_a_model_is_its_file_and_all_it_refers_to(tmp_path: Path) -> None:
    found = {path.relative_to(tmp_path).as_posix() for path in model_files(model(tmp_path))}
    assert found == {"main.xml", "parts/arm.xml", "m/a.stl", "t.png"}


def test_the_hash_is_of_the_contents_wherever_they_lie(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "deeper"
    model(here), model(there)
    first = digest(here)
    assert first == digest(there) and len(first) == 10
    (here / "other.stl").write_text("changed, but not part of it")
    assert digest(here) == first
    for name in ("main.xml", "parts/arm.xml", "m/a.stl", "t.png"):
        kept = (here / name).read_text()
        (here / name).write_text(kept + " ")
        assert digest(here) != first, name
        (here / name).write_text(kept)
    (here / "m" / "a.stl").rename(here / "m" / "b.stl")
    (here / "main.xml").write_text(MAIN.replace("a.stl", "b.stl"))
    assert digest(here) != first
    assert definition("solved otherwise", model_files(there / "main.xml")) != first


def test_by_hand(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("<mujoco/>")
    expected = hashlib.blake2b(b"upright" + b"\0x.xml\0" + hashlib.sha256(b"<mujoco/>").digest(), digest_size=32).hexdigest()[:10]
    assert identity("suite 1", "upright", [tmp_path / "x.xml"]) == f"suite 1, definition {expected}"
    assert definition("upright") == hashlib.blake2b(b"upright", digest_size=32).hexdigest()[:10]


def test_versions_and_packages() -> None:
    assert versions("numpy", "mujoco") == f"numpy {np.__version__}, mujoco {version('mujoco')}"
    with pytest.raises(PackageNotFoundError):
        versions("a-package-that-is-not-there")
    assert (package_folder("mujoco") / "__init__.py").is_file() and source("sim.identity") == (ROOT / "sim" / "identity.py",)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        package_folder("a_package_that_is_not_there")


def test_tasks_differ_in_their_definition_and_worlds_of_one_task_do_not() -> None:
    names = ("metaworld/push", "metaworld/push-wall", "arm/reach", "arm/pick-place", "classic/cartpole", "two-route")
    made = [registry.make(name) for name in (*names, "metaworld/push")]
    told = [env.suite_version for env in made]
    assert told[0] == told[-1] and len({line.rpartition(" ")[2] for line in told}) == len(names)
    for env in made:
        env.close()


def test_it_is_the_same_in_another_process() -> None:
    """Hashes of Python's own differ from process to process; this one must not."""
    code = "from sim import registry; print(registry.make('metaworld/push').suite_version)"
    found = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and "definition" in next(iter(found))
