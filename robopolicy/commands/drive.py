"""``robopolicy drive``: the process that owns a robot's connection, checks every command and keeps the brake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def drive(
        arguments: Annotated[list[str], typer.Argument(metavar="robot=NAME [KEY=VALUE]...", help="The robot's driver, its options and those of the drive.")],
        bind: Annotated[str, typer.Option(help="Loopback address: tcp://127.0.0.1:PORT (port 0: any free one) or ipc://PATH.")] = "tcp://127.0.0.1:5557",
        announce: Annotated[Path | None, typer.Option(help="File that gets the bound address once the drive is ready.")] = None,
        linger: Annotated[float | None, typer.Option(min=0.1, help="End when no source of commands has spoken for so many seconds.")] = None,
    ) -> None:
        """Drive a robot: take commands from one source at a time, check each again, and brake, hold and stop when none comes.

        Keys: robot (driver, e.g. robot=twin) and its options (robot.address=tcp://127.0.0.1:5556), stop_after_s, lease_s,
        expiry_ticks, max_late_ticks, deadman_s, blocked_s, state_dir. Ctrl-C brakes the robot, lets it hold and requests its own stop.

        Example: robopolicy drive robot=twin robot.address=tcp://127.0.0.1:5556 stop_after_s=2
        """
        from policies.spec import InputError
        from real.drive import DriveOptions
        from real.drive_server import run_drive
        from real.wire import require_loopback
        from robopolicy.config import apply_overrides, validate
        from robopolicy.deployment import open_robot

        require_loopback(bind)
        given = apply_overrides({"robot": {"type": None}}, arguments)
        robot = given.pop("robot")
        options = validate(DriveOptions, given, "drive")
        if not isinstance(robot, dict) or robot.get("type") is None:
            raise InputError("drive: which robot? e.g. robot=twin robot.address=tcp://127.0.0.1:5556 (see: robopolicy list robots)")
        run_drive(open_robot(robot), options, bind, announce, linger, _say)


def _say(line: str) -> None:
    print(line, flush=True)
