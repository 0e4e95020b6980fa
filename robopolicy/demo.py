"""The demo: demonstrations -> three policies -> evaluation beside the expert -> a served policy that drives the twin.

Each policy trains in a process of its own (one torch thread each, so that two fill two cores). What is already done in
the folder is taken up again: collecting and training continue, an evaluation of the same checkpoint on the same states
is read back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from policies.spec import InputError
from robopolicy.evaluation.records import Evaluation, compare_evaluations
from robopolicy.evaluation.seeds import REPORT
from robopolicy.recipe import Recipe, load_recipe
from robopolicy.training.run_folder import find_checkpoint

EXPERT = "expert"
_RESULT = "demo.json"
_OWN = ("data", "runs", "evaluations", "train-*.log", "drive.json", "report.html", _RESULT)  # what a demo writes; the last says whose folder it is
console = Console()


def run_demo(
    recipe_name: str,
    out: Path,
    policies: Sequence[str],
    states: int,
    drive_episodes: int,
    steps: int | None,
    baseline_lr: float | None,
    workers: int,
    fresh: bool,
) -> dict[str, Any]:
    """Run the whole path and print its table; returns what ``demo.json`` holds.

    Args:
        recipe_name: Recipe that all policies share.
        out: Folder for everything.
        policies: Policies to train; the last is the baseline of the paired tests.
        states: Unseen initial states, the same for every policy and the expert.
        drive_episodes: Episodes driven through server and twin.
        steps: Training steps, None for the recipe's.
        baseline_lr: Learning rate of the baseline, None for the recipe's.
        workers: Processes at once.
        fresh: Begin anew.

    Raises:
        InputError: if a recipe or a name is wrong, or a training process fails.
    """
    began = time.monotonic()
    if fresh and (out / _RESULT).is_file():
        _clear(out)
    settings = {name: overrides(out, name, steps, baseline_lr if name == policies[-1] else None) for name in policies}
    recipes = {name: load_recipe(recipe_name, items, note=_silent) for name, items in settings.items()}
    out.mkdir(parents=True, exist_ok=True)
    if not (out / _RESULT).is_file():
        (out / _RESULT).write_text("{}\n", encoding="utf-8")  # from now on this is a demo's folder, which another may begin anew
    collect_demonstrations(next(iter(recipes.values())), workers)
    train_all(recipe_name, recipes, settings, out, workers)
    evaluations = evaluate_all(recipes, states, workers, out)
    best = max(policies[:-1] or policies, key=lambda name: evaluations[name].successes)
    driven = drive_best(recipes[best], drive_episodes, out)
    result = summarise(evaluations, list(policies), best, driven, time.monotonic() - began)
    (out / _RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    from robopolicy.reporting.report import write_report

    page = write_report(out, out / "report.html")
    print_table(result)
    console.print(f"whole path: {(time.monotonic() - began) / 60:.1f} min; report: {page}", soft_wrap=True)
    return result


def overrides(out: Path, name: str, steps: int | None, lr: float | None) -> list[str]:
    """Return what the demo sets in the shared recipe for the policy ``name``."""
    items = [f"policy={name}", f"output={out}/runs/{name}", f"data.path={out}/data/{{task}}"]
    return items + ([f"training.steps={steps}"] if steps else []) + ([f"training.optimizer.lr={lr}"] if lr else [])


def _clear(out: Path) -> None:
    """Delete what a demo wrote into ``out``; other files stay."""
    for pattern in _OWN:
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _silent(text: str) -> None:
    """Say nothing: the demo's own lines tell what happens."""


def collect_demonstrations(recipe: Recipe, workers: int) -> None:
    """Collect what the recipe asks for, unless it is there."""
    from robopolicy.data.collect import collect

    path, env = Path(recipe.filled(recipe.data.path)), recipe.env
    console.rule(f"1 · demonstrations of {recipe.task}", align="left")
    shown = {"observations": env.observations, "image_size": env.image_size}
    collect(recipe.task, path, recipe.data.collect or 10, workers=workers, randomize=env.randomize, engine=env.engine, reward=env.reward, **shown)


