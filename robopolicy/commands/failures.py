"""``robopolicy failures``: how often a good policy fails, from fewer rollouts than plain evaluation needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robopolicy.evaluation.failures_run import Found

HELP = (
    "Estimate a small failure rate without bias, and show the worst seeds.\n\n"
    "The first states of a pool of seeds are looked at, which is cheap, and rollouts are spent where failures are likelier, as is learnt from the "
    "rollouts before; each counts by how likely it was to be chosen. The result is unbiased however wrong that prediction is. The same command "
    "goes on where it was stopped.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy failures runs/flow --rollouts 1000 --pool 20000\n\n"
    "  robopolicy failures runs/flow --learn-from runs/flow/evaluations/flow-push-selection-20260101T120000\n\n"
    "  robopolicy failures expert --task peg-insert-side --rollouts 500 --videos 3"
)


Method = Annotated[str | None, typer.Option(help="How CHECKPOINT is executed, e.g. rti:steps=3,level=15; none.", show_default="the checkpoint's")]
LearnFrom = Annotated[
    list[Path] | None,
    typer.Option("--learn-from", help="Evaluation of another policy there, e.g. an earlier checkpoint: it teaches where failures are.", metavar="FOLDER"),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Estimate a small failure rate from few rollouts.")
    def failures(
        checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, training run (its last checkpoint), or expert.", metavar="CHECKPOINT")],
        task: Annotated[str | None, typer.Option(help="Task (see: robopolicy list tasks).", show_default="the checkpoint's")] = None,
        rollouts: Annotated[int, typer.Option("--rollouts", "-n", min=1, help="Rollouts in all.")] = 1000,
        pool: Annotated[int | None, typer.Option(min=1, help="Seeds whose first state is looked at.", show_default="20 for every rollout")] = None,
        seed: Annotated[int, typer.Option(min=0, help="Offset into the seeds, key of the policy's noise and of the draws.")] = 0,
        selection: Annotated[bool, typer.Option("--selection", help="Use the seeds for choosing, not those for reporting.")] = False,
        block: Annotated[int | None, typer.Option(min=1, help="B: worlds and policy rows at once, padded.", show_default="the recipe's, 50")] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; each takes whole blocks.", show_default="the recipe's, 1")] = None,
        method: Method = None,
        learn_from: LearnFrom = None,
        videos: Annotated[int, typer.Option(min=0, help="Film this many of the worst failures.")] = 0,
        out: Annotated[Path | None, typer.Option(help="Folder of this search.", show_default="RUN/evaluations/failures-POLICY-TASK")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        device: Annotated[str, typer.Option(help="Where the policy runs: cpu, cuda, cuda:1.")] = "cpu",
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from robopolicy.data.atomic import read_json
        from robopolicy.evaluation.failures import EXPERIENCED, Design
        from robopolicy.evaluation.failures_run import FILE, Search, search_failures
        from robopolicy.evaluation.records import Evaluation
        from robopolicy.evaluation.seeds import Purpose
        from robopolicy.evaluation.subject import EXPERT
        from robopolicy.evaluation.versus import prepare
        from robopolicy.evaluation.workers import WorkerCrash
        from robopolicy.execution import policy_name
        from robopolicy.json_output import emit_json

        lessons = [Evaluation.load(path) for path in learn_from or ()]
        purpose = Purpose.SELECTION if selection else Purpose.REPORT
        given = {k: v for k, v in {"block": block, "workers": workers, "seed": seed}.items() if v is not None}
        contest = prepare([checkpoint], task, given, purpose, None, method)
        who, config = contest.entrants[0], contest.config
        search = Search(
            policy=str(who.name),
            task=contest.task,
            design=Design(rollouts, gains=EXPERIENCED, seed=seed) if lessons else Design(rollouts, seed=seed),
            pool=pool or 20 * rollouts,
            seed0=int(purpose) + seed,
            block=config.block,
            threads=config.threads,
            noise_seed=config.seed,
            env=who.env,
            method=method,
            device=device,
            workers=config.workers,
            learn_from=lessons,
        )
        name = EXPERT if who.name == EXPERT else policy_name(str(who.name), method)
        folder = out or contest.out / f"failures-{name}-{contest.task}".replace("/", "-")
        try:
            found = search_failures(search, folder, film=videos, progress=not (quiet or str(json_file) == "-"))
        except WorkerCrash as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if json_file is not None:
            emit_json(read_json(folder / FILE), json_file)
        if str(json_file) != "-":
            _print(found)
        return 0


def _print(found: Found) -> None:
    """Print the rate, what plain Monte Carlo would have needed, and the worst seeds."""
    from rich.console import Console
    from rich.table import Table

    console, e = Console(soft_wrap=True), found.estimate
    console.print(f"failure rate {e.rate:.2%}, 95% interval {e.low:.2%} to {e.high:.2%}: {e.failures} failures in {e.rollouts} rollouts from {e.pool} seeds")
    if e.failures:
        console.print(
            f"effective sample size {e.plain_rollouts:.0f}: plain rollouts with the same variance, {e.plain_rollouts / e.rollouts:.1f} times those made"
        )
        table = Table("seed", "score", "steps", "stands for", "video", title="worst failures", title_justify="left")
        for row in found.worst[:10]:
            score = "-" if row["score"] is None else f"{row['score']:.3f}"
            table.add_row(str(row["seed"]), score, str(row["length"]), f"{row['weight'] * e.rollouts:.2f}", row["video"] or "-")
        console.print(table)
        console.print("stands for: how many plain rollouts a failure there counts as")
    for note in found.notes:
        console.print(note, markup=False)
    console.print(f"{found.folder}", markup=False)
