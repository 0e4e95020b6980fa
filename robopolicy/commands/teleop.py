"""``robopolicy teleop``: a person moves a robot, shows what is to be done, and takes over from a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def teleop(
        arguments: Annotated[
            list[str] | None, typer.Argument(metavar="[TASK...] [KEY=VALUE]...", help="What is done, in words, and the keys of a run.")
        ] = None,
        twin: Annotated[str | None, typer.Option(metavar="NAME", help="Simulate this task as the robot, in the background.")] = None,
        max_steps: Annotated[int, typer.Option(min=1, help="Of an episode of --twin, in policy steps: a person needs longer than an expert.")] = 2000,
        seed0: Annotated[int, typer.Option(help="Seed of the first episode of --twin.")] = 0,
        images: Annotated[bool, typer.Option("--images", help="Cameras of --twin, besides its state.")] = False,
        json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="What the session counted.")] = None,
    ) -> None:
        """Move a robot by hand, record what you show, take over from a policy.

        Keys: device (keyboard, gamepad, spacemouse, page, leader) and its options (device.port=8090), robot and its options, policy
        (a checkpoint or an address: it acts until you take over; none: you alone), record (a data set), episodes (to keep), jog.KEY
        (speeds, frame), and all of `robopolicy run`. What you do passes the same safety filter as a policy. In a twin an episode begins
        with the first motion and the world begins anew after it; at a robot, Enter begins one. In the terminal, y n and Backspace end
        one as a success, a failure or forgotten, t takes over and g gives back, Escape stops the robot, x ends the session.

        Example: robopolicy teleop --twin arm/reach device=keyboard record=data/demos episodes=10 reach the green ball
        """
        from robopolicy.deployment import load_run_config, run
        from robopolicy.processes import stop_signals
        from robopolicy.teleoperation import check, session_arguments

        with ExitStack() as stack:
            given = session_arguments(arguments or [])
            if json_file is not None:
                given.append(f"json={json_file}")
            check(load_run_config(given))  # what is wrong is said before a world is made
            if twin is not None:
                given.append(f"robot.address={stack.enter_context(_twin(twin, max_steps, seed0, images))}")
            config = load_run_config(given)
            stopped = stack.enter_context(stop_signals())
            summary = run(config, stopped, status, typer.echo)
        counts = summary.beside.get("teleop", {})
        typer.echo(f"{counts.get('success', 0)} successes, {counts.get('failure', 0)} failures, {counts.get('discard', 0)} forgotten; ended: {summary.ended}")
        recorded = summary.beside.get("recording")
        if recorded is not None and config.record is not None:
            lost = sum(recorded["dropped"].values())
            typer.echo(f"{recorded['episodes']} episodes in {config.record.path}" + (f"; {lost} samples lost" if lost else ""))
            if recorded["problem"]:
                typer.echo(f"error: {recorded['problem']}", err=True)
                raise typer.Exit(1)
        if summary.failed:
            hint = "; once it is safe: robopolicy estop --clear" if summary.ended.startswith("stopped: ") else ""
            typer.echo(f"error: {summary.ended}{hint}", err=True)
            raise typer.Exit(1)


@contextmanager
def _twin(task: str, max_steps: int, seed0: int, images: bool) -> Iterator[str]:
    """Simulate ``task`` in a process of its own; yields its address."""
    import tempfile

    from robopolicy.processes import Background
    from sim.registry import resolve

    name = resolve(task)  # says what is wrong before a process is started
    words = ["twin", name, "--max-steps", str(max_steps), "--seed0", str(seed0), *(["--observations", "state+image"] if images else [])]
    with tempfile.TemporaryDirectory(prefix="robopolicy-", ignore_cleanup_errors=True) as folder, Background(words, Path(folder), "twin") as process:
        yield process.address()


@contextmanager
def status(session: Any) -> Iterator[None]:
    """Show the keys once, then a line about the ``session`` (``real.teleop.episodes.Episodes``) four times a second; nothing where there is no terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        yield
        return
    keys = Table(show_header=False, box=None, padding=(0, 2), title=session.takeover.source.name, title_justify="left")
    for key, what in session.takeover.source.help.items():
        keys.add_row(key, what)
    console.print(keys)

    class Line:
        def __rich__(self) -> Text:
            hand, runtime = session.takeover, session.runtime
            state = f"{runtime.state} ({runtime.cause})" if runtime.cause else runtime.state
            who = "you" if hand.taken else "policy" if hand.policy else "nobody"
            recording = f"recording, {session.steps} steps" if session.open and session.recorder is not None else "open" if session.open else "not recording"
            wanted = f" of {session.wanted}" if session.wanted else ""
            line = f"{who:<7} {recording:<24} kept {session.saved}{wanted} ({session.counts['success']} good)  speed {hand.value.dial:.0%}  {hand.jog.frame}"
            return Text.assemble((f"{state:<22} ", "green" if hand.clutch else "yellow"), line)

    with Live(Line(), console=console, refresh_per_second=4, transient=True):
        yield
