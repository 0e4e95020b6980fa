"""What `robopolicy doctor` says of ROS 2: the back end and why, whose messages, how far DDS reaches, the kernel's buffer."""

from __future__ import annotations

from pathlib import Path

import pytest

from real.ros import settings
from robopolicy.doctor import Finding, examine


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Look at this machine with an environment of our own; a package named rclpy may be put into the folder."""
    import robopolicy.doctor as doctor

    for name in ("ROBOPOLICY_ROS", "ROBOPOLICY_ROS_INTERFACE", "ROS_DISTRO", "CYCLONEDDS_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for part in ("_machine", "_gpu", "_extras", "_engines", "_graphics", "_suites", "_shadows"):
        monkeypatch.setattr(doctor, part, lambda: [])

    def look(rclpy: str | None = None, **environment: str) -> dict[str, Finding]:
        if rclpy is not None:
            (tmp_path / "rclpy").mkdir()
            (tmp_path / "rclpy" / "__init__.py").write_text(rclpy)
            (tmp_path / "rclpy" / "node.py").write_text("")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return {finding.name: finding for finding in examine()}

    return look


def test_without_rclpy_the_dds_layer_runs_on_loopback(found) -> None:
    lines = found("raise OSError('librcl.so is missing')", ROS_DISTRO="humble")
    assert lines["ROS 2"].level == "ok" and "messages of humble" in lines["ROS 2"].found
    assert "does not import: OSError: librcl.so is missing" in lines["ROS 2"].found
    assert lines["DDS"].found.startswith("loopback: ")


def test_an_rclpy_that_works_is_named(found) -> None:
    lines = found("", ROS_DISTRO="jazzy")
    assert lines["ROS 2"].found.startswith("rclpy of ROS 2 jazzy imports") and "DDS" not in lines


def test_an_rclpy_that_ends_the_process_ends_not_this_one(found) -> None:
    lines = found("import os; os.kill(os.getpid(), 9)")
    assert lines["ROS 2"].level == "note" and "ended with signal 9" in lines["ROS 2"].found and lines["ROS 2"].fix == "ROBOPOLICY_ROS=dds"


def test_wrong_settings_are_lines_too(found) -> None:
    assert found(ROBOPOLICY_ROS="cyclone")["ROS 2"].found.startswith("ROBOPOLICY_ROS='cyclone': dds and rclpy are known")
    lines = found(ROBOPOLICY_ROS="dds", ROBOPOLICY_ROS_INTERFACE="eth99x")
    assert lines["DDS"].level == "note" and "no such interface" in lines["DDS"].found


@pytest.mark.parametrize(("granted", "level"), [("212992", "note"), ("33554432", "ok")])
def test_the_kernels_buffer_and_the_command_that_raises_it(found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, granted: str, level: str) -> None:
    there = tmp_path / "rmem_max"
    there.write_text(granted)
    monkeypatch.setattr(settings, "_RMEM_MAX", there)
    line = found(ROBOPOLICY_ROS="dds")["DDS buffer"]
    assert (line.level, line.fix) == (level, "sudo sysctl -w net.core.rmem_max=16777216" if level == "note" else "")
