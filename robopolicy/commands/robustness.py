"""``robopolicy robustness``: success of checkpoints against the size of what is wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.spec import InputError

if TYPE_CHECKING:
    from robopolicy.evaluation.robustness import Table

_PLAIN_EVERY = 10.0  # s between lines where there is no terminal to draw a bar on

HELP = (
    "Evaluate checkpoints under perturbations of growing size, on the same initial states: success with Wilson intervals, each size paired with "
    "none, and for each kind the size at which half of the success is gone.\n\n"
    "Signals, for every task: noise (in deviations of the data), pixel_noise, latency and delay (of observations and of actions, ms), drops and "
    "lost_commands (shares), action_noise. Worlds with a model: mass, friction, damping, gain (factors), push (m/s). With cameras: camera (cm), "
    "camera_turn (deg), light (factor), texture. Without --kinds all that the task can have; what it cannot is said. A scripted expert reads the true "
    "state.\n\n"
    "Every cell is an evaluation with its line in OUT/ledger.jsonl; the same command goes on where it was stopped. OUT gets robustness.html and "
    "robustness.md.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy robustness runs/flow runs/diffusion --kinds noise,latency,mass --episodes 100 --workers 2\n\n"
    "  robopolicy robustness runs/flow --kinds delay --sizes delay=20,40,80\n\n"
    "  robopolicy robustness expert --task arm-push --kinds mass,push --element mass=puck\n\n"
    "One perturbation alone: robopolicy eval runs/flow --perturb latency:50"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Evaluate checkpoints under growing perturbations.")
    def robustness(
        runs: Annotated[list[str], typer.Argument(help="Checkpoints, training runs, or expert.", metavar="RUN...")],
        task: Annotated[str | None, typer.Option(help="Task (see: robopolicy list tasks).", show_default="the first checkpoint's")] = None,
        kinds: Annotated[str, typer.Option(help="Kinds of perturbation, separated by commas.", metavar="KIND,...", show_default="all")] = "",
        sizes: Annotated[list[str] | None, typer.Option(help="Sizes of a kind; repeatable.", metavar="KIND=S1,S2,...", show_default="its own")] = None,
        element: Annotated[
            list[str] | None, typer.Option(help="What a kind acts on, a pattern of names; repeatable.", metavar="KIND=PATTERN", show_default="all")
        ] = None,
        episodes: Annotated[int | None, typer.Option("--episodes", "-n", min=1, help="Episodes of a cell.", show_default="the recipe's, 50")] = None,
        block: Annotated[int | None, typer.Option(min=1, help="B: worlds and policy rows at once, padded.", show_default="the recipe's, 50")] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; each takes whole blocks.", show_default="the recipe's, 1")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Offset into the seeds, and key of the policies' noise.", show_default="the recipe's, 0")] = None,
        selection: Annotated[bool, typer.Option("--selection", help="Use the seeds for choosing, not those for reporting.")] = False,
        out: Annotated[Path, typer.Option(help="Folder for records, ledger and page.")] = Path("robustness"),
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        device: Annotated[str, typer.Option(help="Where the policies run: cpu, cuda, cuda:1.")] = "cpu",
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from robopolicy.evaluation.robustness import ladders
        from robopolicy.evaluation.seeds import Purpose
        from robopolicy.evaluation.versus import prepare
        from robopolicy.evaluation.workers import WorkerCrash
        from robopolicy.json_output import emit_json
        from robopolicy.reporting.robustness_page import write

        wanted = [name.strip() for name in kinds.split(",") if name.strip()]
        chosen = ladders(wanted, {name: _numbers(name, text) for name, text in _pairs("--sizes", sizes)}, dict(_pairs("--element", element)))
        given = {"episodes": episodes, "block": block, "workers": workers, "seed": seed}
        purpose = Purpose.SELECTION if selection else Purpose.REPORT
        contest = prepare(runs, task, {k: v for k, v in given.items() if v is not None}, purpose, out)
        try:
            table = _measured(contest, chosen, bool(wanted), device, progress=not (quiet or str(json_file) == "-"))
        except WorkerCrash as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        page = write(table, out)
        if json_file is not None:
            emit_json(table.to_dict(), json_file)
        if str(json_file) != "-":
            _print(table, page)
        return 0


def _measured(contest: object, chosen: Sequence[object], explicit: bool, device: str, progress: bool) -> Table:
    """Run what the ledger does not have, with a bar over the cells."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from robopolicy.evaluation.robustness import sweep

    now = TextColumn("{task.description}", markup=False)
    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), now, TimeElapsedColumn(), TimeRemainingColumn())
    console, said = Console(stderr=True), time.monotonic()
    with Progress(*columns, console=console, disable=not progress or not console.is_terminal) as bar:
        line = bar.add_task("", total=None)

        def told(done: int, total: int, name: str) -> None:
            nonlocal said
            bar.update(line, completed=done, total=total, description=name)
            if progress and not console.is_terminal and time.monotonic() - said > _PLAIN_EVERY:
                console.print(f"{done} of {total} cells, now {name}", soft_wrap=True, markup=False, highlight=False)
                said = time.monotonic()

        return sweep(contest, chosen, explicit, device, told)  # type: ignore[arg-type]


def _pairs(option: str, items: Sequence[str] | None) -> list[tuple[str, str]]:
    out = [(name.strip(), value.strip()) for name, _, value in (item.partition("=") for item in items or ())]
    names = [name for name, _ in out]
    for item, (name, value) in zip(items or (), out, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{option} {item!r}: {name} is given twice; expected it once" + (", e.g. latency=20,40" if option == "--sizes" else ""))
        if not value:
            raise InputError(f"{option} {item!r}: expected KIND=..., e.g. {option} " + ("latency=20,40" if option == "--sizes" else "mass=puck"))
    return out


def _numbers(kind: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--sizes {kind}={text}: expected numbers separated by commas") from None


def _print(table: Table, page: Path) -> None:
    """Print a table for every kind, the summary, what was left out, and where the page is."""
    from rich import table as tables

    from robopolicy.reporting.console import wide
    from robopolicy.reporting.robustness_page import kinds, success_rows, summary_rows

    console = wide()
    shown = [success_rows(table, kind) for kind in kinds(table)] + ([summary_rows(table)] if table.curves else [])
    for number, (heads, rows) in enumerate(shown):
        grid = tables.Table(title=f"{table.task}, {table.episodes} episodes a cell: success in %" if number == 0 else None, title_justify="left")
        for column, head in enumerate(heads):
            grid.add_column(head, justify="left" if column == 0 else "right")
        for cells in rows:
            grid.add_row(*cells)
        console.print(grid)
    for line in table.left_out:
        console.print(f"left out: {line}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"{page}", soft_wrap=True, markup=False, highlight=False)
