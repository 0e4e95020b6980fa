"""``robopolicy compare``: which of two policies is better, on the same initial states, and how sure that is."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from policies.spec import InputError, suggest

if TYPE_CHECKING:
    from robopolicy.evaluation.comparison import Comparison

HELP = (
    "Compare two policies on the same initial states: the difference with its interval, a paired test, and one sentence that says it.\n\n"
    "A and B are checkpoints, training runs, the word expert, folders of evaluations, or LEDGER.jsonl:LABEL. What is not evaluated yet is "
    "evaluated, on the states of the other side; what the ledger has is taken from it. Success is compared by the exact McNemar test with Tango's "
    "interval; scores and returns (--by) by a sign-change permutation test with a bootstrap interval. Several tasks (--task, repeated, or --tag) "
    "make one stratified result in which every task weighs the same.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy compare runs/flow runs/regression --episodes 200\n\n"
    "  robopolicy compare runs/flow expert --tell 0.02\n\n"
    "  robopolicy compare evaluations/ledger.jsonl:flow evaluations/ledger.jsonl:diffusion --json result.json"
)
QUANTITIES = ("success", "score", "return")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command("compare", help=HELP, short_help="Compare two policies on the same initial states.")
    def compare_command(
        first: Annotated[str, typer.Argument(help="Checkpoint, run, expert, evaluations, or LEDGER.jsonl:LABEL.", metavar="A")],
        second: Annotated[str, typer.Argument(help="Likewise.", metavar="B")],
        task: Annotated[list[str] | None, typer.Option(help="Task; repeatable.", show_default="the checkpoint's, or those evaluated")] = None,
        tag: Annotated[str | None, typer.Option(help="All tasks with this tag (see: robopolicy list tasks).", show_default=False)] = None,
        episodes: Annotated[int | None, typer.Option("--episodes", "-n", min=1, help="Initial states a task.", show_default="the recipe's, 50")] = None,
        block: Annotated[int | None, typer.Option(min=1, help="B: worlds at once.", show_default="the recipe's, 50")] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="the recipe's, 1")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Offset into the seeds.", show_default="the recipe's, 0")] = None,
        selection: Annotated[bool, typer.Option("--selection", help="Seeds for choosing, not for reporting.")] = False,
        by: Annotated[str | None, typer.Option(help="success, score or return.", show_default="success where outcomes differ")] = None,
        tell: Annotated[float | None, typer.Option(help="Say how many episodes would tell this difference, e.g. 0.05.", show_default=False)] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for records and the ledger.", show_default="RUN/evaluations or evaluations")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        device: Annotated[str, typer.Option(help="Where the policies run.")] = "cpu",
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from robopolicy.evaluation.comparison import Settings, gather, judge
        from robopolicy.evaluation.outcomes import Quantity
        from robopolicy.evaluation.seeds import Purpose
        from robopolicy.evaluation.workers import WorkerCrash
        from robopolicy.json_output import emit_json

        if by is not None and by not in QUANTITIES:
            raise InputError(f"--by {by!r}: expected one of {', '.join(QUANTITIES)}{suggest(by, QUANTITIES)}")
        if tell is not None and (not math.isfinite(tell) or tell == 0 or (by in (None, "success") and abs(tell) > 1)):
            raise InputError(f"--tell {tell:g}: expected a difference of success rates, more than 0 and at most 1")
        tasks = list(task or [])
        if tag is not None:
            from sim.registry import names

            tasks += names(tag)
        given = {k: v for k, v in {"episodes": episodes, "block": block, "workers": workers, "seed": seed}.items() if v is not None}
        silent = quiet or str(json_file) == "-"
        settings = Settings(tasks, given, Purpose.SELECTION if selection else Purpose.REPORT, out, device, not silent)
        try:
            sides = gather(first, second, settings)
        except WorkerCrash as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        result = judge(*sides, cast("Quantity | None", by), tell)
        if json_file is not None:
            emit_json(result.to_dict(), json_file)
        if str(json_file) != "-":
            _print(result)
        return 0


def _print(result: Comparison) -> None:
    """Print a line a task where there are several, then the sentence."""
    from rich.table import Table

    from robopolicy.reporting.console import wide

    console = wide()
    if len(result.tasks) > 1:
        table = Table(title=f"{result.first} against {result.second}, {result.quantity}", title_justify="left")
        for name in ("task", "states", result.first, result.second, "difference", "95% interval", "p", "p (Holm)"):
            table.add_column(name, justify="left" if name == "task" else "right")
        for task, d, p in result.tasks:
            cells = (
                f"{d.n}",
                f"{d.first_mean:.3f}",
                f"{d.second_mean:.3f}",
                f"{d.difference:+.3f}",
                f"{d.low:+.3f} to {d.high:+.3f}",
                f"{d.p_value:.2g}",
                f"{p:.2g}",
            )
            table.add_row(task, *cells)
        console.print(table)
    for line in (result.sentence(), result.hint(), *result.notes):
        if line:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
