"""``robopolicy report``: find evaluations and training logs below a folder and make one self-contained HTML page of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.records import FILE, Evaluation
from robopolicy.recipe import flatten
from robopolicy.reporting import curves, trials
from robopolicy.training.run_folder import REPLACED

LOG = "log.jsonl"


@dataclass(frozen=True)
class Run:
    """What the page shows of one training run.

    Attributes:
        folder: Of the run.
        label: Name for legends.
        steps: (n,) update numbers.
        loss: (n,) training loss.
        checks: (step, success, low, high) of each evaluation during training, on selection seeds.
    """

    folder: Path
    label: str
    steps: np.ndarray
    loss: np.ndarray
    checks: np.ndarray


@dataclass
class Findings:
    """Everything below a folder that goes on the page.

    Attributes:
        evaluations: The newest of each (policy, checkpoint, task, seeds), labels made unique per task.
        runs: Training runs from demonstrations; those of a benchmark that left curves are not among them.
        learners: What learnt by trial, runs of different seeds together.
        panels: Figures against network calls, one panel a task, drawn as one plot.
        older: How many evaluations a newer one of the same thing stands for.
        problems: Files that could not be used, one line each.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    learners: list[trials.Learner] = field(default_factory=list)
    panels: list[curves.Panel] = field(default_factory=list)
    older: int = 0
    problems: list[str] = field(default_factory=list)


def write_report(folder: str | Path | Sequence[Path], out: str | Path | None = None, export: Path | None = None, forms: Sequence[str] = ()) -> Path:
    """Write the page for a run, an evaluation, or any folder that holds some, and return its path.

    Args:
        folder: Where to look, with everything below it; several folders make one page.
        out: The HTML file; None: ``report.html`` in ``folder``, or in the folder that holds all of them.
        export: Folder for the page's tables; None: that of :func:`tables_folder`, if there are ``forms``.
        forms: Of the tables: ``csv``, ``latex``, ``markdown``; empty: all three, if there is an ``export``.

    Raises:
        InputError: if there are no evaluation, no training log and no curves, or the page cannot be written.
    """
    from robopolicy.data.atomic import write_bytes
    from robopolicy.reporting.page import render

    folders = [Path(folder)] if isinstance(folder, str | Path) else list(folder)
    parent = folders[0] if len(folders) == 1 else Path(os.path.commonpath([f.resolve() for f in folders]))
    found = gather(*folders)
    page = render(found, parent.resolve().name).encode()
    file = Path(out) if out is not None else parent / "report.html"
    if export is not None or forms:
        from robopolicy.reporting import exports, tables

        tables.export(exports.tables(found.evaluations), export or tables_folder(file), forms or tuple(tables.WRITERS))
    try:
        write_bytes(file, page)
    except OSError as error:
        raise InputError(f"{file}: the report cannot be written: {error.strerror or error}") from error
    return file


def tables_folder(page: Path) -> Path:
    """Return where the tables of ``page`` go unless something else is said: ``NAME-tables`` beside it."""
    return page.with_name(f"{page.stem}-tables")


def gather(*folders: Path) -> Findings:
    """Read every evaluation, every training log and all curves below ``folders``.

    Raises:
        InputError: if a folder does not exist, or they hold nothing that can be shown; says what was unreadable.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: {'expected a folder, found a file' if folder.exists() else 'no such folder'}")
    out = Findings()
    evaluations = []
    for file in _below(folders, FILE):
        try:
            evaluations.append(Evaluation.load(file))
        except InputError as error:
            out.problems.append(str(error))
    out.evaluations = _newest(evaluations)
    out.older = len(evaluations) - len(out.evaluations)
    drawn = _read_panels(folders, out)
    logs = {file.resolve(): file for file in _below(folders, LOG) if not any(part in drawn for part in file.parents)}
    for e in out.evaluations:  # the runs that the checkpoints come from may lie elsewhere
        file = Path(e.checkpoint).parent.parent / LOG if e.checkpoint else None
        if file is not None and file.is_file():
            logs.setdefault(file.resolve(), file)
    _read_logs(list(logs.values()), out)
    if not (out.evaluations or out.runs or out.panels or out.learners):
        why = f" ({'; '.join(out.problems[:2])})" if out.problems else ""
        folder = folders[0]
        raise InputError(f"{folder}: no evaluation and no training log in it or below{why}; robopolicy eval CHECKPOINT --out {folder} makes one")
    _name_apart(out.evaluations)
    out.runs = _name_runs_apart(out.runs)
    return out


def _below(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the files called ``name`` below any of ``folders``, each once; not those of runs that are being replaced."""
    found = {file.resolve(): file for folder in folders for file in sorted(folder.rglob(name))}
    return [file for file in found.values() if REPLACED not in file.parts]


