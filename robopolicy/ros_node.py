"""The policy node in a process of its own: what ``robopolicy ros2 node`` and the node of the ament package run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from real.child import module_command


def run_command(recipe: str, policy: str, overrides: Sequence[str]) -> list[str]:
    """Return the command line of a run, which ends with the node: whoever could hold it over ROS would have nobody to ask."""
    return [*module_command("robopolicy"), "run", "--with-parent", recipe, f"policy={policy}", *overrides]


def serve_node(
    words: Sequence[str], stopped: Callable[[], bool], *, domain: int | None = None, interface: str | None = None, say: Callable[[str], None] = print
) -> None:
    """Run the policy node until ``stopped()`` or until ROS is shut down; its run ends with it.

    Args:
        words: ROS arguments, e.g. ``["--ros-args", "-p", "policy:=runs/reach"]``.
        stopped: Asked ten times a second.
        domain: ROS domain; None: ``ROS_DOMAIN_ID``.
        interface: Network interface of DDS; None: loopback, or as the environment says.
        say: Where lines go.

    Raises:
        InputError: for arguments that are none, or a domain or an interface that cannot be used.
    """
    from real.ros import api
    from real.ros.policy_node import PolicyNode

    context: Any = api.Context()
    given = {} if interface is None else {"interface": interface}
    api.init(args=["robopolicy", *words], context=context, domain_id=domain, **given)
    node = None
    try:
        node = PolicyNode(run_command, context=context)
        executor = api.SingleThreadedExecutor(context=context)
        executor.add_node(node.node)
        say(api.said(context))
        say(f"ready: {node.node.get_fully_qualified_name()}")
        node.begin()
        while api.ok(context=context) and not stopped():
            executor.spin_once(timeout_sec=0.1)
    finally:
        if node is not None:
            node.close()
        api.try_shutdown(context=context)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node as an executable of a ROS package; returns the exit code."""
    import sys

    from robopolicy.cli import main as command_line

    return command_line(["ros2", "node", *(sys.argv[1:] if args is None else args)])


def write_package(folder: Path, name: str = "robopolicy_ros") -> list[Path]:
    """Write the ament_python package to ``folder``/``name``, for ``colcon build``; returns its files.

    Raises:
        InputError: if the folder is there already and holds something else.
    """
    from policies.spec import InputError
    from robopolicy import ros_package

    source, target = Path(ros_package.__file__).parent, folder / name
    found = sorted(p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p != Path(ros_package.__file__))
    if target.exists() and not (target / "package.xml").is_file():
        raise InputError(f"{target}: is there already and is no ROS package; choose another --out")
    out = []
    for file in found:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.tmp")
        part.write_bytes(file.read_bytes())
        part.replace(place)
        out.append(place)
    return out
