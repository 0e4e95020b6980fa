"""``robopolicy eval``: success of a checkpoint on fixed initial states, with an interval, and against others by pairs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robopolicy.evaluation.records import Evaluation

HELP = (
    "Evaluate a checkpoint on a task: success with a Wilson interval, episode by episode on fixed seeds.\n\n"
    "CHECKPOINT is a checkpoint, a training run (its last checkpoint) or the word expert. Task, world and settings are those of the "
    "checkpoint's recipe where they are not given. Seeds for reporting and, with --selection, for choosing (checkpoint, learning rate) "
    "never meet. The result does not depend on --workers, only on --block.\n\n"
    "With --method plans follow one another by a method of execution (robopolicy list methods); robopolicy tune chooses one and saves "
    "it in the checkpoint. Checkpoints behind --compare are executed as they say themselves.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy eval runs/pusht-flow-seed0 --episodes 100 --workers 2\n\n"
    "  robopolicy eval runs/flow --compare runs/regression --compare expert --videos 2\n\n"
    "  robopolicy eval runs/diffusion --method rti:steps=3 --compare runs/diffusion\n\n"
    "  robopolicy eval expert --task peg-insert-side"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command("eval", help=HELP, short_help="Evaluate a checkpoint on a task.")
    def evaluate_command(
        checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, training run, or expert.", metavar="CHECKPOINT")],
        task: Annotated[str | None, typer.Option(help="Task (see: robopolicy list tasks).", show_default="the checkpoint's")] = None,
        episodes: Annotated[int | None, typer.Option("--episodes", "-n", min=1, help="Episodes.", show_default="the recipe's, 50")] = None,
        block: Annotated[int | None, typer.Option(min=1, help="B: worlds and policy rows at once, padded.", show_default="the recipe's, 50")] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; each takes whole blocks.", show_default="the recipe's, 1")] = None,
        threads: Annotated[int | None, typer.Option(min=1, help="Torch threads in each.", show_default="the recipe's, 1")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Offset into the seeds, and key of the policy's noise.", show_default="the recipe's, 0")] = None,
        selection: Annotated[bool, typer.Option("--selection", help="Use the seeds for choosing, not those for reporting.")] = False,
        videos: Annotated[int | None, typer.Option(min=0, help="Film this many best and worst episodes, each.", show_default="the recipe's, 0")] = None,
        method: Annotated[
            str | None,
            typer.Option(help="How CHECKPOINT is executed, e.g. rti:steps=3,level=15; none: as it was trained.", show_default="the checkpoint's"),
        ] = None,
        compare: Annotated[
            list[str] | None, typer.Option(help="Checkpoint, run, expert or earlier evaluation to pair with; repeatable.", metavar="OTHER")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for records, videos and the ledger.", show_default="RUN/evaluations or evaluations")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        device: Annotated[str, typer.Option(help="Where the policy runs: cpu, cuda, cuda:1.")] = "cpu",
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from robopolicy.evaluation.seeds import Purpose
        from robopolicy.evaluation.versus import as_json, hold, prepare
        from robopolicy.evaluation.workers import WorkerCrash

        given = {"episodes": episodes, "block": block, "workers": workers, "threads": threads, "seed": seed, "videos": videos}
        purpose = Purpose.SELECTION if selection else Purpose.REPORT
        contest = prepare([checkpoint, *(compare or [])], task, {k: v for k, v in given.items() if v is not None}, purpose, out, method)
        printed = str(json_file) == "-"
        try:
            evaluations = hold(contest, device, progress=not (quiet or printed))
        except WorkerCrash as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if json_file is not None:
            from robopolicy.json_output import emit_json

            emit_json(as_json(evaluations), json_file)
        if not printed:
            _print(evaluations)
        return 0


def _print(evaluations: Sequence[Evaluation]) -> None:
    """Print one row per evaluation, the paired comparisons with the first, and where the records are."""
    from rich.console import Console
    from rich.table import Table

    from robopolicy.evaluation.records import compare_evaluations

    first, console = evaluations[0], Console()
    title = f"{first.task}, {len(first.episodes)} episodes on {first.purpose} seeds from {first.seed0}, B = {first.block}"
    caption = "calls of the network: for one plan, and for one control step; ms: for one plan"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    columns = ("policy", "success", "rate", "95% interval", "score", "steps", "calls", "a step", "ms")
    for name in columns:
        table.add_column(name, justify="left" if name == "policy" else "right")
    for e in evaluations:
        low, high = e.interval
        steps = sum(x.length for x in e.episodes) / len(e.episodes)
        calls = ("-", "-") if e.policy == "expert" else (f"{e.network_calls_per_chunk:.4g}", f"{e.network_calls_per_step:.3g}")
        score = "-" if e.score is None else f"{e.score:.3f}"
        cells = [e.label, f"{e.successes}/{len(e.episodes)}", f"{e.success_rate:.1%}", f"{100 * low:.1f}-{100 * high:.1f}%", score]
        table.add_row(*cells, f"{steps:.0f}", *calls, f"{e.ms_per_chunk:.1f}" if e.ms_per_chunk is not None else "-")
    console.print(table)
    for other in evaluations[1:]:
        pair = compare_evaluations(first, other)
        console.print(
            f"{first.label} against {other.label}: {pair.difference:+.1%} [{pair.low:+.1%}, {pair.high:+.1%}] on {pair.n} states, "
            f"only {first.label} {pair.first_only}, only {other.label} {pair.second_only}, McNemar p = {pair.p_value:.2g}",
            soft_wrap=True,
            markup=False,
        )
    for e in evaluations:
        if e.execution is not None:
            console.print(f"{e.label}: executed by {e.execution}", soft_wrap=True, markup=False)
        for note in e.notes:
            console.print(f"{e.label}: {note}", soft_wrap=True, markup=False)
        if e.folder is not None:
            console.print(f"{e.label}: {e.folder}", soft_wrap=True, markup=False)