def _read_logs(files: Sequence[Path], out: Findings) -> None:
    """Add the runs of these training logs to ``out``: by trial where their recipe says so, else from demonstrations."""
    found = []
    for file in files:
        recipe = _recipe_of(file.parent)
        if trials.is_trial(recipe):
            try:
                trial = trials.read_trial(file, flatten(recipe))
            except InputError as error:
                out.problems.append(str(error))
                continue
            found += [trial] if trial is not None else []
            continue
        run = _read_run(file, recipe, out.problems)
        if run is not None:
            out.runs.append(run)
    out.learners = trials.learners(found)


def _read_panels(folders: Sequence[Path], out: Findings) -> set[Path]:
    """Add the panels below ``folders`` to ``out``; returns the folders that they stand for."""
    drawn = set()
    for file in _below(folders, curves.FILE):
        try:
            out.panels.append(curves.Panel.load(file))
            drawn.add(file.parent)
        except InputError as error:
            out.problems.append(str(error))
    return drawn


def _newest(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Keep the newest of those that measured the same thing, ordered by task, then best first, the expert last."""
    kept: dict[tuple[Any, ...], Evaluation] = {}
    for e in sorted(evaluations, key=lambda e: e.time):
        world = (e.task, e.suite_version, e.max_episode_steps, json.dumps(e.env, sort_keys=True))
        who = e.checkpoint_hash or (e.policy if e.policy == "expert" else f"label {e.label}")  # a label may tell who else was evaluated beside it
        kept[(*world, e.policy, e.execution, e.weights, who, e.purpose, e.seed0, len(e.episodes), e.noise_seed)] = e
    return sorted(kept.values(), key=lambda e: (e.task, e.policy == "expert", e.purpose, -e.success_rate, e.label))


def _name_apart(evaluations: Sequence[Evaluation]) -> None:
    """Add to labels what is not as usual in their worlds and, where two of a task are the same, what tells them apart: seed, step, run or hash."""
    ways = (
        lambda e: f"{e.label}, {e.conditions}" if e.conditions else e.label,  # also where it stands alone: it is no plain one
        lambda e: f"{e.label} seed {e.training['seed']}" if "seed" in e.training else e.label,
        lambda e: f"{e.label} seed {e.training.get('seed')} step {e.training['step']}" if "step" in e.training else e.label,
        lambda e: f"{e.label} {Path(e.checkpoint).parent.parent.name}" if e.checkpoint else e.label,
        lambda e: f"{e.label} {e.checkpoint_hash or ''} {e.purpose} seeds from {e.seed0}".replace("  ", " "),
        lambda e: f"{e.label} {e.checkpoint_hash or ''} {e.purpose} {e.seed0} {e.conditions} noise {e.noise_seed} n={len(e.episodes)} {e.time}",
    )
    for task in {e.task for e in evaluations}:
        here = [e for e in evaluations if e.task == task]
        for label in {e.label for e in here}:
            twins = [e for e in here if e.label == label]
            names = next((n for n in ([way(e) for e in twins] for way in ways) if len(set(n)) == len(n)), [f"{label} {i + 1}" for i in range(len(twins))])
            for e, name in zip(twins, names, strict=True):
                e.own_label, e.label = e.own_label or e.label, name


def _read_run(file: Path, recipe: Mapping[str, Any], problems: list[str]) -> Run | None:
    """Read the loss and the evaluations of one ``log.jsonl``; None when it holds no training step."""
    train: list[tuple[float, float]] = []
    checks: list[tuple[float, float, float, float]] = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return None
    for i, line in enumerate(lines):
        if i == len(lines) - 1:
            break  # after the last end of line: nothing, or what is just being written
        try:
            row = json.loads(line)
            if row["event"] == "train":
                train.append((float(row["step"]), trials.real(row["loss"])))
            elif row["event"] == "evaluation":
                checks.append((float(row["step"]), trials.real(row["success"]), trials.real(row.get("low")), trials.real(row.get("high"))))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{file} line {i + 1}: not a line of a training log: {type(error).__name__}: {error}")
            return None
    if not train:
        return None
    steps, loss = np.array(train).T
    policy = recipe.get("policy")
    label = policy.get("type") if isinstance(policy, dict) else None
    return Run(file.parent, label or file.parent.name, steps, loss, np.array(checks).reshape(-1, 4))


def _recipe_of(run: Path) -> dict[str, Any]:
    """Return the recipe of a run as its file has it; empty where there is none that can be read."""
    from robopolicy.config import read_yaml

    try:
        return read_yaml(run / "recipe.yaml")
    except InputError:
        return {}


def _name_runs_apart(runs: Sequence[Run]) -> list[Run]:
    out = []
    for run in runs:
        twins = [r for r in runs if r.label == run.label]
        names = {r.folder.name for r in twins}
        label = run.label if len(twins) == 1 else f"{run.label} ({run.folder.name if len(names) == len(twins) else run.folder})"
        out.append(Run(run.folder, label, run.steps, run.loss, run.checks))
    return out
