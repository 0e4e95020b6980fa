"""``robopolicy home``: bring a robot slowly to a known pose."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def home(
        arguments: Annotated[list[str], typer.Argument(metavar="robot=NAME [KEY=VALUE]...", help="The robot's driver and its options, or drive=ADDRESS.")],
        pose: Annotated[str | None, typer.Option(help="Joint positions, rad or m, separated by commas; else the home pose that the robot declares.")] = None,
        speed: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the velocity limits.")] = 0.2,
        timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which it is given up.")] = 60.0,
    ) -> None:
        """Bring a robot of joints slowly to its home pose, or to another; every command passes the safety filter.

        Example: robopolicy home robot=twin robot.address=tcp://127.0.0.1:5556 --speed 0.1
        """
        from contextlib import ExitStack

        import numpy as np

        from policies.spec import InputError
        from real.first_motion import go_to
        from robopolicy.config import apply_overrides
        from robopolicy.deployment import open_drive
        from robopolicy.processes import stop_signals

        given = apply_overrides({"robot": {"type": None}, "drive": None}, arguments)
        if unknown := sorted(set(given) - {"robot", "drive"}):
            raise InputError(f"home: {unknown[0]} is none of its keys, robot and drive; options are given as --{unknown[0]}")
        if given["drive"] is not None and given["robot"] != {"type": None}:
            raise InputError(f"home: the drive at {given['drive']} has a robot of its own; leave robot= out")
        if given["drive"] is None and not (isinstance(given["robot"], dict) and given["robot"].get("type")):
            raise InputError("home: which robot? e.g. robot=twin robot.address=tcp://127.0.0.1:5556, or drive=ADDRESS")
        with ExitStack() as stack, stop_signals() as stopped:
            robot = open_drive(given["robot"], stack, None if given["drive"] is None else str(given["drive"]))
            target = _numbers(pose) if pose is not None else list(robot.info.home)
            if not target:
                raise InputError(f"robot {robot.info.name!r} declares no home pose: give --pose")
            left = go_to(robot, np.array(target), speed=speed, timeout_s=timeout, stopped=stopped)
        typer.echo(f"{'stopped on the way' if stopped() else 'at the pose'}: at most {left:.4f} rad or m away; the robot holds")


def _numbers(text: str) -> list[float]:
    from policies.spec import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--pose {text!r}: expected numbers separated by commas") from None
