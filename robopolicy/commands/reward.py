"""``robopolicy reward``: a reward classifier from pictures of success and failure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policies.spec import InputError

if TYPE_CHECKING:
    from robopolicy.training.reward_classifier import ClassifierTraining

HELP = """Train a classifier that tells from camera images whether the task is done.

It learns from data sets that say which frames show success: recorded ones, or the scripted expert's (--collect), part of it under so \
much noise that it mostly fails. One episode in five is kept aside, and what it does there is printed with intervals. A run that \
was stopped goes on when the same command is given again.

[bold]Examples[/bold]

  robopolicy reward --task metaworld/door-close --collect 40 --out rewards/door-close

  robopolicy reward data/recorded data/failures --out rewards/mine

  robopolicy reward --task metaworld/drawer-open --collect 40 --against rl/serl --out rewards/drawer-open

  robopolicy train rl/serl training.reward.classifier=rewards/drawer-open training.reward.threshold=0.9

A policy finds what a classifier takes for success before it finds success. With --against RECIPE the classifier meets the learner that \
it is for: rounds of learning with its decision as the only reward, whose episodes, with what was true of them, go to the next \
classifier; on a robot somebody has to say what was true.
"""


#: Options that say nothing without one of others.
OF_OTHERS: dict[str, tuple[str, ...]] = {
    "task": ("--collect", "--against"),
    "image_size": ("--collect",),
    "noise": ("--collect",),
    "workers": ("--collect",),
    "rounds": ("--against",),
    "round_steps": ("--against",),
}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Train a reward classifier from images.")
    def reward(
        context: typer.Context,
        datasets: Annotated[list[Path] | None, typer.Argument(help="Data sets with images and success labels.", metavar="DATASET")] = None,
        out: Annotated[Path, typer.Option(help="Folder of the classifier.")] = Path("reward"),
        collect: Annotated[int, typer.Option(min=0, help="Collect this many episodes of the expert first, into OUT/data.")] = 0,
        task: Annotated[str | None, typer.Option(help="Task to collect from.")] = None,
        image_size: Annotated[int, typer.Option(min=8, help="Height and width of collected images, px.")] = 64,
        noise: Annotated[
            list[float], typer.Option(min=0, help="Of the expert, share of half the range of actions; the episodes are divided among several.")
        ] = [0.3, 2.0],  # noqa: B006 (typer copies it)
        workers: Annotated[int, typer.Option(min=1, help="Processes that collect.")] = 2,
        steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 600,
        batch: Annotated[int, typer.Option(min=2, help="Frames of an update, half of them with success.")] = 64,
        threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Probability that counts as success in the judgement.")] = 0.5,
        seed: Annotated[int, typer.Option(help="Of batches, weights and of which episodes are kept aside.")] = 0,
        against: Annotated[str | None, typer.Option(help="Recipe of the learner that the classifier is for, e.g. rl/serl.", show_default=False)] = None,
        rounds: Annotated[int, typer.Option(min=1, help="Rounds against it.")] = 4,
        round_steps: Annotated[int, typer.Option(min=1, help="Environment steps of a round.")] = 2000,
        fresh: Annotated[bool, typer.Option("--fresh", help="Delete the classifier that is in the folder and begin anew; collected data stays.")] = False,
        json: Annotated[Path | None, typer.Option("--json", help="Write how well it does to this file.")] = None,
    ) -> None:
        from robopolicy.json_output import emit_json
        from robopolicy.training.reward_classifier import STATE, ClassifierTraining
        from robopolicy.training.reward_model import MANIFEST, WEIGHTS

        _require_used(context, {"--collect": bool(collect), "--against": against is not None})
        paths = list(datasets or [])
        if collect:
            paths += _collected(task, collect, out, image_size, noise, workers)
        if not paths:
            raise InputError("reward: expected data sets, or --collect N --task TASK")
        if fresh:
            for name in (MANIFEST, WEIGHTS, STATE):
                (out / name).unlink(missing_ok=True)
        config = ClassifierTraining(steps=steps, batch_size=batch, threshold=threshold, seed=seed)
        played = [] if against is None else _played(against, task, paths, out, config, [round_steps] * rounds)
        described = _train([*paths, *(row["data"] for row in played)], out, config)
        described["rounds"] = [{**row, "data": str(row["data"])} for row in played]
        if json is not None:
            emit_json(described, json)


def _require_used(context: typer.Context, given: Mapping[str, bool]) -> None:
    """Refuse options that go with others, of which ``given`` says whether they are there. Raises InputError."""
    for name, needs in OF_OTHERS.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and not any(given[need] for need in needs):
            raise InputError(f"--{name.replace('_', '-')}: goes with {' or '.join(needs)}")


def _collected(task: str | None, episodes: int, out: Path, image_size: int, noises: list[float], workers: int) -> list[Path]:
    """Collect ``episodes`` episodes in all, in one data set for each of ``noises``; return the data sets. Raises InputError."""
    from robopolicy.data.collect import collect
    from sim.registry import resolve

    if task is None:
        raise InputError("reward: --collect needs --task, e.g. --task metaworld/door-close")
    for number, noise in enumerate(noises):
        if f"{noise:g}" in [f"{other:g}" for other in noises[:number]]:
            raise InputError(f"--noise {noise:g}: given twice; each is a data set of its own")
    name, found = resolve(task), []
    for k, noise in enumerate(noises):
        own = (episodes + len(noises) - 1 - k) // len(noises)
        if own:
            found.append(out / "data" / f"noise-{noise:g}")
            collect(name, found[-1], own, 10_000 * k, workers, "state+image", image_size, only_success=False, noise=noise)
    return found


def _played(recipe: str, task: str | None, paths: list[Path], out: Path, config: ClassifierTraining, steps: list[int]) -> list[dict[str, Any]]:
    """Play the rounds, say what came out of each, and return that."""
    from robopolicy.training.reward_rounds import rounds

    played, overrides = [], [] if task is None else [f"task={task}"]
    for one in rounds(recipe, overrides, paths, out, config, steps):
        typer.echo(
            f"round {one.number}: {one.episodes} episodes in {one.steps} steps, {one.successes} with success; "
            f"rewarded without success: {one.wrong:.0%} of the episodes that ended"
        )
        quality = one.classifier.quality.describe()
        played.append({"data": one.data, "steps": one.steps, "episodes": one.episodes, "successes": one.successes, "wrong": one.wrong, "quality": quality})
    return played


def _train(paths: list[Path], out: Path, config: ClassifierTraining) -> dict[str, Any]:
    """Train with a bar, print what came out, and return it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from robopolicy.training.reward_classifier import train_classifier

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*columns) as bar:
        shown = bar.add_task("training the classifier", total=config.steps, loss="-")
        done = train_classifier(paths, out, config, lambda step, loss: bar.update(shown, completed=step, loss=f"{loss:.3f}"))
    quality = done.quality
    Console(soft_wrap=True).print(
        f"{done.folder}: on {quality.frames} frames kept aside accuracy {quality.accuracy:.3f}, balanced {quality.balanced_accuracy:.3f}, "
        f"area under the curve {quality.auroc:.3f}\nsuccess found in {quality.found} of the successful episodes; "
        f"false alarm in {quality.false_alarms} of all episodes"
    )
    return {"folder": str(done.folder), "training": config.model_dump(mode="json"), "quality": quality.describe()}
