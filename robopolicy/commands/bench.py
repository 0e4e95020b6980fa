"""``robopolicy bench``: how fast this machine is at each job, side by side with peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def bench(
        name: Annotated[str | None, typer.Argument(help="Benchmark; without a name they are listed.")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
        quick: Annotated[bool, typer.Option("--quick", help="The same rows in under two minutes.")] = False,
        steps: Annotated[int | None, typer.Option(min=1, help="Environment steps of a training, where a benchmark trains.", show_default=False)] = None,
        seeds: Annotated[int | None, typer.Option(min=1, help="Training seeds, likewise.", show_default=False)] = None,
        only: Annotated[str | None, typer.Option(help="Measure only cells with this in their name; the others keep theirs.", show_default=False)] = None,
        folder: Annotated[Path | None, typer.Option(help="Where long benchmarks keep their results and go on from.", show_default=False)] = None,
    ) -> None:
        """Measure speed and print a table; targets are on the ratio where there is a peer, else on the value."""
        from rich.table import Table

        from robopolicy.bench import harness
        from robopolicy.reporting.console import wide

        console = wide(markup=True)
        if name is None:
            listing = Table("benchmark", "measures", show_lines=False)
            for key, text in harness.names().items():
                listing.add_row(key, text)
            console.print(listing)
            return
        about = harness.machine()
        result = harness.run_benchmark(name, quick, steps=steps, seeds=seeds, only=only, folder=folder)
        console.print(harness.table(name, result, console.width))
        for line in result.missing:
            console.print(f"not compared: {line}", markup=False)
        for line in result.notes:
            console.print(f"note: {line}", markup=False)
        if json_file is not None:
            harness.write_json(json_file, harness.to_json(name, result, about))
