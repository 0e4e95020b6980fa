"""The choice between rclpy and the DDS layer, and the line that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from policies.spec import InputError
from real.ros.backend import choose

CODE = "from real.ros.backend import BACKEND, WHY; print(BACKEND, '|', WHY)"


def chosen(folder: Path | None = None, code: str = CODE, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder) if folder else "", str(Path(__file__).parents[3])]))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ROS_", "ROBOPOLICY_ROS"))} | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)


def package(folder: Path, init: str, node: str = "") -> None:
    (folder / "rclpy").mkdir(parents=True)
    (folder / "rclpy" / "__init__.py").write_text(init)
    (folder / "rclpy" / "node.py").write_text(node)


def test_an_rclpy_that_imports_is_taken_unless_dds_is_asked_for(tmp_path: Path) -> None:
    package(tmp_path, "")
    assert chosen(tmp_path, ROS_DISTRO="jazzy").stdout.startswith("rclpy | rclpy of ROS 2 jazzy imports")
    assert chosen(tmp_path, ROBOPOLICY_ROS="dds").stdout == "dds | ROBOPOLICY_ROS=dds asks for it\n"


def test_an_rclpy_of_another_python_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "python3.99" / "site-packages"
    package(folder, "from rclpy import _rclpy_pybind11  # built for another Python")
    said = chosen(folder).stdout
    assert said.startswith("dds | the rclpy in ") and "was built for Python 3.99, this is Python" in said and said.count("\n") == 1


def test_an_rclpy_that_breaks_is_said_with_its_reason(tmp_path: Path) -> None:
    package(tmp_path, "", "raise OSError('librcl.so: cannot open shared object file')")
    assert "does not import: OSError: librcl.so: cannot open shared object file" in chosen(tmp_path).stdout
    done = chosen(tmp_path, ROBOPOLICY_ROS="rclpy")
    assert done.returncode != 0 and "ROBOPOLICY_ROS=rclpy, but the rclpy in" in done.stderr


def test_nothing_of_rclpys_name_is_needed() -> None:
    assert chosen().stdout.startswith(("dds | rclpy is not installed for this Python", "rclpy |"))
    with pytest.raises(InputError, match="ROBOPOLICY_ROS='cyclone': dds and rclpy are known"):
        choose({"ROBOPOLICY_ROS": "cyclone"})


def test_only_the_ros_package_knows_of_rclpy_and_dds() -> None:
    """Nobody imports rclpy or cyclonedds but ``real.ros``, and the import point alone brings neither torch nor the simulator."""
    root = Path(__file__).parents[3]
    for wing in ("robopolicy", "sim", "real", "policies"):
        for path in (root / wing).rglob("*.py"):
            if "ros" not in path.relative_to(root).parts:
                text = path.read_text(encoding="utf-8")
                assert not any(f"{word} {name}" in text for word in ("import", "from") for name in ("rclpy", "cyclonedds")), path
    done = chosen(code="import sys, real.ros.api as api; print(api.BACKEND, sorted({'torch', 'mujoco', 'sim', 'robopolicy'} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
