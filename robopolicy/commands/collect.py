"""``robopolicy collect``: demonstrations from a task's scripted expert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def collect(
        task: Annotated[str, typer.Argument(help="Task, e.g. metaworld/peg-insert-side or pusht (see: robopolicy list tasks).")],
        episodes: Annotated[int, typer.Option("--episodes", "-n", min=1, help="Episodes to keep.")] = 50,
        out: Annotated[Path | None, typer.Option(help="Folder of the data set; default data/TASK.")] = None,
        seed: Annotated[int, typer.Option(min=0, help="First seed; attempts take consecutive ones.")] = 0,
        workers: Annotated[int, typer.Option(min=1, help="Processes that simulate; the result does not depend on it.")] = 2,
        observations: Annotated[str, typer.Option(help="state, image or state+image.")] = "state",
        image_size: Annotated[int, typer.Option(min=8, help="Height and width of camera images, px.")] = 96,
        noise: Annotated[
            float, typer.Option(min=0, help="Gaussian noise on executed actions, share of half their range; the expert's action is recorded.")
        ] = 0.0,
        only_success: Annotated[bool, typer.Option("--only-success/--all-episodes", help="Drop failed episodes, or keep them marked as such.")] = True,
        extra_steps: Annotated[int, typer.Option(min=0, help="Steps recorded after the first success.")] = 10,
        max_steps: Annotated[int | None, typer.Option(min=1, help="Time limit of an episode in control steps, if not the task's own.")] = None,
        randomize: Annotated[str | None, typer.Option(help="Recipe or file whose randomize section the worlds differ by; draws are recorded.")] = None,
        engine: Annotated[
            str, typer.Option(help="What steps the worlds: mujoco, warp, bullet; and ray, alone or behind a comma: they run on a Ray cluster.")
        ] = "mujoco",
        address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="RAY_ADDRESS, or one started here")] = None,
    ) -> None:
        """Collect demonstrations from the scripted expert of a task into a data set (LeRobot v3 layout).

        Every episode is committed when it ends; the same command continues an interrupted collection.
        """
        from rich.console import Console

        from robopolicy.cluster import opened_for, split_engine
        from robopolicy.data.collect import collect as run
        from sim.registry import resolve

        name = resolve(task)
        path = out or Path("data") / name.replace("/", "-")
        section = _section(randomize)
        physics, spread = split_engine(engine)
        settings = (observations, image_size, only_success, True, noise, extra_steps, max_steps, section, physics or "mujoco")
        with opened_for(spread, workers, address) as cluster:
            done = run(name, path, episodes, seed, workers, *settings, cluster=cluster)
        kept = "failures dropped" if only_success else "failures kept"
        Console(soft_wrap=True).print(
            f"{done.path}: {done.episodes} episodes, {done.frames} frames; expert succeeded in {done.attempts - done.failures} of {done.attempts} "
            f"attempts ({done.success_rate:.0%}), {kept}"
        )


def _section(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    from robopolicy.randomization import read_section

    return read_section(name)
