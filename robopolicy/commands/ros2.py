"""``robopolicy ros2``: the policy node, and the ROS package with its launch files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(help="ROS 2: the policy node, and the package with its launch files.", no_args_is_help=True)
    group.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(node)
    group.command()(package)
    app.add_typer(group, name="ros2")


def node(
    context: typer.Context,
    domain: Annotated[int | None, typer.Option(min=0, max=232, help="ROS domain, if not ROS_DOMAIN_ID.")] = None,
    interface: Annotated[str | None, typer.Option(help="Network interface; loopback if not given.")] = None,
) -> None:
    """Run the policy node: a run as a ROS 2 node with parameters, services and diagnostics.

    Everything after the options goes to ROS. Without -p control:=true whoever is on the network can hold and stop the robot, and
    nothing else.

    Example: robopolicy ros2 node --ros-args -p policy:=runs/reach -p autostart:=true
    """
    from contextlib import closing

    from real.lines import Lines
    from robopolicy.processes import stop_signals
    from robopolicy.ros_node import serve_node

    with stop_signals() as stopped, closing(Lines(_write)) as say:
        serve_node(context.args, stopped, domain=domain, interface=interface, say=say)


def package(out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of a workspace, e.g. ~/ros2_ws/src.")]) -> None:
    """Write the ament_python package robopolicy_ros (node, launch files) to a workspace, for `colcon build`.

    Example: robopolicy ros2 package --out ros2_ws/src
    """
    from robopolicy.ros_node import write_package

    for file in write_package(out):
        typer.echo(file)


def _write(line: str) -> None:
    print(line, flush=True)
