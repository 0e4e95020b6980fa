"""``robopolicy view``: the worlds of a task in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def view(
        task: Annotated[str, typer.Argument(help="Task, e.g. cartpole (see: robopolicy list tasks).")],
        policy: Annotated[str, typer.Option(help="expert, random, zero, or the folder of a run or checkpoint.")] = "",
        worlds: Annotated[int, typer.Option(min=1, help="How many; one is shown at a time.")] = 4,
        seed0: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
        engine: Annotated[str, typer.Option(help="mujoco, warp or bullet.")] = "mujoco",
        max_steps: Annotated[int | None, typer.Option(min=1, help="Time limit of an episode in control steps, if not the task's.")] = None,
        port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on 127.0.0.1; 0: any free one.")] = 8090,
        steps: Annotated[int | None, typer.Option(min=1, help="End after so many control steps; without end if not given.")] = None,
        announce: Annotated[Path | None, typer.Option(help="File that gets the page's address once it is served.")] = None,
        with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    ) -> None:
        """Show the worlds of a task in the browser while a policy acts, with sliders for gravity, mass, friction, damping and strength.

        Without --policy the task's expert acts, where it has one, else the zero action. The page serves this machine alone
        and is opened with the key in its address.
        """
        from robopolicy.processes import announce as tell
        from robopolicy.processes import stop_signals
        from robopolicy.view import Viewer, make_planner
        from sim.registry import entry, make

        chosen = policy or ("expert" if entry(task).has_expert else "zero")
        with stop_signals(with_parent) as stopped:
            env = make(task, worlds, max_episode_steps=max_steps, engine=engine)
            viewer = Viewer(env, make_planner(env, chosen), port, seed0)
            try:
                tell(str(announce) if announce else None, viewer.url)
                typer.echo(f"ready: {viewer.url} ({env.task}, {chosen} acts)")
                viewer.run(stopped, steps)
            finally:
                viewer.close()
