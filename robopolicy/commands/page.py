"""``robopolicy page``: the operator's page of a running robot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from real.page import Run


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def page(
        telemetry: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of the run's telemetry; found by --file if not given.")] = None,
        operator: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of its operator channel; found by --file if not given.")] = None,
        file: Annotated[Path | None, typer.Option(help="operator.json of the run; the last run of this user if not given.")] = None,
        port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on 127.0.0.1; 0: any free one.")] = 8080,
        announce: Annotated[Path | None, typer.Option(help="File that gets the page's address once it is served.")] = None,
        with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    ) -> None:
        """Show a running robot in the browser: cameras, robot, joints, latency, state, interventions; stop, hold, resume, speed, deadman.

        The page serves this machine alone and is opened with the key in its address. Resume, the deadman and a higher speed
        need the run's token, which is read from --file. The robot never waits for the page. When a run has ended the page
        turns to the next one that the file names.
        """
        from real.latch import state_folder
        from real.operator import FILE_NAME
        from real.page import OperatorPage
        from robopolicy.processes import announce as tell
        from robopolicy.processes import stop_signals

        source = file or state_folder() / FILE_NAME
        run = _found(source, telemetry, operator, strict=file is not None)
        follow = telemetry is None and operator is None
        with stop_signals(with_parent) as stopped:
            shown = OperatorPage(run, port, (lambda: _now(source)) if follow else lambda: None)
            try:
                tell(str(announce) if announce else None, shown.url)
                typer.echo(f"ready: {shown.url}" + ("" if run.token else " (no token: hold, stop and slower only)"))
                shown.run(stopped)
            finally:
                shown.close()


def _found(file: Path, telemetry: str | None, operator: str | None, strict: bool) -> Run:
    """Return the run of the file, of the addresses given, or of both. Raises InputError if something is missing."""
    from policies.spec import InputError
    from real.operator import read_file
    from real.page import Run

    try:
        found = read_file(file)
    except InputError:
        if telemetry is None or operator is None or strict:
            raise
        return Run(telemetry, operator)
    token, latch = (found["token"], found["latch"]) if operator in (None, found["address"]) else ("", "")
    return Run(telemetry or found["telemetry"], operator or found["address"], token, latch)


def _now(file: Path) -> Run | None:
    """Return the run of the file, None while there is none."""
    from policies.spec import InputError

    try:
        return _found(file, None, None, strict=True)
    except InputError:
        return None
