"""``robopolicy demo``: the whole path in a few minutes, from demonstrations to a robot driven in closed loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def demo(
        recipe: Annotated[str, typer.Option(help="Recipe that all policies share.")] = "imitation/demo",
        out: Annotated[Path, typer.Option(help="Folder for data, runs, results and the report.")] = Path("runs/demo"),
        policies: Annotated[str, typer.Option(help="Policies, by commas; the last is the baseline.")] = "flow,diffusion,regression",
        states: Annotated[int, typer.Option(min=1, help="Unseen initial states on which everything is evaluated.")] = 200,
        drive_episodes: Annotated[int, typer.Option(min=1, help="Episodes driven through the server and the twin.")] = 10,
        steps: Annotated[int | None, typer.Option(min=1, help="Training steps, if not the recipe's.")] = None,
        baseline_lr: Annotated[float | None, typer.Option(help="Learning rate of the baseline; tuned on selection seeds, see docs/benchmarks.md.")] = 3e-4,
        workers: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 2,
        fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing what is there.")] = False,
    ) -> None:
        """Collect, train flow, diffusion and the regression baseline, evaluate all, serve the best, drive the twin, report.

        Everything lands in one folder; a second call continues or reuses what is there.
        """
        from robopolicy.demo import run_demo

        run_demo(recipe, out, policies.split(","), states, drive_episodes, steps, baseline_lr, workers, fresh)
