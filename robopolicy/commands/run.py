"""``robopolicy run``: the control runtime between a robot and a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def run(
        arguments: Annotated[
            list[str] | None,
            typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help="Recipe (runtime/default) and overrides."),
        ] = None,
        json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="What the run counted; the same as json=FILE.")] = None,
        shadow: Annotated[bool, typer.Option("--shadow", help="The whole loop, nothing sent: what would be, against what the robot does.")] = False,
        speed: Annotated[float | None, typer.Option(min=0.01, max=1.0, help="Of the motion of a robot of joints, e.g. 0.1 for the first time.")] = None,
        with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    ) -> None:
        """Drive a robot: read, plan, control, filter, write, holding whenever there is no command that may be sent.

        Keys: robot (driver, e.g. robot=twin) and its options (robot.address=tcp://127.0.0.1:5556), policy (address of
        `robopolicy serve`, or a checkpoint folder), method (how a checkpoint is executed, e.g. rti:steps=3), drive (address of
        a running `robopolicy drive`), record (data set of what is done), and all others of
        configs/runtime/default.yaml. Ctrl-C holds the robot and ends the run.

        Example: robopolicy run robot=twin policy=tcp://127.0.0.1:5555 episodes=10 json=run.json
        """
        from robopolicy.deployment import load_run_config
        from robopolicy.deployment import run as run_robot
        from robopolicy.processes import stop_signals

        given = {"json": json_file, "shadow": "true" if shadow else None, "speed": speed}
        config = load_run_config([*(arguments or []), *(f"{key}={value}" for key, value in given.items() if value is not None)])
        with stop_signals(with_parent) as stopped:
            summary = run_robot(config, stopped, status, typer.echo)
        typer.echo(summary.line())
        if config.shadow:
            typer.echo(summary.shadow_line())
        if config.json_file:
            typer.echo(f"counts: {config.json_file}")
        if summary.failed:
            hint = "; once it is safe: robopolicy estop --clear" if summary.ended.startswith("stopped: ") else ""
            typer.echo(f"error: {summary.ended}{hint}", err=True)
            raise typer.Exit(1)
        typer.echo(f"ended: {summary.ended}; the robot holds")


@contextmanager
def status(runtime: Any) -> Iterator[None]:
    """Draw the state of ``runtime`` four times a second, from a thread of its own; nothing where there is no terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        yield
        return
    colours = {"active": "green", "hold": "yellow", "idle": "dim", "stopped": "red"}

    class Line:
        def __rich__(self) -> Text:
            state = f"{runtime.state} ({runtime.cause})" if runtime.cause else runtime.state
            return Text.assemble((f"{state:<24} ", colours[runtime.state]), runtime.summary.line())

    with Live(Line(), console=console, refresh_per_second=4, transient=True):
        yield