def train_all(recipe_name: str, recipes: Mapping[str, Recipe], settings: Mapping[str, list[str]], out: Path, workers: int) -> None:
    """Train every policy, ``workers`` at a time, each in its own process with one bar. Raises InputError if one fails."""
    console.rule(f"2 · training: {', '.join(recipes)}", align="left")
    waiting, running = list(recipes), {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with _bars() as bars:
        tasks = {name: bars.add_task(name, total=recipe.training.steps, loss="") for name, recipe in recipes.items()}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    name = waiting.pop(0)
                    command = [sys.executable, "-m", "robopolicy", "train", recipe_name, *settings[name], "--quiet"]
                    log = (out / f"train-{name}.log").open("w", encoding="utf-8")
                    running[name] = (subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log)
                time.sleep(0.5)
                for name in list(running):
                    _show_progress(bars, tasks[name], Path(recipes[name].filled(recipes[name].output)) / "log.jsonl")
                    process, log = running[name]
                    if process.poll() is not None:
                        log.close()
                        del running[name]
                        _require_success(name, process.returncode, out / f"train-{name}.log")
                        bars.update(tasks[name], completed=recipes[name].training.steps)
        finally:
            for process, log in running.values():
                process.terminate()
                process.wait()
                log.close()


def _bars() -> Progress:
    text = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*text, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _show_progress(bars: Progress, task: TaskID, log: Path) -> None:
    """Move one bar to the last step that the run's log tells of."""
    if not log.is_file():
        return
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # the line that is just being written, or the first one cut
            continue
        if isinstance(row, dict) and "loss" in row:
            bars.update(task, completed=row["step"], loss=f"loss {row['loss']:.4f}")
            return


def _require_success(name: str, code: int, log: Path) -> None:
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise InputError(f"training {name} failed with exit code {code}: {lines[-1] if lines else 'it printed nothing'} (all of it: {log})")


def evaluate_all(recipes: Mapping[str, Recipe], states: int, workers: int, out: Path) -> dict[str, Evaluation]:
    """Evaluate every policy and the expert on the same unseen initial states."""
    from robopolicy.evaluation.rollout import evaluate

    console.rule(f"3 · evaluation on the same {states} unseen initial states", align="left")
    results = {}
    for name in [*recipes, EXPERT]:
        recipe = recipes.get(name, next(iter(recipes.values())))
        subject = EXPERT if name == EXPERT else str(find_checkpoint(recipe.filled(recipe.output)))
        folder = out / "evaluations" / name
        done = _same_evaluation(folder, subject, states)
        if done is None:
            settings = recipe.evaluation
            env = recipe.env.model_dump(exclude_none=True)
            done = evaluate(
                subject, recipe.task, episodes=states, seed0=int(REPORT), block=settings.block, workers=workers,
                threads=settings.threads, env=env, videos=settings.videos, out=folder, label=name,
            )  # fmt: skip
        results[name] = done
    return results


def _same_evaluation(folder: Path, subject: str, states: int) -> Evaluation | None:
    """Return the evaluation of the same checkpoint on the same states that is in ``folder``, if there is one."""
    files = sorted(folder.rglob("evaluation.json"))
    if not files:
        return None
    found = Evaluation.load(files[-1])
    if subject == EXPERT:
        same = found.policy == EXPERT
    else:
        from policies.checkpoint import fingerprint

        same = found.checkpoint_hash == fingerprint(subject)
    return found if same and len(found.episodes) == states and found.seed0 == int(REPORT) else None


def drive_best(recipe: Recipe, episodes: int, out: Path) -> dict[str, Any]:
    """Serve the checkpoint and drive the twin with it through ZeroMQ, in real time; returns the runtime's summary."""
    from robopolicy.deployment import drive

    console.rule(f"4 · serving {recipe.policy_type}, driving the twin through ZeroMQ in real time", align="left")
    checkpoint = str(find_checkpoint(recipe.filled(recipe.output)))
    summary = drive(checkpoint, recipe.task, episodes=episodes, seed0=int(REPORT), max_episode_steps=recipe.env.max_episode_steps, progress=True)
    (out / "drive.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def summarise(evaluations: Mapping[str, Evaluation], learnt: list[str], best: str, driven: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the rows of the table, the paired tests against the baseline and what driving showed."""
    baseline = learnt[-1]
    rows = []
    for name, e in evaluations.items():
        low, high = e.interval
        row = {"policy": name, "successes": e.successes, "episodes": len(e.episodes), "low": low, "high": high}
        row |= {"network_calls": e.network_calls_per_chunk, "ms_per_chunk": e.ms_per_chunk}
        if name in learnt[:-1]:
            paired = compare_evaluations(e, evaluations[baseline])
            row |= {"better": paired.first_only, "worse": paired.second_only, "p": paired.p_value}
        rows.append(row)
    return {"rows": rows, "baseline": baseline, "served": best, "driven": dict(driven), "seconds": seconds}


def print_table(result: Mapping[str, Any]) -> None:
    """Print the closing table."""
    table = Table(title="success on the same unseen initial states", title_justify="left")
    for name in ("policy", "success", "95% interval", f"against {result['baseline']}", "network calls", "ms a chunk"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in result["rows"]:
        paired = f"+{row['better']} -{row['worse']}, p={row['p']:.1g}" if "p" in row else ""
        learnt = row["policy"] != EXPERT
        table.add_row(
            row["policy"],
            f"{row['successes']}/{row['episodes']}",
            f"{100 * row['low']:.0f}-{100 * row['high']:.0f}%",
            paired,
            f"{row['network_calls']:.0f}" if learnt else "",
            f"{row['ms_per_chunk']:.1f}" if learnt and row["ms_per_chunk"] is not None else "",
        )
    console.print(table)
    console.print(drive_line(result["served"], result["driven"]), soft_wrap=True)


def drive_line(name: str, driven: Mapping[str, Any]) -> str:
    """Return one line about the closed loop through the server."""
    ms, holds = driven["ms_per_chunk"], sum(driven["holds"].values())
    return (
        f"{name} served to the twin at {driven['rate_hz']:g} Hz: {driven['successes']} of {len(driven['episodes'])} episodes, "
        f"{100 * driven['rate_held']:.1f}% of ticks on time, {ms['p50']:.1f} ms a chunk (p99 {ms['p99']:.1f}), "
        f"late chunks {driven['late_chunks']} of {driven['plans']}, held ticks {holds} of {driven['ticks']}"
    )
