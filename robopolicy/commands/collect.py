"""``robopolicy collect``: demonstrations of a task from its scripted expert or a trained policy, or of a whole suite from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policies.spec import InputError

HELP = (
    "Collect demonstrations into a data set (LeRobot v3 layout), from the scripted expert of a task or from a trained policy.\n\n"
    "Every episode is committed when it ends; the same command continues an interrupted collection. With --all, TASK is a recipe of "
    "configs/data (mt10, pusht, ...): it says which tasks, how many demonstrations, and how; KEY=VALUE changes it.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy collect metaworld/peg-insert-side --episodes 25 --recovery 0.3\n\n"
    "  robopolicy collect gymnasium/hopper --expert runs/gymnasium-hopper-ppo-seed0 --min-return 2500\n\n"
    "  robopolicy collect mt10 --all episodes=10 noise=0.1 --merge\n\n"
)
#: Options that go with a recipe of data; what the others say stands in the recipe.
WITH_ALL = ("task", "changes", "whole", "out", "workers", "engine", "address", "merge", "check", "json_file")
ONLY_WITH_ALL = ("merge", "check", "json_file")

Recovery = Annotated[float, typer.Option(min=0, max=1, help="Chance that an episode is disturbed by a stretch of wrong actions, of which the expert recovers.")]
RecoverySteps = Annotated[int | None, typer.Option(min=1, help="Longest stretch, control steps.", show_default="a quarter of a second")]
RecoveryWithin = Annotated[int | None, typer.Option(min=1, help="Steps in which it begins.", show_default="as many as the expert takes")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP)
    def collect(
        context: typer.Context,
        task: Annotated[str, typer.Argument(help="Task, e.g. pusht (see: robopolicy list tasks); with --all a recipe of configs/data, by name or path.")],
        changes: Annotated[list[str] | None, typer.Argument(help="With --all: what differs from the recipe.", metavar="[KEY=VALUE]...")] = None,
        whole: Annotated[bool, typer.Option("--all", help="All demonstrations of a suite, from a recipe.")] = False,
        episodes: Annotated[int, typer.Option("--episodes", "-n", min=1, help="Episodes to keep.")] = 50,
        out: Annotated[Path | None, typer.Option(help="Folder.", show_default="data/TASK")] = None,
        seed: Annotated[int, typer.Option(min=0, help="First seed; attempts take consecutive ones.")] = 0,
        workers: Annotated[int, typer.Option(min=1, help="Processes that simulate; the result does not depend on it.")] = 2,
        observations: Annotated[str | None, typer.Option(help="state, image or state+image.", show_default="state, or what the expert sees")] = None,
        image_size: Annotated[int | None, typer.Option(min=8, help="Height and width of camera images, px.", show_default="96")] = None,
        noise: Annotated[
            float, typer.Option(min=0, help="Gaussian noise on executed actions, share of half their range; the expert's action is recorded.")
        ] = 0.0,
        recovery: Recovery = 0.0,
        recovery_steps: RecoverySteps = None,
        recovery_within: RecoveryWithin = None,
        recovery_size: Annotated[float, typer.Option(help="Share of the action range that wrong actions are drawn from.")] = 1.0,
        marked: Annotated[bool, typer.Option("--marked/--cut", help="Keep disturbed frames, marked, or begin the record behind them.")] = False,
        expert: Annotated[str | None, typer.Option(help="Checkpoint or training run that demonstrates.", show_default="the scripted expert")] = None,
        sample: Annotated[bool | None, typer.Option("--sample/--mean", help="How its policy acts.", show_default="as trained")] = None,
        min_return: Annotated[float | None, typer.Option(help="Keep episodes with at least this sum of rewards, whole, whether they succeed or not.")] = None,
        only_success: Annotated[
            bool | None, typer.Option("--only-success/--all-episodes", help="Drop failed episodes, or keep them marked as such.", show_default="only-success")
        ] = None,
        extra_steps: Annotated[int | None, typer.Option(min=0, help="Steps recorded after the first success.", show_default="10")] = None,
        max_steps: Annotated[int | None, typer.Option(min=1, help="Time limit of an episode in control steps, if not the task's own.")] = None,
        randomize: Annotated[str | None, typer.Option(help="Recipe or file whose randomize section the worlds differ by; draws are recorded.")] = None,
        engine: Annotated[
            str, typer.Option(help="What steps the worlds: mujoco, warp, bullet; and ray, alone or behind a comma: they run on a Ray cluster.")
        ] = "mujoco",
        address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="RAY_ADDRESS, or one started here")] = None,
        merge: Annotated[bool | None, typer.Option("--merge/--no-merge", help="With --all: also one data set of all tasks.")] = None,
        check: Annotated[str | None, typer.Option(metavar="FINGERPRINT", help="With --all: what the whole must be.")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="With --all: also write JSON; - is standard output.")] = None,
    ) -> None:
        from robopolicy.cluster import opened_for, split_engine

        _require_fit(context, whole)
        physics, spread = split_engine(engine)
        if whole:
            from robopolicy.data.regenerate_recipe import load_plan

            plan = load_plan(task, [*(changes or []), *_engine(context, physics)], out, merge)
            with opened_for(spread, workers, address) as cluster:
                _regenerate(plan, workers, check, json_file, cluster)
            return
        from robopolicy.data.collect import Disturbing
        from robopolicy.data.collect import collect as run
        from sim.registry import resolve

        name = resolve(task)
        path = out or Path("data") / name.replace("/", "-")
        settings = (observations, image_size, only_success, True, noise, extra_steps, max_steps, _section(randomize), physics or "mujoco")
        disturbing = Disturbing(recovery, recovery_steps, recovery_within, recovery_size, marked) if recovery else None
        act = None if sample is None else "sample" if sample else "mean"
        with opened_for(spread, workers, address) as cluster:
            done = run(name, path, episodes, seed, workers, *settings, cluster=cluster, recovery=disturbing, expert=expert, act=act, min_return=min_return)
        _tell(done, only_success, min_return)


def _require_fit(context: typer.Context, whole: bool) -> None:
    """Refuse options that say nothing together. Raises InputError."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    if whole:
        for name in given:
            if name not in WITH_ALL:
                key = {"max_steps": "max_episode_steps", "marked": "recovery.marked"}.get(name, name.replace("recovery_", "recovery.").replace("sample", "act"))
                raise InputError(f"collect --all: {options[name]} is one task's; change the recipe's own: {key}=VALUE")
        return
    for name in given:
        if name in ONLY_WITH_ALL:
            raise InputError(f"collect: {options[name]} goes with --all")
    if context.params.get("changes"):
        raise InputError(f"collect: {context.params['changes'][0]!r} changes a recipe: give it with --all")
    recovering = [name for name in given if name.startswith("recovery_") or name == "marked"]
    if recovering and not context.params["recovery"]:
        raise InputError(f"collect: {options[recovering[0]]} says how episodes are disturbed: give --recovery CHANCE too")


