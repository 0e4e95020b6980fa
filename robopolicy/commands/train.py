"""``robopolicy train``: a policy from a recipe."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

HELP = """Train a policy by imitation or by trial, as a recipe says.

A recipe is a YAML file or the name of an installed one (robopolicy list recipes); keys set behind it replace its own. \
Demonstrations that do not exist yet are collected first where the recipe says how many. A run that was stopped or \
killed goes on, bit for bit, when the same command is given again.

[bold]Examples[/bold]

  robopolicy train quickstart

  robopolicy train metaworld task=stick-pull policy=diffusion seed=1

  robopolicy train metaworld data.episodes=10 training.steps=5000

  robopolicy train metaworld training.optimizer.lr=3e-4 policy.horizon=24

  robopolicy train metaworld training.evaluate_every=1000

  robopolicy train metaworld init=runs/old output=runs/new

  robopolicy train metaworld --processes 2

  robopolicy train rl/half-cheetah algo=spo training.worlds=256

Several machines: accelerate launch [dim]...[/dim] -m robopolicy train RECIPE
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Train a policy from a recipe.")
    def train(
        recipe: Annotated[str, typer.Argument(help="Recipe: a YAML file, or an installed name such as imitation/quickstart.", metavar="RECIPE")],
        overrides: Annotated[list[str] | None, typer.Argument(help="Keys of the recipe to set, e.g. seed=1 policy=flow.", metavar="KEY=VALUE")] = None,
        processes: Annotated[int, typer.Option(min=1, help="Processes on this machine that share each batch: one a GPU, or on the CPU.")] = 1,
        fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run that is in the output folder and begin anew.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar; the result and notes alone.")] = False,
    ) -> int:
        from robopolicy.recipe import Recipe, load_recipe, print_note
        from robopolicy.training.launch import launch, launched

        speaks = os.environ.get("RANK", "0") == "0"
        loaded = load_recipe(recipe, overrides or [], print_note if speaks and processes == 1 else lambda text: None)
        if processes > 1 and not launched():
            flags = [flag for flag, given in (("--fresh", fresh), ("--quiet", quiet)) if given]
            return launch([sys.executable, "-m", "robopolicy", "train", recipe, *(overrides or []), *flags], processes)
        if isinstance(loaded, Recipe):
            from robopolicy.training.imitation import train as run
        else:
            from robopolicy.training.trial import train as run

        result = run(loaded, progress=speaks and not quiet, resume="never" if fresh else "auto")
        if speaks:
            print(f"checkpoint: {result.checkpoint}")
        return 0
