"""``robopolicy tune``: choose how a checkpoint is executed, on selection seeds, and save it in the checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policies.spec import InputError

if TYPE_CHECKING:
    from robopolicy.execution import Trial

HELP = (
    "Choose a method's settings by success on selection seeds, and save the best in the checkpoint.\n\n"
    "METHOD is one of: robopolicy list methods. Without KEY=VALUE1,VALUE2 the method says what is tried; for rti this is the level "
    "k0: 2, 5, 10, 20, 40 and that of the rule for two-valued actions (grippers), which is the lowest where the policy was trained with "
    "two_valued_scale. eval and serve then use what was chosen; success is to be reported by robopolicy eval, on other seeds.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy tune runs/diffusion rti --episodes 100\n\n"
    "  robopolicy tune runs/diffusion rti:steps=2 level=5,10,20\n\n"
    "  robopolicy tune runs/diffusion none        save that there is no method"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Choose how a checkpoint is executed.")
    def tune(
        context: typer.Context,
        checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or training run (its last checkpoint).", metavar="CHECKPOINT")],
        method: Annotated[str, typer.Argument(help="Method, with the settings that are not to be chosen.", metavar="METHOD[:KEY=VALUE,...]")],
        varied: Annotated[list[str] | None, typer.Argument(help="What to try.", metavar="[KEY=VALUE1,VALUE2,...]")] = None,
        task: Annotated[str | None, typer.Option(help="Task (see: robopolicy list tasks).", show_default="the checkpoint's")] = None,
        episodes: Annotated[int, typer.Option("--episodes", "-n", min=1, help="Episodes of each candidate.")] = 100,
        block: Annotated[int | None, typer.Option(min=1, help="B: worlds and policy rows at once, padded.", show_default="the recipe's, 50")] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; each takes whole blocks.", show_default="the recipe's, 1")] = None,
        threads: Annotated[int | None, typer.Option(min=1, help="Torch threads in each.", show_default="the recipe's, 1")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Offset into the selection seeds, and key of the noise.", show_default="the recipe's, 0")] = None,
        out: Annotated[Path | None, typer.Option(help="Folder for records and the ledger.", show_default="RUN/evaluations or evaluations")] = None,
        save: Annotated[bool, typer.Option("--save/--no-save", help="Whether to write the choice into the checkpoint.")] = True,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
        device: Annotated[str, typer.Option(help="Where the policy runs: cpu, cuda, cuda:1.")] = "cpu",
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    ) -> int:
        from policies.checkpoint import save_execution
        from policies.realtime.registry import NONE
        from robopolicy.evaluation.workers import WorkerCrash
        from robopolicy.execution import remark

        if method == NONE:
            return _switch_off(checkpoint, context)
        given = {"episodes": episodes, "block": block, "workers": workers, "threads": threads, "seed": seed}
        printed = str(json_file) == "-"
        try:
            folder, trials = _try(
                checkpoint, method, varied or [], task, {k: v for k, v in given.items() if v is not None}, out, device, not (quiet or printed)
            )
        except WorkerCrash as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if save:
            e = trials[0].evaluation
            save_execution(folder, trials[0].method, {"seed0": e.seed0, "episodes": len(e.episodes), "trials": len(trials)})
        if json_file is not None:
            from robopolicy.json_output import emit_json

            emit_json(_as_json(folder, trials, save), json_file)
        if not printed:
            _print(folder, trials, save, "" if varied else remark(folder, method))
        return 0


def _switch_off(checkpoint: str, context: typer.Context) -> int:
    from policies.checkpoint import save_execution
    from robopolicy.training.run_folder import find_checkpoint

    sources = {name: context.get_parameter_source(name) for name in context.params if name not in ("checkpoint", "method", "quiet", "save")}
    if not context.params["save"] or any(source is not None and source.name == "COMMANDLINE" for source in sources.values()):
        raise InputError("tune none: saves that there is no method, and takes nothing else")
    folder = find_checkpoint(checkpoint)
    save_execution(folder, None)
    print(f"saved in {folder}: no method")
    return 0


def _try(
    checkpoint: str, method: str, varied: Sequence[str], task: str | None, given: dict[str, int], out: Path | None, device: str, progress: bool
) -> tuple[Path, list[Trial]]:
    """Return the checkpoint's folder and the candidates with their evaluations, the best first."""
    from robopolicy.evaluation.seeds import Purpose
    from robopolicy.evaluation.versus import prepare
    from robopolicy.execution import candidates, choose
    from robopolicy.training.run_folder import find_checkpoint

    folder = find_checkpoint(checkpoint)
    wanted = candidates(folder, method, _varied(varied))
    contest = prepare([checkpoint], task, given, Purpose.SELECTION, out)
    env = dict(contest.entrants[0].env)
    return folder, choose(folder, wanted, contest.task, contest.config, env, device=device, out=contest.out, progress=progress)


def _varied(items: Sequence[str]) -> dict[str, list[Any]]:
    from policies.realtime.registry import parse_value

    out: dict[str, list[Any]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        found = [parse_value(value.strip()) for value in values.split(",") if value.strip()]
        if not (key and equals and found) or key in out:
            raise InputError(f"{item!r}: expected KEY=VALUE1,VALUE2,... and each key once")
        out[key] = found
    return out


def _as_json(folder: Path, trials: Sequence[Trial], saved: bool) -> dict[str, Any]:
    rows = [{"method": t.method, **t.evaluation.to_dict()["summary"], "episodes": len(t.evaluation.episodes)} for t in trials]
    return {"checkpoint": str(folder), "task": trials[0].evaluation.task, "chosen": trials[0].method, "saved": saved, "trials": rows}


def _print(folder: Path, trials: Sequence[Trial], saved: bool, remark: str) -> None:
    """Print one row per candidate, the best first, a remark on them, and what was done."""
    from rich.table import Table

    from policies.realtime.registry import to_text
    from robopolicy.reporting.console import wide

    console, first = wide(), trials[0].evaluation
    title = f"{first.task}, {len(first.episodes)} episodes on selection seeds from {first.seed0}, B = {first.block}"
    table = Table(title=title, title_justify="left", caption="calls of the network: for one control step; ms: for one plan", caption_justify="left")
    for name in ("method", "success", "rate", "95% interval", "score", "steps", "calls a step", "ms"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for trial in trials:
        e = trial.evaluation
        low, high = e.interval
        steps = sum(x.length for x in e.episodes) / len(e.episodes)
        score = "-" if e.score is None else f"{e.score:.3f}"
        success = (f"{e.successes}/{len(e.episodes)}", f"{e.success_rate:.1%}", f"{100 * low:.1f}-{100 * high:.1f}%")
        table.add_row(to_text(trial.method), *success, score, f"{steps:.0f}", f"{e.network_calls_per_step:.3g}", f"{e.ms_per_chunk or 0:.1f}")
    console.print(table)
    if remark:
        console.print(remark, soft_wrap=True, markup=False)
    done = f"saved in {folder}" if saved else "not saved"
    console.print(f"chosen: {to_text(trials[0].method)}, {done}; report success on other seeds: robopolicy eval", soft_wrap=True, markup=False)
