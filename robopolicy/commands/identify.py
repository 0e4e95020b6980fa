"""``robopolicy identify``: model fields and delays that make a task's worlds follow recorded motion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.spec import InputError

if TYPE_CHECKING:
    from sim.identify import Fit

HELP = (
    "Fit model fields and delays to recorded trajectories.\n\n"
    "TRAJECTORIES is a data set (robopolicy collect, teleop, run) or an .npz file with actions, observations and, where they are not at "
    "the task's rate, time. What is fitted is named as in a recipe's randomize section: mass:BODY, damping:JOINT, frictionloss:JOINT, "
    "friction:GEOM, armature:JOINT, kp:ACTUATOR, gear:ACTUATOR, gravity.z, ...; a pattern fits one factor for all that match, with a number one value; "
    "delay is that of actions, latency that of readings. NAME=NUMBER says where the search begins.\n\n"
    "Recordings are cut into short windows whose first states are estimated with the rest. The table gives the value, its standard error, "
    "and the prediction error before and after, also on windows that were kept out of the fit.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy identify data/cartpole --task classic/cartpole --fit mass:pole --fit damping:hinge --fit delay\n\n"
    "  robopolicy identify log.npz --task classic/cartpole --fit frictionloss:slider=0.1 --fit gear:push --out found.yaml --plot found.svg"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command("identify", help=HELP, short_help="Fit model fields and delays to recorded motion.")
    def identify_command(
        trajectories: Annotated[Path, typer.Argument(help="Data set or .npz file.", metavar="TRAJECTORIES")],
        task: Annotated[str, typer.Option(help="Task whose worlds are to follow (see: robopolicy list tasks).")],
        fit: Annotated[list[str], typer.Option("--fit", help="What is fitted, e.g. mass:pole, damping:hinge=0.1, delay; repeatable.", metavar="NAME[=START]")],
        window: Annotated[float, typer.Option(min=0.0, help="Length of a window, s; 0: whole trajectories.")] = 0.5,
        windows: Annotated[int, typer.Option(min=1, help="Most windows; more are thinned out evenly.")] = 60,
        episodes: Annotated[int | None, typer.Option(min=1, help="Use the first so many episodes.", show_default="all")] = None,
        starts: Annotated[int, typer.Option(min=1, help="Places where the search begins.")] = 3,
        iterations: Annotated[int, typer.Option(min=1, help="Most steps of the search, each round.")] = 25,
        max_delay: Annotated[float, typer.Option(min=0.0, help="Longest delay and latency that are searched, s.")] = 0.2,
        held_out: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of the windows that are kept out of the fit.")] = 0.2,
        compare: Annotated[list[str] | None, typer.Option(help="Observed field that is compared whole besides; repeatable.", metavar="FIELD")] = None,
        worlds: Annotated[int, typer.Option(min=1, help="Worlds stepped at once.")] = 512,
        threads: Annotated[int, typer.Option(min=1, help="Threads of the physics; the result does not depend on it.")] = 1,
        out: Annotated[Path | None, typer.Option(help="Write the fitted values: .yaml is a recipe's section, .xml the task's model.")] = None,
        plot: Annotated[Path | None, typer.Option(help="Draw recorded and predicted motion: .svg, .png or .pdf.")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from robopolicy import identification
        from sim import registry
        from sim.identify import Settings, identify, require_task

        _check_names(out, plot)
        settings = Settings(window, windows, starts, iterations, max_delay, held_out, tuple(compare or ()))
        with contextlib.closing(registry.make(task, worlds, threads=threads)) as env:
            world = require_task(env)
            recorded = identification.read_trajectories(trajectories, world.spec, episodes)
            with _bar(not quiet and str(json_file) != "-") as told:
                found = identify(world, recorded, fit, settings, told)
            if out is not None and out.suffix == ".xml":
                identification.write_mjcf(found, world.xml_path(), out)
        if out is not None and out.suffix != ".xml":
            identification.write_section(found, out)
        if plot is not None:
            identification.plot(found, plot)
        if json_file is not None:
            from robopolicy.json_output import emit_json

            emit_json(found.to_dict(), json_file)
        if str(json_file) != "-":
            _print(found)
        return 0


def _check_names(out: Path | None, plot: Path | None) -> None:
    """Refuse endings before anything runs."""
    if out is not None and out.suffix not in (".yaml", ".yml", ".xml"):
        raise InputError(f"--out {out}: expected a name that ends in .yaml or .xml")
    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise InputError(f"--plot {plot}: expected a name that ends in .svg, .png or .pdf")


@contextlib.contextmanager
def _bar(show: bool) -> Iterator[Callable[[str, int, float], None] | None]:
    """Show the stage of the search and the cost so far."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if not show:
        yield None
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        line = bar.add_task("identify: first prediction")
        yield lambda stage, step, cost: bar.update(line, description=f"identify: {stage}, step {step}, cost {cost:.6g}")


def _print(found: Fit) -> None:
    """Print the estimates, the errors before and after, and what cannot be told."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{found.task}: {found.windows} windows of {found.steps} steps", title_justify="left")
    for name in ("fitted", "start", "value", "standard error", "unit"):
        table.add_column(name, justify="left" if name in ("fitted", "unit") else "right")
    for one in found.estimates:
        unit = "factor" if one.unit == "x" else one.unit
        table.add_row(one.key, f"{one.start:.5g}", f"{one.value:.5g}", f"{one.standard_error:.2g}", unit)
    console.print(table)
    held = bool(found.held_after.size)
    table = Table(title="root mean square error of prediction", title_justify="left")
    for name in ("observed", "before", "after", *(("held out, before", "after") if held else ()), "noise"):
        table.add_column(name, justify="left" if name == "observed" else "right")
    for d, name in enumerate(found.elements):
        cells = [found.before[d], found.after[d], *([found.held_before[d], found.held_after[d]] if held else []), found.noise[d]]
        table.add_row(name, *(f"{value:.3g}" for value in cells))
    console.print(table)
    for line in found.warnings:
        console.print(f"warning: {line}", soft_wrap=True, markup=False)
