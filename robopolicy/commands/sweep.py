"""``robopolicy sweep``: one recipe over a grid of its keys."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from policies.spec import InputError

HELP = """Train one recipe with every combination of the keys that are given several values.

KEY=V1,V2,... are values, seed=0..2 is 0, 1, 2; keys with one value are set for all. With --random N so many combinations are drawn, also from \
ranges of real numbers (training.optimizer.lr=1e-4..1e-2, evenly in the logarithm), each with all seeds. Every cell is an ordinary run in OUT/runs; \
the same command goes on where a sweep was stopped. Results are in OUT/results.jsonl, the report with means over seeds and learning curves in \
OUT/report.html. A cell that fails is named, costs the others nothing, and makes the exit code 1.

[bold]Examples[/bold]

  robopolicy sweep quickstart policy=flow,diffusion seed=0..2 --evaluate 50

  robopolicy sweep quickstart training.optimizer.lr=1e-4..1e-2 policy=flow,regression seed=0..1 --random 8 --workers 2

  robopolicy sweep rl/hopper-sac algo=sac,td3 seed=0..2 --engine ray
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Train a recipe over a grid of its keys.")
    def sweep(
        recipe: Annotated[str, typer.Argument(help="Recipe: a YAML file, or an installed name.", metavar="RECIPE")],
        settings: Annotated[list[str], typer.Argument(help="Keys and their values.", metavar="KEY=V1,V2,...")],
        out: Annotated[Path, typer.Option(help="Folder of the sweep.")] = Path("runs/sweep"),
        workers: Annotated[int, typer.Option(min=1, help="Cells at once.")] = 1,
        random: Annotated[int | None, typer.Option(min=1, help="Draw so many combinations instead of all.", show_default=False)] = None,
        evaluate: Annotated[int, typer.Option(min=0, help="Episodes of an evaluation of each, on selection seeds.")] = 0,
        engine: Annotated[str | None, typer.Option(help="ray: run the cells on a Ray cluster.", show_default="processes here")] = None,
        address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="RAY_ADDRESS, or one started here")] = None,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from rich.table import Table

        from robopolicy.reporting.console import wide
        from robopolicy.sweep import cells_of, check, run_sweep
        from robopolicy.sweep_report import table, write

        cells = cells_of(recipe, settings, random, evaluate)
        check(cells, out)
        with _cluster(engine, address, workers) as cluster:
            found = run_sweep(cells, out, workers, progress=not quiet, cluster=cluster)
        page = write(found, out)
        console = wide()
        heads, lines = table(found.rows)
        shown = Table()
        for head in heads:
            shown.add_column(head, justify="left" if head == "settings" else "right")
        for line in lines:
            shown.add_row(*line)
        console.print(shown)
        for cell, why in found.failed:
            console.print(f"failed: {cell.name}: {why}", soft_wrap=True, markup=False, highlight=False)
        console.print(f"{page}", soft_wrap=True, markup=False, highlight=False)
        return 1 if found.failed else 0


def _cluster(engine: str | None, address: str | None, workers: int) -> AbstractContextManager[Any]:
    """Return the context of a cluster, or of none."""
    if engine is None:
        if address is not None:
            raise InputError(f"--address {address}: goes with --engine ray")
        return nullcontext()
    if engine != "ray":
        raise InputError(f"--engine {engine}: a sweep runs in processes here, or on ray; what steps the worlds is the recipe's env.engine=...")
    from robopolicy.cluster import opened

    return opened(workers, address)
