"""``robopolicy estop``: the latched emergency stop from any terminal, whatever else still runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def estop(
        robot: Annotated[str | None, typer.Argument(help="Name of the robot; all that have ever been driven from here if not given.")] = None,
        clear: Annotated[bool, typer.Option("--clear", help="Remove the latch: the robot takes commands again once it is at rest.")] = False,
        status: Annotated[bool, typer.Option("--status", help="Only say which robots are stopped; exit code 1 if one is.")] = False,
        cause: Annotated[str, typer.Option(help="Kept with the stop.")] = "operator",
        state_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="State folder, if not $ROBOPOLICY_STATE or the XDG one.")] = None,
    ) -> None:
        """Stop a robot, or all, and keep it stopped over every restart until --clear.

        The drive notices within one tick, brakes with the limits of a stop, and requests the robot's own stop.
        """
        from policies.spec import InputError
        from real.latch import Latch

        if clear and status:
            raise InputError("estop: --clear and --status exclude each other")
        folders = _folders(robot, state_dir)
        if not (clear or status):
            _stop(folders, cause)
            return
        latches = {folder.name: Latch(folder) for folder in folders}
        latched = {name: record for name, latch in latches.items() if (record := latch.read()) is not None}
        if clear:
            if robot is None and len(latched) > 1:
                raise InputError(f"estop: {len(latched)} robots are stopped; name the one to clear: {', '.join(sorted(latched))}")
            for name in latched or latches:
                record = latches[name].clear()
                typer.echo(f"{name}: cleared: {record.line()}" if record else f"{name}: was not stopped")
            return
        for name in latches:
            typer.echo(f"{name}: {f'stopped: {latched[name].line()}' if name in latched else 'not stopped'}")
        if latched:
            raise typer.Exit(1)


def _stop(folders: list[Path], cause: str) -> None:
    """Latch the stops, those that can be. Raises InputError for a robot that is not stopped."""
    from policies.spec import InputError
    from real.latch import stop_all

    latched, failed = stop_all(folders, cause, "robopolicy estop")
    for folder, record in latched.items():
        typer.echo(f"{folder.name}: stopped: {record.line()}")
    if failed:
        raise InputError(f"NOT stopped: {'; '.join(failed)}; use the robot's own stop")


def _folders(robot: str | None, root: Path | None) -> list[Path]:
    """Return the state folders of the named robot, or of all. Raises InputError if there is none."""
    from policies.spec import InputError, suggest
    from real.latch import robot_folder, state_folder

    top = state_folder(root)
    known = sorted(p for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
    if robot is None:
        if not known:
            raise InputError(f"estop: no robot has been driven from here ({top} holds none)")
        return known
    folder = robot_folder(robot, root)
    if folder not in known:
        raise InputError(f"estop: robot {robot!r} has no state in {top}{suggest(folder.name, [p.name for p in known])}")
    return [folder]
