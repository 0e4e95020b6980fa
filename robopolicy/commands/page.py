"""``robopolicy page``: the operator's page of a running robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
        need the run's token, which is read from --file. The robot never waits for the page.
        """
        from policies.spec import InputError
        from real.latch import state_folder
        from real.operator import FILE_NAME, read_file
        from real.page import OperatorPage
        from robopolicy.processes import announce as tell
        from robopolicy.processes import stop_signals

        try:
            found = read_file(file or state_folder() / FILE_NAME)
        except InputError:
            if telemetry is None or operator is None or file is not None:
                raise
            found = {"address": operator, "telemetry": telemetry, "token": ""}
        token = found["token"] if operator in (None, found["address"]) else ""
        with stop_signals(with_parent) as stopped:
            shown = OperatorPage(telemetry or found["telemetry"], operator or found["address"], token, port)
            try:
                tell(str(announce) if announce else None, shown.url)
                typer.echo(f"ready: {shown.url}" + ("" if token else " (no token: hold, stop and slower only)"))
                shown.run(stopped)
            finally:
                shown.close()
