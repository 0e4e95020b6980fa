"""The ROS package: what colcon and ros2 launch read of it, checked without them; the command line of a run."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.spec import InputError
from robopolicy import ros_package
from robopolicy.ros_node import run_command, write_package

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(ros_package.__file__).parent
LAUNCHES = sorted((SOURCE / "launch").glob("*.py"))
#: What the launch files may import: modules of ROS 2's `launch` and `launch_ros`, and the names that they have.
LAUNCH_NAMES = {
    "launch": {"LaunchDescription"},
    "launch.actions": {"DeclareLaunchArgument", "IncludeLaunchDescription"},
    "launch.launch_description_sources": {"PythonLaunchDescriptionSource"},
    "launch.substitutions": {"LaunchConfiguration", "PathJoinSubstitution"},
    "launch_ros.actions": {"LifecycleNode", "Node"},
    "launch_ros.parameter_descriptions": {"ParameterValue"},
    "launch_ros.substitutions": {"FindPackageShare"},
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, written to a workspace."""
    workspace = tmp_path_factory.mktemp("workspace") / "src"
    write_package(workspace)
    return workspace / "robopolicy_ros"


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name]


def text(call: ast.Call, key: str) -> Any:
    (value,) = [k.value for k in call.keywords if k.arg == key]
    return ast.literal_eval(value)


def test_the_package_is_what_colcon_expects(package: Path) -> None:
    root = ET.parse(package / "package.xml").getroot()
    assert root.get("format") == "3" and root.findtext("name") == "robopolicy_ros"
    assert root.findtext("export/build_type") == "ament_python"
    for tag in ("version", "description", "maintainer", "license"):
        assert root.findtext(tag), tag
    depends = [e.text for e in root.findall("exec_depend")]
    assert len(depends) == len(set(depends)) and {"rclpy", "launch_ros", "std_srvs", "diagnostic_msgs"} <= set(depends)
    config = configparser.ConfigParser()
    config.read(package / "setup.cfg")
    assert config["develop"]["script_dir"] == config["install"]["install_scripts"] == "$base/lib/robopolicy_ros"
    assert (package / "resource" / "robopolicy_ros").read_bytes() == b""


def test_it_installs_what_it_names(package: Path, tmp_path: Path) -> None:
    """With setuptools itself, as colcon runs it: the marker, the launch files and the executables are where ROS looks for them."""
    words = ["install", "--prefix", str(tmp_path / "install"), "--single-version-externally-managed", "--record", str(tmp_path / "record")]
    done = subprocess.run([sys.executable, "setup.py", "-q", *words], cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    installed = {p.relative_to(tmp_path / "install").as_posix() for p in (tmp_path / "install").rglob("*") if p.is_file()}
    share = "share/robopolicy_ros"
    expected = {f"{share}/package.xml", f"{share}/config/policy.yaml", *(f"{share}/launch/{file.name}" for file in LAUNCHES)}
    expected |= {"share/ament_index/resource_index/packages/robopolicy_ros", "lib/robopolicy_ros/policy_node", "lib/robopolicy_ros/twin"}
    assert expected <= installed, sorted(expected - installed)


def test_the_executables_call_what_exists() -> None:
    from robopolicy.cli import main as command_line
    from robopolicy.ros_node import main

    for file, module, name, found in (("policy_node", "robopolicy.ros_node", "main", main), ("twin", "robopolicy.cli", "main", command_line)):
        tree = ast.parse((SOURCE / "robopolicy_ros" / f"{file}.py").read_text())
        imported = {(node.module, alias.name) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert (module, name) in imported and callable(found)


@pytest.mark.parametrize("file", LAUNCHES, ids=lambda file: file.name)
def test_launch_files_are_of_the_form_that_ros2_launch_reads(file: Path) -> None:
    """One function without arguments that returns a LaunchDescription; nothing imported but launch's own names."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            assert node.module in LAUNCH_NAMES and {a.name for a in node.names} <= LAUNCH_NAMES[node.module], ast.unparse(node)
        assert not isinstance(node, ast.Import)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert function.name == "generate_launch_description" and not function.args.args
    returned = function.body[-1]
    assert isinstance(returned, ast.Return) and isinstance(returned.value, ast.Call) and ast.unparse(returned.value.func) == "LaunchDescription"
    declared = [ast.literal_eval(call.args[0]) for call in calls(tree, "DeclareLaunchArgument")]
    used = {ast.literal_eval(call.args[0]) for call in calls(tree, "LaunchConfiguration") if isinstance(call.args[0], ast.Constant)}
    assert used <= set(declared) and len(declared) == len(set(declared))
    for call in [*calls(tree, "Node"), *calls(tree, "LifecycleNode")]:
        assert text(call, "package") == "robopolicy_ros"
        assert f"{text(call, 'executable')} = " in (SOURCE / "setup.py").read_text().replace("{NAME}", "robopolicy_ros")


def test_the_arguments_of_the_launch_are_the_parameters_of_the_node() -> None:
    from real.ros.policy_node import PARAMETERS

    tree = ast.parse((SOURCE / "launch" / "policy.launch.py").read_text())
    declared = {ast.literal_eval(call.args[0]) for call in calls(tree, "DeclareLaunchArgument")} - {"namespace", "params"}
    given = yaml.safe_load((SOURCE / "config" / "policy.yaml").read_text())["/**"]["ros__parameters"]
    assert declared <= set(PARAMETERS) and set(given) <= set(PARAMETERS)
    assert all(given[name] == PARAMETERS[name][0] for name in given), "the file shows the defaults"


def test_nothing_that_is_no_package_is_written_over(package: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in package.rglob("*") if file.is_file()}
    write_package(package.parent)
    assert {file: file.read_bytes() for file in package.rglob("*") if file.is_file()} == before
    (tmp_path / "robopolicy_ros").mkdir()
    with pytest.raises(InputError, match="is no ROS package"):
        write_package(tmp_path)


def test_the_command_line_of_a_run_is_one_that_run_reads() -> None:
    """Recipe and keys pass the run's own reader; a robot over ROS 2 is asked for the policy's spec by the run itself."""
    from robopolicy.deployment import load_run_config

    words = run_command("runtime/ros2", "tcp://127.0.0.1:5555", ["robot.namespace=/left", "drive_options.state_dir=/tmp/x"])
    assert words[-6:-4] == ["run", "--with-parent"]
    config = load_run_config(words[-4:])
    assert config.robot["namespace"] == "/left" and config.policy == "tcp://127.0.0.1:5555" and config.drive_options.state_dir == "/tmp/x"


def test_a_run_ends_when_the_node_that_started_it_is_killed(tmp_path: Path) -> None:
    """It holds the robot and leaves: hold and stop over ROS would reach nobody."""
    from robopolicy.processes import Background

    with Background(["twin", "two-route"], tmp_path, "twin") as twin:
        address = twin.address()
        own = ["teleop=scripted", f"drive_options.state_dir={tmp_path / 'state'}", "preflight=false", f"robot.address={address}"]
        words = run_command("runtime/default", "none", own)
        starter = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); time.sleep(600)"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        node = subprocess.Popen([sys.executable, "-c", starter, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        try:
            assert node.stdout is not None
            run = int(node.stdout.readline())
            end = time.monotonic() + 60
            while not (tmp_path / "state" / "operator.json").exists():
                assert time.monotonic() < end and Path(f"/proc/{run}").exists(), "the run is not ready"
                time.sleep(0.02)
        finally:
            node.kill()
        said = node.stdout.read()  # until everybody who could write has gone
        node.wait()
        assert "the robot holds" in said, said