def _engine(context: typer.Context, physics: str | None) -> list[str]:
    """Return the change of a recipe that an engine is which was asked for; the one that stands here unasked is none."""
    source = context.get_parameter_source("engine")
    return [f"engine={physics}"] if physics and source is not None and source.name == "COMMANDLINE" else []


def _tell(done: Any, only_success: bool | None, min_return: float | None) -> None:
    from rich.console import Console

    kept = "failures kept" if only_success is False or (only_success is None and min_return is not None) else "failures dropped"
    kept += f", returns below {min_return:g} dropped" if min_return is not None else ""
    Console(soft_wrap=True).print(
        f"{done.path}: {done.episodes} episodes, {done.frames} frames; expert succeeded in {done.attempts - done.failures} of {done.attempts} "
        f"attempts ({done.success_rate:.0%}), {kept}"
    )


def _regenerate(plan: Any, workers: int, expected: str | None, json_file: Path | None, cluster: Any) -> None:
    """Collect a suite's demonstrations, and print what is there."""
    from rich.console import Console
    from rich.table import Table

    from robopolicy.data.regenerate import regenerate
    from robopolicy.json_output import emit_json

    quiet = str(json_file) == "-"
    done = regenerate(plan, workers, not quiet, expected, cluster)
    if json_file is not None:
        emit_json(done.to_dict(), json_file)
    if quiet:
        return
    table = Table(title=f"{plan.name}: {len(done.tasks)} tasks", title_justify="left")
    for name in ("task", "episodes", "frames", "attempts", "success", "fingerprint"):
        table.add_column(name, justify="left" if name in ("task", "fingerprint") else "right", no_wrap=name == "task")
    for task, found in done.tasks.items():
        won = found.attempts - found.failures
        rate = f"{won / max(1, found.attempts):.0%}"
        table.add_row(task, str(found.episodes), str(found.frames), str(found.attempts), rate, found.fingerprint)
    console = Console(soft_wrap=True)
    console.print(table)
    merged = f"; all tasks in one: {done.merged}" if done.merged else ""
    console.print(f"{done.root}: {sum(found.episodes for found in done.tasks.values())} episodes, fingerprint {done.fingerprint}{merged}", markup=False)


def _section(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    from robopolicy.randomization import read_section

    return read_section(name)
