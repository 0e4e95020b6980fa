"""``robopolicy eval``: success of a checkpoint on fixed initial states, with an interval, and against others by pairs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policies.spec import InputError

if TYPE_CHECKING:
    from robopolicy.evaluation.composition import Composition, Trial
    from robopolicy.evaluation.records import Evaluation
    from robopolicy.evaluation.suite import SuiteResult
    from robopolicy.evaluation.versus import Contest

HELP = (
    "Evaluate a checkpoint on a task: success with a Wilson interval, episode by episode on fixed seeds.\n\n"
    "CHECKPOINT is a checkpoint, a training run (its last checkpoint) or the word expert. Task, world and settings are those of the "
    "checkpoint's recipe where they are not given. Seeds for reporting and, with --selection, for choosing (checkpoint, learning rate) "
    "never meet. The result does not depend on --workers, only on --block.\n\n"
    "With --method plans follow one another by a method of execution (robopolicy list methods); robopolicy tune chooses one and saves "
    "it in the checkpoint. Checkpoints behind --compare are executed as they say themselves.\n\n"
    "With --compose two or more checkpoints act as one policy: at every denoising step their scores are averaged, or (--compose-by or) "
    "each plan follows one of them, drawn by weight. --choose-weights tries every tenth on selection seeds.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy eval runs/pusht-flow-seed0 --episodes 100 --workers 2\n\n"
    "  robopolicy eval runs/flow --compare runs/regression --compare expert --videos 2\n\n"
    "  robopolicy eval runs/diffusion --method rti:steps=3 --compare runs/diffusion\n\n"
    "  robopolicy eval runs/flow --weights bfloat16 --compare runs/flow\n\n"
    "  robopolicy eval runs/flow --perturb latency:50 --perturb noise:0.05\n\n"
    "  robopolicy eval --compose runs/flow:0.6 runs/diffusion:0.4 --compare runs/flow --compare runs/diffusion\n\n"
    "  robopolicy eval --compose runs/flow --compose runs/diffusion --choose-weights\n\n"
    "  robopolicy eval expert --task peg-insert-side\n\n"
    "With --tag, and by itself for a policy that was trained for several tasks, every task of a set is evaluated: a row of the ledger each, "
    "and their mean. What is in the ledger already is not run again.\n\n"
    "  robopolicy eval runs/mt10-flow-seed0 --tag mt10 --workers 2"
)


TAG = "Evaluate all tasks of a set: a tag (robopolicy list tasks), or names with commas between."
METHOD = "How CHECKPOINT is executed, e.g. rti:steps=3,level=15; none: as it was trained."
COMPARE = "Checkpoint, run, expert or earlier evaluation to pair with, in CHECKPOINT's world; repeatable."
COMPOSE = "Act as several checkpoints at once, in place of CHECKPOINT; weights sum to 1."
RANDOMIZE = "Recipe or file whose randomize section the worlds differ by."
ENGINE = "What steps the worlds: mujoco, warp, bullet; and ray, alone or behind a comma: episodes run on a Ray cluster."
WEIGHTS = "Number format of CHECKPOINT's large matrices: float32, bfloat16, int8."
PERTURB = "What is wrong in the worlds of all, e.g. noise:0.05 or latency:50; repeatable; kinds: robopolicy robustness --help."


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command("eval", help=HELP, short_help="Evaluate a checkpoint on a task.")
    def evaluate_command(
        checkpoint: Annotated[
            list[str] | None, typer.Argument(help="Checkpoint folder, training run, or expert.", metavar="CHECKPOINT", show_default=False)
        ] = None,
        task: Annotated[str | None, typer.Option(help="Task (see: robopolicy list tasks).", show_default="the checkpoint's")] = None,
        tag: Annotated[str | None, typer.Option(help=TAG, show_default="the checkpoint's")] = None,
        episodes: Annotated[int | None, typer.Option("--episodes", "-n", min=1, help="Episodes.", show_default="the recipe's, 50")] = None,
        block: Annotated[int | None, typer.Option(min=1, help="B: worlds and policy rows at once, padded.", show_default="the recipe's, 50")] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; each takes whole blocks.", show_default="the recipe's, 1")] = None,
        threads: Annotated[int | None, typer.Option(min=1, help="Torch threads in each.", show_default="the recipe's, 1")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Offset into the seeds, and key of the policy's noise.", show_default="the recipe's, 0")] = None,
        selection: Annotated[bool, typer.Option("--selection", help="Use the seeds for choosing, not those for reporting.")] = False,
        videos: Annotated[int | None, typer.Option(min=0, help="Film this many best and worst episodes, each.", show_default="the recipe's, 0")] = None,
        method: Annotated[str | None, typer.Option(help=METHOD, show_default="the checkpoint's")] = None,
        weights: Annotated[str | None, typer.Option(help=WEIGHTS, show_default="as trained")] = None,
        compare: Annotated[list[str] | None, typer.Option(help=COMPARE, metavar="OTHER")] = None,
        compose: Annotated[list[str] | None, typer.Option(help=COMPOSE, metavar="CHECKPOINT:WEIGHT ...")] = None,
        compose_by: Annotated[str, typer.Option(help="How: average their scores, or let each plan follow one of them (or).")] = "average",
        choose_weights: Annotated[bool, typer.Option("--choose-weights", help="Choose the weights on selection seeds, then report on others.")] = False,
        randomize: Annotated[str | None, typer.Option(help=RANDOMIZE, show_default="the checkpoint's")] = None,
        perturb: Annotated[list[str] | None, typer.Option(help=PERTURB, metavar="KIND:SIZE")] = None,
        engine: Annotated[str | None, typer.Option(help=ENGINE, show_default="the checkpoint's")] = None,
        address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="RAY_ADDRESS, or one started here")] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for records, videos and the ledger.", show_default="RUN/evaluations or evaluations")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        device: Annotated[str, typer.Option(help="Where the policy runs: cpu, cuda, cuda:1.")] = "cpu",
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from robopolicy.cluster import opened_for, split_engine
        from robopolicy.evaluation.seeds import Purpose
        from robopolicy.evaluation.versus import prepare
        from robopolicy.evaluation.workers import WorkerCrash
        from robopolicy.randomization import read_section

        given = {"episodes": episodes, "block": block, "workers": workers, "threads": threads, "seed": seed, "videos": videos}
        purpose = Purpose.SELECTION if selection else Purpose.REPORT
        first = _first(checkpoint or [], compose, compose_by, choose_weights, selection, tag)
        section = None if randomize is None else read_section(randomize)
        settings = {k: v for k, v in given.items() if v is not None}
        physics, spread = split_engine(engine)
        progress = not (quiet or str(json_file) == "-")
        others = [flag for flag, wanted in (("--task", task), ("--compare", compare), ("--videos", videos)) if wanted]
        if isinstance(first, str) and (wanted := _set_wanted(first, tag, others)):
            from robopolicy.evaluation.suite import suite_settings
            from robopolicy.evaluation.versus import perturbations

            drawn = {} if section is None else {"randomize": section or None}
            worlds = {**drawn, **({"engine": physics} if physics else {}), **perturbations(perturb or (), first)}
            how = {**suite_settings(first, wanted, settings, purpose, out, worlds), "device": device, "method": method, "weights": weights}
            return _over_a_set(how, spread, address, progress, json_file)
        contest = prepare([first, *(compare or [])], task, settings, purpose, out, method, weights, section, physics, perturb or ())
        try:
            with opened_for(spread, contest.config.workers, address) as cluster:
                evaluations, trials = _hold(dataclasses.replace(contest, cluster=cluster), device, progress, choose_weights)
        except WorkerCrash as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        _tell(evaluations, trials, json_file)
        return 0


def _set_wanted(checkpoint: str, tag: str | None, others: Sequence[str]) -> str | None:
    """Return the set of tasks that is to be evaluated, None for one task. Raises InputError for what goes with one task alone."""
    if tag is not None and others:
        raise InputError(f"--tag {tag}: {others[0]} goes with one task; leave one of them out")
    if tag is not None or others:
        return tag
    from robopolicy.evaluation.suite import set_of

    return set_of(checkpoint)


def _over_a_set(how: dict[str, Any], spread: bool, address: str | None, progress: bool, json_file: Path | None) -> int:
    """Evaluate every task of a set, print a row each and their mean."""
    from robopolicy.cluster import opened_for
    from robopolicy.evaluation.suite import evaluate_suite
    from robopolicy.evaluation.workers import WorkerCrash
    from robopolicy.json_output import emit_json

    try:
        with opened_for(spread, how["workers"], address) as cluster:
            result = evaluate_suite(**how, progress=progress, cluster=cluster)
    except WorkerCrash as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if json_file is not None:
        emit_json(result.to_dict(), json_file)
    if str(json_file) != "-":
        _print_set(result, how["out"])
    return 0


def _print_set(result: SuiteResult, out: Path) -> None:
    """Print one row per task, and their mean."""
    from rich.table import Table

    from robopolicy.reporting.console import wide

    first, console = result.evaluations[0], wide()
    title = f"{first.label} on {result.name}, {len(first.episodes)} episodes a task on {first.purpose} seeds from {first.seed0}, B = {first.block}"
    table = Table(title=title, title_justify="left")
    for name in ("task", "success", "rate", "95% interval", "steps"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for e in result.evaluations:
        low, high = e.interval
        steps = sum(x.length for x in e.episodes) / len(e.episodes)
        table.add_row(e.task, f"{e.successes}/{len(e.episodes)}", f"{e.success_rate:.1%}", f"{100 * low:.1f}-{100 * high:.1f}%", f"{steps:.0f}")
    mean, low, high = result.mean
    table.add_section()
    table.add_row("mean over tasks", "", f"{mean:.1%}", f"{100 * low:.1f}-{100 * high:.1f}%", "")
    console.print(table)
    if result.reused:
        console.print(f"{result.reused} of {len(result.evaluations)} tasks were in the ledger already", markup=False)
    console.print(f"records: {out}", soft_wrap=True, markup=False)


def _hold(contest: Contest, device: str, progress: bool, choosing: bool) -> tuple[list[Evaluation], list[Trial]]:
    """Evaluate all, with the weights of the first chosen before if so asked; returns what was tried for that, too."""
    from robopolicy.evaluation.versus import choose_weights, hold

    trials: list[Trial] = []
    if choosing:
        contest, trials = choose_weights(contest, device, progress=progress)
    return hold(contest, device, progress=progress), trials


def _tell(evaluations: Sequence[Evaluation], trials: Sequence[Trial], json_file: Path | None) -> None:
    """Write JSON and print tables, as they were asked for."""
    from robopolicy.evaluation.versus import as_json
    from robopolicy.json_output import emit_json

    if json_file is not None:
        emit_json({**as_json(evaluations), **({"weights": [t.to_dict() for t in trials]} if trials else {})}, json_file)
    if str(json_file) != "-":
        if trials:
            _print_trials(trials, evaluations[0])
        _print(evaluations)


def _first(checkpoints: Sequence[str], compose: Sequence[str] | None, by: str, choosing: bool, selection: bool, tag: str | None) -> str | Composition:
    """Return who is evaluated; behind --compose, further parts may stand without repeating the option."""
    if compose:
        from robopolicy.evaluation.composition import parse

        if tag is not None:
            raise InputError(f"--tag {tag}: goes with one CHECKPOINT, not with --compose")
        if choosing and selection:
            raise InputError("--choose-weights chooses on selection seeds and reports on others: leave out --selection")
        return parse([*compose, *checkpoints], by, choosing)
    if choosing or by != "average":
        raise InputError("--choose-weights and --compose-by go with --compose")
    if len(checkpoints) != 1:
        found = f"found {' '.join(checkpoints)}; compare it with others by --compare" if checkpoints else "found none; or parts behind --compose"
        raise InputError(f"robopolicy eval: expected one CHECKPOINT, {found}")
    return checkpoints[0]


def _print_trials(trials: Sequence[Trial], reported: Evaluation) -> None:
    """Print the grid of weights, with what was chosen."""
    from rich.table import Table

    from robopolicy.reporting.console import wide

    first, console = trials[0], wide()
    e, parts = first.evaluation, first.composition.described["parts"]
    title = f"weights, {len(e.episodes)} episodes on {e.purpose} seeds from {e.seed0}; the chosen ones are reported on others below"
    table = Table(title=title, title_justify="left")
    for name in (*(part["policy"] for part in parts), "success", "rate", "95% interval", "score", ""):
        table.add_column(name, justify="right")
    chosen = [part["weight"] for part in (reported.composition or {"parts": []})["parts"]]
    for trial in trials:
        e, weights = trial.evaluation, trial.composition.weights
        low, high = e.interval
        score = "-" if e.score is None else f"{e.score:.3f}"
        cells = [f"{e.successes}/{len(e.episodes)}", f"{e.success_rate:.1%}", f"{100 * low:.1f}-{100 * high:.1f}%", score]
        table.add_row(*(f"{w:g}" for w in weights), *cells, "chosen" if list(weights) == chosen else "")
    console.print(table)


def _print(evaluations: Sequence[Evaluation]) -> None:
    """Print one row per evaluation, the paired comparisons with the first, and where the records are."""
    from rich.table import Table

    from robopolicy.evaluation.records import compare_evaluations
    from robopolicy.evaluation.statistics import holm
    from robopolicy.reporting.console import wide

    first, console = evaluations[0], wide()
    title = f"{first.task}, {len(first.episodes)} episodes on {first.purpose} seeds from {first.seed0}, B = {first.block}"
    caption = "calls of the network: for one plan (for one control step); ms: for one plan"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    columns = ("policy", "success", "rate", "95% interval", "score", "steps", "calls", "ms")
    for name in columns:
        table.add_column(name, justify="left" if name == "policy" else "right")
    for e in evaluations:
        low, high = e.interval
        steps = sum(x.length for x in e.episodes) / len(e.episodes)
        calls = "-" if e.policy == "expert" else f"{e.network_calls_per_chunk:.4g} ({e.network_calls_per_step:.3g})"
        score = "-" if e.score is None else f"{e.score:.3f}"
        cells = [e.label, f"{e.successes}/{len(e.episodes)}", f"{e.success_rate:.1%}", f"{100 * low:.1f}-{100 * high:.1f}%", score]
        table.add_row(*cells, f"{steps:.0f}", calls, f"{e.ms_per_chunk:.1f}" if e.ms_per_chunk is not None else "-")
    console.print(table)
    pairs = [compare_evaluations(first, other) for other in evaluations[1:]]
    adjusted = holm([pair.p_value for pair in pairs])
    for other, pair, p in zip(evaluations[1:], pairs, adjusted, strict=True):
        several = f", {p:.2g} adjusted for {len(pairs)} comparisons (Holm)" if len(pairs) > 1 else ""
        console.print(
            f"{first.label} against {other.label}: {pair.difference:+.1%} [{pair.low:+.1%}, {pair.high:+.1%}] on {pair.n} states, "
            f"only {first.label} {pair.first_only}, only {other.label} {pair.second_only}, McNemar p = {pair.p_value:.2g}{several}",
            soft_wrap=True,
            markup=False,
        )
    for e in evaluations:
        if e.execution is not None:
            console.print(f"{e.label}: executed by {e.execution}", soft_wrap=True, markup=False)
        for note in e.notes:
            console.print(f"{e.label}: {note}", soft_wrap=True, markup=False)
        if e.folder is not None:
            console.print(f"{e.label}: {e.folder}", soft_wrap=True, markup=False)
