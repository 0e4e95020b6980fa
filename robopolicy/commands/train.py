"""``robopolicy train``: a policy from a recipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from policies.spec import InputError

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

  robopolicy train rl/hopper-sac --actors 2

Several machines: accelerate launch [dim]...[/dim] -m robopolicy train RECIPE

[bold]Actors and a learner[/bold] (off-policy recipes): with --actors N each actor is a process with training.worlds worlds of its own, and the learner \
another; whichever dies is started again, and nothing that was collected is lost. On several machines start them by hand, with the same recipe and \
--actors; actors go on collecting while the learner is away, and with --fresh give up what waits for another run. Beyond loopback \
both need keys (robopolicy keys --help):

  robopolicy train rl/hopper-sac --role learner --bind tcp://0.0.0.0:5800 --keys keys/learner

  robopolicy train rl/hopper-sac --role actor --connect tcp://10.0.0.5:5800 --keys keys/arm --actor 0
"""

#: Options of processes that are actors or a learner -> the roles that take them; ``None``: all that are started here.
OF_ROLES: dict[str, tuple[str | None, ...]] = {
    "bind": ("learner",),
    "announce": ("learner",),
    "connect": ("actor",),
    "actor": ("actor",),
    "spool": ("actor",),
    "keys": ("learner", "actor"),
    "lead": ("learner", "actor", None),
}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Train a policy from a recipe.")
    def train(
        context: typer.Context,
        recipe: Annotated[str, typer.Argument(help="Recipe: a YAML file, or an installed name such as imitation/quickstart.", metavar="RECIPE")],
        overrides: Annotated[list[str] | None, typer.Argument(help="Keys of the recipe to set, e.g. seed=1 policy=flow.", metavar="KEY=VALUE")] = None,
        processes: Annotated[int, typer.Option(min=1, help="Processes on this machine that share each batch: one a GPU, or on the CPU.")] = 1,
        fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew; the run in the output folder goes when the new one has a checkpoint.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar; the result and notes alone.")] = False,
        actors: Annotated[int | None, typer.Option(min=1, help="Actors beside a learner; without --role all are started here.", show_default=False)] = None,
        role: Annotated[str | None, typer.Option(help="What this process is: learner or actor.", show_default="both")] = None,
        bind: Annotated[str, typer.Option(help="Address of a learner; port 0 takes any free one.")] = "tcp://127.0.0.1:0",
        connect: Annotated[str | None, typer.Option(help="Address of the learner, for an actor.", show_default=False)] = None,
        actor: Annotated[int, typer.Option(min=0, help="Which actor this is, from 0.")] = 0,
        keys: Annotated[Path | None, typer.Option(help="Folder of keys, for other addresses than loopback.", show_default=False)] = None,
        lead: Annotated[int, typer.Option(min=1, help="Environment steps that actors may be ahead of the learner.")] = 1000,
        spool: Annotated[Path | None, typer.Option(help="Folder where an actor keeps what the learner has not.", show_default="OUTPUT-actors/NNN")] = None,
        announce: Annotated[str | None, typer.Option(help="File that gets a learner's address.", hidden=True)] = None,
    ) -> int:
        from robopolicy.recipe import Recipe, load_recipe, print_note
        from robopolicy.training.launch import launch, launched, leave

        _require_role(context, actors is not None or role is not None, role)
        if actors is not None or role is not None:
            if processes > 1:
                raise InputError("--processes shares each batch of one learner; with --actors or --role there is one process a role")
            given = {"actors": actors or 1, "bind": bind, "connect": connect, "keys": keys, "lead": lead, "spool": spool, "announce": announce}
            return _asynchronous(recipe, overrides or [], role, actor, fresh, quiet, given)
        speaks = os.environ.get("RANK", "0") == "0"
        loaded = load_recipe(recipe, overrides or [], print_note if speaks and processes == 1 else lambda text: None)
        if processes > 1 and not launched():
            flags = [flag for flag, given in (("--fresh", fresh), ("--quiet", quiet)) if given]
            return launch([sys.executable, "-m", "robopolicy", "train", recipe, *(overrides or []), *flags], processes)
        if isinstance(loaded, Recipe):
            from robopolicy.training.imitation import train as run
        else:
            from robopolicy.training.trial import train as run

        wanted: Any = loaded  # of the kind that ``run`` takes
        result = run(wanted, progress=speaks and not quiet, resume="never" if fresh else "auto")
        if speaks:
            print(f"checkpoint: {result.checkpoint}")
        if launched():
            leave()
        return 0


def _require_role(context: typer.Context, shared: bool, role: str | None) -> None:
    """Refuse options that the role of this process does not take; ``shared``: whether there are roles at all. Raises InputError."""
    if role not in (None, "learner", "actor"):
        raise InputError(f"--role {role}: expected learner or actor")
    for name, roles in OF_ROLES.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and not (shared and role in roles):
            wanted = " or ".join(f"--role {one}" for one in roles if one)
            raise InputError(f"--{name}: goes with {wanted}{' or --actors' if None in roles else ''}")


def _asynchronous(recipe: str, overrides: Sequence[str], role: str | None, actor: int, fresh: bool, quiet: bool, given: Mapping[str, Any]) -> int:
    """Train with actors and a learner in processes of their own: all of them here, or the one that ``role`` names."""
    from robopolicy.recipe import Recipe, load_recipe, print_note

    loaded = load_recipe(recipe, overrides, print_note if role != "actor" else lambda text: None)
    if isinstance(loaded, Recipe):
        raise InputError(f"{recipe}: learns by imitation; actors and a learner need an off-policy recipe, e.g. rl/hopper-sac")
    from robopolicy.training.actor_learner import Meeting, learn, require_asynchronous

    require_asynchronous(loaded)
    if role is None:
        from robopolicy.training.actor_learner_launch import launch_all

        flags = [flag for flag, wanted in (("--fresh", fresh), ("--quiet", quiet)) if wanted]
        return launch_all([recipe, *overrides, "--lead", str(given["lead"])], given["actors"], flags)
    if role == "actor":
        from robopolicy.training.actor_learner_actor import act

        if given["connect"] is None:
            raise InputError("--role actor: needs --connect, the address of the learner")
        steps = act(loaded, Meeting(given["connect"], given["actors"], given["lead"], given["keys"]), actor, given["spool"], fresh=fresh)
        print(f"actor {actor}: {steps} control steps")
        return 0
    meeting = Meeting(given["bind"], given["actors"], given["lead"], given["keys"])
    result = learn(loaded, meeting, progress=not quiet, resume="never" if fresh else "auto", announced=given["announce"])
    print(f"checkpoint: {result.checkpoint}")
    return 0
